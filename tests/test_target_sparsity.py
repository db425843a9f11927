"""`--sparsity` of a search by rounds: exactly floor(s N) weights are gone at its end."""

import dataclasses
import itertools
import shutil
from fractions import Fraction
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import small
import stub

from snnlth_jax import configs, masks, pruning
from snnlth_jax.configs import targets
from snnlth_jax.errors import InputError
from snnlth_jax.run import results
from snnlth_jax.search import imp, plan, transfer

TINY = small.NETWORK | {"epochs": 2, "rewind_epoch": 1, "num_timesteps": 2}
PROGRAMS = stub.StubPrograms()
N = small.WEIGHTS


def exact(number):
    return Fraction(repr(number))


def floor(share, count):
    return exact(share) * count // 1


# ---------------------------------------------------------------- rounds and fractions


def test_the_number_of_rounds_is_the_least_that_reaches_the_target():
    rng = np.random.default_rng(0)
    pairs = [(round(float(s), 3), round(float(p), 2)) for s, p in rng.uniform(0.01, 0.99, (200, 2))]
    # the paper's, on the edge: k rounds give these exactly
    pairs += [(1 - 0.5**k, 0.5) for k in range(1, 40)] + [(0.4375, 0.25), (0.96875, 0.5), (0.19, 0.1)]
    pairs += [(0.0199, 0.01), (0.271, 0.1), (0.9999, 0.9), (0.99, 0.9), (0.9, 0.9), (0.97, 0.001)]
    for s, p in pairs:
        k = targets.prunings_to(s, p)
        assert (1 - exact(p)) ** k <= 1 - exact(s)
        assert k == 1 or (1 - exact(p)) ** (k - 1) > 1 - exact(s), (s, p)
        resolved = configs.resolve(configs.ImpConfig(sparsity=s, prune_fraction=p))
        assert (resolved.rounds, resolved.prune_fraction) == (k + 1, p)
        assert resolved.final_rounds == (k,)
        assert configs.resolve(resolved) == resolved


def test_the_fraction_follows_from_sparsity_and_rounds():
    for s, rounds in itertools.product((0.001, 0.5, 0.97, 0.999999), (2, 3, 15, 100)):
        resolved = configs.resolve(configs.TransferConfig(sparsity=s, rounds=rounds))
        assert resolved.rounds == rounds
        np.testing.assert_allclose((1 - resolved.prune_fraction) ** (rounds - 1), 1 - s, rtol=1e-3)
        assert configs.resolve(resolved) == resolved


def counts(total, config):
    return [
        targets.kept_after(n, config.rounds, config.prune_fraction, config.sparsity, total)
        for n in range(config.rounds)
    ]


def test_exact_counts_for_any_number_of_weights():
    rng = np.random.default_rng(1)
    for _ in range(400):
        total = int(rng.choice([1, 2, 3, 7, 14, 101, 483, 67_360, 14_715_584, 2**31 + 11]))
        s, p = (
            round(float(rng.uniform(0.001, 0.999)), int(rng.integers(1, 17))),
            float(rng.uniform(0.05, 0.9)),
        )
        if not 0 < s < 1:
            continue
        chosen = {"rounds": int(rng.integers(2, 12))} if rng.random() < 0.5 else {"prune_fraction": p}
        config = configs.resolve(configs.ImpConfig(sparsity=s, **chosen))
        left = counts(total, config)
        assert left[0] == total
        assert left[-1] == total - floor(s, total)
        assert left == sorted(left, reverse=True)
        for before, after in itertools.pairwise(left[:-1]):  # p of what is left, in all rounds but the last
            assert after == max(before - floor(config.prune_fraction, before), left[-1])
        # which is no larger, except for the weights by which the floors fell behind
        behind = sum((1 - exact(config.prune_fraction)) ** i for i in range(config.rounds))
        if "rounds" not in chosen:
            assert left[-2] - left[-1] <= exact(p) * left[-2] + behind


SHAPES = {"a": (5, 3), "b": (11, 9), "c": (2, 3, 7, 4)}


@pytest.mark.parametrize("scope", ["global", "layer", "erk"])
def test_masks_have_the_planned_counts(scope):
    """With every scope; by layer the floor is that of each layer."""
    rng, total = np.random.default_rng(2), sum(map(np.prod, SHAPES.values()))
    for _ in range(6):
        s, p = round(float(rng.uniform(0.05, 0.99)), 3), round(float(rng.uniform(0.1, 0.7)), 2)
        config = configs.resolve(configs.TransferConfig(sparsity=s, prune_fraction=p, scope=scope))
        left = {name: jnp.ones(shape, bool) for name, shape in SHAPES.items()}
        for number in range(1, config.rounds):
            scores = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in SHAPES.items()}
            new = imp._removed(config, SimpleNamespace(round=number), pruning.magnitude(scores), left)
            assert masks.is_subset(new, left)
            left = new
            if scope == "global":
                planned = targets.kept_after(number, config.rounds, p, s, int(total))
                assert int(masks.count(left)[0]) == planned
        removed = {name: int((~mask).sum()) for name, mask in left.items()}
        if scope == "layer":
            assert removed == {name: floor(s, int(np.prod(shape))) for name, shape in SHAPES.items()}
        else:
            assert sum(removed.values()) == floor(s, int(total))


