"""Early-Bird: the rule against brute force, both distances, and what the search promises."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from plain import Plain, cosine

from snnlth_jax import configs, masks, pruning, tickets
from snnlth_jax.run import checkpoints, results
from snnlth_jax.run import directory as rundir
from snnlth_jax.search import early_bird, early_time

# a learning rate at which masks take some epochs to settle, so that the queue moves on before it fires
EB = configs.EbConfig(
    **small.EACH_EPOCH | {"epochs": 8},
    num_timesteps=2,
    sparsity=0.6,
    scope="layer",
    queue=3,
    tau=0.06,
    learning_rate=0.1,
    search_learning_rate_factor=4.0,
)


def random_masks(rng, density=0.4):
    return {
        "a": jnp.asarray(rng.uniform(size=(5, 7)) < density),
        "bias": None,
        "b": {"kernel": jnp.asarray(rng.uniform(size=(3, 3, 2, 2)) < density)},
    }


# --- the rule


def test_packed_masks_come_back_and_distances_are_those_of_trees():
    rng = np.random.default_rng(0)
    newest, *others = [random_masks(rng, density) for density in (0.4, 0.4, 0.9, 0.0)]
    packed = [early_bird.pack(m) for m in (newest, *others)]
    chex.assert_trees_all_equal(early_bird.unpack(packed[0], newest), newest)
    got = early_bird.distances(packed[0], packed[1:], total=71)
    np.testing.assert_allclose(got["hamming"], [masks.distance(newest, m) for m in others], rtol=1e-12)
    np.testing.assert_allclose(got["overlap"], [1 - masks.overlap(newest, m) for m in others], rtol=1e-12)


@pytest.mark.parametrize("criterion", ["hamming", "overlap"])
@pytest.mark.parametrize(("queue", "tau"), [(2, 0.1), (3, 0.12), (5, 0.2), (5, 0.0), (5, 1.0)])
def test_it_fires_exactly_when_the_rule_says(criterion, queue, tau):
    """Weights that settle, masks drawn from them, against the definition spelled out in NumPy."""
    rng = np.random.default_rng(queue)
    weights = [rng.normal(size=400)]
    for epoch in range(30):
        weights.append(weights[-1] + rng.normal(size=400) * 0.5 * 0.8**epoch)

    drawn, fired = [], None
    for epoch, w in enumerate(weights):
        tree = {"w": jnp.asarray(w[None])}
        mask = pruning.prune(pruning.magnitude(tree), masks.make(tree), 0.75)
        drawn.append(early_bird.pack(mask))
        to_earlier = early_bird.distances(drawn[-1], drawn[:-1], total=400)[criterion]
        if fired is None and early_bird.fires(to_earlier, queue, tau):
            fired = epoch

    expected = None
    kept = [set(np.argsort(np.abs(w))[300:]) for w in weights]
    for epoch in range(queue - 1, len(weights)):
        distances = []
        for earlier in range(epoch - queue + 1, epoch):
            shared = len(kept[epoch] & kept[earlier])
            distances.append((200 - 2 * shared) / 400 if criterion == "hamming" else 1 - shared / 100)
        if expected is None and max(distances) < tau:
            expected = epoch
    assert fired == expected
    assert (fired is None) == (tau == 0.0)


def test_hamming_goes_blind_at_high_sparsity_and_overlap_does_not():
    """98.13 %: masks that share 46.6 % of what they keep differ in less than tau = 0.02 of all weights."""
    total, kept = 100_000, 1_870
    a, b = np.zeros(total, bool), np.zeros(total, bool)
    shared = int(np.ceil(0.466 * kept))
    a[:kept], b[kept - shared : 2 * kept - shared] = True, True
    got = early_bird.distances(np.packbits(a), [np.packbits(b)], total)
    assert got["hamming"][0] < 0.02
    assert early_bird.fires(got["hamming"], queue=2, tau=0.02)
    assert got["overlap"][0] == pytest.approx(0.534, abs=1e-3)
    assert not early_bird.fires(got["overlap"], queue=2, tau=0.02)
    # one shared weight in a hundred less, and even the paper's rule would not have fired
    b = np.roll(b, kept // 100)
    assert early_bird.distances(np.packbits(a), [np.packbits(b)], total)["hamming"][0] > 0.02


# --- the search


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    return small.run(early_bird, EB, tmp_path_factory.mktemp("eb") / "run", controls=("random",))


def brute_force(run, queue, tau, criterion="hamming"):
    """The matrix of distances from the masks on disk, and the epoch at which the rule holds first."""
    kept = [
        set(np.flatnonzero(np.unpackbits(rundir.read_bits(path))))
        for path in sorted(run.masks.iterdir(), key=lambda path: path.name)
    ]
    total = masks.count(tickets.load(run.ticket(1)).masks)[1]
    matrix, fired = [], None
    for epoch, newest in enumerate(kept):
        shared = [len(newest & earlier) for earlier in kept[:epoch]]
        ham = [(len(newest) + len(e) - 2 * s) / total for e, s in zip(kept[:epoch], shared, strict=True)]
        ours = ham if criterion == "hamming" else [1 - s / len(newest) for s in shared]
        matrix.append((ham, [1 - s / len(newest) for s in shared]))
        if fired is None and epoch >= queue - 1 and max(ours[-(queue - 1) :]) < tau:
            fired = epoch
    return matrix, fired


def test_the_search_stops_when_the_rule_says_and_keeps_all_distances(searched):
    result, run, text = searched
    matrix, fired = brute_force(run, EB.queue, EB.tau)
    drawn = small.lines(run, "mask")
    assert [line["epoch"] for line in drawn] == list(range(len(matrix)))
    for line, (hamming, overlap) in zip(drawn, matrix, strict=True):
        np.testing.assert_allclose(line["hamming"], hamming, rtol=1e-12)
        np.testing.assert_allclose(line["overlap"], overlap, rtol=1e-12)
    assert fired is not None
    assert EB.queue < fired == len(matrix) - 1 < EB.epochs  # the queue moved on, and earlier masks were read
    assert result["early_bird"]["fired"]
    assert result["early_bird"]["epoch"] == fired == result["rounds"][0]["epochs"]
    assert [line["fired"] for line in drawn] == [False] * fired + [True]
    assert f"fired after {fired} epochs" in text


def test_the_ticket_is_the_last_mask_on_the_initial_weights(searched):
    result, run, _ = searched
    ticket = tickets.load(run.ticket(1))
    for kept, total in masks.by_layer(ticket.masks).values():
        assert kept == total - 6 * total // 10
    newest = rundir.read_bits(run.mask(result["early_bird"]["epoch"]))
    np.testing.assert_array_equal(early_bird.pack(masks.tree_map(jnp.asarray, ticket.masks)), newest)
    chex.assert_trees_all_equal(ticket.params, small.initial_params())
    (row,) = result["tickets"]
    assert row["epochs"] == EB.epochs
    assert row["search"]["epochs"] == result["early_bird"]["epoch"]
    assert row["kept"] == result["controls"][0]["kept"] == masks.count(ticket.masks)[0]


def test_the_search_has_its_own_learning_rate(searched):
    _, run, _ = searched
    rates = {
        kind: [x["learning_rate"] for x in small.lines(run) if x["kind"] == kind]
        for kind in ("search", "ticket")
    }
    epochs = np.arange(EB.epochs)
    cosine = 0.05 * (1 + np.cos(np.pi * epochs / EB.epochs))
    np.testing.assert_allclose(rates["ticket"], cosine)
    np.testing.assert_allclose(rates["search"], 4 * cosine[: len(rates["search"])])


def test_it_never_fires_with_a_tau_of_0_and_says_so(tmp_path):
    result, run, text = small.run(early_bird, EB, tmp_path, tau=0.0, rewind_epoch=1, epochs=3)
    assert not result["early_bird"]["fired"]
    assert "never fired in 3 epochs" in text
    assert len(list(run.masks.iterdir())) == 4  # before each epoch, and after the last
    ticket = tickets.load(run.ticket(1))
    newest = early_bird.pack(masks.tree_map(jnp.asarray, ticket.masks))
    np.testing.assert_array_equal(rundir.read_bits(run.mask(3)), newest)
    # late rewinding: not the initial weights, those after one epoch
    assert [row["epochs"] for row in result["tickets"]] == [2]
    same = jax.tree.map(np.array_equal, ticket.params, small.initial_params())
    assert not same["layer01"]["conv"]["kernel"]


def test_overlap_decides_if_asked_to(tmp_path):
    result, run, _ = small.run(early_bird, EB, tmp_path, criterion="overlap", tau=0.09)
    _, fired = brute_force(run, EB.queue, 0.09, "overlap")
    assert fired != brute_force(run, EB.queue, 0.09)[1]
    assert result["early_bird"]["epoch"] == fired < EB.epochs
    assert result["early_bird"]["criterion"] == "overlap"


ET = {"num_timesteps": 4, "early_time": True, "early_time_lambda": 1.0, "epochs": 4}


def test_with_early_time_it_goes_on_at_fewer_timesteps_as_a_plain_script_does(tmp_path):
    """Bit for bit: masks are drawn from the first epoch on, at T and then at T'; the probe is no extra."""
    result, run, _ = small.run(early_bird, EB, tmp_path, tau=0.25, **ET)
    script = Plain(configs.resolve(dataclasses.replace(EB, **ET)))
    rate = cosine(0.4, 0, 4)
    states, losses = script.train(script.begin(), 4, ("search", 0), rate, 0, 2)
    at = early_time.select_timesteps(script.divergences(states[-1], 4, 2), 1.0)
    assert at == result["early_time"]["num_timesteps"] == 3
    fired = result["early_bird"]["epoch"]
    rest = script.train(jax.tree.map(jnp.asarray, states[-1]), at, ("search", 0), rate, 2, fired)
    states, losses = [script.begin(), *states, *rest[0]], [*losses, *rest[1]]
    for epoch, state in enumerate(states):
        kept = pruning.prune(pruning.magnitude(state.params), masks.make(state.params), 0.6, "layer")
        np.testing.assert_array_equal(rundir.read_bits(run.mask(epoch)), early_bird.pack(kept))
    assert brute_force(run, EB.queue, 0.25)[1] == fired == 3
    searched = [x["train_loss"] for x in small.lines(run) if x["kind"] in ("probe", "search")]
    assert searched == losses
    chex.assert_trees_all_equal(tickets.load(run.ticket(1)).params, small.initial_params())
    assert result["tickets"][0]["search"]["epochs"] == fired


