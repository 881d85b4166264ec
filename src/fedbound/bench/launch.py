"""Starting a bench's own ranks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from fedbound.errors import InputError


def under_mpi(module: str, size: int, settings: dict[str, Any], seconds: float = 600.0) -> Any:
    """Run `python -m module SETTINGS` on so many ranks; what the last line that they print says, as JSON.

    Raises:
        InputError: there is no mpiexec.
        RuntimeError: the ranks failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return ranks([sys.executable, "-m", "mpi4py", "-m", module], size, settings, environment, seconds=seconds)


def ranks(
    program: list[str],
    size: int,
    settings: dict[str, Any],
    environment: dict[str, str],
    folder: str | None = None,
    seconds: float = 600.0,
) -> Any:
    """Run `program SETTINGS` on so many ranks in `folder`, by the mpiexec beside its interpreter or else that on PATH.

    Returns, and raises, as `under_mpi`.
    """
    beside = Path(program[0]).parent
    launcher = shutil.which("mpiexec", path=str(beside)) or shutil.which("mpiexec")
    if launcher is None:
        raise InputError("this bench needs mpiexec, which is not on PATH; install the extra 'mpi'")
    command = [launcher, "-n", str(size), *program, json.dumps(settings)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=seconds, cwd=folder
    )
    if done.returncode:
        raise RuntimeError(f"{program[-1]} failed with exit code {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
