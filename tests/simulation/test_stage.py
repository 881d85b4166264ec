"""The stage: population and prediction from small artifacts made here, whose right answers are known."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedbound import artifacts, schemas, study
from fedbound.artifacts import Artifact, Schema, Table
from fedbound.errors import ArtifactError, InputError
from fedbound.simulation import Star, Workload, simulate, stage
from fedbound.simulation.deployment import deployment, shared_cores, unexplained
from fedbound.simulation.population import population
from fedbound.simulation.target import break_even, epochs_to, raw_both_ways
from fedbound.simulation.validation import make_scheduler, validation
from fedbound.simulation.workload import variation

SILOS = 3
TRAIN = [1.0, 2.0, 4.0]
UP, DOWN = 1000, 8000
BANDWIDTH = [1e6, 2e6, 1e6]


def filled(schema: Schema, rows: list[dict[str, Any]]) -> Table:
    """A table whose columns not given are empty: zeros or ''."""
    blank: Mapping[str, Any] = {key: "" if f.dtype == "str" else 0 for key, f in schema.fields.items()}
    return schema.table([{**blank, **row} for row in rows])


@pytest.fixture
def scenarios() -> tuple[study.SimulateScenario, study.ProfileScenario, study.TrainScenario]:
    """Of one study with three silos: simulate, profile, train."""
    config = study.parse(
        {
            "study": "test",
            "seeds": [0],
            "data": {"silos": SILOS},
            "exchange": {"codec": "none"},
            "training": {"rounds": 4},
            "simulation": {"clients": SILOS, "rounds": 2, "seed": 3},
        }
    )
    data, model, training, exchange = config.data[0], config.model[0], config.training[0], config.exchange[0]
    local = study.LocalTraining(**{key: getattr(training, key) for key in study.LocalTraining.model_fields})
    return (
        study.SimulateScenario(study="test", silos=SILOS, exchange=exchange, simulation=config.simulation[0]),
        study.ProfileScenario(
            study="test", data=data, model=model, training=local, exchange=exchange, profiling=config.profiling[0]
        ),
        study.TrainScenario(study="test", data=data, model=model, training=training, exchange=exchange, seed=0),
    )


@pytest.fixture
def profile(scenarios: tuple[Any, study.ProfileScenario, Any]) -> Artifact:
    costs = [
        {
            "silo": k,
            "steps": 10,
            "train_seconds": 1.5 * TRAIN[k],
            "alone_seconds": TRAIN[k],
            "alone_evaluate_seconds": 0.1,
            "alone_encode_seconds": 0.2,
            "decode_seconds": 0.01,
            "latency": 0.001,
            "bandwidth": BANDWIDTH[k],
        }
        for k in reversed(range(SILOS))
    ]
    silos = [{"round": 1, "silo": k, "up_bytes": UP, "down_bytes": DOWN} for k in range(SILOS)]
    server = {"aggregate_seconds": 0.002, "message_seconds": 0.0005, "bandwidth": 2e6}
    sharing = [
        {"kind": "shared", "working": k, "silo": silo, "train_seconds": 0.5} for k in range(1, 4) for silo in range(k)
    ]
    tables = {
        "nodes": filled(schemas.PROFILE_NODES, [{"rank": k, "type": "a"} for k in range(SILOS + 1)]),
        "sharing": filled(schemas.PROFILE_SHARING, sharing),
        "silos": filled(schemas.PROFILE_SILOS, silos),
        "costs": filled(schemas.PROFILE_COSTS, costs),
        "server": filled(schemas.PROFILE_SERVER, [server]),
    }
    return Artifact("profile", "test", scenarios[1].model_dump(mode="json"), None, tables)


@pytest.fixture
def run(scenarios: tuple[Any, Any, study.TrainScenario]) -> Artifact:
    """Row 0 is the initial model; round 1 is slow, as first rounds are; then 5 s, 5 s and 6 s."""
    seconds = [0.0, 50.0, 5.0, 5.0, 6.0]
    rounds = [{"round": r, "seconds": s} for r, s in enumerate(seconds)]
    silos = [
        {
            "round": r,
            "silo": k,
            "bytes_up": UP,
            "bytes_down": DOWN,
            "steps": 10,
            "arrival_seconds": 40.0 if r == 1 else TRAIN[k] + 0.5,
        }
        for r in range(1, 5)
        for k in range(SILOS)
    ]
    tables = {"rounds": filled(schemas.RUN_ROUNDS, rounds), "silos": filled(schemas.RUN_SILOS, silos)}
    return Artifact("train", "test", scenarios[2].model_dump(mode="json"), 0, tables)


def inputs(folder: Path, profile: Artifact, run: Artifact) -> dict[str, Path]:
    paths = {"profile": folder / "profile.h5", "run": folder / "run.h5"}
    artifacts.write(paths["profile"], profile)
    artifacts.write(paths["run"], run)
    return paths


def altered(scenario: study.SimulateScenario, **changes: Any) -> study.SimulateScenario:
    values = scenario.model_dump(mode="json")
    values["simulation"] |= changes
    return study.SimulateScenario(**values)


def test_the_artifact(tmp_path: Path, scenarios: tuple[Any, ...], profile: Artifact, run: Artifact) -> None:
    paths = inputs(tmp_path, profile, run)
    made = stage.run(scenarios[0], paths)
    artifacts.write(tmp_path / "simulation.h5", made)
    found = artifacts.read(tmp_path / "simulation.h5", "simulate")
    assert list(found) == ["rounds", "summary", "timeline", "validation", "validation_parts"]
    assert found.seed == 3
    assert found.inputs == {"profile": profile.content_digest(), "run": run.content_digest()}
    for name, schema in (
        ("rounds", schemas.SIMULATION_ROUNDS),
        ("summary", schemas.SIMULATION_SUMMARY),
        ("timeline", schemas.SIMULATION_TIMELINE),
        ("validation", schemas.SIMULATION_VALIDATION),
    ):
        assert list(found.tables[name]) == list(schema.fields)
    assert list(found["rounds"]["round"]) == [1, 2]
    summary = found["summary"].iloc[0]
    assert summary["engine"].startswith("fluid: exact")
    assert (summary["up_bytes"], summary["down_bytes"]) == (UP, DOWN)
    assert summary["round_seconds"] == pytest.approx(found["rounds"]["seconds"].mean())
    assert summary["epoch_seconds"] == pytest.approx(summary["round_seconds"])
    assert (summary["updates"], summary["staleness"], summary["departures"]) == (6, 0, 0)
    assert summary["update_rate"] == pytest.approx(3 / summary["epoch_seconds"])
    timeline = found["timeline"]
    assert sorted(timeline["client"]) == [0, 1, 2]
    assert (np.diff(timeline[["dispatched", "downloaded", "computed", "arrived"]].to_numpy()) > 0).all()
    assert timeline["arrived"].is_monotonic_increasing


@pytest.mark.parametrize(
    ("scheduler", "rounds"),
    [
        ("async", 24),
        ({"name": "buffered", "buffer": 4}, 6),
        ({"name": "compass", "q_min": 2, "q_max": 10}, None),
    ],
)
def test_other_schedulers_are_given_as_much_work(
    tmp_path: Path, scenarios: tuple[Any, ...], profile: Artifact, run: Artifact, scheduler: Any, rounds: int | None
) -> None:
    changes = {"scheduler": scheduler, "clients": 8, "rounds": 3}
    made = stage.run(altered(scenarios[0], **changes), inputs(tmp_path, profile, run))
    summary = made["summary"].iloc[0]
    # compass gives out 2 to 10 of the profile's 10 steps
    assert 24 <= summary["updates"] < 24 + 8 if rounds else 24 < summary["updates"] < 5 * 24 + 8
    assert summary["epoch_seconds"] <= made["rounds"]["end"].iloc[-1] * 8 / 24 * (1 + 1e-12)
    assert rounds in (None, len(made["rounds"]))
    assert made["rounds"]["clients"].sum() == summary["updates"]
    assert summary["staleness"] > 0


def test_mishaps_of_the_study(tmp_path: Path, scenarios: tuple[Any, ...], profile: Artifact, run: Artifact) -> None:
    paths = inputs(tmp_path, profile, run)

    def seconds(**changes: Any) -> float:
        return float(stage.run(altered(scenarios[0], clients=40, **changes), paths)["summary"]["epoch_seconds"].iloc[0])

    plain = seconds()
    assert seconds(stragglers=0.1, straggler_factor=20.0) > 4 * plain
    assert seconds(stragglers=0.1, straggler_factor=1.0) == plain
    assert seconds(slots=1) > plain
    away = stage.run(altered(scenarios[0], clients=40, present=5.0, absent=1.0, rounds=5), paths)
    assert away["summary"]["departures"].iloc[0] > 10
    assert away["rounds"]["clients"].min() < 40


def test_training_varies_as_it_did_alone_in_the_profile(profile: Artifact, run: Artifact) -> None:
    assert variation(profile) is None  # nothing was timed there
    rows = [
        {"kind": "alone", "repeat": r, "silo": k, "train_seconds": t * (1 + k)}
        for k in range(SILOS)
        for r, t in enumerate([1.0, 2.0, 4.0])
    ]
    tables = {**profile.tables, "sharing": filled(schemas.PROFILE_SHARING, rows)}
    varied = Artifact("profile", "test", profile.scenario, None, tables)
    assert sorted(variation(varied)) == [0.5] * 3 + [1.0] * 3 + [2.0] * 3


@pytest.mark.parametrize(("target", "epochs"), [(0.5, 1.0), (0.6, 3.0), (0.91, np.inf), (0.1, 0.0)])
def test_updates_to_an_accuracy(run: Artifact, target: float, epochs: float) -> None:
    """Accuracy by round 0.1, 0.5, -, 0.7, 0.6; every silo sends one update a round."""
    accuracy = [0.1, 0.5, np.nan, 0.7, 0.6]
    rounds = [{"round": r, "accuracy": a} for r, a in enumerate(accuracy)]
    tables = {**run.tables, "rounds": filled(schemas.RUN_ROUNDS, rounds)}
    assert epochs_to(Artifact("train", "test", run.scenario, 0, tables), target) == epochs


def test_compression_pays_below_the_break_even() -> None:
    """A client alone on a link of that bandwidth takes as long either way."""
    raw = 1e6
    workload = Workload(np.ones(1), 0.3, 0, 2e5, 3e5, decode_seconds=0.1, load_seconds=0.05, downlink_seconds=0.02)
    bandwidth = break_even(workload, 2 * raw) * 1e6 / 8
    star = Star(np.inf, np.inf, np.array([bandwidth]), 0.0)
    coded = simulate(workload, star, make_scheduler({"name": "sync"}, 1, 0)).seconds
    plain = simulate(Workload(np.ones(1), 0, 0, raw, raw), star, make_scheduler({"name": "sync"}, 1, 0)).seconds
    assert coded == pytest.approx(plain, rel=1e-12)
    assert np.isnan(break_even(workload, 1e5))


def test_uncompressed_bytes_of_both_ways(run: Artifact) -> None:
    """Four rounds of three silos; the first model is at the silos already."""
    rounds = [{"round": r, "raw_down": 0 if r < 2 else 3 * 600} for r in range(5)]
    updates = run["silos"].assign(raw_up=500)
    tables = {
        "rounds": filled(schemas.RUN_ROUNDS, rounds),
        "silos": filled(schemas.RUN_SILOS, updates.to_dict("records")),
    }
    assert raw_both_ways(Artifact("train", "test", run.scenario, 0, tables)) == 500 + 450


def test_a_buffer_beyond_the_clients_is_refused_in_the_study() -> None:
    with pytest.raises(InputError, match=r"buffer: 9 is refused: .* give at most 4"):
        study.parse({"study": "t", "simulation": {"clients": 4, "scheduler": {"name": "buffered", "buffer": 9}}})


def test_round_times_are_those_of_the_drawn_population(
    tmp_path: Path, scenarios: tuple[Any, ...], profile: Artifact, run: Artifact
) -> None:
    scenario = altered(scenarios[0], clients=50, server_bandwidth=10.0, client_bandwidth=2.0)
    found = stage.run(scenario, inputs(tmp_path, profile, run))
    draw = np.random.default_rng(3)
    train = 2.0 * draw.lognormal(0, 0.5, 50)
    bandwidth = 250_000 * draw.lognormal(0, 0.5, 50)
    workload = Workload(train, 0.2, 0.1, UP, DOWN, 0.01, 0.002, 0.0005)
    result = simulate(workload, Star(1.25e6, 1.25e6, bandwidth, 0.01), make_scheduler({"name": "sync"}, 2, 0))
    np.testing.assert_allclose(found["rounds"]["end"], [r.end for r in result.rounds], rtol=1e-12)
    assert "validation" not in list(found)


def test_two_runs_have_the_same_content(
    tmp_path: Path, scenarios: tuple[Any, ...], profile: Artifact, run: Artifact
) -> None:
    paths = inputs(tmp_path, profile, run)
    first, second = (stage.run(scenarios[0], paths) for _ in range(2))
    assert not artifacts.differences(first, second)
    assert first.content_digest() == second.content_digest()
    np.testing.assert_array_equal(first["rounds"]["end"], second["rounds"]["end"])


def test_times_follow_the_profile_but_the_content_does_not(
    tmp_path: Path, scenarios: tuple[Any, ...], profile: Artifact, run: Artifact
) -> None:
    """A second profiling measures other times; the digest that says what was computed stays."""
    first = stage.run(scenarios[0], inputs(tmp_path, profile, run))
    profile.tables["costs"]["alone_seconds"].values[:] *= 1.1
    second = stage.run(scenarios[0], inputs(tmp_path, profile, run))
    assert (second["rounds"]["end"] > first["rounds"]["end"]).all()
    assert first.content_digest() == second.content_digest()


def test_predicted_against_measured(profile: Artifact, run: Artifact) -> None:
    table = validation(profile, run)["validation"]
    rows = dict(zip(table["quantity"].values, range(4), strict=True))
    assert list(rows) == ["round", "arrival of silo 0", "arrival of silo 1", "arrival of silo 2"]
    measured = table["measured"].values
    np.testing.assert_array_equal(measured, [5.0, 1.5, 2.5, 4.5])
    # silo 2, uncontended: two messages of 0.5 ms before its own, latency twice, 9,000 bytes, its work, and its message
    # taken in
    alone = 4 * 0.0005 + 2 * 0.001 + 9000 / 1e6 + 4.0 + 0.1 + 0.2
    assert table["no_contention"].values[3] == pytest.approx(alone, rel=1e-12)
    # the round: three updates to decode and fold
    assert table["no_contention"].values[0] == pytest.approx(alone + 3 * 0.012, rel=1e-12)
    assert (table["predicted"].values >= table["no_contention"].values).all()
    np.testing.assert_allclose(table["error"].values, table["predicted"].values / measured - 1)


def test_without_rounds_the_time_between_aggregations_is_compared(profile: Artifact, run: Artifact) -> None:
    """Silos of 1, 2 and 4 s and what else their rounds take: four aggregations in about four seconds."""
    scenario = copy.deepcopy(run.scenario)
    scenario["training"]["scheduler"] = {"name": "async"}
    found = validation(profile, Artifact("train", "test", scenario, 0, run.tables))["validation"]
    table = {key: column.values for key, column in found.items()}
    assert list(table["quantity"]) == ["time between aggregations"]
    assert table["measured"][0] == pytest.approx((50 + 5 + 5 + 6) / 4)
    assert 0.5 < table["predicted"][0] < 1.2


def test_what_the_profile_cannot_explain_is_added_to_every_silo(profile: Artifact, run: Artifact) -> None:
    """Both runs have the same messages here, so the prediction is the profile's own round, to the last digit."""
    before = validation(profile, run)["validation"]["predicted"].values
    profile.tables["server"]["round_seconds"].values[:] = 5.0
    after = validation(profile, run)["validation"]["predicted"].values
    assert after[0] == pytest.approx(5.0, rel=1e-12)
    np.testing.assert_allclose(after - before, unexplained(profile), rtol=1e-9)
    profile.tables["server"]["round_seconds"].values[:] = 4.0  # less than training takes: nothing to add
    assert unexplained(profile) == 0


