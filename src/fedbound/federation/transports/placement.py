"""Whether a job's MPI ranks are as many as were asked for, and on as many nodes.

Launchers fail silently: `srun` without `-n` starts one rank a node, and `mpiexec` within a snakemake job, which hides
Slurm's variables from it, puts all ranks on the first node while the others idle.
"""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

import numpy as np

from fedbound.errors import InputError

if TYPE_CHECKING:
    from mpi4py import MPI

_NAME = 128  # bytes of a node's name


def check(comm: MPI.Intracomm, ranks: int | None) -> None:
    """Refuse a size other than `ranks`, and ranks that leave nodes of the Slurm job idle. Collective.

    Raises:
        InputError: on every rank alike, with the mend.
    """
    if ranks is not None and comm.size != ranks:
        raise InputError(
            f"the job asked for {ranks} MPI ranks and {comm.size} were started; "
            "start them by '{resources.mpi} -n {resources.tasks}' of the MPI that mpi4py uses"
        )
    used = per_node(comm)
    allocated = np.zeros(1, np.int64)
    if comm.rank == 0:
        allocated[0] = _allocated_nodes()
    comm.Bcast(allocated, root=0)
    if allocated[0] > len(used):
        raise InputError(
            f"this Slurm job has {allocated[0]} nodes and its {comm.size} MPI ranks are on {len(used)} of them; "
            "start them by srun (mpi: srun --mpi=... -K1), or ask for fewer nodes"
        )


def per_node(comm: MPI.Intracomm) -> dict[str, int]:
    """Ranks on each node, by its name, in the order of the first rank. Collective."""
    own = np.zeros(_NAME, np.uint8)
    # Slurm's name of the node: several slurmd may share a host
    name = (os.environ.get("SLURMD_NODENAME") or socket.gethostname()).encode()[:_NAME]
    own[: len(name)] = np.frombuffer(name, np.uint8)
    names = np.empty((comm.size, _NAME), np.uint8)
    comm.Allgather(own, names)
    found: dict[str, int] = {}
    for row in names:
        node = row.tobytes().rstrip(b"\0").decode(errors="replace")
        found[node] = found.get(node, 0) + 1
    return found


def _allocated_nodes() -> int:
    """Nodes of the Slurm job that snakemake started this process in by a launcher other than srun; 0 elsewhere.

    srun sees to it that every node has a rank. Who runs mpiexec by hand within an allocation sees to it, too.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if not job or "SLURM_JOB_NUM_NODES" in os.environ:
        return 0
    try:
        asked = subprocess.run(
            ["squeue", "-h", "-j", job, "-o", "%D"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return int(asked.stdout.strip()) if asked.stdout.strip().isdigit() else 0
