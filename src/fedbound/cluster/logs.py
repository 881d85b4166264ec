"""What a job's log says about its end: the last error, and whether time or memory ran out.

Where logs lie follows from where the artifact lies: `results/<study>/<stage>/<stem>.h5` has its rule's log at
`logs/<study>/<stage>/<stem>.log`, and Slurm's own at `logs/slurm/rule_<stage>/<stem>/<job id>.log`. The collected
`results/<study>/study.h5` has them at `logs/<study>/collect.log` and `logs/slurm/rule_collect/`.
"""

from __future__ import annotations

import re
from pathlib import Path

_LAST = 65536  # bytes read from the end of a log
_TIME = re.compile(r"DUE TO TIME LIMIT")
_MEMORY = re.compile(r"oom[-_ ]kill|out of memory|exceeded .*memory limit|\bMemoryError\b|bad_alloc|\bKilled\b", re.I)
_ENDED = re.compile(r"CANCELLED AT|DUE TO (PREEMPTION|NODE FAILURE)")
_OURS = re.compile(r"^(fedbound: |\w[\w.]*(Error|Exception)\b)")
_ANY = re.compile(r"\b(error|failed|abort)", re.I)
# srun reports that ranks ended, and never why
_HOLLOW = re.compile(r"^srun: ")
# of Slurm's log, whose other lines are those of the job's own snakemake
_SLURMS = re.compile(r"^slurmstepd|oom[-_ ]kill|\bKilled\b")


def rule_log(artifact: Path) -> Path:
    """The log of the job that writes this artifact."""
    root, name = _place(artifact)
    return root / "logs" / f"{name}.log"


def benchmark(artifact: Path) -> Path:
    """The benchmark file of the job that writes this artifact."""
    root, name = _place(artifact)
    return root / "benchmarks" / f"{name}.tsv"


def slurm_logs(artifact: Path) -> list[Path]:
    """Slurm's own logs of all jobs that were submitted for this artifact, the oldest first."""
    root, name = _place(artifact)
    stage, _, stem = name.partition("/")[2].partition("/")
    return sorted((root / "logs" / "slurm" / f"rule_{stage}" / stem).glob("*.log"), key=lambda p: p.stat().st_mtime)


def _place(artifact: Path) -> tuple[Path, str]:
    """The folder that holds `results`, and the job's name below `logs` and `benchmarks`."""
    artifact = artifact.absolute()
    if artifact.name == "study.h5" and len(artifact.parents) > 2:
        return artifact.parents[2], f"{artifact.parents[0].name}/collect"
    if len(artifact.parents) < 4:
        return artifact.parent, f"-/-/{artifact.stem}"
    return artifact.parents[3], f"{artifact.parents[1].name}/{artifact.parents[0].name}/{artifact.stem}"


def last_error(artifact: Path) -> str:
    """Why a job that wrote no artifact ended, in one line of its logs; empty where there is no log."""
    lines = _all_lines(artifact)
    for pattern in (_OURS, _TIME, _MEMORY, _ENDED, _ANY):
        found = [line for line in lines if pattern.search(line) and not _HOLLOW.match(line)]
        if found:
            return found[-1].strip()
    return lines[-1].strip() if lines else ""


def ran_out_of(artifact: Path) -> set[str]:
    """What the last job for this artifact lacked: "runtime", "mem_mb", both, or neither.

    Without any log there is no telling, and both are named.
    """
    lines = _all_lines(artifact)
    if not lines:
        return {"runtime", "mem_mb"}
    causes = {"runtime": _TIME, "mem_mb": _MEMORY}
    return {cause for cause, pattern in causes.items() if any(pattern.search(line) for line in lines)}


def _all_lines(artifact: Path) -> list[str]:
    """The rule's log, and what Slurm said of the last job; all of Slurm's log where there is no other."""
    lines = _lines(rule_log(artifact))
    slurm = [line for log in slurm_logs(artifact)[-1:] for line in _lines(log)]
    return lines + [line for line in slurm if not lines or _SLURMS.search(line)]


def _lines(path: Path) -> list[str]:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - _LAST))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()]
