"""What an edit of the study makes run again: jobs are counted in a finished study (design law 10)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
pytestmark = pytest.mark.smoke


def snakemake(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = [str(BIN / "snakemake"), "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    arguments += ["--workflow-profile", str(ROOT / "workflow/profiles/default"), "--configfile", str(folder / "s.yaml")]
    environment = {k: v for k, v in os.environ.items() if k != "FEDBOUND_PLAN"}
    return subprocess.run(
        [*arguments, *more], capture_output=True, text=True, timeout=400, env=environment, check=False
    )


def planned(folder: Path, config: dict) -> dict[str, int]:
    """Jobs that a dry run plans for this study, by rule."""
    (folder / "s.yaml").write_text(yaml.safe_dump(config))
    done = snakemake(folder, "-n")
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout + done.stderr
    if "Nothing to be done" in text:
        return {}
    stats = text[text.index("Job stats:") :].split("\n\n")[0]
    found = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", stats, re.M)}
    return {name: count for name, count in found.items() if name not in ("total", "all")}


def merged(base: dict, over: dict) -> dict:
    result = dict(base)
    for key, value in over.items():
        result[key] = merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return result


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The smoke study, run once."""
    folder = tmp_path_factory.mktemp("study")
    config = merged(*[yaml.safe_load((ROOT / "config" / name).read_text()) for name in ("config.yaml", "smoke.yaml")])
    (folder / "s.yaml").write_text(yaml.safe_dump(config))
    done = snakemake(folder)
    logs = "\n".join(path.read_text() for path in folder.glob("logs/**/*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    return folder, config


def test_finished_study_has_nothing_to_do(study):
    folder, config = study
    assert planned(folder, config) == {}


@pytest.mark.parametrize(("edit", "jobs"), [
    ({"simulation": {"latency": 0.02}}, {"simulate": 4, "collect": 1}),
    ({"simulation": {"clients": [3, 50, 60]}}, {"simulate": 2, "collect": 1}),
    ({"seeds": [0, 7]}, {"train": 2, "collect": 1}),
    ({"privacy": {"epsilon": [1.0, 2.0]}}, {"privacy": 1, "collect": 1}),
    ({"report": {"title": "another"}}, {"collect": 1}),
    ({"calibration": {"tolerance": 30}}, {"calibrate": 1, "train": 1, "simulate": 2, "collect": 1}),
    ({"profiling": {"repeats": 3}}, {"profile": 2, "simulate": 4, "collect": 1}),
    ({"training": {"rounds": 4}}, {"train": 2, "simulate": 4, "collect": 1}),
    ({"exchange": {"codec": ["none", "ebq", "lossless"]}}, {"profile": 1, "train": 1, "simulate": 2, "collect": 1}),
    ({"resources": {"checkpoint_every": 2, "train": {"mem_mb": 2500}}}, {}),
])  # fmt: skip
def test_edits_plan_what_depends_on_them_and_nothing_else(study, edit, jobs):
    folder, config = study
    assert planned(folder, merged(config, edit)) == jobs


def test_an_edit_while_jobs_wait_changes_nothing_under_them(study, tmp_path):
    """The YAML is changed as soon as the first artifact is there; the rest still is what was planned."""
    _, config = study
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(config))
    arguments = [str(BIN / "snakemake"), "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
    arguments += ["privacies", "runs", "--workflow-profile", str(ROOT / "workflow/profiles/default")]
    arguments += ["--configfile", str(path)]
    with open(tmp_path / "out.txt", "w") as log:
        job = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 200
        while not list(tmp_path.glob("results/smoke/*/*.h5")):
            assert job.poll() is None, (tmp_path / "out.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        path.write_text(yaml.safe_dump(merged(config, {"training": {"rounds": 9}, "seeds": [5]})))
        assert job.wait(timeout=300) == 0, (tmp_path / "out.txt").read_text()
    from fedbound import artifacts

    runs = [artifacts.read(p, "train") for p in tmp_path.glob("results/smoke/train/*.h5")]
    assert len(runs) == 2
    assert {(run.seed, run.scenario["training"]["rounds"]) for run in runs} == {(0, 3)}
