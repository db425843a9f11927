"""The `snnlth` command: tyro over the dataclasses of `configs`, nothing else.

Exit status 0: done; 1: the doctor found errors; 2: bad input, one line on standard error; 3: training
diverged; 69: another host is gone, to be run again on all (EX_UNAVAILABLE); 74: the run or standard output
cannot be written (EX_IOERR); 75: stopped by SIGTERM or SIGINT, to be run again (EX_TEMPFAIL); 130:
interrupted before the search began, or twice.
"""

import dataclasses
import inspect
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro
from rich.console import Console

from snnlth_jax import __version__, configs, streams
from snnlth_jax.analysis.energy import ENERGY_AC, ENERGY_MAC
from snnlth_jax.commands import completion, demo, export, fields, help, settings, spelling, ticket
from snnlth_jax.commands.output import show
from snnlth_jax.configs.fields import IDENTITY
from snnlth_jax.errors import InputError, StorageError, flag, not_one_of, printable, refusal
from snnlth_jax.machine import compile_cache, host_loss, hosts, memory
from snnlth_jax.machine.signals import Stopped, answered_within
from snnlth_jax.train import NonFiniteLoss

log = logging.getLogger("snnlth_jax.cli")  # this module may be __main__

__all__ = ["COMMANDS", "exit_status", "main", "options", "parsed", "search"]

_CONFIG = "Read settings from a TOML file, such as the config.toml of a run; flags win over it."
_COMMON = {
    "--quiet": "Print nothing but errors and, of commands that are no searches, what they are asked for.",
    "--verbose": "Print also every setting of a search, and the traceback of an error.",
}
_NO_CHOICE = (
    "warning: with T = 3 Early-Time has one candidate, T' = 2, which is compared with itself and never "
    "chosen: the search has all 3 timesteps; --early-time-timesteps 2 sets T', --num-timesteps 4 gives a "
    "choice"
)
PATIENCE = 25.0  # seconds to answer a signal in


@dataclasses.dataclass(frozen=True)
class _Data:
    """Prepare a dataset for `--data-dir`, once: download it, which needs TensorFlow; a search does not. Or
    check any, also your own: classes, images, mean and std.

    Of tiny_imagenet `prepare` checks the folder, or says where to get it.
    """

    action: tyro.conf.Positional[Literal["prepare", "check"]]
    name: tyro.conf.Positional[str]
    """Dataset: cifar10, cifar100, svhn_cropped, fashion_mnist, mnist, tiny_imagenet or tfds:NAME; to check,
    any that a search takes."""
    data_dir: str | None = None
    """Directory of TensorFlow Datasets to write to. Default: $TFDS_DATA_DIR or ~/tensorflow_datasets."""


@dataclasses.dataclass(frozen=True)
class _Train(configs.RetrainConfig):
    """Train the ticket of a file again: another seed, T or learning rate, other data, or as a control.

    Settings that are not given are those of the ticket's search.
    """

    ticket: Annotated[tyro.conf.Positional[str], IDENTITY] = ""
    """Ticket file: tickets/round_NN.safetensors in the directory of a run."""


