"""Tables of privacy in a collected study: private training over its seeds, and the ranking of mechanisms."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from report_cases import NONE, TRAINING, collect_scenario, privacy, row, train, written

from fedbound import artifacts, schemas, study
from fedbound.auditing.runs import LEVEL
from fedbound.report import collect, html


def noised(seed: int, accuracy: float, epsilon: float) -> artifacts.Artifact:
    """A run under Skellam noise that has spent `epsilon` in two rounds."""
    settings = {"mechanism": "skellam", "epsilon": epsilon}
    run = train(NONE, seed, accuracy, 500, training={**TRAINING, "privacy": settings})
    said = {"mechanism": "skellam", "unit": "one silo's update", "trust": "secure aggregation", "delta": 1e-5}
    rows = [row(schemas.RUN_PRIVACY, round=i, epsilon=epsilon * i / 2, **said) for i in range(3)]
    run.tables["privacy"] = schemas.RUN_PRIVACY.table(rows)
    return run


def test_private_training_is_told_beside_no_privacy(tmp_path: Path) -> None:
    found = {f"train/plain{seed}": train(NONE, seed, 0.9, 1000) for seed in (0, 1)}
    found |= {f"train/a{seed}": noised(seed, 0.7 + 0.1 * seed, 4.0) for seed in (0, 1)}
    found |= {"train/b0": noised(0, 0.5, 1.0)}
    for name, audited in (("train/a0", 0.6), ("train/a1", 0.9)):
        shown = row(schemas.RUN_AUDIT, claimed=4.0, audited=audited, cap=5.0)
        found[name].tables["audit"] = schemas.RUN_AUDIT.table([shown])
    collected = collect.run(collect_scenario(), written(tmp_path, found))
    told = collected["private_training"]
    assert told.epsilon.tolist() == [4.0, 1.0, math.inf]
    assert told.seeds.tolist() == [2, 1, 2]
    np.testing.assert_array_equal(told.audited, [0.9, math.nan, math.nan])
    assert f"wrong with at most {100 * LEVEL:g} %" in schemas.STUDY_PRIVATE.fields["audited"].description
    np.testing.assert_array_equal(told.audit_cap, [5.0, math.nan, math.nan])
    assert collected["run_audits"].stem.tolist() == ["a0", "a1"]
    np.testing.assert_allclose(told.accuracy, [0.75, 0.5, 0.9])
    assert told.mechanism.tolist() == ["skellam", "skellam", "none"]
    assert told.unit.tolist() == ["one silo's update", "one silo's update", ""]
    runs = collected["runs"].set_index("stem")
    assert told.bits[0] == pytest.approx(32 / runs.ratio_up[["a0", "a1"]].mean())
    assert len(collected["private_runs"]) == 9
    page = html.render(collected)
    for text in ("Private training", "one silo&#x27;s update", "secure aggregation"):
        assert text in page


def test_mechanisms_are_ranked_within_trust_and_bits(tmp_path: Path) -> None:
    found = {
        f"privacy/{name}{epsilon:g}": privacy(name, epsilon, mse / epsilon)
        for name, mse in (("gaussian", 1e-4), ("skellam", 2e-4), ("grr", 9e-3), ("laplace", 1e-5))
        for epsilon in (1.0, 4.0)
    }
    for key, artifact in found.items():
        results = artifact.tables["results"]
        results["trust"].values[:] = "local" if "grr" in key else "secure aggregation"
        results["bits"].values[:] = 4.0 if "skellam" in key else 2.0
    paths = written(tmp_path, found)
    free = collect.run(collect_scenario(), paths)["mechanisms"]
    for _, one in free[free.norm == "L2"].groupby("target_epsilon"):
        assert one.mechanism.tolist() == ["gaussian", "skellam", "grr"]
        assert one["rank"].tolist() == [1, 2, 3]
    assert free[free.norm == "L1"].over_floor.isna().all()  # the floor is another question's
    scenario = collect_scenario()
    tight = scenario.model_copy(update={"report": study.Report(trust="local", bits=3)})
    told = collect.run(tight, paths)["mechanisms"]
    one = told[(told.norm == "L2") & (told.target_epsilon == 4.0)]
    assert one.mechanism.tolist() == ["grr", "gaussian", "skellam"]
    assert one["rank"].tolist() == [1, 0, 0]
    assert one.against.tolist() == ["", *["needs trust: secure aggregation"] * 2]
    few = scenario.model_copy(update={"report": study.Report(bits=3)})
    told = collect.run(few, paths)["mechanisms"].set_index(["mechanism", "target_epsilon"])
    assert told.against["skellam", 1.0] == "sends 4 bits per coordinate"
