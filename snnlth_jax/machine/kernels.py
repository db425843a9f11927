"""Kernels of a step in a compiled program's text: bytes and FLOPs of each, class, time at given rates."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, get_args

from snnlth_jax.machine import hlo

__all__ = ["KINDS", "Budget", "Kernel", "Kind", "budget", "kernels_of_step"]

Kind = Literal["convolution", "norm and fire", "optimiser and masks", "data", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# instructions that move nothing: names of parts, views, the second half of a pair
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "opt-barrier",
    "domain",
    "partition-id",
    "replica-id",
    "add-dependency",
    "copy-done",
    "slice-done",
    "async-done",
    "async-update",
    "send-done",
    "recv-done",
    "all-reduce-done",
    "all-gather-done",
    "collective-permute-done",
}
_CONTAINERS = ("while", "conditional", "call", "async-start")
_VIEWS = ("bitcast", "reshape", "transpose", "copy", "convert")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel that a step starts.

    Attributes:
      name: name of its instruction.
      kind: its class.
      read: bytes of its operands that it reads.
      written: bytes of its results.
      flops: FLOPs of its products of matrices.
      count: number of times that a step starts it.
      source: where it comes from in the traced function.
    """

    name: str
    kind: Kind
    read: float
    written: float
    flops: float
    count: int
    source: str

    @property
    def bytes(self) -> float:
        """Bytes of all its starts in a step."""
        return self.count * (self.read + self.written)


@dataclasses.dataclass(frozen=True)
class Budget:
    """Kernels of a step, summed.

    Attributes:
      counts: number of kernels that a step starts, by class.
      small: number of those that move less than a million bytes.
      bytes: bytes moved, by class.
      flops: FLOPs of products of matrices.
      seconds: sum over the kernels of the longer of two times: bytes at the memory's rate, FLOPs at the peak.
    """

    counts: Mapping[Kind, int]
    small: int
    bytes: Mapping[Kind, float]
    flops: float
    seconds: float

    @property
    def kernels(self) -> int:
        """Number of kernels that a step starts."""
        return sum(self.counts.values())

    @property
    def bytes_outside(self) -> float:
        """Bytes moved outside of convolutions."""
        return sum(size for kind, size in self.bytes.items() if kind != "convolution")


def budget(kernels: Iterable[Kernel], *, flops_per_second: float, bandwidth: float) -> Budget:
    """Sums over the kernels of a step.

    Args:
      kernels: see `kernels_of_step`.
      flops_per_second: rate of products of matrices.
      bandwidth: bytes per second of the memory.
    """
    kernels = list(kernels)
    counts: dict[Kind, int] = dict.fromkeys(KINDS, 0)
    sizes: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)
    for kernel in kernels:
        counts[kernel.kind] += kernel.count
        sizes[kernel.kind] += kernel.bytes
    times = (max(k.bytes / bandwidth, k.count * k.flops / flops_per_second) for k in kernels)
    return Budget(
        counts=counts,
        small=sum(kernel.count for kernel in kernels if kernel.read + kernel.written < 1e6),
        bytes=sizes,
        flops=sum(kernel.count * kernel.flops for kernel in kernels),
        seconds=math.fsum(times),
    )


def kernels_of_step(text: str) -> list[Kernel]:
    """Kernels of one iteration of the program's main loop, the one whose body moves most.

    A loop inside of it counts as often as it is known to run, a branch as the one that moves most. Of each
    operand the bytes count that are read, not those of the whole array: a slice of it, or rows of it. An
    operand of which several parts of a joined result read the same slice counts each time. Arrays in the
    vector memory of a TPU count nothing.

    Args:
      text: `compiled.as_text()`.

    Raises:
      ValueError: the program has no loop.
    """
    program = hlo.parse(text)
    entry = next(computation for computation in program.values() if computation.is_entry)
    bodies = [
        list(_kernels(program, program[body], 1))
        for loop in _reachable(program, entry)
        for body in loop.called_by("body")
    ]
    if not bodies:
        raise ValueError("the program has no loop of steps")
    return max(bodies, key=_moved)


def _moved(kernels: Iterable[Kernel]) -> float:
    return sum(kernel.bytes for kernel in kernels)


