"""The report: one HTML file that needs nothing else, made from study.h5 alone.

Everything that comes from a study or an artifact is escaped; plots are data URIs. `page` has the frame around the
sections, `html_tables` the tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from fedbound.artifacts import Artifact
from fedbound.report import jobs, plots, race
from fedbound.report.html_tables import length, show
from fedbound.report.page import page

_MOST_PROBLEMS = 4


def render(study: Artifact) -> str:
    """The whole page of a collected study."""
    frames = {name: study[name] for name in study}
    for frame in frames.values():
        frame.attrs.clear()  # pandas copies them, deeply, with every selection
    problems = list(dict.fromkeys(study.tables["settings"]["problem"].values))[:_MOST_PROBLEMS] or [""]
    drawn = {problem: plots.make(frames, problem) for problem in problems}
    sections = list(_sections(study, drawn))
    scenarios = study.tables["scenarios"]
    done = int((scenarios["status"].values == "done").sum())
    title = study.scenario["report"]["title"] or f"fedbound study {study.study}"
    subtitle = (
        f"Study {study.study}: {done} of {len(scenarios['stem'].values)} scenarios, "
        f"fedbound {study.package_version}, written {study.provenance.get('written', '')}."
    )
    return page(title, subtitle, sections)


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
            yield key, heading, words + _figures(first[key]) + show(study, *tables)
    yield "scenarios", "Scenarios", _scenarios(study)
    yield "jobs", "Jobs", jobs.html(study["jobs"]) + show(study, "jobs")
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
    return "".join(parts) + show(study, "pareto") + _tolerance(study)


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
    return "".join(parts) + show(study, "settings", "private_training", "comparisons")


def _scenarios(study: Artifact) -> str:
    frame = study["scenarios"]
    holes = frame[frame.status != "done"]
    said = "".join(
        f"<p><code>{escape(f'{r.stage}/{r.stem}')}</code>: {escape(r.error)}</p>" for r in holes.itertuples()
    )
    counts = ", ".join(f"{count} {stage}" for stage, count in frame.groupby("stage", sort=False).size().items())
    missing = f"<h3>Missing</h3>{said}" if said else ""
    return f"<p>{escape(counts)}.</p>{missing}" + show(study, "scenarios")


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
        f'<tr><td class="text"><code>{escape(name)}</code></td><td>{length(table)}</td>'
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


# ---- figures ---------------------------------------------------------------------------------------------


def _figures(drawn: Iterable[plots.Plot]) -> str:
    return "".join(_figure(plot) for plot in drawn)


def _figure(plot: plots.Plot) -> str:
    question, caption = escape(plot.question), escape(plot.caption)
    if not plot.source:
        return f'<h3>{question}</h3><p class="note">{caption}</p>'
    image = f'<img class="{plot.name}" src="{plot.source}" alt="{question} {caption}">'
    return f"<figure><h3>{question}</h3>{image}<figcaption>{caption}</figcaption></figure>"
