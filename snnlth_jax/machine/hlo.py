"""Text of a compiled program (XLA's HLO), read as computations of instructions."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

__all__ = ["Computation", "Instruction", "Shape", "parse"]

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "token": 0, "opaque": 0, "c64": 8, "c128": 16}
_SHAPE = re.compile(r"([a-z][a-z0-9]*)\[([\d,<=]*)\](\{[^}]*\})?")
_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation|branch_computations|"
    r"called_computations)=(?:\{([^}]*)\}|%?([\w.\-]+))"
)


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array of a program; one `on_chip`, in a TPU's vector memory, costs no traffic of the main memory."""

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool = False

    @property
    def elements(self) -> int:
        """Number of its elements."""
        return math.prod(self.dims)

    @property
    def item_bytes(self) -> float:
        """Bytes of an element."""
        digits = re.search(r"\d+", self.dtype)
        return _BYTES.get(self.dtype, int(digits[0]) / 8 if digits else 1)

    @property
    def bytes(self) -> float:
        """Bytes of the array, without the padding of its layout."""
        return self.elements * self.item_bytes


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction.

    Attributes:
      name: name of its result.
      opcode: `fusion`, `custom-call`, `add` and so on.
      shapes: arrays of its result: one, or those of a tuple.
      operands: names of its operands, of the same computation.
      called: computations that it calls, with the word before each: `calls`, `to_apply`, `body`, ...
      source: `op_name` of its metadata: where it comes from in the traced function; empty if it does not say.
      attributes: text after the operands.
      number: number of a parameter, -1 for others.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    called: tuple[tuple[str, str], ...]
    source: str
    attributes: str
    number: int = -1

    def called_by(self, *words: str) -> list[str]:
        """Computations that it calls by one of these words."""
        return [name for word, name in self.called if word in words]

    @property
    def bytes(self) -> float:
        """Bytes of its result."""
        return sum(shape.bytes for shape in self.shapes)

    @property
    def elements(self) -> int:
        """Number of elements of its result."""
        return sum(shape.elements for shape in self.shapes)

    @property
    def target(self) -> str:
        """Function of a custom call; empty for others."""
        matched = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return matched[1] if matched else ""

    @property
    def trip_count(self) -> int:
        """Number of iterations of a loop, 1 if the text does not say."""
        matched = re.search(r'known_trip_count":\{"n":"(\d+)"', self.attributes)
        return int(matched[1]) if matched else 1


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in order, and which one is the result."""

    name: str
    instructions: Mapping[str, Instruction]
    root: str
    is_entry: bool

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    def __getitem__(self, name: str) -> Instruction:
        return self.instructions[name]


def parse(text: str) -> dict[str, Computation]:
    """Computations of a program by name, in the order of the text.

    Args:
      text: `compiled.as_text()`, or a part of it that holds whole computations.

    >>> text = '''
    ... ENTRY %main (x: f32[2,3]) -> f32[3] {
    ...   %x = f32[2,3]{1,0} parameter(0)
    ...   ROOT %y = f32[3]{0} fusion(%x), kind=kLoop, calls=%sum, metadata={op_name="jit(f)/reduce_sum"}
    ... }'''
    >>> main = parse(text)["main"]
    >>> main["y"].operands, main["y"].bytes, main["y"].called_by("calls"), main["y"].source
    (('x',), 12.0, ['sum'], 'jit(f)/reduce_sum')
    """
    computations: dict[str, Computation] = {}
    name, is_entry, root, instructions = "", False, "", dict[str, Instruction]()
    for line in text.splitlines():
        if not line.startswith(" ") and (head := _HEAD.match(line)):
            is_entry, name, root, instructions = bool(head[1]), head[2], "", {}
        elif line.startswith("}") and name:
            computations[name] = Computation(name, instructions, root, is_entry)
            name = ""
        elif name and (matched := _LINE.match(line)):
            instruction = _instruction(matched[2], re.sub(r"/\*.*?\*/", "", matched[3]))
            instructions[matched[2]] = instruction
            root = matched[2] if matched[1] else root
    return computations


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    result, rest = text[:end], text[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    close = _closing(rest, len(opcode))
    inside, attributes = rest[len(opcode) + 1 : close], rest[close + 1 :]
    operands = tuple(_operands(inside)) if opcode not in ("parameter", "constant", "iota") else ()
    called = tuple(
        (word, callee.strip().lstrip("%"))
        for word, several, one in _CALLED.findall(attributes)
        for callee in (several.split(",") if several else [one])
    )
    source = re.search(r'op_name="([^"]*)"', attributes)
    return Instruction(
        name=name,
        opcode=opcode,
        shapes=tuple(_shape(*matched) for matched in _SHAPE.findall(result)),
        operands=operands,
        called=called,
        source=source[1] if source else "",
        attributes=attributes,
        number=int(inside) if opcode == "parameter" else -1,
    )


def _shape(dtype: str, dims: str, layout: str) -> Shape:
    sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
    return Shape(dtype, sizes, on_chip=re.search(r"S\([1-9]", layout) is not None)


def _closing(text: str, start: int) -> int:
    """Position of the bracket that closes the first one from `start` on; quoted ones do not count."""
    depth, quoted = 0, False
    for position in range(start, len(text)):
        char = text[position]
        if char == '"' and text[position - 1] != "\\":
            quoted = not quoted
        elif not quoted and char in "({[":
            depth += 1
        elif not quoted and char in ")}]":
            depth -= 1
            if depth == 0:
                return position
    raise ValueError(f"no closing bracket: {text[start : start + 80]}")


def _operands(inside: str) -> Iterator[str]:
    """Names in a list such as `%a, f32[2,3]{1,0} %b`."""
    depth, part = 0, ""
    for char in inside + ",":
        depth += (char in "({[") - (char in ")}]")
        if char == "," and depth == 0:
            if part.strip():
                yield part.split()[-1].lstrip("%")
            part = ""
        else:
            part += char
