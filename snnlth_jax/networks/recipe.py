"""The recipe of a network: how it is built and called, as JSON values."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import msgspec
import numpy as np

from snnlth_jax import models, surrogate
from snnlth_jax._constants import of_python
from snnlth_jax.data.augment import Augmentation
from snnlth_jax.data.frames import split_shape
from snnlth_jax.errors import InputError, not_one_of
from snnlth_jax.models import own
from snnlth_jax.neurons import LIF, PLIF

__all__ = ["Recipe", "describe", "from_json", "model", "to_json"]

_CONSTANTS = ("tau", "v_threshold", "v_reset", "decay_input", "detach_reset")
_SURROGATES = surrogate.NAMES
_FAMILIES: dict[str, Any] = {"VGG": models.VGG, "ResNet": models.ResNet}
_COMMON = (
    *("num_classes", "neuron", "activation", "dtype", "param_dtype", "axis_name", "parent", "name"),
    *("norm", "norm_timesteps", "kernels"),
)
_MOST_TIMESTEPS = 1000


def _constants(neuron: LIF) -> dict[str, Any]:
    """The constants of a neuron; ValueError for those that are not numbers."""
    spike = neuron.spike
    if type(spike).__name__ not in _SURROGATES:
        raise ValueError(f"a spike function of its author's own, {spike!r}")
    ((_, scale),) = vars(spike).items()
    constants = {name: getattr(neuron, name) for name in _CONSTANTS}
    constants |= {"surrogate": type(spike).__name__, "surrogate_scale": scale}
    constants |= {"learned": True} if isinstance(neuron, PLIF) else {}
    for name, value in constants.items():
        if value is not None and not isinstance(value, bool | int | float | str):
            raise ValueError(f"{name} is not one number")
    return constants


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Recipe by which a network is built and called; JSON values only.

    Attributes:
      arch: a name of `models.names()`; `VGG` or `ResNet` with its layers in `options`; `module:function` for
        a network of its author's own, with the arguments of the function in `options`.
      num_classes: number of logits.
      image_shape: height, width, channels; of images that change over time, the number of frames first.
      mean: mean per channel, of images in [0, 1].
      std: standard deviation per channel.
      num_timesteps: T to call it with.
      width: factor on the channels of every layer.
      activation: "lif", or "relu" for the artificial twin, which has one timestep.
      neuron: constants of `neurons.LIF`, the name of its surrogate and `surrogate_scale`, the parameter of
        that; and `learned`, whether its tau is learned (`neurons.PLIF`). The defaults are the paper's.
      dtype: number format of the computation, "float32" or "bfloat16".
      class_names: names of the classes; empty if they are not known.
      options: arguments of `VGG`, `ResNet` or the function; empty for a network with a name.
      norm: batch norm, see `models.create`.
      norm_timesteps: the largest T of its parameters, with norm "bntt".
    """

    arch: str
    num_classes: int
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_timesteps: int
    width: float = 1.0
    activation: str = "lif"
    neuron: dict[str, Any] = dataclasses.field(default_factory=lambda: _constants(LIF()))
    dtype: str = "float32"
    class_names: tuple[str, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    norm: str = "timestep"
    norm_timesteps: int | None = None

    def __post_init__(self) -> None:
        channels = self.image_shape[-1:]
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        for name, value, good, allowed in (
            (
                "image_shape",
                self.image_shape,
                len(self.image_shape) in (3, 4) and min(self.image_shape) >= 1,
                "height, width and channels, behind a number of frames if there are any, all 1 or more",
            ),
            ("mean", self.mean, (len(self.mean),) == channels and finite, "a number per channel"),
            (
                "std",
                self.std,
                (len(self.std),) == channels and finite and min(self.std) > 0,
                "a number above 0 per channel",
            ),
            ("width", self.width, 0 < self.width < math.inf, "a number above 0"),
            ("num_classes", self.num_classes, self.num_classes >= 1, "1 or more"),
            (
                "class_names",
                self.class_names,
                len(self.class_names) in (0, self.num_classes),
                "one per class, or none",
            ),
            ("dtype", self.dtype, self.dtype in ("float32", "bfloat16"), "float32, bfloat16"),
        ):
            if not good:
                raise InputError(f"`{name}`", value, allowed=allowed)
        self.check_timesteps(self.num_timesteps)

    def check_timesteps(self, num_timesteps: int) -> None:
        """InputError unless the network can be called with this number of timesteps."""
        frames, _ = split_shape(self.image_shape)
        most = min(count for count in (frames, self.norm_timesteps, _MOST_TIMESTEPS) if count)
        most = 1 if self.activation == "relu" else most
        if not 1 <= num_timesteps <= most:
            allowed = "1 for a network without time (relu)" if most == 1 else f"1 to {most}"
            raise InputError("`num_timesteps`", num_timesteps, allowed=allowed)

    @property
    def normalisation(self) -> Augmentation:
        """Mean and std of its images, for `normalise`."""
        return Augmentation(self.mean, self.std)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; their numbers where no names are known."""
        return self.class_names or tuple(map(str, range(self.num_classes)))


def to_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON values.

    >>> from_json(to_json(Recipe("vgg5", 10, (8, 8, 1), (0.5,), (0.5,), 4))).image_shape
    (8, 8, 1)
    """
    return dataclasses.asdict(recipe)


def from_json(value: Any) -> Recipe:
    """The inverse of `to_json`; ValueError for other values."""
    recipe = msgspec.convert(value, Recipe)
    return dataclasses.replace(recipe, options={key: _tuples(x) for key, x in recipe.options.items()})


def describe(
    network: nn.Module,
    *,
    image_shape: tuple[int, ...],
    normalisation: Augmentation,
    num_timesteps: int,
    name: str = "",
    width: float = 1.0,
    options: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] = (),
) -> Recipe:
    """The recipe of a network.

    Args:
      network: Flax module.
      image_shape: height, width, channels.
      normalisation: mean and std of its images.
      num_timesteps: T.
      name: name of the network, if it may be one of `models.names()` or a `module:function`.
      width: its factor on the channels.
      options: arguments of the function.
      num_classes: number of logits; by default what the module says.
      class_names: names of the classes; empty if they are not known.

    Raises:
      InputError: a shape or T that is not allowed.

    >>> small = models.VGG((4, "M"), num_classes=3)
    >>> grey = Augmentation(mean=(0.5,), std=(0.5,))
    >>> recipe = describe(small, image_shape=(8, 8, 1), normalisation=grey, num_timesteps=2)
    >>> recipe.arch, recipe.options["features"], model(recipe) == small
    ('VGG', (4, 'M'), True)
    """
    of_class = f"{type(network).__module__}:{type(network).__qualname__}"
    dtype = getattr(network, "dtype", None)
    fields: dict[str, Any] = {
        "num_classes": num_classes or getattr(network, "num_classes", 1),
        "image_shape": tuple(image_shape),
        "class_names": tuple(class_names),
        "mean": tuple(map(float, normalisation.mean)),
        "std": tuple(map(float, normalisation.std)),
        "num_timesteps": num_timesteps,
        "activation": getattr(network, "activation", "lif"),
        "dtype": "float32" if dtype is None else str(jnp.dtype(dtype)),
    }
    if isinstance(network, models.VGG | models.ResNet) and type(network) in _FAMILIES.values():
        try:
            fields["neuron"] = _constants(network.neuron)
        except ValueError:  # which JSON cannot say
            return Recipe(of_class, **fields)
        fields |= {"norm": network.norm, "norm_timesteps": network.norm_timesteps}
        named = Recipe(name, width=width, **fields)
        plain = network.clone(axis_name=None, parent=None, kernels="auto")
        if name in models.names() and model(named) == plain:
            return named
        every = {field.name: getattr(network, field.name) for field in dataclasses.fields(network)}
        layers = {key: of_python(value) for key, value in every.items() if key not in _COMMON}
        return Recipe(type(network).__name__, options=layers, **fields)
    if own.is_own(name):
        return Recipe(name, options=dict(options or {}), **fields)
    return Recipe(of_class, **fields)


