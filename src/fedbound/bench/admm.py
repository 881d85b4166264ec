"""Does IIADMM keep accuracy under differential privacy where FedAvg and ICEADMM do not? Method and step size apart.

APPFL publishes that it does, at epsilon = 1e-3 a round. Its noise is Laplace noise of scale sensitivity / epsilon on
each silo's model, where the sensitivity grows with the step size: 2 C eta for FedAvg, 2 C / rho for the ADMM methods,
C being the L1 norm to which gradients are clipped. So every line here is run over the same grid of step sizes s, with
eta = s and 1 / (rho + zeta) = s: two lines at one s differ by the method, one line at two s by the step, and the best
of a line is what free choice of the step can reach.

Two exact statements stand beside the figures. With one local step an ADMM silo sends w + s lambda - s g + noise (the
sign of lambda aside), and w and lambda are known to the server: it is told what FedAvg's silo tells it, s g plus the
same noise. And no method at all can do better than `ceiling`.

Logistic regression on digits; all step sizes and seeds are trained at once, by equations of the bench's own. Tests hold
them against the federation's algorithms. Noise is the same for all lines and, up to its scale, for all step sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fedbound.bench.rows import Row, aligned, find

BENCH = "admm"
EPSILONS = (1e-3, 1e-1, 1.0, 10.0, 100.0)
STEPS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 3.0, 10.0)
SILOS = (4, 200)
SEEDS = {4: 5, 200: 2}  # the noise of 200 silos averages out, and they take forty times as long
ROUNDS, CLIP, DELTA, CLASSES = 50, 1.0, 1e-5, 10
PEER = "fedavg"


@dataclass(frozen=True)
class Line:
    """One method with one way of counting its noise.

    Attributes:
        name: what it is called.
        algorithm: of the federation.
        zeta: its zeta, in units of rho.
        counts: local steps that its sensitivity is computed for; 0: those that are made.
        clean: whether the silo's dual follows its model without noise, as in APPFL 1.12; the server's cannot.
    """

    name: str
    algorithm: str
    zeta: float = 0.0
    counts: int = 0
    clean: bool = False

    @property
    def admm(self) -> int:
        """Sign of lambda in the local step: 1 and -1 for the two ADMM methods, which differ by it; 0 for FedAvg."""
        return {"fedavg": 0, "iiadmm": 1, "iceadmm": -1}[self.algorithm]

    def options(self, step: float) -> dict[str, Any]:
        """Those of the algorithm at a step size."""
        if self.algorithm == "fedavg":
            return {}
        rho = 1 / (step * (1 + self.zeta))
        return {"rho": rho, "zeta": self.zeta * rho}

    def sensitivity(self, step: float, steps: int) -> float:
        """Largest L1 distance of two models that one silo may send, whatever its data (replace-one)."""
        steps = self.counts or steps
        if self.algorithm == "fedavg":
            return 2 * CLIP * step * steps
        return admm_sensitivity(CLIP, steps=steps, **self.options(step))


def admm_sensitivity(clip: float, rho: float, zeta: float, steps: int) -> float:
    """The same of both ADMM methods after so many local steps whose gradients have at most the norm `clip`.

    A step takes z to (rho w + zeta z + lambda - g) / (rho + zeta), so that differences shrink by zeta / (rho + zeta)
    and grow by 2 clip / (rho + zeta): 2 clip / rho (1 - (zeta / (rho + zeta))^steps). Without zeta that is 2 clip / rho
    for any number of steps. APPFL's 2 clip / (rho + zeta) is that of one step.
    """
    return 2 * clip / rho * (1 - (zeta / (rho + zeta)) ** steps)


LINES = (
    Line(PEER, "fedavg"),
    Line("iiadmm", "iiadmm"),
    Line("iceadmm", "iceadmm"),
    Line("iiadmm, zeta = 9 rho", "iiadmm", 9.0),
    Line("iiadmm, silo's dual without noise", "iiadmm", clean=True),
)
MANY = (
    Line(PEER, "fedavg"),
    Line("fedavg, noise of one step", "fedavg", counts=1),
    Line("iiadmm", "iiadmm"),
    Line("iiadmm, zeta = 9 rho", "iiadmm", 9.0),
)


def ceiling(epsilon: float, silos: int, rounds: int) -> float:
    """Accuracy that no method exceeds on average over the ten tasks made of one by shifting all labels alike.

    All messages of a run together are (silos rounds epsilon)-private against a change of every silo's labels. So a
    model agrees with the labels of the task that it was trained on at most e^(silos rounds epsilon) times as often, in
    expectation, as a model trained on another shift does; and what one model scores on all ten adds up to 1.
    """
    return min(1.0, math.exp(min(50.0, silos * rounds * epsilon)) / CLASSES)


def run(quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Every population, line, epsilon and step size, several seeds."""
    rows: list[Row] = []
    for silos in SILOS[:1] if quick else SILOS:
        for steps, lines in ((1, LINES), (10, MANY))[: 1 if quick or silos > SILOS[0] else 2]:
            for label, epsilon in _levels(quick or steps > 1 or silos > SILOS[0]):
                where = f"{silos} silos, {steps} local step{'s' * (steps > 1)}, {label}"
                for line in lines:
                    found = train(line, STEPS, steps, epsilon, silos, 2 if quick else SEEDS[silos])
                    rows += _rows(f"{line.name}, {where}", found)
                    best = find(rows, "best_accuracy", f"{line.name}, {where}")
                    say(f"{line.name}, {where}: at best {best:.1f} %")
                rows += _private(where, epsilon, silos) if math.isfinite(epsilon) else []
    return rows


