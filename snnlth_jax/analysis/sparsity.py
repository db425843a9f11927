"""How the weights that are left are spread over the layers."""

from collections.abc import Sequence
from typing import Any

from snnlth_jax import masks as masks_lib

__all__ = ["by_round", "collapsed", "layers"]


def layers(masks: Any) -> list[dict[str, Any]]:
    """One entry per prunable layer, in the order of the tree: `name`, `weights`, `kept`, `sparsity`.

    As text to print: `masks.table`.

    >>> import jax.numpy as jnp
    >>> layers({"conv": {"kernel": jnp.array([[True, False]]), "bias": None}})
    [{'name': 'conv/kernel', 'weights': 2, 'kept': 1, 'sparsity': 0.5}]
    """
    return [
        {"name": name, "weights": total, "kept": kept, "sparsity": 1 - kept / total}
        for name, (kept, total) in masks_lib.by_layer(masks).items()
    ]


def collapsed(masks: Any) -> list[str]:
    """Names of the layers of which nothing is left: layer collapse (Tanaka et al. 2020).

    >>> import jax.numpy as jnp
    >>> collapsed({"first": jnp.array([False]), "second": jnp.array([True])})
    ['first']
    """
    return [name for name, (kept, _) in masks_lib.by_layer(masks).items() if not kept]


def by_round(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Sparsity of each layer over rounds (the paper's Fig. 6c), and of all weights, as `all`.

    Args:
      rows: of result.json that have `layers`.

    >>> a, b = {"name": "a", "weights": 4, "kept": 4}, {"name": "b", "weights": 4, "kept": 2}
    >>> by_round([{"layers": [a, b]}])
    {'a': [0.0], 'b': [0.5], 'all': [0.25]}
    """
    table: dict[str, list[float]] = {}
    for row in rows:
        total = {key: sum(each[key] for each in row["layers"]) for key in ("weights", "kept")}
        for each in [*row["layers"], {"name": "all", **total}]:
            table.setdefault(each["name"], []).append(1 - each["kept"] / each["weights"])
    return table