def _reachable(
    program: Mapping[str, hlo.Computation], computation: hlo.Computation
) -> Iterator[hlo.Instruction]:
    """Loops of a computation, also in what it calls, not inside of other loops."""
    for instruction in computation:
        if instruction.opcode == "while":
            yield instruction
        elif instruction.opcode in _CONTAINERS:
            for _, name in instruction.called:
                yield from _reachable(program, program[name])


def _kernels(
    program: Mapping[str, hlo.Computation], computation: hlo.Computation, count: int
) -> Iterator[Kernel]:
    for instruction in computation:
        if instruction.opcode in _FREE:
            continue
        if instruction.opcode == "while":
            (body,) = instruction.called_by("body")
            yield from _kernels(program, program[body], count * instruction.trip_count)
        elif instruction.opcode in _CONTAINERS:
            branches = (list(_kernels(program, program[name], count)) for _, name in instruction.called)
            yield from max(branches, key=_moved)
        elif instruction.opcode == "custom-call" and instruction.target in ("AllocateBuffer", "Sharding"):
            continue
        else:
            yield _kernel(program, computation, instruction, count)


def _kernel(
    program: Mapping[str, hlo.Computation],
    computation: hlo.Computation,
    instruction: hlo.Instruction,
    count: int,
) -> Kernel:
    operands = [computation[name] for name in instruction.operands]
    inner = [program[name] for name in instruction.called_by("calls")]
    fused = inner[0] if instruction.opcode == "fusion" and inner else None
    flops = _flops(instruction, operands)
    if fused is not None:
        read, written = _fusion_traffic(operands, fused)
        for step in fused:
            flops += _flops(step, [fused[name] for name in step.operands])
    else:
        read, written = _traffic(instruction, operands)
    source = _source(instruction, fused)
    return Kernel(instruction.name, _kind(flops, source), read, written, flops, count, source)


# --- bytes


def _shared(shapes: Iterable[hlo.Shape]) -> float:
    return sum(shape.bytes for shape in shapes if not shape.on_chip)


def _traffic(instruction: hlo.Instruction, operands: list[hlo.Instruction]) -> tuple[float, float]:
    """Bytes read and written by an instruction that is no fusion."""
    written = _shared(instruction.shapes)
    if instruction.opcode == "custom-call":  # the last result of cuDNN and cuBLAS is their work space
        scratch = instruction.shapes[-1:] if instruction.target.startswith("__cu") else ()
        written -= _shared(shape for shape in scratch if shape.dtype in ("u8", "s8"))
    if instruction.opcode == "copy-start":  # the result has the operand once more
        written = _shared(instruction.shapes[1:2] or instruction.shapes)
    if instruction.opcode == "slice-start":  # so has this one, of which only the slice is read
        source, part = instruction.shapes[:2]
        return 0.0 if source.on_chip else part.bytes, _shared([part])
    if instruction.opcode == "dynamic-update-slice":
        return (update := _shared(operands[1].shapes)), update
    if instruction.opcode in ("slice", "dynamic-slice", "gather"):
        return written + sum(_shared(operand.shapes) for operand in operands[1:]), written
    return sum(_shared(operand.shapes) for operand in operands), written


def _fusion_traffic(operands: list[hlo.Instruction], fused: hlo.Computation) -> tuple[float, float]:
    """Bytes read and written by a fusion: each element of an operand once for each way that leads to it."""
    needs = _needs(fused)
    read = 0.0
    for step in fused:
        if step.opcode != "parameter":
            continue
        shapes = operands[step.number].shapes
        elements = sum(min(count, step.elements) for count in needs.get(step.name, {}).values())
        if shapes and not shapes[0].on_chip:
            read += elements * shapes[0].item_bytes
    root = fused[fused.root]
    results = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
    written = 0.0
    for result in results:
        inner = result
        while inner.opcode in _VIEWS and inner.operands:
            inner = fused[inner.operands[0]]
        if inner.opcode == "dynamic-update-slice":  # in place
            written += fused[inner.operands[1]].bytes
        else:
            written += _shared(result.shapes)
    return read, written


_Way = tuple[str, ...]


