"""The report: one HTML file that needs nothing else, made from study.h5 alone.

Everything that comes from a study or an artifact is escaped; plots are data URIs; the content security policy in the
page forbids any request, so the page works offline and stays as it was written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from string import Template
from typing import Any

import numpy as np

from fedbound.artifacts import Artifact, Column, Table
from fedbound.report import jobs, plots, race, text

_MOST_ROWS = 200
_MOST_PROBLEMS = 4

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header><h1>$title</h1><p>$subtitle</p></header>
<nav>$contents</nav>
<main>
$sections
</main>
<script>$script</script>
</body>
</html>
""")

_STYLE = """
:root { --ink: #1b1b1b; --quiet: #595959; --line: #d5d5d5; --tint: #f3f6f9; --accent: #0b5a8f; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 2rem 4rem; max-width: 1216px; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
h1 { margin: 0; font-size: 1.9rem; overflow-wrap: anywhere; }
h2 { margin: 2.6rem 0 .6rem; padding-top: .8rem; border-top: 2px solid var(--line); font-size: 1.4rem; }
h3 { margin: 1.6rem 0 .3rem; font-size: 1.08rem; overflow-wrap: anywhere; }
p { margin: .4rem 0; overflow-wrap: anywhere; }
header p, .note, figcaption { color: var(--quiet); }
nav a { display: inline-block; margin: .6rem 1.1rem 0 0; color: var(--accent); }
.choice { margin: .8rem 0; padding: .9rem 1.1rem; background: var(--tint); border-left: 5px solid var(--accent); }
.choice p:first-child { font-size: 1.15rem; font-weight: 600; }
figure { margin: .2rem 0 1.4rem; break-inside: avoid; }
figure img { display: block; width: 100%; max-width: 860px; height: auto; }
figcaption { max-width: 860px; font-size: .92rem; }
.table { overflow-x: auto; margin: .4rem 0 1.2rem; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .5rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
td { white-space: nowrap; }
th { vertical-align: bottom; border-bottom: 2px solid var(--quiet); font-weight: 600; }
th.text, td.text { text-align: left; }
td.text { white-space: normal; max-width: 30rem; overflow-wrap: break-word; }
td.wide { max-width: none; }
td.long { min-width: 14rem; overflow-wrap: anywhere; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--accent); }
th small { display: block; color: var(--quiet); font-weight: 400; }
th[aria-sort=ascending] button::after { content: " \\25B4"; }
th[aria-sort=descending] button::after { content: " \\25BE"; }
tr.chosen td { background: var(--tint); font-weight: 600; }
code, pre { font: .9em/1.45 ui-monospace, "Liberation Mono", Menlo, monospace; }
pre { padding: .8rem 1rem; background: var(--tint); white-space: pre-wrap; overflow-wrap: anywhere; }
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  nav { display: none; } .table { overflow: visible; } h2, h3 { break-after: avoid; } tr { break-inside: avoid; }
}
"""

_SCRIPT = """
document.querySelectorAll('th button').forEach(function (button) {
  button.addEventListener('click', function () {
    var head = button.parentNode, body = head.closest('table').tBodies[0], index = head.cellIndex;
    var up = head.getAttribute('aria-sort') !== 'ascending';
    function key(row) { return row.cells[index].dataset.v; }
    var rows = Array.from(body.rows), numeric = !head.classList.contains('text');
    rows.sort(function (a, b) {
      var x = key(a), y = key(b);
      if (!numeric) { return (up ? 1 : -1) * x.localeCompare(y); }
      x = parseFloat(x); y = parseFloat(y);
      if (isNaN(x) || isNaN(y)) { return (isNaN(x) ? 1 : 0) - (isNaN(y) ? 1 : 0); }
      return up ? x - y : y - x;
    });
    head.parentNode.querySelectorAll('th').forEach(function (other) { other.removeAttribute('aria-sort'); });
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    rows.forEach(function (row) { body.appendChild(row); });
  });
});
"""