@dataclasses.dataclass(frozen=True)
class _Eval:
    """Evaluate a trained network: accuracy, by class and over timesteps; spikes, SynOps."""

    path: tyro.conf.Positional[str]
    """Network file: networks/NAME.safetensors in the directory of a run."""
    dataset: str | None = None
    """Dataset whose test images are taken. Default: that of the search, unless it is your own."""
    data_dir: str | None = None
    """Directory of the dataset, as for a search."""
    test_examples: int | None = None
    """Largest number of test images. Default: that of the search, on its dataset."""
    num_timesteps: int | None = None
    """T. Default: that of the network."""
    arch: str | None = None
    """MODULE:FUNCTION of a network of your own, as for its search; the file alone calls no function."""
    batch_size: int | None = None
    """Number of images at a time. Default: that of the search, with which the accuracy is that of result.json
    to the last image."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class _Predict:
    """Predict the classes of images by a trained network: a list of class and probabilities."""

    path: tyro.conf.Positional[str]
    """Network file: networks/NAME.safetensors in the directory of a run."""
    images: tyro.conf.Positional[list[str]]
    """Images: png files, or npy and npz files with uint8 [H, W], [H, W, C], [N, H, W] or [N, H, W, C]. Their
    size and channels are those of the network; nothing is resized."""
    num_timesteps: int | None = None
    """T. Default: that of the network."""
    arch: str | None = None
    """MODULE:FUNCTION of a network of your own, as for its search; the file alone calls no function."""
    json: bool = False
    """Print JSON."""
    csv: bool = False
    """Print CSV."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Energy:
    energy_mac: float = ENERGY_MAC
    """Energy of a multiply-accumulate in picojoules. The default is for 32 bits, 45 nm (Horowitz 2014)."""
    energy_ac: float = ENERGY_AC
    """Energy of an addition in picojoules. The default is for 32 bits, 45 nm (Horowitz 2014)."""


@dataclasses.dataclass(frozen=True)
class _Analyse(_Energy):
    """Print sparsity and health by layer, SynOps and energy of the tickets of a search, as recorded there."""

    workdir: tyro.conf.Positional[str]
    """Directory of a search."""
    rounds: tuple[int, ...] = ()
    """Rounds of the search to print. Default: the rounds of its tickets."""


@dataclasses.dataclass(frozen=True)
class _Compile:
    """Compile IMP's training for absent GPUs or TPUs: memory, kernels, bytes, FLOPs, and the time of these at
    the rates of the device. Needs NVIDIA's compiler or libtpu (docs/performance.md)."""

    topology: str
    """One GPU: h100, a100, l4, rtx4090; or generation and layout of TPU chips: v4:2x2x1, v5e:2x2, v5p:2x2x1,
    v6e:2x2, tpu7x:2x2x1, or a larger layout."""
    dataset: str = "cifar10"
    """Dataset that gives the shapes of images; no data are read, except your own."""
    data_dir: str | None = None
    """Directory of TensorFlow Datasets, for tfds:NAME. Default: $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    arch: str = "vgg16"
    """Network, see `snnlth imp`."""
    arch_option: tuple[str, ...] = ()
    """Options of your own network, name=value."""
    width: float = 1.0
    """Factor on the number of channels of every layer."""
    num_timesteps: int = 5
    """T, the number of timesteps."""
    batch_size: int = 128
    """Number of examples in a step, over all chips."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the computation."""
    shard_data: Literal["auto", "yes", "no"] = "no"
    """Divide the images among the chips: yes; auto and no keep a copy on each."""
    epochs: int | None = None
    """Number of epochs of a training run, for the time of the search, see `snnlth imp`."""
    rounds: int | None = None
    """Number of rounds, for the time of the search, see `snnlth imp`."""


@dataclasses.dataclass(frozen=True)
class _Doctor(configs.Dataset):
    """Look for problems that would keep a search from running here: versions, devices, disk, dataset."""

    workdir: str = "runs"
    """Directory of the search."""


@dataclasses.dataclass(frozen=True)
class _Completion:
    """Print a script that completes commands, flags and names: `source <(snnlth completion bash)`."""

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]


@dataclasses.dataclass(frozen=True)
class _Report(_Energy):
    """Write plots and tables of searches: a page, report.html, and PNG, PDF, CSV files. Needs matplotlib."""

    workdirs: tyro.conf.Positional[list[str]]
    """Directories of searches, or directories above them; several searches are compared."""
    output: str | None = None
    """Directory of report.html and report/. Default: the directory of the searches; if there are several, the
    current one."""


