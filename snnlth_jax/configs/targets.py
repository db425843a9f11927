"""A target sparsity of a search by rounds: the number of rounds, or the fraction of each, that reaches it."""

import itertools
import math
from collections.abc import Iterator
from decimal import Decimal, localcontext
from typing import Any

from snnlth_jax.configs.fields import MOST_ROUNDS
from snnlth_jax.configs.parts import Rounds
from snnlth_jax.errors import InputError

__all__ = ["MOST_ROUNDS", "check_removes", "density", "kept_after", "prunings_to", "rounds_to"]


def density(sparsity: float) -> float:
    """1 - sparsity in decimal arithmetic, so that 0.95 leaves 0.05 and not 0.050000000000000044.

    >>> density(0.95)
    0.05
    """
    return float(1 - Decimal(repr(float(sparsity))))


def prunings_to(sparsity: float, fraction: float) -> int:
    """The number of prunings by a fraction p that a sparsity s takes: the least k with (1 - p)^k <= 1 - s.

    Both are the decimal numbers that they print as.

    >>> prunings_to(0.75, 0.5), prunings_to(0.76, 0.5), prunings_to(0.1, 0.25)
    (2, 3, 1)
    """
    with localcontext(prec=400):
        left, share = 1 - Decimal(repr(float(sparsity))), 1 - Decimal(repr(float(fraction)))
        least = max(1, math.floor(math.log1p(-sparsity) / math.log1p(-fraction)) - 1)
        while share**least > left:
            least += 1
    return least


def rounds_to(sparsity: float, rounds: int | None, fraction: float) -> dict[str, Any]:
    """The fields of `Rounds` that follow from a target sparsity; none where a value is not allowed.

    Args:
      sparsity: the target.
      rounds: number of rounds, if it was chosen: the fraction follows, to six digits.
      fraction: p; without `rounds` their number follows.

    Raises:
      InputError: rounds and a fraction were both chosen, or more rounds than `MOST_ROUNDS`.

    >>> rounds_to(0.97, None, 0.25), rounds_to(0.97, 6, 0.25)
    ({'rounds': 14}, {'prune_fraction': 0.504066})
    """
    if not (0 < sparsity < 1 and 0 < fraction < 1 and (rounds is None or rounds >= 2)):
        return {}
    if rounds is not None:
        if fraction != Rounds.prune_fraction:
            both = "not with `rounds` and `sparsity`, from which it follows"
            raise InputError("`prune_fraction`", fraction, allowed=both)
        exact = -math.expm1(math.log1p(-sparsity) / (rounds - 1))
        return {"prune_fraction": min(float(f"{exact:.6g}"), math.nextafter(1, 0))}
    if math.log1p(-sparsity) / math.log1p(-fraction) > MOST_ROUNDS - 2:
        problem = f"takes more than {MOST_ROUNDS:,} rounds to `sparsity` {sparsity}"
        raise InputError("`prune_fraction`", fraction, problem=problem, allowed="a larger one")
    return {"rounds": prunings_to(sparsity, fraction) + 1}


def kept_after(prunings: int, rounds: int, fraction: float, sparsity: float | None, total: int) -> int:
    """Number of weights that are left after some prunings of a search, all compared with one threshold.

    Every pruning removes floor(p n) of the n weights that are left. With a target s no weight goes beyond
    the floor(s N) of all N, and the last pruning removes what is missing to that.

    Args:
      prunings: number of prunings so far.
      rounds: number of rounds of the search, the dense one included.
      fraction: p.
      sparsity: s, or None.
      total: N.

    >>> [kept_after(n, 4, 0.5, 0.8, 101) for n in range(4)]
    [101, 51, 26, 21]
    """
    return next(itertools.islice(_counts(rounds, fraction, sparsity, total), prunings, None))


def check_removes(config: object, total: int) -> None:
    """Check that every pruning of a search removes a weight.

    Args:
      config: a resolved configuration.
      total: number of prunable weights.

    Raises:
      InputError: naming what is too small, or one round too many.

    >>> check_removes(Rounds(rounds=20), 10)
    Traceback (most recent call last):
    ...
    snnlth_jax.errors.InputError: rounds 20: round 6 would remove none of the 3 weights that are left; ...
    """
    sparsity = getattr(config, "sparsity", None)
    none, least = f"removes none of {total:,} weights", f"{1 / total:.3g} or more"
    if sparsity is not None and not _floor(sparsity, total):
        raise InputError("`sparsity`", sparsity, problem=none, allowed=least)
    drop = getattr(config, "drop_fraction", None)
    if drop is not None and not _floor(drop, kept := total - _floor(sparsity or 0.0, total)):
        problem = f"moves none of {kept:,} weights"
        raise InputError("`drop_fraction`", drop, problem=problem, allowed=f"{1 / max(kept, 1):.3g} or more")
    if not isinstance(config, Rounds):
        return
    if getattr(config, "budget", "weights") != "weights":
        return  # other quantities than weights
    rounds = config.rounds or 1
    counts = itertools.islice(_counts(rounds, config.prune_fraction, sparsity, total), rounds)
    for number, (before, after) in enumerate(itertools.pairwise(counts), start=1):
        if before > after:
            continue
        if number == 1:
            raise InputError("`prune_fraction`", config.prune_fraction, problem=none, allowed=least)
        problem = f"round {number} would remove none of the {before:,} weights that are left"
        raise InputError("`rounds`", rounds, problem=problem, allowed=f"at most {number}")


def _counts(rounds: int, fraction: float, sparsity: float | None, total: int) -> Iterator[int]:
    """Number of weights that are left after 0, 1, 2 ... prunings, see `kept_after`."""
    kept, least = total, 0 if sparsity is None else total - _floor(sparsity, total)
    for number in itertools.count(1):
        yield kept
        last = sparsity is not None and number == rounds - 1
        kept = least if last else max(kept - _floor(fraction, kept), least)


def _floor(share: float, count: int) -> int:
    with localcontext(prec=400):
        return int(Decimal(repr(float(share))) * count)
