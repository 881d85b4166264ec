"""The study: what may be written, what each mistake is answered, and what the editors' schema says of it."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedbound import study as s
from fedbound.errors import InputError
from fedbound.registry import CODECS
from fedbound.study import Exchange, expand, parse
from fedbound.study_file import check_data, read_yaml
from fedbound.study_schema import json_schema

# The least that is a study in which every section says something.
MINIMAL = """
study: toy
seeds: [0, 1]
data:
  dataset: digits
  silos: [2, 4]
  partition: {name: dirichlet, alpha: [0.5, 1.0]}
model: {name: mlp, hidden: [16]}
training:
  algorithm: fedavg
  rounds: 2
exchange:
  codec: [none, sz3]
  bound: [calibrated, 0.1]
calibration:
  tolerance: 1.0
  seeds: [1, 2, 3, 4]
privacy:
  mechanism: [gaussian, laplace]
  epsilon: [1.0, 4]
profiling:
  rounds: 2
simulation:
  clients: [4, 100]
  scheduler: {name: sync, participation: [0.5, 1]}
resources:
  train: {mem_mb: 500}
report:
"""


def minimal() -> dict[str, Any]:
    return yaml.safe_load(MINIMAL)


def refusal(config: Any) -> str:
    with pytest.raises(InputError) as caught:
        parse(config)
    assert caught.value.exit_code == 2
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 600
    return said


def dump(settings: Any) -> list[Any]:
    return [one.model_dump(mode="json") for one in settings]


# ---- refusals: one sentence with key, value and mend ----------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({"trainin": {"rounds": 3}}, ["unknown key 'trainin' in the study", "did you mean 'training'?"]),
    ({1: {}}, ["unknown key '1'"]),
    ({"study": None}, ["study: None is refused", "lower-case"]),
    ({"study": "My Study"}, ["study: 'My Study' is refused", "lower-case"]),
    ({"study": "étude"}, ["study: 'étude' is refused", "lower-case"]),
    ({"study": "-a"}, ["study: '-a' is refused", "the first a letter or digit"]),
    ({"study": "../a"}, ["study: '../a' is refused"]),
    ({"study": "a" * 65}, ["is refused", "at most 64"]),
    ({"study": 7}, ["study: 7 is refused"]),
    ({"training": {"ronds": 3}}, ["unknown key 'training.ronds'", "did you mean 'rounds'?"]),
    ({"training": {"rounds": "many"}}, ["training.rounds: 'many' is refused", "valid integer"]),
    ({"training": {"rounds": 0}}, ["training.rounds: 0 is refused", "greater than or equal to 1"]),
    ({"training": {"rounds": 2.5}}, ["training.rounds: 2.5 is refused", "valid integer"]),
    ({"training": {"rounds": True}}, ["training.rounds: True is refused", "give a number"]),
    ({"training": {"rounds": []}}, ["training.rounds: the list is empty", "give at least one value or remove the key"]),
    ({"training": {"rounds": [3, None]}}, ["training.rounds: None is refused"]),
    ({"training": {"optimizer": "sdg"}}, ["training.optimizer: 'sdg' is refused", "'sgd' or 'adam'"]),
    ({"training": {"learning_rate": float("inf")}}, ["training.learning_rate: inf is refused", "finite"]),
    ({"training": [1]}, ["training: [1] is refused", "write a mapping of keys", "rounds"]),
    ({"training": "fast"}, ["training: 'fast' is refused", "write a mapping"]),
    ({"training": {"algorithm": "fedavgg"}}, ["training.algorithm: unknown algorithm 'fedavgg'", "'fedavg'"]),
    ({"training": {"algorithm": None}}, ["training.algorithm: an algorithm is a name", "possible: "]),
    ({"training": {"scheduler": {"participation": 1}}}, ["training.scheduler", "with the key 'name'"]),
    ({"exchange": {"codec": "sz4"}}, ["exchange.codec: unknown codec 'sz4'", "did you mean 'sz"]),
    ({"exchange": {"codec": []}}, ["exchange.codec: the list is empty"]),
    ({"exchange": {"codec": {"name": "sz3", "predictr": 1}}}, ["exchange.codec", "unknown key 'predictr'"]),
    ({"exchange": {"codec": "sz3", "bound": -1}}, ["exchange: the bound -1 of codec 'sz3' must be above 0"]),
    ({"exchange": {"codec": "sz3", "bound": 0}}, ["exchange: the bound 0 of codec 'sz3'", "use the codec 'none'"]),
    ({"exchange": {"codec": "sz3", "bound": float("nan")}}, ["exchange.bound: nan is refused", "finite"]),
    ({"exchange": {"codec": "sz3", "bound": "calbrated"}}, ["exchange.bound: 'calbrated' is refused", "'calibrated'"]),
    (
        {"exchange": {"codec": "ebq", "bound_mode": "ratio", "bound": 0.1}},
        ["exchange: ", "the ratio 0.1 of codec 'ebq' must be above 1"],
    ),
    ({"exchange": {"bound_mode": "relative"}}, ["exchange.bound_mode: 'relative' is refused", "'rel', 'abs'"]),
    ({"exchange": {"error_feedback": "maybe"}}, ["exchange.error_feedback: 'maybe' is refused", "boolean"]),
    ({"calibration": {"tolerance": 0}}, ["calibration.tolerance: 0 is refused", "greater than 0"]),
    ({"calibration": {"seeds": [1, 2, 3]}}, ["calibration.seeds: [1, 2, 3] is refused", "at least 4 items"]),
    ({"calibration": {"seeds": [1, 2, 3, 2]}}, ["calibration: the seeds [1, 2, 3, 2] repeat one", "give different"]),
    ({"calibration": {"seeds": [1, 2, -3, 4]}}, ["calibration.seeds.2: -3 is refused"]),
    ({"calibration": {"codec": "lossless"}}, ["calibration: the codec 'lossless' has no error bound", "try 'ebq'"]),
    ({"calibration": {"smallest": 1, "largest": 0.5}}, ["calibration: smallest (1) must be below largest (0.5)"]),
    ({"seeds": [0, 0]}, ["seeds: [0, 0] repeats a seed", "give different"]),
    ({"seeds": []}, ["seeds: the list is empty", "give at least one"]),
    ({"seeds": -1}, ["seeds: -1 is refused", "whole numbers from 0"]),
    ({"seeds": [True]}, ["seeds: True is refused"]),
    ({"seeds": [2**32]}, ["seeds: 4294967296 is refused"]),
    ({"seeds": None}, ["seeds: None is refused"]),
    ({"seeds": [[1]]}, ["seeds: [1] is refused"]),
    ({"data": {"validation": 0.5, "test": 0.5}}, ["data: validation (0.5) and test (0.5)", "less than 1"]),
    ({"data": {"validation": 0.7, "test": 0.3}}, ["data: validation (0.7) and test (0.3)"]),
    ({"data": {"silos": 0}}, ["data.silos: 0 is refused", "greater than or equal to 1"]),
    ({"data": {"dataset": "digit"}}, ["data.dataset: unknown data set 'digit'", "did you mean 'digits'?"]),
    ({"data": {"partition": "dirichlt"}}, ["data.partition: unknown partition 'dirichlt'", "'dirichlet'"]),
    ({"data": {"partition": {"name": "dirichlet", "alpha": 0}}}, ["data.partition", "alpha: 0 is refused"]),
    ({"model": "mpl"}, ["model: unknown model 'mpl'", "did you mean 'mlp'?"]),
    ({"model": None}, ["model: a model is a name"]),
    ({"model": []}, ["model: the list is empty"]),
    ({"model": {"name": "mlp", "hidden": [0]}}, ["model: model 'mlp': hidden", "0 is refused"]),
    ({"privacy": {"mechanism": "gausian"}}, ["privacy.mechanism: unknown privacy mechanism", "'gaussian'"]),
    (
        {"training": {"privacy": {"mechanism": "sqkr", "epsilon": 1}}},
        ["training.privacy", "'sqkr' is refused in training (every message is private by itself", "'skellam'"],
    ),
    (
        {"training": {"privacy": {"mechanism": "smm", "epsilon": 1}}},
        ["'smm' is refused in training (only its single release is accounted"],
    ),
    ({"privacy": {"delta": 1}}, ["privacy.delta: 1 is refused", "less than 1"]),
    ({"profiling": {"message_sizes": [64, -1]}}, ["profiling.message_sizes.1: -1 is refused"]),
    ({"simulation": {"engine": "fluidd"}}, ["simulation.engine: unknown simulation engine", "did you mean 'fluid'?"]),
    ({"simulation": {"clients": 10**9}}, ["simulation.clients: 1000000000 is refused", "10000000"]),
    ({"resources": {"train": {"memory": 3}}}, ["unknown key 'resources.train.memory'", "mem_mb"]),
    ({"resources": {"train": {"mem_mb": [1, 2]}}}, ["resources.train.mem_mb: [1, 2] is refused", "integer"]),
    ({"report": {"titel": "x"}}, ["unknown key 'report.titel'", "did you mean 'title'?"]),
    ({"training": [{"rounds": 3}, {"ronds": 3}]}, ["unknown key 'training[1].ronds'", "did you mean 'rounds'?"]),
    ({"training": [{"rounds": 3}, 3]}, ["is refused", "write a mapping"]),
    ({"report": [{"title": "a"}]}, ["report: ", "is refused", "write a mapping"]),
    ({"report": [1]}, ["report: [1] is refused", "write a mapping"]),
    ({"report": {1: 2}}, ["unknown key 'report.1'"]),
    ({"profiling": False}, ["profiling: off is refused", "say simulation: off too"]),
    ({"privacy": True}, ["privacy: True is refused", "write a mapping"]),
    ({"training": False}, ["training: False is refused", "write a mapping"]),
]


@pytest.mark.parametrize(("change", "parts"), REFUSED, ids=lambda case: re.sub(r"\W+", "-", str(case))[:50])
def test_each_mistake_is_one_sentence_with_key_value_and_mend(change: dict[str, Any], parts: list[str]) -> None:
    said = refusal({"study": "toy", **change})
    for part in parts:
        assert part in said, said


@pytest.mark.parametrize("config", [None, [], "study", 3])
def test_what_is_no_mapping_is_refused(config: Any) -> None:
    assert "a study is a mapping of keys" in refusal(config)


@given(
    st.dictionaries(
        st.sampled_from(s.KEYS) | st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.sampled_from(["name", "rounds", "codec", "bound", "seeds"]) | st.integers(), inner)
            ),
            max_leaves=5,
        ),
        max_size=3,
    )
)
def test_nothing_that_yaml_can_say_raises_anything_else(config: dict[Any, Any]) -> None:
    with contextlib.suppress(InputError):
        parse({"study": "toy", **config})


# ---- YAML -----------------------------------------------------------------------------------------------------------


def yaml_refusal(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("study: a\ndata: {silos: 3\n", ", line 3: "),
        ("study: a\n  data: 3\n", ", line 2: mapping values are not allowed here; mend the YAML there"),
        ("study: a\nseeds: 1\nstudy: b\n", ", line 3: the key 'study' is written twice; remove one"),
        ("study: a\ndata:\n  silos: 1\n  silos: 2\n", ", line 4: the key 'silos' is written twice"),
        ("data: {silos: 1, silos: 2}", ", line 1: the key 'silos' is written twice"),
        ("", "holds no study"),
        ("- a\n- b\n", "holds no study"),
        ("study: !!python/object/apply:os.system ['true']\n", ", line 1: could not determine a constructor"),
        ("!!map [1]\n", ", line 1: expected a mapping node"),
        ("? [a, b]\n: 1\n", ", line 1: found unhashable key"),
        ("study: 2020-13-45\n", "is no YAML text"),
        (b"study: \xff\xfe\n", "is no YAML text"),
        ("study: a\x07\n", "special characters are not allowed"),
        ("study: a\n---\nstudy: b\n", "but found another document"),
        ("a: " * 3 + "1", "mapping values are not allowed"),
        ("[" * 2000, "is no YAML text"),
    ],
    ids=lambda case: str(case)[:30],
)
def test_yaml_mistakes_name_file_and_line(text: str | bytes, part: str, tmp_path: Path) -> None:
    assert part in yaml_refusal(tmp_path / "study.yaml", text)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the study '.*none\.yaml': No such file or directory; check"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="Is a directory"):
        read_yaml(tmp_path)


def test_anchors_and_merges_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: &base {silos: 2, seed: 1}\ndata:\n  <<: *base\n  silos: 3\n")
    assert read_yaml(tmp_path / "a.yaml") == {"base": {"silos": 2, "seed": 1}, "data": {"silos": 3, "seed": 1}}


def test_reading_gives_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(MINIMAL)
    assert read_yaml(tmp_path / "a.yaml") == minimal()


def test_numbers_without_a_point_are_numbers() -> None:
    """YAML 1.1 reads 1e-3 as text."""
    assert yaml.safe_load("1e-3") == "1e-3"
    exchange = parse({"study": "a", "exchange": {"codec": "sz3", "bound": "1e-3"}}).exchange[0]
    assert exchange.bound == 0.001


# ---- sweeps ---------------------------------------------------------------------------------------------------------


def test_sweeps_multiply_in_the_order_written() -> None:
    found = expand(s.Data, {"silos": [4, 2], "seed": [1, 0]}, "data")
    assert [(one.silos, one.seed) for one in found] == [(4, 1), (4, 0), (2, 1), (2, 0)]


def test_sweeps_of_options_are_sweeps_of_the_part() -> None:
    found = expand(s.Data, {"partition": ["iid", {"name": "dirichlet", "alpha": [0.1, 1]}]}, "data")
    assert [(one.partition["name"], one.partition.get("alpha")) for one in found] == [
        ("iid", None),
        ("dirichlet", 0.1),
        ("dirichlet", 1.0),
    ]


def test_repeats_and_other_spellings_are_one_setting() -> None:
    assert len(expand(s.Data, {"silos": [4, 4, "4", 4.0]}, "data")) == 1
    assert len(expand(s.Data, {"dataset": ["digits", {"name": "digits"}]}, "data")) == 1
    assert len(parse({"study": "a", "model": ["mlp", {"name": "mlp"}]}).model) == 1


def test_a_list_that_is_a_value_is_no_sweep() -> None:
    assert [one.seeds for one in expand(s.Calibration, {"seeds": [1, 2, 3, 4]}, "calibration")] == [[1, 2, 3, 4]]


@pytest.mark.parametrize("raw", [None, {}])
def test_an_empty_section_has_its_defaults(raw: Any) -> None:
    assert expand(s.Training, raw, "training") == [s.Training()]


def test_a_section_may_be_a_list_of_sweeps(validator: jsonschema.Draft202012Validator) -> None:
    config = {
        "study": "a",
        "exchange": [
            {"codec": "none"},
            {"codec": "sz2", "mode": "weights", "error_feedback": False, "bound": [0.01, 0.1]},
            {"codec": "ebq", "bound": 0.1},
            {"codec": "none"},
        ],
    }
    validator.validate(config)
    found = [(one.codec["name"], one.mode, one.bound, one.error_feedback) for one in parse(config).exchange]
    assert found == [
        ("none", "delta", None, None),
        ("sz2", "weights", 0.01, False),
        ("sz2", "weights", 0.1, False),
        ("ebq", "delta", 0.1, True),
    ]


def test_a_section_switched_off_has_no_settings(validator: jsonschema.Draft202012Validator) -> None:
    config = {"study": "a", "privacy": False, "profiling": False, "simulation": False}
    validator.validate(config)
    found = parse(config)
    assert found.privacy == found.profiling == found.simulation == ()
    assert parse({"study": "a", "simulation": False}).profiling == (s.Profiling(),)


def test_an_exact_codec_has_one_setting_whatever_the_bound() -> None:
    found = parse(
        {
            "study": "a",
            "exchange": {
                "codec": ["none", "sz3"],
                "bound": ["calibrated", 0.1],
                "bound_mode": ["rel", "abs"],
                "error_feedback": [True, False],
            },
        }
    ).exchange
    by_name = [(one.codec["name"], one.bound, one.bound_mode, one.error_feedback) for one in found]
    assert by_name == [
        ("none", None, None, None),
        ("sz3", "calibrated", None, True),
        ("sz3", "calibrated", None, False),
        ("sz3", 0.1, "rel", True),
        ("sz3", 0.1, "rel", False),
        ("sz3", 0.1, "abs", True),
        ("sz3", 0.1, "abs", False),
    ]


CODEC_NAMES = [name if name != "libpressio" else "libpressio:zfp" for name in CODECS.available()]


@pytest.mark.parametrize("codec", CODEC_NAMES)
@pytest.mark.parametrize("bound", ["calibrated", 0.1, None])
@pytest.mark.parametrize("bound_mode", ["rel", "abs", None])
@pytest.mark.parametrize("error_feedback", [True, False, None])
def test_an_exchange_read_back_is_the_same(codec: str, bound: Any, bound_mode: Any, error_feedback: Any) -> None:
    one = Exchange(codec=codec, bound=bound, bound_mode=bound_mode, error_feedback=error_feedback)
    assert Exchange(**json.loads(one.model_dump_json())) == one
    assert (one.bound is None) == (not CODECS.entry(one.codec["name"]).factory.error_bounded)
    assert (one.bound_mode is None) == (one.bound in (None, "calibrated"))
    assert (one.error_feedback is None) == CODECS.entry(one.codec["name"]).factory.lossless


def test_null_says_what_an_absent_key_says() -> None:
    absent = Exchange(codec="sz3")
    assert Exchange(codec="sz3", bound=None, bound_mode=None, error_feedback=None) == absent


def test_settings_are_json_and_read_back() -> None:
    study = parse(minimal())
    for key, model in s.SWEPT.items():
        for one in getattr(study, key):
            plain = one.model_dump(mode="json")
            assert json.loads(json.dumps(plain, allow_nan=False)) == plain
            assert model(**plain) == one
    for model_ in study.model:
        assert json.loads(json.dumps(model_, allow_nan=False)) == model_


def test_the_minimal_study_has_all_its_settings() -> None:
    study = parse(minimal())
    assert study.seeds == (0, 1)
    assert [len(getattr(study, key)) for key in s.SWEPT] == [4, 1, 3, 1, 4, 1, 4]
    assert study.resources.train.mem_mb == 500
    assert study.report == s.Report()


# ---- what only the data show ----------------------------------------------------------------------------------------


def test_more_silos_than_the_data_can_fill_are_refused() -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(InputError, match=r"data\.silos: 600 silos cannot share the 1797 samples .* use at most 599"):
        check_data(parse({"study": "a", "data": {"silos": 600, "partition": "iid"}}))
    check_data(parse({"study": "a", "data": {"silos": 599, "partition": "iid"}}))


# ---- JSON Schema ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(json.loads(json.dumps(schema, allow_nan=False)))


def test_the_schema_takes_the_minimal_study(validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(minimal())
    validator.validate({"study": "a"})


def test_the_schema_takes_the_studies_of_the_repository(
    validator: jsonschema.Draft202012Validator, repository: Path
) -> None:
    files = sorted((repository / "config").glob("**/*.yaml"))
    assert files
    for path in files:
        validator.validate(read_yaml(path))
        if "studies" not in path.parts:  # those are read on top of what they change: tests/workflow/test_studies.py
            parse(read_yaml(path))


def test_the_schema_has_all_keys_with_description_and_default() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["required"] == ["study"]
    assert set(schema["properties"]) == set(s.KEYS)
    for key, model in {**s.SWEPT, **s.FIXED}.items():
        section = schema["properties"][key]
        assert section["description"]
        assert set(section["properties"]) == set(model.model_fields)
        for name, one in section["properties"].items():
            assert "default" in one, (key, name)
            assert one.get("description") or key == "resources", (key, name)
    assert schema["properties"]["training"]["properties"]["rounds"]["default"] == 20
    assert schema["properties"]["training"]["properties"]["rounds"]["description"] == "rounds of training"


def test_the_schema_names_every_part_and_its_options() -> None:
    schema = json_schema()
    names, short = schema["$defs"]["codec"]["anyOf"][:2]
    assert names["enum"] == [name for name in CODECS.available() if name != "libpressio"]
    assert short == {"type": "string", "pattern": "^libpressio:.+$"}
    assert set(schema["$defs"]["codec.sz3"]["properties"]) == {"name", *CODECS.entry("sz3").options.model_fields}
    assert schema["$defs"]["codec.sz3"]["description"] == CODECS.entry("sz3").summary


BAD = [
    {"trainin": {}},
    {"training": {"ronds": 3}},
    {"training": {"rounds": 0}},
    {"training": {"rounds": "many"}},
    {"training": {"rounds": []}},
    {"training": {"algorithm": "fedavgg"}},
    {"exchange": {"codec": {"name": "sz3", "predictr": 1}}},
    {"exchange": {"codec": {"predictor": 1}}},
    {"data": {"partition": {"name": "dirichlet", "alpha": 0}}},
    {"calibration": {"seeds": [1, 2]}},
    {"seeds": [0, 0]},
    {"seeds": []},
    {"seeds": -1},
    {"study": "My Study"},
    {"resources": {"train": {"memory": 3}}},
    {"resources": {"train": {"mem_mb": [1, 2]}}},
    {"report": {"titel": "x"}},
    {"model": "mpl"},
    {"privacy": True},
    {"training": False},
]


@pytest.mark.parametrize("change", BAD, ids=lambda case: re.sub(r"\W+", "-", str(case))[:50])
def test_the_schema_and_the_study_refuse_the_same_typos(
    change: dict[str, Any], validator: jsonschema.Draft202012Validator
) -> None:
    config = {"study": "toy", **change}
    assert not validator.is_valid(config)
    refusal(config)
