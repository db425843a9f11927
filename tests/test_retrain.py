"""`snnlth train`: a ticket from a file trained again, equal to its search, with changes, and refused."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import stub

from snnlth_jax import configs, masks, networks, tickets
from snnlth_jax.cli import main
from snnlth_jax.errors import InputError
from snnlth_jax.search import early_bird, imp, retrain

PROGRAMS = stub.StubPrograms()
NETWORK = small.NETWORK | {"num_timesteps": 3, "seed": 5}
EARLY_TIME = {"early_time": True, "early_time_timesteps": 2}
SEARCHES = {
    "imp": (imp, configs.ImpConfig(**NETWORK, rounds=3, rewind_epoch=1, schedule_on_rewind="resume")),
    "imp+et": (
        imp,
        configs.ImpConfig(
            **NETWORK | EARLY_TIME,
            rounds=3,
            rewind_epoch=1,
            learning_rate=0.2,
            controls=("random", "redrawn"),
        ),
    ),
    "eb": (
        early_bird,
        configs.EbConfig(
            **NETWORK, sparsity=0.5, queue=2, tau=1.0, ticket_schedule="cosine-twice", controls=("redrawn",)
        ),
    ),
}


@pytest.fixture(autouse=True)
def same_logger():
    """The command line leaves the logger as it was."""
    logger = logging.getLogger("snnlth_jax")
    level, handlers = logger.level, logger.handlers
    yield
    logger.level, logger.handlers = level, handlers


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Searches with stub programs, whose numbers depend on keys, learning rates, weights and masks."""
    root = tmp_path_factory.mktemp("searches")
    return {
        name: small.run(module, config, root / name, programs=PROGRAMS)[:2]
        for name, (module, config) in SEARCHES.items()
    }


def trained(directory, ticket, programs=PROGRAMS, **changes):
    """The training run of a ticket file: result, paths, output."""
    own = {"devices": 1} | changes
    return small.run(retrain, configs.of_ticket(ticket, **own), directory, programs=programs)


