"""Whether a job's MPI ranks are as many as were asked for, and on as many nodes.

Launchers fail silently: `srun` without `-n` starts one rank a node, and `mpiexec` within a snakemake job, which hides
Slurm's variables from it, puts all ranks on the first node while the others idle. No rank waits for another here: one
that has failed already would never come.
"""

from __future__ import annotations

import os
import subprocess

from fedbound.errors import InputError

# Slurm's variables: of a job whose environment is whole; and of a step, which srun gives its ranks anew within a
# snakemake job, too
_BY_HAND, _BY_SRUN = "SLURM_JOB_NUM_NODES", "SLURM_STEP_NUM_NODES"


def check(size: int, rank: int, ranks: int | None) -> None:
    """Refuse a size other than `ranks`, and a launcher that leaves nodes of the Slurm job idle.

    Raises:
        InputError: with the mend; of idle nodes on rank 0 only.
    """
    if ranks is not None and size != ranks:
        raise InputError(
            f"the job asked for {ranks} MPI ranks and {size} were started; "
            "start them by '{resources.mpi} -n {resources.tasks}' of the MPI that mpi4py uses"
        )
    if rank == 0 and (nodes := _nodes_unknown_to_launcher()) > 1:
        raise InputError(
            f"this Slurm job has {nodes} nodes and its launcher knows of one only: the others would idle; start the "
            f"{size} MPI ranks by srun (mpi: srun --mpi=... -K1), or ask for one node"
        )


def _nodes_unknown_to_launcher() -> int:
    """Nodes of the Slurm job in which snakemake started this process by another launcher than srun; 0 elsewhere.

    srun sees to it that every node has a rank. Who runs mpiexec by hand within an allocation sees to it, too.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if not job or _BY_HAND in os.environ or _BY_SRUN in os.environ:
        return 0
    try:
        asked = subprocess.run(
            ["squeue", "-h", "-j", job, "-o", "%D"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return int(asked.stdout.strip()) if asked.stdout.strip().isdigit() else 0