def test_a_shared_link_slows_the_deployment(profile: Artifact, run: Artifact) -> None:
    run.tables["silos"]["bytes_up"].values[:] = 10_000_000
    profile.tables["costs"]["alone_seconds"].values[:] = 1.0
    table = validation(profile, run)["validation"]
    assert table["predicted"].values[0] > 1.3 * table["no_contention"].values[0]


def test_evaluations_count_as_often_as_they_happen(
    scenarios: tuple[Any, ...], profile: Artifact, run: Artifact
) -> None:
    assert deployment(profile, run)[0].evaluate_seconds[0] == 0.1
    run.scenario["training"]["evaluate_every"] = 4
    assert deployment(profile, run)[0].evaluate_seconds[0] == 0  # the median round has none
    assert population(profile, run, scenarios[0].simulation)[0].evaluate_seconds[0] == 0.025


def test_one_round_is_better_than_none(profile: Artifact, run: Artifact) -> None:
    run.tables = {
        name: {
            key: artifacts.Column(column.field, column.values[table["round"].values <= 1])
            for key, column in table.items()
        }
        for name, table in run.tables.items()
    }
    assert validation(profile, run)["validation"]["measured"].values[0] == 50


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("model",), {"name": "cnn"}, "model"),
        (("data", "silos"), 7, "data"),
        (("training", "batch_size"), 99, r"training\.batch_size"),
        (("training", "local_epochs"), 9, r"training\.local_epochs"),
        (("exchange", "codec"), {"name": "sz3"}, r"exchange\.codec"),
    ],
)
def test_a_profile_of_other_work_is_refused(
    tmp_path: Path,
    scenarios: tuple[Any, ...],
    profile: Artifact,
    run: Artifact,
    path: tuple[str, ...],
    value: Any,
    named: str,
) -> None:
    profile.scenario = copy.deepcopy(profile.scenario)
    place = profile.scenario
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InputError, match=rf"the profile was measured with {named} .* give the profile of the run's"):
        stage.run(scenarios[0], inputs(tmp_path, profile, run))


