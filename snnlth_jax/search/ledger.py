"""Cost of a ticket: the training runs of its search, and its own, added up from their rows.

A search counts from its start to the ticket, that is to its masks: the dense training run and the pruned
ones before it, Early-Time's probe, a criterion's scores. The final training run of the ticket is separate, as
in the paper's Table 1.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec

from snnlth_jax import configs
from snnlth_jax.run.results import Cost, Row, TicketRow
from snnlth_jax.search.phases import Phase

Done = Sequence[tuple[Phase, Row]]  # phases that are done, in order, with their rows

__all__ = ["cost", "imp_epochs", "tickets"]


def cost(rows: Sequence[Row], compile_seconds: float = 0.0) -> Cost:
    """Total cost of training runs, and the seconds of compiling their programs."""
    train_flops = sum(row.train_flops for row in rows)
    forward_flops = sum(row.forward_flops for row in rows)
    return Cost(
        epochs=sum(row.epochs for row in rows),
        images=sum(row.images for row in rows),
        train_flops=train_flops,
        forward_flops=forward_flops,
        backward_flops=train_flops - forward_flops,
        device_seconds=math.fsum(row.device_seconds for row in rows),
        seconds=math.fsum(row.seconds for row in rows),
        compile_seconds=compile_seconds,
    )


def imp_epochs(config: configs.ResolvedTrain, round_number: int, sparsity: float) -> int:
    """Number of epochs that IMP trains until it has the masks of a ticket: E + (k - 1)(E - r).

    A search by rounds has its own round k and rewind epoch r. For another search k is the round with the
    nearest sparsity in a search with the paper's p, and r is the default of the dataset, in proportion if
    there are fewer epochs.

    >>> imp_epochs(configs.resolve(configs.ImpConfig(dataset="cifar10")), 14, 0.982)  # the paper's 52 hours
    3940
    """
    if isinstance(config, configs.ResolvedRounds):
        k, rewind_epoch = round_number, config.rewind_epoch
    else:
        k = max(1, round(math.log(1 - sparsity) / math.log(1 - configs.ImpConfig.prune_fraction)))
        rewind_epoch = configs.proportional_rewind_epoch(config.dataset, config.epochs)
    return config.epochs + (k - 1) * (config.epochs - rewind_epoch)


def tickets(
    done: Done, config: configs.ResolvedTrain, epoch_flops: int, compile_seconds: Mapping[str, float]
) -> tuple[TicketRow, ...]:
    """The tickets that were trained at the full T, with their cost.

    Args:
      done: phases that are done, with their rows.
      config: configuration of the search.
      epoch_flops: FLOPs of training for one epoch at the full T.
      compile_seconds: seconds of compiling by network variant, named as in the rows. Those of a program
        that the search and the ticket share count for the search.
    """
    return tuple(
        _ticket(done, phase, row, config, epoch_flops, compile_seconds)
        for phase, row in done
        if phase.part == "tickets" or phase.gives_ticket
    )


def _ticket(
    done: Done,
    phase: Phase,
    row: Row,
    config: configs.ResolvedTrain,
    epoch_flops: int,
    compile_seconds: Mapping[str, float],
) -> TicketRow:
    earlier = [(p, r) for p, r in done if p.searches and p.round < phase.round]
    rows = [r for _, r in earlier]
    rounds = [r for p, r in done if p.part == "rounds" and p.round == phase.round and p is not phase]
    searched = {r.network for p, r in earlier if p.trains}
    compiled = math.fsum(r.compile_seconds for r in rows)
    compiled += math.fsum(compile_seconds.get(name, 0.0) for name in searched)
    search = cost(rows, compiled)
    own = 0.0 if row.network in searched else compile_seconds.get(row.network, 0.0)
    epochs = imp_epochs(config, row.round, row.sparsity)
    fields = msgspec.structs.asdict(row)
    return TicketRow(
        **fields,
        search_test_accuracy=rounds[0].final_test_accuracy if rounds else None,
        search=search,
        training=cost([row], own),
        imp_epochs=epochs,
        search_relative_to_imp=search.train_flops / (epochs * epoch_flops),
    )
