from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from report_cases import (
    DATA,
    NONE,
    SZ3,
    collect_scenario,
    train,
    written,
)

from fedbound import artifacts, load, schemas
from fedbound.report import collect
from fedbound.report.recommend import Candidate, advise, on_front

BASE = Candidate(
    setting="uncompressed",
    context="",
    codec="none",
    algorithm="fedavg",
    bound="",
    bound_value=float("nan"),
    accuracy=0.95,
    worst_silo=0.90,
    bytes=1000.0,
    bytes_up=500.0,
    ratio_up=1.0,
    epsilon=float("nan"),
    round_seconds=1.0,
    predicted_seconds=float("nan"),
    baseline="uncompressed",
    drop=0.0,
    drop_sd=0.0,
    drop_upper=0.0,
    worst_silo_drop=0.0,
    saving=1.0,
    seeds=3,
)
GOOD = dataclasses.replace(
    BASE,
    setting="good",
    codec="sz3",
    bound="0.1",
    bound_value=0.1,
    bytes=200.0,
    drop=0.2,
    drop_sd=0.24,
    drop_upper=0.6,
    saving=5.0,
)
CHEAP = dataclasses.replace(GOOD, setting="cheap", bytes=100.0, drop=0.8, drop_upper=1.7, saving=10.0)
NO_SIMULATIONS = schemas.SIMULATION_SUMMARY.table([]) | {
    key: artifacts.Column(schemas.STUDY_KEYS[key], np.empty(0, object)) for key in ("setting", "case")
}


def chosen(*candidates: Candidate, tolerance: float = 1.0) -> str | None:
    advice = advise(candidates, tolerance)
    return advice.chosen.setting if advice.chosen else None


def sentences(*candidates: Candidate, tolerance: float = 1.0) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in advise(candidates, tolerance).sentences(NO_SIMULATIONS):
        found.setdefault(row["kind"], []).append(row["sentence"])
    return found


def test_the_cheapest_setting_within_the_limit_is_chosen() -> None:
    """'cheap' loses only 0.8 points on average, but its upper limit of 1.7 is above the tolerance of 1."""
    assert chosen(BASE, GOOD, CHEAP) == "good"
    assert chosen(BASE, GOOD, CHEAP, tolerance=2.0) == "cheap"


def test_below_three_seeds_the_mean_decides_and_the_sentence_says_so() -> None:
    two = [dataclasses.replace(c, seeds=2) for c in (BASE, GOOD, CHEAP)]
    assert chosen(*two) == "cheap"
    assert "judged by the mean, as 2 seeds cannot give a usable limit" in sentences(*two)["evidence"][0]


def test_what_a_setting_gains_is_not_called_a_negative_loss() -> None:
    evidence = sentences(BASE, dataclasses.replace(GOOD, drop=-0.45, worst_silo_drop=0.3))["evidence"][0]
    assert "it gains 0.45 points of accuracy" in evidence
    assert "its worst silo loses 0.30 points" in evidence


def test_a_limit_from_seeds_that_all_lose_the_same_is_said_to_be_weak() -> None:
    same = dataclasses.replace(GOOD, drop=0.0, drop_sd=0.0, drop_upper=0.0)
    assert "as all seeds lose the same" in sentences(BASE, same)["evidence"][0]
    assert "as all seeds lose the same" not in sentences(BASE, GOOD)["evidence"][0]


def test_a_drop_of_exactly_the_tolerance_is_within_it() -> None:
    assert chosen(BASE, dataclasses.replace(GOOD, drop_upper=1.0 + 1e-13)) == "good"
    assert chosen(BASE, dataclasses.replace(GOOD, drop_upper=1.001)) == "uncompressed"


def test_the_worst_silo_may_not_pay() -> None:
    unfair = dataclasses.replace(GOOD, worst_silo_drop=1.5)
    assert chosen(BASE, unfair) == "uncompressed"
    against = sentences(BASE, unfair)["against"]
    assert against == ["Why not 'good': its worst silo loses 1.50 points, more than the tolerance of 1."]


def test_do_not_compress_when_the_drop_is_too_large() -> None:
    said = sentences(BASE, CHEAP)
    assert chosen(BASE, CHEAP) == "uncompressed"
    assert said["choice"][0].startswith("Do not compress: run 'uncompressed'")
    assert "1.70 points, is above the tolerance of 1" in said["against"][0]


def test_do_not_compress_when_it_saves_nothing() -> None:
    assert chosen(BASE, dataclasses.replace(GOOD, bytes=1001.0)) == "uncompressed"
    assert chosen(BASE, dataclasses.replace(GOOD, bytes=1000.0)) == "uncompressed"


def test_without_compressed_settings_nothing_is_claimed_of_them() -> None:
    assert sentences(BASE) == {"choice": ["Run 'uncompressed' (fedavg): no compressed setting was tried."]}


def test_without_an_uncompressed_run_nothing_is_recommended() -> None:
    alone = dataclasses.replace(GOOD, baseline="", seeds=0, drop=float("nan"), drop_upper=float("nan"))
    assert chosen(alone) is None
    assert sentences(alone)["choice"][0].startswith("No recommendation")


def test_a_setting_without_partner_seeds_is_never_chosen() -> None:
    stray = dataclasses.replace(CHEAP, baseline="", seeds=0, drop=float("nan"), drop_upper=float("nan"))
    assert chosen(BASE, GOOD, stray) == "good"
    assert "no uncompressed run with its seeds" in sentences(BASE, GOOD, stray)["against"][1]


