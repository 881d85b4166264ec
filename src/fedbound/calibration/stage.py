"""The calibrate stage: the largest scale that keeps accuracy, spread over tensors and silos as the study says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from fedbound import artifacts, schemas, study
from fedbound.artifacts import Artifact
from fedbound.calibration import fairness, sensitivity, tables
from fedbound.calibration.accuracy import SPARE, TARGET, Decision, Verdict, confirm, grid, margin, screen, sequential
from fedbound.calibration.fairness import Facts
from fedbound.calibration.probes import Prober, first_updates
from fedbound.calibration.shape import Shape
from fedbound.codecs.entropy import entropy_bits
from fedbound.errors import InputError
from fedbound.exchange.layout import Layout

SILENT = 0.003  # predicted bits per value of the first update: coarser bounds send next to nothing
COMPARED_AT = {"range": 0.1, "std": 1.5}  # scale at which allocations take as many bits as the uniform bound
NO_DOUBT = 2.0  # a screened drop beyond this multiple of the tolerance needs no test
COARSE = 8  # points per factor of ten that are searched; the walk from there takes every point of the grid
GUESS = (
    1.8,
    0.04,
)  # standard deviations: where the knees of deltas with error feedback and of weights without were found


def run(scenario: study.CalibrateScenario, inputs: Mapping[str, Path]) -> Artifact:
    """Calibrate one scenario.

    Raises:
        InputError: no bound on the grid keeps the accuracy, there is nothing to validate on, there is but one silo,
            or training diverges.
    """
    started = time.perf_counter()
    scenario.check()
    prober = Prober(scenario)
    known = survey(prober)
    prober.shape = known.shape
    decision = decide(prober, known)
    if decision.verdict is None:
        settings = scenario.calibration
        raise InputError(
            f"calibration.smallest: even {decision.refused:g} is not confirmed to keep the accuracy within the "
            f"tolerance of {settings.tolerance:g} points; lower it, raise the tolerance, or use more seeds"
        )
    found = tables.make(prober, known.layout, known.updates, known.sensitivity, known.facts, decision)
    found["decision"] = schemas.BOUNDS_DECISION.table(
        [tables.decision(prober, decision, time.perf_counter() - started)]
    )
    return Artifact("calibrate", scenario.study, scenario.model_dump(mode="json"), None, found, {}, artifacts.stamp())


class Survey:
    """What is known before any lossy probe, from the first seed's uncompressed run.

    Attributes:
        layout: the model's layout.
        updates: each silo's first update.
        sensitivity: mean squared gradient by tensor.
        facts: what each silo tells.
        shape: how the scale is spread.
    """

    def __init__(
        self,
        layout: Layout,
        updates: list[np.ndarray],
        sensitivity: Mapping[str, float],
        facts: Sequence[Facts],
        shape: Shape,
    ):
        self.layout = layout
        self.updates = updates
        self.sensitivity = sensitivity
        self.facts = facts
        self.shape = shape


def survey(prober: Prober) -> Survey:
    """Look at the uncompressed run of the first seed.

    Raises:
        InputError: it diverges.
    """
    from fedbound.models.state import set_state

    scenario, seed = prober.scenario, prober.scenario.calibration.seeds[0]
    plain = prober.probe(0.0, seed)
    layout, updates = first_updates(prober, seed)
    module = prober.assembly(0.0, seed).module()
    set_state(module, layout.unflatten(plain.model))
    splits = [silo.validation for silo in prober.federation.silos if len(silo.validation)]
    fisher = sensitivity.fisher(module, splits)
    accuracy = dict(zip(np.unique(prober.owner), plain.by_silo, strict=True))
    facts = [
        Facts(
            len(silo.train),
            fairness.label_entropy(silo.train.y, prober.federation.classes),
            float(accuracy.get(number, plain.accuracy)),
            len(silo.validation),
        )
        for number, silo in enumerate(prober.federation.silos)
    ]
    settings = scenario.calibration
    if settings.reveal_epsilon is not None:
        rng = np.random.default_rng()  # seeded by the system: another calibration draws other noise
        facts = [fact.noised(settings.reveal_epsilon, prober.federation.classes, rng) for fact in facts]
    shape = Shape(
        _tensor_factors(settings.tensors, settings.rule, layout, updates, fisher),
        _silo_factors(settings.silos, facts),
        settings.rule,
    )
    return Survey(layout, updates, fisher, facts, shape)


def _tensor_factors(
    kind: str, rule: str, layout: Layout, updates: Sequence[np.ndarray], fisher: Mapping[str, float]
) -> dict[str, float]:
    if kind == "uniform":
        return {}
    allocation = {
        "sensitivity": sensitivity.analytic,
        "rate": sensitivity.lagrangian,
        "deviation": sensitivity.deviation,
    }[kind]
    per_silo = [allocation(sensitivity.pieces(layout, update, fisher, rule), COMPARED_AT[rule]) for update in updates]
    factors = np.exp(np.mean(np.log(per_silo), axis=0))
    return {name: float(factor) for block, factor in zip(layout.blocks, factors, strict=True) for name in block.tensors}


def _silo_factors(kind: str, facts: Sequence[Facts]) -> dict[int, float]:
    if kind == "uniform":
        return {}
    factors = {"needs": fairness.needs, "weights": fairness.weights}[kind](facts)
    return {number: float(factor) for number, factor in enumerate(factors)}


def decide(prober: Prober, known: Survey) -> Decision:
    """Screen with the first seed, confirm with the others, leave a margin where that costs little."""
    settings = prober.scenario.calibration
    first = settings.seeds[0]
    smallest, largest = settings.ends
    scales = _speaking(grid(smallest, largest, settings.per_decade), known)
    screened: dict[float, float] = {}

    def drop(scale: float) -> float:
        screened[scale] = float(prober.drops(scale, first).mean())
        print(f"scale {scale:g}: drop {screened[scale]:.2f} points with seed {first}", flush=True)
        return screened[scale]

    stride = max(1, round(settings.per_decade / COARSE))
    coarse = scales[::stride]
    start = screen(coarse, drop, TARGET * settings.tolerance, _guess(prober.scenario, coarse))
    above = next((i for i, scale in enumerate(scales) if screened.get(scale, 0) > NO_DOUBT * settings.tolerance), None)
    start = scales.index(coarse[start]) if start >= 0 else -1
    ceiling = above if above is not None and above > start >= 0 else None
    found = confirm(scales, start, partial(_test, prober), 1 - settings.confidence, ceiling, stride)
    if found.verdict is None:
        return found
    most = SPARE * _predicted(known, found.accepted)
    accepted = scales.index(found.accepted)
    anchor = min(max(start, 0), accepted)  # what is untested is tried in an order that no test decides
    below = [*scales[anchor:accepted][::-1], *scales[anchor % stride : anchor : stride][::-1]]
    finer = [scale for scale in below if _predicted(known, scale) <= most]
    enough = partial(_enough, prober)
    return margin(found, finer, partial(_test, prober, early=enough), enough)


def _test(prober: Prober, scale: float, level: float, early: Callable[[Verdict], bool] = lambda _: True) -> Verdict:
    """Test `scale` on the confirming seeds."""
    settings = prober.scenario.calibration
    seeds = settings.seeds[1:]
    held = [prober.fold(seed) for seed in seeds]
    verdict = sequential(scale, lambda i: prober.drops(scale, seeds[i]), held, settings.tolerance, level, early)
    said = "keeps" if verdict.keeps else "is refused"
    print(
        f"scale {scale:g}: mean drop {verdict.mean:.2f}, upper limit {verdict.upper:.2f} points "
        f"({len(verdict.drops)} fresh seeds, level {verdict.level:.3g}): {said}",
        flush=True,
    )
    return _fair(prober, verdict) if verdict.keeps else verdict


def _enough(prober: Prober, verdict: Verdict) -> bool:
    """Whether a repetition on the study's own test samples would confirm the scale again."""
    settings = prober.scenario.calibration
    upper = verdict.repeated(prober.tested, 1 - settings.confidence)
    print(f"scale {verdict.scale:g}: on {prober.tested} test samples at most {upper:.2f} points", flush=True)
    return upper <= settings.tolerance


