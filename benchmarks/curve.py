"""Curves of the same training run with the convolutions of `models._conv_cpu` and with XLA's own.

    python benchmarks/curve.py [FLAG...]

Flags are those of `snnlth imp`; by default the dense network on digits. The two differ in rounding alone,
which spikes amplify: tests/test_training.py compares them in double precision, where they agree.
"""

import sys
import tempfile

from rich.console import Console
from rich.table import Table

from snnlth_jax import cli
from snnlth_jax.models import _conv_cpu
from snnlth_jax.run import directory as rundir
from snnlth_jax.run import events
from snnlth_jax.search import programs


def epochs(flags: list[str], directory: str) -> list[events.EpochEvent]:
    programs.SHARED.clear()  # the other convolutions are compiled in
    assert cli.main(["imp", "--rounds", "1", *flags, "--workdir", directory]) == 0
    return events.select(events.read(rundir.paths(directory).metrics), events.EpochEvent)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="snnlth_curve_") as directory:
        ours = epochs(sys.argv[1:], f"{directory}/ours")
        _conv_cpu._CONV = _conv_cpu._CONV.definition
        plain = epochs(sys.argv[1:], f"{directory}/plain")
    table = Table("epoch", "loss", "XLA's", "test accuracy", "XLA's")
    for a, b in zip(ours, plain, strict=True):
        losses, accuracies = (a.train_loss, b.train_loss), (a.test_accuracy, b.test_accuracy)
        table.add_row(str(a.epoch), *(f"{x:.4f}" for x in losses + accuracies))
    Console().print(table)


if __name__ == "__main__":
    main()
