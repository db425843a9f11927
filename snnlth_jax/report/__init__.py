"""Results of searches as one page and as files of each plot; reads their directories, and nothing else."""

import logging
from collections.abc import Sequence
from importlib.metadata import version

from etils import epath

from snnlth_jax import files
from snnlth_jax.analysis.energy import ENERGY_AC, ENERGY_MAC, energy
from snnlth_jax.data.contract import safe_name
from snnlth_jax.errors import InputError
from snnlth_jax.report import (
    accuracy,
    html,
    kernels,
    layers,
    learning,
    operations,
    rasters,
    runs,
    searches,
    stability,
    theme,
)
from snnlth_jax.report.live import under_way
from snnlth_jax.report.plot import Plot
from snnlth_jax.report.series import Experiment, experiments
from snnlth_jax.report.table import csv_text

__all__ = ["draw", "write"]

log = logging.getLogger(__name__)


def write(
    workdirs: Sequence[str],
    output: str | None = None,
    energy_mac: float = ENERGY_MAC,
    energy_ac: float = ENERGY_AC,
    live: bool = False,
) -> epath.Path:
    """Make `report.html`, and in `report/` a PNG, a PDF and a CSV of each of its plots.

    Args:
      workdirs: directories of searches, or with any number of them below.
      output: directory of the page; by default the workdir, or the current one where there are several.
      energy_mac: picojoules of a multiply-accumulate.
      energy_ac: picojoules of an addition.
      live: make the page alone, of searches under way too; browsers load it again and again.

    Returns:
      The path of the page, which is written last and in one go.

    Raises:
      InputError: nothing to report or damaged results, and nothing was written; or an output that cannot be
        written, and an older page stays as it was.
    """
    if not workdirs:
        raise InputError("report: no directory given; allowed: one or more of searches")
    energy((), energy_mac, energy_ac)  # refuses what no energy can be
    if output is not None and not output.strip():
        raise InputError("`output`", repr(output), allowed="the name of a directory")
    collected = runs.collect(workdirs, begun=live)
    compared_experiments = experiments(collected.runs)
    for line in html.different_data(compared_experiments):
        log.warning("warning: %s", line)
    compared, remarks = [], []
    for experiment in compared_experiments:
        plots, more = draw(experiment, energy_mac, energy_ac)
        compared.append((experiment, plots))
        remarks += more
    content: dict[str, bytes] = {}
    for number, (experiment, drawn) in enumerate(() if live else compared):
        prefix = f"{safe_name(f'{experiment.dataset}-{experiment.arch}')}-" if len(compared) > 1 else ""
        if any(name.startswith(prefix) for name in content):
            prefix += f"{number}-"
        for plot in drawn:
            content[f"{prefix}{plot.name}.csv"] = csv_text(plot.header, plot.rows).encode(errors="replace")
            for suffix, picture in theme.paper(plot.figure).items():
                content[f"{prefix}{plot.name}.{suffix}"] = picture
    now = under_way(collected) if live else None
    without_result = () if live else collected.without_result  # which the card has
    page = html.page(compared, without_result, remarks, version("snnlth_jax"), now)
    directory = epath.Path(output if output is not None else workdirs[0] if len(workdirs) == 1 else ".")
    try:
        (directory if live else directory / "report").mkdir(parents=True, exist_ok=True)
        for name, file in content.items():
            files.replace(directory / "report" / name, file)
        files.replace(directory / "report.html", page.encode())
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"--output {directory}: {reason}; allowed: a directory that can be written"
        ) from error
    return directory / "report.html"


def draw(
    experiment: Experiment, energy_mac: float = ENERGY_MAC, energy_ac: float = ENERGY_AC
) -> tuple[list[Plot], list[str]]:
    """The plots that an experiment has data for, in the order of the page; remarks about unreadable files."""
    pictures, without_picture = kernels.pictures(experiment)
    rastered, without_spikes = rasters.pictures(experiment)
    drawn = [
        accuracy.accuracy(experiment),
        learning.learning_curves(experiment),
        learning.losses(experiment),
        accuracy.cost(experiment),
        searches.early_time(experiment),
        searches.early_time_over_epochs(experiment),
        searches.early_bird_rule(experiment),
        *searches.early_bird_matrices(experiment),
        stability.barriers(experiment),
        stability.interpolations(experiment),
        layers.densities(experiment),
        layers.firing_rates(experiment),
        *pictures,
        *rastered,
        operations.silence(experiment),
        operations.synops(experiment),
        operations.energy(experiment, energy_mac, energy_ac),
    ]
    return [plot for plot in drawn if plot is not None], [*without_picture, *without_spikes]
