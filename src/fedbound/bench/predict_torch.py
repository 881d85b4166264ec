"""Predicted against measured with real training: ranks that share this machine's cores, at other numbers of silos.

One federation is profiled by the profile stage. Its own run is predicted, and runs with other numbers of silos: their
costs are the profiled silos' medians, by the step and by the sample; what is known of the others before they run are
their samples. Every run's mean message sizes are taken as measured: it is times that are predicted here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound.bench.rows import Row
from fedbound.errors import InputError

if TYPE_CHECKING:
    from fedbound.artifacts import Artifact
    from fedbound.simulation import Star, Workload

MODEL = {"name": "mlp", "hidden": [1024, 1024]}  # 1.1 million values
ROUNDS = 7  # the first one pays for warming up
PROFILED = 3  # silos


@dataclass(frozen=True)
class Setting:
    """A federation with as many silos that really train."""

    name: str
    silos: int
    codec: str


SETTINGS = [
    Setting("torch, 3 silos, own run", PROFILED, "none"),
    Setting("torch, 2 silos", 2, "none"),
    Setting("torch, 6 silos", 6, "none"),
    Setting("torch, 6 silos, ebq", 6, "ebq"),
]
_QUICK = ("torch, 3 silos, own run",)


def run(bench: str, quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Profile each codec, then run and predict every setting."""
    from fedbound import artifacts

    rows: list[Row] = []
    profiles: dict[str, Artifact] = {}
    with tempfile.TemporaryDirectory() as folder:
        for setting in SETTINGS:
            if quick and setting.name not in _QUICK:
                continue
            if setting.codec not in profiles:
                say(f"profiled: torch, {PROFILED} silos, {setting.codec}")
                path = _stage("profile", Setting("", PROFILED, setting.codec), Path(folder))
                profiles[setting.codec] = artifacts.read(path, "profile")
            say(setting.name)
            measured = artifacts.read(_stage("train", setting, Path(folder)), "train")
            rows += _rows(bench, setting.name, profiles[setting.codec], measured)
    return rows


def predicted(profile: Artifact, run: Artifact) -> tuple[Workload, Star]:
    """The run's workload: the profiled silos' costs by the step and the sample, on the profile's first silo's node."""
    from fedbound.simulation import deployment

    workload, star = deployment.deployment(profile, run)
    own = profile["costs"].sort_values("silo")
    silos = run["silos"].groupby("silo")[["samples", "steps", "bytes_up", "bytes_down"]].mean()
    count = len(silos)
    cores = workload.cores
    assert cores is not None  # a deployment knows them
    if count == len(own):
        return workload, star

    def each(seconds: np.ndarray, by: str) -> np.ndarray:
        """Median cost by the step or sample, for the run's silos."""
        cost: np.ndarray = float(np.median(seconds / own[by].to_numpy())) * silos[by].to_numpy(np.float64)
        return cost

    workload = dataclasses.replace(
        workload,
        train_seconds=each(workload.train_seconds, "steps"),
        evaluate_seconds=each(workload.evaluate_seconds, "samples"),
        encode_seconds=float(np.median(workload.encode_seconds)) * np.ones(count),
        load_seconds=float(np.median(workload.load_seconds)) * np.ones(count),
        other_seconds=float(np.median(workload.other_seconds)) * np.ones(count),
        up_bytes=silos["bytes_up"].to_numpy(np.float64),
        down_bytes=silos["bytes_down"].to_numpy(np.float64),
        steps=float(silos["steps"].mean()),
        cores=dataclasses.replace(cores, node=np.full(count, cores.node[0])),
    )
    star = dataclasses.replace(
        star,
        client_bandwidth=np.full(count, np.median(star.client_bandwidth)),
        latency=np.full(count, np.median(star.latency)),
    )
    return workload, star


def _rows(bench: str, case: str, profile: Artifact, run: Artifact) -> list[Row]:
    from fedbound.federation import schedulers
    from fedbound.simulation import deployment, simulate
    from fedbound.simulation.blame import parts

    workload, star = predicted(profile, run)
    result = simulate(workload, star, schedulers.get("sync", rounds=1))
    alone = simulate(*deployment.alone(workload, star), schedulers.get("sync", rounds=1))
    rounds, silos = run["rounds"], run["silos"]
    measured = float(rounds.seconds[rounds["round"] >= 2].median())
    arrivals = silos[silos["round"] >= 2].groupby("silo").arrival_seconds.median().to_numpy()
    gaps = np.abs(result.arrivals - arrivals) / arrivals
    figures = [
        ("measured", measured, "s"),
        ("predicted", result.rounds[0].seconds, "s"),
        ("error", result.rounds[0].seconds / measured - 1, "1"),
        ("no_contention_error", alone.rounds[0].seconds / measured - 1, "1"),
        ("arrival_error_mean", float(gaps.mean()), "1"),
        ("arrival_error_worst", float(gaps.max()), "1"),
        ("ratio_up", float(silos.raw_up.sum() / silos.bytes_up.sum()), "1"),
        ("rounds", ROUNDS - 1, "1"),
    ]
    rows = [Row(bench, case, "", metric, value, unit) for metric, value, unit in figures]
    table = parts(workload, result, run)
    for i, name in enumerate(table["part"].values):
        for kind in ("predicted", "measured"):
            rows.append(Row(bench, case, "", f"{kind}: {name}", float(table[kind].values[i]), "s"))
    return rows


def _stage(stage: str, setting: Setting, folder: Path) -> Path:
    """Run the stage over MPI as the workflow does; returns its artifact.

    Raises:
        InputError: there is no mpiexec.
        RuntimeError: the stage failed.
    """
    beside = Path(sys.executable).parent
    launcher = shutil.which("mpiexec", path=str(beside)) or shutil.which("mpiexec")
    if launcher is None:
        raise InputError("bench predict needs mpiexec, which is not on PATH; install the extra 'mpi'")
    name = f"{stage}-{setting.silos}-{setting.codec}"
    scenario, out = folder / f"{name}.json", folder / f"{name}.h5"
    scenario.write_text(json.dumps(_scenario(stage, setting)), encoding="utf-8")
    command = [launcher, "-n", str(setting.silos + 1), sys.executable, "-m", "mpi4py", "-m", "fedbound", stage]
    command += ["--scenario", str(scenario), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"{setting.name!r} failed with exit code {done.returncode}: {done.stderr[-2000:]}")
    return out


def _scenario(stage: str, setting: Setting) -> dict[str, Any]:
    from fedbound import plan, study

    made = plan.make(
        study.parse(
            {
                "study": "bench",
                "seeds": [0],
                "data": {"dataset": "digits", "silos": setting.silos, "partition": "iid"},
                "model": MODEL,
                "training": {"rounds": ROUNDS, "local_epochs": 12},
                "exchange": {"codec": setting.codec, **({} if setting.codec == "none" else {"bound": 0.1})},
                "profiling": {"rounds": 5},
            }
        )
    )
    (job,) = made.jobs[stage].values()
    found: dict[str, Any] = job.scenario
    return found
