"""The bench of ADMM under noise: its equations are the federation's, its sensitivities hold, its ceiling is one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fedbound import models, study
from fedbound.bench import admm
from fedbound.bench.rows import find
from fedbound.exchange.layout import Layout, State
from fedbound.federation import algorithms
from fedbound.federation.algorithms import Contribution
from fedbound.models import state, training

SILOS, SEED, EPSILON = 3, 1, 40.0


def clip(module: torch.nn.Module) -> None:
    torch.nn.utils.clip_grad_norm_(module.parameters(), admm.CLIP, norm_type=1)


def by_the_federation(line: admm.Line, step: float, steps: int) -> tuple[np.ndarray, float]:
    """The same run with the shipped algorithms and local training: final weights, and the gap of both ends' duals."""
    from fedbound.data import federation

    made = federation(study.Data.model_validate({"silos": SILOS, "partition": "iid"}))
    module = models.build({"name": "mlp", "hidden": []}, made.shape, made.classes, SEED)
    layout = Layout(state.specs(module))
    algorithm = algorithms.get(line.algorithm, **line.options(step))
    clients = [algorithm.client(layout) for _ in range(SILOS)]
    model = layout.flatten(state.get_state(module)).vector
    draw = np.random.default_rng([SEED, 0xAD])
    for _ in range(admm.ROUNDS):
        algorithm.begin(layout.size, SILOS)
        reference = model.copy()
        unit = draw.laplace(size=(SILOS, 65, 10))
        for number, client in enumerate(clients):
            split = made.silos[number].train
            state.set_state(module, layout.unflatten(State(reference, [])))
            hook = client.hook(module, reference)

            def step_of(module: torch.nn.Module, hook=hook) -> bool | None:
                clip(module)
                return hook(module) if hook else None

            settings = study.LocalTraining(batch_size=len(split), learning_rate=step, momentum=0.0)
            training.train(module, split, settings, 0, steps, step_of)
            clean = layout.flatten(state.get_state(module)).vector
            noise = np.concatenate([unit[number, :-1].T.ravel(), unit[number, -1]])
            sent = (clean + line.sensitivity(step, steps) / EPSILON * noise).astype(np.float32)
            extra = client.extra(reference, sent)
            if client.follows:
                client.commit(reference, clean if line.clean else sent, extra)
            about = Contribution(number, len(split), 0, reference, sent, extra=tuple(extra))
            algorithm.fold(sent - reference, about)
        algorithm.finish(model)
    duals = getattr(algorithm, "duals", {})
    gap = max((float(np.abs(duals[n] - clients[n].dual).max()) for n in duals), default=0.0)
    matrix, bias = layout.unflatten(State(model, []))
    return np.vstack([matrix.T, bias]), gap


@pytest.mark.parametrize("line", admm.LINES, ids=lambda line: line.name)
def test_the_equations_are_those_of_the_federation(line: admm.Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admm, "ROUNDS", 6)
    found = admm.train(line, (0.3, 1.0), 2, EPSILON, SILOS, 2)
    for index, step in enumerate((0.3, 1.0)):
        weights, gap = by_the_federation(line, step, 2)
        np.testing.assert_allclose(found.weights[index, SEED], weights, atol=2e-4)
        if not line.clean:
            assert gap == 0
            assert found.gap[index] == 0
        else:
            assert gap > 0.1  # APPFL's way: the noise is in one end's dual alone
            assert found.gap[index] > 0.1


@pytest.mark.parametrize(("zeta", "steps"), [(0.0, 1), (0.0, 10), (9.0, 1), (9.0, 10)])
def test_the_sensitivity_is_reached_by_the_worst_gradients_and_never_exceeded(zeta: float, steps: int) -> None:
    rho, clipped = 2.0, 0.5
    zeta *= rho
    bound = admm.admm_sensitivity(clipped, rho, zeta, steps)
    rng = np.random.default_rng(0)
    w, dual = rng.normal(size=(2, 5))

    def local(gradients: np.ndarray) -> np.ndarray:
        z = w
        for g in gradients:
            z = (rho * w + zeta * z + dual - g) / (rho + zeta)
        return z

    worst = np.zeros((steps, 5))
    worst[:, 0] = clipped
    assert np.abs(local(worst) - local(-worst)).sum() == pytest.approx(bound)
    for _ in range(50):
        a, b = (one / np.abs(one).sum(axis=1, keepdims=True) * clipped for one in rng.normal(size=(2, steps, 5)))
        assert np.abs(local(a) - local(b)).sum() <= bound * (1 + 1e-12)
    assert admm.Line("x", "fedavg").sensitivity(0.1, steps) == pytest.approx(0.2 * steps)


def test_one_local_step_of_iiadmm_tells_the_server_what_fedavg_tells_it() -> None:
    """z - w - s lambda = -s g + noise, with w and lambda known to it: another method, the same information."""
    rng = np.random.default_rng(3)
    w, dual, g, noise = rng.normal(size=(4, 6))
    for line in (line for line in admm.LINES if line.algorithm == "iiadmm"):
        step = 0.2
        rho, zeta = (line.options(step)[key] for key in ("rho", "zeta"))
        sent = (rho * w + zeta * w + dual - g) / (rho + zeta) + noise
        np.testing.assert_allclose(sent - w - step * dual, -step * g + noise)
        assert line.sensitivity(step, 1) == pytest.approx(admm.LINES[0].sensitivity(step, 1))


def test_without_noise_methods_learn_and_under_much_noise_none_exceeds_the_ceiling() -> None:
    for line in (admm.LINES[0], admm.LINES[3]):
        assert admm.train(line, (3.0,), 1, math.inf, 4, 2).test.min() > 0.85
    assert admm.ceiling(1e-3, 4, 50) == pytest.approx(math.exp(0.2) / 10)
    assert admm.ceiling(1.0, 4, 50) == 1


def test_quick_run_and_how_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admm, "ROUNDS", 3)
    rows = admm.run(True, lambda line: None)
    where = "4 silos, 1 local step, eps 0.001 a round"
    assert find(rows, "ceiling", where) == pytest.approx(10 * math.exp(0.012))
    assert 0 < find(rows, "epsilon_all_rounds", where) <= 0.003
    assert "iiadmm, zeta = 9 rho" in admm.table(rows)
    assert where in admm.table(rows)
    admm.plot(rows, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
