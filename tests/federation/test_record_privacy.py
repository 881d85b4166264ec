"""One record as the unit: DP-SGD in the silos, and sums of per-record gradients with noise shares."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedbound import artifacts, study
from fedbound.errors import FederationError, InputError
from fedbound.federation import stage
from fedbound.federation.assembly import Assembly
from fedbound.models import per_example, training
from fedbound.privacy import accounting, rounds
from fedbound.privacy.sums import Members


def scenario(count: int = 2, model=None, exchange=None, data=None, algorithm="fedavg", local=None, **privacy):
    sums = privacy.get("mechanism", "gaussian") != "gaussian"
    one_step = {"local_epochs": 1, "momentum": 0.0} if sums else {"local_epochs": 1}
    settings = {"unit": "record", "clip": 1.0, "noise_multiplier": 1.0, **privacy}
    return study.TrainScenario(
        study="t",
        data=study.Data(silos=3, **(data or {})),
        model=model or {"name": "mlp", "hidden": []},
        training=study.Training(rounds=count, algorithm=algorithm, privacy=settings, **one_step, **(local or {})),
        exchange=study.Exchange(**(exchange or {"codec": "none"})),
        seed=5,
    )


def assemble(s) -> Assembly:
    return Assembly(s.data, s.model, s.training, s.exchange, s.seed)


def test_gradients_are_those_of_one_record_at_a_time():
    made = assemble(scenario(model={"name": "mlp", "hidden": [7]}))
    module, split = made.module(), made.silos.silos[0].train
    x, y = torch.from_numpy(np.array(split.x[:5])).float(), torch.from_numpy(np.array(split.y[:5]))
    found = per_example.gradients(module, x, y)
    bounded = per_example.clipped(module, x, y, 0.5)
    for i in range(5):
        module.zero_grad()
        training.cross_entropy(module(x[i : i + 1]), y[i : i + 1]).backward()
        alone = {name: p.grad.clone() for name, p in module.named_parameters()}
        norm = float(torch.sqrt(sum((g.double() ** 2).sum() for g in alone.values())))
        for name, gradient in alone.items():
            torch.testing.assert_close(found[name][i], gradient, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(bounded[name][i], gradient * min(1.0, 0.5 / norm), rtol=1e-4, atol=1e-6)
        assert float(sum((g[i].double() ** 2).sum() for g in bounded.values())) <= 0.25
    with pytest.raises(FederationError, match="cannot be clipped"):
        per_example.clipped(module, torch.full_like(x, torch.nan), y, 0.5)


def test_a_step_without_noise_is_the_clipped_mean_gradients(monkeypatch):
    """Rate 1, no noise to speak of, a clip beyond all gradients: full-batch gradient descent."""
    monkeypatch.setattr(per_example, "_VALUES", 650 * 7)  # in pieces of 7 records
    made = assemble(scenario(local={"batch_size": 10_000, "momentum": 0.0}))
    split = made.silos.silos[0].train
    private, plain = made.module(), made.module()
    noise = per_example.RecordNoise(1e4, 1e-12, 1.0)
    result = per_example.train(private, split, made.training, noise, 0, np.random.default_rng(0))
    assert result.steps == 1
    assert np.isnan(result.loss)
    training.train(plain, split, made.training, 0)
    for a, b in zip(private.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_records_are_sampled_independently():
    """A count of Bin(100000, 0.2) within 5 standard deviations: false alarms below 1e-6."""
    index = per_example.sampled(100_000, 0.2, np.random.default_rng(0))
    assert abs(len(index) - 20_000) < 5 * np.sqrt(16_000)
    assert len(per_example.sampled(50, 1.0, np.random.default_rng(0))) == 50


@pytest.mark.parametrize(("multiplier", "rate", "steps", "known"), [(1.0, 0.1, 200, 9.9713), (0.8, 0.3, 20, 13.8658)])
def test_dp_sgd_is_accounted_as_known(multiplier, rate, steps, known):
    assert rounds.sgd_epsilon(multiplier, rate, steps, 1e-5) == pytest.approx(known, rel=2e-3)


def test_solved_steps_cost_the_target():
    for rate in (0.05, 1.0):
        noise = rounds.sgd_multiplier(2.0, rate, 30, 1e-5)
        assert rounds.sgd_epsilon(noise, rate, 30, 1e-5) <= 2.0 < rounds.sgd_epsilon(0.99 * noise, rate, 30, 1e-5)
    assert rounds.sgd_epsilon(1.0, 0.1, 0, 1e-5) == 0.0


def test_a_dp_sgd_run_says_the_epsilon_of_its_most_exposed_silo(tmp_path):
    s = scenario(epsilon=6.0, noise_multiplier=None, insecure_seed=True, exchange={"codec": "sz3", "bound": 0.1})
    found = stage.run(s, {}, checkpoints=tmp_path / "c", transport="local")
    made = assemble(s)
    spending = made.spending()
    assert len(set(spending.rates)) == 3
    assert 5.9 < found["rounds"]["epsilon"].values[-1] == max(spending.of_silo(i, 2) for i in range(3)) <= 6.0
    assert np.isnan(found["silos"]["train_loss"].values).all()
    again = stage.run(s, {}, checkpoints=tmp_path / "d", transport="local")
    assert artifacts.differences(found, again) == []


def test_sums_of_records_gradients_are_the_full_gradient_step():
    """28 bits and next to no noise: one server step down the mean of all records' clipped gradients."""
    s = scenario(1, mechanism="skellam", bits=28, noise_multiplier=1e-4, local={"learning_rate": 2.0})
    made = assemble(s)
    server = made.server(made.local())
    start = server.model.vector.copy()
    module = made.module()
    found = np.concatenate(
        [
            part
            for silo in made.silos.silos
            for part in per_example.vectors(
                module, silo.train, np.arange(len(silo.train)), 1.0, made.layout.slices, made.layout.size, "cpu"
            )
        ]
    )
    assert np.linalg.norm(found, axis=1).max() <= 1.0
    np.testing.assert_allclose(server.run().vector, start + 2.0 * found.mean(axis=0), atol=1e-4)


@pytest.mark.parametrize(("mechanism", "rate"), [("skellam", 0.3), ("pbm", None)])
def test_a_run_of_record_sums_is_accounted_by_record(tmp_path, mechanism, rate):
    s = scenario(mechanism=mechanism, rate=rate, bits=14 if mechanism == "pbm" else 18, noise_multiplier=20.0)
    found = stage.run(s, {}, checkpoints=tmp_path / "c", transport="local")
    made = assemble(s)
    records = sum(len(silo.train) for silo in made.silos.silos)
    assert made.private.sum.plan.members == Members(3, records)
    expected = made.private.sum.epsilon({Members(3, records): 2})
    assert found["rounds"]["epsilon"].values[-1] == pytest.approx(expected)
    if mechanism == "skellam":  # not above what the same noise costs without sampling, by hand
        p = made.private.sum.parameters
        plain = 2 * accounting.skellam_rdp(accounting.ORDERS, p.l1, p.l2, 3 * p.share_variance)
        assert expected < 0.7 * accounting.rdp_epsilon(accounting.ORDERS, plain, 1e-5)


def test_what_mixes_records_or_tells_of_them_is_refused():
    images = {"dataset": {"name": "digits"}}
    batch = scenario(model={"name": "resnet", "norm": "batch"}, data=images)
    with pytest.raises(InputError, match="batch normalisation"):
        assert assemble(batch).layout
    with pytest.raises(InputError, match="qffl.*more than the update"):
        assert assemble(scenario(algorithm="qffl")).layout
