"""Replicates: the same search with several seeds, each in a directory of its own, and their summary."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from snnlth_jax import configs
from snnlth_jax.machine import hosts
from snnlth_jax.run import directory as rundir
from snnlth_jax.run.results import Result, Row, Spread, Summary, SummaryRow, TicketRow, write
from snnlth_jax.run.tables import mean_table, say

__all__ = ["run", "summary"]


def run(search: Callable[..., Any], config: configs.ResolvedTrain, console: Console | None = None) -> Any:
    """Run a search once for each of `config.seeds`, except for seeds that are finished.

    Args:
      search: function `search` of one of the modules of `snnlth_jax.search`.
      config: resolved, with seeds; seed n runs in `workdir/seedN`, and `workdir/result.json` sums them up.
      console: console for progress; standard output by default.

    Returns:
      The `Summary` of result.json; for a dry run the plan of one seed, see `plan.make`.
    """
    console = console or Console(quiet=not hosts.is_first())
    if config.dry_run:
        say(console, f"each of {len(config.seeds)} seeds, one after another:")
        replicate = dataclasses.replace(config, seed=config.seeds[0], seeds=())
        return search(replicate, console=console)
    paths = rundir.paths(config.workdir)
    identity = configs.identity(
        config, configs.load_dataset(dataclasses.replace(config, seed=config.seeds[0]))
    )
    # a later command may have more seeds; capped data depend on the seed
    identity |= {"seed": "one of --seeds", "dataset_fingerprint": None}
    if rundir.claim(paths, identity, config.override):
        with rundir.writing(paths):
            hosts.on_first(lambda: rundir.write_json(paths.config, identity))
    with rundir.writing(paths):
        hosts.on_first(lambda: rundir.write_settings(paths, config))
    results: list[Result] = []
    for seed in config.seeds:
        workdir = f"{config.workdir}/seed{seed}"
        replicate = dataclasses.replace(config, seed=seed, seeds=(), workdir=workdir)
        say(console, f"seed {seed}: {workdir}")
        results.append(search(replicate, console=console))
    over_seeds = summary(results)
    with rundir.writing(paths):
        hosts.on_first(lambda: write(paths.result, over_seeds))
    if over_seeds.tickets:
        console.print(mean_table(over_seeds))
    return over_seeds


def summary(results: Sequence[Result]) -> Summary:
    """Summarise results: mean and standard deviation over seeds.

    Args:
      results: results of searches that differ in the seed alone.
    """
    first = results[0]
    return Summary(
        method=first.method,
        finished=all(result.finished for result in results),
        seeds=tuple(result.seed for result in results),
        config={k: v for k, v in first.config.items() if k != "seed"},
        versions=first.versions,
        devices=first.devices,
        early_time=tuple(result.early_time for result in results),
        early_bird=tuple(result.early_bird for result in results),
        stability=tuple(result.stability for result in results),
        rounds=_over_seeds([result.rounds for result in results]),
        tickets=_over_seeds([result.tickets for result in results]),
        controls=_over_seeds([result.controls for result in results]),
    )


def _spread(values: Sequence[float | None]) -> Spread | None:
    """Spread of a value over seeds; None if a seed lacks it."""
    numbers = [value for value in values if value is not None]
    return Spread.of(numbers) if numbers and len(numbers) == len(values) else None


def _over_seeds(rows_by_seed: Sequence[Sequence[Row]]) -> tuple[SummaryRow, ...]:
    return tuple(_summary_row(rows) for rows in zip(*rows_by_seed, strict=True))


def _summary_row(rows: Sequence[Row]) -> SummaryRow:
    tickets = [row for row in rows if isinstance(row, TicketRow)]
    searches = [ticket.search for ticket in tickets if ticket.search]
    return SummaryRow(
        kind=rows[0].kind,
        round=rows[0].round,
        kept=rows[0].kept,
        total=rows[0].total,
        sparsity=rows[0].sparsity,
        num_timesteps=tuple(row.num_timesteps for row in rows),
        epochs=_spread([row.epochs for row in rows]),
        seconds=_spread([row.seconds for row in rows]),
        final_test_accuracy=_spread([row.final_test_accuracy for row in rows]),
        best_test_accuracy=_spread([row.best_test_accuracy for row in rows]),
        search_test_accuracy=_spread([ticket.search_test_accuracy for ticket in tickets]),
        search_epochs=_spread([search.epochs for search in searches]),
        search_train_flops=_spread([search.train_flops for search in searches]),
        search_device_seconds=_spread([search.device_seconds for search in searches]),
        search_relative_to_imp=_spread([ticket.search_relative_to_imp for ticket in tickets]),
    )
