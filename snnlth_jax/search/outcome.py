"""Outcome of a search: the row of each phase, its tickets, and the result; pure functions."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from snnlth_jax import configs, masks, networks, tickets
from snnlth_jax.analysis import sparsity
from snnlth_jax.analysis.flops import train_flops
from snnlth_jax.run.metrics import devices, versions
from snnlth_jax.run.results import Result, Row
from snnlth_jax.search import ledger
from snnlth_jax.search.measure import Measurement
from snnlth_jax.search.phases import Phase
from snnlth_jax.search.programs import Variant, Variants, full_variant
from snnlth_jax.search.progress import Progress
from snnlth_jax.search.rewinding import RewindPoint
from snnlth_jax.train import TrainState

PyTree = Any

__all__ = ["Work", "at_its_first_times", "files", "network", "result", "row", "ticket"]


class Work(NamedTuple):
    """Work of a phase, see the fields of `Row`."""

    images: int
    forward_flops: int
    train_flops: int
    device_seconds: float
    compile_seconds: float = 0.0


def row(
    phase: Phase,
    variant: Variant,
    progress: Progress,
    mask_tree: PyTree,
    ticket_name: str | None,
    measured: Measurement,
    variants: Variants,
    work: Work | None = None,
) -> Row:
    """The row of a completed phase.

    Args:
      phase: the phase.
      variant: network variant that it trained.
      progress: progress at its end.
      mask_tree: masks of the network that it trained.
      ticket_name: name of its ticket file within the run.
      measured: measurements of its layers.
      variants: variants of the network, for their FLOPs.
      work: work that it did, if not only that of its epochs.
    """
    kept, total = map(int, masks.count(mask_tree))
    epochs = progress.epoch - phase.first_epoch
    tally = progress.row
    if work is None:
        images = epochs * len(variants.dataset.train.labels)
        forward = images * variants.forward_flops(variant)
        work = Work(images, forward, train_flops(forward), tally.device_seconds)
    return Row(
        kind=phase.kind,
        round=phase.round,
        kept=kept,
        total=total,
        collapsed_layers=tuple(sparsity.collapsed(mask_tree)),
        network=str(variant),
        num_timesteps=variant.num_timesteps,
        epochs=epochs,
        seconds=tally.seconds,
        final_test_accuracy=tally.final_test_accuracy,
        best_test_accuracy=tally.best_test_accuracy,
        final_validation_accuracy=tally.final_validation_accuracy,
        best_validation_accuracy=tally.best_validation_accuracy,
        ticket=ticket_name,
        layers=measured.layers,
        measured_images=measured.measured_images,
        weights_on_no_path=measured.weights_on_no_path,
        **work._asdict(),
    )


def at_its_first_times(row: Row, earlier: Sequence[Row]) -> Row:
    """The row with the times of an equal one in `earlier`: a phase that was killed right after it was
    recorded is completed again, in other seconds."""
    clock = ("seconds", "device_seconds", "compile_seconds")
    fields = [name for name in Row.__struct_fields__ if name not in clock]
    for other in earlier:
        if all(getattr(other, name) == getattr(row, name) for name in fields):
            return msgspec.structs.replace(row, **{name: getattr(other, name) for name in clock})
    return row


def files(rows: Sequence[Row]) -> list[str]:
    """Names of the files within the run that rows name."""
    return list(dict.fromkeys(row.ticket for row in rows if row.ticket))


def ticket(
    identity: Mapping[str, Any],
    round_number: int,
    searched_with: Variant,
    mask_tree: PyTree,
    point: RewindPoint,
    variants: Variants,
) -> tickets.Ticket:
    """The ticket of a round: its masks, its weights, and its provenance."""
    kept, total = masks.count(mask_tree)
    provenance = {
        **identity,
        "config_hash": configs.digest(dict(identity)),
        "round": round_number,
        "kept": kept,
        "total": total,
        "sparsity": 1 - kept / total,
        "searched_with": str(searched_with),
        "image_shape": list(variants.dataset.image_shape),
        "num_classes": variants.dataset.num_classes,
        **({"classes": list(variants.dataset.classes)} if variants.dataset.classes else {}),
        "versions": versions(),
    }
    return tickets.Ticket(mask_tree, point.params, point.batch_stats, provenance)


def network(
    identity: Mapping[str, Any],
    phase: Phase,
    variant: Variant,
    row: Row,
    state: TrainState,
    variants: Variants,
) -> networks.Network:
    """The trained network of a phase, with its recipe and its provenance.

    Args:
      identity: identity of the search.
      phase: the phase.
      variant: network variant that it trained.
      row: its row.
      state: state at its end.
      variants: variants of the network.
    """
    provenance = {
        **identity,
        "config_hash": configs.digest(dict(identity)),
        "phase": str(phase),
        "round": row.round,
        "kept": row.kept,
        "total": row.total,
        "sparsity": row.sparsity,
        "trained_epochs": row.epochs,
        "test_accuracy": row.final_test_accuracy,
        "versions": versions(),
    }
    recipe = variants.recipe(variant)
    return networks.Network(recipe, state.masks, state.params, state.batch_stats, provenance)


def result(
    config: configs.ResolvedTrain,
    identity: Mapping[str, Any],
    phases: Sequence[Phase],
    progress: Progress,
    variants: Variants,
) -> Result:
    """The result of a search so far."""
    rows = list(zip(phases, progress.rows, strict=False))
    epoch_flops = train_flops(
        len(variants.dataset.train.labels) * variants.forward_flops(full_variant(config))
    )
    return Result(
        method=configs.method_name(config),
        finished=len(rows) == len(phases),
        config_hash=configs.digest(dict(identity)),
        config=dict(identity),
        preparations=tuple(done for phase, done in rows if phase.part == "preparations"),
        rounds=tuple(done for phase, done in rows if phase.part == "rounds"),
        tickets=ledger.tickets(rows, config, epoch_flops, progress.compile_seconds),
        controls=tuple(done for phase, done in rows if phase.part == "controls"),
        flops_per_image=variants.flops_per_image,
        early_time=progress.early_time,
        early_bird=progress.early_bird,
        stability=progress.stability,
        overrides=tuple(progress.overrides),
        train_compilations=len(progress.compile_seconds),
        compile_seconds=sum(progress.compile_seconds.values()),
        versions=versions(),
        devices=devices(),
    )
