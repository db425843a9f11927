"""The phases of a search: training runs, each of which ends with a row of result.json.

The constructors in this module alone decide what a phase of each kind does: which network variant it
trains, at which learning rate, from which epoch to which, and which part of result.json has its row.

    kind      what it is                                                  part of result.json

    probe     Early-Time's epochs at the full T, the first of the search  preparations
    scores    a criterion's scores at initialisation, without training    preparations
    dynamic   a network that is sparse from the start, with moving masks  tickets
    search    Early-Bird's dense training run                             rounds
    round     one prune-rewind-train cycle of IMP                         rounds
    ticket    a ticket trained at the full T                              tickets
    random    a ticket's weights, its masks shuffled within each layer    controls
    redrawn   a ticket's masks, newly drawn weights                       controls
    dense     no masks, as many epochs as search and ticket together      controls
    trunk     the dense network, up to the last epoch that is copied      preparations
    copy-a    a copy of the trunk's weights, masked, trained to the end   rounds
    copy-b    the same with another order of images                       rounds
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from snnlth_jax import configs
from snnlth_jax.run.results import phase_name
from snnlth_jax.search.programs import TWIN, Variant, full_variant
from snnlth_jax.train import optimizers

__all__ = [
    "Part",
    "Phase",
    "dynamic",
    "early_bird",
    "epochs",
    "final",
    "of",
    "probe",
    "retrain",
    "rounds",
    "scores",
    "stability",
]

Part = Literal["preparations", "rounds", "tickets", "controls"]
_Searched = configs.ResolvedImp | configs.ResolvedEb
_Controlled = (
    configs.ResolvedDynamic
    | configs.ResolvedImp
    | configs.ResolvedTransfer
    | configs.ResolvedEb
    | configs.ResolvedOneShot
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One training run of a search.

    Attributes:
      kind: name of the kind; with `round` it names the phase and keys its order of images.
      round: round of the search, 0 is dense.
      part: part of result.json that its row belongs to. "preparations" and "rounds" are the search.
      variant: network variant that it trains; with `by_early_time` the largest possible.
      by_early_time: whether Early-Time decides its timesteps.
      first_epoch: number of completed epochs of its weights at the start.
      last_epoch: the same number at the end; None for the number of epochs of the search and of the training
        run of its ticket together.
      learning_rate: initial learning rate.
      schedule: name of the schedule, see `optimizers.learning_rates`.
      schedule_first: number of completed epochs at which the schedule begins; None for `first_epoch`.
      schedule_last: the same number at its end; None for `last_epoch`.
      order: kind whose order of images and augmentation it has; None for its own.
      continues: whether it continues with the training state of the phase before.
      prunings: number of prunings that led to its masks.
      gives_ticket: whether this round of a search is the training run of a ticket at the full T.
      ticket: ticket file whose masks it has, if they are not from this search.
      points: number of networks on the line from the network of the phase before to its own that are
        evaluated at its end.
      network: name of the file of its trained network, see `Paths.network`; empty if it leaves none.
    """

    kind: str
    round: int
    part: Part
    variant: Variant
    by_early_time: bool = False
    first_epoch: int = 0
    last_epoch: int | None
    learning_rate: float
    schedule: str
    schedule_first: int | None = None
    schedule_last: int | None = None
    order: str | None = None
    continues: bool = False
    prunings: int = 0
    gives_ticket: bool = False
    ticket: str | None = None
    points: int = 0
    network: str = ""

    def __str__(self) -> str:
        return phase_name(self.kind, self.round)

    @property
    def searches(self) -> bool:
        """Whether its cost is the search's."""
        return self.part in ("preparations", "rounds")

    @property
    def trains(self) -> bool:
        """Whether it trains for any epoch."""
        return self.last_epoch != self.first_epoch

    def learning_rates(self, last_epoch: int) -> Callable[[int], float]:
        """Learning rate by the number of completed epochs, for a phase that ends at `last_epoch` of them."""
        first = self.first_epoch if self.schedule_first is None else self.schedule_first
        last = last_epoch if self.schedule_last is None else self.schedule_last
        rate = optimizers.learning_rates(self.schedule, self.learning_rate, last - first)
        return lambda completed: rate(completed - first)


def of(config: configs.ResolvedTrain) -> list[Phase]:
    """All phases of the search of a configuration, in order.

    Raises:
      TypeError: a configuration of no search.

    >>> config = configs.resolve(configs.ImpConfig(rounds=2, controls=("dense",)))
    >>> [str(phase) for phase in of(config)]
    ['round 0', 'round 1', 'dense 1']
    """
    match config:
        case configs.ResolvedImp():
            fine_tune, trained = config.rewinding == "fine-tune", not config.early_time
            final_phases = final(
                config, config.final_rounds, config.rewind_epoch, trained=trained, fine_tune=fine_tune
            )
            return [*rounds(config, fine_tune=fine_tune), *final_phases]
        case configs.ResolvedTransfer():
            return [*rounds(config), *final(config, config.final_rounds, config.rewind_epoch)]
        case configs.ResolvedEb():
            return [*early_bird(config), *final(config, [1], config.rewind_epoch)]
        case configs.ResolvedOneShot():
            return [scores(config), *final(config, [1], 0)]
        case configs.ResolvedDynamic():
            return [dynamic(config), *final(config, [1], 0, trained=True)]
        case configs.ResolvedProbe():
            return [probe(config)]
        case configs.ResolvedStability():
            return stability(config)
    raise TypeError(f"no search has the configuration {type(config).__name__}")


