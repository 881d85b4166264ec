from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from report_cases import (
    ACCURACY,
    NONE,
    PROVENANCE,
    ROUNDS,
    SCALE,
    SEEDS,
    SILOS,
    SZ3,
    TRAINING,
    collect_scenario,
    simulate,
    train,
    whole_study,
    written,
)

from fedbound import artifacts, load, schemas
from fedbound.errors import ArtifactError, InputError
from fedbound.report import collect, labels


def test_every_table_is_there_with_the_rows_of_all_artifacts(collected: artifacts.Artifact) -> None:
    lengths = {name: len(collected[name]) for name in collected}
    assert lengths == {
        "scenarios": 27,
        "runs": 9,
        "rounds": 9 * (ROUNDS + 1),
        "silos": 9 * ROUNDS * SILOS,
        "evaluations": 9 * (ROUNDS + 1) * SILOS,
        "bounds": 3,
        "probes": 15,
        "decision": 1,
        "profile_codec": 8,
        "profile_costs": 8,
        "profile_server": 2,
        "profile_link": 4,
        "profile_messages": 8,
        "profile_sharing": 14,
        "profile_utilisation": 8,
        "simulations": 6,
        "simulation_rounds": 12,
        "simulation_timeline": 18,
        "validation": 2 * (1 + SILOS),
        "validation_parts": 2,
        "private_runs": 0,  # nothing was noised
        "privacy": 9,
        "private_training": 0,
        "run_audits": 0,  # no run was audited
        "mechanisms": 9,
        "settings": 3,
        "comparisons": 2,
        "pareto": 3,
        "links": 2 * SILOS,  # on the measured link
        "link_advice": 1,  # an exact exchange has none
        "recommendation": 8,
        "jobs": 27,
        "provenance": 27 * len(PROVENANCE),
    }


def test_runs_hold_each_artifacts_keys_and_figures(collected: artifacts.Artifact) -> None:
    runs = collected["runs"].set_index("stem")
    assert len(runs) == 9
    for codec, setting, bound in (
        ("none", "uncompressed", ""),
        ("sz3", "sz3 calibrated", "calibrated"),
        ("loose", "sz3 1", "1"),
    ):
        for seed in SEEDS:
            row = runs.loc[f"algorithm-fedavg_codec-{codec}_seed-{seed}_t0"]
            assert (row.setting, row.bound, row.seed) == (setting, bound, seed)
            assert (row.codec, row.algorithm, row["mode"]) == (
                "none" if codec == "none" else "sz3",
                "fedavg",
                "delta",
            )
            assert row.accuracy == ACCURACY[codec][seed]
    assert (runs.context == "").all()
    assert (runs.problem == "").all()


def test_the_calibrated_bound_comes_from_the_artifact_that_the_run_read(collected: artifacts.Artifact) -> None:
    runs = collected["runs"]
    np.testing.assert_array_equal(runs.bound_value[runs.bound == "calibrated"], [SCALE] * 3)
    np.testing.assert_array_equal(runs.bound_value[runs.bound == "1"], [1.0] * 3)
    assert runs.bound_value[runs.bound == ""].isna().all()


@pytest.mark.parametrize(("name", "source"), collect.SOURCES.items())
def test_columns_keep_values_unit_description_and_measured(
    name: str, source: collect.Source, collected: artifacts.Artifact, inputs: dict[str, Path]
) -> None:
    """Exact: each table is the concatenation, stem by stem, of the tables it came from."""
    table = collected.tables[name]
    for key, field in source.schema.fields.items():
        assert table[key].field == field
    stems = table["stem"].values
    whole = 0
    for stem in dict.fromkeys(stems):
        origin = load(inputs[f"{source.stage}/{stem}"]).tables[source.table]
        for key in source.schema.fields:
            np.testing.assert_array_equal(table[key].values[stems == stem], origin[key].values)
        whole += len(next(iter(origin.values())).values)
    assert whole == len(stems)
    assert whole or name in ("private_runs", "run_audits")  # test_private.py has private runs; no run here was audited


def test_a_simulation_joins_the_run_it_simulates(collected: artifacts.Artifact) -> None:
    simulations = collected["simulations"]
    assert set(simulations.run) == {f"algorithm-fedavg_codec-{codec}_seed-0_t0" for codec in ("none", "sz3")}
    assert set(simulations.setting[simulations.codec == "sz3"]) == {"sz3 calibrated"}
    assert sorted(simulations.clients) == [4, 4, 100, 100, 10_000, 10_000]


