"""The commands of `snnlth` by name: the dataclass of each, and what runs it."""

from collections.abc import Callable
from typing import Any

from snnlth_jax import configs
from snnlth_jax.commands import completion, help, ticket
from snnlth_jax.commands.completion import Completion
from snnlth_jax.commands.data import Data
from snnlth_jax.commands.demo import Demo
from snnlth_jax.commands.devices import Compile, Doctor
from snnlth_jax.commands.evaluate import Eval, Predict
from snnlth_jax.commands.export import Export
from snnlth_jax.commands.reports import Analyse, Report
from snnlth_jax.commands.searches import Train, search

__all__ = ["COMMANDS", "GROUPS"]


def _complete(command: Completion) -> None:
    parsers = {name: parser for name, (parser, _) in COMMANDS.items()}
    print(completion.script(command.shell, parsers, ["--help", "--config", *help.COMMON]), end="")


COMMANDS: dict[str, tuple[Any, Callable[[Any], int | None]]] = {
    "imp": (configs.ImpConfig, search),
    "eb": (configs.EbConfig, search),
    "one-shot": (configs.OneShotConfig, search),
    "dynamic": (configs.DynamicConfig, search),
    "transfer": (configs.TransferConfig, search),
    "probe-timesteps": (configs.ProbeConfig, search),
    "stability": (configs.StabilityConfig, search),
    "train": (Train, search),
    "demo": (Demo, Demo.run),
    "analyse": (Analyse, Analyse.run),
    "compile": (Compile, Compile.run),
    "doctor": (Doctor, Doctor.run),
    "data": (Data, Data.run),
    "export": (Export, Export.run),
    "ticket inspect": (ticket.Inspect, ticket.Inspect.run),
    "ticket diff": (ticket.Diff, ticket.Diff.run),
    "ticket combine": (ticket.Combine, ticket.Combine.run),
    "ticket transplant": (ticket.Transplant, ticket.Transplant.run),
    "ticket import": (ticket.Import, ticket.Import.run),
    "ticket verify": (ticket.Verify, ticket.Verify.run),
    "eval": (Eval, Eval.run),
    "predict": (Predict, Predict.run),
    "report": (Report, Report.run),
    "completion": (Completion, _complete),
}

# first words of commands of two
GROUPS = {"ticket": "Look at ticket files, compare, combine and verify them, and import masks of others."}
