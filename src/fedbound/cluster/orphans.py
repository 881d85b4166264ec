"""Slurm jobs that a killed snakemake left behind.

Ctrl-C makes snakemake cancel its jobs; kill -9 does not, and neither does a login node's reaper. Such jobs run or wait
on while nobody watches them, and a new snakemake submits them once more. Whoever holds the workflow's lock therefore
cancels them first: training goes on from its checkpoint, and no artifact has two writers.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

_LIVING = "PENDING,CONFIGURING,RUNNING,COMPLETING,SUSPENDED,STOPPED,REQUEUED"


def cancel(jobs: Iterable[tuple[str, str]], folder: Path, patience: float = 60.0) -> list[str]:
    """Cancel the Slurm jobs that were submitted from `folder` for any of `jobs`, and wait until they are gone.

    Args:
        jobs: stage and stem of everything that is about to be submitted.
        folder: snakemake's working folder.
        patience: seconds to wait for the jobs' end; what lives on is for the lease to keep apart.

    Returns:
        Ids of the cancelled jobs; none where there is no Slurm.
    """
    wanted = {comment(stage, stem) for stage, stem in jobs}
    found = _living(wanted, folder)
    if not found:
        return []
    subprocess.run(["scancel", *found], capture_output=True, timeout=60, check=False)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and set(found) & set(_living(wanted, folder)):
        time.sleep(1.0)
    return found


def comment(stage: str, stem: str) -> str:
    """The comment by which the executor plugin submits a job."""
    return f"rule_{stage}_wildcards_{stem}"


def _living(wanted: set[str], folder: Path) -> list[str]:
    try:
        asked = subprocess.run(
            ["squeue", "--me", "-h", "-t", _LIVING, "-o", "%A|%Z|%k"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    ids = []
    for line in asked.stdout.splitlines():
        job, _, rest = line.partition("|")
        where, _, said = rest.rpartition("|")
        if said in wanted and Path(where) == folder:
            ids.append(job)
    return ids
