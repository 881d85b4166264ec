from __future__ import annotations

import pytest

from fedbound import study
from fedbound.errors import InputError
from fedbound.privacy import ranking
from fedbound.privacy.mechanisms import Setting

SETTING = Setting(2.0, 1e-5, 50, 64, 1.0)
CHEAP = [{"name": name} for name in ("gaussian", "shifted_layered", "skellam", "sqkr", "grr", "laplace")]


def test_ranking_keeps_to_trust_bits_and_norm():
    found, refused = ranking.rank(SETTING, "central server", choices=CHEAP)
    assert [one.choice["name"] for one in found][2:] == ["skellam", "sqkr", "grr"]
    assert {one.choice["name"] for one in found[:2]} == {"gaussian", "shifted_layered"}
    assert refused == {"laplace": "clips the L1 norm"}
    assert [one.mse for one in found] == sorted(one.mse for one in found)
    assert 1 <= found[0].over_floor < 1.0001
    found, refused = ranking.rank(SETTING, "secure aggregation", choices=CHEAP)
    assert found[0].choice["name"] == "skellam"
    assert refused["gaussian"] == "needs trust: central server"
    found, refused = ranking.rank(SETTING, "local", 0.05, choices=CHEAP)
    assert [one.choice["name"] for one in found] == ["sqkr", "grr"]
    found, refused = ranking.rank(SETTING, "central server", 8, choices=CHEAP)
    assert found[0].choice["name"] == "shifted_layered"
    assert refused["gaussian"] == "sends 32 bits per coordinate"
    assert all(one.bits <= 8 for one in found)


def test_fields_follow_the_budget_and_what_cannot_be_is_told():
    choices = {choice["name"]: choice for choice in ranking._all(Setting(1.0, 1e-5, 10, 48, 1.0), 12)}
    assert choices["skellam"] == {"name": "skellam", "bits": 9}  # 64 of 48 coordinates are sent
    assert choices["sqkr"] == {"name": "sqkr"}
    assert choices["d2pfed"] == {"name": "d2pfed"}
    found, refused = ranking.rank(SETTING, "secure aggregation", choices=[{"name": "skellam", "bits": 3}])
    assert found == []
    assert "bits are too few" in refused["skellam"]


def test_rounds_count_in_the_floor():
    setting = Setting(2.0, 1e-5, 50, 64, 1.0, 9)
    found, refused = ranking.rank(setting, "central server", choices=CHEAP[:3])
    assert 1 <= found[0].over_floor < 1.0001
    assert refused == {}


def test_the_table_is_markdown():
    shown = ranking.table(*ranking.rank(SETTING, "local", choices=CHEAP[2:4]))
    lines = shown.splitlines()
    assert lines[2].startswith("| `sqkr` | local | replace | 2 |")
    assert lines[-1] == "- `skellam`: needs trust: secure aggregation"
    shown = ranking.table(*ranking.rank(SETTING, "local", norm="L1", choices=CHEAP))
    assert "- `gaussian`, `shifted_layered`, `skellam`, `sqkr`, `grr`: clips the L2 norm" in shown.splitlines()
    shown = ranking.table(*ranking.rank(SETTING, "central server", norm="L1", choices=CHEAP[-1:]))
    assert "| – | 1 | 32 |" in shown  # the central Gaussian answers another question


def test_biased_mechanisms_are_ranked_by_the_error_of_the_estimate_over_its_gain():
    """QMGeo shrinks all it sends: its raw error, for clients whose mean is small, would come first."""
    choices = [{"name": "sqkr"}, {"name": "qmgeo"}]
    found, _ = ranking.rank(SETTING, "local", choices=choices)
    assert [one.choice["name"] for one in found] == ["sqkr", "qmgeo"]
    assert found[0].gain == 1
    assert found[1].gain < 0.5
    debiased = ranking.rank(SETTING, "local", choices=[{"name": "qmgeo", "debias": True}])[0][0]
    assert debiased.gain > 0.99
    assert debiased.mse > found[0].mse


def test_a_shuffler_does_not_stand_in_for_secure_aggregation():
    choices = [{"name": "cldp", "aggregate": "shuffle"}, {"name": "skellam"}, {"name": "grr", "aggregate": "shuffle"}]
    found, refused = ranking.rank(SETTING, "shuffler", choices=choices)
    assert [one.choice["name"] for one in found] == ["grr"]
    assert refused == {"cldp": "clips the L1 norm", "skellam": "needs trust: secure aggregation"}
    found, refused = ranking.rank(SETTING, "secure aggregation", choices=choices)
    assert [one.choice["name"] for one in found] == ["skellam"]
    assert refused["grr"] == "needs trust: shuffler"


def test_a_study_is_ranked_for_its_own_questions(monkeypatch):
    monkeypatch.setattr(ranking, "_all", lambda *_: CHEAP)
    found = study.parse(
        {
            "study": "t",
            "privacy": {"mechanism": ["gaussian", "skellam"], "epsilon": [1, 4], "clients": 50, "dimension": 32},
            "report": {"trust": "local", "bits": 1},
        }
    )
    said = []
    text = ranking.of_study(found, said.append)
    assert said[0] == "question 1 of 2 (epsilon 1, L2 norm): sqkr"
    assert len(said) == len(set(said)) > 2
    questions = [line for line in text.splitlines() if line.startswith("50 clients, 32 coordinates, L2 norm")]
    assert ["epsilon 1 at" in questions[0], "epsilon 4 at" in questions[1], len(questions)] == [True, True, 2]
    assert "| `sqkr`" in text
    assert "- `skellam`: needs trust: secure aggregation" in text
    with pytest.raises(InputError, match="privacy: the study says off"):
        ranking.of_study(study.parse({"study": "t", "privacy": False}))


def test_a_box_is_ranked_among_what_clips_coordinates():
    choices = {choice["name"]: choice for choice in ranking._all(SETTING, 8, "Linf")}
    boxes = {name for name, choice in choices.items() if choice.get("norm") == "Linf"}
    assert boxes == {"grr", "brr", "mvu", "rqm", "noisy_sign", "qmgeo"}
    few = [choices[name] for name in ("grr", "noisy_sign", "sqkr")]
    found, refused = ranking.rank(SETTING, "local", norm="Linf", choices=few)
    assert {one.choice["name"]: one.norm for one in found} == {"grr": "Linf", "noisy_sign": "Linf"}
    assert refused == {"sqkr": "clips the L2 norm"}
