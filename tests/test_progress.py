"""`fedbound plan`: what is done, new, changed or made anew after an edit, why, and what it costs."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from fedbound import artifacts, expense, outlook, progress
from fedbound import plan as plans
from fedbound import study as s
from fedbound.artifacts import Artifact
from fedbound.cluster import logs
from fedbound.errors import InputError

STUDY = {
    "study": "toy",
    "seeds": [0, 1],
    "data": {"silos": 3},
    "training": {"rounds": 10},
    "exchange": {"codec": ["none", "ebq"], "bound": "calibrated"},
    "privacy": {"epsilon": 1.0},
    "simulation": {"clients": [3, 50]},
}


def made(**changes) -> plans.Plan:
    return plans.make(s.parse({**STUDY, **changes}))


def finish(plan: plans.Plan, root: Path, seconds: float = 36.0) -> None:
    """Every artifact of the plan, each newer than what it reads, and its benchmark."""
    for age, job in enumerate(plan):
        path = root / job.path
        artifacts.write(path, Artifact(job.stage, plan.study, job.scenario, job.scenario.get("seed"), {}, {}, {}))
        os.utime(path, (1e9 + age, 1e9 + age))
        bench = logs.benchmark(path)
        bench.parent.mkdir(parents=True, exist_ok=True)
        bench.write_text(f"s\th:m:s\n{seconds}\t0:00:36\n")


def counts(plan: plans.Plan, root: Path) -> dict[tuple[str, str], int]:
    found = Counter((one.job.stage, one.state) for one in progress.standings(plan, root))
    return {key: count for key, count in found.items() if key[1] != "done"}


def reasons(plan: plans.Plan, root: Path, stage: str) -> set[str]:
    return {one.why for one in progress.standings(plan, root) if one.job.stage == stage and one.state != "done"}


@pytest.fixture
def root(tmp_path) -> Path:
    finish(made(), tmp_path)
    return tmp_path


def test_nothing_is_there_at_first(tmp_path):
    plan = made()
    assert {one.state for one in progress.standings(plan, tmp_path)} == {"new"}
    assert reasons(plan, tmp_path, "train") == {"nothing of this stage is there yet"}


def test_a_finished_study_is_done(root):
    assert counts(made(), root) == {}
    assert "0 to run" in outlook.text(made(), root)


def test_a_changed_key_is_named_with_both_values(root):
    plan = made(training={"rounds": 12})
    assert counts(plan, root) == {("train", "changed"): 4, ("simulate", "changed"): 4, ("collect", "again"): 1}
    assert reasons(plan, root, "train") == {"training.rounds 10 -> 12"}
    assert reasons(plan, root, "simulate") == {"what it reads is another"}
    assert reasons(plan, root, "collect") == {"4 simulate, 4 train made anew"}
    assert len(progress.leftovers(plan, "train", root)) == 4


@pytest.mark.parametrize(("edit", "stage", "reason", "jobs"), [
    ({"seeds": [0, 1, 7]}, "train", {"seeds 7"}, {("train", "new"): 2}),
    ({"simulation": {"clients": [3, 50, 60]}}, "simulate", {"simulation.clients 60"}, {("simulate", "new"): 2}),
    ({"privacy": {"epsilon": [1.0, 2.0]}}, "privacy", {"privacy.epsilon 2"}, {("privacy", "new"): 1}),
    ({"calibration": {"tolerance": 2.0}}, "calibrate", {"calibration.tolerance 1 -> 2"},
     {("calibrate", "changed"): 1, ("train", "changed"): 2, ("simulate", "changed"): 2}),
    ({"exchange": {"codec": ["none", "ebq", "sz3"]}}, "train", {"exchange.codec sz3"},
     {("profile", "new"): 1, ("train", "new"): 2, ("simulate", "new"): 2}),
])  # fmt: skip
def test_what_an_edit_adds_or_changes(root, edit, stage, reason, jobs):
    plan = made(**edit)
    assert counts(plan, root) == {**jobs, ("collect", "again"): 1}
    assert reasons(plan, root, stage) == reason


def test_an_artifact_made_again_takes_along_what_reads_it(root):
    plan = made()
    bounds = next(iter(plan.jobs["calibrate"].values()))
    (root / bounds.path).unlink()
    found = counts(plan, root)
    assert found == {("calibrate", "new"): 1, ("train", "again"): 2, ("simulate", "again"): 2, ("collect", "again"): 1}
    assert reasons(plan, root, "train") == {"bounds made anew"}


def test_a_newer_input_makes_a_job_run_again(root):
    plan = made()
    os.utime(root / next(iter(plan.jobs["privacy"].values())).path, (2e9, 2e9))
    assert counts(plan, root) == {("collect", "again"): 1}


def test_a_checkpoint_is_said_to_be_gone_on_from(root):
    plan = made(training={"rounds": 12})
    job = next(iter(plan.jobs["train"].values()))
    epoch = (root / job.path).parent / ".checkpoints" / job.stem / "guard" / "epoch-0001"
    epoch.mkdir(parents=True)
    (epoch / "server_00000004.npz").touch()
    assert "goes on after round 4" in outlook.text(plan, root)


def test_costs_come_from_runs_that_are_alike_and_scale_with_rounds(root):
    plan = made(training={"rounds": 20})
    ahead = [(one, expense.estimate(one, plan, root)) for one in progress.standings(plan, root)]
    trains = [cost for one, cost in ahead if one.job.stage == "train"]
    assert [(cost.cores, cost.seconds, cost.source) for cost in trains] == [(4, 72.0, expense.RUNS)] * 4
    assert trains[0].core_hours == pytest.approx(4 * 72 / 3600)


def test_what_never_ran_costs_its_time_limit(tmp_path):
    plan = made(resources={"train": {"runtime": 60}})
    costs = [expense.estimate(one, plan, tmp_path) for one in progress.standings(plan, tmp_path)]
    trains = [cost for one, cost in zip(plan, costs, strict=True) if one.stage == "train"]
    assert {(cost.core_hours, cost.source) for cost in trains} == {(4.0, expense.LIMIT)}
    assert "time limits of what never ran" in outlook.text(plan, tmp_path)


def test_a_study_beyond_its_limit_is_refused(root):
    limit = {"max_core_hours": 0.01}
    with pytest.raises(InputError, match=r"resources.max_core_hours: .* 0.01 are allowed"):
        expense.refuse_above_limit(made(seeds=[0, 1, 2, 3], resources=limit), root)
    expense.refuse_above_limit(made(resources=limit), root)  # nothing is left to run
    expense.refuse_above_limit(made(seeds=[0, 1, 2], resources={"max_core_hours": 10}), root)


def test_the_command_lists_every_job_where_asked(root, capsys, monkeypatch):
    import yaml

    from fedbound.cli import main

    monkeypatch.chdir(root)
    (root / "s.yaml").write_text(yaml.safe_dump({**STUDY, "seeds": [0, 1, 7]}))
    assert main(["plan", "s.yaml", "--jobs"]) == 0
    said = capsys.readouterr().out
    assert said.count("seeds 7") == 2
    assert "Study toy: 15 jobs, 12 done, 3 to run" in said


def test_a_key_that_an_older_version_did_not_have_is_no_edit():
    before, now = {"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}
    assert list(progress.changes(before, now)) == [("b", 2, 3)]
    assert list(progress.changes(now, before)) == [("b", 3, 2)]
