"""Federated training through DP quantization on scikit-learn's digits: what accuracy is left, at which unit of privacy.

- silo level: 300 silos of about 4 records, 650 parameters; each sends its clipped update of a few local steps. A whole
  silo's update is protected.
- record level: the same records; each record's gradient is clipped, rounded and given its share of the noise within
  its silo, silos send sums. One record is protected. What the server sums is the same as if every record were a client.
- six silos of 85,002 parameters at silo level: the noise drowns everything, so that nobody expects otherwise.

Epsilon is of all rounds together, at delta 1e-5, zero-out, every client in every round. Rounds, clip and step sizes
were chosen by hand for each case, on the same data; that choice is not accounted. The mechanisms are those of
`fedbound.privacy`; the training loop is a bench of its own, in numpy, and not `fedbound train`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedbound.bench.rows import Row, aligned, find
from fedbound.privacy.mechanisms import Release

BENCH = "private_training"
EPSILONS = (1.0, 4.0, 8.0)
DELTA = 1e-5
MECHANISMS: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "skellam": {"bits": 18},
    "ddgauss": {"bits": 18},
    "pbm": {"bits": 18},
}


@dataclass(frozen=True)
class Case:
    """One unit of privacy.

    Attributes:
        name: what it is called.
        clients: number of clients of the mechanism; 0: one per training record.
        hidden: widths of the model's hidden layers.
        rounds: releases.
        clip: L2 norm of a client's update.
        steps: local full-batch steps that make the update.
        rate: step size of local steps.
        server: factor on the mean update.
        mechanisms: names of those that are run.
        seeds: runs of each.
    """

    name: str
    clients: int
    hidden: tuple[int, ...]
    rounds: int
    clip: float
    steps: int
    rate: float
    server: float
    mechanisms: tuple[str, ...] = tuple(MECHANISMS)
    seeds: int = 3


CASES = (
    Case("silo level, 300 silos, 650 parameters", 300, (), 20, 1.0, 5, 1.0, 2.0),
    Case("record level, 1437 records, 650 parameters", 0, (), 30, 0.5, 1, 1.0, 40.0),
    Case("silo level, 6 silos, 85002 parameters", 6, (256, 256), 5, 1.0, 20, 0.5, 1.0, ("gaussian", "skellam"), 1),
)
RECORDS = 1437  # of training


def run(quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Train every case, mechanism and epsilon, several seeds; returns the rows."""
    rows: list[Row] = []
    for case in CASES:
        seeds = range(1 if quick else case.seeds)
        rows += _rows(case, "none", math.inf, [train(case, None, seed) for seed in seeds], say)
        for name in case.mechanisms:
            for epsilon in EPSILONS:
                release = calibrated(case, name, epsilon)
                rows += _rows(case, name, epsilon, [train(case, release, seed) for seed in seeds], say)
    return rows


def calibrated(case: Case, name: str, epsilon: float) -> Release:
    """The mechanism's release for all rounds of the case together."""
    from fedbound.privacy import mechanisms
    from fedbound.privacy.mechanisms import Setting

    parameters = len(Model((64, *case.hidden, 10)).start(np.random.default_rng(0)))
    setting = Setting(epsilon, DELTA, case.clients or RECORDS, parameters, case.clip, case.rounds)
    release: Release = mechanisms.get(name, **MECHANISMS[name]).calibrate(setting)
    return release


@dataclass(frozen=True)
class Outcome:
    """Accuracy on the test records, epsilon from the accountant, and bits that one client sends per coordinate."""

    accuracy: float
    epsilon: float
    bits: float


def _rows(case: Case, name: str, epsilon: float, found: list[Outcome], say: Callable[[str], None]) -> list[Row]:
    label = f"{case.name}: {name}" + (f", eps {epsilon:g}" if math.isfinite(epsilon) else "")
    accuracies = [100 * one.accuracy for one in found]
    figures = {
        "accuracy": (float(np.mean(accuracies)), "%"),
        "accuracy_sd": (float(np.std(accuracies, ddof=1)) if len(found) > 1 else math.nan, "percentage point"),
        "epsilon": (found[0].epsilon, "1"),
        "bits": (found[0].bits, "bit"),
    }
    say(f"{label}: {figures['accuracy'][0]:.1f} %")
    return [Row(BENCH, label, "", key, value, unit) for key, (value, unit) in figures.items()]


def train(case: Case, release: Release | None, seed: int) -> Outcome:
    """One training run; without a release it is not private, and clipped all the same."""
    from fedbound.privacy import transforms

    (inputs, labels), (test_inputs, test_labels) = _digits(seed)
    clients = case.clients or len(labels)
    owner = np.random.default_rng([seed, 1]).permutation(len(labels)) % clients
    model = Model((inputs.shape[1], *case.hidden, 10))
    weights = model.start(np.random.default_rng([seed, 2]))
    rng = np.random.default_rng([seed, 3])
    parts = [np.flatnonzero(owner == client) for client in range(clients)]
    for _ in range(case.rounds):
        updates = np.stack([model.update(weights, inputs[p], labels[p], case.steps, case.rate) for p in parts])
        mean = release.estimate(updates, rng) if release else transforms.clip_l2(updates, case.clip).mean(axis=0)
        weights = weights + case.server * mean
    accuracy = float((model.logits(weights, test_inputs).argmax(axis=1) == test_labels).mean())
    if release is None:
        return Outcome(accuracy, math.inf, 32.0)
    return Outcome(accuracy, release.guarantee.epsilon, release.bits)