def test_a_long_table_is_thinned_evenly() -> None:
    schema = artifacts.Schema({"round": artifacts.Field("int64", "1", "number")})
    source = collect.Source("simulate", "rounds", schema, (), most=100)
    for rows in (1, 99, 100, 101, 12_345):
        table = schema.columns({"round": np.arange(rows)})
        one = collect.Scenario("simulate", "a", artifacts.Artifact("simulate", "s", {}, tables={"rounds": table}))
        kept = collect.concatenate(source, [one])["round"].values
        assert len(kept) == min(rows, 100)
        assert (kept[0], kept[-1]) == (0, rows - 1)
        steps = np.diff(kept)
        assert not len(steps) or steps.max() - steps.min() <= 1


def test_mean_parts_of_a_simulated_round(collected: artifacts.Artifact) -> None:
    """clients = 100, uncompressed: rounds of 10 s and 15 s, of which download takes a tenth."""
    simulations = collected["simulations"]
    one = simulations[(simulations.clients == 100) & (simulations.codec == "none")].iloc[0]
    assert one.download_seconds == pytest.approx((1.0 + 1.5) / 2, rel=1e-12)
    assert one.server_seconds == pytest.approx(0.05 * 12.5, rel=1e-12)
    assert collected.tables["simulations"]["codec_seconds"].field.measured


def test_scenarios_list_all_artifacts_with_their_digests(
    collected: artifacts.Artifact, inputs: dict[str, Path]
) -> None:
    frame = collected["scenarios"]
    assert {f"{row.stage}/{row.stem}" for row in frame.itertuples()} == inputs.keys()
    assert (frame.status == "done").all()
    for row in frame.itertuples():
        name = f"{row.stage}/{row.stem}"
        assert row.content_digest == load(inputs[name]).content_digest() == collected.inputs[name]
    private = frame[frame.mechanism == "skellam"]
    assert private.epsilon.tolist() == [0.1, 1.0, 10.0]
    assert (private.clients == 100).all()


def test_contents_are_the_same_when_only_measured_columns_change(tmp_path: Path, inputs: dict[str, Path]) -> None:
    """Law 7: two runs of one study differ in times only, and study.h5's content does not see them."""
    found = whole_study()
    first = collect.run(collect_scenario(), inputs)
    for name, artifact in found.items():
        for table in artifact.tables.values():
            for key, column in table.items():
                if column.field.measured and column.field.dtype != "str":
                    table[key] = artifacts.Column(column.field, column.values * 3)
        found[name] = dataclasses.replace(artifact, provenance={"host": "elsewhere"})
    second = collect.run(collect_scenario(), written(tmp_path, found))
    assert artifacts.differences(first, second) == []
    assert first.content_digest() == second.content_digest()
    assert first.digest() != second.digest()


def test_a_settings_name_says_what_varies_and_nothing_else(tmp_path: Path) -> None:
    faster = {"algorithm": {"name": "fedavg"}, "learning_rate": 0.1, "rounds": ROUNDS, "scheduler": {"name": "sync"}}
    slower = {**faster, "learning_rate": 0.05}
    found = {
        f"train/{rate}-{codec}": train(exchange, 0, 0.9, 1000, training=training)
        for rate, training in (("fast", faster), ("slow", slower))
        for codec, exchange in (("none", NONE), ("sz3", {**SZ3, "bound": 0.001, "bound_mode": "abs"}))
    }
    runs = collect.run(collect_scenario(), written(tmp_path, found))["runs"].set_index("stem")
    assert runs.setting["fast-none"] == "uncompressed, learning_rate=0.1"
    assert runs.setting["slow-sz3"] == "sz3 0.001 abs, learning_rate=0.05"
    assert runs.context["slow-sz3"] == "learning_rate=0.05"
    assert (runs.problem == "").all()


def test_what_is_off_in_one_run_and_on_in_another_sets_them_apart() -> None:
    """A scenario has no key of what is off."""
    summed = {**TRAINING, "reduce": True}
    keys = collect._train_keys([train(NONE, 0, 0.9, 1000, training=one) for one in (TRAINING, summed)])
    assert [one["setting"] for one in keys] == ["uncompressed, reduce=no", "uncompressed, reduce=yes"]


