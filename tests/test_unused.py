"""Fields that a combination does not use, and numbers that cannot be meant, are refused."""

import dataclasses

import pytest

from snnlth_jax import configs
from snnlth_jax.cli import main
from snnlth_jax.configs import identities, targets, unused
from snnlth_jax.configs.fields import declared
from snnlth_jax.errors import InputError

OTHER = {
    "momentum": 0.5,
    "early_time_epochs": 3,
    "early_time_examples": 10,
    "early_time_lambda": 0.5,
    "early_time_direction": "reverse",
    "early_time_reduction": "mean",
    "early_time_normalisation": "max",
    "score": "lamp",
    "synflow_iterations": 3,
    "score_examples": 3,
    "scope": "layer",
    "seed": 3,
    "prune_fraction": 0.5,
    "bn_on_rewind": "keep",
    "schedule_on_rewind": "resume",
    "biases_on_rewind": "keep",
    "budget": "synops",
    "processing_elements": 3,
    "rewinding": "learning-rate",
}
ROUNDS = ("prune_fraction", "scope", "bn_on_rewind", "schedule_on_rewind", "biases_on_rewind")
UNUSED = [
    *((configs.ImpConfig, {"optimizer": "adam"}, name) for name in ("momentum",)),
    *((configs.ImpConfig, {}, name) for name in OTHER if name.startswith("early_time")),
    *((configs.EbConfig, {}, name) for name in OTHER if name.startswith("early_time")),
    *(
        (configs.ImpConfig, {"early_time": True, "early_time_timesteps": 2}, name)
        for name in OTHER
        if name.startswith("early_time")
    ),
    (configs.ImpConfig, {"scope": "layer"}, "score"),
    *((configs.ImpConfig, {"rounds": 1}, name) for name in ROUNDS),
    *((configs.ImpConfig, {"rounds": 1}, name) for name in ("score", "processing_elements", "rewinding")),
    (configs.ImpConfig, {"rounds": 1}, "budget"),
    *((configs.OneShotConfig, {"criterion": name}, "synflow_iterations") for name in ("snip", "random")),
    *((configs.OneShotConfig, {"criterion": name}, "score_examples") for name in ("magnitude", "synflow")),
    (configs.OneShotConfig, {"criterion": "random", "like": "a"}, "scope"),
    *((command, {"seeds": (1, 2)}, "seed") for command in (configs.ImpConfig, configs.StabilityConfig)),
]


@pytest.mark.parametrize(("command", "given", "name"), UNUSED)
def test_what_is_not_used_is_refused(command, given, name):
    configs.check_used(command(**given))  # by itself it is allowed
    configs.resolve(command(**given, **{name: OTHER[name]}))  # and to programs
    with pytest.raises(InputError, match=f"^{name} {OTHER[name]}: would change nothing; allowed: "):
        configs.check_used(command(**given, **{name: OTHER[name]}))
    usual = getattr(configs.resolve(command(**given)), name)
    if getattr(command(), name) is not None:
        configs.check_used(command(**given, **{name: usual}))  # the default may be said


@pytest.mark.parametrize("rule", unused._RULES, ids=lambda rule: rule.why)
def test_every_rule_is_tried(rule):
    assert {(name, rule.why) for name in rule.names} <= {
        (name, rule.why)
        for command, given, name in UNUSED
        if isinstance(resolved := configs.resolve(command(**given)), rule.of) and rule.unused(resolved)
    }


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ("eb --tau 0", "--tau 0.0: no distance is below it"),
        ("imp --seeds ,", "--seeds of no entries: allowed: one or more"),
        ("imp --controls ,", "--controls of no entries: allowed: one or more"),
        ("analyse x --rounds ,", "--rounds of no entries: allowed: one or more"),
        ("imp --seeds 1,,2", "Error parsing --seeds: an empty part"),
        ("imp --controls random,", "Error parsing --controls: an empty part"),
        ("imp --augment ,", "Error parsing --augment: an empty part"),
        ("imp --prune-fraction 1e-9", "--prune-fraction 1e-09: removes none of 67,360 weights"),
        ("imp --sparsity 1e-9", "--sparsity 1e-09: removes none of 67,360 weights"),
        ("eb --sparsity 1e-9", "--sparsity 1e-09: removes none of 67,360 weights"),
        ("dynamic --sparsity 1e-9", "--sparsity 1e-09: removes none of 67,360 weights"),
        ("dynamic --drop-fraction 1e-9", "--drop-fraction 1e-09: moves none of 6,736 weights"),
        ("imp --learning-rate 1e-46", "--learning-rate 1e-46: is 0 in float32; allowed: a number above 0"),
        ("eb --width 1e-300", "--width 1e-300: is 0 in float32"),
        ("imp --processing-elements 1000000000", "--processing-elements 1000000000: allowed: at most 10,000"),
        ("imp --rounds 10000", "--rounds 10000: round 38 would remove none of the 3 weights"),
        ("export x --to npz --output y --dt 2", "--dt 2.0: allowed: with --to nir"),
        ("export x --to torch --output y --pooling lif", "--pooling lif: allowed: with --to nir"),
        ("ticket import x --output y --weights z --seed 3", "--seed 3: allowed: without --weights"),
    ],
)
def test_what_would_be_ignored_on_the_command_line_is_refused(arguments, flag, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"snnlth: error: {flag}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", identities._COMMANDS, ids=lambda command: command.method)
@pytest.mark.parametrize("number", [10**12, 10**30, 10**400])
def test_no_number_is_taken_without_an_upper_bound(command, number):
    """Whole numbers that a machine cannot count to, at each field that has one."""
    for field in declared(command):
        if field.name in ("train_examples", "test_examples", "validation_examples", "devices"):
            continue  # the dataset and the machine bound them
        if "int" not in str(field.type) or "tuple" in str(field.type):
            continue
        with pytest.raises(InputError, match=rf"^{field.name} .*allowed: "):
            configs.resolve(dataclasses.replace(command(), **{field.name: number}))


def test_every_pruning_removes_a_weight():
    for rounds in range(1, 7):
        targets.check_removes(configs.Rounds(rounds=rounds), 10)
    with pytest.raises(InputError, match=r"^rounds 7: round 6 would remove none of the 3 .* at most 6$"):
        targets.check_removes(configs.Rounds(rounds=7), 10)
    assert targets.kept_after(5, 6, 0.25, None, 10) == 3
    with pytest.raises(
        InputError, match=r"^prune_fraction 0\.05: removes none of 10 weights; allowed: 0\.1 or"
    ):
        targets.check_removes(configs.Rounds(rounds=2, prune_fraction=0.05), 10)


def test_an_identity_of_an_earlier_version_has_the_defaults_of_new_fields():
    now = {"method": "imp+et", "epochs": 15, "momentum": 0.9, "controls": [], "new": 3}
    there = {"method": "imp+et", "epochs": 15}
    assert configs.defaulted(there, now) == {"momentum": 0.9, "controls": []}
    assert configs.defaulted({}, {"method": "eb", "epochs": 15}) == {"epochs": 15}
