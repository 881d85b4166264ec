"""A study of 1,000 scenarios: how long snakemake plans it, and how long its results take to collect.

Nothing is trained. Every scenario's artifact is written through `fedbound.artifacts` with the tables, columns and row
counts of a real one and seeded random numbers in them; what is timed are the commands that a user waits for, each in a
process of its own: snakemake's dry run, `fedbound plan`, and `fedbound collect`, which verifies every file and writes
study.h5, the CSV tables and the report.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedbound import plan
from fedbound import study as study_
from fedbound.bench import study_artifacts
from fedbound.bench.rows import Row, aligned, find
from fedbound.errors import FedboundError, InputError
from fedbound.plan import Plan

BENCH = "study"
ROUNDS, SILOS = 20, 8
STUDY: dict[str, Any] = {
    "study": "thousand",
    "seeds": list(range(16)),
    "data": {"silos": SILOS},
    "model": {"name": "mlp", "hidden": [32]},
    "training": {"rounds": ROUNDS, "learning_rate": [0.05, 0.1]},
    "exchange": {"codec": ["none", "ebq", "sz3", "zfp"], "bound": [0.01, 0.03, 0.1, 0.3, 1.0]},
    "privacy": {
        "mechanism": ["gaussian", "laplace", "skellam", "smm", "ddgauss"],
        "epsilon": [0.25 * (i + 1) for i in range(32)],
    },
    "simulation": {"clients": [10, 100, 1000, 10000, 100000], "scheduler": ["sync", "async"]},
}
QUICK = {"seeds": [0, 1], "privacy": {"mechanism": ["gaussian"], "epsilon": [1.0]}, "simulation": {"clients": [10]}}
CASES = {
    "dry run, nothing done": "snakemake -n of a study that was never run",
    "plan, nothing done": "fedbound plan of the same",
    "collect": "all artifacts verified; study.h5, tables and report written",
    "dry run, all done": "snakemake -n when everything is there",
    "plan, all done": "fedbound plan of the same",
    "plan, one key edited": "fedbound plan when every run has a successor",
}


def run(quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Time every case once or, unless `quick`, three times; medians.

    Raises:
        InputError: this fedbound was installed without its Snakefile beside it.
        FedboundError: one of the commands failed; with the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="fedbound-bench-") as folder:
        return _measure(Path(folder), {**STUDY, **QUICK} if quick else STUDY, 1 if quick else 3, say)


def _measure(folder: Path, written: Mapping[str, Any], repeats: int, say: Callable[[str], None]) -> list[Row]:
    commands = Commands(folder, written)
    made = plan.make(study_.parse(commands.study))
    count = sum(1 for _ in made) - 1
    found: dict[str, list[Taken]] = {}

    def take(case: str, command: Sequence[str]) -> None:
        found[case] = [commands.timed(command) for _ in range(repeats)]
        say(f"{count} scenarios, {case}: {statistics.median(one.seconds for one in found[case]):.2f} s")

    take("dry run, nothing done", commands.dry_run())
    take("plan, nothing done", commands.plan())
    size = study_artifacts.fill(made, folder)
    say(f"{count} artifacts written, {size / 1e6:.0f} MB")
    take("collect", commands.collect(made))
    take("dry run, all done", commands.dry_run())
    take("plan, all done", commands.plan())
    commands.edit({"training": {**written["training"], "rounds": ROUNDS + 1}})
    take("plan, one key edited", commands.plan())
    rows = [Row(BENCH, "study", "", "scenarios", count, "1"), Row(BENCH, "study", "", "bytes", size, "byte")]
    return [*rows, *_rows(found)]


class Commands:
    """The commands that are timed, in a folder of their own, and the study that they are given."""

    def __init__(self, folder: Path, written: Mapping[str, Any]):
        self.folder = folder
        self.study = dict(written)
        self.snakefile = Path(__file__).parents[3] / "Snakefile"
        if not self.snakefile.is_file():
            raise InputError(f"bench study: there is no {self.snakefile}; install fedbound from its repository (-e)")
        beside = Path(sys.executable).parent
        self.environment = {k: v for k, v in os.environ.items() if k != "FEDBOUND_PLAN"}
        self.environment["PATH"] = f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        self.edit({})

    def edit(self, change: Mapping[str, Any]) -> None:
        """Write the study with other values under some of its keys."""
        (self.folder / "study.json").write_text(json.dumps({**self.study, **change}), encoding="utf-8")  # JSON is YAML

    def dry_run(self) -> list[str]:
        profile = self.snakefile.parent / "workflow/profiles/default"
        call = ["snakemake", "--snakefile", str(self.snakefile), "--workflow-profile", str(profile), "--dry-run"]
        return [*call, "--quiet", "all", "--configfile", "study.json"]

    def plan(self) -> list[str]:
        return ["fedbound", "plan", "study.json"]

    def collect(self, made: Plan) -> list[str]:
        saved = made.save(self.folder / "plan")
        scenario = made.job("collect", "study").scenario_json
        out = made.job("collect", "study").path
        return ["fedbound", "collect", "--scenario", scenario, "--input", f"plan={saved}", "--out", out]

    def timed(self, command: Sequence[str]) -> Taken:
        """Run a command; its wall time, and the processor time of all its processes.

        Raises:
            FedboundError: it fails; with the end of what it said.
        """
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise FedboundError(f"{' '.join(command[:2])} failed: {(done.stdout + done.stderr)[-2000:]}")
        return Taken(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


@dataclass(frozen=True)
class Taken:
    """Wall and processor seconds of one command."""

    seconds: float
    cpu_seconds: float


def _rows(found: Mapping[str, Sequence[Taken]]) -> list[Row]:
    rows = []
    for case, taken in found.items():
        wall = [one.seconds for one in taken]
        rows.append(Row(BENCH, case, "", "seconds", statistics.median(wall), "s"))
        rows.append(Row(BENCH, case, "", "seconds_most", max(wall), "s"))
        rows.append(Row(BENCH, case, "", "cpu_seconds", statistics.median(one.cpu_seconds for one in taken), "s"))
    return rows


def table(rows: Sequence[Row]) -> str:
    """One line per case."""
    lines = [
        (f"{case} ({what})", *(f"{find(rows, key, case):.2f}" for key in ("seconds", "seconds_most", "cpu_seconds")))
        for case, what in CASES.items()
    ]
    count, size = find(rows, "scenarios", "study"), find(rows, "bytes", "study") / 1e6
    return f"a study of {count:.0f} scenarios, {size:.0f} MB\n" + aligned(("case", "s", "most", "processor s"), lines)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Time of each case."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from fedbound.report.plots import COLOURS

    figure, axis = plt.subplots(figsize=(8, 2.8), layout="constrained")
    axis.barh(list(CASES), [find(rows, "seconds", case) for case in CASES], color=COLOURS[0])
    axis.set_xlabel(f"seconds, {find(rows, 'scenarios', 'study'):.0f} scenarios")
    axis.invert_yaxis()
    figure.savefig(path, dpi=120)
    plt.close(figure)
