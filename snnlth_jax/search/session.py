"""The common part of all searches: run directory, resume, compiled programs, records.

A search is a list of phases (a round, a control ...), each a training run that ends with a row of
result.json, and a function that trains them in order. Each checkpoint holds its progress beside the arrays,
so that the same command resumes where it stopped.
"""

import contextlib
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from snnlth_jax import configs, data, networks, tickets
from snnlth_jax.configs import targets
from snnlth_jax.data.contract import verified
from snnlth_jax.errors import InputError, StorageError
from snnlth_jax.machine import hosts, numerics, sharding
from snnlth_jax.machine.signals import watch
from snnlth_jax.run import checkpoints, events, results, spikes, tables
from snnlth_jax.run import directory as rundir
from snnlth_jax.run.events import EpochEvent, OverrideEvent, RoundEvent, StartEvent
from snnlth_jax.run.metrics import Recorder, devices, onednn, versions
from snnlth_jax.run.results import Result, Row
from snnlth_jax.run.tensorboard import Events
from snnlth_jax.search import outcome, phases, plan
from snnlth_jax.search.checkpointing import Checkpointer
from snnlth_jax.search.measure import NOTHING, Measurement
from snnlth_jax.search.outcome import Work
from snnlth_jax.search.phases import Phase, epochs
from snnlth_jax.search.plan import Plan
from snnlth_jax.search.programs import Programs, Variant, Variants
from snnlth_jax.search.progress import Carry, Progress
from snnlth_jax.search.rewinding import RewindPoint
from snnlth_jax.train import Epoch, Metrics, NonFiniteLoss, Program, TrainState, fit, zero_metrics

PyTree = Any
Config = TypeVar("Config", bound=configs.ResolvedTrain)
Config_co = TypeVar("Config_co", bound=configs.ResolvedTrain, covariant=True)

__all__ = ["Session", "run"]