def _digits(seed: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Training and test records: 1437 and 360; pixels scaled to unit norm by a public rule."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs = digits.data / np.linalg.norm(digits.data, axis=1, keepdims=True)
    order = np.random.default_rng([seed, 0]).permutation(len(inputs))
    rest, test = order[:RECORDS], order[RECORDS:]
    return (inputs[rest], digits.target[rest]), (inputs[test], digits.target[test])


@dataclass(frozen=True)
class Model:
    """A multilayer perceptron of ReLUs with weights in one vector; softmax regression where it has two sizes."""

    sizes: tuple[int, ...]

    def start(self, rng: np.random.Generator) -> np.ndarray:
        """Initial weights: zero for softmax regression, else He's."""
        if len(self.sizes) == 2:
            return np.zeros((self.sizes[0] + 1) * self.sizes[1])
        shapes = list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
        parts = [np.vstack([rng.normal(scale=math.sqrt(2 / a), size=(a, b)), np.zeros((1, b))]) for a, b in shapes]
        return np.concatenate([part.ravel() for part in parts])

    def _layers(self, weights: np.ndarray) -> list[np.ndarray]:
        found, at = [], 0
        for a, b in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            found.append(weights[at : at + (a + 1) * b].reshape(a + 1, b))
            at += (a + 1) * b
        return found

    def _forward(self, weights: np.ndarray, inputs: np.ndarray) -> list[np.ndarray]:
        """What every layer sees, and the logits last."""
        seen = [inputs]
        layers = self._layers(weights)
        for i, layer in enumerate(layers):
            out = seen[-1] @ layer[:-1] + layer[-1]
            seen.append(np.maximum(out, 0) if i + 1 < len(layers) else out)
        return seen

    def logits(self, weights: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """Float64 [records, classes]."""
        return self._forward(weights, inputs)[-1]

    def gradient(self, weights: np.ndarray, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Of the mean cross-entropy: float64 [parameters]."""
        seen, layers = self._forward(weights, inputs), self._layers(weights)
        e = np.exp(seen[-1] - seen[-1].max(axis=1, keepdims=True))
        back = e / e.sum(axis=1, keepdims=True)
        back[np.arange(len(labels)), labels] -= 1
        back /= len(labels)
        parts = []
        for layer, inside in zip(layers[::-1], seen[-2::-1], strict=True):
            parts.append(np.vstack([inside.T @ back, back.sum(axis=0)]).ravel())
            back = (back @ layer[:-1].T) * (inside > 0)
        return np.concatenate(parts[::-1])

    def update(
        self, weights: np.ndarray, inputs: np.ndarray, labels: np.ndarray, steps: int, rate: float
    ) -> np.ndarray:
        """What `steps` full-batch steps of `rate` change: float64 [parameters]."""
        current = weights
        for _ in range(steps):
            current = current - rate * self.gradient(current, inputs, labels)
        return current - weights


def table(rows: Sequence[Row]) -> str:
    """One line per case, mechanism and epsilon."""
    head = ("unit of privacy, mechanism", "accuracy %", "sd", "epsilon", "bits per coordinate")
    lines = []
    for case in dict.fromkeys(row.case for row in rows if row.metric == "accuracy"):
        values = [find(rows, key, case) for key in ("accuracy", "accuracy_sd", "epsilon", "bits")]
        lines.append((case, f"{values[0]:.1f}", f"{values[1]:.1f}", f"{values[2]:.3g}", f"{values[3]:.3g}"))
    return aligned(head, lines)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Accuracy against epsilon, one line per mechanism, one frame per unit."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from fedbound.report.plots import COLOURS, GREY, MARKERS

    figure, frames = plt.subplots(1, len(CASES), figsize=(13, 4), sharey=True, layout="constrained")
    for case, axes in zip(CASES, frames, strict=True):
        for index, name in enumerate(case.mechanisms):
            values = [find(rows, "accuracy", f"{case.name}: {name}, eps {epsilon:g}") for epsilon in EPSILONS]
            axes.plot(EPSILONS, values, marker=MARKERS[index], color=COLOURS[index], label=name)
        axes.axhline(find(rows, "accuracy", f"{case.name}: none"), color=GREY, label="no privacy")
        axes.set(xlabel="epsilon, all rounds", title=case.name)
        axes.legend()
    frames[0].set_ylabel("accuracy, %")
    figure.savefig(path, dpi=140)
    plt.close(figure)
