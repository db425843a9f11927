"""What every search does around its own idea: a run directory, resume, compiled programs, records.

A search is a list of phases (a round, a control ...), each a training that ends with a line in result.json.
The progress through them is a few JSON values that go into each checkpoint beside the arrays, so that the
same command goes on where it stopped.
"""

import contextlib
import dataclasses
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from rich.console import Console

from snnlth_jax import checkpoints, configs, cost, data, ledger, masks, optimizers, tables, tickets, training
from snnlth_jax.records import Recorder, environment, phase_name
from snnlth_jax.search.networks import Network, Networks
from snnlth_jax.search.rewinding import RewindPoint
from snnlth_jax.training import TrainState

PyTree = Any
Arrays = dict[str, PyTree]

__all__ = ["Arrays", "Phase", "Session", "Trainer", "run"]


class Phase(NamedTuple):
    """One training of a search.

    Attributes:
      kind: "round" of IMP, "search" of Early-Bird, "probe" of Early-Time, "scores" of a criterion, "ticket"
        for the final training of one, or a control: "random", "redrawn", "dense".
      round: of the search, 0 is dense.
      first_epoch: epochs that the weights have behind them when it starts.
      last_epoch: and when it ends; None for as many as the search and the training of its ticket had.
    """

    kind: str
    round: int
    first_epoch: int
    last_epoch: int | None

    def __str__(self) -> str:
        return phase_name(self.kind, self.round)


