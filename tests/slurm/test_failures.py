"""What clusters do to studies: cancelled jobs, time limits, scenarios that always fail, a snakemake that is killed.

One study of four training runs goes through all of it in turn. Where a job must still run when something happens to
it, its processes are stopped (SIGSTOP) after their first checkpoints: no race, and no load meanwhile.
"""

from __future__ import annotations

import html
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedbound import artifacts, plan, study
from fedbound.cluster import logs

pytestmark = pytest.mark.slurm
BIN = Path(sys.executable).parent
STUDY = {
    "study": "broken",
    "seeds": [0],
    "data": {"silos": 1},
    "model": {"name": "mlp", "hidden": [8]},
    "training": {"rounds": 150, "local_epochs": 1, "learning_rate": [0.04, 0.05, 0.06, 1e30]},
    "exchange": {"codec": "none"},
}


def await_that(condition: Callable[[], object], what: str, seconds: float = 500) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.1)


class Cluster:
    """The study's folder on the sandbox."""

    def __init__(self, sandbox, repository: Path, folder: Path):
        self.sandbox, self.repository, self.folder = sandbox, repository, folder
        (folder / "s.yaml").write_text(yaml.safe_dump(STUDY))
        jobs = plan.make(study.parse(STUDY)).jobs["train"].values()
        by_rate = {job.scenario["training"]["learning_rate"]: job for job in jobs}
        self.finished, self.cancelled, self.running, self.failing = (by_rate[rate] for rate in (0.04, 0.05, 0.06, 1e30))
        self.paths = [job.path for job in jobs]
        self.env = {k: v for k, v in sandbox.env.items() if k != "FEDBOUND_PLAN"}
        self.env["PATH"] = f"{BIN}{os.pathsep}{self.env['PATH']}"

    def command(self, *more: str) -> list[str]:
        slurm = self.repository / "slurm"
        command = [str(BIN / "snakemake"), *more, "--snakefile", str(self.repository / "Snakefile")]
        command += ["--directory", str(self.folder), "--configfile", str(self.folder / "s.yaml")]
        command += ["--profile", str(slurm), "--workflow-profile", str(slurm / "sandbox")]
        return [*command, "--slurm-init-seconds-before-status-checks", "5"]

    def start(self, name: str, *more: str) -> subprocess.Popen:
        with open(self.folder / name, "w") as out:
            return subprocess.Popen(self.command(*more), env=self.env, stdout=out, stderr=subprocess.STDOUT)

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        return self("snakemake", *self.command(*more)[1:])

    def __call__(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=600, check=False
        )

    def slurm_id(self, job: plan.Job) -> str:
        listed = self("squeue", "-h", "-t", "RUNNING", "-o", "%A|%k").stdout.splitlines()
        (found,) = [line.split("|")[0] for line in listed if line.endswith(job.stem)]
        return found

    def rounds_kept(self, job: plan.Job) -> int:
        folder = self.folder / Path(job.path).parent / ".checkpoints" / job.stem
        return max((int(p.stem.split("_")[1]) for p in folder.glob("*/epoch-*/server_*.npz")), default=0)

    def stop(self, job: plan.Job) -> list[int]:
        """Stop the job's ranks (or the process that trains), wherever they are."""
        found = []
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                words = (proc / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if job.path in words and "train" in words and "python" in words[0] and self._here(proc):
                os.kill(int(proc.name), signal.SIGSTOP)
                found.append(int(proc.name))
        assert found
        return found

    def _here(self, proc: Path) -> bool:
        return Path(os.readlink(proc / "cwd")) == self.folder

    def said(self, job: plan.Job) -> str:
        return logs.rule_log(self.folder / job.path).read_text()

    def artifact(self, job: plan.Job) -> artifacts.Artifact:
        return artifacts.read(self.folder / job.path, "train")

    def ended(self, job: plan.Job, key: str = "JobState") -> list[str]:
        """What Slurm's completion log says of the jobs for this artifact, in the order of their ids."""
        ids = {log.stem for log in logs.slurm_logs(self.folder / job.path)}
        ended = [done for done in self.sandbox.finished_jobs if done["JobId"] in ids]
        return [done[key] for done in sorted(ended, key=lambda done: int(done["JobId"]))]


@pytest.fixture(scope="module")
def cluster(sandbox, repository, tmp_path_factory) -> Iterator[Cluster]:
    made = Cluster(sandbox, repository, tmp_path_factory.mktemp("broken"))
    yield made
    made("scancel", "--me")


@pytest.fixture(scope="module")
def killed(cluster) -> dict[str, Any]:
    """One job finishes, one fails by itself, one is cancelled; snakemake is killed while the fourth's job runs on."""
    driver = cluster.start("first.txt", *cluster.paths, "--retries", "0")
    for job in (cluster.running, cluster.cancelled):
        await_that(lambda job=job: cluster.rounds_kept(job) >= 3, "checkpoints")
        cluster.stop(job)
    second = cluster.run(cluster.cancelled.path)
    cluster("scancel", cluster.slurm_id(cluster.cancelled))
    await_that(lambda: "Finished jobid" in _text(cluster.folder / "first.txt"), "a job that finishes")
    await_that(lambda: cluster.ended(cluster.cancelled), "a job that is cancelled")
    driver.kill()
    driver.wait()
    return {
        "second": (second.returncode, second.stdout + second.stderr),
        "orphan": cluster.slurm_id(cluster.running),
        "kept": {job.stem: cluster.rounds_kept(job) for job in (cluster.running, cluster.cancelled)},
        "written": (cluster.folder / cluster.finished.path).stat().st_mtime_ns,
        "cancelled": logs.last_error(cluster.folder / cluster.cancelled.path),
        "lacking": logs.ran_out_of(cluster.folder / cluster.cancelled.path),
    }


@pytest.fixture(scope="module")
def rerun(cluster, killed) -> dict[str, Any]:
    """Snakemake again: locked, unlocked, and through; the fourth job now meets its time limit, and is tried again."""
    locked = cluster.run(*cluster.paths)
    assert cluster.run("--unlock").returncode == 0
    driver = cluster.start("second.txt", *cluster.paths, "--rerun-incomplete", "--retries", "1")
    await_that(lambda: "resuming" in _text(logs.rule_log(cluster.folder / cluster.running.path)), "resumed")
    await_that(lambda: cluster.rounds_kept(cluster.running) > killed["kept"][cluster.running.stem], "checkpoints")
    cluster.stop(cluster.running)
    kept = cluster.rounds_kept(cluster.running)
    # "now" would be over by the time that Slurm looks, now and then
    limit = cluster("scontrol", "update", f"JobId={cluster.slurm_id(cluster.running)}", "EndTime=now+2")
    assert limit.returncode == 0, limit.stderr
    code = driver.wait(timeout=600)
    return {"locked": locked, "code": code, "said": _text(cluster.folder / "second.txt"), "kept": kept}


def test_a_second_snakemake_is_refused(killed) -> None:
    code, said = killed["second"]
    assert code == 1
    assert "Directory cannot be locked" in said


def test_a_killed_snakemake_leaves_a_lock(rerun) -> None:
    assert rerun["locked"].returncode == 1
    assert "Directory cannot be locked" in rerun["locked"].stdout + rerun["locked"].stderr


def test_what_was_finished_is_not_done_again(cluster, killed, rerun) -> None:
    assert cluster.ended(cluster.finished) == ["COMPLETED"]
    assert (cluster.folder / cluster.finished.path).stat().st_mtime_ns == killed["written"]


def test_a_cancelled_job_goes_on_from_its_checkpoint(cluster, killed, rerun) -> None:
    assert cluster.ended(cluster.cancelled) == ["CANCELLED", "COMPLETED"]
    assert "CANCELLED AT" in killed["cancelled"]
    run = cluster.artifact(cluster.cancelled)
    assert run["summary"].resumed_from[0] == killed["kept"][cluster.cancelled.stem]
    assert run["rounds"]["round"].tolist() == list(range(STUDY["training"]["rounds"] + 1))


def test_the_job_that_ran_on_is_cancelled_and_its_successor_resumes(cluster, killed, rerun) -> None:
    assert f"cancelled Slurm jobs of an earlier run that was killed: {killed['orphan']}" in rerun["said"]
    assert cluster.ended(cluster.running)[0] == "CANCELLED"


def test_a_job_over_its_time_limit_is_tried_again_with_more_time_and_resumes(cluster, killed, rerun) -> None:
    assert cluster.ended(cluster.running) == ["CANCELLED", "TIMEOUT", "COMPLETED"]
    assert cluster.ended(cluster.running, "TimeLimit")[::2] == ["30", "60"]  # the one between was cut short
    run = cluster.artifact(cluster.running)
    assert run["summary"].resumed_from[0] == rerun["kept"] > killed["kept"][cluster.running.stem]
    assert run["rounds"]["round"].tolist() == list(range(STUDY["training"]["rounds"] + 1))


def test_what_did_not_run_out_of_time_is_tried_again_with_the_same(cluster, killed, rerun) -> None:
    assert killed["lacking"] == set()
    assert cluster.ended(cluster.failing) == ["FAILED"] * 3
    assert cluster.ended(cluster.failing, "TimeLimit") == ["30"] * 3


def test_a_scenario_that_always_fails_leaves_the_rest_complete_and_the_report_says_so(cluster, rerun) -> None:
    assert rerun["code"] == 1
    partial = artifacts.read(cluster.folder / "results/broken/partial/study.h5", "collect")["scenarios"]
    states = partial.set_index("stem").status
    assert [states[job.stem] for job in (cluster.finished, cluster.cancelled, cluster.running)] == ["done"] * 3
    assert states[cluster.failing.stem] == "missing"
    reason = partial.set_index("stem").error[cluster.failing.stem]
    assert "holds NaN or infinite values" in reason
    assert html.escape(reason) in (cluster.folder / "results/broken/partial/report.html").read_text()
    assert not (cluster.folder / "results/broken/study.h5").exists()


def test_two_jobs_never_write_one_checkpoint_and_the_second_takes_the_firsts_result(cluster, rerun) -> None:
    """The same training run twice as Slurm jobs, without snakemake: the lease alone keeps them apart."""
    job = cluster.cancelled
    whole = cluster.artifact(job)
    (cluster.folder / "scenario.json").write_text(json.dumps(job.scenario))
    (cluster.folder / job.path).unlink()
    train = f"exec {sys.executable} -m fedbound train --transport local --scenario scenario.json --out {job.path}"
    sbatch = ("sbatch", "--parsable", "-p", "main", "--mem=500", "--wrap", train)
    cluster(*sbatch, "-o", "one.txt")
    await_that(lambda: cluster.rounds_kept(job) >= 3, "checkpoints")
    stopped = cluster.stop(job)
    cluster(*sbatch, "-o", "two.txt")
    await_that(lambda: "awaiting another job" in _text(cluster.folder / "two.txt"), "the second job waits")
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    await_that(lambda: "wrote" in _text(cluster.folder / "two.txt"), "the second job ends")
    assert "another job has finished this run" in _text(cluster.folder / "two.txt")
    assert artifacts.differences(cluster.artifact(job), whole) == []


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
