"""`snnlth analyse` and `snnlth report`: what searches have recorded."""

import dataclasses
import os

import tyro

from snnlth_jax.analysis.energy import ENERGY_AC, ENERGY_MAC
from snnlth_jax.commands.output import check, show

__all__ = ["Analyse", "Report"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Energy:
    energy_mac: float = ENERGY_MAC
    """Energy of a multiply-accumulate in picojoules. The default is for 32 bits, 45 nm (Horowitz 2014)."""
    energy_ac: float = ENERGY_AC
    """Energy of an addition in picojoules. The default is for 32 bits, 45 nm (Horowitz 2014)."""


@dataclasses.dataclass(frozen=True)
class Analyse(_Energy):
    """Print sparsity and health by layer, SynOps and energy of the tickets of a search, as recorded there."""

    workdir: tyro.conf.Positional[str]
    """Directory of a search."""
    rounds: tuple[int, ...] = ()
    """Rounds of the search to print. Default: the rounds of its tickets."""

    def run(self) -> None:
        from snnlth_jax.report import analyse

        analyse.show(self.workdir, self.rounds, self.energy_mac, self.energy_ac)


@dataclasses.dataclass(frozen=True)
class Report(_Energy):
    """Write plots and tables of searches: a page, report.html, and PNG, PDF, CSV files. Needs matplotlib."""

    workdirs: tyro.conf.Positional[list[str]]
    """Directories of searches, or directories above them; several searches are compared."""
    output: str | None = None
    """Directory of report.html and report/. Default: the directory of the searches; if there are several, the
    current one."""
    watch: bool = False
    """Write the page alone, again whenever a search has a new epoch or result, until Ctrl-C; browsers load it
    again by themselves. It shows searches under way too."""

    def run(self) -> None:
        from snnlth_jax import report
        from snnlth_jax.report import live

        if self.output:
            check(os.path.join(self.output, "report.html"), overwrite=True)
        given = self.workdirs, self.output, self.energy_mac, self.energy_ac
        if self.watch:
            live.watch(self.workdirs, lambda: report.write(*given, live=True), show)
        else:
            show(report.write(*given))
