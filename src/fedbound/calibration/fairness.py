"""Per-silo bounds: finer where a silo's data are rich or its model serves it badly, or where its weight is large.

A reconstruction: FedEFsz (Z. Zhang et al., IEEE TPDS 36(12), 2025) tunes SZ3's bound per client "during the training";
only its abstract could be read, and neither its criterion nor its schedule is known to us. `needs` is ours:

    factor_k = clip(exp(-a (H_k - mean H) / sd H - b gap_k / sd acc - c (log n_k - mean log n) / sd log n), 1 / r, r)

with H_k the normalised label entropy of silo k's training data, n_k their number, and gap_k = mean_j acc_j - acc_k.
`weights` is the bound of fewest bits for a given variance of the aggregate (theory.py): minimising -sum_k log b_k for
a given sum_k w_k^2 b_k^2 gives b_k ~ 1 / w_k. It asks nothing of a silo but its number of samples.

Both are scaled to a geometric mean of 1, so that a high-rate code takes about as many bytes as with one bound.

What a silo reveals for `needs`: three scalars (entropy, number of samples, validation accuracy), once. `Facts.noised`
releases entropy and accuracy by the Laplace mechanism.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

LARGEST_FACTOR = 2.0  # r: no silo's bound departs further from the common one, either way


@dataclass(frozen=True)
class Facts:
    """What one silo tells the calibration.

    Attributes:
        samples: training samples.
        entropy: label entropy over log(classes), 0 to 1.
        accuracy: validation accuracy of the uncompressed model.
        validation: validation samples that it was measured on.
    """

    samples: int
    entropy: float
    accuracy: float
    validation: int

    def noised(self, epsilon: float, classes: int, rng: np.random.Generator) -> Facts:
        """Entropy and accuracy under epsilon-DP (replacing one sample; number of samples public), half of it each.

        One sample moves at most from one class to another, which changes the entropy by at most 2 log(n) / n, and the
        accuracy by 1 / validation samples. The caller adds epsilon to the run's account; the generator must be seeded
        by the operating system where the claim matters.
        """
        n = max(self.samples, 3)
        entropy = 2 * math.log(n) / n / math.log(classes)
        share = epsilon / 2
        return replace(
            self,
            entropy=float(np.clip(self.entropy + rng.laplace(scale=entropy / share), 0, 1)),
            accuracy=float(np.clip(self.accuracy + rng.laplace(scale=1 / max(self.validation, 1) / share), 0, 1)),
        )


def label_entropy(labels: np.ndarray, classes: int) -> float:
    """Entropy of the labels over log(classes): 0 for one class, 1 for all classes alike; int64 labels of any shape."""
    if classes < 2 or not len(labels):
        return 0.0
    share = np.bincount(labels.ravel(), minlength=classes) / labels.size
    share = share[share > 0]
    return max(0.0, float(-(share * np.log(share)).sum() / math.log(classes)))


def needs(facts: Sequence[Facts], a: float = 0.3, b: float = 0.3, c: float = 0.0) -> np.ndarray:
    """Factors on the uplink's bound by what each silo needs, geometric mean about 1 (float64, one per silo).

    Args:
        facts: one per silo.
        a: weight of the label entropy: more classes, finer bound.
        b: weight of the performance gap: less served, finer bound.
        c: weight of the data's size: more samples, finer bound.
    """
    entropy = _standard([fact.entropy for fact in facts])
    gap = -_standard([fact.accuracy for fact in facts])
    size = _standard([math.log(max(fact.samples, 1)) for fact in facts])
    return _normalised(np.exp(-a * entropy - b * gap - c * size))


def weights(facts: Sequence[Facts]) -> np.ndarray:
    """Factors ~ 1 / samples: fewest bits for a given variance of the aggregate's error."""
    return _normalised(1 / np.array([max(fact.samples, 1) for fact in facts], np.float64))


def _standard(values: Sequence[float]) -> np.ndarray:
    """Values less their mean, over their standard deviation; zeros where they are all alike."""
    x = np.asarray(values, np.float64)
    sd = float(x.std())
    return (x - x.mean()) / sd if sd > 1e-12 * max(1.0, float(np.abs(x).max())) else np.zeros_like(x)


def _normalised(factors: np.ndarray) -> np.ndarray:
    """Geometric mean 1, then clipped."""
    centred = factors / math.exp(float(np.log(factors).mean()))
    return np.clip(centred, 1 / LARGEST_FACTOR, LARGEST_FACTOR)