def same_network(one, other):
    for name in ("params", "batch_stats", "masks"):
        jax.tree.map(np.testing.assert_array_equal, getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(
    ("name", "number", "file", "changes"),
    [
        ("imp", 2, "ticket_02", {}),
        ("imp+et", 2, "ticket_02", {}),
        ("imp+et", 2, "random_02", {"shuffle": True}),
        ("imp+et", 2, "redrawn_02", {"redraw": True}),
        ("eb", 1, "ticket_01", {}),
        ("eb", 1, "redrawn_01", {"redraw": True}),
    ],
)
def test_it_equals_the_training_run_of_its_search(name, number, file, changes, searched, tmp_path):
    """Same settings, same seed: same keys, rates and weights, so the same bits."""
    result, paths = searched[name]
    again, own, _ = trained(tmp_path, paths.ticket(number), **changes)
    network = networks.load(own.network(f"ticket_{number:02d}"))
    same_network(network, networks.load(paths.network(file)))
    kind = file.partition("_")[0]
    rows = [*result["tickets"], *result["controls"]]
    (row,) = [r for r in rows if r["round"] == number and r["kind"] in (kind, "round")]
    (ticket,) = again["tickets"]
    for field in ("final_test_accuracy", "best_test_accuracy", "kept", "epochs", "network"):
        assert ticket[field] == row[field]
    assert again["finished"]
    assert again["method"] == {"ticket": "retrain"}.get(kind, f"retrain {kind}")
    assert network.provenance["seed"] == 5


@pytest.mark.slow
def test_real_programs_give_the_same_bits_too(tmp_path):
    config = configs.ImpConfig(**NETWORK, rounds=2, rewind_epoch=1)
    _, paths, _ = small.run(imp, config, tmp_path / "search")
    _, own, _ = trained(tmp_path / "again", paths.ticket(1), programs=None)
    same_network(networks.load(own.network("ticket_01")), networks.load(paths.network("ticket_01")))


def test_its_own_ticket_is_the_start(searched, tmp_path):
    """The ticket that it leaves trains to the same network again."""
    _, paths = searched["imp+et"]
    first = tickets.load(paths.ticket(2))
    _, own, _ = trained(tmp_path / "a", paths.ticket(2), seed=9, shuffle=True)
    second = tickets.load(own.ticket(2))
    jax.tree.map(np.testing.assert_array_equal, second.params, first.params)
    assert masks.count(second.masks) == masks.count(first.masks)
    assert float(masks.distance(second.masks, first.masks)) > 0
    assert second.provenance["method"] == "retrain random"
    _, again, _ = trained(tmp_path / "b", own.ticket(2), seed=9)
    same_params = networks.load(again.network("ticket_02")).masks
    jax.tree.map(np.testing.assert_array_equal, same_params, second.masks)


@pytest.mark.parametrize(
    "changes", [{"seed": 6}, {"learning_rate": 0.05}, {"epochs": 4}, {"momentum": 0.5, "num_timesteps": 2}]
)
def test_changes_change_what_they_name(changes, searched, tmp_path):
    _, paths = searched["imp+et"]
    result, own, _ = trained(tmp_path, paths.ticket(2), **changes)
    for name, value in changes.items():
        assert result["config"][name] == value
    network, before = (networks.load(p.network("ticket_02")) for p in (own, paths))
    if changes.keys() & {"seed", "learning_rate", "epochs"}:
        assert not np.array_equal(network.params["readout"]["kernel"], before.params["readout"]["kernel"])
    assert result["tickets"][0]["epochs"] == changes.get("epochs", 3) - 1
    assert network.recipe.num_timesteps == changes.get("num_timesteps", 3)
    jax.tree.map(np.testing.assert_array_equal, network.masks, before.masks)


def digits(config):
    return configs.load_dataset(config)


def few_classes(config, classes):
    """The digits below a number."""
    whole = digits(config)
    splits = [
        split._replace(
            images=split.images[split.labels < classes], labels=split.labels[split.labels < classes]
        )
        for split in (whole.train, whole.test, whole.validation)
    ]
    return whole._replace(
        train=splits[0], test=splits[1], validation=splits[2], num_classes=classes, fingerprint="few"
    )


def test_other_classes_have_a_new_readout(searched, tmp_path):
    _, paths = searched["imp+et"]
    config = configs.of_ticket(paths.ticket(2), devices=1, workdir=str(tmp_path), train_examples=200)
    from rich.console import Console

    console = Console(file=open(tmp_path / "out", "w"), width=200)  # noqa: SIM115
    model = small.MODEL.clone(num_classes=4)
    result = retrain.search(config, few_classes(config, 4), model=model, programs=PROGRAMS, console=console)
    console.file.close()
    assert "a new readout, drawn by the seed: readout/bias, readout/kernel" in (tmp_path / "out").read_text()
    network = networks.load(tmp_path / "networks" / "ticket_02.safetensors")
    assert network.masks["readout"]["kernel"].shape == (24, 4)
    assert network.masks["readout"]["kernel"].all()
    old = tickets.load(paths.ticket(2))
    np.testing.assert_array_equal(
        network.masks["layer02"]["conv"]["kernel"], old.masks["layer02"]["conv"]["kernel"]
    )
    new = tickets.load(tmp_path / "tickets" / "round_02.safetensors")
    np.testing.assert_array_equal(
        new.params["layer02"]["conv"]["kernel"], old.params["layer02"]["conv"]["kernel"]
    )
    init_key = jax.random.split(jax.random.key(5), 4)[0]
    drawn = model.init(init_key, jnp.zeros((1, 8, 8, 1)), num_timesteps=1)["params"]
    np.testing.assert_allclose(new.params["readout"]["kernel"], drawn["readout"]["kernel"], rtol=1e-6)
    assert result.tickets[0].total == small.WEIGHTS - 24 * 6


def test_the_command(searched, tmp_path, capsys, monkeypatch):
    """Settings that are not given are those of the search; flags change them; the plan writes nothing."""
    monkeypatch.chdir(tmp_path)
    paths = searched["imp+et"][1]
    seen = []
    monkeypatch.setattr(retrain, "search", seen.append)
    ticket = str(paths.ticket(2))
    assert main(["train", ticket, "--devices", "1"]) == 0
    assert (
        main(["train", "--num-timesteps", "7", ticket, "--no-augment", "--seed", "0", "--devices", "1"]) == 0
    )
    plain, changed = seen
    assert isinstance(plain, configs.ResolvedRetrain)
    assert (plain.learning_rate, plain.seed, plain.num_timesteps, plain.rewind_epoch) == (0.2, 5, 3, 1)
    assert (plain.width, plain.train_examples, plain.epochs) == (0.1, 96, 3)
    assert (changed.num_timesteps, changed.augment, changed.seed, changed.learning_rate) == (7, False, 0, 0.2)
    assert plain.workdir == f"runs/retrain_{changed.workdir.split('_')[1]}_digits_vgg5_seed5"
    assert list(tmp_path.iterdir()) == []
    assert main(["train", ticket, "--redraw", "--devices", "1"]) == 0
    assert seen[-1].workdir.startswith("runs/retrain_redrawn_")


def test_bad_input_is_one_line(searched, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = searched["imp+et"][1]
    ticket, network = str(paths.ticket(2)), str(paths.network("ticket_02"))
    odd = tickets.load(ticket)
    tickets.save(tmp_path / "odd", odd._replace(provenance=odd.provenance | {"epochs": "many"}))
    nothing = jax.tree.map(np.zeros_like, odd.masks)
    tickets.save(tmp_path / "nothing", odd._replace(masks=nothing))
    before = sorted(tmp_path.iterdir())
    for arguments, expected in (
        ([], "ticket: no file is given"),
        (["gone"], "gone: no such ticket file"),
        ([network], "a network file, whose weights are trained; allowed: a ticket file"),
        ([ticket, "--redraw", "--shuffle"], "--shuffle: allowed: without --redraw"),
        ([ticket, "--epochs", "1"], "--rewind-epoch 1: allowed: 0 to 0, before the last epoch"),
        ([ticket, "--num-timesteps", "0"], "--num-timesteps 0: allowed: 1 to 1000"),
        ([ticket, "--learning-rate", "-1"], "--learning-rate -1.0: allowed: a number above 0"),
        ([ticket, "--arch", "vgg9"], "vgg9"),
        ([ticket, "--width", "0.2"], "a ticket of another network"),
        ([ticket, "--colour"], "Unrecognized options: --colour"),
        (["odd"], "odd: its provenance has epochs 'many'"),
        (["nothing", "--dry-run"], "another network"),  # of the configuration, which is not small.MODEL
    ):
        assert main(["train", *arguments]) == 2, arguments
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert expected in err
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(InputError, match="nothing is left of its weights"):
        trained(tmp_path / "run", tmp_path / "nothing")
    assert json.loads(paths.config.read_text())["seed"] == 5


def test_a_ticket_without_a_search_has_the_defaults(searched, tmp_path):
    ticket = tickets.load(searched["imp"][1].ticket(1))
    tickets.save(tmp_path / "bare", ticket._replace(provenance={}))
    config = configs.of_ticket(tmp_path / "bare", epochs=2)
    assert (config.learning_rate, config.rewind_epoch, config.dataset) == (None, 0, "digits")
    result, _, _ = trained(tmp_path / "run", tmp_path / "bare", **small.NETWORK | {"epochs": 2})
    assert result["tickets"][0]["round"] == 1