def render(study: Artifact) -> str:
    """The whole page of a collected study."""
    frames = {name: study[name] for name in study}
    problems = list(dict.fromkeys(study.tables["settings"]["problem"].values))[:_MOST_PROBLEMS] or [""]
    drawn = {problem: plots.make(frames, problem) for problem in problems}
    sections = list(_sections(study, drawn))
    scenarios = study.tables["scenarios"]
    done = int((scenarios["status"].values == "done").sum())
    title = study.scenario["report"]["title"] or f"fedbound study {study.study}"
    return _PAGE.substitute(
        title=escape(title),
        subtitle=escape(
            f"Study {study.study}: {done} of {len(scenarios['stem'].values)} scenarios, "
            f"fedbound {study.package_version}, written {study.provenance.get('written', '')}."
        ),
        style=_STYLE,
        script=_SCRIPT,
        contents="".join(f'<a href="#{key}">{escape(heading)}</a>' for key, heading, _ in sections),
        sections="\n".join(
            f'<section id="{key}"><h2>{escape(heading)}</h2>\n{body}</section>' for key, heading, body in sections
        ),
    )


_STAGES = (
    ("calibrate", "calibration", "Calibration", ("decision",)),
    ("privacy", "privacy", "Privacy", ("mechanisms", "privacy")),
    ("simulate", "simulation", "Simulation", ("simulations", "validation", "validation_parts")),
    ("profile", "profile", "Profile", ("link_advice", "links", "profile_costs", "profile_codec")),
)
Drawn = dict[str, dict[str, list[plots.Plot]]]


def _sections(study: Artifact, drawn: Drawn) -> Iterator[tuple[str, str, str]]:
    """Key, heading and body of each section, in order."""
    first = next(iter(drawn.values()))
    yield "recommendation", "Recommendation", _recommendation(study)
    yield "training", "Training", _training(study, drawn)
    stages = set(study.tables["scenarios"]["stage"].values)  # a stage that the study leaves out has no section
    for stage, key, heading, tables in _STAGES:
        if stage in stages:
            words = race.html(study["simulations"]) if key == "simulation" else ""
            yield key, heading, words + _figures(first[key]) + _show(study, *tables)
    yield "scenarios", "Scenarios", _scenarios(study)
    yield "jobs", "Jobs", jobs.html(study["jobs"]) + _show(study, "jobs")
    yield "environment", "Environment", _environment(study)
    yield "results", "Working with the results", _how_to(study)


# ---- sections -------------------------------------------------------------------------------------------------------


def _recommendation(study: Artifact) -> str:
    parts = []
    rows = study["recommendation"]
    for problem, mine in rows.groupby("problem", sort=False):
        if problem:
            parts.append(f"<h3>{escape(str(problem))}</h3>")
        first = mine[mine.kind != "against"]
        parts.append(f'<div class="choice">{"".join(_advice(*row) for row in first[_ADVICE].to_numpy())}</div>')
        parts.append("".join(_advice(*row) for row in mine.loc[mine.kind == "against", _ADVICE].to_numpy()))
    if rows.empty:
        parts.append('<p class="note">No recommendation: no training run was collected (stage train).</p>')
    return "".join(parts) + _show(study, "pareto") + _tolerance(study)


_ADVICE = ["sentence", "timing"]


def _advice(sentence: str, timing: str) -> str:
    return f"<p>{escape(sentence)}{': ' + escape(timing) + '.' if timing else ''}</p>"


def _tolerance(study: Artifact) -> str:
    tolerance = study.scenario["report"]["tolerance"]
    return (
        f'<p class="note">Acceptable: the one-sided 95 % upper limit of the accuracy drop (paired t over seeds; the '
        f"mean below three seeds) and the worst silo's mean drop are at most {tolerance:g} percentage points. Choice "
        "and reasons rest on accuracies and bytes, which repeat from run to run; times are measured or computed from "
        "measured costs.</p>"
    )


def _training(study: Artifact, drawn: Drawn) -> str:
    parts = []
    for problem, sections in drawn.items():
        parts.append(f"<h3>{escape(problem)}</h3>" if problem else "")
        parts.append(_figures(sections["training"]))
    return "".join(parts) + _show(study, "settings", "private_training", "comparisons")


def _scenarios(study: Artifact) -> str:
    frame = study["scenarios"]
    holes = frame[frame.status != "done"]
    said = "".join(
        f"<p><code>{escape(f'{r.stage}/{r.stem}')}</code>: {escape(r.error)}</p>" for r in holes.itertuples()
    )
    counts = ", ".join(f"{count} {stage}" for stage, count in frame.groupby("stage", sort=False).size().items())
    missing = f"<h3>Missing</h3>{said}" if said else ""
    return f"<p>{escape(counts)}.</p>{missing}" + _show(study, "scenarios")


