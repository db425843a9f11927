"""Several devices: a mesh of one axis "batch", and a function of one device run on all of it.

The function has its whole arguments on every device, or a part of those that are too large. It takes its part
of a batch by `jax.lax.axis_index(AXIS)`, and averages or sums over the axis, so that its result is the same
on every device.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

PyTree = Any

__all__ = ["AXIS", "HOW", "Compiled", "Devices", "How", "abstract", "compiled", "replicate", "shard"]

AXIS = "batch"
How = Literal["shard_map", "pmap"]
HOW: tuple[How, ...] = get_args(How)


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a computation.

    Attributes:
      mesh: mesh of the devices, with one axis.
      how: "shard_map", or "pmap", which gives the same numbers.
    """

    mesh: Mesh
    how: str = "shard_map"

    @classmethod
    def of(cls, devices: Sequence[jax.Device], how: str = "shard_map") -> "Devices | None":
        """A mesh of devices, in the same order on all hosts; None for a single device."""
        return cls(Mesh(devices, (AXIS,)), how) if len(devices) > 1 else None

    @property
    def count(self) -> int:
        """Number of devices."""
        return self.mesh.size


def replicate(tree: PyTree, devices: Devices | None) -> PyTree:
    """The whole tree on each of the devices; several hosts must pass the same tree."""
    return _on(tree, devices, PartitionSpec())


def shard(x: PyTree, devices: Devices | None) -> PyTree:
    """An array with its rows divided among the devices; rows of zeros make them even."""
    if devices is None:
        return replicate(x, devices)
    missing = -len(x) % devices.count
    return _on(np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)), devices, PartitionSpec(AXIS))


def _on(tree: PyTree, devices: Devices | None, spec: PartitionSpec) -> PyTree:
    target = NamedSharding(devices.mesh, spec) if devices else None
    if target is None or target.is_fully_addressable:
        return jax.device_put(tree, target)
    return jax.jit(_identity, out_shardings=target)(tree)  # device_put takes no keys to other hosts


def _identity(tree: PyTree) -> PyTree:
    return tree


def abstract(tree: PyTree, devices: Devices | None) -> PyTree:
    """Shapes in place of arrays, with their shardings; without one, whole on each of the devices.

    They also compile programs for absent devices (`jax.experimental.topologies`).
    """
    replicated = NamedSharding(devices.mesh, PartitionSpec()) if devices else None

    def struct(x: Any) -> jax.ShapeDtypeStruct:
        given = getattr(x, "sharding", None)
        placement = given if isinstance(given, NamedSharding) else replicated
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement)

    return jax.tree.map(struct, tree)


class Compiled(NamedTuple):
    """A compiled function.

    Attributes:
      call: the function.
      memory: bytes of each device's memory that it takes while it runs; None if the backend does not say.
    """

    call: Callable[..., PyTree]
    memory: int | None


def compiled(
    function: Callable[..., PyTree], arguments: Sequence[PyTree], devices: Devices | None, donate: int = 0
) -> Compiled:
    """Compile a function for arguments of these shapes and shardings.

    Args:
      function: function of one device; with several it is mapped over `AXIS`, and has of a `shard` argument
        the part of its device.
      arguments: arrays or `abstract` ones; those without a sharding are whole on each device.
      devices: None for one.
      donate: number of the first arguments that are donated.
    """
    donated, arguments = tuple(range(donate)), abstract(tuple(arguments), devices)
    if devices is None:
        with _on_mesh_of(arguments):
            return _compiled(jax.jit(function, donate_argnums=donated).lower(*arguments))
    if devices.how == "pmap":
        # pmap needs a mapped argument
        in_axes = (0, *(None for _ in arguments))
        mapped = jax.pmap(
            lambda _, *rest: function(*rest),
            AXIS,
            in_axes=in_axes,
            out_axes=None,
            devices=tuple(devices.mesh.devices.flat),
        )
        index = jnp.arange(devices.count)
        memory = _compiled(mapped.lower(index, *arguments)).memory
        return Compiled(functools.partial(mapped, index), memory)
    specs = jax.tree.map(lambda x: x.sharding.spec, arguments)
    # with check_vma the gradients of replicated parameters would arrive summed already
    mapped = jax.shard_map(
        function, mesh=devices.mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
    )
    return _compiled(jax.jit(mapped, donate_argnums=donated).lower(*arguments))


def _on_mesh_of(arguments: PyTree) -> contextlib.AbstractContextManager[Any]:
    """Give programs traced here the platform of an absent device, for which only the arguments stand."""
    for x in jax.tree.leaves(arguments):
        if isinstance(x.sharding, NamedSharding):
            return jax.sharding.use_abstract_mesh(x.sharding.mesh.abstract_mesh)
    return contextlib.nullcontext()


def _compiled(lowered: jax.stages.Lowered) -> Compiled:
    program = lowered.compile()
    sizes = program.memory_analysis()
    if sizes is None:
        return Compiled(program, None)
    own = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return Compiled(program, own + sizes.temp_size_in_bytes)
