"""What a study will cost in core-hours, and the refusal of one that plans beyond its limit.

A job is estimated from the run time of the finished job that is most like it; a training that no job is like, from the
step times in `profile.h5`; anything else from its time limit, `resources.<stage>.runtime`, which it cannot exceed. So a
first estimate is far too high, and says so; it becomes good with the first runs.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedbound.cluster import logs
from fedbound.errors import InputError
from fedbound.plan import Plan
from fedbound.progress import Standing, scenario_of, standings

RUNS, PROFILE, LIMIT = "earlier runs", "profile.h5", "time limits"
_START = 10.0  # seconds until the ranks of an MPI job are at work: imports, data, first compilation
MPI_STAGES = ("profile", "train")


@dataclass(frozen=True)
class Estimate:
    """Cores and seconds of one job, and where the seconds come from."""

    cores: int
    seconds: float
    source: str

    @property
    def core_hours(self) -> float:
        return self.cores * self.seconds / 3600


def estimate(standing: Standing, plan: Plan, root: Path = Path()) -> Estimate:
    """What a job will take."""
    job = standing.job
    cores = job.scenario["data"]["silos"] + 1 if job.stage in MPI_STAGES else 1
    measured = _seconds_of(standing.nearest) if standing.nearest else None
    if measured is not None and standing.nearest is not None:
        return Estimate(cores, measured * _relative_work(job.scenario, standing.nearest), RUNS)
    if job.stage == "train" and (round_ := _profiled_round(job.scenario, plan, root)) is not None:
        return Estimate(cores, _START + job.scenario["training"]["rounds"] * round_, PROFILE)
    return Estimate(cores, 60.0 * plan.resources[job.stage]["runtime"], LIMIT)


def refuse_above_limit(plan: Plan, root: Path = Path()) -> None:
    """Refuse a study whose jobs to come are estimated above `resources.max_core_hours`.

    Raises:
        InputError: naming the limit, the estimate and the stage that costs most.
    """
    limit = plan.resources.get("max_core_hours")
    if limit is None:
        return
    ahead = [(one, estimate(one, plan, root)) for one in standings(plan, root) if one.state != "done"]
    total = sum(cost.core_hours for _, cost in ahead)
    if total <= limit:
        return
    by_stage: dict[str, float] = {}
    for one, cost in ahead:
        by_stage[one.job.stage] = by_stage.get(one.job.stage, 0.0) + cost.core_hours
    most = max(by_stage, key=lambda stage: by_stage[stage])
    guessed = sum(cost.core_hours for _, cost in ahead if cost.source == LIMIT)
    hint = f", {guessed:.3g} of them by time limits alone" if guessed else ""
    raise InputError(
        f"resources.max_core_hours: this study plans {total:.3g} core-hours ({by_stage[most]:.3g} in {most}{hint}) and "
        f"{limit:g} are allowed; make it smaller, lower resources.{most}.runtime, or raise the limit"
    )


def _seconds_of(artifact: Path) -> float | None:
    """Wall-clock seconds of the job that made an artifact, from its benchmark file; None where there is none."""
    try:
        with open(logs.benchmark(artifact), encoding="utf-8", newline="") as file:
            return float(next(csv.DictReader(file, delimiter="\t"))["s"])
    except (OSError, StopIteration, KeyError, ValueError):
        return None


def _relative_work(scenario: Mapping[str, Any], nearest: Path) -> float:
    """Work of a training relative to that of its nearest finished one: rounds times local epochs."""
    other = scenario_of(nearest)
    if "rounds" not in scenario.get("training", {}) or "rounds" not in other.get("training", {}):
        return 1.0
    work = [one["training"]["rounds"] * one["training"]["local_epochs"] for one in (scenario, other)]
    return float(work[0] / work[1])


def _profiled_round(scenario: Mapping[str, Any], plan: Plan, root: Path) -> float | None:
    """Seconds of a round by the profile of the same data, model and codec; None where there is none yet."""
    for job in plan.jobs["profile"].values():
        same = all(job.scenario[key] == scenario[key] for key in ("data", "model"))
        if not same or job.scenario["exchange"]["codec"] != scenario["exchange"]["codec"]:
            continue
        path = root / job.path
        return _round_seconds(path, path.stat().st_mtime_ns) if path.exists() else None
    return None


@functools.lru_cache(maxsize=256)
def _round_seconds(profile: Path, written: int) -> float:
    """Seconds of a round by a profile, which many trainings ask for; `written` tells a new file from the old."""
    from fedbound import artifacts

    tables = artifacts.read(profile, "profile").tables
    costs, server = tables["costs"], tables["server"]
    silo = np.sum([costs[key].values for key in ("train_seconds", "evaluate_seconds", "encode_seconds")], axis=0)
    each = float(costs["decode_seconds"].values.sum()) + len(costs["silo"].values) * float(
        server["aggregate_seconds"].values[0]
    )
    return float(silo.max()) + each + float(server["round_overhead_seconds"].values[0])


def table(ahead: Sequence[tuple[Standing, Estimate]]) -> dict[str, tuple[int, float, str]]:
    """Per stage: jobs to run, their core-hours, and where those come from."""
    found: dict[str, tuple[int, float, str]] = {}
    for one, cost in ahead:
        jobs, hours, source = found.get(one.job.stage, (0, 0.0, cost.source))
        both = source if source == cost.source else f"{cost.source} and {source}" if "and" not in source else source
        found[one.job.stage] = (jobs + 1, hours + cost.core_hours, both)
    return found
