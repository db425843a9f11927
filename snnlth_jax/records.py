"""What a run tells: metrics.jsonl for programs, progress for people. Process 0 only.

On a terminal there is a progress bar, elsewhere a plain line per epoch.
"""

import json
import time
from typing import Any

import jax
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["Recorder", "environment", "mean_table", "phase_name", "print_result"]


class Recorder:
    """Appends to metrics.jsonl and shows progress; use as a context manager.

    Args:
      path: of metrics.jsonl.
      console: where people look.
    """

    def __init__(self, path: epath.Path, console: Console):
        self._path, self._console = path, console
        self._total = 0  # epochs of the whole search, for the time left
        self._active = jax.process_index() == 0
        self._done = self._start = 0.0  # epochs, done and at the start of this process
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (self._active and console.is_terminal),
        )
        self._task = self._progress.add_task("", total=None, status="compiling")
        self._began = time.perf_counter()

    def __enter__(self) -> "Recorder":
        self._progress.start()
        return self

    def __exit__(self, *exception) -> None:
        self._progress.stop()

    # --- for programs

    def truncate(self, size: int) -> None:
        """Forget what was recorded after a checkpoint; what is trained again is recorded again."""
        if self._active and self._path.exists():
            shortened = self._path.parent / f".{self._path.name}.partial"
            shortened.write_bytes(self._path.read_bytes()[:size])
            shortened.replace(self._path)

    def size(self) -> int:
        """Bytes recorded so far, for `truncate`."""
        return self._path.stat().length if self._path.exists() else 0

    def write(self, event: str, **fields: Any) -> None:
        """One line of metrics.jsonl."""
        if self._active:
            with self._path.open("a") as file:
                file.write(json.dumps({"event": event, **fields}) + "\n")

    # --- for people

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._active:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def resume(self, epochs: int) -> None:
        """So many epochs were done by earlier processes."""
        self._done = self._start = epochs
        self._progress.update(self._task, completed=epochs)

    def expect(self, total_epochs: int) -> None:
        """So many epochs the whole search will have, as far as is known."""
        self._total = total_epochs
        self._progress.update(self._task, total=total_epochs)

    def show(self, label: str, epochs_done: float, loss: float, accuracy: float, rate: float) -> None:
        """Move the bar: `epochs_done` of the whole search, running loss and accuracy, images per second."""
        self._done = epochs_done
        self._progress.update(
            self._task,
            description=label,
            completed=epochs_done,
            status=f"loss {loss:.3f}  accuracy {accuracy:.3f}  {rate:,.0f} images/s",
        )

    def line(self, label: str, fields: dict[str, Any], rate: float) -> None:
        """The plain line of an epoch, where there is no bar."""
        if self._active and not self._console.is_terminal:
            elapsed = time.perf_counter() - self._began
            left = elapsed / max(self._done - self._start, 1e-9) * (self._total - self._done)
            accuracies = "".join(
                f"  {name.removesuffix('_accuracy')} {value:.4f}"
                for name, value in fields.items()
                if name.endswith("_accuracy")
            )
            self.say(
                f"{label}  loss {fields['train_loss']:.4f}{accuracies}  {rate:,.0f} images/s"
                f"  {_duration(left)} left"
            )


def phase_name(kind: str, number: int) -> str:
    """What a phase of a search is called: "round 3", "ticket 3", "random 3"; there is one "probe"."""
    return kind if kind in ("probe", "scores", "search") else f"{kind} {number}"


def print_result(result: dict[str, Any], console: Console) -> None:
    """The tables at the end: a line per training, and what each ticket cost."""
    title = f"{result['method']} on {result['config']['dataset']}, {result['config']['arch']}"
    trainings = _trainings(result)
    dense = {
        row["num_timesteps"]: row["final_test_accuracy"]
        for row in reversed(trainings)
        if row["kept"] == row["total"] and row["kind"] != "search"
    }
    table = _table(title, "", "T", "sparsity", "kept", "accuracy", "from dense", "seconds")
    for row in trainings:
        accuracy, reference = row.get("final_test_accuracy"), dense.get(row["num_timesteps"])
        difference = None if accuracy is None or reference is None else accuracy - reference
        table.add_row(
            phase_name(row["kind"], row["round"]),
            f"{row['num_timesteps']}",
            f"{100 * row['sparsity']:.2f} %",
            f"{row['kept']:,}",
            "" if accuracy is None else f"{accuracy:.4f}",
            "" if difference is None else f"{100 * difference:+.2f}",
            f"{row['seconds']:.0f}",
        )
    if trainings:
        console.print(table)
    if measured := (result["early_time"] or {}).get("over_epochs"):
        candidates, lambdas = measured[0]["normalised"], measured[0]["by_lambda"]
        curves = _table("divergences D_t, normalised, over epochs", "epoch", *(f"D_{t}" for t in candidates))
        chosen = _table("T' by lambda, over epochs", "epoch", *lambdas)
        for each in measured:
            curves.add_row(str(each["epoch"]), *(f"{d:.3f}" for d in each["normalised"].values()))
            chosen.add_row(str(each["epoch"]), *(str(t) for t in each["by_lambda"].values()))
        console.print(curves)
        console.print(chosen)
    for ticket in result["tickets"]:
        search, training = ticket["search"], ticket["training"]
        console.print(
            f"{phase_name(ticket['kind'], ticket['round'])}: search {_cost(search)}, "
            f"{100 * ticket['search_relative_to_imp']:.1f} % of the FLOPs of IMP at "
            f"T = {result['config']['num_timesteps']}; then training {_cost(training)}",
            highlight=False,
            soft_wrap=True,
        )


def _cost(part: dict[str, Any]) -> str:
    return (
        f"{part['epochs']} epochs, {part['train_flops'] / 1e12:.3g} TFLOP, "
        f"{part['device_seconds']:.0f} s and {part['compile_seconds']:.0f} s compiling"
    )


def mean_table(summary: dict[str, Any]) -> Table:
    """Mean and standard deviation over seeds: a line per training."""
    config, count = summary["config"], len(summary["seeds"])
    title = f"{summary['method']} on {config['dataset']}, {config['arch']}: mean ± std of {count} seeds"
    table = _table(title, "", "sparsity", "accuracy", "search TFLOP", "of IMP", "device s")
    for row in _trainings(summary):
        table.add_row(
            phase_name(row["kind"], row["round"]),
            f"{100 * row['sparsity']:.2f} %",
            _plus_minus(row["final_test_accuracy"], ".4f"),
            _plus_minus(row.get("search_train_flops"), ".4g", 1e-12),
            _plus_minus(row.get("search_relative_to_imp"), ".3f"),
            _plus_minus(row.get("search_device_seconds"), ".0f"),
        )
    return table


def _plus_minus(spread: dict[str, Any] | None, form: str, scale: float = 1.0) -> str:
    if spread is None:
        return ""
    std = f" ± {scale * spread['std']:{form}}" if spread["std"] else ""
    return f"{scale * spread['mean']:{form}}{std}"


def _trainings(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per training; of a round of IMP that is a ticket at the same time the latter's."""
    rows = {(r["kind"], r["round"]): r for part in ("rounds", "tickets", "controls") for r in result[part]}
    return list(rows.values())


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def environment() -> dict[str, Any]:
    """Versions and devices, for provenance."""
    from importlib.metadata import version

    packages = ("snnlth_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    devices = jax.devices()
    return {
        "versions": {name: version(name) for name in packages},
        "devices": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
    }


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