# --- the search


def probe(config: configs.ResolvedProbe) -> Phase:
    """The epochs after each of which Early-Time's divergences are measured."""
    return Phase(
        kind="probe",
        round=0,
        part="preparations",
        variant=full_variant(config),
        last_epoch=config.early_time_epochs,
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        schedule_last=config.epochs,
    )


def _with_probe(config: _Searched, dense: Phase) -> list[Phase]:
    """The dense phase of a search, and before it the probe, if Early-Time measures T'.

    The probe is the beginning of the dense phase, which continues it at T'; or, with `early_time_start`
    restart, a training run of its own.
    """
    if not config.measures_timesteps:
        return [dense]
    first = dataclasses.replace(
        dense,
        kind="probe",
        part="preparations",
        variant=full_variant(config),
        by_early_time=False,
        last_epoch=config.early_time_epochs,
        schedule_last=config.epochs,
        gives_ticket=False,
        network="",
    )
    if config.early_time_start == "restart":
        return [first, dense]
    rest = dataclasses.replace(dense, first_epoch=config.early_time_epochs, schedule_first=0, continues=True)
    return [dataclasses.replace(first, order=dense.kind), rest]


def scores(config: configs.ResolvedTrain) -> Phase:
    """Scores at initialisation."""
    return Phase(
        kind="scores",
        round=0,
        part="preparations",
        variant=full_variant(config),
        last_epoch=0,
        learning_rate=config.learning_rate,
        schedule=config.schedule,
    )


def early_bird(config: configs.ResolvedEb) -> list[Phase]:
    """The dense training run in which Early-Bird draws its masks; with Early-Time in two parts."""
    variant, by_early_time = _searched_variant(config)
    dense = Phase(
        kind="search",
        round=0,
        part="rounds",
        variant=variant,
        by_early_time=by_early_time,
        last_epoch=config.epochs,
        learning_rate=config.learning_rate * config.search_learning_rate_factor,
        schedule=config.schedule,
        network="dense",
    )
    return _with_probe(config, dense)


def rounds(config: configs.ResolvedImp | configs.ResolvedTransfer, *, fine_tune: bool = False) -> list[Phase]:
    """The rounds of IMP, the first with Early-Time in two parts.

    Those of a transferred ticket run in the ReLU twin, at its own learning rate.

    Args:
      config: resolved.
      fine_tune: train the survivors at a hundredth of the learning rate.
    """
    rate, tickets = config.learning_rate, config.final_rounds
    if isinstance(config, configs.ResolvedTransfer):
        rate, tickets = rate * config.search_learning_rate_factor, ()
        variant, by_early_time = TWIN, False
    else:
        tickets = () if config.early_time else tickets
        variant, by_early_time = _searched_variant(config)
    dense, *pruned = (
        Phase(
            kind="round",
            round=number,
            part="rounds",
            variant=variant,
            by_early_time=by_early_time,
            first_epoch=config.rewind_epoch if number else 0,
            last_epoch=config.epochs,
            learning_rate=rate,
            schedule="fine-tune" if fine_tune and number else config.schedule,
            schedule_first=_schedule_first(config),
            prunings=number,
            gives_ticket=number in tickets,
            network=f"ticket_{number:02d}" if number in tickets else "" if number else "dense",
        )
        for number in range(config.rounds)
    )
    if isinstance(config, configs.ResolvedImp):
        return [*_with_probe(config, dense), *pruned]
    return [dense, *pruned]


def stability(config: configs.ResolvedStability) -> list[Phase]:
    """The dense network, and two copies of its weights of each epoch, without masks and with each ticket's.

    The trunk is the beginning of round 0 of IMP with the same seed: it has its order of images.
    """
    trunk = Phase(
        kind="trunk",
        round=0,
        part="preparations",
        variant=full_variant(config),
        last_epoch=max(config.stability_epochs),
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        schedule_last=config.epochs,
        order="round",
    )
    pairs = [(ticket, epoch) for ticket in (None, *config.ticket_files) for epoch in config.stability_epochs]
    copies = [
        Phase(
            kind=kind,
            round=number,
            part="rounds",
            variant=full_variant(config),
            first_epoch=epoch,
            last_epoch=config.epochs,
            learning_rate=config.learning_rate,
            schedule=config.schedule,
            schedule_first=_schedule_first(config),
            ticket=ticket,
            points=points,
        )
        for number, (ticket, epoch) in enumerate(pairs, start=1)
        for kind, points in (("copy-a", 0), ("copy-b", config.stability_points))
    ]
    return [trunk, *copies]