def test_two_settings_never_share_a_name(tmp_path: Path) -> None:
    """A list is no scalar that a label spells out; the second one gets a number."""
    found = {}
    for i, hidden in enumerate(([32], [64])):
        one = train(NONE, 0, 0.9, 1000)
        one.scenario["model"] = {"name": "mlp", "hidden": hidden}
        found[f"train/{i}"] = one
    runs = collect.run(collect_scenario(), written(tmp_path, found))["runs"]
    assert runs.setting.nunique() == 2
    assert runs.problem.nunique() == 2


def test_a_missing_artifact_is_refused_by_name(tmp_path: Path, inputs: dict[str, Path]) -> None:
    gone = tmp_path / "gone.h5"
    with pytest.raises(ArtifactError, match=r"gone\.h5 does not exist"):
        collect.run(collect_scenario(), {**inputs, "train/gone": gone})


def test_a_damaged_artifact_is_refused_by_name(tmp_path: Path, inputs: dict[str, Path]) -> None:
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(next(iter(inputs.values())).read_bytes()[:3000])
    with pytest.raises(ArtifactError, match=r"damaged\.h5"):
        collect.run(collect_scenario(), {**inputs, "calibrate/damaged": damaged})


def test_an_artifact_of_another_study_or_stage_is_refused(tmp_path: Path, inputs: dict[str, Path]) -> None:
    other = written(tmp_path, {"train/other": train(NONE, 0, 0.9, 1000, name="elsewhere")})
    with pytest.raises(ArtifactError, match="'elsewhere'"):
        collect.run(collect_scenario(), other)
    path = inputs["privacy/mechanism-gaussian_epsilon-1_v0"]
    with pytest.raises(ArtifactError, match="'privacy' artifact where a 'train' one"):
        collect.run(collect_scenario(), {"train/wrong": path})


def test_no_inputs_and_an_unknown_stage_are_refused(inputs: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="--input plan"):
        collect.run(collect_scenario(), {})
    with pytest.raises(ArtifactError, match="'plan' names no stage"):
        collect.run(collect_scenario(), {"plan": next(iter(inputs.values()))})


def test_holes_are_rows_when_they_are_allowed(tmp_path: Path, inputs: dict[str, Path]) -> None:
    stem = "algorithm-fedavg_codec-sz3_bound-0.1_seed-7_0123456789"
    found = collect.run(collect_scenario(), {**inputs, f"train/{stem}": tmp_path / "gone.h5"}, allow_holes=True)
    hole = found["scenarios"].set_index("stem").loc[stem]
    assert (hole.status, hole.codec, hole.bound, hole.seed, hole.content_digest) == ("missing", "sz3", "0.1", 7, "")
    assert "gone.h5 does not exist" in hole.error
    assert len(found["runs"]) == 9


def test_artifacts_of_two_versions_are_not_mixed(tmp_path: Path, inputs: dict[str, Path]) -> None:
    odd = train(NONE, 9, 0.9, 1000)
    del odd.tables["rounds"]["violations"]
    paths = written(tmp_path, {"train/zz_odd": odd})
    with pytest.raises(ArtifactError, match="zz_odd has other columns in its table 'rounds'"):
        collect.run(collect_scenario(), {**inputs, **paths})