def model(recipe: Recipe, arch: str | None = None) -> nn.Module:
    """The network of a recipe.

    Args:
      recipe: the recipe.
      arch: the `module:function` of a recipe of its author's own, said again: a file must not decide which
        function is called.

    Raises:
      InputError: a network of its author's own with another `arch`, or a recipe that makes none.

    >>> model(Recipe("vgg5", 10, (8, 8, 1), (0.5,), (0.5,), 4)).num_classes
    10
    """
    dtype = None if recipe.dtype == "float32" else jnp.dtype(recipe.dtype)
    if own.is_own(recipe.arch):
        if arch != recipe.arch:
            allowed = f"{recipe.arch}, to call that function of yours"
            raise InputError("`arch`", arch, problem="the network is its author's own", allowed=allowed)
        module = own.build(arch, recipe.num_classes, recipe.options, dtype)
        return own.cloned(module, activation=recipe.activation)
    if arch not in (None, recipe.arch):
        raise InputError("`arch`", arch, allowed=f"{recipe.arch}, the network of the file")
    try:
        neuron = _neuron(recipe.neuron)
        if recipe.arch not in _FAMILIES:
            return models.create(
                recipe.arch,
                recipe.num_classes,
                width=recipe.width,
                neuron=neuron,
                activation=recipe.activation,
                dtype=dtype,
                norm=recipe.norm,
                norm_timesteps=recipe.norm_timesteps,
            )
        network: nn.Module = _FAMILIES[recipe.arch](
            num_classes=recipe.num_classes,
            neuron=neuron,
            activation=recipe.activation,
            dtype=dtype,
            norm=recipe.norm,
            norm_timesteps=recipe.norm_timesteps,
            **{name: _tuples(value) for name, value in recipe.options.items()},
        )
    except InputError:
        raise
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise InputError("`arch`", recipe.arch, problem=f"a recipe of no network: {error}") from error
    return network


def _neuron(constants: dict[str, Any]) -> LIF:
    name = constants.get("surrogate")
    if name not in _SURROGATES:
        raise not_one_of("surrogate", name, _SURROGATES)
    numbers = {key: value for key, value in constants.items() if key in _CONSTANTS}
    for key, value in numbers.items():
        if not (isinstance(value, bool | int | float) or (key == "v_reset" and value is None)):
            raise TypeError(f"{key} must be a number")
    if unknown := constants.keys() - {*_CONSTANTS, "surrogate", "surrogate_scale", "learned"}:
        raise TypeError(f"unknown constants of a neuron: {', '.join(sorted(map(str, unknown)))}")
    kind = PLIF if constants.get("learned") is True else LIF
    return kind(**numbers, spike=getattr(surrogate, name)(constants["surrogate_scale"]))


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples of a module, at any depth."""
    if isinstance(value, list | tuple):
        return tuple(map(_tuples, value))
    return value.item() if isinstance(value, np.generic) else value
