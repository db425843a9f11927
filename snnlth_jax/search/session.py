"""What every search does around its own idea: a run directory, resume, compiled programs, records.

A search is a list of phases (a round, a control ...), each a training that ends with a line in result.json.
The progress through them is a few JSON values that go into each checkpoint beside the arrays, so that the
same command goes on where it stopped.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from rich.console import Console

from snnlth_jax import checkpoints, configs, cost, data, masks, models, optimizers, tickets, training
from snnlth_jax.records import Recorder, environment, phase_name, result_table
from snnlth_jax.training import TrainState

PyTree = Any

__all__ = ["Phase", "Session", "run"]


class Phase(NamedTuple):
    """One training of a search.

    Attributes:
      kind: "ticket", or "random" for random masks of the ticket's layer-wise counts.
      round: of the search, 0 is dense.
      first_epoch: epochs that the weights have behind them when it starts.
    """

    kind: str
    round: int
    first_epoch: int

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
        self.model = models.create(
            config.arch,
            dataset.num_classes,
            width=config.width,
            activation=config.activation,
            dtype=None if config.dtype == "float32" else jnp.dtype(config.dtype),
        )
        self.tx = optimizers.create(
            config.optimizer, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self.augmentation = dataset.augmentation
        if not config.augment:
            self.augmentation = dataclasses.replace(
                dataset.augmentation, crop_padding=0, flip=False, cutout=0
            )
        self.train_split = jax.device_put(dataset.train)
        self.splits = {"test": jax.device_put(dataset.test)}
        if dataset.validation is not None:
            self.splits["validation"] = jax.device_put(dataset.validation)
        self.init_key, self.train_key, self.mask_key = jax.random.split(jax.random.key(config.seed), 3)
        self.progress: dict[str, Any] = {"phase": -1, "epoch": 0, "epochs_done": 0, "rows": [], "row": {}}
        self._programs: dict[int, training.Program] = {}

    # --- state

    def init_state(self) -> TrainState:
        """The network as initialised by the seed."""
        return training.init_state(self.init_key, self.model, self.tx, self._sample())

    def restore(self, arrays: PyTree) -> PyTree:
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

    def checkpoint(self, arrays: PyTree) -> None:
        """Save arrays and progress, if this epoch is to have a checkpoint."""
        epoch = self.progress["epoch"]
        if epoch % self.config.checkpoint_every == 0 or epoch == self.config.epochs:
            self.progress["metrics_bytes"] = self.recorder.size()
            checkpoints.save(self.manager, self.progress["epochs_done"], arrays, self.progress)

    # --- phases

    def remaining(self) -> Iterator[tuple[Phase, bool]]:
        """The phases that are not done, each with whether it starts anew (else it was restored under way)."""
        for index in range(max(self.progress["phase"], 0), len(self.phases)):
            new = index > self.progress["phase"]
            if new:
                self.progress |= {"phase": index, "epoch": self.phases[index].first_epoch, "row": {}}
            yield self.phases[index], new

    def train(self, state: TrainState, num_timesteps: int) -> Iterator[tuple[int, TrainState]]:
        """Train the current phase to its end: `(epoch, state)` after each epoch, evaluated and recorded.

        The state handed over is consumed by the next epoch.
        """
        phase, row, config = self.phases[self.progress["phase"]], self.progress["row"], self.config
        program = self.program(state, num_timesteps)
        rate = optimizers.learning_rates(
            config.schedule, config.learning_rate, config.epochs - phase.first_epoch
        )
        before = self.progress["epochs_done"] - self.progress["epoch"]
        examples = len(self.train_split.labels)

        def show(epoch, steps, metrics, seconds):
            seen = max(int(metrics.examples), 1)
            self.recorder.show(
                f"{phase}/{config.rounds - 1} epoch {epoch}/{config.epochs}",
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
                key=jax.random.fold_in(self.train_key, self.progress["phase"]),
                learning_rate=lambda done: rate(done - phase.first_epoch),
                first_epoch=self.progress["epoch"],
                last_epoch=config.epochs,
                on_progress=show,
            ):
                started = time.perf_counter()
                fields = _means("train", epoch.metrics)
                if epoch.number % config.eval_every == 0 or epoch.number == config.epochs:
                    for name, split in self.splits.items():
                        fields |= _means(name, program.evaluate(epoch.state, split))
                        accuracy, best = fields[f"{name}_accuracy"], row.get(f"best_{name}_accuracy", 0.0)
                        row[f"final_{name}_accuracy"] = accuracy
                        row[f"best_{name}_accuracy"] = max(accuracy, best)
                seconds = epoch.seconds + time.perf_counter() - started
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
                self.progress |= {"epoch": epoch.number, "epochs_done": before + epoch.number}
                self.recorder.line(f"{phase} epoch {epoch.number}/{config.epochs}", fields, rate_of_images)
                yield epoch.number, epoch.state
        except training.NonFiniteLoss as error:
            raise training.NonFiniteLoss(f"{phase}, {error}") from None

    def finish_phase(self, state: TrainState, num_timesteps: int, ticket: str | None = None) -> None:
        """Write the phase's row into metrics.jsonl and result.json."""
        phase = self.phases[self.progress["phase"]]
        kept, total = masks.count(state.masks)
        epochs = self.config.epochs - phase.first_epoch
        row = {
            "kind": phase.kind,
            "round": phase.round,
            "kept": kept,
            "total": total,
            "sparsity": 1 - kept / total,
            "num_timesteps": num_timesteps,
            "epochs": epochs,
            **self.progress["row"],
            "train_flops": cost.train_flops(
                self.forward_macs(state, num_timesteps), epochs * len(self.train_split.labels)
            ),
            "ticket": ticket,
        }
        self.recorder.write("round", **row)
        self.recorder.say(
            f"{phase}: sparsity {100 * row['sparsity']:.2f} %, {kept:,} weights, "
            f"test accuracy {row['final_test_accuracy']:.4f}, {row['seconds']:.0f} s"
        )
        self.progress["rows"] = [*self.progress["rows"], row]
        if jax.process_index() == 0:
            checkpoints.write_json(self.paths.result, self.result())

    def result(self) -> dict[str, Any]:
        """What result.json holds."""
        rows = self.progress["rows"]
        return {
            "method": self.config.method,
            "finished": len(rows) == len(self.phases),
            "config_hash": configs.digest(self.identity),
            "config": self.identity,
            "rounds": [row for row in rows if row["kind"] == "ticket"],
            "controls": [row for row in rows if row["kind"] != "ticket"],
            "early_time": None,
            "early_bird": None,
            "train_compilations": len(self._programs),
            "compile_seconds": sum(program.compile_seconds for program in self._programs.values()),
            **environment(),
        }

    # --- programs

    def program(self, state: TrainState, num_timesteps: int) -> training.Program:
        """The compiled training at T = `num_timesteps`; one for all phases."""
        if num_timesteps not in self._programs:
            self.recorder.say(f"compiling training and evaluation at T = {num_timesteps} ...")
            program = training.compile_program(
                self.model,
                self.tx,
                state,
                self.train_split,
                self.splits["test"],
                augmentation=self.augmentation,
                batch_size=self.config.batch_size,
                num_timesteps=num_timesteps,
            )
            self.recorder.say(f"compiled in {program.compile_seconds:.1f} s")
            self._programs[num_timesteps] = program
        return self._programs[num_timesteps]

    def forward_macs(self, state: TrainState, num_timesteps: int) -> int:
        """Multiply-accumulates of one image over all timesteps."""
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        return cost.macs(
            lambda variables, x: self.model.apply(variables, x, num_timesteps=num_timesteps),
            variables,
            self._sample(),
        )

    def save_ticket(self, phase: Phase, ticket_masks: PyTree, params: PyTree, batch_stats: PyTree) -> str:
        """Write the ticket of a round; its name within the run."""
        path = self.paths.ticket(phase.round)
        kept, total = masks.count(ticket_masks)
        provenance = {
            **self.identity,
            "config_hash": configs.digest(self.identity),
            "round": phase.round,
            "kept": kept,
            "total": total,
            "sparsity": 1 - kept / total,
            "num_timesteps": self.config.num_timesteps,
            "image_shape": list(self.dataset.image_shape),
            "num_classes": self.dataset.num_classes,
            "versions": environment()["versions"],
        }
        if jax.process_index() == 0:
            tickets.save(path, tickets.Ticket(ticket_masks, params, batch_stats, provenance))
        return f"{path.parent.name}/{path.name}"

    def _sample(self) -> jax.Array:
        return jnp.zeros((1, *self.dataset.image_shape), jnp.float32)


def run(
    search: Callable[[Session], None],
    config: configs.Resolved,
    dataset: data.Dataset,
    phases: Sequence[Phase],
    console: Console | None = None,
) -> dict[str, Any]:
    """Run a search in its directory, or go on with it; a finished one is only shown.

    Args:
      search: trains the remaining phases of the session that it is given.
      config: resolved, see `configs.resolve`; everything is written below `config.workdir`.
      dataset: what it names, loaded.
      phases: all there are.
      console: where progress is shown; standard output by default.

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
        total_epochs = sum(config.epochs - phase.first_epoch for phase in phases)
        with (
            Recorder(paths.metrics, total_epochs, console) as recorder,
            checkpoints.manager(paths) as manager,
        ):
            session = Session(config, dataset, phases, identity, paths, recorder, manager)
            search(session)
            result = session.result()
    console.print(result_table(result))
    return result


def _means(name: str, metrics: training.Metrics) -> dict[str, float]:
    examples = int(metrics.examples)
    return {
        f"{name}_loss": float(metrics.loss) / examples,
        f"{name}_accuracy": int(metrics.correct) / examples,
    }