def test_a_run_of_another_scenario_is_refused(
    tmp_path: Path, scenarios: tuple[Any, ...], profile: Artifact, run: Artifact
) -> None:
    paths = inputs(tmp_path, profile, run)
    values = scenarios[0].model_dump(mode="json")
    with pytest.raises(InputError, match=r"has 3 silos where the scenario has 5"):
        stage.run(study.SimulateScenario(**{**values, "silos": 5}), paths)
    other = study.SimulateScenario(**{**values, "exchange": {"codec": "sz3", "bound": 0.1}})
    with pytest.raises(InputError, match=r"was made with exchange\.codec .* give the scenario's own run"):
        stage.run(other, paths)


def test_inputs_are_named(tmp_path: Path, scenarios: tuple[Any, ...], profile: Artifact, run: Artifact) -> None:
    paths = inputs(tmp_path, profile, run)
    with pytest.raises(InputError, match="simulate needs the input 'run'"):
        stage.run(scenarios[0], {"profile": paths["profile"]})
    with pytest.raises(ArtifactError, match="is a 'train' artifact where a 'profile' one is needed"):
        stage.run(scenarios[0], {"profile": paths["run"], "run": paths["run"]})


def test_an_unknown_engine_or_scheduler_is_refused_in_the_study() -> None:
    for key, value in (("engine", "simgrit"), ("scheduler", "synk"), ("server_bandwidth", 0), ("client_bandwidth", -1)):
        with pytest.raises(InputError, match=f"simulation.{key}"):
            study.parse({"study": "test", "simulation": {key: value}})


