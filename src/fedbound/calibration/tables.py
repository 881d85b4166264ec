"""The tables of bounds.h5."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fedbound import schemas
from fedbound.artifacts import Table
from fedbound.calibration.accuracy import Decision, limits
from fedbound.calibration.fairness import Facts
from fedbound.calibration.probes import Probe, Prober
from fedbound.codecs.entropy import entropy_bits
from fedbound.exchange.bounds import ALL_SILOS
from fedbound.exchange.layout import Layout

PRIVACY = "probes train on and look at silos' own samples without noise: no epsilon of the study covers them"


def make(
    prober: Prober,
    layout: Layout,
    updates: Sequence[np.ndarray],
    sensitivity: Mapping[str, float],
    facts: Sequence[Facts],
    decision: Decision,
) -> dict[str, Table]:
    """All tables but the decision's; the accepted scale has been probed with the confirming seeds."""
    confirmed = _confirming(prober, decision)
    aggregates = [asdict(row) for row in confirmed[0].aggregates]
    return {
        "bounds": schemas.BOUNDS.table(
            list(_bounds(prober, layout, updates, sensitivity, decision.accepted, confirmed[0]))
        ),
        "probes": schemas.BOUNDS_PROBES.table(_probes(prober)),
        "scales": schemas.BOUNDS_SCALES.table(list(_scales(prober, decision))),
        "silos": schemas.BOUNDS_SILOS.table(_silos(prober, facts, confirmed)),
        "aggregate": schemas.BOUNDS_AGGREGATE.table(aggregates),
    }


def _confirming(prober: Prober, decision: Decision) -> list[Probe]:
    assert decision.verdict is not None
    seeds = prober.scenario.calibration.seeds[1 : 1 + len(decision.verdict.drops)]
    return [prober.probe(decision.accepted, seed) for seed in seeds]


def _bounds(
    prober: Prober,
    layout: Layout,
    updates: Sequence[np.ndarray],
    sensitivity: Mapping[str, float],
    scale: float,
    probe: Probe,
) -> Iterator[dict[str, Any]]:
    """One row per direction, silo (-1: all) and tensor.

    What goes down first is, as far as is known before training, the mean of the silos' first updates.
    """
    share = np.array([len(silo.train) for silo in prober.federation.silos], np.float64)
    mean = np.tensordot(share / share.sum(), np.stack(updates), 1).astype(np.float32)
    block_of = {name: block.name for block in layout.blocks for name in block.tensors}
    for direction, silo, name, own in prober.shape.entries(layout, scale):
        if direction == "down" and prober.scenario.downlink_bound != "calibrated":
            continue
        sent = [mean] if direction == "down" else list(updates) if silo == ALL_SILOS else [updates[silo]]
        parts = [update[layout.slices[name]] for update in sent]
        absolute = [prober.shape.absolute(own, part) for part in parts]
        measured = [
            bits
            for (where, who, block), bits in probe.bits.items()
            if where == direction and block == block_of[name] and silo in (ALL_SILOS, who)
        ]
        yield {
            "direction": direction,
            "silo": silo,
            "tensor": name,
            "bound": float(np.mean(absolute)),
            "rule": prober.shape.rule,
            "scale": own,
            "predicted_bits": float(np.mean([entropy_bits(p, b) for p, b in zip(parts, absolute, strict=True)])),
            "measured_bits": float(np.mean(measured)),
            "sensitivity": sensitivity.get(name, 0.0),
        }


def _probes(prober: Prober) -> list[dict[str, Any]]:
    first = prober.scenario.calibration.seeds[0]
    return [
        {
            "scale": probe.scale,
            "seed": probe.seed,
            "fold": prober.fold(probe.seed),
            "purpose": "baseline" if not probe.scale else "search" if probe.seed == first else "confirm",
            "accuracy": probe.accuracy,
            "drop": 100 * (prober.probe(0.0, probe.seed).accuracy - probe.accuracy),
            "spread": probe.spread,
            "worst": probe.worst,
            "bytes_up": probe.bytes_up,
            "bytes_down": probe.bytes_down,
            "ratio_up": probe.raw_up / probe.bytes_up,
        }
        for probe in sorted(prober.done.values(), key=lambda probe: (probe.scale, probe.seed))
    ]


def _scales(prober: Prober, decision: Decision) -> Iterator[dict[str, Any]]:
    """What the confirming seeds say of each scale that more than one of them was run at."""
    settings = prober.scenario.calibration
    level = 1 - settings.confidence
    for scale in sorted({scale for scale, _ in prober.done if scale}):
        seeds = [seed for seed in settings.seeds[1:] if (scale, seed) in prober.done]
        if len(seeds) < 2:
            continue
        drops = np.stack([prober.drops(scale, seed) for seed in seeds])
        low, high = limits(drops, level, [prober.fold(seed) for seed in seeds])
        yield {
            "scale": scale,
            "seeds": len(seeds),
            "mean_drop": float(drops.mean()),
            "lower": low,
            "upper": high,
            "accepted": int(scale == decision.accepted),
        }


def _silos(prober: Prober, facts: Sequence[Facts], confirmed: Sequence[Probe]) -> list[dict[str, Any]]:
    held = np.unique(prober.owner)
    bounded = dict(zip(held, np.mean([probe.by_silo for probe in confirmed], axis=0), strict=True))
    return [
        {
            "silo": number,
            "samples": fact.samples,
            "label_entropy": fact.entropy,
            "accuracy": fact.accuracy if fact.validation else float("nan"),
            "accuracy_bounded": float(bounded.get(number, float("nan"))),
            "factor": prober.shape.silos.get(number, 1.0),
        }
        for number, fact in enumerate(facts)
    ]


def decision(prober: Prober, found: Decision, seconds: float) -> dict[str, Any]:
    """The one row of the decision's table; a scale was accepted."""
    verdict, settings = found.verdict, prober.scenario.calibration
    assert verdict is not None
    confirmed = _confirming(prober, found)
    plain = [prober.probe(0.0, probe.seed) for probe in confirmed]
    return {
        "rule": settings.rule,
        "scale": found.accepted,
        "refused": found.refused,
        "screened": found.screened,
        "tolerance": settings.tolerance,
        "confidence": settings.confidence,
        "mean_drop": verdict.mean,
        "upper_drop": verdict.upper,
        "level": verdict.level,
        "largest": found.largest,
        "upper_test": verdict.repeated(prober.tested, 1 - settings.confidence),
        "seeds": len(verdict.drops),
        "samples": len(prober.owner) * len(set(verdict.folds or (0,))),
        "spread": float(np.mean([probe.spread for probe in confirmed])),
        "spread_uncompressed": float(np.mean([probe.spread for probe in plain])),
        "worst_drop": float(np.mean([100 * (p.worst - c.worst) for p, c in zip(plain, confirmed, strict=True)])),
        "probes": len(prober.done),
        "bytes": sum(probe.bytes_up + probe.bytes_down for probe in prober.done.values()),
        "reveal_epsilon": settings.reveal_epsilon or float("nan"),
        "privacy": PRIVACY,
        "seconds": seconds,
    }
