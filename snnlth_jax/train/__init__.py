"""Training: one step for one device (`step`), an epoch as one compiled loop (`loop`), the optimisers."""

from snnlth_jax.train.loop import (
    Epoch,
    Evaluation,
    NonFiniteLoss,
    Program,
    compile_evaluation,
    compile_program,
    compile_steps,
    fit,
)
from snnlth_jax.train.step import (
    Batch,
    Metrics,
    TrainState,
    eval_step,
    init_state,
    train_step,
    zero_metrics,
)

__all__ = [
    "Batch",
    "Epoch",
    "Evaluation",
    "Metrics",
    "NonFiniteLoss",
    "Program",
    "TrainState",
    "compile_evaluation",
    "compile_program",
    "compile_steps",
    "eval_step",
    "fit",
    "init_state",
    "train_step",
    "zero_metrics",
]
