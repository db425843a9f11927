"""The same search with several seeds: one after another, each in a directory of its own, then together."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from snnlth_jax import configs
from snnlth_jax.machine import hosts
from snnlth_jax.run import directory as rundir
from snnlth_jax.run.metrics import FORMAT
from snnlth_jax.run.tables import mean_table

__all__ = ["run", "summary"]


def run(
    search: Callable[..., dict[str, Any]], config: configs.Resolved, console: Console | None = None
) -> dict[str, Any]:
    """Run a search once for each of `config.seeds`; seeds that are finished are not run again.

    Args:
      search: of one of the modules of `snnlth_jax.search`.
      config: resolved, with seeds; seed n runs in `workdir/seedN`, and `workdir/result.json` sums them up.
      console: where progress is shown; standard output by default.

    Returns:
      What result.json holds, see `summary`.
    """
    console = console or Console(quiet=not hosts.is_first())
    if config.dry_run:
        console.print(f"each of {len(config.seeds)} seeds, one after another:", highlight=False)
        one = dataclasses.replace(config, seed=config.seeds[0], seeds=())
        return search(one, configs.load_dataset(one), console)
    paths = rundir.paths(config.workdir)
    identity = configs.identity(
        config, configs.load_dataset(dataclasses.replace(config, seed=config.seeds[0]))
    )
    # the seeds may become more; the data depend on the seed where they are capped
    identity |= {"seed": "one of --seeds", "dataset_fingerprint": None}
    if rundir.claim(paths, identity, config.override):
        with rundir.writing(paths):
            hosts.on_first(lambda: rundir.write_json(paths.config, identity))
    results = []
    for seed in config.seeds:
        one = dataclasses.replace(config, seed=seed, seeds=(), workdir=f"{config.workdir}/seed{seed}")
        console.print(f"seed {seed}: {one.workdir}", markup=False, highlight=False)
        results.append(search(one, configs.load_dataset(one), console))
    together = summary(results)
    with rundir.writing(paths):
        hosts.on_first(lambda: rundir.write_json(paths.result, together))
    if together["tickets"]:
        console.print(mean_table(together))
    return together


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds.

    Args:
      results: what the runs gave, see `snnlth_jax.search.session.run`; alike but for the seed.

    Returns:
      `format`, `method`, `finished`, `seeds`, `config`, versions and devices; `early_time`, `early_bird` by
      seed; for `rounds`, `tickets` and `controls` a row for each of theirs: `kind`, `round`, `sparsity`, and
      `{mean, std, values}` of its accuracies, epochs and seconds; of tickets `search_epochs`,
      `search_train_flops`, `search_device_seconds`, `search_relative_to_imp` too. std is that of a sample
      (n - 1), None for one.
    """
    first = results[0]
    return {
        "format": FORMAT,
        "method": first["method"],
        "finished": all(result["finished"] for result in results),
        "seeds": [result["config"]["seed"] for result in results],
        "config": {k: v for k, v in first["config"].items() if k != "seed"},
        **{key: first[key] for key in ("versions", "devices")},
        "early_time": [result["early_time"] for result in results],
        "early_bird": [result["early_bird"] for result in results],
        **{
            part: [_over_seeds(rows) for rows in zip(*(result[part] for result in results), strict=True)]
            for part in ("rounds", "tickets", "controls")
        },
    }


def _over_seeds(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    row = {key: rows[0][key] for key in ("kind", "round", "kept", "total", "sparsity")}
    row["num_timesteps"] = [each["num_timesteps"] for each in rows]
    for key in ("epochs", "seconds", "final_test_accuracy", "best_test_accuracy", "search_test_accuracy"):
        row[key] = _spread([each.get(key) for each in rows])
    if "search" in rows[0]:
        for key in ("epochs", "train_flops", "device_seconds"):
            row[f"search_{key}"] = _spread([each["search"][key] for each in rows])
        row["search_relative_to_imp"] = _spread([each["search_relative_to_imp"] for each in rows])
    return row


def _spread(values: list[Any]) -> dict[str, Any] | None:
    if None in values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "values": values}
