"""The stage on a small federation: its answer is supported by its probes, and bad input is one sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedbound import artifacts, study
from fedbound.calibration import stage
from fedbound.calibration.probes import Prober
from fedbound.calibration.shape import Shape
from fedbound.errors import InputError
from fedbound.exchange import bounds as rules
from fedbound.exchange.layout import Layout
from fedbound.models.state import TensorSpec
from fedbound.registry import MODELS


def scenario(members: int = 3, **calibration: object) -> study.CalibrateScenario:
    settings = {"rounds": 3, "rule": "range", "smallest": 0.01, "largest": 1.0, "per_decade": 1, "tolerance": 8.0}
    settings |= calibration
    return study.CalibrateScenario(
        study="t",
        data=study.Data(silos=members),
        model={"name": "mlp", "hidden": [48]},
        training=study.LocalTraining(local_epochs=2, learning_rate=0.1),
        mode="delta",
        error_feedback=True,
        downlink="ebq",
        downlink_bound="calibrated",
        bound_mode=None,
        calibration=study.Calibration(**settings),
    )


def test_stage_is_deterministic_and_its_answer_is_supported_by_its_probes(tmp_path):
    a, b = (stage.run(scenario(), {}) for _ in range(2))
    assert a.content_digest() == b.content_digest()
    probes, decision, bounds = a["probes"], a["decision"].iloc[0], a["bounds"]
    confirming = probes[(probes["scale"] == decision["scale"]) & (probes.purpose == "confirm")]
    assert len(confirming) == decision["seeds"] >= 3
    assert confirming["drop"].mean() == pytest.approx(decision["mean_drop"])
    assert decision["mean_drop"] < decision["upper_drop"] <= 8.0
    assert decision["largest"] >= decision["scale"]
    assert decision["upper_test"] > decision["mean_drop"]
    assert set(probes[probes.purpose == "search"].seed) == {101}
    assert set(bounds["scale"]) == {decision["scale"]}
    assert set(bounds.silo) == {-1}
    for column in ("bound", "sensitivity", "predicted_bits", "measured_bits"):
        assert (bounds[column] > 0).all()
    assert decision["bytes"] == probes.bytes_up.sum() + probes.bytes_down.sum()
    aggregate = a["aggregate"]
    assert (aggregate.largest <= aggregate.bound * (1 + 1e-6)).all()
    assert set(aggregate["round"]) == {1, 2, 3}
    artifacts.write(tmp_path / "b.h5", a)
    assert artifacts.read(tmp_path / "b.h5", "calibrate").content_digest() == a.content_digest()


@pytest.mark.parametrize(("tensors", "silos"), [("sensitivity", "needs"), ("rate", "weights")])
def test_spread_over_tensors_and_silos_reaches_the_exchange(tensors, silos):
    artifact = stage.run(scenario(tensors=tensors, silos=silos, largest=0.1), {})
    bounds, scale = artifact["bounds"], artifact["decision"].scale[0]
    up = bounds[bounds.direction == "up"]
    assert set(up.silo) == {-1, 0, 1, 2}
    assert set(bounds.silo[bounds.direction == "down"]) == {-1}
    factor = artifact["silos"].set_index("silo").factor
    common = up[up.silo == -1].set_index("tensor")
    assert common["scale"].nunique() > 1
    for silo in range(3):
        own = up[up.silo == silo].set_index("tensor")
        np.testing.assert_allclose(own["scale"], common["scale"] * factor[silo])
        assert factor[silo] == 1 or (own["bound"] != common["bound"]).all()
    assert scale in set(artifact["probes"]["scale"])


def test_a_shapes_rows_are_what_the_exchange_reads():
    layout = Layout([TensorSpec("w", (64, 64), "float32"), TensorSpec("b", (64,), "float32")])
    table = Shape({"w": 2.0}, {1: 0.5}).table(layout, 0.1)
    artifact = artifacts.Artifact("calibrate", "t", {}, None, {"bounds": table})
    exchange = study.Exchange.model_validate({"codec": "ebq"})
    values = np.array([0.0, 1.0], np.float32)
    for direction, silo, wanted in (("up", 0, 0.2), ("up", 1, 0.1), ("down", -1, 0.2)):
        rule = rules.rule(exchange, layout, silo, artifact, direction)
        assert rule.absolute(layout.blocks[0], values) == pytest.approx(wanted)
        assert rule.absolute(layout.blocks[1], values) == pytest.approx(wanted / 2)


@pytest.mark.parametrize(("rule", "mode"), [("range", "rel"), ("std", "std")])
def test_probes_are_the_runs_of_training(rule, mode):
    """A uniform shape gives the numbers of the same bound written in the study, and remembers them."""
    prober = Prober(scenario(rule=rule))
    found = prober.probe(0.1, 5)
    exchange = study.Exchange.model_validate({"codec": "ebq", "bound": 0.1, "bound_mode": mode})
    same = prober.assembly(0.0, 5)
    same.exchange = exchange
    server = same.server(same.local())
    assert np.array_equal(found.model.vector, server.run().vector)
    assert found.bytes_up == sum(row["bytes_up"] for row in server.records.rows["silos"])
    assert prober.probe(0.1, 5) is found
    assert found.accuracy == pytest.approx(np.average(found.by_silo, weights=np.bincount(prober.owner)))


def test_standard_deviations_are_the_default_rule():
    artifact = stage.run(scenario(rule="std", smallest=0.1, largest=1.0), {})
    bounds = artifact["bounds"]
    assert set(bounds.rule) == {"std"} == {artifact["decision"]["rule"][0]} == {study.Calibration().rule}
    assert study.Calibration().ends == (0.01, 10.0)
    assert study.Calibration(rule="range", largest=0.5).ends == (0.001, 0.5)
    # bits per value follow the bound in standard deviations, whatever the tensor
    assert bounds.predicted_bits[bounds.direction == "up"].between(0.5, 5).all()


def test_rules_may_not_mix_in_one_direction():
    layout = Layout([TensorSpec("w", (64, 64), "float32")])
    shapes = [Shape(rule=rule).table(layout, 0.1) for rule in ("range", "std")]
    mixed = {
        key: replace(column, values=np.concatenate([column.values, shapes[1][key].values]))
        for key, column in shapes[0].items()
    }
    artifact = artifacts.Artifact("calibrate", "t", {}, None, {"bounds": mixed})
    with pytest.raises(InputError, match="unknown rule"):
        rules.rule(study.Exchange.model_validate({"codec": "ebq"}), layout, 0, artifact, "up")


def test_a_spread_factor_that_nothing_meets_refuses():
    with pytest.raises(InputError, match="calibration.smallest"):
        stage.run(scenario(spread_factor=1e-6, largest=0.1), {})


def test_refusals_are_one_sentence():
    with pytest.raises(InputError, match="calibration.smallest"):
        stage.run(scenario(smallest=0.4, largest=0.5, tolerance=0.01), {})
    with pytest.raises(InputError, match="data.silos: 1 silo"):
        stage.run(scenario(members=1), {})
    s = scenario()
    with pytest.raises(InputError, match="data.validation"):
        stage.run(s.model_copy(update={"data": study.Data(silos=3, validation=0.0)}), {})
    with pytest.raises(InputError, match="learning_rate"):
        stage.run(s.model_copy(update={"training": study.LocalTraining(learning_rate=1e38)}), {})


def test_what_silos_reveal_can_be_noised(monkeypatch):
    """Entropy and accuracy reach the factors, and the artifact, as they were released."""
    monkeypatch.setattr(np.random, "default_rng", lambda seed=7, generator=np.random.default_rng: generator(seed))
    plain, noised = (stage.survey(Prober(scenario(silos="needs", **more))) for more in ({}, {"reveal_epsilon": 0.5}))
    assert [fact.samples for fact in noised.facts] == [fact.samples for fact in plain.facts]
    assert all(a.entropy != b.entropy for a, b in zip(plain.facts, noised.facts, strict=True))
    assert noised.shape.silos != plain.shape.silos
    with pytest.raises(ValueError, match="reveal_epsilon"):
        study.Calibration(reveal_epsilon=1.0)


def test_fewer_seeds_than_the_test_needs_and_no_tolerance_are_refused():
    with pytest.raises(InputError, match=r"calibration.seeds: .*at least 4"):
        study.parse({"study": "t", "calibration": {"seeds": [1, 2, 3]}})
    with pytest.raises(InputError, match=r"calibration.tolerance: 0"):
        study.parse({"study": "t", "calibration": {"tolerance": 0}})


def test_a_language_model_is_calibrated_by_the_share_of_its_tokens(tmp_path):
    (tmp_path / "plain.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    dataset = {"name": "text", "path": str(tmp_path / "plain.txt"), "context": 16}
    model = MODELS.normalise({"name": "transformer", "width": 8, "heads": 2, "layers": 1})
    texts = scenario(2, rounds=1, largest=0.1, seeds=[1, 2, 3, 4], tolerance=50).model_copy(
        update={"data": study.Data(dataset=dataset, silos=2, partition="iid"), "model": model}
    )
    artifact = stage.run(texts, {})
    assert artifact["decision"].scale[0] > 0
    assert artifact["probes"].accuracy.between(0, 1).all()
    noised = texts.calibration.model_copy(update={"silos": "needs", "reveal_epsilon": 1.0})
    with pytest.raises(InputError, match=r"calibration.reveal_epsilon: 1 is refused with the data set 'text'"):
        texts.model_copy(update={"calibration": noised}).check()
