"""The page: one file that needs no network and no script, in light and dark, for desks and phones."""

import base64
import re
from collections.abc import Iterable, Sequence

from snnlth_jax.report import settings, theme
from snnlth_jax.report.accuracy import accuracy_of
from snnlth_jax.report.live import REFRESH
from snnlth_jax.report.markup import table, text, wrapped
from snnlth_jax.report.plot import Plot, percent, si
from snnlth_jax.report.runs import Run
from snnlth_jax.report.series import Experiment
from snnlth_jax.report.table import csv_text
from snnlth_jax.run.results import Row, Spread, TicketRow

__all__ = ["different_data", "page"]

_MEANINGS = {
    "imp": "IMP: iterative magnitude pruning with rewinding",
    "eb": "EB: Early-Bird, the search ends when the masks stop changing",
    "et": "ET: Early-Time, the search runs with fewer timesteps",
    "transfer": "Transfer: searched in the ReLU twin, trained as a spiking network",
    "stability": "Stability: two copies of a network end in one basin, whatever the order of their images",
    "snip grasp synflow": "SNIP, GraSP, SynFlow: pruned at initialisation by a score",
    "random": "Random: pruned at initialisation at random",
}

_STYLE = """
:root { color-scheme: light dark; --page: #f3f5f7; --card: #fefefe; --edge: #7a828c99; LIGHT }
@media (prefers-color-scheme: dark) { :root { --page: #0d0f13; --card: #15181d; --edge: #a3acb899; DARK } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system,
  "Segoe UI", Roboto, "Liberation Sans", sans-serif; -webkit-text-size-adjust: 100%; overflow-wrap: anywhere }
main { max-width: 1180px; margin: 0 auto; padding: 2.2rem 1.1rem 3rem }
h1 { font-size: 1.65rem; line-height: 1.2; margin: 0 0 .35rem; letter-spacing: -.01em }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .8rem }
h3 { font-size: 1rem; margin: 0 0 .6rem }
p { margin: .4rem 0; max-width: 75ch }
.lead { color: var(--muted); font-size: 1.02rem }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 1.1rem;
  margin: 1.1rem 0 }
figure { margin: 0 }
figure, .card { background: var(--card); border: 1px solid var(--faint); border-radius: 10px;
  padding: 1rem 1.1rem; min-width: 0 }
figure { display: flex; flex-direction: column }
figure svg { width: 100%; height: auto; display: block; font-family: inherit }
.point { fill: transparent }
.point:hover { stroke: var(--ink) }
figcaption { color: var(--muted); font-size: .875rem; line-height: 1.45; margin-top: .7rem }
figcaption table { font-size: .84rem }
figcaption a, footer a { color: var(--s0) }
dl { display: grid; grid-template-columns: minmax(5rem, max-content) 1fr; gap: .1rem .9rem;
  margin: .2rem 0 .5rem; font-size: .9rem }
dt { color: var(--muted) }
dd { margin: 0 }
pre { font: .84rem/1.45 ui-monospace, "Liberation Mono", monospace; white-space: pre-wrap; margin: .5rem 0;
  padding: .5rem .7rem; border-radius: 6px; background: var(--page) }
summary { cursor: pointer; color: var(--muted); font-size: .9rem; margin: .4rem 0 }
.card { margin: 1.1rem 0 }
.scroll { overflow-x: auto; background: linear-gradient(to right, var(--card) 60%, transparent) left local,
  linear-gradient(to left, var(--card) 60%, transparent) right local,
  linear-gradient(to left, var(--edge), transparent) right scroll,
  linear-gradient(to right, var(--edge), transparent) left scroll;
  background-size: 2.5rem 100%, 2.5rem 100%, 1rem 100%, 1rem 100%; background-repeat: no-repeat }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; width: 100% }
th, td { text-align: right; padding: .32rem .6rem; border-bottom: 1px solid var(--faint);
  overflow-wrap: break-word }
td { white-space: nowrap }
.wrap { display: inline-block; white-space: normal; overflow-wrap: anywhere; min-width: 5.5rem }
.wrap code { display: inline-block; min-width: 9rem }
th { color: var(--muted); font-weight: 500; vertical-align: bottom }
th:first-child, td:first-child, .text { text-align: left; padding-left: 0 }
tr:last-child td { border-bottom: 0 }
.key { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em }
.warning { margin: 1.1rem 0; border-left: 4px solid var(--s2) }
code { font: .86em ui-monospace, "Liberation Mono", monospace }
ul { margin: .4rem 0; padding-left: 1.2rem }
footer { color: var(--muted); font-size: .85rem; margin-top: 2rem }
@media (max-width: 520px) { main { padding: 1.4rem .7rem 2rem } figure, .card { padding: .8rem .7rem }
  table[style] > thead { display: none }
  table[style] > tbody > tr { display: flex; flex-wrap: wrap; gap: 0 1rem; padding: .35rem 0;
    border-bottom: 1px solid var(--faint) }
  table[style] td { border: 0; padding: 0; text-align: left; max-width: 100%; white-space: normal }
  table[style] .wrap, table[style] code { display: inline; overflow-wrap: anywhere }
  table[style] td:empty { display: none }
  table[style] td::before { color: var(--muted); margin-right: .4em }
  NAMES }
@media print { body { background: none } figure, .card { break-inside: avoid } }
"""