def test_a_profile_without_bandwidth_is_refused(profile: Artifact, run: Artifact) -> None:
    profile.tables["costs"]["bandwidth"].values[:] = 0.0
    with pytest.raises(InputError, match=r"client_bandwidth: 0 for client 0 is refused|server_up: 0"):
        deployment(profile, run)


def test_files_say_who_the_clients_are(
    tmp_path: Path, scenarios: tuple[Any, ...], profile: Artifact, run: Artifact
) -> None:
    """A table of devices with as many rows as clients is taken row by row; an edit after planning is refused."""
    devices, bandwidths = tmp_path / "devices.csv", tmp_path / "bandwidths.csv"
    devices.write_text("bandwidth,speed,latency\n8,1,0.1\n16,2,0.2\n80,4,0.3\n")
    bandwidths.write_text("time,factor,client\n0,1,server\n5,0.5,server\n0,2,1\n")
    files = {"devices": str(devices), "bandwidth_trace": str(bandwidths), "files_digest": ""}
    simulation = altered(scenarios[0], **files, straggler_clients="1-2", straggler_factor=3.0).simulation
    workload, star = population(profile, run, simulation)
    np.testing.assert_allclose(workload.train_seconds, [2.0, 3.0, 1.5])  # median 2 s, speeds 1, 2, 4; 1 and 2 straggle
    np.testing.assert_allclose(star.client_bandwidth, [1e6, 2e6, 1e7])
    np.testing.assert_allclose(star.latency, [0.1, 0.2, 0.3])
    assert [(c.time, c.client, c.factor) for c in star.changes] == [(0, -1, 1), (5, -1, 0.5), (0, 1, 2)]
    more, _ = population(profile, run, altered(scenarios[0], **files, clients=50).simulation)
    assert set(more.train_seconds) == {2.0, 1.0, 0.5}
    devices.write_text("speed\n1\n")
    with pytest.raises(InputError, match=r"devices.csv or .* has changed since the study was planned; plan it again"):
        population(profile, run, simulation)


