"""Several devices: a mesh of one axis "batch", and a function of one device run on all of it.

Such a function is given the whole of its arguments on every device, takes its part of a batch by
`jax.lax.axis_index(AXIS)`, and averages or sums over the axis, so that its result is the same everywhere.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

PyTree = Any

__all__ = ["AXIS", "HOW", "Devices", "compiled", "placed"]

AXIS = "batch"
HOW = ("shard_map", "pmap")


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a computation is spread over.

    Attributes:
      mesh: of the devices, with one axis.
      how: "shard_map", or "pmap", which gives the same numbers.
    """

    mesh: Mesh
    how: str = "shard_map"

    @classmethod
    def of(cls, devices: Sequence[jax.Device], how: str = "shard_map") -> "Devices | None":
        """None for a single device, which needs no mesh; the same ones in the same order on all hosts."""
        return cls(Mesh(devices, (AXIS,)), how) if len(devices) > 1 else None

    @property
    def count(self) -> int:
        """How many."""
        return self.mesh.size


def placed(tree: PyTree, devices: Devices | None) -> PyTree:
    """The whole tree on each of the devices; of several hosts, each must bring the same."""
    where = NamedSharding(devices.mesh, PartitionSpec()) if devices else None
    if where is None or where.is_fully_addressable:
        return jax.device_put(tree, where)
    return jax.jit(_same, out_shardings=where)(tree)  # device_put takes no keys to other hosts


def _same(tree: PyTree) -> PyTree:
    return tree


def compiled(
    function: Callable[..., PyTree], arguments: Sequence[PyTree], devices: Devices | None, donate: int = 0
) -> Callable[..., PyTree]:
    """Compile a function for arguments of these shapes.

    Args:
      function: of one device; with several it is mapped over `AXIS`.
      arguments: whole, on each device; see `placed`.
      devices: None for one.
      donate: so many of the first arguments are consumed.
    """
    consumed = tuple(range(donate))
    if devices is None:
        return jax.jit(function, donate_argnums=consumed).lower(*arguments).compile()
    if devices.how == "pmap":
        over = tuple(devices.mesh.devices.flat)
        # pmap wants an argument that is mapped
        in_axes = (0, *(None for _ in arguments))
        mapped = jax.pmap(
            lambda _, *rest: function(*rest), AXIS, in_axes=in_axes, out_axes=None, devices=over
        )
        index = jnp.arange(devices.count)
        mapped.lower(index, *arguments).compile()
        return functools.partial(mapped, index)
    everywhere = PartitionSpec()
    # check_vma=False: or the gradients of replicated parameters would arrive summed already
    mapped = jax.shard_map(
        function, mesh=devices.mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
    )
    return jax.jit(mapped, donate_argnums=consumed).lower(*arguments).compile()
