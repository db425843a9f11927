"""`snnlth ticket …`: ticket files looked at, compared, combined, verified, and made of files of others."""

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Annotated

import tyro

from snnlth_jax import files
from snnlth_jax.commands import output
from snnlth_jax.errors import InputError

if TYPE_CHECKING:
    from snnlth_jax import tickets

__all__ = ["Combine", "Diff", "Import", "Inspect", "Transplant", "Verify"]


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Verify a ticket or network file; print its kind, its provenance and its sparsity by layer."""

    path: tyro.conf.Positional[str]
    """File: tickets/round_NN.safetensors or networks/NAME.safetensors in the directory of a run."""

    def run(self) -> None:
        """Print it."""
        from snnlth_jax import networks, tickets
        from snnlth_jax.tickets import container

        if container.kind(self.path) == "network":
            text = networks.summary(networks.load(self.path))
            output.show(f"kind: network, its weights are trained\n{text}")
        else:
            text = tickets.describe(tickets.load(self.path))
            output.show(f"kind: ticket, its weights are those before training\n{text}")


@dataclasses.dataclass(frozen=True)
class Diff:
    """Compare the masks of two tickets of one network: distance, overlap, significance against chance."""

    first: tyro.conf.Positional[str]
    """Ticket or network file."""
    second: tyro.conf.Positional[str]
    """Ticket or network file of the same network."""

    def run(self) -> None:
        """Print a table, a line per layer."""
        from snnlth_jax.tickets import comparing

        first, second = _either(self.first), _either(self.second)
        comparing.check_same_network((self.first, self.second), first, second)
        output.show(f"first: {self.first}\nsecond: {self.second}\n")
        output.show(comparing.describe(comparing.overlaps(first.masks, second.masks)))


@dataclasses.dataclass(frozen=True)
class _Writing:
    output: str = dataclasses.field(kw_only=True)
    """Ticket file to write."""
    overwrite: bool = dataclasses.field(default=False, kw_only=True)
    """Replace the output if it is there already."""


@dataclasses.dataclass(frozen=True)
class Combine(_Writing):
    """Write the ticket of the weights that both tickets keep (--and), or one of them (--or).

    Weights and batch statistics are those of the first.
    """

    first: tyro.conf.Positional[str]
    """Ticket file."""
    second: tyro.conf.Positional[str]
    """Ticket file of the same network."""
    and_: Annotated[bool, tyro.conf.arg(name="and")] = False
    """Keep the weights that both keep."""
    or_: Annotated[bool, tyro.conf.arg(name="or")] = False
    """Keep the weights that one of the two keeps."""

    def run(self) -> None:
        """Write the file, and print what it holds."""
        from snnlth_jax import tickets
        from snnlth_jax.tickets import combining, comparing

        if self.and_ == self.or_:
            problem = "both are given" if self.and_ else "neither is given"
            raise InputError("`and`, `or`", problem=problem, allowed="one of the two")
        output.check(self.output, self.overwrite)
        first, second = tickets.load(self.first), tickets.load(self.second)
        comparing.check_same_network((self.first, self.second), first, second)
        sources = _source(self.first), _source(self.second)
        _write(self.output, combining.combine(first, second, "and" if self.and_ else "or", sources))


@dataclasses.dataclass(frozen=True)
class Transplant(_Writing):
    """Write the ticket with the masks of one ticket, and the weights and batch statistics of another."""

    masks_of: tyro.conf.Positional[str]
    """Ticket file that gives the masks."""
    weights_of: tyro.conf.Positional[str]
    """Ticket file of the same network that gives weights and batch statistics."""

    def run(self) -> None:
        """Write the file, and print what it holds."""
        from snnlth_jax import tickets
        from snnlth_jax.tickets import combining, comparing

        output.check(self.output, self.overwrite)
        masks_of, weights_of = tickets.load(self.masks_of), tickets.load(self.weights_of)
        comparing.check_same_network((self.masks_of, self.weights_of), masks_of, weights_of)
        sources = _source(self.masks_of), _source(self.weights_of)
        _write(self.output, combining.transplant(masks_of, weights_of, sources))


@dataclasses.dataclass(frozen=True)
class Verify:
    """Verify the checksum of a ticket or network file, and that a parent keeps all that it keeps."""

    path: tyro.conf.Positional[str]
    """Ticket or network file."""
    parent: str | None = None
    """Ticket or network file of the same network, whose masks are to contain those of the ticket."""

    def run(self) -> None:
        """Print that all is well, or raise an InputError."""
        from snnlth_jax import masks
        from snnlth_jax.tickets import comparing

        ticket = _either(self.path)
        kept, total = masks.count(ticket.masks)
        lines = [f"{self.path}: the checksum matches; {kept:,} of {total:,} weights are kept"]
        if self.parent is not None:
            parent = _either(self.parent)
            comparing.check_same_network((self.path, self.parent), ticket, parent)
            if extra := comparing.outside(ticket.masks, parent.masks):
                listed = ", ".join(f"{name} {number:,}" for name, number in extra.items())
                problem = f"not nested in {self.parent}, which removes {sum(extra.values()):,} of its weights"
                raise InputError(f"{self.path}: {problem} ({listed})")
            kept_there, _ = masks.count(parent.masks)
            lines.append(f"nested in {self.parent}, which keeps {kept_there:,}")
        output.show("\n".join(lines))


@dataclasses.dataclass(frozen=True)
class Import(_Writing):
    """Write the ticket of masks or weights of other programs. Nothing in their files runs.

    A file may be: a pickle of masks of the authors' code; masks by name of open_lth; a state dict, also one
    in a checkpoint, of torch.nn.utils.prune or with removed weights that are 0.
    """

    path: tyro.conf.Positional[str]
    """Pickle, or file of torch.save."""
    arch: str | None = None
    """Network, see `snnlth imp`. Default: that whose weights have the shapes in the file."""
    num_classes: int | None = None
    """Number of classes. Default: that of the file's last layer."""
    image_shape: tuple[int, ...] = ()
    """Height, width and channels of images. Default: 32,32 and the channels of the file's first layer."""
    width: float = 1.0
    """Factor on the number of channels of every layer."""
    weights: str | None = None
    """File with a state dict of the weights to rewind to, for masks alone. Default: initial weights."""
    seed: int = 0
    """Seed of the initial weights, those of a search with this seed, for masks alone without --weights."""

    def run(self) -> None:
        """Write the file, and print what it holds."""
        from snnlth_jax.interop import imported, torch_files

        output.check(self.output, self.overwrite, self.path, self.weights)
        if self.image_shape and (len(self.image_shape) != 3 or min(self.image_shape) < 1):
            given = ",".join(map(str, self.image_shape))
            raise InputError("`image_shape`", given, allowed="height, width and channels, 1 or more")
        if not 0 <= self.seed < 2**32:
            raise InputError("`seed`", self.seed, allowed="0 to 2^32 - 1")
        if self.seed and self.weights is not None:
            raise InputError("`seed`", self.seed, allowed="without `weights`, which take its place")
        source = imported.content(self.path, torch_files.load(self.path))
        num_classes, channels = imported.ends(self.path, source)
        num_classes = num_classes if self.num_classes is None else self.num_classes
        height, wide, channels = self.image_shape or (32, 32, channels)
        shape = imported.Shape(num_classes, (height, wide, channels), self.width)
        arch = self.arch or imported.arch_of(self.path, source, shape)
        weights = None
        if self.weights is not None:
            weights = self.weights, imported.content(self.weights, torch_files.load(self.weights))
        made = imported.ticket(self.path, source, arch, shape, weights, self.seed)
        made_of = {"masks": _source(self.path)}
        made_of |= {} if self.weights is None else {"weights": _source(self.weights)}
        _write(self.output, made._replace(provenance={**made.provenance, "made_of": made_of}))


def _either(path: str) -> "tickets.Ticket":
    """A ticket, or a network as one."""
    from snnlth_jax import networks, tickets
    from snnlth_jax.tickets import container

    if container.kind(path) == "ticket":
        return tickets.load(path)
    network = networks.load(path)
    return tickets.Ticket(network.masks, network.params, network.batch_stats, network.provenance)


def _source(path: str) -> dict[str, str]:
    """A ticket file as the provenance of another names it."""
    return {"file": path, "sha256": hashlib.sha256(files.read(path, "ticket file")).hexdigest()}


def _write(path: str, ticket: "tickets.Ticket") -> None:
    from snnlth_jax import masks, tickets

    with output.refusing(path):
        tickets.save(path, ticket)
    kept, total = masks.count(ticket.masks)
    output.show(f"{path}: {kept:,} of {total:,} weights are kept")
