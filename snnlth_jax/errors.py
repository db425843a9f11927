"""Errors for bad input and for failing storage, in one line each; other errors are bugs."""

import difflib
import re
from collections.abc import Callable, Iterable

__all__ = ["InputError", "StorageError", "flag", "named", "not_one_of", "one_line"]


def named(text: str, name: Callable[[str], str] = str) -> str:
    """A text with the names of arguments, which stand in backticks, put through `name`.

    >>> named("`num_classes` 0 there", flag)
    '--num-classes 0 there'
    """
    return re.sub(r"`(\w+)`", lambda match: name(match[1]), text)


def flag(argument: str) -> str:
    """The flag of an argument on the command line."""
    return "--" + argument.replace("_", "-")


class _OneLine(Exception):
    def text(self, name: Callable[[str], str] = str) -> str:
        """The line, with the names of arguments, which stand in backticks, put through `name`.

        Names of files and of what is in them may hold line breaks; here they are spaces.
        """
        return re.sub(r"[\x01-\x1f\x7f\x85\u2028\u2029]+", " ", named(self._line(), name))

    def _line(self) -> str:
        raise NotImplementedError

    def __str__(self) -> str:
        return self.text()


class InputError(_OneLine, ValueError):
    """A request that cannot be met, and the reason, in one line.

    The parts name arguments in backticks; the command line turns these into its flags, and messages of the
    library show the bare names.

    Attributes:
      what: the wrong argument, in backticks, or the wrong thing, such as a file.
      value: its value, or None.
      problem: the reason.
      allowed: the values that are allowed.
      nearest: the allowed name that is nearest to the one that was given.

    >>> error = InputError("`num_classes`", 0, allowed="1 or more")
    >>> str(error), error.text(flag)
    ('num_classes 0: allowed: 1 or more', '--num-classes 0: allowed: 1 or more')
    >>> print(InputError("`arch`", "vgg61", allowed="vgg5, vgg16", nearest="vgg16"))
    arch vgg61: allowed: vgg5, vgg16; nearest: vgg16
    """

    def __init__(
        self,
        what: object,
        value: object = None,
        *,
        problem: str = "",
        allowed: str = "",
        nearest: str = "",
    ):
        self.what, self.value, self.problem, self.allowed, self.nearest = (
            what,
            value,
            problem,
            allowed,
            nearest,
        )
        super().__init__(what, value, problem, allowed, nearest)

    def _line(self) -> str:
        head = f"{self.what}" if self.value is None else f"{self.what} {_shortened(self.value)}"
        parts = [self.problem, self.allowed and f"allowed: {self.allowed}"]
        parts.append(self.nearest and f"nearest: {self.nearest}")
        tail = "; ".join(part for part in parts if part)
        return f"{head}: {tail}" if tail else head


def _shortened(value: object, most: int = 300) -> str:
    text = str(value)
    return text if len(text) <= most else f"{text[:most]}..."


def not_one_of(what: object, value: object, allowed: Iterable[str]) -> InputError:
    """The error for a name that is not in a list; it names the nearest in the list, if one is near.

    >>> print(not_one_of("`arch`", "vgg61", ["vgg5", "vgg16"]))
    arch vgg61: allowed: vgg5, vgg16; nearest: vgg16
    """
    names = list(allowed)
    nearest = difflib.get_close_matches(str(value), names, n=1)
    return InputError(what, value, allowed=", ".join(names), nearest=nearest[0] if nearest else "")


def one_line(error: BaseException) -> str:
    """Kind and message of an error, in one line.

    >>> one_line(ValueError("not\\nfor you"))
    'ValueError: not for you'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


class StorageError(_OneLine, OSError):
    """A run cannot write: the disk is full, read-only or gone. Files written before stay good."""

    def _line(self) -> str:
        return OSError.__str__(self)