@dataclasses.dataclass
class Session:
    """A run that is under way; made by `run`."""

    config: Any
    dataset: data.Dataset
    phases: Sequence[Phase]
    identity: dict[str, Any]
    paths: checkpoints.Paths
    recorder: Recorder
    manager: ocp.CheckpointManager

    def __post_init__(self):
        config, dataset = self.config, self.dataset
        self.tx = optimizers.create(
            config.optimizer, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self.networks = Networks(config, dataset, self.tx)
        self.train_split = jax.device_put(dataset.train)
        self.splits = {"test": jax.device_put(dataset.test)}
        if dataset.validation is not None:
            self.splits["validation"] = jax.device_put(dataset.validation)
        self.init_key, self.train_key, self.mask_key, self.score_key = jax.random.split(
            jax.random.key(config.seed), 4
        )
        self.progress: dict[str, Any] = {"phase": -1, "epoch": 0, "epochs_done": 0, "over": False}
        self.progress |= {"rows": [], "row": {}}
        self.progress |= {"compile_seconds": {}, "early_time": None, "early_bird": None}
        self._initial: dict[int, TrainState] = {}

    # --- networks

    def network(self) -> Network:
        """The one that tickets are for: at the full T."""
        return Network(self.config.activation, self.config.num_timesteps)

    def search_network(self) -> Network:
        """The one that is searched: with fewer timesteps, once Early-Time has chosen how many."""
        chosen = self.progress["early_time"]
        return self.network()._replace(**({"num_timesteps": chosen["num_timesteps"]} if chosen else {}))

    def program(self, state: TrainState, network: Network) -> training.Program:
        """Its compiled training; one for all phases."""
        known = self.networks.compiled(network)
        if not known:
            self.recorder.say(f"compiling training and evaluation: {network} ...")
        program = self.networks.program(network, state, self.train_split, self.splits["test"])
        if not known:
            self.recorder.say(f"compiled in {program.compile_seconds:.1f} s")
            self.progress["compile_seconds"][str(network)] = program.compile_seconds
        return program

    # --- state

    def init_state(self, redrawn: int = 0) -> TrainState:
        """The network as initialised by the seed, or with weights drawn once more."""
        if redrawn not in self._initial:
            key = jax.random.fold_in(self.init_key, redrawn) if redrawn else self.init_key
            self._initial = {redrawn: jax.device_get(self.networks.init_state(key))}
        return jax.tree.map(jnp.array, self._initial[redrawn])  # copied, since training consumes them

    def restore(self, arrays: Arrays) -> Arrays:
        """The arrays and the progress of the newest checkpoint; `arrays` as they are where there is none."""
        restored = checkpoints.restore(self.manager, arrays)
        if restored is not None:
            arrays, self.progress = restored
            phase = self.phases[self.progress["phase"]]
            self.recorder.say(f"going on after {phase}, epoch {self.progress['epoch']}")
        self.recorder.truncate(self.progress.get("metrics_bytes", 0))
        self.recorder.resume(self.progress["epochs_done"])
        self.recorder.write("start", resumed=restored is not None, **environment())
        return arrays

    def checkpoint(self, arrays: Arrays) -> None:
        """Save arrays and progress, if this epoch is to have a checkpoint."""
        if self.progress["epoch"] % self.config.checkpoint_every == 0 or self.progress["over"]:
            self.progress["metrics_bytes"] = self.recorder.size()
            checkpoints.save(self.manager, self.progress["epochs_done"], arrays, self.progress)

    # --- phases

    def remaining(self) -> Iterator[tuple[Phase, bool]]:
        """The phases that are not done, each with whether it starts anew (else it was restored under way)."""
        for index in range(max(self.progress["phase"], 0), len(self.phases)):
            new = index > self.progress["phase"]
            if new:
                start = {"epoch": self.phases[index].first_epoch, "over": False, "row": {}}
                self.progress |= {"phase": index, **start}
            yield self.phases[index], new

    def last_epoch(self, phase: Phase) -> int:
        """Epochs that the weights have behind them when the phase ends."""
        if phase.last_epoch is not None:
            return phase.last_epoch
        rows = self.progress["rows"]
        of_ticket = [r for r in rows if r["round"] == phase.round and r["kind"] in ("ticket", "round")]
        whole = [*ledger.of_search(rows, phase.round), *of_ticket[-1:]]
        return phase.first_epoch + sum(row["epochs"] for row in whole)

    def train(
        self,
        state: TrainState,
        network: Network,
        learning_rate: Callable[[int], float] | None = None,
        ends: Callable[[int, TrainState], bool] = lambda epoch, state: False,
    ) -> Iterator[tuple[int, TrainState]]:
        """Train the current phase to its end: `(epoch, state)` after each epoch, evaluated and recorded.

        The state handed over is consumed by the next epoch. The learning rate is that of the epoch that
        starts after so many of the phase; by default the schedule of the configuration, in full. After each
        epoch `ends` is asked whether it was the last.
        """
        phase, row, config = self.phases[self.progress["phase"]], self.progress["row"], self.config
        last, first = self.last_epoch(phase), phase.first_epoch
        if self.progress["over"]:
            return
        rate = learning_rate or self._schedule_of(phase)
        program = self.program(state, network)
        before = self.progress["epochs_done"] - self.progress["epoch"]
        examples = len(self.train_split.labels)
        later = self.phases[self.progress["phase"] + 1 :]
        self.recorder.expect(before + last + sum(self.last_epoch(p) - p.first_epoch for p in later))
        key = jax.random.fold_in(self.train_key, zlib.crc32(phase.kind.encode()))

        def show(epoch, steps, metrics, seconds):
            seen = max(int(metrics.examples), 1)
            self.recorder.show(
                f"{phase} epoch {epoch}/{last}",
                before + epoch - 1 + seen / examples,
                float(metrics.loss) / seen,
                int(metrics.correct) / seen,
                seen / seconds,
            )

        try:
            for epoch in training.fit(
                program,
                state,
                self.train_split,
                key=jax.random.fold_in(key, phase.round),
                learning_rate=lambda done: rate(done - first),
                first_epoch=self.progress["epoch"],
                last_epoch=last,
                on_progress=show,
            ):
                over = ends(epoch.number, epoch.state) or epoch.number == last
                started = time.perf_counter()
                fields = _means("train", epoch.metrics)
                if epoch.number % config.eval_every == 0 or over:
                    for name, split in self.splits.items():
                        fields |= _means(name, program.evaluate(epoch.state, split))
                        accuracy, best = fields[f"{name}_accuracy"], row.get(f"best_{name}_accuracy", 0.0)
                        row[f"final_{name}_accuracy"] = accuracy
                        row[f"best_{name}_accuracy"] = max(accuracy, best)
                seconds = epoch.seconds + time.perf_counter() - started
                row["device_seconds"] = row.get("device_seconds", 0.0) + epoch.seconds
                row["seconds"] = row.get("seconds", 0.0) + seconds
                rate_of_images = examples / epoch.seconds
                self.recorder.write(
                    "epoch",
                    kind=phase.kind,
                    round=phase.round,
                    epoch=epoch.number,
                    **fields,
                    learning_rate=epoch.learning_rate,
                    images_per_second=rate_of_images,
                    seconds=seconds,
                )
                self.progress |= {"epoch": epoch.number, "epochs_done": before + epoch.number, "over": over}
                self.recorder.line(f"{phase} epoch {epoch.number}/{last}", fields, rate_of_images)
                yield epoch.number, epoch.state
                if over:
                    return
        except training.NonFiniteLoss as error:
            raise training.NonFiniteLoss(f"{phase}, {error}") from None

    def schedule(self, epochs: int, factor: float = 1.0) -> Callable[[int], float]:
        """The learning rate over the epochs of a phase, as configured."""
        config = self.config
        return optimizers.learning_rates(config.schedule, factor * config.learning_rate, epochs)

    def _schedule_of(self, phase: Phase) -> Callable[[int], float]:
        """In full; or, where survivors are fine-tuned, that of all that start with a ticket's weights."""
        epochs, config = self.last_epoch(phase) - phase.first_epoch, self.config
        tuned = phase.kind in ("round", "ticket", "random") and phase.round > 0
        if tuned and getattr(config, "rewinding", None) == "fine-tune":
            return optimizers.learning_rates("fine-tune", config.learning_rate, epochs)
        return self.schedule(epochs)

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Counts the time of what a search does between its trainings."""
        started, row = time.perf_counter(), self.progress["row"]
        yield
        row["seconds"] = row.get("seconds", 0.0) + time.perf_counter() - started

    def finish_phase(self, state: TrainState, network: Network, ticket: str | None = None, **fields) -> None:
        """Write the phase's row into metrics.jsonl and result.json; `fields` come on top of what it has."""
        phase = self.phases[self.progress["phase"]]
        kept, total = masks.count(state.masks)
        epochs = self.progress["epoch"] - phase.first_epoch
        images = epochs * len(self.train_split.labels)
        row = {
            "kind": phase.kind,
            "round": phase.round,
            "kept": kept,
            "total": total,
            "sparsity": 1 - kept / total,
            "collapsed_layers": [name for name, (left, _) in masks.by_layer(state.masks).items() if not left],
            "network": str(network),
            "num_timesteps": network.num_timesteps,
            "epochs": epochs,
            "images": images,
            "forward_flops": images * self.networks.forward_flops(network),
            "train_flops": images * cost.train_flops(self.networks.forward_flops(network)),
            "device_seconds": 0.0,
            "seconds": 0.0,
            **self.progress["row"],
            "ticket": ticket,
            **fields,
        }
        self.recorder.write("round", **row)
        accuracy = row.get("final_test_accuracy")
        self.recorder.say(
            f"{phase}: sparsity {100 * row['sparsity']:.2f} %, {kept:,} weights, "
            + (f"test accuracy {accuracy:.4f}, " if accuracy is not None else "")
            + f"{row['seconds']:.0f} s"
        )
        if row["collapsed_layers"]:
            self.recorder.say(
                f"{phase}: layer collapse, nothing is left of {', '.join(row['collapsed_layers'])}"
            )
        self.progress["rows"] = [*self.progress["rows"], row]
        if jax.process_index() == 0:
            checkpoints.write_json(self.paths.result, self.result())

    def result(self) -> dict[str, Any]:
        """What result.json holds."""
        rows, compile_seconds = self.progress["rows"], self.progress["compile_seconds"]
        forward_flops = len(self.train_split.labels) * self.networks.forward_flops(self.network())
        return {
            "method": configs.method_name(self.config),
            "finished": len(rows) == len(self.phases),
            "config_hash": configs.digest(self.identity),
            "config": self.identity,
            "preparations": [row for row in rows if row["kind"] in ("probe", "scores")],
            "rounds": [row for row in rows if row["kind"] in ("round", "search")],
            "tickets": ledger.tickets(rows, self.config, cost.train_flops(forward_flops), compile_seconds),
            "controls": [row for row in rows if row["kind"] not in (*ledger.SEARCH_KINDS, "ticket")],
            "flops_per_image": self.networks.by_timestep(),
            "early_time": self.progress["early_time"],
            "early_bird": self.progress["early_bird"],
            "train_compilations": len(compile_seconds),
            "compile_seconds": sum(compile_seconds.values()),
            **environment(),
        }

    def ticket_name(self, round_number: int) -> str:
        """Of its file, within the run."""
        path = self.paths.ticket(round_number)
        return f"{path.parent.name}/{path.name}"

    def save_ticket(
        self, round_number: int, searched_with: Network, ticket_masks: PyTree, point: RewindPoint
    ) -> str:
        """Write the ticket of a round: its masks and rewind point; its name within the run."""
        path = self.paths.ticket(round_number)
        kept, total = masks.count(ticket_masks)
        provenance = {
            **self.identity,
            "config_hash": configs.digest(self.identity),
            "round": round_number,
            "kept": kept,
            "total": total,
            "sparsity": 1 - kept / total,
            "searched_with": str(searched_with),
            "image_shape": list(self.dataset.image_shape),
            "num_classes": self.dataset.num_classes,
            "versions": environment()["versions"],
        }
        if jax.process_index() == 0:
            tickets.save(path, tickets.Ticket(ticket_masks, point.params, point.batch_stats, provenance))
        return self.ticket_name(round_number)


Trainer = Callable[[Session, Phase, bool, Arrays], Arrays]


def run(
    config: configs.Resolved,
    dataset: data.Dataset,
    phases: Sequence[Phase],
    trainers: Mapping[str, Trainer],
    console: Console | None = None,
    more_arrays: Callable[[TrainState], Arrays] = lambda state: {},
) -> dict[str, Any]:
    """Run a search in its directory, or go on with it; a finished one is only shown.

    Args:
      config: resolved, see `configs.resolve`; everything is written below `config.workdir`.
      dataset: what it names, loaded.
      phases: all there are.
      trainers: by kind of phase `(session, phase, new, arrays) -> arrays`: runs what is left of a phase.
        `new` says that it starts, and was not restored under way.
      console: where progress is shown; standard output by default.
      more_arrays: what goes into the checkpoints beside the training state and the rewind point.

    Returns:
      What result.json holds.

    Raises:
      InputError: the directory holds something else, or checkpoints of which none can be read.
      NonFiniteLoss: training diverged; the last checkpoint is from before.
    """
    console = console or Console()
    paths, identity = checkpoints.paths(config.workdir), configs.identity(config, dataset)
    checkpoints.claim(paths, identity)
    result = checkpoints.read_json(paths.result)
    if result is not None and result.get("finished"):
        console.print(f"{config.workdir}: this search is finished", markup=False, highlight=False)
    else:
        with Recorder(paths.metrics, console) as recorder, checkpoints.manager(paths) as manager:
            session = Session(config, dataset, phases, identity, paths, recorder, manager)
            state = session.init_state()
            arrays = {"state": state, "rewind": RewindPoint.of(state), **more_arrays(state)}
            arrays = session.restore(arrays)
            for phase, new in session.remaining():
                arrays = trainers[phase.kind](session, phase, new, arrays)
            result = session.result()
    tables.print_result(result, console)
    return result


def _means(name: str, metrics: training.Metrics) -> dict[str, float]:
    examples = int(metrics.examples)
    return {
        f"{name}_loss": float(metrics.loss) / examples,
        f"{name}_accuracy": int(metrics.correct) / examples,
    }
