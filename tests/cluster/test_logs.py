"""What a log says about the end of its job."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedbound.cluster import logs

LIMIT = "slurmstepd-n1: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-11-25T18:48:17 DUE TO TIME LIMIT ***"


@pytest.fixture
def artifact(tmp_path) -> Path:
    return tmp_path / "results/toy/train/a_1.h5"


def say(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(("lines", "expected"), [
    (["round 1", "fedbound: silo 0 failed", "srun: error: n1: task 0: Exited with 1"], "fedbound: silo 0 failed"),
    (["Traceback:", "ValueError: odd", "  more"], "ValueError: odd"),
    (["round 1", LIMIT, "srun: error: n1: tasks 0-1: Terminated"], LIMIT),
    (["round 1", "round 2"], "round 2"),
])  # fmt: skip
def test_the_last_error_is_the_one_that_says_why(artifact, lines, expected):
    say(logs.rule_log(artifact), *lines)
    assert logs.last_error(artifact) == expected


def test_without_a_log_nothing_is_said(artifact):
    assert logs.last_error(artifact) == ""
    assert logs.last_error(Path("study.h5")) == ""


def test_slurms_own_log_tells_of_time_and_memory(artifact, tmp_path):
    slurm = tmp_path / "logs/slurm/rule_train/a_1"
    say(logs.rule_log(artifact), "round 1")
    say(slurm / "7.log", "Error in rule train:", "slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch.")
    assert logs.ran_out_of(artifact) == {"mem_mb"}
    assert "oom_kill" in logs.last_error(artifact)


def test_the_collected_study_has_its_logs_by_its_stage(tmp_path):
    study = tmp_path / "results/toy/study.h5"
    assert logs.rule_log(study) == tmp_path / "logs/toy/collect.log"
    assert logs.benchmark(study) == tmp_path / "benchmarks/toy/collect.tsv"
