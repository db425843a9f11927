"""Tickets compared, combined and verified: by the library and by `snnlth ticket`."""

import hashlib
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from snnlth_jax import tickets
from snnlth_jax.cli import main
from snnlth_jax.errors import InputError
from snnlth_jax.tickets import Ticket, combining, comparing

RNG = np.random.default_rng(0)
SHAPES = {"layer01": (3, 3, 1, 4), "layer02": (3, 3, 4, 8), "readout": (32, 10)}


def ticket(seed, density=0.3, **provenance):
    rng = np.random.default_rng(seed)
    params = {
        name: {"kernel": rng.normal(size=shape).astype(np.float32), "bias": np.zeros(shape[-1:], np.float32)}
        for name, shape in SHAPES.items()
    }
    masks = {name: {"kernel": rng.random(shape) < density, "bias": None} for name, shape in SHAPES.items()}
    stats = {"layer01": {"mean": rng.normal(size=4).astype(np.float32)}}
    return Ticket(masks, params, stats, {"arch": "vgg5", "seed": seed, "kept": 1, **provenance})


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 0), ("b", 1)):
        tickets.save(name, ticket(seed))
    return tmp_path


def one_line(capsys):
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


# --- statistics


@pytest.mark.parametrize(
    ("total", "first", "second"), [(7, 3, 4), (6, 6, 2), (5, 0, 3), (6, 5, 4), (1, 1, 1)]
)
def test_significance_is_that_of_all_masks_with_those_counts(total, first, second):
    """By enumeration: every mask that keeps `second` of the weights, beside one that keeps `first`."""
    mask = np.arange(total) < first
    counts = Counter(int(mask[list(kept)].sum()) for kept in itertools.combinations(range(total), second))
    number = sum(counts.values())
    mean = sum(k * n for k, n in counts.items()) / number
    deviation = math.sqrt(sum((k - mean) ** 2 * n for k, n in counts.items()) / number)
    for kept in itertools.combinations(range(total), second):
        other = np.isin(np.arange(total), kept)
        layer, whole = comparing.overlaps({"w": mask}, {"w": other})
        assert layer.shared == whole.shared == int((mask & other).sum())
        assert layer.expected == pytest.approx(mean)
        assert layer.deviation == pytest.approx(deviation)
        expected = sum(n for k, n in counts.items() if k >= layer.shared) / number
        assert layer.p_value == pytest.approx(expected)


@pytest.mark.parametrize(("total", "first", "second"), [(2_359_296, 47_185, 49_000), (320, 96, 100)])
def test_significance_at_the_size_of_real_layers(total, first, second):
    mean = first * second / total
    for shared in (int(mean), int(mean * 1.1) + 1, min(first, second)):
        a, b = np.zeros(total, bool), np.zeros(total, bool)
        a[:first] = True
        b[first - shared : first - shared + second] = True
        layer = comparing.overlaps({"w": a}, {"w": b})[0]
        assert layer.shared == shared
        theirs = stats.hypergeom(total, first, second)
        assert layer.z == pytest.approx((shared - theirs.mean()) / theirs.std())
        assert layer.p_value == pytest.approx(theirs.sf(shared - 1), rel=1e-6, abs=1e-300)


def test_all_layers_together():
    """Means and variances of independent layers add."""
    layers = comparing.overlaps(ticket(0).masks, ticket(1).masks)
    *parts, whole = layers
    assert [part.name for part in parts] == ["layer01/kernel", "layer02/kernel", "readout/kernel"]
    difference = sum(part.shared - part.expected for part in parts)
    assert whole.z == pytest.approx(difference / math.sqrt(sum(part.deviation**2 for part in parts)))
    assert whole.p_value == pytest.approx(stats.norm.sf(whole.z))
    same = comparing.overlaps(ticket(0).masks, ticket(0).masks)[-1]
    assert (same.distance, same.overlap) == (0, 1)
    assert same.z > 10
    assert same.p_value < 1e-20
    assert abs(whole.z) < 3


# --- commands


def test_diff(files, capsys):
    assert main(["ticket", "diff", "a", "b"]) == 0
    out = capsys.readouterr().out
    layers = comparing.overlaps(ticket(0).masks, ticket(1).masks)
    assert comparing.describe(layers) in out


@pytest.mark.parametrize("how", ["and", "or"])
def test_combine(files, capsys, how):
    assert main(["ticket", "combine", "a", "b", f"--{how}", "--output", "new/c"]) == 0
    made, first, second = tickets.load("new/c"), ticket(0), ticket(1)
    for name in SHAPES:
        a, b = (t.masks[name]["kernel"] for t in (first, second))
        np.testing.assert_array_equal(made.masks[name]["kernel"], a & b if how == "and" else a | b)
        assert made.masks[name]["bias"] is None
        np.testing.assert_array_equal(made.params[name]["kernel"], first.params[name]["kernel"])
    kept = sum(int(made.masks[name]["kernel"].sum()) for name in SHAPES)
    sources = {
        part: {"file": name, "sha256": hashlib.sha256((files / name).read_bytes()).hexdigest()}
        for part, name in (("first", "a"), ("second", "b"))
    }
    total = sum(math.prod(shape) for shape in SHAPES.values())
    assert made.provenance == {
        "arch": "vgg5",  # on which both agree
        "made_by": f"combine {how}",
        "made_of": sources,
        "kept": kept,
        "total": total,
        "sparsity": 1 - kept / total,
    }
    capsys.readouterr()
    nested = ["new/c", "--parent", "a"] if how == "and" else ["a", "--parent", "new/c"]
    assert main(["ticket", "verify", *nested]) == 0
    assert "nested in" in capsys.readouterr().out