def page(
    experiments: Sequence[tuple[Experiment, Sequence[Plot]]],
    without_result: Sequence[str],
    remarks: Sequence[str],
    version: str,
    under_way: str | None = None,
) -> str:
    """The report as HTML.

    Args:
      experiments: experiments with their plots.
      without_result: directories of searches that have none, which are listed.
      remarks: other facts, a sentence each.
      version: version of the package.
      under_way: card of the searches under way; given, browsers load the page again and again.
    """
    title = " and ".join(
        f"{', '.join(dict.fromkeys(s.label for s in e.series))} on {e.dataset}, {e.arch}"
        for e, _ in experiments[:3]
    )
    if len(experiments) > 3 or len(title) > 90:
        count = len([run for e, _ in experiments for run in e.runs])
        places = list(dict.fromkeys(f"{e.dataset}, {e.arch}" for e, _ in experiments))
        title = f"{count} searches on {'; '.join(places[:3])}" + ("; ..." if len(places) > 3 else "")
    title = title or "Searches under way"
    names = "\n  ".join(f"td:nth-child({i})::before {{ content: var(--c{i}, none) }}" for i in range(2, 65))
    style = (
        _STYLE.replace("NAMES", names)
        .replace("LIGHT", theme.css(theme.LIGHT))
        .replace("DARK", theme.css(theme.DARK))
    )
    several = len(experiments) > 1
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "" if under_way is None else f'<meta http-equiv="refresh" content="{REFRESH}">',
        f'<link rel="icon" href="data:,"><style>{style}</style></head><body><main>',
        f"<header><h1>{text(title)}</h1>{_lead(experiments)}</header>",
        under_way or "",
        _unfinished(experiments, without_result, remarks),
    ]
    for number, (experiment, plots) in enumerate(experiments, start=1):
        name = f"{experiment.dataset}, {experiment.arch}"
        parts.append(f"<section>{f'<h2>{text(name)}</h2>' if several else ''}")
        parts.append(_summary(experiment))
        parts.append('<div class="plots">')
        parts += [_figure(plot, f"e{number}-{plot.name}") for plot in plots]
        parts.append("</div>" + settings.searches(experiment) + _provenance(experiment) + "</section>")
    parts.append(
        f"<footer><p>snnlth_jax {text(version)}. Accuracies are fractions of the test set after the last "
        "epoch; ± is the standard deviation over seeds.</p></footer></main></body></html>\n"
    )
    return "\n".join(parts)


