"""A user's own function, named as `module:function` on the command line."""

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from snnlth_jax.errors import InputError, not_one_of, one_line

__all__ = ["call", "function", "is_name"]


def is_name(text: str) -> bool:
    """Whether a text has the form `module:function`.

    >>> is_name("my_package.birds:load"), is_name("tfds:birds"), is_name("gs://bucket/birds")
    (True, True, False)
    """
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", text) is not None


def function(what: str, name: str) -> Callable[..., Any]:
    """The function that `name` says, from a module that is installed or lies in the current directory.

    Args:
      what: the argument that holds the name, in backticks.
      name: `module:function`.

    Raises:
      InputError: there is no such module or function, or the module cannot be imported.

    >>> function("`dataset`", "math:sqrt")(9)
    3.0
    """
    module_name, _, attribute = name.partition(":")
    with _current_directory():
        try:
            target: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and f"{module_name}.".startswith(f"{error.name}."):
                reason = "a module that is installed or lies in the current directory"
                raise InputError(what, name, problem=f"no module {error.name}", allowed=reason) from error
            raise _failed(what, name, f"importing {module_name}", error) from error
        except (Exception, SystemExit) as error:  # the module runs code of its own
            raise _failed(what, name, f"importing {module_name}", error) from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            public = [one for one in vars(target) if not one.startswith("_") and callable(vars(target)[one])]
            refused = not_one_of(what, part, public)
            raise InputError(
                what,
                name,
                problem=f"no {part} in {module_name}",
                allowed=f"MODULE:FUNCTION with a function of {getattr(target, '__file__', module_name)}",
                nearest=refused.nearest,
            )
        target = getattr(target, part)
    if not callable(target):
        raise InputError(what, name, problem=f"is a {type(target).__name__}", allowed="a function")
    return target  # type: ignore[no-any-return]


def call(what: str, name: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call the function that `name` says.

    Args:
      what: the argument that holds the name, in backticks.
      name: `module:function`.
      *args: its arguments.
      **kwargs: its arguments by name.

    Raises:
      InputError: as `function`; or the function failed, with its error in one line.
    """
    called = function(what, name)
    with _current_directory():
        try:
            return called(*args, **kwargs)
        except InputError as error:
            text = str(error)  # its arguments are the function's, not the caller's
            raise InputError(what, name, problem=text) from error
        except (Exception, SystemExit) as error:
            raise _failed(what, name, "the function", error) from error


def _failed(what: str, name: str, doing: str, error: BaseException) -> InputError:
    return InputError(what, name, problem=f"{doing} failed, {one_line(error)}{_place(error)}")


def _place(error: BaseException) -> str:
    """File and line at which an error was raised, if the user can see it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_frame.f_code.co_filename.startswith(("<", __file__)):
        return ""
    return f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno})"


@contextmanager
def _current_directory() -> Iterator[None]:
    """The current directory first on the path of modules, as for `python -m`."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()  # for files that were written a moment ago
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
