"""Whole runs of every algorithm against references that share nothing with it but local SGD: a few lines of numpy each.

Uncompressed runs are deterministic, so "the accuracy of the reference within noise" is sharpened to the same model, for
three seeds. The ADMM methods are held against a known optimum in test_algorithms.py, FedCompass against a reference of
its own in test_compass_reference.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from reference_cases import OPTIONS, ROUNDS, SILOS, Plain, assembly

from fedbound.federation.assembly import Assembly


def synchronous(plain: Plain, name: str) -> np.ndarray:
    """All in step: the papers' server rules."""
    o, w = OPTIONS.get(name, {}), plain.start.copy()
    share = plain.samples / plain.samples.sum()
    m, v = np.zeros_like(w), np.full_like(w, o.get("tau", 0.0) ** 2)
    for t in range(ROUNDS):
        updates = np.stack([plain.update(w, k, t, o.get("mu", 0.0)) for k in range(SILOS)])
        d = share @ updates
        if name in ("fedavg", "fedprox"):
            w = w + d
        elif name == "fedavgm":
            m = o["momentum"] * m + d
            w = w + o["server_learning_rate"] * m
        elif name == "qffl":
            f = np.array([plain.loss(w, k) for k in range(SILOS)])
            grads = -o["lipschitz"] * updates
            h = (grads**2).sum(axis=1) + o["lipschitz"] * f  # q = 1
            w = w - f @ grads / h.sum()
        else:
            m = o["beta1"] * m + (1 - o["beta1"]) * d
            v = {
                "fedadagrad": v + d**2,
                "fedadam": o["beta2"] * v + (1 - o["beta2"]) * d**2,
                "fedyogi": v - (1 - o["beta2"]) * d**2 * np.sign(v - d**2),
            }[name]
            w = w + o["server_learning_rate"] * m / (np.sqrt(v) + o["tau"])
    return w


def one_after_the_other(plain: Plain, fold: Callable[[np.ndarray, list], np.ndarray], buffer: int) -> np.ndarray:
    """Silos answer in turn: `fold(w, [(model trained on, update, staleness), ...])` after every `buffer` updates."""
    w, version = plain.start.copy(), 0
    held = dict.fromkeys(range(SILOS), (w, 0))
    queue, waiting = list(range(SILOS)), []
    while version < 3 * ROUNDS:
        k = queue.pop(0)
        base, trained = held[k]
        waiting.append((k, base, plain.update(base, k, trained), trained))
        if len(waiting) == buffer:
            w = fold(w, [(base, update, version - trained) for _, base, update, trained in waiting])
            version += 1
            for k in sorted(one[0] for one in waiting):  # they are sent off again by number
                held[k] = (w, version)
                queue.append(k)
            waiting = []
    return w


def agrees(made: Assembly, reference: np.ndarray, tolerance: float) -> None:
    found = made.server(made.local()).run().vector
    start = Plain(made).start
    assert np.abs(reference - start).max() > 0.01  # it has moved
    np.testing.assert_allclose(found, reference, rtol=0, atol=tolerance)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "qffl"])
def test_synchronous_algorithms(name: str, seed: int) -> None:
    made = assembly(name, seed)
    agrees(made, synchronous(Plain(made), name), 2e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fedasync(seed: int) -> None:
    made = assembly("fedasync", seed, "async", 3 * ROUNDS)

    def mix(w: np.ndarray, updates: list) -> np.ndarray:
        ((base, update, tau),) = updates
        alpha = 0.7 * (1 + tau) ** -0.5
        return (1 - alpha) * w + alpha * (base + update)

    agrees(made, one_after_the_other(Plain(made), mix, 1), 2e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fedbuff(seed: int) -> None:
    made = assembly("fedbuff", seed, {"name": "buffered", "buffer": 2}, 3 * ROUNDS)

    def mean(w: np.ndarray, updates: list) -> np.ndarray:
        return w + 0.9 * sum((1 + tau) ** -0.5 * update for _, update, tau in updates) / len(updates)

    agrees(made, one_after_the_other(Plain(made), mean, 2), 2e-5)