def _lead(experiments: Sequence[tuple[Experiment, Sequence[Plot]]]) -> str:
    """The result in a sentence, and what the abbreviations stand for."""
    sentences, methods = [], set()
    for experiment, _ in experiments[:3]:
        best = [(series, rows) for series in experiment.series if (rows := series.sparsest())]
        methods |= {word for run in experiment.runs for word in re.split(r"[ +]", run.result.method)}
        if not best:
            continue
        series, rows = max(
            best, key=lambda pair: (round(pair[1][0][1].sparsity, 2), Spread.of(_accuracies(pair[1])).mean)
        )
        place = f" on {experiment.dataset} ({experiment.arch})" if len(experiments) > 1 else ""
        sentence = (
            f"With {percent(rows[0][1].sparsity)} of the weights gone, the ticket of {series.label}{place} "
            f"reaches {Spread.of(_accuracies(rows))}"
        )
        if dense := experiment.dense(rows[0][0]):
            sentence += f"; dense: {Spread.of(_accuracies(dense))}"
        kept = rows[0][1].kept
        if control := [pair for pair in series.trainings("random") if pair[1].kept == kept]:
            sentence += f"; random masks of the same layer-wise counts: {Spread.of(_accuracies(control))}"
        sentences.append(sentence + ".")
    meanings = [f"{meaning}." for words, meaning in _MEANINGS.items() if methods & {*words.split()}]
    return "".join(f'<p class="lead">{text(" ".join(texts))}</p>' for texts in (sentences, meanings) if texts)


def _accuracies(rows: Iterable[tuple[Run, Row]]) -> list[float]:
    return [accuracy_of(row) for _, row in rows]


def different_data(experiments: Sequence[Experiment]) -> list[str]:
    """A line for each experiment whose runs have datasets of one name and of different content."""
    lines = []
    for experiment in experiments:
        places = experiment.fingerprints()
        if len(places) > 1:
            parts = [f"{name} in {', '.join(of[:3])}{', ...' * (len(of) > 3)}" for name, of in places.items()]
            lines.append(
                f"{experiment.dataset}, {experiment.arch}: searches on different data are put together, "
                f"whose accuracies do not compare: {'; '.join(parts)}"
            )
    return lines


def _unfinished(
    experiments: Sequence[tuple[Experiment, Sequence[Plot]]],
    without_result: Sequence[str],
    others: Sequence[str],
) -> str:
    remarks = [f"<code>{text(name)}</code>: no result yet" for name in without_result]
    remarks += [text(line) for line in different_data([experiment for experiment, _ in experiments])]
    for experiment, _ in experiments:
        for name, values in experiment.differences().items():
            what = f"{experiment.dataset}, {experiment.arch}: runs differ in {name.replace('_', ' ')}"
            remarks.append(text(f"{what}: {', '.join(values)}"))
        for run in experiment.runs:
            measured = [row for row in run.result.trainings if row.layers]
            if measured and not any(row.connected for row in measured):
                why = "how its layers are connected is not known: no dead channels, no operations, no energy"
                remarks.append(f"<code>{text(run.directory)}</code>: {why}")
            if not run.result.finished:
                remarks.append(f"<code>{text(run.directory)}</code>: not finished; shown as far as it is")
            if run.result.overrides:
                changes = "; ".join(run.result.overrides)
                remarks.append(f"<code>{text(run.directory)}</code>: changed on the way: {text(changes)}")
    remarks += map(text, others)
    if not remarks:
        return ""
    items = "".join(f"<li>{remark}</li>" for remark in remarks)
    return f'<div class="card warning"><h3>Notes</h3><ul>{items}</ul></div>'


def _figure(plot: Plot, name: str) -> str:
    numbers = "; ".join(f"{of}: {number}" for of, number in plot.numbers)
    picture = theme.svg(plot.figure, name, " ".join([f"{plot.title}. {plot.caption}", numbers]).strip())
    data = base64.b64encode(csv_text(plot.header, plot.rows).encode()).decode()
    link = f'<a download="{plot.name}.csv" href="data:text/csv;base64,{data}">Numbers (CSV)</a>'
    return (
        f'<figure id="{name}"><h3>{text(plot.title)}</h3>{picture}'
        f"<figcaption>{text(plot.caption)} {link}{_details(plot)}</figcaption></figure>"
    )


