"""What attacks show: error-bounded codecs as "privacy", one-run audits of private sums, membership inference.

Heavy-tailed synthetic values stand for updates; the membership attack runs on scikit-learn's digits with a fifth of the
labels redrawn, so that there is something to learn by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from fedbound.bench.rows import Row, aligned, find

BENCH = "auditing"
CODECS = ("ebq", "sz3", "sz2", "zfp")
RELATIVE = (1e-3, 1e-2, 1e-1)
MOVES = (0.1, 1.0, 4.0)  # of one coordinate, in bounds
DELTA, LEVEL = 1e-5, 0.05
_SIGMA = 0.02


def run(quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Run the three kinds of attack; returns the rows."""
    return [*_compression(quick, say), *_one_run(quick, say), *_membership(quick, say)]


def _row(case: str, metric: str, value: float, unit: str = "1") -> Row:
    return Row(BENCH, case, "", metric, float(value), unit)


def _compression(quick: bool, say: Callable[[str], None]) -> list[Row]:
    from fedbound import codecs
    from fedbound.auditing import compression

    rows: list[Row] = []
    rng = np.random.default_rng(0)
    x = (_SIGMA * rng.laplace(size=1 << (14 if quick else 16))).astype(np.float32)
    spread = float(x.max() - x.min())
    for name in CODECS:
        codec = codecs.get(name)
        for relative in RELATIVE:
            case, bound = f"codec: {name}, rel {relative:g}", relative * spread
            rows += [_row(case, key, value) for key, value in asdict(compression.error_law(codec, x, bound)).items()]
            for move in MOVES:
                found = compression.recompress(codec, x[:4096], bound, move * bound, 60 if quick else 400, rng)
                rows.append(_row(case, f"advantage, move {move:g}", found.advantage))
            pairs = [compression.edge_pair(codec, x[:1024], index, bound) for index in range(5)]
            rows.append(_row(case, "edge_pairs", sum(pair is not None for pair in pairs)))
        bound = compression.suggested_bound(_SIGMA)
        after = compression.noised_first(codec, x, _SIGMA, bound, rng)
        rows += [_row(f"noise first: {name}, bound {bound / _SIGMA:.2f} sd", k, v) for k, v in asdict(after).items()]
        say(f"codec {name} attacked")
    return rows


def _one_run(quick: bool, say: Callable[[str], None]) -> list[Row]:
    from fedbound import codecs
    from fedbound.auditing import compression, one_run
    from fedbound.privacy import mechanisms
    from fedbound.privacy.mechanisms import Setting

    rows: list[Row] = []
    size = 512 if quick else 2048
    for name in ("gaussian", "skellam"):
        for epsilon in (1.0, 2.0, 4.0, 8.0):
            release = mechanisms.get(name).calibrate(Setting(epsilon, DELTA, size, size, 1.0))
            found = one_run.sum_audit(release.estimate, size, 1.0, DELTA, LEVEL, np.random.default_rng(1))
            case = f"one run: {name}, eps {epsilon:g}"
            rows += [_row(case, "claimed", release.guarantee.epsilon), _row(case, "audited", found.audited)]
            rows.append(_row(case, "cap", found.cap))
    for bound in (0.1, 0.5, 2.0):
        release_ = compression.compressed_sum(codecs.get("ebq"), bound)
        found = one_run.sum_audit(release_, size, 1.0, DELTA, LEVEL, np.random.default_rng(1))
        case = f"one run: ebq without noise, bound {bound:g} of a canary"
        rows += [_row(case, "claimed", np.inf), _row(case, "audited", found.audited), _row(case, "cap", found.cap)]
    say(f"one-run audits with {size} canaries")
    return rows


def _membership(quick: bool, say: Callable[[str], None]) -> list[Row]:
    from sklearn.datasets import load_digits

    from fedbound.auditing import membership

    rng = np.random.default_rng(0)
    digits = load_digits()
    chosen = rng.permutation(len(digits.target))[:400]
    inputs, labels = digits.data[chosen] / 16, digits.target[chosen].copy()
    redrawn = rng.random(len(labels)) < 0.2
    labels[redrawn] = rng.integers(0, 10, int(redrawn.sum()))
    rows: list[Row] = []
    for noise in (0.0, 5.0, 20.0):
        model = membership.Softmax(
            inputs, labels, 1024, steps=100 if noise else 300, rate=5.0 if noise else 50.0, noise=noise
        )
        found = membership.likelihood_ratio(model, len(labels), 6 if quick else 32, np.random.default_rng(1))
        case = f"membership: noise multiplier {noise:g}"
        rows += [_row(case, "claimed", model.epsilon(DELTA)), _row(case, "shown", found.epsilon)]
        rows += [_row(case, "auc", found.auc), _row(case, "tpr", found.tpr)]
        say(f"{case}: area {found.auc:.3f}, {100 * found.tpr:.1f} % found at 1 % false alarms")
    return rows


def table(rows: Sequence[Row]) -> str:
    """One table per kind of attack."""
    laws = ("uniform", "laplace", "with_data", *(f"advantage, move {move:g}" for move in MOVES), "edge_pairs")
    kinds = {
        "codec": laws,
        "noise first": ("extra", "expected", "bits", "exact_bits"),
        "one run": ("claimed", "audited", "cap"),
        "membership": ("claimed", "shown", "auc", "tpr"),
    }
    parts = []
    for kind, metrics in kinds.items():
        cases = list(dict.fromkeys(row.case for row in rows if row.case.startswith(f"{kind}: ")))
        lines = [(case.split(": ", 1)[1], *(f"{find(rows, m, case):.3g}" for m in metrics)) for case in cases]
        parts.append(aligned((kind, *metrics), lines))
    return "\n\n".join(parts)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Claimed against audited epsilon, and how far the codecs' errors are from uniform and from Laplace."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from fedbound.report.plots import COLOURS, GREY, MARKERS

    figure, (claims, laws) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for index, name in enumerate(("gaussian", "skellam")):
        cases = [row.case for row in rows if row.metric == "audited" and row.case.startswith(f"one run: {name},")]
        points = [(find(rows, "claimed", case), find(rows, "audited", case)) for case in cases]
        claims.plot(*zip(*points, strict=True), marker=MARKERS[index], color=COLOURS[index], label=name)
    claims.axline((0, 0), slope=1, color=GREY, linewidth=0.8)
    claims.set(xlabel="claimed epsilon", ylabel="lower bound from one run")
    claims.legend()
    for index, name in enumerate(CODECS):
        for metric, style in (("uniform", "-"), ("laplace", "--")):
            values = [find(rows, metric, f"codec: {name}, rel {relative:g}") for relative in RELATIVE]
            laws.plot(RELATIVE, values, style, marker=MARKERS[index], color=COLOURS[index], label=f"{name}, {metric}")
    laws.set(xscale="log", xlabel="relative bound", ylabel="distance of the error's law (Kolmogorov-Smirnov)")
    laws.legend(fontsize=7)
    figure.savefig(path, dpi=140)
    plt.close(figure)