def search(config: configs.TrainConfig, console: Console | None = None) -> None:
    """Run the search of a configuration, resolved or not, as its command does.

    Args:
      config: the configuration.
      console: console for progress and results; standard output by default.

    Raises:
      InputError: the configuration is not allowed, or not on these devices.
    """
    from snnlth_jax.run import earlier
    from snnlth_jax.search import (
        dynamic,
        early_bird,
        early_time,
        imp,
        one_shot,
        replicates,
        retrain,
        stability,
        transfer,
    )

    modules: dict[str, Any] = {
        "imp": imp,
        "eb": early_bird,
        "one-shot": one_shot,
        "dynamic": dynamic,
        "transfer": transfer,
        "probe-timesteps": early_time,
        "stability": stability,
        "retrain": retrain,
    }
    compile_cache.keep_programs()
    memory.keep()
    if config.distributed:
        hosts.connect()
    run = modules[config.method].search

    def resolve() -> configs.ResolvedTrain:
        resolved = earlier.adopted(config, configs.resolve(config))
        configs.check_devices(resolved)  # before --seeds take a directory
        return resolved

    resolved: configs.ResolvedTrain = hosts.raise_together(resolve)
    measures = isinstance(resolved, configs.EarlyTime) and resolved.measures_timesteps
    if measures and resolved.num_timesteps == 3:
        log.warning("%s", _NO_CHOICE)
    if hosts.is_first():
        log.debug("%s\n%s", resolved.workdir, configs.written(resolved).rstrip())
    with answered_within(PATIENCE, _give_up):
        if resolved.seeds:
            replicates.run(run, resolved, console)
        else:
            run(resolved, **({} if console is None else {"console": console}))


def _stop(number: int, frame: object) -> None:
    raise Stopped(signal.Signals(number).name)


def _give_up(number: signal.Signals) -> None:
    """Exit from a long computation: a preempted machine is gone 30 seconds after the signal."""
    Console().show_cursor()
    _fail(75, f"stopped by {number.name} in the middle; the same command resumes after the last checkpoint")
    os._exit(75)


def _data(command: _Data) -> None:
    from snnlth_jax import data

    if not os.path.exists(command.name):
        command = dataclasses.replace(command, name=spelling.known(command.name, data.dataset.SPECS))
    if command.action == "check":
        show(data.describe(data.load(command.name, command.data_dir)))
        return
    if command.name not in data.dataset.SPECS and not command.name.startswith("tfds:"):
        raise not_one_of("data prepare", command.name, data.dataset.SPECS)
    directory = data.prepare(command.name, command.data_dir)
    if directory is not None:
        show(f"{command.name}: ready in {directory}")


def _eval(command: _Eval) -> None:
    from snnlth_jax import evaluation, networks

    compile_cache.keep_programs()
    network = networks.classifier(command.path, num_timesteps=command.num_timesteps, arch=command.arch)
    dataset = evaluation.load_dataset(network, command.dataset, command.data_dir, command.test_examples)
    result = evaluation.evaluate(network, dataset, batch_size=command.batch_size)
    show(evaluation.to_json(result) if command.json else evaluation.text(result))


def _predict(command: _Predict) -> None:
    from snnlth_jax import networks
    from snnlth_jax.networks import predictions

    if command.json and command.csv:
        raise InputError("`csv`", allowed="without `json`")
    if not command.images:
        raise InputError("images", problem="none are given", allowed="one or more png, npy or npz files")
    network = networks.classifier(command.path, num_timesteps=command.num_timesteps, arch=command.arch)
    form = "json" if command.json else "csv" if command.csv else "table"
    show(predictions.FORMATS[form](predictions.predict(network, command.images), network.recipe.classes))


def _analyse(command: _Analyse) -> None:
    from snnlth_jax.report import analyse

    analyse.show(command.workdir, command.rounds, command.energy_mac, command.energy_ac)


def _report(command: _Report) -> None:
    from snnlth_jax import report

    show(report.write(command.workdirs, command.output, command.energy_mac, command.energy_ac))