def _levels(short: bool) -> Iterator[tuple[str, float]]:
    """Names of the noise levels, and epsilon of one round: given for a round, or for all rounds together."""
    yield "no noise", math.inf
    for epsilon in EPSILONS:
        yield f"eps {epsilon:g} a round", epsilon
    for epsilon in () if short else EPSILONS:
        yield f"eps {epsilon:g} in all", _per_round(epsilon)


@cache
def _per_round(epsilon: float) -> float:
    from fedbound.privacy import rounds

    return 1 / rounds.multiplier("laplace", epsilon, ROUNDS, DELTA)


def _private(where: str, epsilon: float, silos: int) -> list[Row]:
    """What is guaranteed, and what that rules out."""
    from fedbound.privacy import rounds

    composed = rounds.epsilon("laplace", 1 / epsilon, ROUNDS, DELTA)
    return [
        Row(BENCH, where, "", "epsilon_round", epsilon, "1"),
        Row(BENCH, where, "", "epsilon_all_rounds", composed, "1"),
        Row(BENCH, where, "", "ceiling", 100 * ceiling(epsilon, silos, ROUNDS), "%"),
    ]


def _rows(case: str, found: Outcome) -> list[Row]:
    rows = []
    test, validation = 100 * found.test, found.validation.mean(axis=1)
    for index, step in enumerate(STEPS):
        where = f"{case}, step {step:g}"
        rows += [
            Row(BENCH, where, "", "accuracy", float(test[index].mean()), "%"),
            Row(BENCH, where, "", "accuracy_sd", float(test[index].std(ddof=1)), "%"),
            Row(BENCH, where, "", "dual_gap", float(found.gap[index]), "1"),
        ]
    best = int(validation.argmax())
    return [
        *rows,
        Row(BENCH, case, "", "best_step", STEPS[best], "1"),
        Row(BENCH, case, "", "best_accuracy", float(test[best].mean()), "%"),
        Row(BENCH, case, "", "best_accuracy_sd", float(test[best].std(ddof=1)), "%"),
    ]


# ---- training ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """Of the final global models, over all silos' parts, and of both ends' duals.

    Attributes:
        weights: float64 [step sizes, seeds, 65, 10], the last row of 65 the bias.
        validation, test: accuracy, 0 to 1, float64 [step sizes, seeds].
        gap: largest difference of the two ends' duals, float64 [step sizes]; 0 where the silo's own is sent.
    """

    weights: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    gap: np.ndarray


@dataclass(frozen=True)
class Samples:
    """x float64 [silos, most, 65] with a 1 behind the pixels and 0 where a silo has fewer samples, y one-hot alike."""

    x: np.ndarray
    y: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        return self.y.sum(axis=(1, 2))


@cache
def samples(silos: int, part: str) -> Samples:
    """The `train`, `validation` or `test` parts of digits dealt out evenly."""
    from fedbound import data, study

    made = data.federation(study.Data.model_validate({"silos": silos, "partition": "iid"}))
    splits = [getattr(silo, part) for silo in made.silos]
    x = np.zeros((silos, max(map(len, splits)), math.prod(made.shape) + 1))
    y = np.zeros((*x.shape[:2], CLASSES))
    for number, split in enumerate(splits):
        x[number, : len(split), :-1] = split.x.reshape(len(split), -1)
        x[number, : len(split), -1] = 1
        y[number, np.arange(len(split)), split.y] = 1
    return Samples(x, y)


def train(line: Line, grid: Sequence[float], steps: int, epsilon: float, silos: int, seeds: int) -> Outcome:
    """All step sizes of `grid` and so many seeds at once; epsilon of one round, infinite for no noise."""
    known = samples(silos, "train")
    w = np.stack([start(seed) for seed in range(seeds)])[None].repeat(len(grid), axis=0)
    scale = np.array([line.sensitivity(step, steps) / epsilon for step in grid]).reshape(-1, 1, 1, 1)
    rate = np.array(grid).reshape(-1, 1, 1, 1)
    rho = 1 / (rate * (1 + line.zeta))
    theirs, ours = (np.zeros((silos, *w.shape)) for _ in range(2))  # duals: of the silos, of the server
    draws = [np.random.default_rng([seed, 0xAD]) for seed in range(seeds)]
    for _ in range(ROUNDS):
        z = w[None].repeat(silos, axis=0)
        for _ in range(steps):
            g = gradients(known, z)
            z = z - rate * g if line.admm == 0 else z - rate * (rho * (z - w) - line.admm * theirs + g)
        noise = np.stack([draw.laplace(size=(silos, *w.shape[-2:])) for draw in draws], axis=1)
        sent = z + scale * noise[:, None] if epsilon < math.inf else z
        if line.admm == 0:
            w = w + np.einsum("p,psrij->srij", known.counts / known.counts.sum(), sent - w)
            continue
        ours = ours + line.admm * rho * (w - sent)
        theirs = theirs + line.admm * rho * (w - (z if line.clean else sent))
        w = (sent - line.admm * ours / rho).mean(axis=0)
    gap = np.abs(ours - theirs).max(axis=(0, 2, 3, 4))
    return Outcome(w, _accuracy(w, samples(silos, "validation")), _accuracy(w, samples(silos, "test")), gap)


@cache
def start(seed: int) -> np.ndarray:
    """The initial weights that the federation gives the model `{name: mlp, hidden: []}`: float64 [65, 10]."""
    from fedbound import models
    from fedbound.models import state
    from fedbound.registry import MODELS

    module = models.build(MODELS.normalise({"name": "mlp", "hidden": []}), (1, 8, 8), CLASSES, seed)
    matrix, bias = state.get_state(module)
    return np.vstack([matrix.T, bias]).astype(np.float64)


def gradients(known: Samples, z: np.ndarray) -> np.ndarray:
    """Of each silo's mean cross-entropy, clipped to an L1 norm of CLIP: float64 [silos, steps, seeds, 65, 10]."""
    silos, grid, seeds, inputs, classes = z.shape
    logits = known.x @ z.transpose(0, 3, 1, 2, 4).reshape(silos, inputs, -1)
    logits = logits.reshape(silos, -1, grid, seeds, classes)
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    logits -= known.y[:, :, None, None]
    found = known.x.transpose(0, 2, 1) @ logits.reshape(silos, logits.shape[1], -1)
    found = found.reshape(silos, inputs, grid, seeds, classes).transpose(0, 2, 3, 1, 4)
    found = found / known.counts.reshape(-1, 1, 1, 1, 1)
    norms = np.abs(found).sum(axis=(-2, -1), keepdims=True)
    return found * np.minimum(1.0, CLIP / np.maximum(norms, CLIP))