def test_the_most_accurate_training_setting_is_the_one_compressed() -> None:
    """A cheap setting of a training that starts 5 points lower is no bargain."""
    weak = dataclasses.replace(BASE, setting="weak", baseline="weak", context="weak", accuracy=0.90, bytes=500.0)
    weak_cheap = dataclasses.replace(GOOD, setting="weak sz3", baseline="weak", context="weak", bytes=50.0)
    assert chosen(BASE, GOOD, weak, weak_cheap) == "good"
    assert "trains as 'weak'" in sentences(BASE, GOOD, weak, weak_cheap)["against"][1]


def test_front_holds_what_nothing_else_beats() -> None:
    dominated = dataclasses.replace(GOOD, setting="dominated", bytes=300.0, accuracy=0.94)
    twin = dataclasses.replace(GOOD, setting="twin")
    assert on_front([BASE, GOOD, CHEAP, dominated, twin]).tolist() == [False, False, True, False, False]
    honest = [dataclasses.replace(c, accuracy=a) for c, a in ((BASE, 0.95), (GOOD, 0.948), (CHEAP, 0.94))]
    assert on_front(honest).tolist() == [True, True, True]


def test_the_whole_study_is_recommended_its_calibrated_bound(collected: artifacts.Artifact) -> None:
    pareto = collected["pareto"].set_index("setting")
    assert pareto.chosen.to_dict() == {"sz3 1": 0, "sz3 calibrated": 1, "uncompressed": 0}
    assert pareto.acceptable.to_dict() == {"sz3 1": 0, "sz3 calibrated": 1, "uncompressed": 1}
    assert pareto.reason["uncompressed"] == "keeps accuracy too, but sends 4.8 times the bytes"
    rows = collected["recommendation"]
    assert rows.kind.tolist() == ["choice", "evidence", "traffic", "time", "time", "time", "against", "against"]
    assert "the calibrated bound, 0.178" in rows.sentence[0]
    assert rows.timing[4] == "1.25 s for a round's work against 12.5 s with 'uncompressed' (10 times faster)"


def test_many_simulations_are_told_as_a_range() -> None:
    def rows(setting: str, times: dict[int, float]) -> list[dict[str, Any]]:
        keys = {"setting": setting, "scheduler": "sync", "case": ""}
        return [{**keys, "clients": clients, "epoch_seconds": took} for clients, took in times.items()]

    counts = [10 * (i + 1) for i in range(7)]
    own = {clients: 1.0 + i for i, clients in enumerate(counts)}
    found = rows(GOOD.setting, own) + rows(BASE.setting, dict.fromkeys(counts, 4.0))
    kinds = {"clients": "int64", "epoch_seconds": "float64"}
    table = artifacts.Schema({key: artifacts.Field(kinds.get(key, "str"), "", "") for key in found[0]}).table(found)
    (told,) = [row for row in advise([BASE, GOOD], 1.0).sentences(table) if row["kind"] == "time"]
    assert told["sentence"] == "Predicted in 7 simulations"
    assert told["timing"] == (
        "a round's work, against 'uncompressed', is between 4 times faster at 10 clients, sync (1 s against 4 s) and "
        "1.75 times slower at 70 clients, sync (7 s against 4 s); faster in 3 of 7"
    )


def test_only_the_timing_depends_on_measured_times(
    collected: artifacts.Artifact, inputs: dict[str, Path], tmp_path: Path
) -> None:
    found = {name: load(path) for name, path in inputs.items() if name.startswith("simulate/")}
    for artifact in found.values():
        column = artifact.tables["summary"]["epoch_seconds"]
        artifact.tables["summary"]["epoch_seconds"] = artifacts.Column(column.field, column.values * 7)
    again = collect.run(collect_scenario(), {**inputs, **written(tmp_path, found)})
    assert (again["recommendation"].sentence == collected["recommendation"].sentence).all()
    assert (again["recommendation"].timing != collected["recommendation"].timing).sum() == 3
    assert collected.tables["recommendation"]["timing"].field.measured


def test_each_data_set_gets_its_own_recommendation(tmp_path: Path) -> None:
    runs = {}
    for silos, drop in ((4, 0.2), (8, 3.0)):
        for seed in range(3):
            data = {**DATA, "silos": silos}
            wobble = seed / 10_000
            runs[f"train/n{silos}{seed}"] = train(NONE, seed, 0.95, 10_000, data=data)
            runs[f"train/s{silos}{seed}"] = train(SZ3, seed, 0.95 - drop / 100 - wobble, 500, data=data)
    rows = collect.run(collect_scenario(), written(tmp_path, runs))["recommendation"]
    choices = rows[rows.kind == "choice"].set_index("problem").sentence
    assert choices["silos=4"].startswith("Run 'sz3 calibrated, silos=4'")
    assert choices["silos=8"].startswith("Do not compress: run 'uncompressed, silos=8'")


def test_a_study_without_runs_recommends_nothing(inputs: dict[str, Path]) -> None:
    only = {name: path for name, path in inputs.items() if name.startswith("privacy/")}
    found = collect.run(collect_scenario(), only)
    assert len(found["recommendation"]) == len(found["pareto"]) == 0