def test_absences_come_from_a_trace(
    tmp_path: Path, scenarios: tuple[Any, ...], profile: Artifact, run: Artifact
) -> None:
    trace = tmp_path / "absences.csv"
    trace.write_text("client,left,returned\n0,0.1,\n2,0.2,0.5\n")
    scenario = altered(scenarios[0], absence_trace=str(trace), files_digest="", events=True, rounds=1)
    found = stage.run(scenario, inputs(tmp_path, profile, run))
    assert found["summary"]["departures"][0] == 2
    events = found["events"]
    gone = events[events.event.isin(["left", "returned"])]
    assert [*zip(gone.time, gone.event, gone.client, strict=True)] == [
        (0.1, "left", 0),
        (0.2, "left", 2),
        (0.5, "returned", 2),
    ]


def test_the_log_tells_each_task(tmp_path: Path, scenarios: tuple[Any, ...], profile: Artifact, run: Artifact) -> None:
    found = stage.run(altered(scenarios[0], events=True), inputs(tmp_path, profile, run))
    events = found["events"]
    assert events.time.is_monotonic_increasing
    each = dict.fromkeys(("dispatched", "downloaded", "computed", "arrived", "folded"), 2 * SILOS)
    assert events.event.value_counts().to_dict() == {**each, "aggregated": 2}
    np.testing.assert_allclose(events.time[events.event == "aggregated"], found["rounds"]["end"])