def _schedule_first(config: configs.ResolvedTrain) -> int | None:
    """Where the schedule of a rewound network begins, as `Phase.schedule_first`."""
    if not isinstance(config, configs.Rounds | configs.StabilityConfig | configs.RetrainConfig):
        return None
    return 0 if config.schedule_on_rewind == "resume" else None


def _searched_variant(config: _Searched) -> tuple[Variant, bool]:
    """The variant that a search trains, and whether Early-Time decides its timesteps."""
    full = full_variant(config)
    if not config.early_time:
        return full, False
    timesteps = config.early_time_timesteps
    return full._replace(num_timesteps=timesteps or config.num_timesteps - 1), timesteps is None


def dynamic(config: configs.ResolvedDynamic) -> Phase:
    """The training run of a network whose masks move."""
    return Phase(
        kind="dynamic",
        round=1,
        part="tickets",
        variant=full_variant(config),
        last_epoch=config.epochs,
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        prunings=1,
        network="ticket_01",
    )


def retrain(config: configs.ResolvedRetrain, number: int, method: str) -> Phase:
    """The training run of a ticket from a file, with the order of images that it has in its own search.

    Args:
      config: resolved.
      number: round of the ticket.
      method: method of its search.
    """
    order = "round" if method == "imp" else "ticket"
    if config.redraw or config.shuffle:
        order = "redrawn" if config.redraw else "random"
    return Phase(
        kind="ticket",
        round=number,
        part="tickets",
        variant=full_variant(config),
        first_epoch=0 if config.redraw else config.rewind_epoch,
        last_epoch=config.epochs,
        learning_rate=config.learning_rate,
        schedule=config.schedule if config.ticket_schedule == "same" else config.ticket_schedule,
        schedule_first=_schedule_first(config),
        order=order,
        prunings=number,
        network=f"ticket_{number:02d}",
    )


# --- after the search


def final(
    config: _Controlled,
    rounds: Sequence[int],
    rewind_epoch: int,
    *,
    trained: bool = False,
    fine_tune: bool = False,
) -> list[Phase]:
    """The training runs of the tickets of these rounds at the full T, and their controls.

    Args:
      config: resolved; its `controls` are trained beside the tickets.
      rounds: rounds of the search.
      rewind_epoch: number of completed epochs of the tickets' weights.
      trained: the search trained the tickets at the full T already; only the controls remain.
      fine_tune: train networks that start with a ticket's weights at a hundredth of the learning rate.
    """
    schedule: str = config.schedule
    if isinstance(config, configs.EbConfig) and config.ticket_schedule != "same":
        schedule = config.ticket_schedule
    ticket = Phase(
        kind="ticket",
        round=0,
        part="tickets",
        variant=full_variant(config),
        first_epoch=rewind_epoch,
        last_epoch=config.epochs,
        learning_rate=config.learning_rate,
        schedule="fine-tune" if fine_tune else schedule,
        schedule_first=_schedule_first(config),
    )
    random = dataclasses.replace(ticket, kind="random", part="controls")
    redrawn = dataclasses.replace(random, kind="redrawn", first_epoch=0, schedule=schedule)
    dense = dataclasses.replace(redrawn, kind="dense", last_epoch=None, schedule=config.schedule)
    numbered = {
        "ticket": [] if trained else [dataclasses.replace(ticket, round=r, prunings=r) for r in rounds],
        "random": [dataclasses.replace(random, round=r, prunings=r) for r in rounds],
        "redrawn": [dataclasses.replace(redrawn, round=r, prunings=r) for r in rounds],
        "dense": [dataclasses.replace(dense, round=r) for r in rounds[-1:]],
    }
    ordered = [phase for kind in ("ticket", *config.controls) for phase in numbered[kind]]
    # the dense control is not the dense network of the search
    names = {"dense": "dense_control"}
    return [
        dataclasses.replace(phase, network=f"{names.get(phase.kind, phase.kind)}_{phase.round:02d}")
        for phase in ordered
    ]


def epochs(phases: Sequence[Phase], done: Sequence[int], phase: Phase) -> int:
    """Number of epochs of a phase.

    Args:
      phases: all phases of the search.
      done: numbers of epochs of the completed phases, in their order.
      phase: one of the phases, or one like them.
    """
    if phase.last_epoch is not None:
        return phase.last_epoch - phase.first_epoch
    completed = list(zip(phases, done, strict=False))
    search = sum(count for p, count in completed if p.searches and p.round < phase.round)
    own = [count for p, count in completed if p.round == phase.round and p.part in ("rounds", "tickets")]
    return search + sum(own[-1:])


def all_epochs(phases: Sequence[Phase], done: Sequence[int] = ()) -> list[int]:
    """Number of epochs of each phase: that of the completed ones as given, of the others at most."""
    numbers = list(done)
    for phase in phases[len(done) :]:
        numbers.append(epochs(phases, numbers, phase))
    return numbers
