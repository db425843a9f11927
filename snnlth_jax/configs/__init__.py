"""Configurations: a frozen dataclass per command, composed of parts. Every default is the paper's.

`fields` says what is declared at a field (choices, bounds, its part in the identity of a run), `parts` and
`commands` declare them, `resolving` fills in defaults, `checks` refuses values, `identities` compares runs,
`repeating` says how to repeat one, `retraining` takes settings from a ticket file.
Importing this package loads neither Flax nor Orbax, and resolving starts no device.

>>> config = resolve(ImpConfig(epochs=4))
>>> config.workdir, config.rewind_epoch
('runs/imp_digits_vgg5_epochs4_seed0', 1)
"""

from snnlth_jax.configs.checks import check, check_devices, check_examples, check_frames
from snnlth_jax.configs.commands import (
    DynamicConfig,
    EbConfig,
    ImpConfig,
    OneShotConfig,
    ProbeConfig,
    ResolvedDivergence,
    ResolvedDynamic,
    ResolvedEb,
    ResolvedImp,
    ResolvedOneShot,
    ResolvedProbe,
    ResolvedRetrain,
    ResolvedRounds,
    ResolvedStability,
    ResolvedTrain,
    ResolvedTransfer,
    RetrainConfig,
    StabilityConfig,
    TrainConfig,
    TransferConfig,
)
from snnlth_jax.configs.identities import (
    Images,
    chosen,
    common,
    completed,
    conditions,
    defaulted,
    difference,
    digest,
    identity,
    not_overridable,
    overridable,
)
from snnlth_jax.configs.methods import method_name
from snnlth_jax.configs.naming import short_name
from snnlth_jax.configs.parts import (
    Controls,
    Data,
    Dataset,
    Divergence,
    EarlyTime,
    Machine,
    Network,
    Neuron,
    Rounds,
    Run,
    Seeds,
    Training,
)
from snnlth_jax.configs.repeating import changed, command_line
from snnlth_jax.configs.resolving import (
    dataset_name,
    load_dataset,
    proportional_rewind_epoch,
    resolve,
    resolve_as_before,
    resolve_with_steps,
    steps,
)
from snnlth_jax.configs.retraining import of_ticket, of_tickets
from snnlth_jax.configs.toml import toml_value, written
from snnlth_jax.configs.unused import check as check_used

__all__ = [
    "Controls",
    "Data",
    "Dataset",
    "Divergence",
    "DynamicConfig",
    "EarlyTime",
    "EbConfig",
    "Images",
    "ImpConfig",
    "Machine",
    "Network",
    "Neuron",
    "OneShotConfig",
    "ProbeConfig",
    "ResolvedDivergence",
    "ResolvedDynamic",
    "ResolvedEb",
    "ResolvedImp",
    "ResolvedOneShot",
    "ResolvedProbe",
    "ResolvedRetrain",
    "ResolvedRounds",
    "ResolvedStability",
    "ResolvedTrain",
    "ResolvedTransfer",
    "RetrainConfig",
    "Rounds",
    "Run",
    "Seeds",
    "StabilityConfig",
    "TrainConfig",
    "Training",
    "TransferConfig",
    "changed",
    "check",
    "check_devices",
    "check_examples",
    "check_frames",
    "check_used",
    "chosen",
    "command_line",
    "common",
    "completed",
    "conditions",
    "dataset_name",
    "defaulted",
    "difference",
    "digest",
    "identity",
    "load_dataset",
    "method_name",
    "not_overridable",
    "of_ticket",
    "of_tickets",
    "overridable",
    "proportional_rewind_epoch",
    "resolve",
    "resolve_as_before",
    "resolve_with_steps",
    "short_name",
    "steps",
    "toml_value",
    "written",
]
