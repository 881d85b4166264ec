"""What each job of a study took: wall time, processor time, memory, and how well it used what it asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from fedbound import schemas
from fedbound.artifacts import Artifact, Table
from fedbound.cluster import usage
from fedbound.expense import MPI_STAGES
from fedbound.report import text


class Written(NamedTuple):
    """One job: its stage and stem, its artifact's file, and what is in it (None: a hole)."""

    stage: str
    stem: str
    path: Path
    artifact: Artifact | None


def table(written: Iterable[Written], folder: Path) -> Table:
    """Table `jobs` of study.h5, one row for each artifact that is there.

    Args:
        written: the study's artifacts.
        folder: where snakemake ran.
    """
    there = [one for one in written if one.artifact]
    ids = {one.stem: str(one.artifact.provenance.get("job", "")) for one in there if one.artifact}
    accounted = usage.accounting(ids.values(), folder)
    rows = []
    for one in there:
        job = ids[one.stem]
        rows.append({"stage": one.stage, "stem": one.stem, "slurm_job": job, **_figures(one, job, accounted.get(job))})
    return schemas.STUDY_JOBS.table(rows)


def _figures(one: Written, job: str, accounted: usage.Usage | None) -> dict[str, Any]:
    measured = usage.benchmark(one.path)
    cores = _cores(one)
    if accounted:
        took, source = accounted, "slurm"
        cores = int(took.cores) if math.isfinite(took.cores) else cores
    elif job and one.stage in MPI_STAGES:  # its ranks were no children of what snakemake watched
        took, source = usage.Usage(measured.seconds), "snakemake"
    else:
        took, source = measured, "snakemake"
    return {
        "cores": cores,
        "seconds": took.seconds,
        "cpu_seconds": took.cpu_seconds,
        "memory": took.memory,
        "asked_memory": took.asked_memory,
        "cpu_efficiency": took.cpu_seconds / (took.seconds * cores) if took.seconds else math.nan,
        "memory_efficiency": took.memory / took.asked_memory if took.asked_memory else math.nan,
        "source": source if math.isfinite(took.seconds) else "",
    }


def _cores(one: Written) -> int:
    """Cores that the job asked for: one for each MPI rank."""
    if one.stage not in MPI_STAGES or one.artifact is None:
        return 1
    scenario = one.artifact.scenario
    return int(scenario["data"]["silos"]) * int(scenario["training"].get("ranks_per_silo", 1)) + 1


def html(jobs: pd.DataFrame) -> str:
    """One line for each stage: how many jobs, how long, how much, how well used."""
    known = jobs[jobs.seconds.notna()]
    if known.empty:
        return '<p class="note">No job left a benchmark file or is known to Slurm&#39;s accounting.</p>'
    head = ("stage", "jobs", "core-hours", "median", "longest", "processors used", "most memory", "memory used")
    rows = [_line(str(stage), rows) for stage, rows in known.groupby("stage", sort=False)]
    cells = "".join(f'<th{" class=text" if i == 0 else ""} scope="col">{name}</th>' for i, name in enumerate(head))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="table"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'
        '<p class="note">Processors used: processor time over wall time and cores. Of MPI jobs on Slurm only its '
        "accounting knows these, and the memory asked for; what is not known is left out.</p>"
    )


def _line(stage: str, rows: pd.DataFrame) -> str:
    used = rows[rows.cpu_seconds.notna()]
    share = used.cpu_seconds.sum() / (used.seconds * used.cores).sum() if len(used) else math.nan
    asked = rows[rows.memory_efficiency.notna()]
    figures = [
        f"{len(rows):,}",
        text.number(float((rows.seconds * rows.cores).sum() / 3600), 3),
        text.seconds(float(rows.seconds.median())),
        text.seconds(float(rows.seconds.max())),
        text.percent(float(share), 0),
        text.size(float(rows.memory.max())),
        text.percent(float(asked.memory_efficiency.max()), 0) if len(asked) else "–",
    ]
    return f'<td class="text">{escape(stage)}</td>' + "".join(f"<td>{escape(one)}</td>" for one in figures)