class Session(Generic[Config_co]):
    """A run under way; `run` makes it.

    Attributes:
      config: resolved configuration.
      phases: all phases of the search.
      variants: variants of the network, with their programs.
      progress: progress of the search.
      carry: arrays of the search.
      train_split: training images on the devices.
      tx: optimiser.
      mask_key, score_key: keys of random masks, and of the images for scores and divergences.
      recorder: metrics.jsonl and the progress for people.
    """

    def __init__(
        self,
        config: Config_co,
        dataset: data.Dataset,
        planned: Sequence[Phase],
        variants: Variants,
        identity: dict[str, Any],
        paths: rundir.Paths,
        recorder: Recorder,
        checkpoints: Checkpointer,
        empty_queue: Callable[[TrainState], jax.Array] | None = None,
    ):
        self.config, self.phases, self.variants = config, planned, variants
        self.recorder, self._identity, self._paths, self._checkpoints = recorder, identity, paths, checkpoints
        self.tx: optax.GradientTransformationExtraArgs = variants.tx
        self.train_split = variants.on_devices(dataset.train)
        self._evaluated = {"test": variants.on_devices(dataset.test)}
        if dataset.validation is not None:
            self._evaluated["validation"] = variants.on_devices(dataset.validation)
        self._init_key, self._train_key, self.mask_key, self.score_key = jax.random.split(
            jax.random.key(config.seed), 4
        )
        count = variants.devices.count if variants.devices else 1
        library = f" with oneDNN {used}" if (used := onednn()) else ""  # which rounds in its own way
        kind = f"{jax.devices()[0].device_kind}{library}"
        self.progress = Progress(
            devices=f"{count} x {kind}", software=numerics.software(), phases=[*map(str, self.phases)]
        )
        self._initial: dict[int, TrainState] = {}
        self._earlier: tuple[Row, ...] = ()
        state = self.initial_state()
        self.carry = Carry.of(state, empty_queue and empty_queue(state))

    # --- for searches

    def initial_state(self, redrawn: int = 0) -> TrainState:
        """The network as initialised by the seed, or with newly drawn weights."""
        if redrawn not in self._initial:
            key = jax.random.fold_in(self._init_key, redrawn) if redrawn else self._init_key
            self._initial = {redrawn: jax.device_get(self.variants.init_state(key))}
        copy = jax.tree.map(jnp.array, self._initial[redrawn])  # training consumes it
        state: TrainState = self._on_devices(copy)
        return state

    def remaining(self, *kinds: str) -> Iterator[Phase]:
        """The next phases that are not finished, in order, as long as they are of these kinds."""
        while (index := len(self.progress.rows)) < len(self.phases) and self.phases[index].kind in kinds:
            yield self.phases[index]
            if len(self.progress.rows) == index:
                raise RuntimeError(f"{self.phases[index]} was not finished")

    def variant(self, phase: Phase) -> Variant:
        """The network variant of a phase, with the T' that Early-Time chose."""
        if phase.by_early_time and (measured := self.progress.early_time):
            return phase.variant._replace(num_timesteps=measured.num_timesteps)
        return phase.variant

    def begin(self, phase: Phase, start: Callable[[Phase, Carry], Carry] = lambda phase, last: last) -> None:
        """Begin a phase with the arrays that `start` makes of the last ones, unless a checkpoint has it."""
        index = len(self.progress.rows)
        if self.progress.phase == index:
            return
        self.progress.begin(index, phase.first_epoch)
        with self.timed():
            self.carry = jax.block_until_ready(start(phase, self.carry))

    def train(
        self,
        phase: Phase,
        start: Callable[[Phase, Carry], Carry],
        ends: Callable[[int], bool] = lambda epoch: False,
        change: Callable[[int, TrainState], TrainState] = lambda epoch, state: state,
    ) -> Iterator[tuple[int, Carry]]:
        """Train the rest of a phase; yield the number and the arrays of each completed epoch.

        By then the epoch is evaluated and recorded. Its checkpoint is written before the next epoch, with
        `carry` as the caller leaves it: the caller may replace its rewind point and its queue, but not its
        state, which training owns. Checkpoints are also written within long epochs, and on a signal.

        Args:
          phase: phase whose turn it is.
          start: function from the phase and the last arrays to its first arrays; not called if a checkpoint
            has the phase.
          ends: function from the number of an epoch to whether it is the last, called once for each, before
            it is recorded; it may replace the queue of `carry`.
          change: function from the number of completed epochs and the state to the state that the next epoch
            begins with; not called within an epoch that a checkpoint has begun.

        Raises:
          NonFiniteLoss: training diverged; the message names phase, epoch and step.
          Stopped: a signal asked to stop; the checkpoint is written.
        """
        self.begin(phase, start)
        progress, config = self.progress, self.config
        if progress.over:
            return
        last = self._last_epoch(phase)
        self.carry = self.carry._replace(state=self._on_devices(self.carry.state))
        program = self._program(self.variant(phase))
        before = progress.epochs_done - progress.epoch
        self.recorder.expect(self._all_epochs())
        key = jax.random.fold_in(self._train_key, zlib.crc32((phase.order or phase.kind).encode()))

        def on_progress(epoch: int, steps: int, state: TrainState, metrics: Metrics, seconds: float) -> None:
            examples = max(int(metrics.examples), 1)
            self.recorder.show(
                f"{phase} epoch {epoch}/{last}",
                before + epoch - 1 + examples / len(self.train_split.labels),
                float(metrics.loss) / examples,
                int(metrics.correct) / examples,
                examples / seconds,
            )
            if self._checkpoints.pass_point(progress) or (
                self._checkpoints.due and steps < program.steps_per_epoch
            ):
                progress.step, progress.step_seconds = steps, seconds
                self._save(self.carry._replace(state=state, metrics=metrics))
                self._checkpoints.stop_if_asked(progress)

        try:
            for epoch in fit(
                program,
                self.carry.state,
                self.train_split,
                key=jax.random.fold_in(key, phase.round),
                learning_rate=phase.learning_rates(last),
                first_epoch=progress.epoch,
                last_epoch=last,
                on_progress=on_progress,
                change=change,
                first_step=progress.step,
                metrics=self.carry.metrics,
                seconds=progress.step_seconds if progress.step else 0.0,
            ):
                self.carry = self.carry._replace(state=epoch.state, metrics=zero_metrics())
                over = ends(epoch.number) or epoch.number == last
                progress.epoch, progress.step, progress.over = epoch.number, 0, over
                progress.epochs_done = before + epoch.number
                self._record(phase, epoch, program, over)
                yield epoch.number, self.carry
                due = epoch.number % config.checkpoint_every == 0 or over or self._checkpoints.due
                if due or self._checkpoints.pass_point(progress):
                    self._save(self.carry)
                    self._checkpoints.stop_if_asked(progress)
                if over:
                    return
        except NonFiniteLoss as error:
            raise NonFiniteLoss(f"{phase}, {error}") from None

    def finish(self, phase: Phase, ticket: str | None = None, work: Work | None = None) -> None:
        """Write the row of a phase into metrics.jsonl and result.json; `work` as in `outcome.row`."""
        variant, state, progress = self.variant(phase), self.carry.state, self.progress
        measured = NOTHING
        if phase.part != "preparations":  # their networks are not kept
            with self.timed():
                measured = self.variants.measure(variant, state)
                self._write_correct(phase, variant)
        row = outcome.row(phase, variant, progress, state.masks, ticket, measured, self.variants, work)
        row = outcome.at_its_first_times(row, self._earlier)
        if phase.network:
            self._save_network(phase, row)
            self._write_spikes(phase, measured)
        self.recorder.record(RoundEvent.from_row(row))
        accuracy = row.final_test_accuracy
        self.recorder.message(
            f"{phase}: sparsity {100 * row.sparsity:.2f} %, {row.kept:,} weights, "
            + (f"test accuracy {accuracy:.4f}, " if accuracy is not None else "")
            + f"{row.seconds:.0f} s"
        )
        if row.collapsed_layers:
            layers = ", ".join(row.collapsed_layers)
            self.recorder.message(f"{phase}: layer collapse, nothing is left of {layers}")
        progress.rows = [*progress.rows, row]
        so_far = self.result()
        self._checkpoints.wait()  # what is written down as done is in a checkpoint
        hosts.on_first(lambda: results.write(self._paths.result, so_far))

    def _write_correct(self, phase: Phase, variant: Variant) -> None:
        """Write which test images the trained network of a phase classifies correctly."""
        if self.progress.epoch == phase.first_epoch:
            return  # it trained for no epoch
        evaluation = self._program(variant).evaluate(self.carry.state, self._evaluated["test"])
        correct = np.asarray(evaluation.correct)
        path = self._paths.correct_of(phase.kind, phase.round)
        hosts.on_first(lambda: rundir.write_correct(path, correct))

    def _save_network(self, phase: Phase, row: Row) -> None:
        """Write the trained network of a phase; again, to the same bytes, if it was killed on the way."""
        variant = self.variant(phase)
        network = outcome.network(self._identity, phase, variant, row, self.carry.state, self.variants)
        path = self._paths.network(phase.network)
        hosts.on_first(lambda: networks.save(path, network))

    def _write_spikes(self, phase: Phase, measured: Measurement) -> None:
        """Write the spikes of a trained network for one image, if it has any."""
        first, path = measured.first_image, self._paths.spikes_of(phase.kind, phase.round)
        if first is not None:
            hosts.on_first(lambda: spikes.write(path, first))

    def save_ticket(self, phase: Phase, round_number: int, mask_tree: PyTree) -> str:
        """Write the ticket of a round, its masks and the rewind point; return its name within the run."""
        ticket = outcome.ticket(
            self._identity, round_number, self.variant(phase), mask_tree, self.carry.rewind, self.variants
        )
        hosts.on_first(lambda: tickets.save(self._paths.ticket(round_number), ticket))
        return self.ticket_name(round_number)

    def load_ticket(self, round_number: int) -> tickets.Ticket:
        """The ticket of a round."""
        return tickets.load(self._paths.ticket(round_number))

    def save_weights(self, phase: Phase, epoch: int, state: TrainState) -> None:
        """Write the weights of a network after an epoch, in the format of tickets."""
        point = RewindPoint(state.step, state.params, state.batch_stats)
        ticket = outcome.ticket(
            self._identity, phase.round, self.variant(phase), state.masks, point, self.variants
        )
        hosts.on_first(lambda: tickets.save(self._paths.weights_of(epoch), ticket))

    def load_weights(self, epoch: int) -> tickets.Ticket:
        """The weights of a network after an epoch."""
        return tickets.load(self._paths.weights_of(epoch))

    def evaluate(self, phase: Phase, params: PyTree) -> dict[str, Metrics]:
        """Evaluate weights on the "train" and the "test" images.

        Batch norm has the statistics that these weights have on the training images, see `Program`.
        """
        program = self._program(self.variant(phase))
        state = self._on_devices(self.carry.state._replace(params=params))
        statistics = program.statistics(state, self.train_split, self.score_key)
        state = self._on_devices(state._replace(batch_stats=statistics))
        splits = {"train": self.train_split, "test": self._evaluated["test"]}
        return {
            name: jax.device_get(program.evaluate(state, split).metrics) for name, split in splits.items()
        }

    def ticket_name(self, round_number: int) -> str:
        """Name of a ticket's file within the run."""
        path = self._paths.ticket(round_number)
        return f"{path.parent.name}/{path.name}"

    def mask_file(self, epoch: int) -> Any:
        """Path of the file of Early-Bird's mask after an epoch."""
        return self._paths.mask(epoch)

    def result(self) -> Result:
        """The result so far."""
        return outcome.result(self.config, self._identity, self.phases, self.progress, self.variants)

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Add the time of the context, which is between training runs, to the row."""
        started, row = time.perf_counter(), self.progress.row
        yield
        row.seconds += time.perf_counter() - started

    # --- resume

    def restore(self, changed: str = "") -> None:
        """Take the arrays and the progress of the newest checkpoint, if there is one.

        Args:
          changed: difference from the configuration of the checkpoint, as one line.

        Raises:
          InputError: no checkpoint can be read, or they are gone, or of a search with other phases.
        """
        restored, recorded = self._checkpoints.restore(self.carry), self.recorder.size()
        with contextlib.suppress(InputError):
            earlier = results.read(self._paths.result)
            if isinstance(earlier, Result):
                self._earlier = (*earlier.preparations, *earlier.trainings)
        hosts.raise_together(lambda: self._check_nothing_lost(restored and restored[1], recorded))
        if restored is not None:
            self._resume(*restored, changed)
        self.recorder.truncate(self.progress.metrics_bytes)
        self.recorder.resume(self.progress.epochs_done)
        every = self.config.checkpoint_every
        resumed = restored is not None
        self.recorder.record(
            StartEvent(
                time=time.time(),
                resumed=resumed,
                checkpoint_every=every,
                epochs=self._all_epochs(),
                versions=versions(),
                devices=devices(),
            )
        )
        if changed:
            self.recorder.message(f"--override: {changed}")
            self.recorder.record(OverrideEvent(changed=changed))
            self.progress.overrides = [*self.progress.overrides, changed]
            if resumed:
                self._save(self.carry)
                self._checkpoints.wait()
            hosts.on_first(lambda: rundir.write_json(self._paths.config, self._identity))

    def _resume(self, carry: Carry, progress: Progress, changed: str) -> None:
        planned, now = self.progress.phases, self.progress
        done = progress.phase + 1
        if progress.phases[:done] != planned[:done]:
            completed = ", ".join(progress.phases[:done])
            raise InputError("`override`", allowed=f"a configuration that begins with {completed}, as there")
        if changed and done == len(planned) and progress.over:
            raise InputError("`override`", problem=changed, allowed="while there is something left to train")
        for before, here in ((progress.devices, now.devices), (progress.software, now.software)):
            if before not in ("", here):  # "" of an earlier version
                self.recorder.message(f"on {here}, not {before}: from here on equal up to rounding")
        self.carry, self.progress = carry, progress
        progress.phases, progress.devices, progress.software = planned, now.devices, now.software
        phase, step = self.phases[progress.phase], progress.step
        part = f", step {step} of the next" if step else ""
        self.recorder.message(f"resuming after {phase}, epoch {progress.epoch}{part}")

    def _check_nothing_lost(self, progress: Progress | None, recorded: int) -> None:
        """Raise InputError if files of the run are gone, rather than begin anew over the rest."""
        longest = max((start.checkpoint_every for start in self.recorder.events(StartEvent)), default=0)
        trained = any(row.epochs for row in self._earlier)
        if progress is None and (trained or len(self.recorder.events(EpochEvent)) > longest):
            lost = "its checkpoints are gone"
        else:
            lost = self._lost(progress, recorded) if progress else ""
        if lost:
            allowed = "with them, or another directory"
            raise InputError("`workdir`", self._paths.config.parent, problem=lost, allowed=allowed)

    def _lost(self, progress: Progress, recorded: int) -> str:
        """Name the files of a result with this progress that are gone; empty if none is."""
        if not hosts.is_first():
            return ""
        if recorded < progress.metrics_bytes:
            return "lines of its metrics.jsonl are gone"
        gone = rundir.gone(self._paths, ["config.json", *outcome.files(progress.rows)])
        return f"its {gone}" if gone else ""

    def _on_devices(self, tree: PyTree) -> PyTree:
        return sharding.replicate(tree, self.variants.devices)

    def _save(self, carry: Carry) -> None:
        if lost := self._lost(self.progress, self.recorder.size()):  # or the end would hide it
            raise StorageError(f"`workdir` {self._paths.config.parent}: {lost}")
        self._checkpoints.save(carry, self.progress, self.recorder.size())

    # --- training

    def _last_epoch(self, phase: Phase) -> int:
        """Number of completed epochs of the weights at the end of a phase."""
        done = [row.epochs for row in self.progress.rows]
        return phase.first_epoch + epochs(self.phases, done, phase)

    def _all_epochs(self) -> int:
        """Number of epochs of the whole search, as far as is known."""
        return sum(phases.all_epochs(self.phases, [row.epochs for row in self.progress.rows]))

    def _program(self, variant: Variant) -> Program:
        """The training program of a variant, compiled unless this process has it already."""
        name = str(variant)
        state = self.carry.state
        program, seconds = self.variants.program(
            variant,
            state,
            self.train_split,
            self._evaluated["test"],
            announce=lambda: self.recorder.message(f"compiling training and evaluation: {name} ..."),
        )
        if (
            variant.activation == "lif" and self.variants.wiring is not None
        ):  # now, not after hours of training
            seconds += self.variants.spike_counter(variant, state)[1]
        if seconds:
            self.recorder.message(f"compiled in {seconds:.1f} s")
            self.recorder.compiled(seconds)
            self.progress.compile_seconds |= {name: seconds}
        return program

    def _record(self, phase: Phase, epoch: Epoch, program: Program, over: bool) -> None:
        """Evaluate an epoch, add it to the phase's row, and record it."""
        started, row, number = time.perf_counter(), self.progress.row, epoch.number
        fields = _means("train", epoch.metrics)
        if number % self.config.eval_every == 0 or over:
            for name, split in self._evaluated.items():
                fields |= _means(name, program.evaluate(epoch.state, split).metrics)
                row.evaluated(name, fields[f"{name}_accuracy"])
        seconds = epoch.seconds + time.perf_counter() - started
        row.device_seconds += epoch.seconds
        row.seconds += seconds
        rate_of_images = len(self.train_split.labels) / epoch.seconds
        self._checkpoints.wait()  # a recorded epoch has those before it in a checkpoint
        event = EpochEvent(
            kind=phase.kind,
            round=phase.round,
            epoch=number,
            **fields,
            learning_rate=epoch.learning_rate,
            images_per_second=rate_of_images,
            seconds=seconds,
        )
        self.recorder.record(event)
        label = f"{phase} epoch {number}/{self._last_epoch(phase)}"
        self.recorder.epoch_line(label, self.progress.epochs_done, event)


