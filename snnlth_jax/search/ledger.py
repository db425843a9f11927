"""What a ticket cost: the trainings of its search, and its own, added up from their rows.

A search is counted from its start to the ticket, that is to its masks: the dense training and the pruned ones
before it, Early-Time's probe, a criterion's scores. The final training of the ticket is kept apart, as in the
paper's Table 1.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from snnlth_jax import configs

Row = Mapping[str, Any]

__all__ = ["SEARCH_KINDS", "cost", "epochs_to_trained", "imp_epochs", "of_search", "tickets"]

SEARCH_KINDS = ("probe", "scores", "search", "round")


def of_search(rows: Sequence[Row], round_number: int) -> list[Row]:
    """The rows that went into the masks of a round: all of the search before it."""
    return [row for row in rows if row["kind"] in SEARCH_KINDS and row["round"] < round_number]


def epochs_to_trained(rows: Sequence[Row], round_number: int) -> int:
    """Epochs of a ticket from the start of its search to the end of its own training."""
    own = [row for row in rows if row["round"] == round_number and row["kind"] in ("ticket", "round")]
    return sum(row["epochs"] for row in [*of_search(rows, round_number), *own[-1:]])


def cost(rows: Sequence[Row]) -> dict[str, Any]:
    """Sums over trainings.

    Returns:
      `epochs`; `images`, each counted as often as it was seen; `train_flops`, the sum of `forward_flops` and
      `backward_flops`; `device_seconds` of training steps and of scoring; `seconds` with evaluations,
      pruning, drawing and comparing masks, measuring divergences.
    """
    counted = ("epochs", "images", "train_flops", "forward_flops")
    counts = {key: sum(row[key] for row in rows) for key in counted}
    counts["backward_flops"] = counts["train_flops"] - counts["forward_flops"]
    times = {key: math.fsum(row[key] for row in rows) for key in ("device_seconds", "seconds")}
    return counts | times


def imp_epochs(config: configs.Resolved, round_number: int, sparsity: float) -> int:
    """Epochs that IMP trains until it has the masks of a ticket: E + (k - 1)(E - r).

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
    return config.epochs + (k - 1) * (config.epochs - rewind_epoch)


def tickets(
    rows: Sequence[Row],
    config: configs.Resolved,
    epoch_flops: int,
    compile_seconds: Mapping[str, float],
) -> list[dict[str, Any]]:
    """The tickets that were trained at the full T, with what they cost.

    Args:
      rows: of all trainings so far.
      config: of the search.
      epoch_flops: of training for one epoch at the full T.
      compile_seconds: by network, named as the rows name them.

    Returns:
      For each ticket its row, and `search_test_accuracy`, that of the search with fewer timesteps (or of the
      ReLU twin) at the same masks, None where it has none; `search` and `training`, see `cost`, with
      `compile_seconds` (that of a program both use counts for the search); `search_relative_to_imp`: FLOPs of
      the search over those of `imp_epochs` of IMP at the full T.
    """
    final = [row for row in rows if row["kind"] == "ticket"]
    if config.method == "imp" and not config.early_time:  # its rounds are trained at the full T
        final = [row for row in rows if row["kind"] == "round" and row["round"] in config.final_rounds]
    result = []
    for row in final:
        before = of_search(rows, row["round"])
        same = [
            r for r in rows if (r["kind"], r["round"]) == ("round", row["round"]) and row["kind"] == "ticket"
        ]
        searched = {r["network"] for r in before if r["kind"] != "scores"}
        search, training = cost(before), cost([row])
        scoring = math.fsum(r.get("compile_seconds", 0.0) for r in before)
        search["compile_seconds"] = scoring + math.fsum(compile_seconds.get(n, 0.0) for n in searched)
        own = 0.0 if row["network"] in searched else compile_seconds.get(row["network"], 0.0)
        training["compile_seconds"] = own
        imp = imp_epochs(config, row["round"], row["sparsity"])
        result.append(
            {
                **row,
                "search_test_accuracy": same[0]["final_test_accuracy"] if same else None,
                "search": search,
                "training": training,
                "imp_epochs": imp,
                "search_relative_to_imp": search["train_flops"] / (imp * epoch_flops),
            }
        )
    return result
