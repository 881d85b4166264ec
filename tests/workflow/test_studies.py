"""The studies that ship: each says what it answers and costs, plans, and runs from end to end in its smoke overlay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedbound import plan, study, study_file
from fedbound.study_file import merged

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
FOLDER = ROOT / "config" / "studies"
STUDIES = sorted(p.relative_to(FOLDER) for p in FOLDER.rglob("*.yaml") if p.relative_to(FOLDER).parts[0] != "smoke")
NAMES = [str(path.with_suffix("")) for path in STUDIES]
TUTORIAL = [f"tutorial/{name}" for name in (
    "1-basics", "2-bounds", "3-fairness", "4-privacy", "5-algorithms", "6-simulation", "7-cluster"
)]  # fmt: skip
HEADINGS = ("# Question:", "# Cost:", "# Expect:", "# Run: make study STUDY=config/studies/")


def _config(*paths: Path) -> dict:
    config: dict = {}
    for path in paths:
        config = merged(config, study_file.read_yaml(path))
    return config


def test_the_studies_that_people_come_for_are_there():
    assert set(NAMES) >= {"compression", "fairness", "llm-lora", *TUTORIAL}


@pytest.mark.parametrize("path", STUDIES, ids=NAMES)
def test_each_says_what_it_answers_costs_and_shows(path):
    header = [line for line in (FOLDER / path).read_text().splitlines() if line.startswith("#")]
    for heading in HEADINGS:
        assert any(line.startswith(heading) for line in header), heading
    assert any(line.endswith(f"STUDY=config/studies/{path}") for line in header)


@pytest.mark.parametrize("path", STUDIES, ids=NAMES)
def test_each_plans_whole_and_as_smoke(path):
    whole = plan.make(study.parse(_config(FOLDER / path)))
    smoke = plan.make(study.parse(_config(FOLDER / path, FOLDER / "smoke" / path)))
    assert whole.study != smoke.study
    assert 1 <= len(smoke.jobs["train"]) + len(smoke.jobs["privacy"]) <= 8
    for stage in plan.STAGES:
        assert bool(smoke.jobs[stage]) == bool(whole.jobs[stage]), f"the smoke overlay runs no {stage}"


@pytest.mark.smoke
@pytest.mark.parametrize("path", STUDIES, ids=NAMES)
def test_each_runs_to_its_report(path, tmp_path, test_data):
    (tmp_path / "data").symlink_to(test_data)
    (tmp_path / "config").mkdir()  # a study is what its own files say, not what another one beside it does
    (tmp_path / "config/config.yaml").write_text("study: other\ntraining: {rounds: 99}\ncalibration: {tolerance: 50}\n")
    files = [FOLDER / path, FOLDER / "smoke" / path]
    arguments = [str(BIN / "snakemake"), "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
    arguments += ["--workflow-profile", str(ROOT / "workflow/profiles/default"), "--configfile", *map(str, files)]
    environment = {k: v for k, v in os.environ.items() if k != "FEDBOUND_PLAN"}
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=600, env=environment, check=False)
    logs = "\n".join(f"{p}: {p.read_text()}" for p in tmp_path.glob("logs/**/*.log"))
    assert done.returncode == 0, done.stderr[-3000:] + logs[-3000:]
    expected = plan.make(study.parse(_config(*files)))
    assert all((tmp_path / job.path).exists() for job in expected)
    folder = tmp_path / "results" / expected.study
    assert "<h2>" in (folder / "report.html").read_text()
    said = subprocess.run(
        [str(BIN / "fedbound"), "summary", str(folder / "study.h5")], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
