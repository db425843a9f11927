"""The words of a command line: the command that they name, its dataclass, its help."""

import dataclasses
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import tyro

from snnlth_jax import configs
from snnlth_jax.commands import fields, help, settings, spelling, syntax
from snnlth_jax.commands.output import show
from snnlth_jax.commands.searches import Train
from snnlth_jax.commands.table import COMMANDS, GROUPS
from snnlth_jax.errors import InputError, not_one_of

__all__ = ["options", "parse"]


def parse(arguments: Sequence[str]) -> tuple[str, Any]:
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
    for word, other in (("--seed", "seeds"), ("--seeds", "seed")):  # which take each other's place
        if any(one.partition("=")[0] == word for one in words):
            values.pop(other, None)
    config = _parsed_by_tyro(name, words, command(**values) if values else None)
    if not (isinstance(config, Train) and config.ticket):
        return config
    given = "dataset" in values or any(word.partition("=")[0] == "--dataset" for word in words)
    own = {"dataset": config.dataset} if given else {}
    own |= {} if config.arch is None else {"arch": config.arch}
    of_ticket = dataclasses.asdict(configs.of_ticket(config.ticket, **own))
    return _parsed_by_tyro(name, words, Train(**(of_ticket | values | {"ticket": config.ticket})))


def _parsed_by_tyro(name: str, words: Sequence[str], default: Any = None) -> Any:
    """The dataclass of a command, with the fields of another one as defaults."""
    command, prog = COMMANDS[name][0], f"snnlth {name}"
    defaults = {} if default is None else {"default": default}
    return syntax.parsed(
        lambda: tyro.cli(command, args=words, prog=prog, registry=syntax.RULES, **defaults),
        f"{prog} --help",
        command,
        lambda options: _unrecognized(options, command, [*help.COMMON, *_config_flag(command)], COMMANDS),
    )


def _config_flag(command: Any) -> list[str]:
    return ["--config"] * issubclass(command, configs.TrainConfig)


def _unrecognized(
    options: Sequence[str],
    command: Any,
    more: Sequence[str] = (),
    commands: Mapping[str, tuple[Any, Any]] | None = None,
) -> str:
    """The line for words that a command does not take: its nearest flags, or the commands that take them."""
    flags = [*(flag for field in dataclasses.fields(command) for flag in fields.flags(field)), *more]
    asked = {word.partition("=")[0].lower().replace("_", "-") for word in options if word.startswith("--")}
    others = [
        name
        for name, (other, _) in (commands or {}).items()
        if asked & {flag for field in dataclasses.fields(other) for flag in fields.flags(field)}
    ]
    return _nearest(options, flags, f"; options of {', '.join(others)}" if 0 < len(others) < 6 else "")


def _nearest(options: Sequence[str], flags: Sequence[str], more: str = "") -> str:
    line = f"Unrecognized options: {', '.join(options)}{more}"
    nearest = spelling.nearest_flags(options, flags)
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
        raise InputError(f"{_nearest([word], ['--help', '--version'])} (see {prog} --help)")
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
            filled_in, note = _found_defaults(name, words)
        except InputError:  # without words that are not allowed
            filled_in, note = _found_defaults(name, [])
        defaults |= filled_in
    common = {"--config FILE": help.CONFIG} if issubclass(command, configs.TrainConfig) else {}
    common |= help.COMMON
    return help.options(command, prog, defaults, note, common, short)


def _found_defaults(name: str, words: list[str]) -> tuple[dict[str, Any], str]:
    """Values of the fields that a search does not get from these words, and a line about them."""
    config = _read(name, words)
    if isinstance(config, Train) and not config.ticket:
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
    words = spelling.spelled_out(words, command)
    prog = f"python {sys.argv[0]}"
    if {"-h", "--help"} & {*words}:
        defaults = {field.name: field.default for field in dataclasses.fields(command)}
        show(help.options(command, prog, defaults, short="--help" not in words, about=about))
        raise SystemExit(0)
    return syntax.parsed(
        lambda: tyro.cli(command, args=words, prog=prog, registry=syntax.RULES),
        f"{prog} --help",
        command,
        lambda unknown: _unrecognized(unknown, command),
    )