def _guess(scenario: study.CalibrateScenario, scales: list[float]) -> int | None:
    """Where the search starts; None: in the middle."""
    weights = scenario.mode == "weights"
    if scenario.calibration.rule == "range" or weights == scenario.error_feedback:
        return None
    return int(np.abs(np.log(np.array(scales) / GUESS[weights])).argmin())


def _speaking(scales: list[float], known: Survey) -> list[float]:
    """The scales at which the first updates still say something, by their predicted entropy; at least the smallest."""
    kept = [scale for scale in scales if _predicted(known, scale) >= SILENT]
    return kept or scales[:1]


def _predicted(known: Survey, scale: float) -> float:
    """Predicted bits per value of the first updates."""
    total = 0.0
    for update in known.updates:
        for block in known.layout.blocks:
            values = update[block.start : block.stop]
            factor = min(known.shape.tensors.get(name, 1.0) for name in block.tensors)
            bits = entropy_bits(
                values[:: -(-block.size // sensitivity.SAMPLE)], known.shape.absolute(scale * factor, values)
            )
            total += bits * block.size
    return total / (len(known.updates) * known.layout.size)


def _fair(prober: Prober, verdict: Verdict) -> Verdict:
    """Refuse what widens the silos' spread beyond the stated factor (mean over the confirming seeds)."""
    settings = prober.scenario.calibration
    if settings.spread_factor is None:
        return verdict
    seeds = settings.seeds[1 : 1 + len(verdict.drops)]
    spread, plain = (np.mean([prober.probe(scale, seed).spread for seed in seeds]) for scale in (verdict.scale, 0.0))
    print(f"scale {verdict.scale:g}: spread {100 * spread:.2f}, uncompressed {100 * plain:.2f} points", flush=True)
    keeps = bool(spread <= settings.spread_factor * plain)
    return replace(verdict, keeps=keeps)