def _demo(command: demo.Demo) -> None:
    from snnlth_jax.run import directory, results

    search(demo.config(command))
    if isinstance(result := results.read(directory.paths(command.workdir).result), results.Result):
        show(demo.summary(result, command.workdir))


def _completion(command: _Completion) -> None:
    parsers = {name: parser for name, (parser, _) in COMMANDS.items()}
    print(completion.script(command.shell, parsers, ["--help", "--config", *_COMMON]), end="")


def _compile(command: _Compile) -> None:
    from snnlth_jax.search import ahead

    values = dataclasses.asdict(command)
    name = values.pop("topology").lower()
    ahead.show(ahead.compile_for(name, configs.ImpConfig(**values)), Console())


def _doctor(command: _Doctor) -> int:
    from snnlth_jax.machine import doctor

    compile_cache.keep_programs()
    findings = doctor.examine(command.dataset, command.data_dir, command.workdir)
    show(doctor.report(findings))
    return int(any(finding.level == "error" for finding in findings))


COMMANDS: dict[str, tuple[Any, Callable[[Any], int | None]]] = {
    "imp": (configs.ImpConfig, search),
    "eb": (configs.EbConfig, search),
    "one-shot": (configs.OneShotConfig, search),
    "dynamic": (configs.DynamicConfig, search),
    "transfer": (configs.TransferConfig, search),
    "probe-timesteps": (configs.ProbeConfig, search),
    "stability": (configs.StabilityConfig, search),
    "train": (_Train, search),
    "demo": (demo.Demo, _demo),
    "analyse": (_Analyse, _analyse),
    "compile": (_Compile, _compile),
    "doctor": (_Doctor, _doctor),
    "data": (_Data, _data),
    "export": (export.Export, export.Export.run),
    "ticket inspect": (ticket.Inspect, ticket.Inspect.run),
    "ticket diff": (ticket.Diff, ticket.Diff.run),
    "ticket combine": (ticket.Combine, ticket.Combine.run),
    "ticket transplant": (ticket.Transplant, ticket.Transplant.run),
    "ticket import": (ticket.Import, ticket.Import.run),
    "ticket verify": (ticket.Verify, ticket.Verify.run),
    "eval": (_Eval, _eval),
    "predict": (_Predict, _predict),
    "report": (_Report, _report),
    "completion": (_Completion, _completion),
}

# first words of commands of two
GROUPS = {"ticket": "Look at ticket files, compare, combine and verify them, and import masks of others."}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def action() -> int | None:
        if arguments[:1] == ["--version"]:
            show(f"snnlth_jax {__version__}")
            return 0
        words, quiet, verbose = spelling.without_loudness(arguments)
        if quiet:
            logging.getLogger("snnlth_jax").setLevel(logging.ERROR)
        if verbose:
            logging.getLogger("snnlth_jax").setLevel(logging.DEBUG)
        name, command = _parse(words)
        for field in dataclasses.fields(command):
            if isinstance(value := getattr(command, field.name), _Nothing) and value == field.default:
                raise InputError(f"`{field.name}`", "of no entries", allowed="one or more, or not this flag")
        if isinstance(command, configs.EbConfig) and command.tau == 0:  # experiments may mean it
            never = "no distance is below it: the search would never stop"
            raise InputError("`tau`", command.tau, problem=never, allowed="above 0, at most 1")
        if isinstance(command, configs.TrainConfig):
            configs.check_used(command)
            search(command, Console(quiet=True) if quiet else None)
            return 0
        return COMMANDS[name][1](command)

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
        return _fail(74, f"standard output: {lost[0].strerror}")
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
        return _fail(2, error.text(flag))
    except NonFiniteLoss as error:
        return _fail(3, f"{error}: the loss or a weight is not finite; the last checkpoint is from before")
    except StorageError as error:
        return _fail(
            74, f"{error.text(flag)}; what is checkpointed stays good, the same command resumes from there"
        )
    except Stopped as stopped:
        return _fail(75, f"stopped by {stopped}; the same command resumes")
    except Exception as error:
        if (failure := refusal(error)) is None:
            raise  # a bug
        if logger.isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        return _fail(*failure)
    except KeyboardInterrupt:
        _fail(130, "interrupted; the same command resumes after the last checkpoint")
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