def test_early_time_makes_the_search_cheaper_when_it_outlasts_the_probe(tmp_path):
    costs = {}
    for name, changes in {"eb": {"early_time": False}, "eb+et": {}}.items():
        result, _, _ = small.run(early_bird, EB, tmp_path / name, **ET | {"tau": 0.0} | changes)
        costs[name] = result["tickets"][0]["search"]
    assert costs["eb"]["epochs"] == costs["eb+et"]["epochs"] == 4
    per_image = result["flops_per_image"]
    saved = 3 * 2 * 96 * per_image["per_timestep"]  # two epochs at 3 of 4 timesteps
    measured = 96 * (per_image["once"] + 4 * per_image["per_timestep"])
    assert costs["eb"]["train_flops"] - costs["eb+et"]["train_flops"] == saved - measured > 0


def test_it_may_fire_before_early_time_has_had_its_epochs(tmp_path):
    flags = ET | {"early_time_epochs": 3, "queue": 2, "tau": 1.0}
    result, run, text = small.run(early_bird, EB, tmp_path, **flags)
    assert result["finished"]
    assert result["early_bird"] == {**result["early_bird"], "fired": True, "epoch": 1}
    assert [row["epochs"] for row in result["preparations"] + result["rounds"]] == [1, 0]
    assert result["tickets"][0]["search"]["epochs"] == 1
    assert "fired after 1 epochs" in text
    assert len(list(run.masks.iterdir())) == 2