@numerics.pinned()
def run(
    config: Config,
    search: Callable[[Session[Config]], None],
    dataset: data.Dataset | None = None,
    model: nn.Module | None = None,
    programs: Programs | None = None,
    console: Console | None = None,
    empty_queue: Callable[[TrainState], jax.Array] | None = None,
    planned: Sequence[Phase] | None = None,
) -> Result | Plan:
    """Run a search in its directory, or resume it; only show a finished one, only plan a dry run.

    Args:
      config: resolved, see `configs.resolve`; everything is written below `config.workdir`.
      search: function that trains the remaining phases, in order.
      dataset: images; by default loaded by the configuration's name.
      model: Flax module with the arguments of `snnlth_jax.models`; by default the configuration's.
      programs: cache of compiled programs; by default the one of this process.
      console: console for progress; standard output by default.
      empty_queue: function from a state to Early-Bird's empty queue of masks; None for other searches.
      planned: all phases; by default those of the configuration.

    Returns:
      The result, as in result.json; for a dry run the plan.

    Raises:
      InputError: the directory holds something else, or all its checkpoints are damaged.
      NonFiniteLoss: training diverged; the last checkpoint is from before.
      Stopped: SIGTERM or SIGINT asked to stop; the same call resumes.
      StorageError: the disk is full, or read-only, or gone; the same call resumes from the last checkpoint.
    """
    console = console or Console(quiet=not hosts.is_first())
    planned = phases.of(config) if planned is None else planned
    dataset = hosts.raise_together(lambda: _checked(config, dataset))
    variants = Variants(config, dataset, model, programs)
    shapes = jax.eval_shape(variants.init_state, jax.random.key(0)).masks
    targets.check_removes(config, sum(mask.size for mask in jax.tree.leaves(shapes)))
    if config.dry_run:
        costs = plan.make(config, variants, planned)
        plan.show(costs, console)
        return costs
    paths, identity = rundir.paths(config.workdir), configs.identity(config, dataset)
    rundir.claim(paths, identity, config.override)
    with rundir.hold(paths):
        changed = rundir.claim(paths, identity, config.override)  # nobody came between
        result = _finished(paths)
        if result is not None and not changed:
            rows = (*result.preparations, *result.trainings) if result else ()
            gone = rundir.gone(paths, ["metrics.jsonl", *outcome.files(rows)])
            without = f", but of its files {gone}" if gone else ""
            tables.say(console, f"{config.workdir}: this search is finished{without}")
            if config.tensorboard:
                with rundir.writing(paths):
                    hosts.on_first(lambda: Events(paths.tensorboard, events.read(paths.metrics)).close())
        else:
            with (
                rundir.writing(paths),
                watch() as signal_at,
                Recorder(
                    paths.metrics, console, paths.tensorboard if config.tensorboard else None
                ) as recorder,
                checkpoints.manager(paths) as manager,
            ):
                hosts.on_first(lambda: rundir.write_settings(paths, config))
                checkpointer = Checkpointer(manager, signal_at, variants.devices, config.checkpoint_minutes)
                session = Session(
                    config, dataset, planned, variants, identity, paths, recorder, checkpointer, empty_queue
                )
                session.restore(changed)
                search(session)
                result = session.result()
    tables.print_result(result, console)
    return result


def _checked(config: configs.ResolvedTrain, dataset: data.Dataset | None) -> data.Dataset:
    """The dataset, once the devices and it allow the configuration."""
    if config.seeds:
        raise InputError("`seeds`", config.seeds, allowed="with search.replicates.run; `seed` for one search")
    configs.check_devices(config)
    dataset = configs.load_dataset(config) if dataset is None else verified(dataset, every_class=False)
    configs.check_examples(config, len(dataset.train.labels))
    configs.check_frames(config, dataset.image_shape)
    return dataset


def _finished(paths: rundir.Paths) -> Result | None:
    """The result of a finished search; None for others."""
    with contextlib.suppress(InputError):
        result = results.read(paths.result)
        return result if isinstance(result, Result) and result.finished else None
    return None


def _means(name: str, metrics: Metrics) -> dict[str, float]:
    examples = int(metrics.examples)
    return {
        f"{name}_loss": float(metrics.loss) / examples,
        f"{name}_accuracy": int(metrics.correct) / examples,
    }
