"""The same training with the convolutions of `models.convolution` and with XLA's own: its curves.

    python benchmarks/curve.py [FLAG...]

Flags are those of `snnlth imp`; by default the dense network on digits. The two differ in rounding alone,
which spikes amplify: tests/test_training.py compares them in double precision, where they agree.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from snnlth_jax import cli
from snnlth_jax.models import _conv_cpu


def epochs(flags: list[str], directory: str) -> list[dict[str, Any]]:
    assert cli.main(["imp", "--rounds", "1", *flags, "--workdir", directory]) == 0
    lines = map(json.loads, (Path(directory) / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "epoch"]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="snnlth_curve_") as directory:
        ours = epochs(sys.argv[1:], f"{directory}/ours")
        _conv_cpu._conv = _conv_cpu._plain
        plain = epochs(sys.argv[1:], f"{directory}/plain")
    table = Table("epoch", "loss", "XLA's", "test accuracy", "XLA's")
    for a, b in zip(ours, plain, strict=True):
        shown = (f"{x[name]:.4f}" for name in ("train_loss", "test_accuracy") for x in (a, b))
        table.add_row(str(a["epoch"]), *shown)
    Console().print(table)


if __name__ == "__main__":
    main()
