"""What the run adds to the times: how many updates its accuracy takes, and from where on compression pays."""

from __future__ import annotations

import numpy as np

from fedbound.artifacts import Artifact
from fedbound.simulation.platform import GOODPUT_FACTOR
from fedbound.simulation.traces import MEGABIT
from fedbound.simulation.workload import Workload


def epochs_to(run: Artifact, target: float) -> float:
    """Rounds' work per silo after which the run's accuracy first reached `target`; infinite where it never did.

    One round's work is the mean local steps of the run's updates. It is what carries over from the run to a population
    of another size: that as many local steps per client bring the same accuracy. That holds for the run's own
    scheduler; another one's staleness is not in it.
    """
    rounds = run["rounds"].sort_values("round")
    silos = int(run.scenario["data"]["silos"])
    reached = rounds[rounds["accuracy"] >= target]
    if reached.empty:
        return float("inf")
    updates = run["silos"]
    steps = updates["steps"][updates["round"] <= int(reached["round"].iloc[0])].sum()
    return float(steps / (silos * updates["steps"].mean()))


def raw_bytes(run: Artifact) -> float:
    """The model uncompressed, bytes: a mean update's."""
    return float(run["silos"]["raw_up"].mean())


def break_even(workload: Workload, raw: float) -> float:
    """Bandwidth of a lone client's link, Mbit/s, below which the codec saves time; NaN where it saves no bytes.

        bytes saved both ways / (goodput * seconds of encoding and decoding at both ends, for this client alone)

    Args:
        workload: of the scenario.
        raw: bytes of a mean update and a mean model, uncompressed, together.
    """
    saved = raw - float(workload.up_bytes.mean() + workload.down_bytes.mean())
    seconds = float(workload.encode_seconds.mean() + workload.load_seconds.mean())
    seconds += workload.decode_seconds + workload.downlink_seconds
    if saved <= 0:
        return float("nan")
    with np.errstate(divide="ignore"):
        return float(np.divide(saved, GOODPUT_FACTOR * seconds) / MEGABIT)


def raw_both_ways(run: Artifact) -> float:
    """Bytes of a mean update and a mean model message, uncompressed; a model that silos had already has none."""
    updates = run["silos"]
    return float(updates["raw_up"].mean() + run["rounds"]["raw_down"].sum() / len(updates))
