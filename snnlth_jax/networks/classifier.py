"""A trained network as a function of images."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.typing import ArrayLike

from snnlth_jax.data.augment import normalise
from snnlth_jax.data.frames import as_input
from snnlth_jax.errors import InputError
from snnlth_jax.networks import recipe as recipes
from snnlth_jax.networks.recipe import Recipe
from snnlth_jax.networks.storage import Network, check, load

__all__ = ["Classifier", "classifier"]

PyTree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network as a compiled function: uint8 images -> logits, summed over time.

    Attributes:
      model: Flax module.
      variables: its `params` and `batch_stats`, on the device.
      masks: boolean array per prunable weight, None for the rest.
      provenance: where the network comes from.
      recipe: how it is built and called; `recipe.num_timesteps` is T.
    """

    model: nn.Module
    variables: PyTree
    masks: PyTree
    provenance: dict[str, Any]
    recipe: Recipe

    def __call__(self, images: ArrayLike) -> jax.Array:
        """Logits `[N, classes]`, summed over time, of uint8 images.

        They are `[N, H, W, C]`, or `[N, H, W]` if C is 1; or frames `[N, T, H, W, C]`.

        Raises:
          InputError: images of another shape or dtype.
        """
        return self.over_time(images).sum(axis=0)

    def over_time(self, images: ArrayLike) -> jax.Array:
        """Logits of each timestep, `[T, N, classes]`."""
        return self._logits(_compiled, images)

    def traced(self, images: ArrayLike) -> jax.Array:
        """As `over_time`, for the inside of another program: nothing that was traced before is used."""
        return self._logits(_apply, images)

    def _logits(self, apply: Callable[..., jax.Array], images: ArrayLike) -> jax.Array:
        return apply(
            self.variables,
            self._checked(images),
            model=self.model,
            normalisation=self.recipe.normalisation,
            num_timesteps=self.recipe.num_timesteps,
        )

    def _checked(self, images: ArrayLike) -> jax.Array:
        shape, dtype = np.shape(images), getattr(images, "dtype", None) or np.asarray(images).dtype
        wanted = self.recipe.image_shape
        if dtype != np.uint8:
            raise InputError("`images`", f"of {dtype}", allowed="uint8, 0 to 255, which are normalised here")
        if (*shape[1:], 1) == wanted:
            images, shape = jnp.asarray(images)[..., None], (*shape, 1)
        if shape[1:] != wanted or not shape[0]:
            axes = ", ".join(map(str, wanted))
            grey = f", or [N, {', '.join(map(str, wanted[:-1]))}]" if wanted[-1] == 1 else ""
            allowed = f"[N, {axes}]{grey}"
            raise InputError("`images`", f"of shape {list(shape)}", allowed=allowed)
        return jnp.asarray(images)


def _apply(
    variables: PyTree, images: jax.Array, *, model: nn.Module, normalisation: Any, num_timesteps: int
) -> jax.Array:
    images = as_input(model, normalise(images, normalisation), num_timesteps)
    logits: Any = model.apply(variables, images, num_timesteps=num_timesteps, train=False)
    return jnp.asarray(logits)


_compiled = jax.jit(_apply, static_argnames=("model", "normalisation", "num_timesteps"))


def classifier(
    source: epath.PathLike | Network,
    *,
    num_timesteps: int | None = None,
    model: nn.Module | None = None,
    arch: str | None = None,
) -> Classifier:
    """The function of a network file, or of a network.

    Args:
      source: path of the file, which may be a `gs://` one, or the network.
      num_timesteps: T; by default that of the recipe.
      model: the network; by default the recipe's.
      arch: the `module:function` of a network of your own, which is then called; a file alone calls nothing.

    Raises:
      InputError: no such file, not a network, a T that is not allowed, or weights of another network.

    >>> import snnlth_jax
    >>> logits = snnlth_jax.load("networks/ticket_05.safetensors")  # doctest: +SKIP
    >>> logits(images).argmax(axis=-1)  # doctest: +SKIP
    """
    network, name = (source, "network") if isinstance(source, Network) else (load(source), str(source))
    recipe = network.recipe
    if num_timesteps is not None:
        recipe.check_timesteps(num_timesteps)
        recipe = dataclasses.replace(recipe, num_timesteps=num_timesteps)
    own = recipes.model(recipe, arch) if model is None else model
    check(name, network, own)
    variables = {"params": network.params, "batch_stats": network.batch_stats}
    on_device = jax.tree.map(jnp.asarray, variables)
    return Classifier(own, on_device, network.masks, network.provenance, recipe)
