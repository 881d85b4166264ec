"""Membership inference: was this record in the training set? By likelihood ratios from shadow models.

Source: Carlini, Chien, Nasr, Song, Terzis, Tramèr, "Membership Inference Attacks From First Principles", IEEE S&P 2022
(arXiv 2112.03570), the online attack: many models, each trained on a random half of the records; a record's
confidence phi = ln(p / (1 - p)) of its true label is taken as normal among the models that saw it, and among those
that did not; the ratio of the two densities at the attacked model's phi is the score. Every model is attacked in
turn with the others as shadows. Variances are pooled over records, as the paper advises for few shadows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Train = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Attack:
    """How well members are told from others.

    Attributes:
        auc: area under the curve of true against false positives; 1/2 is guessing.
        tpr: true positive rate at `fpr`, over all attacked models and records.
        fpr: false positive rate.
        epsilon: ln((tpr's lower limit - delta) / fpr's upper limit) at `level`, a lower bound if the threshold had been
            fixed beforehand; records of one model are not independent, so that it is a diagnosis and no audit.
        models: number of models trained.
        records: number of records.
    """

    auc: float
    tpr: float
    fpr: float
    epsilon: float
    models: int
    records: int


def likelihood_ratio(
    train: Train, records: int, models: int, rng: np.random.Generator, fpr: float = 0.01, level: float = 0.05
) -> Attack:
    """Train `models` models on random halves of `records` records and attack each one.

    Args:
        train: from the chosen records, bool [records], and a generator to the model's probability of the true label
            of every record, float64 [records].
        records: number of records.
        models: at least 4.
        rng: for the halves and the training.
        fpr: false positive rate at which the true positive rate is reported.
        level: of the limits of `epsilon`.
    """
    if models < 4:
        raise ValueError(f"{models} models are too few: each needs shadows that saw a record and that did not; give 4")
    chosen = _halves(records, models, rng)
    confidence = np.stack([_logit(train(row, rng)) for row in chosen])
    scores = np.stack([_scores(confidence, chosen, target) for target in range(models)])
    known = np.isfinite(scores)
    return _attack(scores[known], chosen[known], fpr, level, models, records)


def _halves(records: int, models: int, rng: np.random.Generator) -> np.ndarray:
    """Each record in half of the models: bool [models, records]."""
    order = np.argsort(rng.random((models, records)), axis=0)
    return order < models // 2


def _logit(probability: np.ndarray) -> np.ndarray:
    p = np.clip(np.asarray(probability, dtype=np.float64), 1e-12, 1 - 1e-12)
    return np.log(p) - np.log1p(-p)


def _scores(confidence: np.ndarray, chosen: np.ndarray, target: int) -> np.ndarray:
    """Log likelihood ratios of all records in one model, by the others: float64 [records]."""
    others = np.arange(len(confidence)) != target
    inside, outside = chosen[others], ~chosen[others]
    values = confidence[others]
    means, spreads = [], []
    for mask in (inside, outside):
        count = mask.sum(axis=0)
        mean = np.where(mask, values, 0).sum(axis=0) / np.maximum(count, 1)
        squares = np.where(mask, np.square(values - mean), 0).sum()
        means.append(np.where(count > 0, mean, np.nan))
        spreads.append(max(math.sqrt(squares / max(1, mask.sum() - mask.shape[1])), 1e-6))
    densities = [
        -np.square((confidence[target] - mean) / spread) / 2 - math.log(spread)
        for mean, spread in zip(means, spreads, strict=True)
    ]
    return np.asarray(densities[0] - densities[1])


def _attack(scores: np.ndarray, member: np.ndarray, fpr: float, level: float, models: int, records: int) -> Attack:
    from scipy.special import betaincinv
    from scipy.stats import rankdata

    ins, outs = scores[member], scores[~member]
    ranks = rankdata(scores)
    auc = (ranks[member].sum() - len(ins) * (len(ins) + 1) / 2) / (len(ins) * len(outs))
    allowed = int(fpr * len(outs))
    threshold = np.sort(outs)[len(outs) - allowed - 1]
    hits, alarms = int((ins > threshold).sum()), int((outs > threshold).sum())
    low = float(betaincinv(hits, len(ins) - hits + 1, level / 2)) if hits else 0.0
    high = float(betaincinv(alarms + 1, len(outs) - alarms, 1 - level / 2)) if alarms < len(outs) else 1.0
    epsilon = max(0.0, math.log(low / high)) if low > 0 else 0.0
    return Attack(float(auc), hits / len(ins), alarms / len(outs), epsilon, models, records)


@dataclass(frozen=True)
class Softmax:
    """A small model that can overfit: softmax regression on random ReLU features, by full-batch gradient steps.

    With `noise` it is trained by DP-SGD's step (Abadi et al., CCS 2016) on the full batch: every record's gradient is
    clipped to an L2 norm of `clip`, and normal noise of standard deviation noise * clip is added to the sum.

    Attributes:
        inputs: float64 [records, features].
        labels: int64 [records].
        features: number of random features.
        steps: gradient steps.
        rate: step size.
        clip: bound of a record's gradient; used with noise only.
        noise: noise multiplier; 0 trains without clipping.
    """

    inputs: np.ndarray
    labels: np.ndarray
    features: int = 256
    steps: int = 150
    rate: float = 2.0
    clip: float = 1.0
    noise: float = 0.0

    def epsilon(self, delta: float) -> float:
        """Epsilon of one training run at `delta`: record replaced by nothing, all steps' noise together."""
        from fedbound.privacy import accounting

        if not self.noise:
            return math.inf
        return accounting.gaussian_epsilon(self.noise / math.sqrt(self.steps), delta)

    def __call__(self, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Train on the chosen records; the probability of the true label of every record."""
        hidden = self._hidden()
        classes = int(self.labels.max()) + 1
        onehot = np.eye(classes)[self.labels]
        weights = np.zeros((hidden.shape[1], classes))
        x, y = hidden[chosen], onehot[chosen]
        norms = np.linalg.norm(x, axis=1)
        for _ in range(self.steps):
            residual = _softmax(x @ weights) - y
            if self.noise:
                # a record's gradient is x times its residual: the norm is the product of both norms
                length = norms * np.linalg.norm(residual, axis=1)
                residual *= np.minimum(1, self.clip / np.maximum(length, 1e-12))[:, None]
            gradient = x.T @ residual
            if self.noise:
                gradient += rng.normal(scale=self.noise * self.clip, size=gradient.shape)
            weights -= self.rate * gradient / len(x)
        return _softmax(hidden @ weights)[np.arange(len(hidden)), self.labels]

    def _hidden(self) -> np.ndarray:
        rng = np.random.default_rng(0)  # the same features for all models: public
        weights = rng.standard_normal((self.inputs.shape[1], self.features))
        hidden = np.maximum(self.inputs @ weights, 0)
        return hidden / np.linalg.norm(hidden, axis=1, keepdims=True).clip(1e-12)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
