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


def under_mpi(module: str, ranks: int, settings: dict[str, Any], seconds: float = 600.0) -> Any:
    """Run `python -m module SETTINGS` on so many ranks; what the last line that they print says, as JSON.

    Raises:
        InputError: there is no mpiexec.
        RuntimeError: the ranks failed.
    """
    beside = Path(sys.executable).parent
    launcher = shutil.which("mpiexec", path=str(beside)) or shutil.which("mpiexec")
    if launcher is None:
        raise InputError("this bench needs mpiexec, which is not on PATH; install the extra 'mpi'")
    command = [launcher, "-n", str(ranks), sys.executable, "-m", "mpi4py", "-m", module, json.dumps(settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=seconds)
    if done.returncode:
        raise RuntimeError(f"{module} failed with exit code {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