def test_whatever_was_measured_can_be_overridden(scenarios: tuple[Any, ...], profile: Artifact, run: Artifact) -> None:
    override = {key: 3.5 for key in study.Override.model_fields if key.endswith("_seconds")}
    override |= {"up_bytes": 7, "down_bytes": 8, "steps": 4.0, "goodput_factor": 0.5, "tcp_gamma": 1e9}
    override |= {"latency_factor": 2.0, "weight_s": 3.0}
    assert set(override) == set(study.Override.model_fields)
    scenario = altered(scenarios[0], override=override, compute_spread=0.0, latency_spread=0.3)
    workload, star = population(profile, run, scenario.simulation)
    names = {"model_seconds": "load_seconds"}
    for key, value in override.items():
        owner: Any = star if key in ("goodput_factor", "tcp_gamma", "latency_factor", "weight_s") else workload
        np.testing.assert_array_equal(np.unique(getattr(owner, names.get(key, key))), [value])
    assert len(np.unique(star.latency)) == SILOS


def test_a_platform_file_excludes_what_it_replaces(tmp_path: Path) -> None:
    path = tmp_path / "p.xml"
    path.write_text("<platform/>")
    engine = {"name": "simgrid", "platform": str(path)}
    with pytest.raises(InputError, match="a platform file is its own network, always there: remove sites, present"):
        study.parse({"study": "t", "simulation": {"engine": engine, "present": 9.0}})
    with pytest.raises(InputError, match=r"the file .*no\.xml' cannot be read .* check the path"):
        study.parse({"study": "t", "simulation": {"engine": {**engine, "platform": str(tmp_path / "no.xml")}}})