def _details(plot: Plot) -> str:
    """The numbers that sum a plot up, and what else there is to know."""
    cells = [(wrapped(text(of)), wrapped(text(number))) for of, number in plot.numbers]
    notes = f"<p>{text(plot.notes.strip())}</p>" if plot.notes else ""
    inside = (table((), cells) if cells else "") + notes
    return f"<details><summary>In numbers</summary>{inside}</details>" if inside else ""


# --- tables


def _summary(experiment: Experiment) -> str:
    """A row for each method and sparsity."""
    rows = []
    for name, dense in experiment.references().items():
        row = dense[0][1]
        accuracies = str(Spread.of(_accuracies(dense)))
        rows.append([name, "0 %", f"{row.kept:,}", accuracies, "", "", "", str(len(dense))])
    for series in experiment.series:
        dense_of = {run.seed: accuracy_of(row) for run, row in experiment.dense(series.runs[0])}
        by_kept: dict[int, list[tuple[Run, TicketRow]]] = {}
        for run in series.runs:
            for row in run.result.tickets:
                if row.final_test_accuracy is not None:
                    by_kept.setdefault(row.kept, []).append((run, row))
        for kept, tickets in sorted(by_kept.items(), reverse=True):
            reached = Spread.of(_accuracies(tickets))
            control = [pair for pair in series.trainings("random") if pair[1].kept == kept]
            key = f'<span class="key" style="background: var(--s{series.slot % 8})"></span>'
            lost = [accuracy_of(row) - dense_of[run.seed] for run, row in tickets if run.seed in dense_of]
            relative = [r for _, row in tickets if (r := row.search_relative_to_imp) is not None]
            rows.append(
                [
                    wrapped(key + text(series.label)),
                    percent(tickets[0][1].sparsity),
                    f"{kept:,}",
                    str(reached),
                    f"{100 * Spread.of(lost).mean:+.2f}" if lost else "",
                    str(Spread.of(_accuracies(control))) if control else "",
                    text(_share(Spread.of(relative).mean)) if relative else "",
                    str(len(tickets)),
                ]
            )
    heads = [
        "",
        "sparsity",
        "weights",
        "accuracy",
        "points from dense",
        "random masks",
        "search FLOPs of IMP",
        "seeds",
    ]
    empty = [i for i in range(len(heads)) if i and not any(row[i] for row in rows)]
    if not rows:
        return ""
    return f'<div class="card"><h3>Tickets, trained at the full T</h3>{table(heads, rows, empty)}</div>'


def _share(value: float) -> str:
    return "< 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def _provenance(experiment: Experiment) -> str:
    """Origin of each ticket, with all that it takes to make it again."""
    heads = "ticket|method|seed|sparsity|accuracy|searched with|trained with|search epochs|search FLOP"
    heads += "|configuration|data"
    rows = []
    for series in experiment.series:
        for run in series.runs:
            result = run.result
            searched = {row.network for row in (*result.preparations, *result.rounds)}
            for row in result.tickets:
                rows.append(
                    [
                        wrapped(f"<code>{text(f'{run.directory}/{row.ticket}')}</code>"),
                        wrapped(text(series.label)),
                        str(run.seed),
                        f"{100 * row.sparsity:.2f} %",
                        "" if row.final_test_accuracy is None else f"{row.final_test_accuracy:.4f}",
                        wrapped(text(", ".join(sorted(searched)))),
                        text(row.network),
                        f"{row.search.epochs}" if row.search else "",
                        si(row.search.train_flops) if row.search else "",
                        f"<code>{text(result.config_hash)}</code>",
                        wrapped(f"<code>{text(result.config.get('dataset_fingerprint'))}</code>"),
                    ]
                )
    if not rows:
        return ""
    return f'<div class="card"><h3>Where the tickets come from</h3>{table(heads.split("|"), rows)}</div>'