# ---------------------------------------------------------------- searches


CONFIG = configs.ImpConfig(**TINY, sparsity=0.83, prune_fraction=0.5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    return small.run(imp, CONFIG, directory, programs=PROGRAMS)


def ends_as_planned(result, config):
    rows, resolved = result["rounds"], configs.resolve(config)
    assert N - rows[-1]["kept"] == floor(0.83, N)
    assert [row["kept"] for row in rows] == counts(N, resolved)
    assert result["tickets"][-1]["kept"] == rows[-1]["kept"]
    assert result["config"]["sparsity"] == 0.83
    planned = [plan._kept(resolved, SimpleNamespace(ticket=None, prunings=n), N) for n in range(len(rows))]
    assert planned == [row["kept"] for row in rows]


def test_a_search_ends_at_the_target_as_planned(finished):
    ends_as_planned(finished[0], CONFIG)
    assert len(finished[0]["rounds"]) == 4


def test_a_transferred_ticket_does_too(tmp_path):
    config = configs.TransferConfig(**TINY, sparsity=0.83, rounds=3)
    ends_as_planned(small.run(transfer, config, tmp_path, programs=PROGRAMS)[0], config)


@pytest.mark.parametrize(("owner", "name", "n"), [(results, "write", 2), (imp, "rewind", 3)])
def test_a_search_that_was_killed_ends_at_the_target(owner, name, n, finished, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        small.cut_off(patch, owner, name, n)
        with pytest.raises(small.Interrupted):
            small.run(imp, CONFIG, tmp_path, programs=PROGRAMS)
    again = small.run(imp, CONFIG, tmp_path, programs=PROGRAMS)[1]
    small.same_outcome(finished[1], again)


def test_more_rounds_than_it_takes_stay_at_the_target(finished, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished[1].config.parent, directory)
    longer = dataclasses.replace(CONFIG, rounds=6, prune_fraction=0.25, override=True)
    result, _, _ = small.run(imp, longer, directory, programs=PROGRAMS)
    first = counts(N, configs.resolve(CONFIG))
    assert [row["kept"] for row in result["rounds"]] == [*first, first[-1], first[-1]]


# ---------------------------------------------------------------- what is refused, and what stays


REFUSED = [
    (
        {"sparsity": 0.97, "rounds": 8, "prune_fraction": 0.3},
        "prune_fraction 0.3: allowed: not with rounds and",
    ),
    ({"sparsity": 0.97, "rounds": 1}, "rounds 1: allowed: 2 or more, with sparsity"),
    ({"sparsity": 1.0}, "sparsity 1.0: allowed: between 0 and 1"),
    ({"sparsity": 0.0, "rounds": 3}, "sparsity 0.0: allowed: between 0 and 1"),
    ({"sparsity": float("nan")}, "sparsity nan"),
    ({"sparsity": 97.0}, "sparsity 97.0: allowed: between 0 and 1"),
    ({"sparsity": 0.97, "prune_fraction": 0.0}, "prune_fraction 0.0: allowed: between 0 and 1"),
    ({"sparsity": 0.97, "prune_fraction": 1e-7}, "prune_fraction 1e-07: takes more than 10,000 rounds"),
    ({"sparsity": 0.97, "budget": "synops"}, "sparsity 0.97: allowed: not with budget synops"),
    ({"sparsity": 0.97, "final_rounds": (14,)}, "final_rounds 14: allowed: 1 to 13"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda x: str(x))
def test_bad_combinations_are_one_line(changes, message):
    with pytest.raises(InputError) as refused:
        configs.resolve(configs.ImpConfig(**changes))
    assert str(refused.value).startswith(message)


def test_a_search_without_a_target_is_known_by_what_it_was():
    dataset = SimpleNamespace(name="digits", fingerprint="x")
    identity = configs.identity(configs.resolve(configs.ImpConfig()), dataset)
    assert "sparsity" not in identity
    assert configs.completed(identity)["sparsity"] is None
    assert configs.identity(configs.resolve(configs.EbConfig()), dataset)["sparsity"] == 0.9
    target = configs.resolve(configs.ImpConfig(sparsity=0.97))
    assert configs.identity(target, dataset)["sparsity"] == 0.97
    assert target.workdir == "runs/imp_0.97_digits_vgg5_seed0"