def test_artifacts_of_before_are_taken_with_other_words_and_fewer_figures(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """What a later version says better changes no number; a number that an earlier one did not write is NaN."""
    old = train(NONE, 9, 0.9, 1000)
    column = old.tables["rounds"]["bytes_up"]
    words = dataclasses.replace(column.field, description="as it was said before")
    old.tables["rounds"]["bytes_up"] = artifacts.Column(words, column.values)
    del old.tables["rounds"]["error_moments"]
    for paths in ({"train/zz_old": old}, {"train/aa_old": old}):
        found = collect.run(collect_scenario(), {**inputs, **written(tmp_path, paths)})
        rounds, (key,) = found["rounds"], paths
        assert rounds.error_moments[rounds.stem == key.removeprefix("train/")].isna().all()
        field = found.tables["rounds"]["bytes_up"].field
        assert field == schemas.RUN_ROUNDS.fields["bytes_up"]
    alone = collect.run(collect_scenario(), written(tmp_path, {"train/aa_old": old}))
    assert alone["rounds"].error_moments.isna().all()


def test_stages_that_were_not_run_leave_typed_empty_tables(tmp_path: Path) -> None:
    found = collect.run(collect_scenario(), written(tmp_path, {"train/only": train(NONE, 0, 0.9, 1000)}))
    for name, source in collect.SOURCES.items():
        assert {k: found.tables[name][k].field for k in source.schema.fields} == dict(source.schema.fields)
    assert len(found["privacy"]) == 0
    path = tmp_path / "study.h5"
    artifacts.write(path, found)
    assert artifacts.differences(artifacts.read(path, "collect"), found) == []


def test_rows_follow_stages_and_numbers_not_letters(tmp_path: Path) -> None:
    run = train(NONE, 0, 0.9, 1000)
    found = {f"simulate/clients-{clients}_x": simulate(NONE, clients, 1.0, run) for clients in (10_000, 4, 100)} | {
        "train/a_b": run
    }
    names = collect.run(collect_scenario(), written(tmp_path, found))["scenarios"].stem.tolist()
    assert names == ["a_b", "clients-4_x", "clients-100_x", "clients-10000_x"]


def test_every_new_table_is_in_the_schemas(collected: artifacts.Artifact) -> None:
    for name, schema in {
        "settings": schemas.STUDY_SETTINGS,
        "comparisons": schemas.STUDY_COMPARISONS,
        "pareto": schemas.STUDY_PARETO,
        "recommendation": schemas.STUDY_RECOMMENDATION,
        "scenarios": schemas.STUDY_SCENARIOS,
    }.items():
        assert {key: column.field for key, column in collected.tables[name].items()} == dict(schema.fields)


def test_a_downlink_like_the_uplink_is_not_said_twice() -> None:
    same = {"exchange": {"codec": {"name": "sz3"}, "downlink": {"name": "sz3"}, "bound": 0.1, "downlink_bound": 0.1}}
    assert labels.flatten(same) == {"exchange.codec.name": "sz3", "exchange.bound": 0.1}
    other = {"exchange": {**same["exchange"], "downlink": {"name": "none"}, "downlink_bound": None}}
    assert labels.flatten(other)["exchange.downlink.name"] == "none"


def test_privacy_is_asked_for_and_not_chosen_among(tmp_path: Path) -> None:
    """Runs under noise are compared with each other, not with those that protect nobody."""
    private = {**TRAINING, "privacy": {"mechanism": "gaussian", "epsilon": 4.0}}
    found = {
        "train/a": train(NONE, 0, 0.95, 1000),
        "train/b": train(NONE, 0, 0.60, 1000, training=private),
        "train/c": train(SZ3, 0, 0.60, 100, training=private),
    }
    collected = collect.run(collect_scenario(), written(tmp_path, found))
    chosen = collected["pareto"].query("chosen == 1").set_index("problem").setting
    assert len(chosen) == 2
    assert chosen.filter(like="4").str.startswith("sz3").all()


def test_the_largest_scale_is_predicted_beside_every_setting(collected: artifacts.Artifact) -> None:
    simulations, pareto = collected["simulations"], collected["pareto"].set_index("setting")
    largest = simulations[simulations.clients == simulations.clients.max()].groupby("setting").epoch_seconds.mean()
    assert len(largest) >= 2
    for setting, seconds in largest.items():
        assert pareto.loc[setting, "predicted_seconds"] == pytest.approx(seconds)


def test_samples_of_a_measurement_may_be_more_or_fewer(inputs, collected, tmp_path) -> None:
    """How many samples of the utilisation a profile took is measured: no difference between two runs of a study."""
    name = next(name for name in inputs if name.startswith("profile/"))
    one = artifacts.read(inputs[name])
    sample = dict.fromkeys(schemas.PROFILE_UTILISATION.fields, 1)

    def with_samples(count: int) -> artifacts.Artifact:
        table = schemas.PROFILE_UTILISATION.table([sample] * count)
        path = tmp_path / f"{count}.h5"
        artifacts.write(path, dataclasses.replace(one, tables={**one.tables, "utilisation": table}))
        return collect.run(collect_scenario(), {**inputs, name: path})

    few, many = with_samples(2), with_samples(5)
    assert len(many["profile_utilisation"]) - len(few["profile_utilisation"]) == 3
    assert artifacts.differences(few, many) == []
    assert few.content_digest() == many.content_digest()
