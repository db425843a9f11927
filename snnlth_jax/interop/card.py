"""The model card of a trained network: what it is, how it was found, how to call it. Markdown."""

import json
from collections.abc import Mapping
from typing import Any

from snnlth_jax import masks as masks_lib
from snnlth_jax.analysis import wiring
from snnlth_jax.data.frames import split_shape
from snnlth_jax.models import own
from snnlth_jax.networks import Network

__all__ = ["from_network"]


def from_network(network: Network, file: str) -> str:
    """The card of a network file, as a README.md beside it.

    Args:
      network: the network.
      file: name of its file.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from snnlth_jax import models, networks
    >>> from snnlth_jax.data.augment import Augmentation
    >>> model, grey = models.VGG((3, "M"), num_classes=10), Augmentation((0.5,), (0.5,))
    >>> variables = model.init(jax.random.key(0), jnp.ones((1, 4, 4, 1)), num_timesteps=1)
    >>> recipe = networks.describe(model, image_shape=(4, 4, 1), normalisation=grey, num_timesteps=2)
    >>> everything = masks_lib.make(variables["params"])
    >>> network = Network(recipe, everything, *variables.values(), {"dataset": "mine"})
    >>> print(from_network(network, "ticket.safetensors").splitlines()[0])
    # VGG on mine, 0.0 % sparse
    """
    recipe, known = network.recipe, network.provenance

    def recorded(name: str, otherwise: str = "unknown") -> str:
        return _text(known.get(name, otherwise))

    kept, total = map(int, masks_lib.count(network.masks))
    sparsity = f"{100 * (1 - kept / total if total else 0.0):.1f} %"
    frames, shape = split_shape(recipe.image_shape)
    image = "x".join(map(str, shape)) + (f", {frames} frames" if frames else "")
    facts = {
        "network": f"{_text(recipe.arch)}, width {recipe.width:g}, {recipe.activation}, {recipe.dtype}",
        "timesteps": recipe.num_timesteps,
        "neuron": ", ".join(f"{name} {_text(value)}" for name, value in recipe.neuron.items())
        if recipe.activation == "lif"
        else "none",
        "batch norm": recipe.norm,
        "prunable weights": f"{kept:,} of {total:,} kept",
        "images": f"uint8, {image}; mean {_list(recipe.mean)}, std {_list(recipe.std)} of pixels from 0 to 1",
        "classes": f"{recipe.num_classes}: {_list(recipe.classes[:20])}"
        + ", ..." * (recipe.num_classes > 20),
        "dataset": recorded("dataset_fingerprint", recorded("dataset")),
        "test accuracy": _accuracy(known.get("test_accuracy")),
        "training run": recorded("phase"),
        "method": recorded("method"),
    }
    layers = [
        f"| {name} | {mask.size:,} | {100 * (1 - mask.mean()):.2f} % |"
        for name, mask in wiring.by_name(network.masks).items()
    ]
    settings = [f"| {_text(name)} | {_text(value)} |" for name, value in known.items() if name != "versions"]
    arch = f", arch={json.dumps(recipe.arch)}" if own.is_own(recipe.arch) else ""
    kind = "spiking network" if recipe.activation == "lif" else "network with ReLU"
    lines = [
        f"# {_text(recipe.arch)} on {_text(known.get('dataset', 'unknown data'))}, {sparsity} sparse",
        "",
        f"A {kind}, trained with {sparsity} of its prunable weights removed, by snnlth_jax.",
        "",
        *("| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())),
        *("", "## Use", "", "```python", "import snnlth_jax", ""),
        f"network = snnlth_jax.load({json.dumps(file)}{arch})",
        f"logits = network(images)  # uint8 [N, {', '.join(map(str, recipe.image_shape))}] -> "
        f"[N, {recipe.num_classes}]",
        "```",
        "",
        "`snnlth eval FILE` evaluates it, `snnlth predict FILE IMAGES...` classifies images, and",
        "`snnlth export FILE` writes it for PyTorch, NIR, ONNX, NumPy and JAX alone.",
        *("", "## Sparsity by layer", "", "| layer | weights | sparsity |", "|---|---|---|", *layers),
        *("", "## Settings of its search", "", "| | |", "|---|---|", *settings),
    ]
    return "\n".join(lines) + "\n"


def _accuracy(value: Any) -> str:
    return f"{value:.4f}, after the last epoch" if isinstance(value, float) else "not measured"


def _list(values: Any) -> str:
    return ", ".join(f"{value:.6g}" if isinstance(value, float) else _text(value) for value in values)


def _text(value: Any) -> str:
    """A value of a file as one cell of a table, whatever characters it has."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_text(k)} {_text(v)}" for k, v in value.items())
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    printable = "".join(c if c.isprintable() else " " for c in text[:300])
    return printable.replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
