"""Intervals and verdicts: coverage by simulation, and made-up results whose answer is known."""

import math

import numpy as np
import pytest
from scipy import stats

from snnlth_jax.analysis import comparison
from snnlth_jax.analysis.comparison import Interval


def draw(rng, seeds, images, gap, of_seed, of_image, shared):
    """Correct answers of two methods: probabilities that depend on method, seed and image.

    `shared` is the part of the image's effect that both methods have; the rest is of the first alone.
    """
    by_image = rng.uniform(-of_image, of_image, size=(1, images))
    own = rng.uniform(-of_image, of_image, size=(1, images))
    by_seed = rng.uniform(-of_seed, of_seed, size=(2, seeds, 1))
    first = 0.6 + gap + by_seed[0] + shared * by_image + (1 - shared) * own
    second = 0.6 + by_seed[1] + shared * by_image
    return rng.uniform(size=(seeds, images)) < first, rng.uniform(size=(seeds, images)) < second


@pytest.mark.parametrize(
    ("seeds", "images", "of_seed", "of_image", "shared"),
    [
        (5, 300, 0.05, 0.0, 1.0),  # seeds decide
        (5, 300, 0.0, 0.3, 0.0),  # images decide, those of the test set for all seeds
        (5, 300, 0.03, 0.3, 0.3),
        (3, 100, 0.05, 0.2, 0.5),
        (3, 300, 0.01, 0.1, 0.3),
        (5, 300, 0.0, 0.0, 1.0),  # neither: nothing but chance
    ],
)
def test_the_interval_covers_the_difference_over_all_seeds_and_images(
    seeds, images, of_seed, of_image, shared
):
    rng, gap, trials, covered = np.random.default_rng(seeds), 0.05, 600, 0
    for _ in range(trials):
        interval = comparison.of_images(*draw(rng, seeds, images, gap, of_seed, of_image, shared))
        covered += interval.low <= gap <= interval.high
    assert covered / trials >= 0.93  # 95 % but for the noise of the simulation
    if seeds > 3:
        assert covered / trials <= 0.995


def test_seeds_alone_would_be_too_sure():
    """The test of the test: Student's interval over the seeds misses what the images do to all of them."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(500):
        first, second = draw(rng, 20, 300, 0.05, 0.0, 0.35, 0.0)
        interval = comparison.of_numbers(first.mean(axis=1), second.mean(axis=1))
        covered += interval.low <= 0.05 <= interval.high
    assert covered / 500 < 0.9


def test_the_mean_squares_are_those_of_the_definition():
    rng = np.random.default_rng(3)
    first, second = draw(rng, 4, 60, 0.1, 0.1, 0.4, 0.0)
    x = first.astype(float) - second
    n, images = x.shape
    grand = x.mean()
    of_seeds = sum(images * (x[s].mean() - grand) ** 2 for s in range(n)) / (n - 1)
    of_image = sum(n * (x[:, i].mean() - grand) ** 2 for i in range(images)) / (images - 1)
    residual = sum(
        (x[s, i] - x[s].mean() - x[:, i].mean() + grand) ** 2 for s in range(n) for i in range(images)
    ) / ((n - 1) * (images - 1))
    assert of_image > residual  # all terms count
    assert n > 3  # or the degrees of freedom are bounded
    total = of_seeds + of_image - residual
    freedom = total**2 / (
        of_seeds**2 / (n - 1) + of_image**2 / (images - 1) + residual**2 / ((n - 1) * (images - 1))
    )
    half = math.sqrt(total / (n * images)) * stats.t.ppf(0.975, freedom)
    got = comparison.of_images(first, second)
    np.testing.assert_allclose(got, (grand, grand - half, grand + half, n), rtol=1e-12)


def test_equal_networks_are_equal_to_the_resolution_of_the_test_set():
    same = np.ones((5, 360))
    interval = comparison.of_images(same, same)
    assert interval.mean == 0
    assert 1 / 360 < interval.high == -interval.low < 3 / 360
    assert comparison.verdict(interval) == "undecided"
    assert comparison.verdict(interval, low=-0.01) == "holds"
    assert comparison.verdict(interval, low=-0.005) == "undecided"  # finer than the test set


@pytest.mark.parametrize(
    ("first", "second", "low", "high", "expected"),
    [
        ([0.9, 0.91, 0.92], [0.5, 0.52, 0.51], 0.0, math.inf, "holds"),
        ([0.5, 0.52, 0.51], [0.9, 0.91, 0.92], 0.0, math.inf, "contradicted"),
        ([0.9, 0.7, 0.8], [0.8, 0.8, 0.79], 0.0, math.inf, "undecided"),  # too close
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], 0.0, math.inf, "undecided"),  # ties
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], -0.01, math.inf, "holds"),
        ([0.9], [0.5], 0.0, math.inf, "undecided"),  # one seed
        ([3.0, 3.1, 2.9], [3.0, 3.0, 3.0], -0.5, 0.5, "holds"),  # equivalent
        ([4.0, 4.1, 3.9], [3.0, 3.0, 3.0], -0.5, 0.5, "contradicted"),
        ([3.4, 3.6, 3.5], [3.0, 3.0, 3.0], -0.5, 0.5, "undecided"),
    ],
)
def test_verdicts_whose_answer_is_known(first, second, low, high, expected):
    assert comparison.verdict(comparison.of_numbers(first, second), low, high) == expected


def test_counts_that_agree_may_differ_by_one_in_the_next_seed():
    five = comparison.of_numbers([4.0] * 5, [3.0] * 5, resolution=1.0)
    assert comparison.verdict(five) == "holds"
    assert comparison.verdict(comparison.of_numbers([4.0] * 3, [3.0] * 3, resolution=1.0)) == "undecided"
    assert comparison.of_numbers([4.0] * 3, [3.0] * 3) == Interval(1.0, 1.0, 1.0, 3)  # FLOPs


def test_one_seed_says_nothing_about_others():
    one = comparison.of_images(np.ones((1, 50)), np.zeros((1, 50)))
    assert one == Interval(1.0, -math.inf, math.inf, 1) == comparison.of_numbers([1.0], [0.0])


@pytest.mark.parametrize(
    ("first", "second"), [((2, 5), (3, 5)), ((2, 5), (2, 6)), ((5,), (5,)), ((0, 5), (0, 5))]
)
def test_other_shapes_are_refused(first, second):
    with pytest.raises(ValueError, match="both must be"):
        comparison.of_images(np.zeros(first), np.zeros(second))
    with pytest.raises(ValueError, match="of the same seeds"):
        comparison.of_numbers([1.0, 2.0], [1.0])
