"""The smoke study on a real Slurm: its jobs are in Slurm's own list, and its results are those of a local run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slurm
BIN = Path(sys.executable).parent
MPI_STAGES = ("profile", "train")


def snakemake(repository: Path, folder: Path, env: dict[str, str], *profile: str) -> str:
    """Run the smoke study in `folder`; returns what snakemake said."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        str(BIN / "snakemake"),
        "--snakefile",
        str(repository / "Snakefile"),
        "--directory",
        str(folder),
        *profile,
    ]
    command += ["--configfile", str(repository / "config/config.yaml"), str(repository / "config/smoke.yaml")]
    env = {key: value for key, value in env.items() if key != "FEDBOUND_PLAN"}
    done = subprocess.run(
        command,
        env=env | {"PATH": f"{BIN}{os.pathsep}{env['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    logs = "".join(f"\n--- {log}\n{log.read_text()}" for log in sorted(folder.glob("logs/**/*.log")))
    assert done.returncode == 0, done.stdout + logs
    return done.stdout


def artifacts(folder: Path) -> dict[str, Path]:
    """All artifacts of the study, by their path within its results."""
    results = folder / "results" / "smoke"
    return {str(path.relative_to(results)): path for path in sorted(results.rglob("*.h5"))}


@pytest.fixture(scope="module")
def local(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    snakemake(repository, folder, dict(os.environ), "--workflow-profile", str(repository / "workflow/profiles/default"))
    return folder


@pytest.fixture(scope="module")
def on_slurm(sandbox, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slurm")
    profile = ("--profile", str(repository / "slurm"), "--workflow-profile", str(repository / "slurm/sandbox"))
    snakemake(repository, folder, sandbox.env, *profile)
    return folder


def test_every_artifact_was_made_by_a_job_of_slurm(on_slurm: Path, sandbox) -> None:
    ran = [job for job in sandbox.finished_jobs if job["WorkDir"] == str(on_slurm)]
    assert {job["JobState"] for job in ran} == {"COMPLETED"}
    assert len(ran) == len(artifacts(on_slurm))
    logged = {log.stem for log in (on_slurm / "logs" / "slurm").rglob("*.log")}
    assert {job["JobId"] for job in ran} == logged


def test_mpi_jobs_had_a_cpu_for_the_server_and_for_each_silo(on_slurm: Path, sandbox) -> None:
    ranks = {job["JobId"]: int(job["ProcCnt"]) for job in sandbox.finished_jobs if job["WorkDir"] == str(on_slurm)}
    for stage in MPI_STAGES:
        jobs = [log.stem for log in (on_slurm / "logs" / "slurm" / f"rule_{stage}").rglob("*.log")]
        assert jobs, stage
        assert {ranks[job] for job in jobs} == {4}, stage  # the smoke study has three silos


def test_results_equal_those_of_a_local_run(local: Path, on_slurm: Path) -> None:
    assert list(artifacts(local)) == list(artifacts(on_slurm))
    command = [str(BIN / "fedbound"), "inspect", "--diff", str(local / "results"), str(on_slurm / "results")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{len(artifacts(local))} compared, 0 differences")


def test_nothing_is_left_to_do_for_the_local_profile(repository: Path, on_slurm: Path) -> None:
    """Who moves between Slurm and a workstation computes nothing twice."""
    profile = ("--workflow-profile", str(repository / "workflow/profiles/default"))
    planned = snakemake(repository, on_slurm, dict(os.environ), *profile, "--dry-run")
    assert "Nothing to be done" in planned, planned
