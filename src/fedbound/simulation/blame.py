"""Which cost is mis-modelled: the predicted round of the study's own run taken apart, beside the measured one."""

from __future__ import annotations

import numpy as np

from fedbound import schemas
from fedbound.artifacts import Artifact, Table
from fedbound.simulation.driver import Result
from fedbound.simulation.workload import Workload

# What a silo does with a message: in the run's table of silos, in the workload, and in words.
_SILO = (
    ("train_seconds", "train_seconds", "training"),
    ("evaluate_seconds", "evaluate_seconds", "evaluation"),
    ("model_seconds", "load_seconds", "decoding the model"),
    ("encode_seconds", "encode_seconds", "encoding the update"),
)


def parts(workload: Workload, result: Result, run: Artifact) -> Table:
    """The parts of a round, along the silo whose update is measured to arrive last; medians, the first round left out.

    What is computed beside others is stretched alike in all its parts. The parts add up to the round's time, save that
    a sum of medians is not the median of a sum.

    Args:
        workload: the run's own, as predicted.
        result: its simulation, of a scheduler with rounds.
        run: the train stage's artifact.

    Returns:
        Table SIMULATION_PARTS; empty where no update was measured.
    """
    rounds, silos = (rows[rows["round"] >= min(2, rows["round"].max())] for rows in (run["rounds"], run["silos"]))
    if silos.empty or not np.isfinite(result.arrivals).any():
        return schemas.SIMULATION_PARTS.table([])
    arrivals = silos.groupby("silo")["arrival_seconds"].median()
    last = int(arrivals.idxmax())
    own = silos[silos["silo"] == last]
    index = last  # profiles have a row for every silo
    # what it computes takes longer beside others: all of it alike
    alone = sum(float(getattr(workload, ours)[index]) for _, ours, _ in _SILO)
    at_work = float(result.tasks[index, 2] - result.tasks[index, 1] - workload.other_seconds[index])
    stretch = at_work / alone if alone else 1.0
    rows = {
        name: (stretch * float(getattr(workload, ours)[index]), float(own[key].median())) for key, ours, name in _SILO
    }
    known = own[[key for key, _, _ in _SILO]].sum(axis=1)
    busy = float(sum(predicted for predicted, _ in rows.values()) + workload.other_seconds[index])
    rest = float((own["busy_seconds"] - known).median())
    rows["the rest of a silo's work: saving, packing"] = (float(workload.other_seconds[index]), rest)
    moving = float((own["arrival_seconds"] - own["busy_seconds"]).median())
    taken = workload.message_seconds + workload.message_byte_seconds * float(workload.up_bytes[index])
    rows["transfers, messages and queues"] = (float(result.arrivals[index]) + taken - busy, moving)
    folding = workload.decode_seconds + workload.aggregate_seconds
    clients = float(result.rounds.column("clients").mean())
    measured = (rounds["decode_seconds"] + rounds["aggregate_seconds"]).median()
    rows["decoding and folding at the server"] = (clients * folding, float(measured))
    table = [
        {"part": name, "predicted": predicted, "measured": seen, "difference": predicted - seen}
        for name, (predicted, seen) in rows.items()
    ]
    return schemas.SIMULATION_PARTS.table(table)
