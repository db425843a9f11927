"""The `snnlth` command: tyro over the dataclasses of `configs`, nothing else.

Exit status 0: done; 1: the doctor found errors; 2: bad input, one line on standard error; 3: training
diverged; 74: the run cannot be written (EX_IOERR); 75: stopped by SIGTERM or SIGINT, to be run again
(EX_TEMPFAIL); 130: interrupted before the search began, or twice.
"""

import contextlib
import dataclasses
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import tyro
from rich.console import Console

from snnlth_jax import configs
from snnlth_jax.analysis.energy import ENERGY_AC, ENERGY_MAC
from snnlth_jax.errors import InputError, StorageError
from snnlth_jax.machine import compile_cache, hosts
from snnlth_jax.machine.signals import Stopped, answered_within
from snnlth_jax.train import NonFiniteLoss

__all__ = ["COMMANDS", "exit_status", "main", "parsed", "search"]

PATIENCE = 25.0  # seconds to answer a signal in


@dataclasses.dataclass(frozen=True)
class _Data:
    """Download a dataset and lay it out for `--data-dir`, once. Needs TensorFlow; running does not."""

    action: tyro.conf.Positional[Literal["prepare"]]
    name: tyro.conf.Positional[str]
    """cifar10, cifar100, svhn_cropped or fashion_mnist"""
    data_dir: str | None = None
    """Where to put it. Default: $TFDS_DATA_DIR or ~/tensorflow_datasets"""


@dataclasses.dataclass(frozen=True)
class _Ticket:
    """Verify a ticket file and print where it comes from and its layer-wise sparsity."""

    action: tyro.conf.Positional[Literal["inspect"]]
    path: tyro.conf.Positional[str]
    """A file tickets/round_NN.safetensors of a run"""


@dataclasses.dataclass(frozen=True)
class _Analyse:
    """Sparsity and health by layer, SynOps and energy of the tickets of a search, as it recorded them."""

    workdir: tyro.conf.Positional[str]
    """The directory of a search"""
    rounds: tuple[int, ...] = ()
    """Of the search. Default: those of its tickets"""
    energy_mac: float = ENERGY_MAC
    """Picojoules of a multiply-accumulate. Default: 32 bits, 45 nm (Horowitz 2014)"""
    energy_ac: float = ENERGY_AC
    """Picojoules of an addition. Default: 32 bits, 45 nm (Horowitz 2014)"""


@dataclasses.dataclass(frozen=True)
class _Compile:
    """Compile a training for a TPU that is not there: does it fit, how long does it take. Needs libtpu."""

    topology: str
    """Generation and layout of the chips: v4:2x2x1, v5e:2x2, v5p:2x2x1, v6e:2x2 and larger ones"""
    dataset: str = "cifar10"
    """For its shapes; no data are read"""
    arch: str = "vgg16"
    """Network, see `snnlth imp`"""
    width: float = 1.0
    """Factor on the channels of every layer"""
    num_timesteps: int = 5
    """T"""
    batch_size: int = 128
    """Of all chips together"""
    dtype: str = "float32"
    """float32 or bfloat16"""
    shard_data: str = "no"
    """yes: divide the images among the chips"""


@dataclasses.dataclass(frozen=True)
class _Doctor:
    """Look for what would keep a search from running here: versions, devices, disk, dataset."""

    dataset: str = "digits"
    """That a search would train on"""
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data. Default: $TFDS_DATA_DIR or ~/tensorflow_datasets"""
    workdir: str = "runs"
    """Where a search would write"""


@dataclasses.dataclass(frozen=True)
class _Report:
    """Plots and tables of searches: one page, report.html, and PNG, PDF, CSV of each. Needs matplotlib."""

    workdirs: tyro.conf.Positional[list[str]]
    """Directories of searches, or with any number of them below; several are compared"""
    output: str | None = None
    """Where report.html and report/ go. Default: the directory, or here where there are several"""
    energy_mac: float = ENERGY_MAC
    """Picojoules of a multiply-accumulate (45 nm, 32 bits; Horowitz 2014)"""
    energy_ac: float = ENERGY_AC
    """Picojoules of an addition"""


def search(config: configs.TrainConfig) -> None:
    """Run the search of a command's configuration, as the command does."""
    from snnlth_jax.search import early_bird, early_time, imp, one_shot, replicates, transfer

    modules: dict[type, Any] = {
        configs.ImpConfig: imp,
        configs.EbConfig: early_bird,
        configs.OneShotConfig: one_shot,
        configs.TransferConfig: transfer,
        configs.ProbeConfig: early_time,
    }
    compile_cache.keep_programs()
    if config.distributed:
        hosts.connect()
    run = modules[type(config)].search
    resolved = hosts.together(lambda: configs.resolve(config))
    with answered_within(PATIENCE, _give_up):
        if resolved.seeds:
            replicates.run(run, resolved)
        else:
            run(resolved, configs.load_dataset(resolved))


def _stop(number: int, frame: Any) -> None:
    raise Stopped(signal.Signals(number).name)


