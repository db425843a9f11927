"""What a phase leaves behind: its row, its ticket, and the summary of all in result.json."""

from typing import TYPE_CHECKING, Any

from snnlth_jax import configs, masks, tickets
from snnlth_jax.analysis import sparsity
from snnlth_jax.analysis.flops import train_flops
from snnlth_jax.machine import hosts
from snnlth_jax.run import directory as rundir
from snnlth_jax.run import results
from snnlth_jax.run.metrics import FORMAT, environment
from snnlth_jax.search import ledger
from snnlth_jax.search.programs import Network
from snnlth_jax.search.rewinding import RewindPoint

if TYPE_CHECKING:
    from snnlth_jax.search.session import Session

PyTree = Any

__all__ = ["finish_phase", "result", "save_ticket", "ticket_name"]


def finish_phase(session: "Session", network: Network, ticket: str | None = None, **fields) -> None:
    """Write the phase's row into metrics.jsonl and result.json; `fields` come on top of what it has."""
    phase, state = session.phases[session.progress["phase"]], session.arrays["state"]
    measured: dict[str, Any] = {}
    if phase.kind not in ("probe", "scores"):  # those train nothing that is kept
        with session.timed():
            measured = session.networks.measure(network, state)
    kept, total = masks.count(state.masks)
    epochs = session.progress["epoch"] - phase.first_epoch
    images = epochs * len(session.train_split.labels)
    row = {
        "kind": phase.kind,
        "round": phase.round,
        "kept": kept,
        "total": total,
        "sparsity": 1 - kept / total,
        "collapsed_layers": sparsity.collapsed(state.masks),
        "network": str(network),
        "num_timesteps": network.num_timesteps,
        "epochs": epochs,
        "images": images,
        "forward_flops": images * session.networks.forward_flops(network),
        "train_flops": images * train_flops(session.networks.forward_flops(network)),
        "device_seconds": 0.0,
        "seconds": 0.0,
        **session.progress["row"],
        "ticket": ticket,
        **measured,
        **fields,
    }
    session.recorder.write("round", **row)
    accuracy = row.get("final_test_accuracy")
    session.recorder.say(
        f"{phase}: sparsity {100 * row['sparsity']:.2f} %, {kept:,} weights, "
        + (f"test accuracy {accuracy:.4f}, " if accuracy is not None else "")
        + f"{row['seconds']:.0f} s"
    )
    if row["collapsed_layers"]:
        session.recorder.say(
            f"{phase}: layer collapse, nothing is left of {', '.join(row['collapsed_layers'])}"
        )
    session.progress["rows"] = [*session.progress["rows"], row]
    summary = result(session)
    session.manager.wait_until_finished()  # what is written down as done is in a checkpoint
    hosts.on_first(lambda: rundir.write_json(session.paths.result, summary))


def save_ticket(
    session: "Session", round_number: int, searched_with: Network, ticket_masks: PyTree, point: RewindPoint
) -> str:
    """Write the ticket of a round: its masks and rewind point; its name within the run."""
    path = session.paths.ticket(round_number)
    kept, total = masks.count(ticket_masks)
    provenance = {
        **session.identity,
        "config_hash": configs.digest(session.identity),
        "round": round_number,
        "kept": kept,
        "total": total,
        "sparsity": 1 - kept / total,
        "searched_with": str(searched_with),
        "image_shape": list(session.dataset.image_shape),
        "num_classes": session.dataset.num_classes,
        "versions": environment()["versions"],
    }
    ticket = tickets.Ticket(ticket_masks, point.params, point.batch_stats, provenance)
    hosts.on_first(lambda: tickets.save(path, ticket))
    return ticket_name(session, round_number)


def ticket_name(session: "Session", round_number: int) -> str:
    """Of its file, within the run."""
    path = session.paths.ticket(round_number)
    return f"{path.parent.name}/{path.name}"


def result(session: "Session") -> dict[str, Any]:
    """What result.json holds."""
    rows, compile_seconds = session.progress["rows"], session.progress["compile_seconds"]
    forward_flops = len(session.train_split.labels) * session.networks.forward_flops(session.network())
    return {
        "format": FORMAT,
        "method": configs.method_name(session.config),
        "finished": len(rows) == len(session.phases),
        "config_hash": configs.digest(session.identity),
        "config": session.identity,
        "preparations": [row for row in rows if row["kind"] in ("probe", "scores")],
        "rounds": [row for row in rows if row["kind"] in ("round", "search")],
        "tickets": [
            results.to_json(ticket)
            for ticket in ledger.tickets(
                results.read_rows(rows), session.config, train_flops(forward_flops), compile_seconds
            )
        ],
        "controls": [row for row in rows if row["kind"] not in (*ledger.SEARCH_KINDS, "ticket")],
        "flops_per_image": session.networks.by_timestep,
        "early_time": session.progress["early_time"],
        "early_bird": session.progress["early_bird"],
        "overrides": session.progress["overrides"],
        "train_compilations": len(compile_seconds),
        "compile_seconds": sum(compile_seconds.values()),
        **environment(),
    }
