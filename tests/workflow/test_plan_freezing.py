"""The frozen plan: what jobs on other nodes read instead of the study."""

from __future__ import annotations

import os

import pytest

from fedbound import plan, study, workflow

STUDY = {"study": "x", "exchange": {"codec": ["none", "sz3"]}}


def test_a_job_takes_the_frozen_plan_whatever_the_study_says_now(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(workflow.PLAN_VARIABLE, "")
    frozen = workflow.frozen_plan(STUDY, main=True)
    path = os.environ[workflow.PLAN_VARIABLE]
    edited = {**STUDY, "seeds": [9], "training": {"rounds": 1}}
    assert workflow.frozen_plan(edited, main=False) == frozen
    assert workflow.frozen_plan({"nonsense": 1}, main=False) == frozen
    again = workflow.frozen_plan(edited, main=True)
    assert os.environ[workflow.PLAN_VARIABLE] != path
    assert again != frozen


def test_a_refused_study_ends_with_code_2_and_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        workflow.frozen_plan({**STUDY, "trainnig": {}}, main=True)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.strip() == "fedbound: unknown key 'trainnig' in the study; did you mean 'training'?"
    assert not list(tmp_path.iterdir())


def test_input_flags_are_safe_in_a_shell():
    from fedbound.plan import Job

    job = Job("train", "s", {}, {"bounds": "results/a b/$(x).h5"}, "o")
    assert workflow.input_flags(job) == "--input 'bounds=results/a b/$(x).h5'"


@pytest.mark.parametrize(("text", "words"), [("a: 1\na: 2\n", "line 2"), ("a: [1\n", "line 2"), ("- x\n", "mapping")])
def test_a_file_that_is_no_study_is_refused_with_its_line(tmp_path, capsys, text, words):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        workflow.read_config([tmp_path / "missing.yaml", path], {})
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert str(path) in message
    assert words in message


def test_an_overlay_that_names_another_part_drops_the_options_of_the_old_one(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "study: x\nmodel: {name: mlp, hidden: [8]}\ntraining: {rounds: 3, batch_size: 8}\n"
    )
    (tmp_path / "b.yaml").write_text("model: {name: cnn}\ntraining: {rounds: 4}\n")
    config = workflow.read_config([tmp_path / "a.yaml", tmp_path / "b.yaml"], {"training": {"batch_size": 16}})
    assert config == {"study": "x", "model": {"name": "cnn"}, "training": {"rounds": 4, "batch_size": 16}}


def test_an_overlay_that_keeps_a_part_changes_its_options(tmp_path):
    (tmp_path / "a.yaml").write_text("study: x\nmodel: {name: mlp, hidden: [8]}\n")
    (tmp_path / "b.yaml").write_text("model: {name: mlp, activation: tanh}\n")
    config = workflow.read_config([tmp_path / "a.yaml", tmp_path / "b.yaml"], {})
    assert config["model"] == {"name": "mlp", "hidden": [8], "activation": "tanh"}


def test_an_attempt_asks_for_more_only_of_what_ran_out(tmp_path, monkeypatch):
    from fedbound import plan, study
    from fedbound.cluster import logs

    monkeypatch.chdir(tmp_path)
    made = plan.make(study.parse(STUDY))
    job = next(iter(made.jobs["train"].values()))
    asks = {key: made.resources["train"][key] for key in ("mem_mb", "runtime")}

    def asked(attempt, log):
        path = logs.rule_log(tmp_path / job.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(log)
        return {key: workflow.asked(made, job, key, attempt) for key in asks}

    limit = "slurmstepd-n1: error: *** STEP 5.0 ON n1 CANCELLED AT 2026-11-25T18:48:17 DUE TO TIME LIMIT ***\n"
    assert asked(1, limit) == asks
    assert asked(2, limit) == {**asks, "runtime": 2 * asks["runtime"]}
    memory = "slurmstepd: error: Detected 1 oom_kill event in StepId=5.0.\n"
    assert asked(3, memory) == {**asks, "mem_mb": 3 * asks["mem_mb"]}
    assert asked(2, "fedbound: silo 0 failed in round 1: NaN\n") == asks
    assert asked(2, "") == {key: 2 * value for key, value in asks.items()}  # nothing tells which


def test_a_success_says_where_the_report_is_once_there_is_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = plan.make(study.parse({"study": "small"}))
    workflow.say_where_results_are(made)
    assert capsys.readouterr().out == ""
    (tmp_path / "results/small").mkdir(parents=True)
    (tmp_path / "results/small/study.h5").touch()
    workflow.say_where_results_are(made)
    assert "the report is results/small/report.html" in capsys.readouterr().out
    run = tmp_path / next(iter(made)).path
    run.parent.mkdir()
    run.touch()
    os.utime(run, (2**31, 2**31))  # a run that the report does not know
    workflow.say_where_results_are(made)
    assert capsys.readouterr().out == ""
