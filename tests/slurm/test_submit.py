"""`fedbound submit`: snakemake as a job, which cancels its jobs in time, and runs light cells itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slurm
BIN = Path(sys.executable).parent
LONG = {
    "study": "long",
    "seeds": [0],
    "data": {"silos": 1},
    "model": {"name": "mlp", "hidden": [8]},
    "training": {"rounds": 1000000, "evaluate_every": 1000000},
    "exchange": {"codec": "none"},
    "resources": {"checkpoint_every": 1000000},
}
LIGHT = {
    "study": "light",
    "exchange": {"codec": "none"},
    "privacy": {"epsilon": [1.0, 2.0, 3.0], "trials": 4, "dimension": 16, "clients": 5, "audit_draws": 2000},
}


def await_that(condition: Callable[[], object], what: str, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.2)


class Checkout:
    """A folder with what `fedbound submit` needs of the repository, and its own results."""

    def __init__(self, sandbox, repository: Path, folder: Path):
        self.sandbox, self.folder = sandbox, folder
        for name in ("Snakefile", "workflow", "slurm", "envs"):
            (folder / name).symlink_to(repository / name)
        self.env = {k: v for k, v in sandbox.env.items() if k != "FEDBOUND_PLAN"}
        self.env["PATH"] = f"{BIN}{os.pathsep}{self.env['PATH']}"

    def __call__(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, study: dict, *options: str) -> str:
        (self.folder / "s.yaml").write_text(yaml.safe_dump(study))
        said = self("fedbound", "submit", "s.yaml", "--site", "slurm/sandbox", *options)
        found = re.search(r"Slurm job (\d+) runs", said)
        assert found, said
        return found[1]

    def jobs(self, *states: str) -> list[str]:
        """Comments of this folder's jobs in the queue (the driver has none)."""
        listed = self("squeue", "-h", "-t", ",".join(states), "-o", "%Z|%k").splitlines()
        return [line.split("|")[1] for line in listed if line.split("|")[0] == str(self.folder)]

    def ended(self, job: str) -> str:
        found = [done for done in self.sandbox.finished_jobs if done["JobId"] == job]
        return found[0]["JobState"] if found else ""

    def log(self, job: str) -> str:
        path = self.folder / f"logs/slurm/driver-{job}.log"
        return path.read_text() if path.exists() else "no log"


@pytest.fixture
def checkout(sandbox, repository, tmp_path):
    made = Checkout(sandbox, repository, tmp_path)
    yield made
    made("scancel", "--me")


def test_a_driver_near_its_time_limit_cancels_its_jobs_and_ends_in_time(checkout) -> None:
    driver = checkout.submit(LONG, "--time", "60", "--snakemake=runs")
    await_that(lambda: any("train" in job for job in checkout.jobs("RUNNING")), f"training\n{checkout.log(driver)}")
    checkout("scontrol", "update", f"JobId={driver}", "EndTime=now+110")  # Slurm warns two minutes before: now
    await_that(lambda: checkout.ended(driver), f"the driver's end\n{checkout.log(driver)}")
    assert checkout.ended(driver) == "FAILED", checkout.log(driver)  # by itself, and not for want of time
    await_that(lambda: not checkout.jobs("PENDING", "RUNNING", "COMPLETING"), "no job is left")
    mine = [done for done in checkout.sandbox.finished_jobs if done["WorkDir"] == str(checkout.folder)]
    assert sorted(done["JobState"] for done in mine) == ["CANCELLED", "FAILED"]


def test_a_driver_of_several_cores_runs_light_cells_itself(checkout) -> None:
    driver = checkout.submit(LIGHT, "--cores", "2", "--mem", "4000", "--snakemake=privacies")
    await_that(lambda: checkout.ended(driver), f"the driver's end\n{checkout.log(driver)}")
    assert checkout.ended(driver) == "COMPLETED", checkout.log(driver)
    assert len(list(checkout.folder.glob("results/light/privacy/*.h5"))) == 3
    assert len(list(checkout.folder.glob("logs/light/privacy/*.log"))) == 3
    mine = [done for done in checkout.sandbox.finished_jobs if done["WorkDir"] == str(checkout.folder)]
    assert [done["JobId"] for done in mine] == [driver]
