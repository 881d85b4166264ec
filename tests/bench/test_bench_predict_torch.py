"""Predictions of runs that train, from small artifacts made here, and the table that names the part that is off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedbound import schemas
from fedbound.artifacts import Artifact, Schema, Table
from fedbound.bench import predict, predict_torch
from fedbound.bench.rows import find


def filled(schema: Schema, rows: list[dict[str, Any]]) -> Table:
    """A table whose columns not given are zeros or ''."""
    blank = {key: "" if f.dtype == "str" else 0 for key, f in schema.fields.items()}
    return schema.table([{**blank, **row} for row in rows])


@pytest.fixture
def profile() -> Artifact:
    """Two silos, 0.01 s a step and 0.001 s to evaluate a sample; beside each other they take twice as long."""
    costs = [
        {
            "silo": k,
            "samples": 100,
            "steps": 50 * (k + 1),
            "alone_seconds": 0.5 * (k + 1),
            "alone_evaluate_seconds": 0.1,
            "bandwidth": 1e9,
        }
        for k in range(2)
    ]
    sharing = [{"kind": "shared", "working": k, "train_seconds": float(k)} for k in (1, 2)]
    return Artifact(
        "profile",
        "t",
        {},
        None,
        {
            "costs": filled(schemas.PROFILE_COSTS, costs),
            "server": filled(schemas.PROFILE_SERVER, [{"bandwidth": 1e9}]),
            "nodes": filled(schemas.PROFILE_NODES, [{"rank": k} for k in range(3)]),
            "sharing": filled(schemas.PROFILE_SHARING, sharing),
            "silos": filled(schemas.PROFILE_SILOS, [{"silo": k, "up_bytes": 1, "down_bytes": 1} for k in range(2)]),
        },
    )


def run_of(silos: int, seconds: float) -> Artifact:
    updates = [
        {
            "round": r,
            "silo": k,
            "samples": 200,
            "steps": 100,
            "bytes_up": 1,
            "bytes_down": 1,
            "raw_up": 1,
            "arrival_seconds": seconds,
            "busy_seconds": seconds,
            "train_seconds": seconds - 0.1,
            "evaluate_seconds": 0.1,
        }
        for r in (1, 2, 3)
        for k in range(silos)
    ]
    scenario = {"training": {"evaluate_every": 1}}
    rounds = [{"round": r, "seconds": seconds} for r in range(4)]
    tables = {"rounds": filled(schemas.RUN_ROUNDS, rounds), "silos": filled(schemas.RUN_SILOS, updates)}
    return Artifact("train", "t", scenario, 0, tables)


def test_more_silos_than_were_profiled(profile: Artifact) -> None:
    """100 steps and 200 samples: 1.2 s of work each, and four of them on a core take 4.8 s."""
    rows = predict_torch._rows("predict", "case", profile, run_of(4, 5.0))
    assert find(rows, "predicted", "case") == pytest.approx(4.8, rel=1e-6)
    assert find(rows, "error", "case") == pytest.approx(-0.04, rel=1e-6)
    assert find(rows, "no_contention_error", "case") == pytest.approx(1.2 / 5 - 1, rel=1e-6)
    assert find(rows, "predicted: training", "case") == pytest.approx(4.0, rel=1e-6)
    rows += predict._summary(rows)
    said = [line for line in predict.table(rows).splitlines() if "most of the error" in line]
    assert len(said) == 1
    assert "training" in said[0]


def test_the_profiled_silos_keep_their_own_costs(profile: Artifact) -> None:
    workload, _ = predict_torch.predicted(profile, run_of(2, 3.0))
    np.testing.assert_allclose(workload.train_seconds, [0.5, 1.0])


def test_the_means_are_those_of_the_controlled_settings() -> None:
    assert not {one.name for one in predict.HELD_OUT} & {one.name for one in predict_torch.SETTINGS}
    for stage in ("profile", "train"):
        for setting in predict_torch.SETTINGS:
            assert predict_torch._scenario(stage, setting)["data"]["silos"] == setting.silos
