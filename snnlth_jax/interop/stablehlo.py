"""Trained networks as a compiled function's source, StableHLO, as `jax.export` writes it.

It holds all from normalisation to logits, the weights too, for CPUs, GPUs and TPUs. JAX, with flatbuffers,
runs it, without Flax and without the code of the network:

    function = jax.export.deserialize(bytearray(open("network.jax", "rb").read()))
    logits = function.call(images)  # uint8 [N, H, W, C], or [N, T, H, W, C] -> [N, classes], summed over time
"""

import jax
import jax.export
import jax.numpy as jnp

from snnlth_jax.errors import not_installed
from snnlth_jax.models import _onednn
from snnlth_jax.networks import Network, classifier

__all__ = ["PLATFORMS", "from_network"]

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def from_network(network: Network, arch: str | None = None) -> bytes:
    """The function of a network for any number of images, which are computed one after another.

    Args:
      network: any network, also of its author's own, as `networks.load` gives it.
      arch: the `module:function` of a network of your own, see `networks.classifier`.

    Raises:
      InputError: what `networks.classifier` refuses; flatbuffers, which JAX writes with, is not installed.

    >>> from snnlth_jax import networks
    >>> content = from_network(networks.load("networks/ticket_05.safetensors"))  # doctest: +SKIP
    """
    function = classifier(network, arch=arch)
    (count,) = jax.export.symbolic_shape("count")
    images = jax.ShapeDtypeStruct((count, *network.recipe.image_shape), jnp.uint8)

    def one(image: jax.Array) -> jax.Array:
        return function.traced(image[None]).sum(axis=0)[0]

    def logits(images: jax.Array) -> jax.Array:
        result: jax.Array = jax.lax.map(one, images)
        return result

    with _onednn.absent():
        exported = jax.export.export(jax.jit(logits), platforms=PLATFORMS)(images)
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise not_installed("flatbuffers", "export") from error