def _accuracy(w: np.ndarray, known: Samples) -> np.ndarray:
    """Share of samples whose class has the largest logit: float64 [step sizes, seeds]."""
    real = known.y.any(axis=2)
    x, y = known.x[real], known.y[real].argmax(axis=1)
    return (np.einsum("ni,srij->srnj", x, w).argmax(axis=-1) == y).mean(axis=-1)


# ---- how it is shown --------------------------------------------------------------------------------------------


def _cases(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Silos, local steps and noise level -> the lines that were run there."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.metric == "best_accuracy":
            name, *where = row.case.rsplit(", ", 3)
            found.setdefault(", ".join(where), []).append(name)
    return found


def table(rows: Sequence[Row]) -> str:
    """One table per noise level: accuracy of every line at every step size, and at the step that validation chooses."""
    parts = []
    for where, names in _cases(rows).items():
        head = (where, *(f"{step:g}" for step in STEPS), "best", "sd")
        lines = []
        for name in names:
            case = f"{name}, {where}"
            figures = [find(rows, "accuracy", f"{case}, step {step:g}") for step in STEPS]
            figures += [find(rows, "best_accuracy", case), find(rows, "best_accuracy_sd", case)]
            lines.append((name, *(f"{figure:.1f}" for figure in figures)))
        composed, bound = find(rows, "epsilon_all_rounds", where), find(rows, "ceiling", where)
        said = f"\nall {ROUNDS} rounds: eps {composed:.3g} at delta {DELTA:g}; no method exceeds {bound:.1f} %"
        parts.append(aligned(head, lines) + (said if math.isfinite(composed) else ""))
    return "accuracy in %, by step size\n\n" + "\n\n".join(parts)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Accuracy against the step size with one local step: a row per population, a frame per epsilon of a round."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from fedbound.report.plots import COLOURS, GREY, MARKERS

    cases = {
        where: names for where, names in _cases(rows).items() if "1 local step," in where and "in all" not in where
    }
    columns = len(EPSILONS) + 1
    lines = len(cases) // columns
    figure, frames = plt.subplots(
        lines, columns, figsize=(16, 3.4 * lines), sharey=True, squeeze=False, layout="constrained"
    )
    for (where, names), axes in zip(cases.items(), frames.flat, strict=True):
        for index, name in enumerate(names):
            values = [find(rows, "accuracy", f"{name}, {where}, step {step:g}") for step in STEPS]
            axes.plot(STEPS, values, marker=MARKERS[index], color=COLOURS[index], label=name)
        bound = find(rows, "ceiling", where)
        if bound < 100:
            axes.axhline(bound, color=GREY, linestyle="--", label="no method above")
        axes.set(xscale="log", ylim=(0, 100), xlabel="step size: eta, 1 / (rho + zeta)")
        axes.set_title(where.replace("1 local step, ", ""), fontsize=10)
    for axes in frames[:, 0]:
        axes.set_ylabel("accuracy, %")
    frames[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)
