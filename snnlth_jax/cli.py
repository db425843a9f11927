"""The `snnlth` command: from the arguments to the exit status, with signals, streams and messages between.

Exit status 0: done; 1: the doctor found errors; 2: bad input, one line on standard error; 3: training
diverged; 69: another host is gone, to be run again on all (EX_UNAVAILABLE); 74: the run or standard output
cannot be written (EX_IOERR); 75: stopped by SIGTERM or SIGINT, to be run again (EX_TEMPFAIL); 130:
interrupted before the search began, or twice.
"""

import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from rich.console import Console

from snnlth_jax import __version__, configs, streams
from snnlth_jax.commands import spelling, words
from snnlth_jax.commands.data import Data
from snnlth_jax.commands.demo import Demo
from snnlth_jax.commands.output import fail, show
from snnlth_jax.commands.reports import Report
from snnlth_jax.commands.searches import search
from snnlth_jax.commands.table import COMMANDS
from snnlth_jax.commands.words import options
from snnlth_jax.errors import InputError, StorageError, flag, refusal
from snnlth_jax.machine import host_loss, numerics
from snnlth_jax.machine.signals import Stopped
from snnlth_jax.train import NonFiniteLoss

__all__ = ["COMMANDS", "exit_status", "main", "options", "search"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def action() -> int | None:
        if arguments[:1] in (["--version"], ["-V"], ["version"]):
            show(f"snnlth_jax {__version__}")
            return 0
        rest, quiet, verbose = spelling.without_loudness(arguments)
        if quiet:
            logging.getLogger("snnlth_jax").setLevel(logging.ERROR)
        if verbose:
            logging.getLogger("snnlth_jax").setLevel(logging.DEBUG)
        name, command = words.parse(rest)
        if isinstance(command, configs.EbConfig) and command.tau == 0:  # experiments may mean it
            never = "no distance is below it: the search would never stop"
            raise InputError("`tau`", command.tau, problem=never, allowed="above 0, at most 1")
        # the output of other commands may go to a program
        printing = configs.TrainConfig | Demo | Data | Report
        if not isinstance(command, printing):
            logging.getLogger("snnlth_jax").handlers = [_Print(sys.stderr)]
        with numerics.pinned():
            if not isinstance(command, configs.TrainConfig):
                return COMMANDS[name][1](command)
            configs.check_used(command)
            search(command, Console(quiet=True) if quiet else None)
            return 0

    return exit_status(action)


def exit_status(action: Callable[[], int | None]) -> int:
    """Run a program; return its exit status, after a line on standard error if that is not 0.

    An error that names arguments is printed with their flags.

    >>> exit_status(lambda: None)
    0
    """
    streams.open_missing()
    stop: SystemExit | None = None
    with streams.guarded() as lost:
        try:
            status = _status(action)
        except SystemExit as error:  # of tyro, after the help
            stop, status = error, 1 if error.code else 0
    if lost and not status:
        with streams.guarded("stderr"):
            return fail(74, f"standard output: {lost[0].strerror}")
    if stop:
        raise stop
    return status


def _status(action: Callable[[], int | None]) -> int:
    previous = signal.signal(signal.SIGTERM, _stop)  # before and after a search, which watches for it
    logger = logging.getLogger("snnlth_jax")
    level, handlers = logger.level, logger.handlers
    logger.setLevel(logging.INFO)
    logger.handlers, logger.propagate = [_Print()], False
    # Orbax logs the tracebacks of what it raises, and leaves unfinished work on damaged files and full disks
    for noisy in ("absl", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    try:
        return _with_news(action)
    except InputError as error:
        if logger.isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        return fail(2, error.text(flag))
    except NonFiniteLoss as error:
        return fail(3, f"{error}: the loss or a weight is not finite; the last checkpoint is from before")
    except StorageError as error:
        return fail(
            74, f"{error.text(flag)}; what is checkpointed stays good, the same command resumes from there"
        )
    except Stopped as stopped:
        return fail(75, f"stopped by {stopped}; the same command resumes")
    except Exception as error:
        if (failure := refusal(error)) is None:
            raise  # a bug
        if logger.isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        return fail(*failure)
    except KeyboardInterrupt:
        fail(130, "interrupted; the same command resumes after the last checkpoint")
        # files are closed by now; a computation still under way would crash the interpreter's own tear-down
        os._exit(130)
    finally:
        logger.handlers, logger.propagate = handlers, True
        logger.setLevel(level)
        signal.signal(signal.SIGTERM, previous)


def _with_news(action: Callable[[], int | None]) -> int:
    """Run a program; if it fails since another host is gone, the process ends here, see `host_loss`."""
    try:
        return action() or 0
    except Exception as error:
        host_loss.await_news(error)
        raise


def _stop(number: int, frame: object) -> None:
    raise Stopped(signal.Signals(number).name)


class _Print(logging.Handler):
    """Print log messages of the library: beside the progress of a search, whose standard error is for the one
    line; on standard error for a command whose output is what it was asked for."""

    def __init__(self, stream: TextIO | None = None):
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        show(record.getMessage(), self._stream)


def _unraisable(unraisable: Any) -> None:
    error = unraisable.exc_value
    if isinstance(error, KeyboardInterrupt):  # a signal within a callback, as of the garbage collector: again
        number = signal.Signals[str(error)] if isinstance(error, Stopped) else signal.SIGINT
        main = threading.main_thread().ident
        threading.Timer(0.05, signal.pthread_kill, (main, number)).start()
    elif str(error) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    sys.exit(main())
