"""Cost of a ticket: the training runs of its search, and its own, added up from their rows.

A search is counted from its start to the ticket, that is to its masks: the dense training and the pruned ones
before it, Early-Time's probe, a criterion's scores. The final training of the ticket is kept apart, as in the
paper's Table 1.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from snnlth_jax import configs
from snnlth_jax.run import results
from snnlth_jax.run.results import Cost, Row, TicketRow

__all__ = ["SEARCH_KINDS", "cost", "epochs_to_trained", "imp_epochs", "of_search", "tickets"]

SEARCH_KINDS = ("probe", "scores", "search", "round")


def of_search(rows: Sequence[Row], round_number: int) -> list[Row]:
    """Rows that went into the masks of a round: all of the search before it."""
    return [row for row in rows if row.kind in SEARCH_KINDS and row.round < round_number]


def epochs_to_trained(rows: Sequence[Any], round_number: int) -> int:
    """Epochs of a ticket from the start of its search to the end of its own training run."""
    rows = results.read_rows(rows)  # which searches still hold as JSON values
    own = [row for row in rows if row.round == round_number and row.kind in ("ticket", "round")]
    return sum(row.epochs for row in [*of_search(rows, round_number), *own[-1:]])


def cost(rows: Sequence[Row], compile_seconds: float = 0.0) -> Cost:
    """Sums over training runs."""
    train_flops, forward_flops = sum(row.train_flops for row in rows), sum(row.forward_flops for row in rows)
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


def imp_epochs(config: configs.Resolved, round_number: int, sparsity: float) -> int:
    """Number of epochs that IMP trains until it has the masks of a ticket: E + (k - 1)(E - r).

    The round k and the rewind epoch r are the search's own where it goes by rounds. For other searches k is
    the round of a search with the paper's p whose sparsity is nearest, and r the default of the dataset, in
    proportion where there are fewer epochs.

    >>> imp_epochs(configs.resolve(configs.ImpConfig(dataset="cifar10")), 14, 0.982)  # the paper's 52 hours
    3940
    """
    if hasattr(config, "rounds"):
        k, rewind_epoch = round_number, config.rewind_epoch
    else:
        k = max(1, round(math.log(1 - sparsity) / math.log(1 - configs.ImpConfig.prune_fraction)))
        rewind_epoch = configs.default_rewind_epoch(config.dataset, config.epochs)
    epochs: int = config.epochs + (k - 1) * (config.epochs - rewind_epoch)
    return epochs


def tickets(
    rows: Sequence[Row],
    config: configs.Resolved,
    epoch_flops: int,
    compile_seconds: Mapping[str, float],
) -> list[TicketRow]:
    """The tickets that were trained at the full T, with their cost.

    Args:
      rows: rows of all training runs so far.
      config: configuration of the search.
      epoch_flops: FLOPs of training for one epoch at the full T.
      compile_seconds: seconds by network, named as the rows name them.

    Returns:
      A row for each ticket; a program that its search and its own training run both use counts for the
      search.
    """
    trained = [row for row in rows if row.kind == "ticket"]
    if config.method == "imp" and not config.early_time:  # its rounds are trained at the full T
        trained = [row for row in rows if row.kind == "round" and row.round in config.final_rounds]
    return [_ticket(row, rows, config, epoch_flops, compile_seconds) for row in trained]


def _ticket(
    row: Row,
    rows: Sequence[Row],
    config: configs.Resolved,
    epoch_flops: int,
    compile_seconds: Mapping[str, float],
) -> TicketRow:
    before = of_search(rows, row.round)
    twins = [r for r in rows if r.kind == "round" and r.round == row.round and row.kind == "ticket"]
    networks = {r.network for r in before if r.kind != "scores"}
    scoring = math.fsum(r.compile_seconds for r in before)
    search = cost(before, scoring + math.fsum(compile_seconds.get(n, 0.0) for n in networks))
    imp = imp_epochs(config, row.round, row.sparsity)
    return TicketRow(
        **msgspec.structs.asdict(row),
        search_test_accuracy=twins[0].final_test_accuracy if twins else None,
        search=search,
        training=cost([row], 0.0 if row.network in networks else compile_seconds.get(row.network, 0.0)),
        imp_epochs=imp,
        search_relative_to_imp=search.train_flops / (imp * epoch_flops),
    )
