"""Masks from the 14.7 million weights of VGG16: exact, along the whole ladder, and how long one takes.

    python benchmarks/prune.py

Beside ours: NumPy's partition and sort of all magnitudes, and the way of the authors' code, which puts the
surviving weights into a Python list first. Each removes a quarter of what is left, in milliseconds; the first
`ours` has all weights, the last 2 % of them.
"""

import itertools
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from snnlth_jax import masks, models, pruning

ROUNDS, FRACTION = 14, 0.25


def by_threshold(order):
    """Everything strictly below the magnitude that `order` puts at a quarter of those left."""

    def prune(weights, kept):
        magnitudes = np.concatenate([np.abs(w[m]) for w, m in zip(weights, kept, strict=True)])
        position = int(FRACTION * magnitudes.size)
        threshold = order(magnitudes, position)[position]
        return [m & (np.abs(w) >= threshold) for w, m in zip(weights, kept, strict=True)]

    return prune


def by_list(weights, kept):
    magnitudes = []
    for w, m in zip(weights, kept, strict=True):
        magnitudes += list(np.abs(w[m]))
    threshold = np.sort(np.array(magnitudes))[int(FRACTION * len(magnitudes))]
    return [m & (np.abs(w) >= threshold) for w, m in zip(weights, kept, strict=True)]


def exact(weights, kept):
    """Floor(n / 4) of them gone, of equal magnitudes the first in the order of the tree: a stable sort."""
    left = np.concatenate([m.ravel() for m in kept])
    (places,) = left.nonzero()
    magnitudes = np.abs(np.concatenate([w.ravel() for w in weights]))[places]
    left[places[np.argsort(magnitudes, kind="stable")[: places.size // 4]]] = False
    sizes = np.cumsum([m.size for m in kept])[:-1]
    return [part.reshape(m.shape) for part, m in zip(np.split(left, sizes), kept, strict=True)]


def milliseconds(function, *args, repeat: int) -> tuple[float, object]:
    best = float("inf")
    for _ in range(repeat):
        begun = time.perf_counter()
        result = jax.block_until_ready(function(*args))
        best = min(best, time.perf_counter() - begun)
    return 1000 * best, result


def main() -> None:
    model = models.create("vgg16", 10)
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.jit(lambda key: model.init(key, images, num_timesteps=1)["params"])(jax.random.key(0))
    ladder = [masks.make(params)]
    prune = jax.jit(lambda params, kept: pruning.prune(pruning.magnitude(params), kept, FRACTION))
    for _ in range(ROUNDS):
        ladder.append(prune(params, ladder[-1]))
    leaves = [[np.asarray(leaf) for leaf in jax.tree.leaves(kept)] for kept in ladder]
    by_path = dict(jax.tree_util.tree_flatten_with_path(params)[0])
    weights = [np.asarray(by_path[path]) for path, _ in jax.tree_util.tree_flatten_with_path(ladder[0])[0]]
    same = all(
        np.array_equal(mine, theirs)
        for before, after in itertools.pairwise(leaves)
        for mine, theirs in zip(after, exact(weights, before), strict=True)
    )
    counts = [masks.count(kept)[0] for kept in ladder]
    device = jax.devices()[0].device_kind
    print(f"{device}, {os.cpu_count()} cores, jax {jax.__version__}, {counts[0]:,} weights")
    print(f"{ROUNDS} rounds leave {counts[-1]:,}; the masks of each are those of a stable sort: {same}")

    for name, function, repeat in (
        ("partition", by_threshold(np.partition), 3),
        ("sort", by_threshold(lambda a, _: np.sort(a)), 3),
        ("list", by_list, 1),
    ):
        took, result = milliseconds(function, weights, leaves[0], repeat=repeat)
        print(f"{name:10} {took:8.1f}   leaves {sum(int(m.sum()) for m in result):,}")
    for number in (0, ROUNDS - 1):
        took, ours = milliseconds(prune, params, ladder[number], repeat=5)
        print(f"{'ours':10} {took:8.1f}   leaves {masks.count(ours)[0]:,}")


if __name__ == "__main__":
    main()