def test_transplant(files):
    assert main(["ticket", "transplant", "a", "b", "--output", "c"]) == 0
    made, masks_of, weights_of = tickets.load("c"), ticket(0), ticket(1)
    for name in SHAPES:
        np.testing.assert_array_equal(made.masks[name]["kernel"], masks_of.masks[name]["kernel"])
        np.testing.assert_array_equal(made.params[name]["kernel"], weights_of.params[name]["kernel"])
    np.testing.assert_array_equal(
        made.batch_stats["layer01"]["mean"], weights_of.batch_stats["layer01"]["mean"]
    )
    assert made.provenance["made_by"] == "transplant"
    assert [made.provenance["made_of"][part]["file"] for part in ("masks", "weights")] == ["a", "b"]


def test_verify(files, capsys):
    assert main(["ticket", "verify", "a"]) == 0
    assert "a: the checksum matches" in capsys.readouterr().out
    assert main(["ticket", "verify", "a", "--parent", "b"]) == 2
    err = one_line(capsys)
    extra = {n: int((ticket(0).masks[n]["kernel"] & ~ticket(1).masks[n]["kernel"]).sum()) for n in SHAPES}
    assert f"a: not nested in b, which removes {sum(extra.values())} of its weights" in err
    assert f"readout/kernel {extra['readout']}" in err
    content = bytearray((files / "a").read_bytes())
    content[-1] ^= 1
    (files / "a").write_bytes(content)
    assert main(["ticket", "verify", "a"]) == 2
    assert "a: checksum does not match" in one_line(capsys)


def test_an_output_that_is_there_is_kept(files, capsys):
    (files / "c").write_text("mine")
    for command in (["combine", "a", "b", "--or"], ["transplant", "a", "b"]):
        assert main(["ticket", *command, "--output", "c"]) == 2
        assert "--output c: is there already; allowed: a new file, or --overwrite" in one_line(capsys)
        assert (files / "c").read_text() == "mine"
    assert main(["ticket", "transplant", "a", "b", "--output", "a", "--overwrite"]) == 0
    np.testing.assert_array_equal(
        tickets.load("a").params["readout"]["kernel"], ticket(1).params["readout"]["kernel"]
    )


def other_networks():
    good = ticket(1)
    wider = good._replace(
        params={**good.params, "readout": {"kernel": np.zeros((32, 7)), "bias": np.zeros(7)}},
        masks={**good.masks, "readout": {"kernel": np.ones((32, 7), bool), "bias": None}},
    )
    prunable = good._replace(masks={**good.masks, "readout": {"kernel": None, "bias": None}})
    fewer = Ticket(
        {"layer01": good.masks["layer01"]}, {"layer01": good.params["layer01"]}, good.batch_stats, {}
    )
    return {
        r"readout/kernel is \(32, 10\), here \(32, 7\)": wider,
        "readout/kernel is prunable in a alone": prunable,
        "4 unexpected: layer02/bias": fewer,
        "1 unexpected: layer01/mean": good._replace(batch_stats={}),
    }


@pytest.mark.parametrize("difference", other_networks())
def test_other_networks_are_refused_with_the_difference(files, capsys, difference):
    import re

    tickets.save("b", other_networks()[difference])
    for command in (
        ["diff", "a", "b"],
        ["combine", "a", "b", "--and", "--output", "c"],
        ["transplant", "a", "b", "--output", "c"],
        ["verify", "a", "--parent", "b"],
    ):
        assert main(["ticket", *command]) == 2
        err = one_line(capsys)
        assert "a: a ticket of another network: " in err
        assert re.search(difference, err)
    assert not (files / "c").exists()
    with pytest.raises(InputError, match="another network"):
        combining.combine(ticket(0), other_networks()[difference], "and")


def test_trees_of_other_containers(tmp_path, monkeypatch):
    """Lists; and a list is not a dict with its numbers."""
    monkeypatch.chdir(tmp_path)
    weights = np.ones(3, np.float32)
    a = Ticket([np.array([True, False, True])], [weights], {}, {})
    tickets.save("a", a)
    assert main(["ticket", "combine", "a", "a", "--or", "--output", "b"]) == 0
    assert tickets.load("b").masks[0].tolist() == [True, False, True]
    with pytest.raises(InputError, match="another network"):
        combining.combine(a, Ticket({"0": a.masks[0]}, {"0": weights}, {}, {}), "and")