def _give_up(number: signal.Signals) -> None:
    """Busy for too long: what preempts a machine takes it away 30 seconds later."""
    Console().show_cursor()
    _fail(75, f"stopped by {number.name} in the middle; the same command goes on after the last checkpoint")
    os._exit(75)


def _data(command: _Data) -> None:
    from snnlth_jax import data

    if command.name not in data.dataset.SPECS:
        raise InputError(f"data prepare {command.name!r}: allowed: {', '.join(data.dataset.SPECS)}")
    directory = data.prepare(command.name, command.data_dir)
    if directory is not None:
        print(f"{command.name}: ready in {directory}")


def _ticket(command: _Ticket) -> None:
    from snnlth_jax import tickets

    print(tickets.describe(tickets.load(command.path)))


def _analyse(command: _Analyse) -> None:
    from snnlth_jax.report import analyse

    analyse.show(command.workdir, command.rounds, command.energy_mac, command.energy_ac)


def _report(command: _Report) -> None:
    from snnlth_jax import report

    print(report.write(command.workdirs, command.output, command.energy_mac, command.energy_ac))


def _compile(command: _Compile) -> None:
    from snnlth_jax.run import tables
    from snnlth_jax.search import ahead

    fields = dataclasses.asdict(command)
    name = fields.pop("topology")
    print(tables.compiled(ahead.compile_for(name, configs.TrainConfig(**fields))))


def _doctor(command: _Doctor) -> int:
    from snnlth_jax.machine import doctor

    compile_cache.keep_programs()
    findings = doctor.examine(command.dataset, command.data_dir, command.workdir)
    print(doctor.report(findings))
    return int(any(finding.level == "error" for finding in findings))


COMMANDS: dict[str, tuple[Any, Callable[[Any], int | None]]] = {
    "imp": (configs.ImpConfig, search),
    "eb": (configs.EbConfig, search),
    "one-shot": (configs.OneShotConfig, search),
    "transfer": (configs.TransferConfig, search),
    "probe-timesteps": (configs.ProbeConfig, search),
    "analyse": (_Analyse, _analyse),
    "compile": (_Compile, _compile),
    "doctor": (_Doctor, _doctor),
    "data": (_Data, _data),
    "ticket": (_Ticket, _ticket),
    "report": (_Report, _report),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def action() -> int | None:
        command = _parse(arguments)
        return COMMANDS[arguments[0]][1](command)

    return exit_status(action)


def exit_status(action: Callable[[], int | None]) -> int:
    """Run a program to whatever end it comes; its exit status, and the line on standard error if it is not 0.

    >>> exit_status(lambda: None)
    0
    """
    before = signal.signal(signal.SIGTERM, _stop)  # until a search watches for it, and after
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
        return action() or 0
    except InputError as error:
        return _fail(2, error)
    except NonFiniteLoss as error:
        return _fail(3, f"{error}: the loss or a weight is not finite; the last checkpoint is from before")
    except StorageError as error:
        return _fail(74, f"{error}; what is checkpointed stays good, the same command goes on from there")
    except Stopped as stopped:
        return _fail(75, f"stopped by {stopped}; the same command goes on")
    except KeyboardInterrupt:
        _fail(130, "interrupted; the same command goes on after the last checkpoint")
        # files are closed by now; a computation still under way would crash the interpreter's own tear-down
        os._exit(130)
    finally:
        logger.handlers, logger.propagate = handlers, True
        logger.setLevel(level)
        signal.signal(signal.SIGTERM, before)


_LISTS = tyro.constructors.ConstructorRegistry()


@_LISTS.primitive_rule
def _list(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Lists are written with commas: `--seeds 0,1,2`."""
    if info.type_origin is not tuple:
        return None
    (of, _) = get_args(info.type)
    name = "INT" if of is int else "NAME"
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{name},{name},…",
        instance_from_str=lambda texts: tuple(of(part) for part in texts[0].split(",") if part.strip()),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


class _Print(logging.Handler):
    """What the library logs goes where the progress goes; standard error is for the one line."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage())


def _unraisable(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _fail(status: int, message: object) -> int:
    print(f"snnlth: error: {message}", file=sys.stderr, flush=True)
    return status


def _parse(arguments: list[str]) -> Any:
    """The dataclass of the command."""
    return parsed(
        lambda: tyro.extras.subcommand_cli_from_dict(
            {name: parser for name, (parser, _) in COMMANDS.items()},
            prog="snnlth",
            args=arguments,
            registry=_LISTS,
        ),
        f"snnlth {' '.join([*arguments[:1], '--help'])}",
    )


def parsed(parse: Callable[[], Any], more: str) -> Any:
    """What tyro reads; its box around what it cannot parse becomes one line, ending in where there is more.

    Raises:
      InputError: with that line.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return parse()
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        # a title, the message, a ruler, hints; the borders are lines or, on an ASCII terminal, blank
        lines = [line.strip("│╭╮╰╯ ") for line in box.getvalue().strip().splitlines()[1:]]
        paragraphs = " ".join(line if set(line) - set("─-") else "\n" for line in lines).split("\n")
        message = next(text.strip() for text in paragraphs if text.strip())
        raise InputError(f"{message} (see {more})") from None


if __name__ == "__main__":
    sys.exit(main())
