"""Names as people type them: another case, a known abbreviation, a slip of the pen."""

import dataclasses
import difflib
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from snnlth_jax.commands import fields
from snnlth_jax.errors import InputError

__all__ = ["MOST_IN_RANGE", "known", "nearest_flags", "numbers", "spelled_out", "taken", "without_loudness"]

MOST_IN_RANGE = 10_000
_ABBREVIATIONS = {
    "bf16": "bfloat16",
    "fp32": "float32",
    "f32": "float32",
    "svhn": "svhn_cropped",
    "fmnist": "fashion_mnist",
    "analyze": "analyse",
    "oneshot": "one-shot",
    "earlybird": "eb",
    "probe": "probe-timesteps",
}
# what the authors' scripts and other programs call a field
_SYNONYMS = {
    "lr": "learning_rate",
    "method": "criterion",
    "score": "criterion",
    "t": "num_timesteps",
    "timestep": "num_timesteps",
    "bs": "batch_size",
    "end-iter": "epochs",
    "iterations": "epochs",
    "model": "arch",
    "network": "arch",
    "net": "arch",
    "prune-percent": "prune_fraction",
    "prune-iterations": "rounds",
    "scheduler": "schedule",
    "pruning-scope": "scope",
    "rewinding-epoch": "rewind_epoch",
    "valid-freq": "eval_every",
    "exp-name": "workdir",
    "out": "workdir",
    "output": "workdir",
    "logdir": "workdir",
    "wd": "weight_decay",
    "opt": "optimizer",
    "data": "dataset",
    "precision": "dtype",
    "gpus": "devices",
}


def known(value: str, names: Iterable[str]) -> str:
    """The name that a text means: itself, in another case, without its hyphens, or abbreviated.

    >>> known("CIFAR-10", ["digits", "cifar10"]), known("bf16", ["float32", "bfloat16"])
    ('cifar10', 'bfloat16')
    >>> known("other", ["digits", "cifar10"])
    'other'
    """
    every = list(names)
    if value in every:
        return value
    by_letters = {_letters(name): name for name in every}
    letters = _letters(value)
    meant = by_letters.get(letters) or _ABBREVIATIONS.get(letters, value)
    return meant if meant in every else value


def _letters(text: str) -> str:
    return re.sub(r"[-_ ]", "", text.lower())


def spelled_out(words: Sequence[str], command: type[Any]) -> list[str]:
    """The words of a command line with flags and names as the command has them.

    --augment none is for --no-augment, and --neuron-tau for --tau where the command has no other --tau.

    Args:
      words: words after the command.
      command: its dataclass.

    Raises:
      InputError: the values of a list are apart, with no commas between them.
    """
    places = [field for field in dataclasses.fields(command) if fields.is_positional(field)]
    every = [field for field in dataclasses.fields(command) if field not in places]
    by_flag = {flag: field for field in every for flag in fields.flags(field)}
    if "--neuron-tau" in by_flag:
        by_flag.setdefault("--tau", by_flag["--neuron-tau"])
    switches = {"--no-augment": ["--augment", "none"]} if "--augment" in by_flag else {}
    spelled: list[str] = []
    of_value = None  # the field whose value comes next
    before = None  # the field whose value came last
    for word in words:
        if word.startswith("-"):
            before = None
        elif before is not None and not places and fields.is_list(command, before.name):
            together = f"with commas, as {spelled[-1].rstrip(',')},{word}"
            raise InputError(f"`{before.name}`", f"{spelled[-1]} {word}", allowed=together)
        flag, equals, value = word.partition("=")
        plain = flag.lower().replace("_", "-")
        if of_value is not None and not word.startswith("--"):
            spelled.append(_value(command, of_value, word))
            of_value, before = None, of_value
        elif plain in switches and not equals:
            spelled += switches[plain]
        elif plain.startswith("--") and plain in by_flag:
            field = by_flag[plain]
            own = "--neuron-tau" if plain == "--tau" and field.name == "neuron_tau" else plain
            spelled.append(own + equals + (_value(command, field, value) if equals else ""))
            of_value = None if equals or fields.is_switch(field) else field
        elif places and not word.startswith("-"):
            spelled.append(_value(command, places.pop(0), word))
        else:
            spelled.append(word)
            of_value = None
    return spelled