def _needs(fused: hlo.Computation) -> dict[str, dict[_Way, int]]:
    """Elements that a fusion evaluates of each of its instructions, by the way from the result to it.

    A way consists of the slices and the parts of joined arrays that are passed; along one way an element is
    evaluated once, whatever uses it.
    """
    needs: dict[str, dict[_Way, int]] = collections.defaultdict(dict)

    def need(name: str, way: _Way, elements: int) -> None:
        needs[name][way] = max(elements, needs[name].get(way, 0))

    need(fused.root, (), fused[fused.root].elements)
    for step in reversed(list(fused)):  # users come before what they use
        for way, elements in list(needs[step.name].items()):
            whole = max(step.elements, 1)
            for position, name in enumerate(step.operands):
                operand = fused[name]
                onward, size = way, min(elements, operand.elements)
                if step.opcode in ("slice", "dynamic-slice", "gather") and position == 0:
                    onward, size = (*way, _place(step)), elements
                elif step.opcode == "concatenate":
                    onward, size = (*way, f"{step.name}:{position}"), operand.elements * elements // whole
                elif step.opcode == "dynamic-update-slice" and position == 0:
                    updated = fused[step.operands[1]].elements
                    size = 0 if _in_place(fused, step) else max(elements - updated, 0)
                elif step.opcode in ("reduce", "reduce-window", "dot", "convolution", "tuple"):
                    size = operand.elements
                need(name, onward, size)
    return needs


def _place(step: hlo.Instruction) -> str:
    """Key that tells one slice of an array from another."""
    bounds = re.search(r"slice=\{[^}]*\}", step.attributes)
    return bounds[0] if bounds else ",".join(step.operands[1:]) or step.name


def _in_place(fused: hlo.Computation, step: hlo.Instruction) -> bool:
    operand = fused[step.operands[0]]
    while operand.opcode in _VIEWS and operand.operands:
        operand = fused[operand.operands[0]]
    return operand.opcode == "parameter"


# --- FLOPs


def _flops(instruction: hlo.Instruction, operands: list[hlo.Instruction]) -> float:
    """FLOPs of a product of matrices or a convolution, two for each multiply-accumulate; 0 for others."""
    library = instruction.target
    if instruction.opcode == "convolution" or library.startswith("__cudnn$conv"):
        return _convolution_flops(instruction, operands)
    if instruction.opcode == "dot" or library.startswith("__cublas"):
        left, right = operands[0], operands[1]
        batch = math.prod(_sizes(left, _numbers("lhs_batch_dims", instruction.attributes)))
        sizes = (left.elements, right.elements, instruction.shapes[0].elements)
        return 2 * math.sqrt(math.prod(size / batch for size in sizes)) * batch
    return 0.0


def _convolution_flops(instruction: hlo.Instruction, operands: list[hlo.Instruction]) -> float:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if labels is None:
        return 0.0
    left, right, result = operands[0].shapes[0], operands[1].shapes[0], instruction.shapes[0]
    images, kernel = result, right  # multiply-accumulates: elements of the output x kernel of each
    if instruction.target.endswith("BackwardInput"):
        images = left
    elif instruction.target.endswith("BackwardFilter"):
        images, kernel = right, result
    dilated = re.search(r"lhs_dilate=([\dx]+)", instruction.attributes)
    dilation = math.prod(int(number) for number in dilated[1].split("x")) if dilated else 1
    return 2 * images.elements * kernel.elements / kernel.dims[labels[2].index("o")] / dilation


def _numbers(name: str, attributes: str) -> list[int]:
    matched = re.search(rf"{name}=\{{([\d,]*)\}}", attributes)
    return [int(number) for number in matched[1].split(",") if number] if matched else []


def _sizes(operand: hlo.Instruction, axes: list[int]) -> list[int]:
    return [operand.shapes[0].dims[axis] for axis in axes]


# --- classes


def _source(instruction: hlo.Instruction, fused: hlo.Computation | None) -> str:
    """Where a kernel comes from: as it says, or as most of the instructions fused in it say."""
    if instruction.source or fused is None:
        return instruction.source
    sources = collections.Counter(step.source for step in fused if step.source)
    return sources.most_common(1)[0][0] if sources else ""


def _kind(flops: float, source: str) -> Kind:
    if flops:
        return "convolution"
    if "/optimiser/" in source:
        return "optimiser and masks"
    if "/data/" in source:
        return "data"
    if re.search(r"jvp\(\w+\)", source):
        return "norm and fire"
    return "other"