def _environment(study: Artifact) -> str:
    """What ran where: one line per kind of record, with how many artifacts say so."""
    frame = study["provenance"]
    rows = [
        (key, ", ".join(_counted(values.value)))
        for key, values in frame[~frame.key.isin(["written"])].groupby("key", sort=True)
    ]
    rows += [("collected by", ", ".join(f"{key} {value}" for key, value in study.provenance.items() if value != ""))]
    body = "".join(f'<tr><td class="text">{escape(k)}</td><td class="text wide">{escape(v)}</td></tr>' for k, v in rows)
    head = '<tr><th class="text" scope="col">record</th><th class="text" scope="col">values (artifacts)</th></tr>'
    scenario = escape(json.dumps(study.scenario, indent=1))
    return (
        f'<div class="table"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
        f"<h3>Scenario of this collection</h3><pre>{scenario}</pre>"
    )


def _counted(values: Any) -> list[str]:
    counts = values[values != ""].value_counts()
    first = [f"{value} ({count})" for value, count in counts.items()][:6]
    return first + ([f"and {len(counts) - 6} more"] if len(counts) > 6 else [])


def _how_to(study: Artifact) -> str:
    rows = "".join(
        f'<tr><td class="text"><code>{escape(name)}</code></td><td>{_length(table)}</td>'
        f'<td class="text wide">{escape(", ".join(table))}</td></tr>'
        for name, table in study.tables.items()
    )
    code = escape(
        "import fedbound\n\n"
        f'study = fedbound.load("results/{study.study}/study.h5")\n'
        'runs = study["runs"]                  # a pandas DataFrame\n'
        'runs.attrs["units"]                   # unit of each column\n'
        'runs.groupby("setting").accuracy.agg(["mean", "std"])\n'
        'study["rounds"].merge(runs[["stem", "context"]], on="stem")'
    )
    return (
        "<p>All tables lie in <code>study.h5</code> beside this page, and as CSV in <code>tables/</code>, where "
        "<code>columns.csv</code> gives every column's unit and meaning. The column <code>stem</code> names the "
        f"artifact that a row comes from and joins the tables.</p><pre>{code}</pre>"
        '<div class="table"><table><thead><tr><th class="text" scope="col">table</th><th scope="col">rows</th>'
        f'<th class="text" scope="col">columns</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


# ---- figures and tables ---------------------------------------------------------------------------------------------


def _figures(drawn: Iterable[plots.Plot]) -> str:
    return "".join(_figure(plot) for plot in drawn)


def _figure(plot: plots.Plot) -> str:
    question, caption = escape(plot.question), escape(plot.caption)
    if not plot.source:
        return f'<h3>{question}</h3><p class="note">{caption}</p>'
    image = f'<img class="{plot.name}" src="{plot.source}" alt="{question} {caption}">'
    return f"<figure><h3>{question}</h3>{image}<figcaption>{caption}</figcaption></figure>"


Writer = Callable[[float], str]


def _signed(value: float) -> str:
    return text.points(value)


def _percent(value: float) -> str:
    return text.percent(value)


def _count(value: float) -> str:
    return f"{int(value):,}"


def _known(value: float) -> str:
    return _count(value) if value >= 0 else "–"


# The columns that the page shows of each table, and how; the rest is in study.h5 and the CSV files.
_SHOWN: dict[str, tuple[str, dict[str, Writer | None]]] = {
    "pareto": (
        "All settings",
        {
            "setting": None,
            "accuracy": _percent,
            "worst_silo": _percent,
            "bytes": text.size,
            "drop": _signed,
            "drop_upper": _signed,
            "worst_silo_drop": _signed,
            "epsilon": text.number,
            "seeds": _count,
            "front": lambda value: "yes" if value else "no",
            "round_seconds": text.seconds,
            "predicted_seconds": text.seconds,
            "reason": None,
        },
    ),
    "settings": (
        "Settings over their seeds",
        {
            "setting": None,
            "bound_value": text.number,
            "seeds": _count,
            "accuracy": _percent,
            "accuracy_sd": _percent,
            "worst_silo": _percent,
            "spread": _percent,
            "bytes_up": text.size,
            "bytes_down": text.size,
            "ratio_up": text.number,
            "ratio_both": text.number,
            "violations": _count,
            "round_seconds": text.seconds,
        },
    ),
    "comparisons": (
        "Against the uncompressed run of the same seed",
        {
            "setting": None,
            "baseline": None,
            "seeds": _count,
            "drop": _signed,
            "drop_sd": _signed,
            "drop_upper": _signed,
            "worst_silo_drop": _signed,
            "spread_difference": _signed,
            "ratio_up": text.number,
            "ratio_both": text.number,
            "saving": text.number,
            "round_seconds": text.seconds,
            "baseline_round_seconds": text.seconds,
        },
    ),
    "decision": (
        "Decisions",
        {
            "setting": None,
            "algorithm": None,
            "mode": None,
            "scale": text.number,
            "refused": text.number,
            "tolerance": text.number,
            "mean_drop": _signed,
            "upper_drop": _signed,
            "seeds": _count,
            "probes": _count,
            "bytes": text.size,
            "seconds": text.seconds,
            "privacy": None,
        },
    ),
    "private_training": (
        "Private training: what each epsilon leaves",
        {
            "setting": None,
            "mechanism": None,
            "epsilon": text.number,
            "delta": text.number,
            "accuracy": _percent,
            "accuracy_sd": _percent,
            "bits": text.number,
            "seeds": _count,
            "unit": None,
            "adjacency": None,
            "trust": None,
            "sampling": None,
            "accountant": None,
        },
    ),
    "mechanisms": (
        "Mechanisms by error, within the report's trust and bits",
        {
            "target_epsilon": text.number,
            "norm": None,
            "rank": lambda value: f"{value:.0f}" if value else "–",
            "setting": None,
            "mse_scaled": text.number,
            "over_floor": text.number,
            "bits": text.number,
            "gain": text.number,
            "trust": None,
            "adjacency": None,
            "against": None,
        },
    ),
    "privacy": (
        "Mechanisms, all figures",
        {
            "setting": None,
            "norm": None,
            "target_epsilon": text.number,
            "epsilon": text.number,
            "delta": text.number,
            "epsilon_pld": text.number,
            "epsilon_rdp": text.number,
            "audited": text.number,
            "audited_gaussian": text.number,
            "audit_claim": text.number,
            "mse": text.number,
            "mse_closed": text.number,
            "floor": text.number,
            "bits": text.number,
            "accountant": None,
            "unit": None,
            "adjacency": None,
            "trust": None,
            "sampling": None,
        },
    ),
    "simulations": (
        "Simulations",
        {
            "setting": None,
            "scheduler": None,
            "case": None,
            "clients": _count,
            "round_seconds": text.seconds,
            "target_seconds": text.seconds,
            "up_bytes": text.size,
            "down_bytes": text.size,
            "uplink_utilisation": _percent,
            "downlink_utilisation": _percent,
            "server_bandwidth": text.number,
            "client_bandwidth": text.number,
            "engine": None,
        },
    ),
    "validation": (
        "Predicted against measured",
        {
            "setting": None,
            "scheduler": None,
            "clients": _count,
            "quantity": None,
            "predicted": text.seconds,
            "measured": text.seconds,
            "error": _percent,
            "no_contention": text.seconds,
        },
    ),
    "link_advice": ("Does compressing pay?", {"setting": None, "link": None, "pays": _count, "advice": None}),
    "links": (
        "A round on each link",
        {
            "setting": None,
            "link": None,
            "silo": _count,
            "break_even": text.number,
            "plain_seconds": text.seconds,
            "coded_seconds": text.seconds,
            "pipelined_seconds": text.seconds,
            "hidden": _percent,
            "device_idle": _percent,
            "processor_idle": _percent,
            "link_idle": _percent,
            "waits_seconds": text.seconds,
        },
    ),
    "validation_parts": (
        "Where the prediction of the own run misses, part by part",
        {
            "setting": None,
            "scheduler": None,
            "part": None,
            "predicted": text.seconds,
            "measured": text.seconds,
            "difference": text.seconds,
        },
    ),
    "profile_costs": (
        "Costs per silo",
        {
            "setting": None,
            "silo": _count,
            "samples": _count,
            "steps": _count,
            "train_seconds": text.seconds,
            "alone_seconds": text.seconds,
            "evaluate_seconds": text.seconds,
            "encode_seconds": text.seconds,
            "decode_seconds": text.seconds,
            "latency": text.seconds,
            "bandwidth": text.rate,
        },
    ),
    "profile_codec": (
        "Codecs on real updates",
        {
            "setting": None,
            "block": None,
            "stage": None,
            "values": _count,
            "bound": text.number,
            "ratio": text.number,
            "entropy_ratio": text.number,
            "encode_rate": text.rate,
            "decode_rate": text.rate,
        },
    ),
    "jobs": (
        "All jobs",
        {
            "stage": None,
            "stem": None,
            "slurm_job": None,
            "cores": _count,
            "seconds": text.seconds,
            "cpu_efficiency": _percent,
            "memory": text.size,
            "memory_efficiency": _percent,
        },
    ),
    "scenarios": (
        "All scenarios",
        {
            "stage": None,
            "setting": None,
            "seed": _known,
            "mechanism": None,
            "epsilon": text.number,
            "clients": _known,
            "scheduler": None,
            "status": None,
            "stem": None,
        },
    ),
}


def _show(study: Artifact, *names: str) -> str:
    return "".join(_table(name, *_SHOWN[name], study.tables[name]) for name in names if _length(study.tables[name]))


def _length(table: Table) -> int:
    return len(next(iter(table.values())).values)


def _table(name: str, heading: str, writers: dict[str, Writer | None], table: Table) -> str:
    """A sortable table of the columns in `writers`; a text that all rows share is said once, below."""
    rows = min(_length(table), _MOST_ROWS)
    shared = {key: _shared(table[key]) for key, writer in writers.items() if not writer}
    shown = {k: writer for k, writer in writers.items() if shared.get(k) is None and not _unknown(table[k])}
    head = "".join(_head(key, table[key], writer) for key, writer in shown.items())
    chosen: Sequence[int] = table["chosen"].values.tolist() if "chosen" in table else []
    body = "".join(
        f"<tr{' class=chosen' if row < len(chosen) and chosen[row] else ''}>"
        + "".join(_cell(table[key].values[row], writer) for key, writer in shown.items())
        + "</tr>\n"
        for row in range(rows)
    )
    same = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in shared.items() if value)
    more = f"The first {rows} of {_length(table):,} rows; all" if rows < _length(table) else "All"
    return (
        f'<h3>{escape(heading)}</h3><div class="table"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>'
        f'</table></div><p class="note">{escape(f"In every row {same}. " if same else "")}{more} columns and rows: '
        f"table <code>{name}</code> in study.h5, <code>tables/{name}.csv</code>.</p>"
    )


