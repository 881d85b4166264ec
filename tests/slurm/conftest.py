"""The private Slurm that the tests in this folder use."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

TOOLS = ("slurmctld", "slurmd", "munged", "srun", "sbatch", "squeue")
Shell = Callable[..., subprocess.CompletedProcess[str]]


class Sandbox(NamedTuple):
    """A running sandbox: its folder, and the environment to reach it by."""

    folder: Path
    env: dict[str, str]

    @property
    def finished_jobs(self) -> list[dict[str, str]]:
        """The jobs in Slurm's completion log, oldest first, each as its `Key=Value` pairs."""
        log = self.folder / "log" / "jobs.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [dict(pair.split("=", 1) for pair in line.split() if "=" in pair) for line in lines]


def slurm_missing() -> str | None:
    """Why the sandbox cannot run here, or None."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if missing:
        return f"Slurm is not installed: {', '.join(missing)}"
    if os.geteuid() != 0:
        return "the Slurm sandbox needs root"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = slurm_missing()
    if reason and item.get_closest_marker("slurm"):
        pytest.skip(reason)


def clean_environment() -> dict[str, str]:
    """This process's environment without anything of a Slurm."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH", "SRUN"))}


@pytest.fixture(scope="session")
def script(repository: Path) -> Shell:
    """Run `start.sh` or `stop.sh` of the sandbox; further environment by keyword."""

    def run(name: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [str(repository / "slurm" / "sandbox" / name), *args]
        return subprocess.run(
            command, env=clean_environment() | env, capture_output=True, text=True, timeout=300, check=False
        )

    return run


@pytest.fixture(scope="session")
def sandbox(script: Shell) -> Iterator[Sandbox]:
    """A Slurm of two nodes with eight CPUs each, stopped after the last test."""
    if reason := slurm_missing():
        pytest.skip(reason)
    folder = Path(os.environ.get("SLURM_SANDBOX") or Path(os.environ.get("TMPDIR") or "/tmp") / "fedbound-slurm-test")
    env = {"SLURM_SANDBOX": str(folder)}
    started = script("start.sh", **env)
    if started.returncode != 0:
        pytest.fail(started.stderr)
    yield Sandbox(folder, clean_environment() | env | {"SLURM_CONF": str(folder / "etc" / "slurm.conf")})
    stopped = script("stop.sh", "--purge", **env)
    assert stopped.returncode == 0, stopped.stderr
