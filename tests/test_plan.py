"""The plan: which jobs a study has, which of them an edit renames, and what a job reads."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbound import plan as plans
from fedbound import study as s
from fedbound.errors import ArtifactError, InputError
from fedbound.plan import STAGES, Job, Plan

BASE: dict[str, Any] = {
    "study": "toy",
    "seeds": [0, 1],
    "data": {"dataset": "digits", "silos": 4, "seed": 0},
    "model": "mlp",
    "training": {"rounds": 2, "learning_rate": 0.05},
    "exchange": {"codec": ["none", "sz3"], "bound": "calibrated", "mode": "delta"},
    "calibration": {"tolerance": 1.0, "rounds": 4},
    "privacy": {"mechanism": "gaussian", "epsilon": 1.0},
    "profiling": {"rounds": 2, "bound": 0.1},
    "simulation": {"clients": 4, "latency": 0.01},
    "resources": {"checkpoint_every": 1},
    "report": {"title": "A"},
}
SCENARIOS = {
    "profile": s.ProfileScenario,
    "calibrate": s.CalibrateScenario,
    "train": s.TrainScenario,
    "privacy": s.PrivacyScenario,
    "simulate": s.SimulateScenario,
    "collect": s.CollectScenario,
}
# a key, and a value that it may have beside the one in BASE
KEYS: dict[str, Any] = {
    "data.silos": 5,
    "data.seed": 7,
    "data.partition": {"name": "dirichlet", "alpha": 0.1},
    "model": {"name": "mlp", "hidden": [8]},
    "training.rounds": 3,
    "training.learning_rate": 0.1,
    "training.scheduler": {"name": "sync", "participation": 0.5},
    "exchange.codec": "lossless",
    "exchange.bound": 0.1,
    "exchange.mode": "weights",
    "exchange.error_feedback": False,
    "calibration.tolerance": 2.0,
    "privacy.mechanism": "laplace",
    "privacy.epsilon": 4.0,
    "profiling.rounds": 3,
    "profiling.bound": 0.2,
    "simulation.clients": 100,
    "simulation.latency": 0.1,
}


def planned(config: dict[str, Any]) -> Plan:
    return plans.make(s.parse(config))


def with_key(key: str, value: Any, config: dict[str, Any] = BASE) -> dict[str, Any]:
    config = copy.deepcopy(config)
    *path, last = key.split(".")
    section = config
    for part in path:
        section = section[part]
    section[last] = value
    return config


def value_of(key: str, config: dict[str, Any] = BASE) -> Any:
    section, _, last = key.partition(".")
    found = config[section] if not last else config[section].get(last)
    if found is None:
        field = s.SWEPT[section].model_fields[last]
        found = field.default
    return found


def stems(plan: Plan, *but: str) -> dict[str, set[str]]:
    return {stage: set(plan.jobs[stage]) for stage in STAGES if stage not in but}


def renamed(a: Plan, b: Plan) -> set[str]:
    """Stages of which a scenario or name differs."""
    return {stage for stage in STAGES if a.jobs[stage] != b.jobs[stage]}


def options(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    for key, value in changes.items():
        config = with_key(key.replace("__", "."), value, config)
    return config


# ---- what the base study is -----------------------------------------------------------------------------------------


def test_the_base_study_has_the_expected_jobs() -> None:
    plan = planned(BASE)
    assert {stage: len(jobs) for stage, jobs in plan.jobs.items()} == {
        "profile": 2,  # one per codec
        "calibrate": 1,
        "train": 4,  # two codecs, two seeds
        "privacy": 1,
        "simulate": 2,
        "collect": 1,
    }


def test_only_calibrated_runs_read_bounds() -> None:
    plan = planned(with_key("exchange.bound", ["calibrated", 0.1]))
    bounds = plan.paths("calibrate")
    for job in plan.jobs["train"].values():
        calibrated = job.scenario["exchange"]["bound"] == "calibrated"
        assert job.inputs == ({"bounds": bounds[0]} if calibrated else {})
        assert (job.scenario["calibration"] is not None) == calibrated
    assert sum("bounds" in job.inputs for job in plan.jobs["train"].values()) == 2
    assert len(plan.jobs["train"]) == 6


def test_no_calibration_is_planned_where_nothing_asks_for_one() -> None:
    assert planned(with_key("exchange.bound", 0.1)).jobs["calibrate"] == {}
    assert planned(with_key("exchange.codec", "none")).jobs["calibrate"] == {}


@pytest.mark.parametrize(("key", "value"), [("data.silos", 1), ("data.validation", 0.0)])
def test_what_cannot_be_calibrated_is_refused_before_any_job(key: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"^{key}: "):
        planned(with_key(key, value))


def test_simulations_read_the_profile_of_their_codec_and_the_first_seeds_run() -> None:
    plan = planned(BASE)
    for job in plan.jobs["simulate"].values():
        profile = next(p for p in plan.jobs["profile"].values() if p.path == job.inputs["profile"])
        run = next(r for r in plan.jobs["train"].values() if r.path == job.inputs["run"])
        codec = job.scenario["exchange"]["codec"]
        assert profile.scenario["exchange"]["codec"] == run.scenario["exchange"]["codec"] == codec
        assert run.scenario["seed"] == 0


def test_collect_reads_everything_else() -> None:
    plan = planned(BASE)
    job = plan.job("collect", "study")
    assert job.path == "results/toy/study.h5"
    assert set(job.inputs.values()) == {one.path for one in plan if one.stage != "collect"}
    assert set(job.inputs) == {f"{one.stage}/{one.stem}" for one in plan if one.stage != "collect"}


def test_every_input_is_the_output_of_a_job() -> None:
    plan = planned(options(BASE, exchange__bound=["calibrated", 0.1], calibration__tolerance=[1, 2]))
    outputs = {job.path for job in plan}
    assert {path for job in plan for path in job.inputs.values()} <= outputs


def test_scenarios_hold_what_their_stage_reads_and_read_back() -> None:
    for job in planned(BASE):
        scenario = SCENARIOS[job.stage](**plans.json.loads(job.scenario_json))
        assert scenario.model_dump(mode="json") == job.scenario
        assert set(job.scenario) == set(SCENARIOS[job.stage].model_fields)


def test_profiles_time_every_bounded_codec_at_the_profiling_bound() -> None:
    plan = planned(with_key("exchange.bound", ["calibrated", 0.3]))
    assert len(plan.jobs["profile"]) == 2, "codec and bound of the exchange make no profile of their own"
    for job in plan.jobs["profile"].values():
        bounded = job.scenario["exchange"]["codec"]["name"] == "sz3"
        assert job.scenario["exchange"]["bound"] == (0.1 if bounded else None)
        assert job.scenario["exchange"]["bound_mode"] == ("rel" if bounded else None)


# ---- sweeps over the calibration ------------------------------------------------------------------------------------


def test_each_calibration_has_bounds_and_runs_of_its_own() -> None:
    plan = planned(with_key("calibration.tolerance", [1.0, 2.0]))
    assert len(plan.jobs["calibrate"]) == 2
    runs = list(plan.jobs["train"].values())
    calibrated = [job for job in runs if "bounds" in job.inputs]
    assert len(calibrated) == 4  # two calibrations, two seeds
    assert len(runs) - len(calibrated) == 2, "uncompressed runs do not depend on the calibration"
    for job in calibrated:
        source = next(c for c in plan.jobs["calibrate"].values() if c.path == job.inputs["bounds"])
        assert source.scenario["calibration"] == job.scenario["calibration"]
    assert {(j.scenario["calibration"]["tolerance"], j.scenario["seed"]) for j in calibrated} == {
        (1.0, 0),
        (1.0, 1),
        (2.0, 0),
        (2.0, 1),
    }
    assert len({job.inputs["run"] for job in plan.jobs["simulate"].values()}) == 3


# ---- names stay -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("order", ["behind", "before"])
def test_a_value_turned_into_a_list_renames_nothing(key: str, order: str) -> None:
    old, new = value_of(key), KEYS[key]
    old = old if isinstance(old, list) else [old]
    swept = planned(with_key(key, [*old, new] if order == "behind" else [new, *old]))
    before = planned(BASE)
    for stage in STAGES:
        if stage != "collect":
            assert before.jobs[stage].items() <= swept.jobs[stage].items()
    added = sum(len(swept.jobs[stage]) - len(before.jobs[stage]) for stage in STAGES)
    assert added > 0, "the new value made no job"


@settings(max_examples=40)
@given(keys=st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3, unique=True))
def test_several_lists_at_once_rename_nothing(keys: list[str]) -> None:
    config = BASE
    for key in keys:
        old = value_of(key)
        config = with_key(key, [*(old if isinstance(old, list) else [old]), KEYS[key]], config)
    before, after = planned(BASE), planned(config)
    for stage in STAGES[:-1]:
        assert before.jobs[stage].items() <= after.jobs[stage].items()


@pytest.mark.parametrize("seeds", [[0, 1, 2], [0, 5, 1], [0, 2, 1, 3]])
def test_a_seed_that_is_added_makes_its_own_runs_only(seeds: list[int]) -> None:
    before, after = planned(BASE), planned(with_key("seeds", seeds))
    new = set(seeds) - {0, 1}
    assert before.jobs["train"].items() <= after.jobs["train"].items()
    added = [job for stem, job in after.jobs["train"].items() if stem not in before.jobs["train"]]
    assert {job.scenario["seed"] for job in added} == new
    assert len(added) == 2 * len(new)
    assert stems(before, "train") == stems(after, "train")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("simulation.latency", 0.5, {"simulate", "collect"}),
        ("simulation.clients", [4, 5], {"simulate", "collect"}),
        ("report.title", "B", {"collect"}),
        ("report.tolerance", 2.0, {"collect"}),
        ("privacy.epsilon", 2.0, {"privacy", "collect"}),
        ("profiling.rounds", 3, {"profile", "simulate", "collect"}),
        ("calibration.tolerance", 2.0, {"calibrate", "train", "simulate", "collect"}),
        ("training.rounds", 3, {"train", "simulate", "collect"}),
        ("training.local_epochs", 1, {"profile", "calibrate", "train", "simulate", "collect"}),
        ("data.silos", 3, {"profile", "calibrate", "train", "simulate", "collect"}),
        ("resources.checkpoint_every", 2, set()),
        ("resources.train", {"mem_mb": 9}, set()),
    ],
)
def test_an_edit_plans_the_stages_that_hang_on_it(key: str, value: Any, expected: set[str]) -> None:
    assert renamed(planned(BASE), planned(with_key(key, value))) == expected


def test_a_report_edit_keeps_the_place_of_the_study() -> None:
    before, after = planned(BASE), planned(with_key("report.title", "B"))
    assert stems(before) == stems(after)
    assert before.job("collect", "study").scenario != after.job("collect", "study").scenario


def test_another_tolerance_leaves_uncompressed_jobs_alone() -> None:
    before, after = planned(BASE), planned(with_key("calibration.tolerance", 2.0))
    for stage, key in (("train", "exchange"), ("simulate", "exchange"), ("profile", "exchange")):
        for job in before.jobs[stage].values():
            kept = job == after.jobs[stage].get(job.stem)
            assert kept == (stage == "profile" or job.scenario[key]["codec"]["name"] == "none")


def test_the_profiling_bound_does_not_concern_exact_codecs() -> None:
    before, after = planned(BASE), planned(with_key("profiling.bound", 0.2))
    for stage in ("profile", "simulate"):
        for job in before.jobs[stage].values():
            kept = job.stem in after.jobs[stage]
            assert kept == (job.scenario["exchange"]["codec"]["name"] == "none")


def test_the_order_of_keys_and_spellings_rename_nothing() -> None:
    turned = {key: BASE[key] for key in reversed(BASE)}
    assert planned(turned) == planned(BASE)
    for key, value in {
        "data.dataset": {"name": "digits"},
        "data.silos": "4",
        "training.learning_rate": "5e-2",
        "exchange.codec": ["none", {"name": "sz3"}],
        "privacy.epsilon": 1,
    }.items():
        assert planned(with_key(key, value)) == planned(BASE), key


def test_another_study_shares_no_path() -> None:
    assert not {job.path for job in planned(BASE)} & {job.path for job in planned({**BASE, "study": "other"})}


# ---- names ----------------------------------------------------------------------------------------------------------


def test_names_say_what_the_job_is() -> None:
    [job] = [
        job
        for job in planned(with_key("exchange.bound", [0.125, "calibrated"])).jobs["train"].values()
        if job.scenario["exchange"]["bound"] == 0.125 and job.scenario["seed"] == 1
    ]
    assert re.fullmatch(r"algorithm-fedavg_codec-sz3_bound-0\.125_seed-1_[0-9a-f]{10}", job.stem)
    assert job.path == f"results/toy/train/{job.stem}.h5"


def test_a_thousand_scenarios_have_valid_unique_names() -> None:
    config = options(
        BASE,
        seeds=list(range(60)),
        exchange__bound=[10.0**-k for k in range(5)],
        privacy__epsilon=[0.1 * k for k in range(1, 41)],
        simulation__clients=[10 * k for k in range(1, 101)],
    )
    jobs = list(planned(config))
    assert len(jobs) > 1000
    assert len({job.path for job in jobs}) == len(jobs)
    for job in jobs:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", job.stem)
        assert len(f".{job.stem}.h5.12345678.part") < 255
        assert job.stem == Path(job.path).stem or job.stage == "collect"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "none"),
        (1e-05, "1e-05"),
        (4.0, "4"),
        ({"name": "libpressio:sz_3/x"}, "libpressio-sz-3-x"),
        ("a b\n", "a-b-"),
        ("calibrated", "calibrated"),
    ],
)
def test_values_in_names_are_plain(value: Any, expected: str) -> None:
    assert plans._readable(value) == expected


def test_two_scenarios_of_one_name_are_never_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_digest", lambda content, length: "0" * length)
    with pytest.raises(plans.FedboundError, match="two train scenarios share the name"):
        planned(with_key("training.rounds", [2, 3]))


# ---- save and load --------------------------------------------------------------------------------------------------


def test_a_saved_plan_is_the_plan(tmp_path: Path) -> None:
    plan = planned(BASE)
    path = plan.save(tmp_path / "new" / "folder")
    loaded = Plan.load(path)
    assert loaded == plan
    assert [job.path for job in loaded] == [job.path for job in plan], "another order"
    assert [list(job.inputs.items()) for job in loaded] == [list(job.inputs.items()) for job in plan]
    assert all(isinstance(job, Job) for job in loaded)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_same_plan_is_the_same_file_and_not_touched(tmp_path: Path) -> None:
    path = planned(BASE).save(tmp_path)
    before = path.stat()
    assert planned(copy.deepcopy(BASE)).save(tmp_path) == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino
    assert planned(with_key("seeds", [0])).save(tmp_path) != path


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", None])
def test_an_altered_plan_is_refused_and_mended_by_saving(damage: bytes | None, tmp_path: Path) -> None:
    plan = planned(BASE)
    path = plan.save(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"toy", b"boy", 1) if damage is None else damage)
    with pytest.raises(ArtifactError, match=r"was altered; start snakemake again"):
        Plan.load(path)
    assert plan.save(tmp_path) == path
    assert Plan.load(path) == plan


def test_a_missing_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot read the plan .*: No such file or directory; start"):
        Plan.load(tmp_path / "none.json")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot write"):
        planned(BASE).save(tmp_path / "file")


def test_a_plan_is_frozen() -> None:
    plan = planned(BASE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.study = "other"  # type: ignore[misc]


def test_a_section_switched_off_leaves_its_stage_without_jobs() -> None:
    whole = plans.make(s.parse(BASE))
    part = plans.make(s.parse({**BASE, "privacy": False, "profiling": False, "simulation": False}))
    assert [part.jobs[stage] for stage in ("privacy", "profile", "simulate")] == [{}, {}, {}]
    assert part.jobs["train"] == whole.jobs["train"]
    assert part.jobs["calibrate"] == whole.jobs["calibrate"]