def test_the_parts_of_a_round_say_which_cost_is_off(profile: Artifact, run: Artifact) -> None:
    """Silo 2 arrives last; it trained 1 s longer than profiled, and saving took 0.4 s that the profile did not see."""
    own = run.tables["silos"]["silo"].values == 2
    for key, seconds in {
        "train_seconds": 5.0,
        "evaluate_seconds": 0.1,
        "encode_seconds": 0.2,
        "busy_seconds": 5.7,
        "arrival_seconds": 5.8,
    }.items():
        run.tables["silos"][key].values[own] = seconds
    table = validation(profile, run)["validation_parts"]
    rows = dict(zip(table["part"].values, table["difference"].values, strict=True))
    assert rows["training"] == pytest.approx(-1)
    assert rows["the rest of a silo's work: saving, packing"] == pytest.approx(-0.4)
    assert [rows["evaluation"], rows["encoding the update"]] == pytest.approx([0, 0], abs=1e-12)
    assert rows["decoding and folding at the server"] == pytest.approx(3 * 0.012)
    assert table["measured"].values[5] == pytest.approx(0.1)  # transfers
    arrival = validation(profile, run)["validation"]["predicted"].values[3]
    assert table["predicted"].values[:6].sum() == pytest.approx(arrival, rel=1e-12)


def test_ranks_that_share_cores_slow_each_other_down(profile: Artifact, run: Artifact) -> None:
    """On two cores three ranks take 1.5 times as long: 1, 2 and 4 s of training, and 0.3 s of the rest in each."""
    times = profile.tables["sharing"]
    times["train_seconds"].values[:] = np.where(times["working"].values == 3, 0.75, 0.5)
    found = validation(profile, run)
    rows = found["validation"]
    # all until silo 0 has done its 1.3 s, after 1.95 s; then two ranks on two cores
    ends = [1.95, 1.95 + 1.0, 1.95 + 3.0]
    np.testing.assert_allclose(rows["predicted"].values[1:], ends, atol=0.02)
    np.testing.assert_allclose(rows["no_contention"].values[1:], [1.3, 2.3, 4.3], atol=0.02)
    parts = dict(
        zip(found["validation_parts"]["part"].values, found["validation_parts"]["predicted"].values, strict=True)
    )
    assert parts["training"] == pytest.approx(4.0 * (1.95 + 3.0) / 4.3, rel=0.01)


def test_nodes_of_one_type_are_slowed_down_alike(profile: Artifact) -> None:
    """Silos 0 and 2 on node 1, which was not measured and is of node 0's type; node 2 is of no known one."""
    profile.tables["costs"]["node"].values[:] = [1, 2, 1]  # in the fixture's order: silos 2, 1, 0
    nodes = [{"rank": k, "node": k, "type": "a" if k < 2 else "b"} for k in range(3)]
    tables = {**profile.tables, "nodes": filled(schemas.PROFILE_NODES, nodes)}
    times = tables["sharing"]
    times["train_seconds"].values[:] = 0.5 * times["working"].values
    cores = shared_cores(Artifact("profile", "test", profile.scenario, None, tables))
    assert list(cores.node) == [1, 2, 1]
    for one in cores.slowdown:
        np.testing.assert_allclose(one, [1.0, 2.0, 3.0])
