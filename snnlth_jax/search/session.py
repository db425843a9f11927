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

from snnlth_jax import configs, data
from snnlth_jax.errors import InputError
from snnlth_jax.machine import hosts, sharding
from snnlth_jax.machine.signals import Stopped, watch
from snnlth_jax.run import checkpoints, tables
from snnlth_jax.run import directory as rundir
from snnlth_jax.run.metrics import Recorder, environment, lines, phase_name
from snnlth_jax.run.tensorboard import Events
from snnlth_jax.search import ledger, outcome, plan
from snnlth_jax.search.programs import Network, Networks
from snnlth_jax.search.rewinding import RewindPoint
from snnlth_jax.train import Epoch, Metrics, NonFiniteLoss, Program, TrainState, fit, optimizers, zero_metrics

PyTree = Any
Arrays = dict[str, PyTree]

__all__ = ["Phase", "Session", "Trainer", "run"]


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
    paths: rundir.Paths
    recorder: Recorder
    manager: ocp.CheckpointManager
    asked: Callable[[int], Any]

    def __post_init__(self):
        config, dataset = self.config, self.dataset
        self.networks = Networks(config, dataset)
        self.tx = self.networks.tx
        devices = self.networks.devices
        self.train_split = self.networks.placed(dataset.train)
        self.splits = {"test": self.networks.placed(dataset.test)}
        if dataset.validation is not None:
            self.splits["validation"] = self.networks.placed(dataset.validation)
        self.init_key, self.train_key, self.mask_key, self.score_key = jax.random.split(
            jax.random.key(config.seed), 4
        )
        self.progress: dict[str, Any] = {"phase": -1, "epochs_done": 0, "points": 0}
        self.progress |= {"epoch": 0, "step": 0, "step_seconds": 0.0, "over": False, "rows": [], "row": {}}
        self.progress |= {"compile_seconds": {}, "early_time": None, "early_bird": None}
        kind = f"{devices.count if devices else 1} x {jax.devices()[0].device_kind}"
        self.progress |= {"devices": kind, "phases": [*map(str, self.phases)], "overrides": []}
        self._initial: dict[int, TrainState] = {}
        state = self.init_state()
        self.arrays: Arrays = {"state": state, "rewind": RewindPoint.of(state), "metrics": zero_metrics()}
        self._last_checkpoint = time.monotonic()

    # --- networks

    def network(self) -> Network:
        """The one that tickets are for: at the full T."""
        return Network(self.config.activation, self.config.num_timesteps)

    def search_network(self) -> Network:
        """The one that is searched: with fewer timesteps, once Early-Time has chosen how many."""
        chosen = getattr(self.config, "early_time_timesteps", None)
        if measured := self.progress["early_time"]:
            chosen = measured["num_timesteps"]
        return self.network()._replace(**({"num_timesteps": chosen} if chosen else {}))

    def program(self, state: TrainState, network: Network) -> Program:
        """Its compiled training; one for all phases."""
        known = self.networks.compiled(network)
        if not known:
            self.recorder.say(f"compiling training and evaluation: {network} ...")
        program = self.networks.program(network, state, self.train_split, self.splits["test"])
        if not known:
            started = time.perf_counter()
            if network.activation == "lif":  # now, not when hours of training are done
                self.networks.spike_counter(network, state)
            seconds = program.compile_seconds + time.perf_counter() - started
            self.recorder.say(f"compiled in {seconds:.1f} s")
            self.progress["compile_seconds"][str(network)] = seconds
        return program

    # --- state

    def init_state(self, redrawn: int = 0) -> TrainState:
        """The network as initialised by the seed, or with weights drawn once more."""
        if redrawn not in self._initial:
            key = jax.random.fold_in(self.init_key, redrawn) if redrawn else self.init_key
            self._initial = {redrawn: jax.device_get(self.networks.init_state(key))}
        copied = jax.tree.map(jnp.array, self._initial[redrawn])  # since training consumes them
        return sharding.placed(copied, self.networks.devices)

    def restore(self, changed: str = "") -> None:
        """The arrays and the progress of the newest checkpoint, if there is one.

        Args:
          changed: what is another in the configuration than it was there.

        Raises:
          InputError: none can be read, or they are gone, or of a search with other phases.
        """
        restored = checkpoints.restore(self.manager, sharding.placed(self.arrays, self.networks.devices))
        recorded = self.recorder.size()
        hosts.together(lambda: self._nothing_lost(restored[1] if restored else None, recorded))
        if restored is not None:
            now = {name: self.progress[name] for name in ("devices", "phases")}
            self.arrays, self.progress = restored
            done, there = self.progress["phase"] + 1, self.progress["devices"]
            if self.progress["phases"][:done] != now["phases"][:done]:
                behind = ", ".join(self.progress["phases"][:done])
                raise InputError(f"--override: allowed: a configuration that begins with {behind}, as there")
            if changed and done == len(self.phases) and self.progress["over"]:
                raise InputError(f"--override: {changed}; allowed: while there is something left to train")
            self.progress |= now
            if there != now["devices"]:
                self.recorder.say(f"on {now['devices']}, not {there}: from here on equal up to rounding")
            phase, step = self.phases[self.progress["phase"]], self.progress["step"]
            within = f", step {step} of the next" if step else ""
            self.recorder.say(f"going on after {phase}, epoch {self.progress['epoch']}{within}")
        self.recorder.truncate(self.progress.get("metrics_bytes", 0))
        self.recorder.resume(self.progress["epochs_done"])
        every = self.config.checkpoint_every
        started = {"time": time.time(), "resumed": restored is not None, "checkpoint_every": every}
        self.recorder.write("start", **started, **environment())
        if changed:
            self.recorder.say(f"--override: {changed}")
            self.recorder.write("override", changed=changed)
            self.progress["overrides"] = [*self.progress["overrides"], changed]
            if restored is not None:
                self._checkpoint(self.arrays)
                self.manager.wait_until_finished()
            hosts.on_first(lambda: rundir.write_json(self.paths.config, self.identity))

    def _nothing_lost(self, progress: dict[str, Any] | None, recorded: int) -> None:
        """An InputError where files are gone that there must have been: better than to begin anew over it."""
        root, starts = self.paths.config.parent, self.recorder.told("start")
        longest = max((start["checkpoint_every"] for start in starts), default=0)
        result = rundir.read_json(self.paths.result) or {}
        trained = any(result.get(part) for part in ("rounds", "tickets", "controls"))
        if progress is None and (trained or len(self.recorder.told("epoch")) > longest):
            lost = "its checkpoints are gone"
        elif hosts.is_first() and progress and recorded < progress["metrics_bytes"]:
            lost = "lines of its metrics.jsonl are gone"
        else:
            return
        raise InputError(f"--workdir {root}: {lost}; allowed: with them, or another directory")

    def _checkpoint(self, arrays: Arrays) -> None:
        self._next_point()
        self.progress["metrics_bytes"] = self.recorder.size()
        placed = sharding.placed(arrays, self.networks.devices)
        checkpoints.save(self.manager, self.progress["points"], placed, self.progress)
        self._last_checkpoint = time.monotonic()

    def _next_point(self) -> Any:
        """Whether to stop, and by what signal: each time at a new point, that several hosts may agree on.

        A checkpoint is numbered by one, because Orbax asks them about its number too.
        """
        self.progress["points"] += 1
        return self.asked(self.progress["points"])

    def _overdue(self) -> bool:
        since = hosts.of_first(time.monotonic() - self._last_checkpoint)
        return since > 60 * self.config.checkpoint_minutes

    def _stop_if_asked(self) -> None:
        """Only where a checkpoint was just written."""
        if signal := self._next_point():
            raise Stopped(signal.name)

    # --- phases

    def remaining(self) -> Iterator[tuple[Phase, bool]]:
        """The phases that are not done, each with whether it starts anew (else it was restored under way)."""
        for index in range(max(self.progress["phase"], 0), len(self.phases)):
            new = index > self.progress["phase"]
            if new:
                start = {"epoch": self.phases[index].first_epoch, "step": 0, "over": False, "row": {}}
                self.progress |= {"phase": index, **start}
            yield self.phases[index], new

    def last_epoch(self, phase: Phase) -> int:
        """Epochs that the weights have behind them when the phase ends."""
        if phase.last_epoch is not None:
            return phase.last_epoch
        return phase.first_epoch + ledger.epochs_to_trained(self.progress["rows"], phase.round)

    def train(self, network: Network, ends: Callable[[int], bool] = lambda epoch: False) -> Iterator[int]:
        """Train `arrays["state"]` to the end of the current phase: gives each epoch once it is done.

        Evaluated and recorded by then, and checkpointed when the next one is asked for, with whatever the
        caller has put into the arrays; so is the state within long epochs, and when asked to stop.

        Args:
          network: which of the networks.
          ends: asked after each epoch whether it was the last.

        Raises:
          NonFiniteLoss: naming phase, epoch and step.
          Stopped: asked to by a signal; the checkpoint is written.
        """
        phase, progress, config = self.phases[self.progress["phase"]], self.progress, self.config
        last, first = self.last_epoch(phase), phase.first_epoch
        if progress["over"]:
            return
        rate = self._learning_rate(phase)
        self.arrays["state"] = sharding.placed(self.arrays["state"], self.networks.devices)
        program = self.program(self.arrays["state"], network)
        before = progress["epochs_done"] - progress["epoch"]
        later = self.phases[progress["phase"] + 1 :]
        self.recorder.expect(before + last + sum(self.last_epoch(p) - p.first_epoch for p in later))
        key = jax.random.fold_in(self.train_key, zlib.crc32(phase.kind.encode()))

        def within(epoch, steps, state, metrics, seconds):
            seen = max(int(metrics.examples), 1)
            self.recorder.show(
                f"{phase} epoch {epoch}/{last}",
                before + epoch - 1 + seen / len(self.train_split.labels),
                float(metrics.loss) / seen,
                int(metrics.correct) / seen,
                seen / seconds,
            )
            if self._next_point() or (self._overdue() and steps < program.steps_per_epoch):
                progress.update({"step": steps, "step_seconds": seconds})
                self._checkpoint(self.arrays | {"state": state, "metrics": metrics})
                self._stop_if_asked()

        try:
            for epoch in fit(
                program,
                self.arrays["state"],
                self.train_split,
                key=jax.random.fold_in(key, phase.round),
                learning_rate=lambda done: rate(done - first),
                first_epoch=progress["epoch"],
                last_epoch=last,
                on_progress=within,
                first_step=progress["step"],
                metrics=self.arrays["metrics"],
                seconds=progress["step_seconds"] if progress["step"] else 0.0,
            ):
                self.arrays |= {"state": epoch.state, "metrics": zero_metrics()}
                over = ends(epoch.number) or epoch.number == last
                self._record(phase, epoch, program, over)
                progress.update({"epoch": epoch.number, "step": 0, "over": over})
                progress["epochs_done"] = before + epoch.number
                yield epoch.number
                due = epoch.number % config.checkpoint_every == 0 or over or self._overdue()
                if due or self._next_point():
                    self._checkpoint(self.arrays)
                    self._stop_if_asked()
                if over:
                    return
        except NonFiniteLoss as error:
            raise NonFiniteLoss(f"{phase}, {error}") from None

    def _record(self, phase: Phase, epoch: Epoch, program: Program, over: bool) -> None:
        """Evaluate an epoch, add it to the phase's row, and write it down."""
        started, row, number = time.perf_counter(), self.progress["row"], epoch.number
        fields = _means("train", epoch.metrics)
        if number % self.config.eval_every == 0 or over:
            for name, split in self.splits.items():
                fields |= _means(name, program.evaluate(epoch.state, split))
                accuracy, best = fields[f"{name}_accuracy"], row.get(f"best_{name}_accuracy", 0.0)
                row[f"final_{name}_accuracy"] = accuracy
                row[f"best_{name}_accuracy"] = max(accuracy, best)
        seconds = epoch.seconds + time.perf_counter() - started
        row["device_seconds"] = row.get("device_seconds", 0.0) + epoch.seconds
        row["seconds"] = row.get("seconds", 0.0) + seconds
        rate_of_images = len(self.train_split.labels) / epoch.seconds
        self.manager.wait_until_finished()  # a recorded epoch has those before it in a checkpoint
        self.recorder.write(
            "epoch",
            kind=phase.kind,
            round=phase.round,
            epoch=number,
            **fields,
            learning_rate=epoch.learning_rate,
            images_per_second=rate_of_images,
            seconds=seconds,
        )
        self.recorder.line(f"{phase} epoch {number}/{self.last_epoch(phase)}", fields, rate_of_images)

    def _learning_rate(self, phase: Phase) -> Callable[[int], float]:
        """Of the epoch that starts after so many of a phase.

        The schedule of the configuration, in full; the probe is the beginning of a search. Where survivors
        are fine-tuned, so is all that starts with a ticket's weights.
        """
        config, epochs, base = (
            self.config,
            self.last_epoch(phase) - phase.first_epoch,
            self.config.learning_rate,
        )
        tuned = phase.kind in ("round", "ticket", "random") and phase.round > 0
        if tuned and getattr(config, "rewinding", None) == "fine-tune":
            return optimizers.learning_rates("fine-tune", base, epochs)
        if phase.kind in ledger.SEARCH_KINDS:
            base *= getattr(config, "search_learning_rate_factor", 1.0)
        return optimizers.learning_rates(
            config.schedule, base, config.epochs if phase.kind == "probe" else epochs
        )

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Counts the time of what a search does between its trainings."""
        started, row = time.perf_counter(), self.progress["row"]
        yield
        row["seconds"] = row.get("seconds", 0.0) + time.perf_counter() - started


Trainer = Callable[[Session, Phase, bool], None]


def run(
    config: configs.Resolved,
    dataset: data.Dataset,
    phases: Sequence[Phase],
    trainers: Mapping[str, Trainer],
    console: Console | None = None,
    more_arrays: Callable[[TrainState], Arrays] = lambda state: {},
) -> dict[str, Any]:
    """Run a search in its directory, or go on with it; a finished one is only shown, a dry run only planned.

    Args:
      config: resolved, see `configs.resolve`; everything is written below `config.workdir`.
      dataset: what it names, loaded.
      phases: all there are.
      trainers: by kind of phase `(session, phase, new)`: runs what is left of a phase. `new` says that it
        starts, and was not restored under way.
      console: where progress is shown; standard output by default.
      more_arrays: what goes into the checkpoints beside the training state and the rewind point.

    Returns:
      What result.json holds; of a dry run see `plan.make`.

    Raises:
      InputError: the directory holds something else, or checkpoints of which none can be read.
      NonFiniteLoss: training diverged; the last checkpoint is from before.
      Stopped: asked to by SIGTERM or SIGINT; the same call goes on.
      StorageError: the disk is full, or read-only, or gone; the same call goes on from the last checkpoint.
    """
    console = console or Console(quiet=not hosts.is_first())
    if config.dry_run:
        planned = plan.make(config, Networks(config, dataset), phases)
        tables.print_plan(planned, console)
        return planned
    paths, identity = rundir.paths(config.workdir), configs.identity(config, dataset)
    rundir.claim(paths, identity, config.override)
    with rundir.hold(paths):
        changed = rundir.claim(paths, identity, config.override)  # nobody came between
        result = rundir.read_json(paths.result)
        if result is not None and result.get("finished") and not changed:
            console.print(f"{config.workdir}: this search is finished", markup=False, highlight=False)
            if config.tensorboard:
                with rundir.writing(paths):
                    hosts.on_first(lambda: Events(paths.tensorboard, lines(paths.metrics)).close())
        else:
            result = _go_on(config, dataset, phases, trainers, console, more_arrays, paths, identity, changed)
    tables.print_result(result, console)
    return result


def _go_on(config, dataset, phases, trainers, console, more_arrays, paths, identity, changed):
    """From the newest checkpoint, or the start, to the end."""
    with (
        rundir.writing(paths),
        watch() as asked_to_stop,
        Recorder(paths.metrics, console, paths.tensorboard if config.tensorboard else None) as recorder,
        checkpoints.manager(paths) as manager,
    ):
        session = Session(config, dataset, phases, identity, paths, recorder, manager, asked_to_stop)
        session.arrays |= more_arrays(session.arrays["state"])
        session.restore(changed)
        for phase, new in session.remaining():
            trainers[phase.kind](session, phase, new)
        return outcome.result(session)


def _means(name: str, metrics: Metrics) -> dict[str, float]:
    examples = int(metrics.examples)
    return {
        f"{name}_loss": float(metrics.loss) / examples,
        f"{name}_accuracy": int(metrics.correct) / examples,
    }
