"""A user's own network: a function `(num_classes, **options)`, named `module:function`, that returns one.

The network is a Flax linen module that is called like those of this package:
`module.apply(variables, x, num_timesteps=T, train=...)` with images `x` [B, H, W, C] returns logits
[T, B, num_classes], and its parameters do not depend on T. Its fields `activation`, `dtype` and `axis_name`,
if it has them, mean what they mean in `VGG`.
"""

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from snnlth_jax import _imported, masks
from snnlth_jax.errors import InputError, not_one_of, one_line

__all__ = ["build", "check", "cloned", "is_own", "options_of"]

CONTRACT = "module.apply(variables, x, num_timesteps=T, train=...) -> logits [T, B, num_classes]"
is_own = _imported.is_name


def options_of(texts: Sequence[str]) -> dict[str, Any]:
    """The options of a network from texts `name=value`; a value is a Python literal, or else a text.

    Raises:
      InputError: a text of another form, or a name twice.

    >>> options_of(["depth=3", "pool=mean", "batch_norm=True"])
    {'depth': 3, 'pool': 'mean', 'batch_norm': True}
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise InputError("`arch_option`", text, allowed="name=value")
        if name in options:
            raise InputError("`arch_option`", text, allowed="each name once")
        try:
            options[name] = _plain(ast.literal_eval(value))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            options[name] = value
    return options


def _plain(value: Any) -> Any:
    """A value that JSON can hold, tuples included; ValueError for others."""
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(one) for key, one in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"a {type(value).__name__}")


def build(name: str, num_classes: int, options: Mapping[str, Any], dtype: Any = None) -> nn.Module:
    """The network that a function returns.

    Args:
      name: `module:function`.
      num_classes: number of logits.
      options: further arguments of the function, by name.
      dtype: of the computation; None leaves the module as it is.

    Raises:
      InputError: no such function, it failed, what it returned is no Flax linen module, or one that has no
        field `dtype` where one is given.
    """
    _check_options(name, options)
    module = _imported.call("`arch`", name, num_classes, **options)
    if not isinstance(module, nn.Module):
        returned = f"the function returned a {type(module).__name__}"
        raise InputError("`arch`", name, problem=returned, allowed="a flax.linen.Module")
    if dtype is None:
        return module
    if not hasattr(module, "dtype"):
        raise InputError("`dtype`", dtype, allowed=f"float32, with {name}, which has no field dtype")
    return module.clone(dtype=dtype)


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the function does not name, if it says which it takes."""
    try:
        taken = inspect.signature(_imported.function("`arch`", name)).parameters.values()
    except (TypeError, ValueError):  # it does not say
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken):
        return
    more = [*taken][1:]  # without the number of classes
    named = [one.name for one in more if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    others = [one for one in named if one not in ("parent", "name")]
    for option in options:
        if not others:
            raise InputError("`arch_option`", option, allowed=f"none, with {name}")
        if option not in named:
            raise not_one_of("`arch_option`", option, others)


def cloned(module: nn.Module, **fields: Any) -> nn.Module:
    """The module with other values of these fields, of those that it has.

    >>> cloned(nn.Dense(3), features=4, axis_name="batch").features
    4
    """
    return module.clone(**{name: value for name, value in fields.items() if hasattr(module, name)})


def check(
    name: str, module: nn.Module, num_classes: int, inputs: Callable[[int], Any], num_timesteps: int
) -> None:
    """Check that a network can be searched; nothing is computed.

    Args:
      name: its name, for messages.
      module: the network.
      num_classes: number of logits that it must have.
      inputs: function from a number of timesteps to the input, or its `jax.ShapeDtypeStruct`.
      num_timesteps: T.

    Raises:
      InputError: a call failed, other logits than [T, B, num_classes], other variables than parameters and
        batch statistics, parameters that depend on T, or no prunable ones.
    """
    key = jax.eval_shape(jax.random.key, 0)
    try:
        hash(module)
    except TypeError as error:
        fields = "fields that are numbers, texts and tuples"
        raise InputError("`arch`", name, problem="has fields without a hash", allowed=fields) from error

    def shapes(function: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return jax.eval_shape(partial(function, **kwargs), *args)
        except Exception as error:  # the user's code raises what it likes
            problem = f"a call failed, {one_line(error)}"
            raise InputError("`arch`", name, problem=problem, allowed=CONTRACT) from error

    def refuse(problem: str, allowed: str) -> None:
        raise InputError("`arch`", name, problem=problem, allowed=allowed)

    variables, images = shapes(module.init, key, inputs(1), num_timesteps=1), inputs(num_timesteps)
    if others := sorted(set(variables) - {"params", "batch_stats", "intermediates"}):
        refuse(f"has variables {', '.join(others)}", "params and batch_stats")
    variables = {k: v for k, v in variables.items() if k != "intermediates"}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            refuse(f"its {masks.trees.name_of(path)} is {leaf.dtype}", "floating-point numbers")
    later = shapes(module.init, key, images, num_timesteps=num_timesteps)
    if variables != {kind: later.get(kind) for kind in variables}:
        refuse("its parameters depend on num_timesteps", "the same for all")
    for train in (False, True):
        call = partial(module.apply, mutable=["batch_stats"] if train else False, train=train)
        logits = shapes(call, variables, images, num_timesteps=num_timesteps)
        logits = logits[0] if train else logits
        wanted = (num_timesteps, images.shape[-4], num_classes)
        shape = getattr(logits, "shape", None)
        if shape != wanted or not jnp.issubdtype(logits.dtype, jnp.floating):
            given = f"of shape {shape}" if shape else f"a {type(logits).__name__}"
            refuse(f"its logits are {given}", f"floating-point numbers [T, B, classes], here {wanted}")
    if not jax.tree.leaves(masks.make(variables.get("params", {}))):
        refuse("has no prunable parameters", "kernels of two axes or more, see masks.explain")
