"""Speeds on one core for `fedbound bench privacy`: noise beside numpy's samplers, rotation, rounding, accounting."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from fedbound.bench.rows import Row, aligned, find

_CASE = "speed: "
_LARGE = "accounting: PBM, d 10^6, 1000 rounds"
_REPEATS = 3
NUMPY = "numpy"


class Work(NamedTuple):
    """What is timed, and the same by numpy where that has it."""

    ours: Callable[[], object]
    numpy: Callable[[], object] | None = None


def run(bench: str, quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Coordinates per second of processor time, and seconds to make tables; accounting of a large PBM run."""
    rows = [Row(bench, _LARGE, "", *figure) for figure in _large()]
    size = 1 << (18 if quick else 22)
    for name, work in _works(size).items():
        case = _CASE + name
        started = time.process_time()
        work.ours()
        first = time.process_time() - started
        ours = _least(work.ours)
        rows += [
            Row(bench, case, "", "coordinates", size / ours, "1/s"),
            Row(bench, case, "", "first", first - ours, "s"),
        ]
        if work.numpy is not None:
            peer = _least(work.numpy)
            rows += [
                Row(bench, case, NUMPY, "coordinates", size / peer, "1/s"),
                Row(bench, case, NUMPY, "over_peer", peer / ours, "1"),
            ]
        say(f"{case}: {size / ours / 1e6:.1f} million coordinates/s")
    return rows


def _least(work: Callable[[], object]) -> float:
    """Seconds of processor time, the least of some runs: others may use the machine."""
    times = []
    for _ in range(_REPEATS):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def _large() -> list[tuple[str, float, str]]:
    from fedbound.privacy import accounting, loss
    from fedbound.privacy.mechanisms import pbm

    clients, trials, dimension, rounds, theta, delta = 100, 4, 10**6, 1000, 1e-4, 1e-6
    started = time.process_time()
    one = loss.from_pairs([(p, q) for _, p, q in pbm.sum_pairs(clients, trials, theta)])
    epsilon = loss.rounds_epsilon(one, dimension, 1.0, rounds, delta)
    seconds = time.process_time() - started
    limit = accounting.gaussian_epsilon(
        1 / (trials * theta * math.sqrt(dimension * rounds / (clients * trials / 4))), delta
    )
    return [("seconds", seconds, "s"), ("epsilon", epsilon, "1"), ("over_gaussian_limit", epsilon / limit, "1")]


def _works(size: int) -> dict[str, Work]:
    from fedbound.privacy import transforms

    rng = np.random.default_rng(0)
    vector = rng.standard_normal((1, size))
    signs = transforms.random_signs(size, rng)
    limit = 4.0 * float(np.square(vector * 20).sum() + size)
    return {
        **_noises(size, rng),
        **_counts(vector, rng),
        "rotation": Work(lambda: transforms.rotate(vector, signs)),
        "stochastic rounding": Work(lambda: transforms.conditional_round(vector * 20, limit, rng)),
    }


def _noises(size: int, rng: np.random.Generator) -> dict[str, Work]:
    """Shares of one client, as training draws them: of a standard deviation of 4, and of 2700 (18 bits, 150 silos)."""
    from fedbound.privacy.mechanisms import binomial, ddgauss, skellam

    philox = np.random.Generator(np.random.Philox(0))
    found: dict[str, Work] = {}
    for sigma in (4.0, 2700.0):
        poisson, gauss, fair = (kind.Parameters(sigma, 1.0, 1.0, size, 1, 1) for kind in (skellam, ddgauss, binomial))
        found |= {
            f"skellam noise, sigma {sigma:g}": Work(
                partial(poisson.draw, (size,), rng), partial(skellam.two_poisson, sigma**2 / 2, (size,), rng)
            ),
            f"skellam noise, sigma {sigma:g}, Philox": Work(partial(poisson.draw, (size,), philox)),
            f"discrete Gaussian noise, sigma {sigma:g}": Work(partial(gauss.draw, (size,), rng)),
            f"binomial noise, sigma {sigma:g}": Work(
                partial(fair.draw, (size,), rng), partial(rng.binomial, round(4 * sigma**2), 0.5, size)
            ),
        }
    return found


def _counts(vector: np.ndarray, rng: np.random.Generator) -> dict[str, Work]:
    from fedbound.privacy import coins

    found: dict[str, Work] = {}
    for trials, theta in ((16, 0.1), (163, 0.08), (512, 0.03), (163, 0.25)):
        bias = 0.5 + theta * np.clip(vector, -1, 1)
        found[f"pbm counts, {trials} coins, theta {theta:g}"] = Work(
            partial(coins.counts, trials, bias, theta, rng), partial(rng.binomial, trials, bias)
        )
    return found


def table(rows: Sequence[Row]) -> str:
    """Speeds beside numpy's, and the accounting; empty where nothing was timed."""
    cases = list(dict.fromkeys(row.case for row in rows if row.case.startswith(_CASE)))
    lines = []
    for case in cases:
        ours, peer = find(rows, "coordinates", case), find(rows, "coordinates", case, NUMPY)
        texts = [f"{ours / 1e6:.1f}", "" if math.isnan(peer) else f"{peer / 1e6:.1f}"]
        lines.append((case.removeprefix(_CASE), *texts, f"{find(rows, 'first', case):.3f}"))
    parts = [aligned(("million coordinates/s, one core", "ours", "numpy", "table, s"), lines)] if lines else []
    large = [(f"{_LARGE}, {row.metric}", f"{float(row.value):.4g}", row.unit) for row in rows if row.case == _LARGE]
    return "\n\n".join([*parts, aligned(("accounting", "value", "unit"), large)] if large else parts)