def _shared(column: Column) -> str | None:
    """The one text of all rows where that is empty, or long enough to be in the way; None otherwise."""
    texts = set(column.values)
    one = texts.pop()
    return one if not texts and (not one or (len(one) > 12 and len(column.values) > 1)) else None


def _unknown(column: Column) -> bool:
    """Whether no row has this figure, as epsilon in a study without privacy."""
    return column.values.dtype.kind == "f" and bool(np.isnan(column.values).all())


def _head(key: str, column: Column, writer: Writer | None) -> str:
    kind = "" if writer else ' class="text"'
    unit = _unit(column.field.unit, writer)
    small = f"<small>{escape(unit)}</small>" if unit else ""
    label = escape(key.replace("_", " "))
    return (
        f'<th{kind} scope="col" title="{escape(column.field.description)}">'
        f'<button type="button">{label}</button>{small}</th>'
    )


def _unit(unit: str, writer: Writer | None) -> str:
    """The unit under a heading, where the cells do not write it themselves."""
    return {"percentage point": "points"}.get(unit, unit) if writer in (_signed, text.number) and unit != "1" else ""


def _cell(value: Any, writer: Writer | None) -> str:
    shown = writer(value) if writer else str(value)
    # A long name without spaces (a stem) may break anywhere; words may not.
    kind = "" if writer else ' class="text long"' if len(shown) > 40 and " " not in shown else ' class="text"'
    return f'<td{kind} data-v="{escape(str(value))}">{escape(shown)}</td>'
