"""What a job used: from snakemake's benchmark file, and from Slurm's accounting where there is one.

A benchmark file sees the job's own process and its children; MPI ranks that srun starts are children of Slurm's
daemons, so of such a job it tells the wall time only, and the rest comes from `sacct` or is unknown.
"""

from __future__ import annotations

import csv
import math
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedbound.cluster import logs

_FIELDS = ("JobIDRaw", "WorkDir", "ElapsedRaw", "TotalCPU", "AllocCPUS", "NTasks", "NNodes", "MaxRSS", "ReqMem")
_AT_ONCE = 500  # job ids in one call, so that it stays below the limit of a command line
_UNITS = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}


@dataclass(frozen=True)
class Usage:
    """What one job used; NaN where that is not known.

    Attributes:
        seconds: wall time.
        cpu_seconds: processor time of all its processes.
        memory: largest resident memory, bytes: of the process tree at one time, or, from Slurm, of the largest task
            times the number of tasks (as `seff` has it).
        cores: cores that Slurm gave it.
        asked_memory: memory that it asked Slurm for, bytes.
    """

    seconds: float = math.nan
    cpu_seconds: float = math.nan
    memory: float = math.nan
    cores: float = math.nan
    asked_memory: float = math.nan


def benchmark(artifact: Path) -> Usage:
    """What snakemake measured of the job that wrote this artifact."""
    try:
        with open(logs.benchmark(artifact), encoding="utf-8", newline="") as file:
            row = next(csv.DictReader(file, delimiter="\t"))
    except (OSError, StopIteration, UnicodeDecodeError, csv.Error):
        return Usage()
    # mebibytes, says snakemake's documentation of `max_rss`
    return Usage(_number(row.get("s")), _number(row.get("cpu_time")), 2.0**20 * _number(row.get("max_rss")))


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:  # "NA", "-": ended before it could be measured
        return math.nan


def accounting(jobs: Iterable[str], folder: Path) -> dict[str, Usage]:
    """What Slurm's accounting says of jobs that ran in `folder`, by job id.

    Jobs that it does not know are left out; all are where there is no accounting. (Ids of another cluster, whose study
    was copied here, are some other job's: hence the folder.)
    """
    ids = sorted({job for job in jobs if job.isdigit()})
    found: dict[str, Usage] = {}
    for start in range(0, len(ids), _AT_ONCE):
        found |= parse(_sacct(ids[start : start + _AT_ONCE]), folder)
    return found


def _sacct(ids: Sequence[str]) -> str:
    call = ["sacct", "--noheader", "--parsable2", f"--jobs={','.join(ids)}", f"--format={','.join(_FIELDS)}"]
    try:
        return subprocess.run(call, capture_output=True, text=True, timeout=120, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def parse(text: str, folder: Path) -> dict[str, Usage]:
    """The answer of sacct: one line for a job, and one for each of its steps, which alone know their memory."""
    found: dict[str, Usage] = {}
    memory: dict[str, float] = {}
    for line in text.splitlines():
        words = line.split("|")
        if len(words) != len(_FIELDS):
            continue
        row = dict(zip(_FIELDS, words, strict=True))
        job, _, step = row["JobIDRaw"].partition(".")
        if step:
            used = _bytes(row["MaxRSS"]) * max(1.0, _number(row["NTasks"]))
            memory[job] = max(memory.get(job, 0.0), 0.0 if math.isnan(used) else used)
        elif row["WorkDir"] == str(folder):
            cores = _number(row["AllocCPUS"])
            asked = _asked(row["ReqMem"], cores, _number(row["NNodes"]))
            found[job] = Usage(_number(row["ElapsedRaw"]), _duration(row["TotalCPU"]), math.nan, cores, asked)
    return {
        job: Usage(one.seconds, one.cpu_seconds, memory.get(job) or math.nan, one.cores, one.asked_memory)
        for job, one in found.items()
    }


def _bytes(text: str) -> float:
    """`1234K`, `2.5G` or plain bytes."""
    found = re.fullmatch(r"([\d.]+)([KMGT]?)", text.strip())
    return _number(found[1]) * _UNITS.get(found[2], 1.0) if found else math.nan


def _asked(text: str, cores: float, nodes: float) -> float:
    """`2000M`; before Slurm 21.08 also `2000Mc`, for each core, and `2000Mn`, for each node."""
    times = {"c": cores, "n": nodes}.get(text[-1:], 1.0)
    return _bytes(text.rstrip("cn")) * times


def _duration(text: str) -> float:
    """`[DD-[HH:]]MM:SS[.mmm]` in seconds."""
    days, _, rest = text.strip().rpartition("-")
    try:
        parts = [float(part) for part in rest.split(":")]
    except ValueError:
        return math.nan
    return 86400 * _number(days or "0") + sum(part * 60**power for power, part in enumerate(reversed(parts)))