def _value(command: type[Any], field: dataclasses.Field[Any], text: str) -> str:
    """The value of a flag, with names in it as they are known; a file or folder of that name comes first."""
    names = fields.names(command, field.name)
    if not names or (field.name == "dataset" and text not in names and os.path.exists(text)):
        return text
    if fields.is_list(command, field.name):
        return ",".join(known(part.strip(), (*names, "none")) for part in text.split(","))
    return known(text, names)


def taken(words: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """The value of a flag among some words, if it is there, and the other words.

    >>> taken(["--epochs", "3", "--config=a.toml"], "--config")
    ('a.toml', ['--epochs', '3'])

    Raises:
      InputError: the flag has no value, or stands there twice.
    """
    value, rest = None, list(words)
    for place in reversed([i for i, word in enumerate(words) if word.partition("=")[0] == flag]):
        _, equals, own = rest[place].partition("=")
        if value is not None or not (own if equals else rest[place + 1 : place + 2]):
            raise InputError(flag, problem="needs one file" if value is None else "is given twice")
        value = own if equals else rest[place + 1]
        del rest[place : place + (1 if equals else 2)]
    return value, rest


def without_loudness(words: Sequence[str]) -> tuple[list[str], bool, bool]:
    """Words without --quiet and --verbose, and whether these were there.

    >>> without_loudness(["imp", "--quiet"])
    (['imp'], True, False)

    Raises:
      InputError: both were.
    """
    quiet, verbose = "--quiet" in words, "--verbose" in words
    if quiet and verbose:
        raise InputError("--quiet", allowed="without --verbose")
    return [word for word in words if word not in ("--quiet", "--verbose")], quiet, verbose


def nearest_flags(words: Iterable[str], flags: Iterable[str]) -> list[str]:
    """The flags that are nearest to those among some words; none for one that is like no flag.

    >>> nearest_flags(["--epoch", "3", "--lr"], ["--epochs", "--learning-rate", "--rounds"])
    ['--epochs', '--learning-rate']
    """
    every = list(flags)
    nearest = []
    for word in words:
        if not re.match(r"-+[a-zA-Z]", word):
            continue
        name = word.lstrip("-").partition("=")[0].lower().replace("_", "-")
        synonym = "--" + _SYNONYMS.get(name, "").replace("_", "-")
        beginning = [flag for flag in every if flag.startswith(f"--{name}") and len(name) > 1]
        near = difflib.get_close_matches(f"--{name}", every, n=1, cutoff=0.7)
        containing = [flag for flag in every if len(name) > 2 and name in flag]
        nearest += [flag for flag in [synonym, *near, *beginning, *containing] if flag in every][:1]
    return list(dict.fromkeys(nearest))


def numbers(text: str) -> list[int]:
    """The whole numbers that a part of a list means: one, or a range with both ends.

    >>> numbers("3"), numbers("0-4")
    ([3], [0, 1, 2, 3, 4])

    Raises:
      ValueError: neither, or a range that is empty or too long.
    """
    match = re.fullmatch(r"\s*(\d{1,20})-(\d{1,20})\s*", text)
    if match is None:
        if not re.fullmatch(r"\s*[+-]?\d{1,20}\s*", text):
            other = ", and no range such as 0-4"
            if re.fullmatch(r"\s*\d{1,9}(\s*[x*:]\s*\d{1,9})+\s*", text):
                other = f": several are written {','.join(re.findall('[0-9]+', text))}"
            raise ValueError(f"{text.strip()!r:.80} is no whole number{other}")
        return [int(text)]
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + MOST_IN_RANGE:
        wrong = f"in {text.strip()} the first comes after the last"
        raise ValueError(wrong if first > last else f"{text.strip()} is more than {MOST_IN_RANGE:,} numbers")
    return list(range(first, last + 1))