_LISTS = tyro.constructors.ConstructorRegistry()


class _Nothing(tuple[Any, ...]):
    """A list without an entry, as `--seeds ,` says."""


_OUTSIDE = re.compile(r",(?![^()\[\]{}]*[)\]}])")  # commas outside of brackets


@_LISTS.primitive_rule
def _list(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Lists are written with commas: `--seeds 0,1,2`; whole numbers also as a range: `--seeds 0-2`."""
    if info.type_origin is not tuple:
        return None
    (kind, _) = get_args(info.type)

    def read(texts: list[str]) -> tuple[Any, ...]:
        parts = _OUTSIDE.split(texts[0])
        if not any(part.strip() for part in parts):
            return _Nothing()
        if not all(part.strip() for part in parts):
            raise ValueError(f"an empty part in {texts[0]!r:.80}")
        if kind is int:
            return tuple(number for part in parts for number in spelling.numbers(part))
        return tuple(part if names else kind(part) for part in parts)

    names = get_args(kind)  # the choices of a Literal
    entry = {int: "INT", str: "FILE"}.get(kind, f"{{{','.join(names)}}}")
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{entry},…" if names else f"{entry},{entry},…",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


@_LISTS.primitive_rule
def _switch_or_list(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """A list that may be the default, or none: `--augment crop,flip`, `--augment none`."""
    kinds = get_args(info.type)
    if bool not in kinds or not any(get_origin(kind) is tuple for kind in kinds):
        return None

    def read(texts: list[str]) -> bool | tuple[str, ...]:
        parts = tuple(",".join(texts).split(","))
        if texts and not all(part.strip() for part in parts):
            raise ValueError(f"an empty part in {texts[0]!r:.80}")
        return (parts if texts else True) if parts != ("none",) else False

    def written(value: Any) -> list[str]:
        return [] if value is True else [",".join(value or ["none"])]

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=(0, 1),
        metavar="STEP,…|none",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, (bool, tuple)),
        str_from_instance=written,
    )


class _Print(logging.Handler):
    """Print log messages of the library beside the progress; standard error is for the one line."""

    def emit(self, record: logging.LogRecord) -> None:
        show(record.getMessage())


def _unraisable(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _fail(status: int, message: object) -> int:
    print(f"snnlth: error: {printable(message)}", file=sys.stderr, flush=True)
    return status


def _parse(arguments: Sequence[str]) -> tuple[str, Any]:
    """The name of the command, such as "imp" or "ticket diff", and its dataclass.

    Raises:
      InputError: no such command, or words that it does not take.
      SystemExit: help was asked for, and is printed.
    """
    arguments = list(arguments)
    if arguments[:1] == ["--tyro-print-completion"]:  # as other programs of tyro have it
        arguments = ["completion", *arguments[1:]]
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    name, rest = _command_of(arguments)
    words = spelling.spelled_out(rest, COMMANDS[name][0])
    if {"-h", "--help"} & {*words}:
        others = [word for word in words if word not in ("-h", "--help")]
        show(_help(name, others, "--help" not in words))
        raise SystemExit(0)
    return name, _read(name, words)


def _read(name: str, words: Sequence[str]) -> Any:
    """The dataclass of a command: flags win over its configuration file, that over the ticket's search.

    Raises:
      InputError: words or a file that it does not take.
    """
    command = COMMANDS[name][0]
    file, words = None, list(words)
    if issubclass(command, configs.TrainConfig):
        file, words = spelling.taken(words, "--config")
    values = {} if file is None else settings.read(file, command)
    config = _parsed_by_tyro(name, words, command(**values) if values else None)
    if not (isinstance(config, _Train) and config.ticket):
        return config
    given = "dataset" in values or any(word.partition("=")[0] == "--dataset" for word in words)
    own = {"dataset": config.dataset} if given else {}
    own |= {} if config.arch is None else {"arch": config.arch}
    of_ticket = dataclasses.asdict(configs.of_ticket(config.ticket, **own))
    return _parsed_by_tyro(name, words, _Train(**(of_ticket | values | {"ticket": config.ticket})))


def _parsed_by_tyro(name: str, words: Sequence[str], default: Any = None) -> Any:
    """The dataclass of a command, with the fields of another one as defaults."""
    command, prog = COMMANDS[name][0], f"snnlth {name}"
    defaults = {} if default is None else {"default": default}
    return parsed(
        lambda: tyro.cli(command, args=words, prog=prog, registry=_LISTS, **defaults),
        f"{prog} --help",
        command,
    )


def _unrecognized(options: Sequence[str], command: Any) -> str:
    """The line for words that a command does not take: its nearest flags, or the commands that take them."""
    line = f"Unrecognized options: {', '.join(options)}"
    flags = [flag for field in dataclasses.fields(command) for flag in fields.flags(field)]
    flags += [*_COMMON, *["--config"] * issubclass(command, configs.TrainConfig)]
    asked = {word.partition("=")[0].lower().replace("_", "-") for word in options if word.startswith("--")}
    others = [
        name
        for name, (other, _) in COMMANDS.items()
        if asked & {flag for field in dataclasses.fields(other) for flag in fields.flags(field)}
    ]
    nearest = spelling.nearest_flags(options, flags)
    if others and len(others) < 6:
        line += f"; options of {', '.join(others)}"
    return f"{line}; nearest: {', '.join(nearest)}" if nearest else line


def _command_of(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The name of the command and the words after it.

    Raises:
      InputError: no command, or one that does not exist.
      SystemExit: help for several commands was asked for, and is printed.
    """
    group, commands = "", _names("")
    while (word := _word(arguments, commands)) in commands and f"{group} {word}".strip() not in COMMANDS:
        group, commands, arguments = word, _names(word), arguments[1:]
    prog = f"snnlth {group}".strip()
    if word in ("-h", "--help"):
        show(help.overview(prog, {word: _about(f"{group} {word}".strip()) for word in commands}))
        raise SystemExit(0)
    if word in commands:
        return f"{group} {word}".strip(), [*arguments[1:]]
    if word.startswith("-"):
        raise InputError(f"Unrecognized options: {word} (see {prog} --help)")
    if word:
        raise not_one_of(prog, word, commands)
    raise InputError(f"Expected one of {{{', '.join(commands)}}} (see {prog} --help)")


def _word(arguments: Sequence[str], names: Sequence[str]) -> str:
    return spelling.known(arguments[0], names) if arguments else ""


def _help(name: str, words: list[str], short: bool) -> str:
    """The help for a command, with the defaults that it has beside the other words of the command line."""
    command, prog = COMMANDS[name][0], f"snnlth {name}"
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(command)}
    note = ""
    if issubclass(command, configs.TrainConfig):
        try:
            found, note = _found_defaults(name, words)
        except InputError:  # without words that are not allowed
            found, note = _found_defaults(name, [])
        defaults |= found
    common = {"--config FILE": _CONFIG} if issubclass(command, configs.TrainConfig) else {}
    common |= _COMMON
    return help.options(command, prog, defaults, note, common, short)