def test_with_early_time_the_dense_network_runs_with_fewer_timesteps(tmp_path):
    flags = ET | {"early_time_start": "restart"}
    result, _, _ = small.run(early_bird, EB, tmp_path, programs=small.AsIfNew(), **flags)
    assert result["method"] == "eb+et"
    assert result["early_time"]["num_timesteps"] == 3
    assert [row["num_timesteps"] for row in result["rounds"]] == [3]
    assert [row["num_timesteps"] for row in result["tickets"]] == [4]
    assert result["train_compilations"] == 2


def test_the_last_epoch_is_evaluated_and_checkpointed_whatever_it_is(searched, tmp_path, monkeypatch):
    """Fired at an odd epoch, with evaluations and checkpoints every fourth; and killed right after it."""
    result, _, _ = searched
    fired = result["early_bird"]["epoch"]
    flags = {"eval_every": 100, "checkpoint_every": 100}

    with monkeypatch.context() as patch:
        small.cut_off(patch, results, "write", 1)
        with pytest.raises(small.Interrupted):
            small.run(early_bird, EB, tmp_path, **flags)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1  # of one epoch, the last
    assert small.lines(rundir.paths(tmp_path))[-1]["epoch"] == fired
    assert "test_accuracy" in small.lines(rundir.paths(tmp_path))[-1]


def test_a_damaged_mask_file_is_said_and_not_believed(tmp_path):
    """Distances to it are unknown from the resumption on; what decides is in the checkpoint."""
    flags = {"epochs": 6, "queue": 2, "tau": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        small.cut_off(patch, checkpoints, "save", 5)
        with pytest.raises(small.Interrupted):
            small.run(early_bird, EB, tmp_path, **flags)
    file = rundir.paths(tmp_path).mask(0)
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    _, run, text = small.run(early_bird, EB, tmp_path, **flags)
    assert f"{file}: missing or damaged" in text
    last = small.lines(run, "mask")[-1]
    assert last["hamming"][0] is None
    assert None not in last["hamming"][1:]
