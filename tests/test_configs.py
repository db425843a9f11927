"""Configurations: the identity of existing runs, one declaration per field, no device started."""

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import typing
from types import NoneType, SimpleNamespace

import pytest

from snnlth_jax import configs, data, models
from snnlth_jax.configs.fields import Role, declared
from snnlth_jax.errors import InputError, flag

COMMANDS = [getattr(configs, name) for name in configs.__all__ if name.endswith("Config")]
FINGERPRINT = "digits-scikit-learn-0123456789abcdef"


def identity_of(config):
    return configs.identity(config, SimpleNamespace(name=config.dataset, fingerprint=FINGERPRINT))


# the keys of config.json in their order, as the first version wrote them
TRAIN = (
    "dataset arch width activation num_timesteps epochs batch_size learning_rate schedule optimizer momentum "
)
TRAIN += "weight_decay augment dtype seed train_examples test_examples validation_examples eval_every"
ROUNDS = "rounds prune_fraction scope rewind_epoch bn_on_rewind final_rounds"
DIVERGENCE = (
    "early_time_epochs early_time_examples early_time_lambda early_time_direction early_time_reduction "
)
DIVERGENCE += "early_time_normalisation"
EARLY_TIME = f"{DIVERGENCE} early_time early_time_timesteps"
KEYS = {
    configs.TrainConfig: TRAIN,
    configs.ImpConfig: f"{TRAIN} {ROUNDS} {EARLY_TIME} controls rewinding",
    configs.TransferConfig: f"{TRAIN} {ROUNDS} controls search_learning_rate_factor",
    configs.EbConfig: f"{TRAIN} {EARLY_TIME} controls sparsity queue tau criterion "
    "search_learning_rate_factor scope rewind_epoch",
    configs.OneShotConfig: f"{TRAIN} controls criterion sparsity scope score_examples "
    "synflow_iterations like",
    configs.DynamicConfig: f"{TRAIN} controls criterion sparsity distribution drop_fraction update_until",
    configs.ProbeConfig: f"{TRAIN} {DIVERGENCE}",
    configs.RetrainConfig: f"{TRAIN} ticket redraw shuffle rewind_epoch",
    configs.StabilityConfig: f"{TRAIN} stability_epochs stability_points stability_bound tickets",
}
# digests and directories of the version before configurations were composed
GOLDEN = [
    (configs.ImpConfig(), "539d02c95489", "runs/imp_digits_vgg5_seed0", "4b10d45d464e"),
    (
        configs.ImpConfig(
            dataset="cifar10",
            early_time=True,
            final_rounds=(14, 4),
            controls=("random", "dense"),
            seeds=(0, 1),
        ),
        "f6e7834e9f4e",
        "runs/imp+et_cifar10_vgg16",
        "fbe726d2377a",
    ),
    (
        configs.ImpConfig(
            activation="relu",
            rounds=1,
            epochs=3,
            rewind_epoch=0,
            train_examples=500,
            rewinding="fine-tune",
            scope="erk",
        ),
        "5300c6b80d6e",
        "runs/imp_digits_vgg5_seed0",
        "9233a9763319",
    ),
    (
        configs.ImpConfig(dataset="svhn_cropped", early_time=True, early_time_timesteps=2, optimizer="adam"),
        "3ffebba0b5dc",
        "runs/imp+et_svhn_cropped_vgg16_seed0",
        "7a6130f69442",
    ),
    (configs.EbConfig(), "97b4613f92df", "runs/eb_0.9_digits_vgg5_seed0", "2ef135e61b22"),
    (
        configs.EbConfig(
            dataset="cifar100", sparsity=0.5, early_time=True, arch="vgg9", criterion="overlap", seed=2
        ),
        "16b09bc20556",
        "runs/eb+et_0.5_cifar100_vgg9_seed2",
        "58133bf677f8",
    ),
    (configs.OneShotConfig(), "8f260fe70ffd", "runs/one-shot_snip_0.9_digits_vgg5_seed0", "ee75aba70da2"),
    (
        configs.OneShotConfig(criterion="grasp", sparsity=0.7, score_examples=5, seeds=(3, 4)),
        "f5409dcc8f18",
        "runs/one-shot_grasp_0.7_digits_vgg5",
        "dbeb281c87ed",
    ),
    (configs.TransferConfig(), "2965b908643b", "runs/transfer_digits_vgg5_seed0", "53c053201172"),
    (
        configs.TransferConfig(dataset="cifar10", search_learning_rate_factor=0.1),
        "8471655f148b",
        "runs/transfer_cifar10_vgg16_seed0",
        "18d72d6834b1",
    ),
    (configs.ProbeConfig(), "2f269b74cb13", "runs/probe-timesteps_digits_vgg5_seed0", "5c49cbc9411b"),
    (
        configs.ProbeConfig(epochs=3, num_timesteps=3, dtype="bfloat16"),
        "9d286cf61b4d",
        "runs/probe-timesteps_digits_vgg5_seed0",
        "0368f01b2927",
    ),
    (configs.StabilityConfig(), "eeb5ca2473cb", "runs/stability_digits_vgg5_seed0", "f48b3c604584"),
    (
        configs.StabilityConfig(
            dataset="cifar10",
            stability_epochs=(5, 0),
            stability_points=21,
            seeds=(0, 1),
            schedule_on_rewind="resume",
        ),
        "139645e8ad8f",
        "runs/stability_cifar10_vgg16",
        "9c4a0b59013e",
    ),
    (configs.TrainConfig(), "e6ef9d5d4a92", "runs/train_digits_vgg5_seed0", "c86e9e1d59be"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_keys_of_the_identity_keep_their_order(command):
    identity = identity_of(configs.resolve(command()))
    assert list(identity) == ["method", *KEYS[command].split(), "dataset_fingerprint"]


@pytest.mark.parametrize(("config", "digest", "workdir", "chosen"), GOLDEN)
def test_identity_and_directory_are_those_of_runs_that_exist(config, digest, workdir, chosen):
    resolved = configs.resolve(config)
    measured = getattr(config, "early_time", False) and config.early_time_timesteps is None
    restarts = {"early_time_start": "restart"} if measured else {}
    as_then = dataclasses.replace(resolved, **restarts)  # Early-Time began the search anew
    assert configs.digest(identity_of(as_then)) == digest
    assert configs.resolve_as_before(config).workdir == workdir  # where it is looked for, see run/earlier.py
    assert configs.digest(configs.chosen(resolved)) == chosen  # names the directories of experiments


def test_early_time_leaves_the_search_an_epoch():
    for epochs, measured, other in ((2, 1, 2), (3, 2, 2), (1, None, 1)):
        short = {"epochs": epochs, "rewind_epoch": 0}
        assert configs.resolve(configs.ImpConfig(**short)).early_time_epochs == other
        if measured:
            with_it = configs.ImpConfig(**short, early_time=True)
            assert configs.resolve(with_it).early_time_epochs == measured


def test_an_older_identity_gets_the_fields_that_are_newer_at_what_was_before():
    old = identity_of(configs.resolve(configs.ImpConfig(early_time=True)))
    assert old.pop("early_time_start") == "continue"
    assert configs.completed(old)["early_time_start"] == "restart"
    assert configs.difference(
        configs.completed(old), configs.completed(old | {"early_time_start": "continue"})
    )
    plain = identity_of(configs.resolve(configs.ImpConfig()))
    assert "early_time_start" not in plain
    assert configs.completed(plain)["schedule_on_rewind"] == "restart"
    assert configs.completed(plain | {"schedule_on_rewind": "resume"})["schedule_on_rewind"] == "resume"
    assert "schedule_on_rewind" not in configs.completed({"method": "one-shot snip"})
    assert configs.completed({"method": ["damaged"]})  # a reader's business, not a crash


def test_like_is_known_by_its_content(tmp_path):
    ticket = tmp_path / "ticket"
    ticket.write_bytes(b"weights")
    config = configs.resolve(configs.OneShotConfig(criterion="random", like=str(ticket)))
    identity = identity_of(config)
    assert identity["like"] == hashlib.sha256(b"weights").hexdigest()[:12]
    assert configs.common(identity)["like"] == "a ticket"


# ---------------------------------------------------------------- what is declared at a field


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_has_one_role(command):
    for field in declared(command):  # raises where there is none
        assert field.role is Role.LOCAL or Role.IDENTITY in field.role


def test_a_name_has_the_same_role_in_every_command():
    roles = {}
    for field in (field for command in COMMANDS for field in declared(command)):
        assert roles.setdefault(field.name, field.role) == field.role


def test_what_may_be_overridden_and_what_a_comparison_needs():
    assert set(configs.overridable()) == {
        *("learning_rate", "schedule", "momentum", "weight_decay", "augment", "eval_every", "rounds"),
        *("prune_fraction", "scope", "bn_on_rewind", "final_rounds", "controls"),
        *("schedule_on_rewind", "biases_on_rewind", "ticket_schedule", "stability_bound"),
    }
    assert set(configs.conditions()) == {
        *("width", "activation", "num_timesteps", "epochs", "batch_size", "learning_rate", "schedule"),
        *("optimizer", "momentum", "weight_decay", "augment", "dtype"),
        *("train_examples", "test_examples", "validation_examples"),
        *("neuron", "neuron_tau", "v_threshold", "v_reset", "surrogate", "surrogate_scale", "norm"),
        *("loss", "label_smoothing"),
    }


CHOICES = [(command, field) for command in COMMANDS for field in declared(command) if field.choices]


@pytest.mark.parametrize(("command", "field"), CHOICES, ids=lambda x: getattr(x, "name", None))
def test_a_choice_is_checked_by_its_type(command, field):
    several = typing.get_origin(field.type) is tuple
    with pytest.raises(InputError) as refused:
        configs.resolve(command(**{field.name: ("other",) if several else "other"}))
    assert refused.value.text(flag).startswith(f"{flag(field.name)} other: allowed: ")
    assert refused.value.allowed == ", ".join(field.choices)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_choice(command):
    """Also those that are names of a registry and not of the type."""
    names = {field.name: field.choices for field in declared(command)}
    names |= {"arch": models.names(), "dataset": tuple(data.dataset.SPECS)}
    for field in dataclasses.fields(command):
        help_text = documentation(command, field.name)
        assert help_text.endswith((".", "may change)."))
        for name in names[field.name] if field.name != "scope" else ("global", "layer", "erk"):
            assert name in help_text


def documentation(command, name):
    """The string below a field, in the class that declares it."""
    import ast
    import inspect
    import textwrap

    owner = next(base for base in command.__mro__ if name in vars(base).get("__annotations__", {}))
    body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body
    at = next(i for i, node in enumerate(body) if isinstance(node, ast.AnnAssign) and node.target.id == name)
    return body[at + 1].value.value


# ---------------------------------------------------------------- resolved


MEANT = {  # None is no default there: no cap, the place of TFDS, all devices, measured, no ticket
    *("train_examples", "test_examples", "data_dir", "devices", "early_time_timesteps", "like"),
    "processing_elements",  # masks as they are
    "sparsity",  # no target, or a ticket's own
    "score_examples",  # at most 1000: how many there are is known with the data
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_default_is_left_open(command):
    resolved = configs.resolve(command())
    assert isinstance(resolved, (command, configs.ResolvedTrain))
    for field in dataclasses.fields(resolved):
        assert getattr(resolved, field.name) is not None or field.name in MEANT
        narrowed = typing.get_type_hints(type(resolved))[field.name]
        if field.name not in MEANT:
            assert NoneType not in typing.get_args(narrowed), field.name


def test_a_resolved_configuration_resolves_to_itself():
    resolved = configs.resolve(configs.ImpConfig(final_rounds=(9, 2)))
    assert configs.resolve(resolved) == resolved
    assert resolved.final_rounds == (2, 9)
    assert type(dataclasses.replace(resolved, seed=1)) is configs.ResolvedImp


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.subprocess
def test_resolving_starts_no_device():
    program = "from jax._src import xla_bridge; from snnlth_jax import configs; "
    program += "configs.resolve(configs.ImpConfig(devices=1000, batch_size=7)); "
    assert run(program + "print(xla_bridge.backends_are_initialized())") == "False"


@pytest.mark.subprocess
def test_importing_configurations_is_light():
    program = "import sys; import snnlth_jax.configs; "
    heavy = ("flax", "orbax", "tensorstore", "tensorflow", "tyro")
    assert (
        json.loads(run(program + f"import json; print(json.dumps([n for n in {heavy} if n in sys.modules]))"))
        == []
    )


def test_devices_are_checked_apart():
    """The tests run on 8 devices."""
    for changes, message in (
        ({"devices": 9}, "devices 9: allowed: 1 to 8, those of this machine"),
        (
            {"batch_size": 60},
            "batch_size 60: allowed: a multiple of 8, the devices; nearest: batch_size 56 or devices 6",
        ),
    ):
        resolved = configs.resolve(configs.ImpConfig(**changes))
        with pytest.raises(InputError) as refused:
            configs.check_devices(resolved)
        assert str(refused.value) == message
    configs.check_devices(configs.resolve(configs.ImpConfig(batch_size=60, devices=4)))


@pytest.mark.parametrize("batch_size", [None, 1])
def test_what_a_batch_that_three_devices_cannot_share_is_told_works(batch_size, monkeypatch):
    """The default of digits is 64; either of the two that the line names is enough."""
    monkeypatch.setattr("jax.local_device_count", lambda: 3)
    config = configs.ImpConfig(batch_size=batch_size)
    with pytest.raises(InputError) as refused:
        configs.check_devices(configs.resolve(config))
    nearest = re.findall(r"(batch_size|devices) (\d+)", str(refused.value).partition("nearest: ")[2])
    assert dict(nearest) == {"batch_size": "3" if batch_size else "63", "devices": "1" if batch_size else "2"}
    for name, value in nearest:
        changed = dataclasses.replace(config, **{name: int(value)})
        configs.check_devices(configs.resolve(changed))
