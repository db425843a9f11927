r"""Paired comparison of two methods over seeds: an interval, and a verdict on a bound fixed beforehand.

Both methods are run with the same seeds and evaluated on the same test images. The difference of image i with
seed s is

.. math:: x_{s,i} = \mu + \alpha_s + \beta_i + \varepsilon_{s,i}

with random effects of the seed and of the image (crossed, so that more seeds alone cannot make the test set
larger). The interval is for mu: the difference over all seeds and all images like these.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

__all__ = ["Interval", "Verdict", "of_images", "of_numbers", "verdict"]

Verdict = Literal["holds", "contradicted", "undecided"]


class Interval(NamedTuple):
    """A mean difference with its confidence interval.

    Attributes:
      mean: mean difference.
      low, high: bounds of the interval; infinite with a single seed, which says nothing about others.
      seeds: number of seeds.
    """

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:+.4g} [{self.low:+.4g}, {self.high:+.4g}]"


def of_images(first: np.ndarray, second: np.ndarray, level: float = 0.95) -> Interval:
    r"""Interval for the difference of two accuracies, with the variance of seeds and of test images.

    .. math::
        \widehat{\mathrm{Var}}(\bar x) = \frac{M_S + \max(M_I - M_E, 0)}{n N}

    M_S, M_I and M_E are the mean squares of seeds, images and residuals of the n x N differences; degrees of
    freedom by Satterthwaite, with three seeds or fewer n - 1 at most. A test set of N images resolves no less
    than one image: the standard error is at least 1 / N.

    Args:
      first: whether each image is classified correctly by the first method, `[seeds, images]`.
      second: the same of the second method, same seeds and images in the same order.
      level: confidence level.

    Raises:
      ValueError: other shapes.

    >>> a, b = np.ones((3, 200)), np.ones((3, 200))
    >>> b[:, ::4] = 0
    >>> of_images(a, b).low > 0.1
    True
    """
    if first.shape != second.shape or first.ndim != 2 or 0 in first.shape:
        raise ValueError(f"both must be [seeds, images], got {first.shape} and {second.shape}")
    x = first.astype(np.float64) - second.astype(np.float64)
    n, images = x.shape
    mean = float(x.mean())
    if n < 2 or images < 2:
        return Interval(mean, -math.inf, math.inf, n)
    seed_means, image_means = x.mean(axis=1, keepdims=True), x.mean(axis=0, keepdims=True)
    of_seeds = images * float(np.square(seed_means - mean).sum()) / (n - 1)
    of_image = n * float(np.square(image_means - mean).sum()) / (images - 1)
    residual = float(np.square(x - seed_means - image_means + mean).sum()) / ((n - 1) * (images - 1))
    by_images = max(of_image - residual, 0.0)
    variance = (of_seeds + by_images) / (n * images)
    terms = [(of_seeds, n - 1)]
    if by_images:
        terms += [(of_image, images - 1), (residual, (n - 1) * (images - 1))]
    weighted = math.fsum(square**2 / freedom for square, freedom in terms)
    freedom = (of_seeds + by_images) ** 2 / weighted if weighted else n - 1
    if n <= 3:  # the approximation is too sure of so few
        freedom = min(freedom, n - 1)
    half = max(math.sqrt(variance), 1 / images) * float(stats.t.ppf((1 + level) / 2, max(freedom, 1.0)))
    return Interval(mean, mean - half, mean + half, n)


def of_numbers(
    first: Sequence[float], second: Sequence[float], level: float = 0.95, resolution: float = 0.0
) -> Interval:
    """Interval for the difference of two numbers that no test set enters, such as FLOPs: Student's t.

    Args:
      first: a number for each seed.
      second: the same of the second method, same seeds in the same order.
      level: confidence level.
      resolution: smallest difference of two such numbers, 1 for counts. Another seed may differ by as much
        where all agree: the standard error is at least the resolution over the number of seeds.

    Raises:
      ValueError: unequal or no numbers.

    >>> of_numbers([3.0, 3.0], [1.0, 1.0])
    Interval(mean=2.0, low=2.0, high=2.0, seeds=2)
    """
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"both must be of the same seeds, got {len(first)} and {len(second)} numbers")
    x = np.subtract(first, second, dtype=np.float64)
    mean = float(x.mean())
    if len(x) < 2:
        return Interval(mean, -math.inf, math.inf, len(x))
    error = max(float(x.std(ddof=1)) / math.sqrt(len(x)), resolution / len(x))
    half = error * float(stats.t.ppf((1 + level) / 2, len(x) - 1))
    return Interval(mean, mean - half, mean + half, len(x))


def verdict(interval: Interval, low: float = 0.0, high: float = math.inf) -> Verdict:
    """Whether a difference lies between two bounds that were fixed beforehand.

    The claim holds if the whole interval lies between them, is contradicted if the whole interval lies
    outside, and is undecided otherwise. `low` = 0 asks whether the first is larger, `low` = -0.01 whether it
    is not inferior by more than a point, both bounds whether they are equivalent.

    >>> verdict(Interval(0.02, 0.01, 0.03, 5)), verdict(Interval(0.0, -0.005, 0.005, 5), low=-0.01)
    ('holds', 'holds')
    >>> verdict(Interval(0.0, 0.0, 0.0, 5)), verdict(Interval(-0.2, -0.3, -0.1, 5))
    ('undecided', 'contradicted')
    """
    if low < interval.low and interval.high < high:
        return "holds"
    return "contradicted" if interval.high < low or interval.low > high else "undecided"
