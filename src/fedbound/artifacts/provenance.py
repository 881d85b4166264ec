"""What varies from run to run: host, time, job, library versions."""

from __future__ import annotations

import os

import h5py
import numpy as np


def stamp(**more: str | int | float) -> dict[str, str | int | float]:
    """Provenance of this process: host, time, job id and library versions, with `more` added."""
    import platform
    import socket
    from datetime import UTC, datetime

    found: dict[str, str | int | float] = {
        "host": socket.gethostname(),
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S +0000"),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
    }
    return {**found, **more}