def _found_defaults(name: str, words: list[str]) -> tuple[dict[str, Any], str]:
    """Values of the fields that a search does not get from these words, and a line about them."""
    config = _read(name, words)
    if isinstance(config, _Train) and not config.ticket:
        note = f"The defaults are the ticket's: snnlth {name} FILE --help shows those of a file."
        return dict.fromkeys(configs.of_tickets(), "the ticket's"), note
    resolved = configs.resolve(config)
    note = f"The defaults are those with {' '.join(words)}."
    if not words:
        others = f"snnlth {name} --dataset NAME --help shows others"
        note = f"The defaults are those with --dataset {config.dataset}: {others}."
    return dataclasses.asdict(resolved) | {"augment": configs.steps(resolved, resolved.dataset)}, note


def _names(group: str) -> list[str]:
    """The words that may follow a group of commands, or the program."""
    if not group:
        return list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    return [name.split()[1] for name in COMMANDS if name.split()[0] == group]


def _about(name: str) -> str:
    """A command in a sentence or two."""
    return GROUPS[name] if name in GROUPS else inspect.getdoc(COMMANDS[name][0]) or ""


def options(command: Any, about: str, arguments: Sequence[str] | None = None) -> Any:
    """The options of a program beside `snnlth`, such as a script of experiments/; after --help it ends.

    Args:
      command: dataclass of the options.
      about: text that the help begins with.
      arguments: words of the command line; by default those of this process.

    Raises:
      InputError: words that it does not take.
      SystemExit: help was asked for, and is printed.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    prog = f"python {sys.argv[0]}"
    if {"-h", "--help"} & {*words}:
        defaults = {field.name: field.default for field in dataclasses.fields(command)}
        show(help.options(command, prog, defaults, short="--help" not in words, about=about))
        raise SystemExit(0)
    return parsed(lambda: tyro.cli(command, args=words, prog=prog), f"{prog} --help")


def parsed(parse: Callable[[], Any], more: str, command: Any = None) -> Any:
    """Run a parser of tyro; a command line that it refuses is one line, not a box.

    Args:
      parse: the parser.
      more: the command that shows the help, named at the end of the line.
      command: dataclass of the command, for the nearest flags.

    Raises:
      InputError: with that line.
    """

    try:
        # tyro's only hook for errors, and a private one, "may change in any release": without it tyro prints
        # its box, and exits with 2 as well
        from tyro._errors import on_parse_error
    except ImportError:
        return parse()

    def refuse(event: Any) -> None:
        if type(event).__name__ == "InvalidChoice":
            field = _name(event.argument).lstrip("-").replace("-", "_")
            known = command is not None and hasattr(command, field)
            choices = fields.names(command, field) if known else event.choices  # tyro adds None
            raise not_one_of(_name(event.argument), event.value, choices or event.choices)
        if type(event).__name__ == "UnrecognizedArgs" and command is not None:
            raise InputError(f"{_unrecognized(event.tokens, command)} (see {more})")
        if type(event).__name__ == "MissingArgs" and event.unrecognized_tokens and command is not None:
            unknown = _unrecognized(event.unrecognized_tokens, command)
            raise InputError(f"{_problem(event)}; {unknown} (see {more})")
        if problem := _problem(event):
            raise InputError(f"{problem} (see {more})")

    with on_parse_error(refuse):
        return parse()


def _problem(event: Any) -> str | None:
    """The line for an event of tyro; None for an unknown kind, for which tyro prints its box."""
    match type(event).__name__:
        case "InstantiationFailure":
            message = event.message.splitlines()[0]
            return f"Error parsing {_name(event.argument)}: {message}" if event.argument else message
        case "BadValue":
            return f"Missing value for argument '{_name(event.argument)}'"
        case "UnrecognizedArgs":
            return f"Unrecognized options: {', '.join(event.tokens)}"
        case "MissingArgs":
            return f"Missing: {', '.join(_name(missing.arg) for missing in event.missing_arguments)}"
        case "MissingSubcommand":
            return f"Expected one of {{{', '.join(event.subcommand_spec.parser_from_name)}}}"
    return None


def _name(argument: Any) -> str:
    """The flag of an argument of tyro, or the name of a positional one."""
    return str(argument.display_name())


if __name__ == "__main__":
    sys.exit(main())
