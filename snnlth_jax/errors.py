"""Errors for bad input and for failing storage, in one line each; other errors are bugs."""

import difflib
import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "InputError",
    "StorageError",
    "flag",
    "listed",
    "named",
    "not_installed",
    "not_one_of",
    "one_line",
    "passes",
    "printable",
    "refusal",
]


def printable(text: object, keep: str = "") -> str:
    r"""A text with what no terminal should get (control characters, unpaired surrogates) as escapes.

    Args:
      text: of any origin.
      keep: characters that stay.

    >>> print(printable("a\x1b[31m\n"))
    a\x1b[31m\n
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in str(text)
    )


def named(text: str, name: Callable[[str], str] = str) -> str:
    """A text with the names of arguments, which stand in backticks, put through `name`.

    >>> named("`num_classes` 0 there", flag)
    '--num-classes 0 there'
    """
    return re.sub(r"`(\w+)`", lambda match: name(match[1]), text)


def flag(argument: str) -> str:
    """The flag of an argument on the command line."""
    return "--" + argument.replace("_", "-")


_LONGEST = 2000  # characters of a line


class _OneLine(Exception):
    def text(self, name: Callable[[str], str] = str) -> str:
        """The line, with the names of arguments, which stand in backticks, put through `name`.

        Names of files and of what is in them may hold line breaks, which are spaces here, and other control
        characters, which are escaped.
        """
        line = re.sub(r"[\t-\r\x1c-\x1f\x85\u2028\u2029]+", " ", named(self._line(), name))
        return printable(_shortened(line, _LONGEST), keep="\0")

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
    lower = {name.lower(): name for name in reversed(names)}
    nearest = [lower[name] for name in difflib.get_close_matches(str(value).lower(), lower, n=1)]
    return InputError(what, value, allowed=", ".join(names), nearest=nearest[0] if nearest else "")


def not_installed(package: str, extra: str) -> InputError:
    """The error for a package that one of this package's extras brings.

    >>> print(not_installed("onnx", "export"))
    onnx: is not installed: pip install 'snnlth_jax[export]'
    """
    return InputError(package, problem=f"is not installed: pip install 'snnlth_jax[{extra}]'")


def listed(parts: Sequence[str], between: str = ", ", most: int = 10) -> str:
    """The first of several texts, and how many more there are.

    >>> listed(["a", "b", "c"]), listed(["a", "b", "c"], most=1)
    ('a, b, c', 'a and 2 more')
    """
    more = len(parts) - most
    return between.join(parts) if more <= 0 else f"{between.join(parts[:most])} and {more} more"


def one_line(error: BaseException) -> str:
    """Kind and message of an error, in one line.

    >>> one_line(ValueError("not\\nfor you"))
    'ValueError: not for you'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)


def refusal(error: Exception) -> tuple[int, str] | None:
    """Exit status and line for an error of the world outside; None for a bug.

    Files and directories that cannot be read or written, packages that are not there, memory that is not
    enough, devices that do not start.

    >>> refusal(PermissionError(13, "Permission denied", "runs")), refusal(KeyError("runs"))
    ((2, 'runs: Permission denied'), None)
    """
    match error:
        case OSError():
            here = "the current directory" if isinstance(error, FileNotFoundError) else "the system"
            place = f"{here if error.filename is None else os.fsdecode(error.filename)}: " * bool(error.errno)
            return 74 if error.errno in _NO_ROOM else 2, f"{place}{error.strerror or one_line(error)}"
        case ImportError() | MemoryError():
            return 2, one_line(error)
        case UnicodeEncodeError():
            return 2, f"{error.object[:300]}: holds bytes that are no text"
        case ValueError() if "embedded null" in str(error):
            return 2, "the name of a file holds a zero byte"
        case RuntimeError() if "RESOURCE_EXHAUSTED" in str(error):
            return 2, f"the devices have no memory for it ({one_line(error)})"
    if passes(error, "etils/epath/"):
        places = "a local path, or one of a bucket whose package is installed"
        return 2, f"no such place ({one_line(error)}); allowed: {places}"
    if (reason := _no_devices()) is not None:  # then an error of any kind follows from it
        return 2, f"JAX cannot start ({reason}); allowed: devices that are there, see JAX_PLATFORMS"
    return None


def passes(error: BaseException, file: str) -> bool:
    """Whether an error comes through a file, such as one with "/orbax/" in its path."""
    trace = error.__traceback__
    while trace is not None:
        if file in trace.tb_frame.f_code.co_filename:
            return True
        trace = trace.tb_next
    return False


def _no_devices() -> str | None:
    """The reason why JAX has none; None if it has, or nothing of it was used."""
    if "jax" not in sys.modules:
        return None
    try:
        sys.modules["jax"].devices()
    except Exception as error:
        return one_line(error)
    return None


class StorageError(_OneLine, OSError):
    """A run cannot write: the disk is full, read-only or gone. Files written before stay good."""

    def _line(self) -> str:
        return OSError.__str__(self)
