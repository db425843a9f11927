"""Declarations at a field of a configuration, beside its type and its help: role, bounds, what file it names.

    epochs: Annotated[int | None, AT_LEAST_1, CONDITION] = None
    schedule: Annotated[Literal["cosine", "step"], OVERRIDABLE | CONDITION] = "cosine"

The type says the choices. `check` reads bounds and choices, `identity` reads roles.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

__all__ = [
    "CONDITION",
    "IDENTITY",
    "LOCAL",
    "OVERRIDABLE",
    "VARIED",
    "Bounds",
    "Declared",
    "File",
    "Role",
    "declared",
]


class Role(enum.Flag):
    """The part of a field in the identity of a run.

    Attributes:
      LOCAL: no part in it. The field says where and how the run is computed, and changes no result.
      IDENTITY: a part of the identity, which a resumed run must share.
      OVERRIDABLE: a part of the identity that `--override` may change in the middle of a run: it alters no
        shape, no data and no number of completed epochs.
      CONDITION: a part of the identity that two training runs must share for a fair comparison.
      VARIED: a part of the identity in which the runs of one series differ.
    """

    LOCAL = 0
    IDENTITY = 1
    OVERRIDABLE = 2 | IDENTITY
    CONDITION = 4 | IDENTITY
    VARIED = 8 | IDENTITY


LOCAL, IDENTITY, OVERRIDABLE = Role.LOCAL, Role.IDENTITY, Role.OVERRIDABLE
CONDITION, VARIED = Role.CONDITION, Role.VARIED


class Bounds(NamedTuple):
    """The numbers that a field may hold.

    Attributes:
      allowed: these numbers in words, for the error message.
      holds: whether a number is one of them; False for nan.
      most: largest number that can be meant; None where `holds` says it.
    """

    allowed: str
    holds: Callable[[Any], bool]
    most: int | None = None


class File(NamedTuple):
    """A field that names files, or may.

    Attributes:
      word: the word that stands for the file where its name is not known.
    """

    word: str


FLOAT32_MAX = 3.4e38
FLOAT32_MIN = 1.2e-38  # above 0; smaller numbers are 0 on most devices
AT_LEAST_1 = Bounds("1 or more", lambda v: v >= 1, most=10**9)
EPOCHS = AT_LEAST_1._replace(most=10**6)
MOST_ROUNDS = 10_000
ROUNDS = AT_LEAST_1._replace(most=MOST_ROUNDS)
FRACTION = Bounds("between 0 and 1, both excluded", lambda v: 0 < v < 1)
FACTOR = Bounds("a number above 0, at most 1e6", lambda v: 0 < v <= 1e6)
FINITE = Bounds("a number, finite in float32", lambda v: abs(v) <= FLOAT32_MAX)
SEED = Bounds("0 to 2^32 - 1", lambda v: 0 <= v < 2**32)


class Declared(NamedTuple):
    """A field as it was declared.

    Attributes:
      name: name of the field.
      type: its type without annotations.
      role: its `Role`.
      bounds: its `Bounds`, or None.
      file: its `File`, or None.
      choices: the values of its `Literal`, or of the `Literal` in its tuple; empty where there is none.
    """

    name: str
    type: Any
    role: Role
    bounds: Bounds | None
    file: File | None
    choices: tuple[str, ...]


def declared(config: Any) -> tuple[Declared, ...]:
    """The fields of a configuration or of its class, in order.

    Raises:
      TypeError: a field without a role.

    >>> @dataclasses.dataclass
    ... class Optimiser:
    ...     optimizer: Annotated[Literal["sgd", "adam"], IDENTITY] = "sgd"
    >>> declared(Optimiser)[0].choices
    ('sgd', 'adam')
    """
    return _declared(config if isinstance(config, type) else type(config))


@functools.cache
def _declared(of_class: Any) -> tuple[Declared, ...]:
    fields = []
    for field in dataclasses.fields(of_class):
        plain, *notes = get_args(field.type) if get_origin(field.type) is Annotated else (field.type,)
        roles = [note for note in notes if isinstance(note, Role)]
        if len(roles) != 1:
            raise TypeError(f"{field.name} has {len(roles)} roles, it needs one")
        bounds = next((note for note in notes if isinstance(note, Bounds)), None)
        file = next((note for note in notes if isinstance(note, File)), None)
        fields.append(Declared(field.name, plain, roles[0], bounds, file, _choices(plain)))
    return tuple(fields)


def _choices(plain: Any) -> tuple[str, ...]:
    if get_origin(plain) is UnionType:
        return tuple(choice for kind in get_args(plain) for choice in _choices(kind))
    if get_origin(plain) is tuple:
        return _choices(get_args(plain)[0])
    return get_args(plain) if get_origin(plain) is Literal else ()
