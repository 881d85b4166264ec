"""The calibrate stage: one global relative bound for the uplink, found by probes, written per tensor."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedbound import artifacts, schemas, study
from fedbound.artifacts import Artifact
from fedbound.calibration.accuracy import Decision, grid, search, upper_limit
from fedbound.calibration.probes import Prober, first_updates
from fedbound.codecs.entropy import entropy_bits
from fedbound.errors import InputError
from fedbound.exchange.layout import Layout


def run(scenario: study.CalibrateScenario, inputs: Mapping[str, Path]) -> Artifact:
    """Calibrate one scenario.

    Raises:
        InputError: no bound on the grid keeps the accuracy, there is nothing to validate on, or training diverges.
    """
    started = time.perf_counter()
    settings = scenario.calibration
    prober = Prober(scenario)

    def keeps(scale: float) -> bool:
        drops = prober.drops(scale)
        limit = upper_limit(drops)
        print(f"scale {scale:g}: mean drop {np.mean(drops):.2f}, upper limit {limit:.2f} points", flush=True)
        return limit <= settings.tolerance

    decision = search(grid(settings.smallest, settings.largest, settings.per_decade), keeps)
    if not decision.accepted:
        raise InputError(
            f"calibration.smallest: even {settings.smallest:g} lowers the accuracy by more than the tolerance of "
            f"{settings.tolerance:g} points; lower it, raise the tolerance, or use more seeds"
        )
    return Artifact(
        "calibrate",
        scenario.study,
        scenario.model_dump(mode="json"),
        None,
        {
            "bounds": schemas.BOUNDS.table(_bounds(prober, decision)),
            "probes": schemas.BOUNDS_PROBES.table(_probes(prober)),
            "decision": schemas.BOUNDS_DECISION.table([_decision(prober, decision, time.perf_counter() - started)]),
        },
        {},
        artifacts.stamp(),
    )


def _bounds(prober: Prober, decision: Decision) -> list[dict[str, Any]]:
    """One row per direction and tensor: the scale, the absolute bound at round 0, predicted bits and sensitivity.

    What goes down first is, as far as is known before training, the mean of the silos' first updates.
    """
    found = [first_updates(prober, seed) for seed in prober.scenario.calibration.seeds]
    layout = found[0][0]
    sent = {"up": [update for _, updates in found for update in updates]}
    if prober.scenario.downlink_bound == "calibrated":
        share = np.array([len(silo.train) for silo in prober.federation.silos], np.float64)
        share /= share.sum()
        sent["down"] = [np.tensordot(share, np.stack(updates), 1).astype(np.float32) for _, updates in found]
    sensitivity = _sensitivity(prober, layout)
    return [
        {
            "direction": direction,
            "silo": -1,
            "tensor": name,
            "rule": "range",
            "scale": decision.accepted,
            "sensitivity": sensitivity[name],
            **_at_start([update[part] for update in updates], decision.accepted),
        }
        for direction, updates in sent.items()
        for name, part in layout.slices.items()
    ]


def _at_start(pieces: list[np.ndarray], scale: float) -> dict[str, float]:
    bounds = [scale * float(np.ptp(piece)) for piece in pieces]
    bits = [entropy_bits(piece, bound) for piece, bound in zip(pieces, bounds, strict=True)]
    return {"bound": float(np.mean(bounds)), "predicted_bits": float(np.mean(bits))}


def _sensitivity(prober: Prober, layout: Layout) -> dict[str, float]:
    """Mean squared gradient per tensor on the silos' validation samples, at the end of an uncompressed probe."""
    from fedbound.models.state import as_tensor, set_state
    from fedbound.models.training import cross_entropy

    seed = prober.scenario.calibration.seeds[0]
    assembly = prober.assembly(0.0, seed)
    module = assembly.module()
    set_state(module, layout.unflatten(prober.probe(0.0, seed).model))
    module.eval()
    total = dict.fromkeys(layout.slices, 0.0)
    splits = [silo.validation for silo in prober.federation.silos if len(silo.validation)]
    for split in splits:
        module.zero_grad()
        loss = cross_entropy(module(as_tensor(split.x)), as_tensor(split.y))
        loss.backward()
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                total[name] += float(parameter.grad.square().mean()) / len(splits)
    return total


def _probes(prober: Prober) -> list[dict[str, Any]]:
    probes = sorted(prober.done.values(), key=lambda probe: (probe.scale, probe.seed))
    return [
        {
            "scale": probe.scale,
            "seed": probe.seed,
            "accuracy": probe.accuracy,
            "drop": 100 * (prober.probe(0.0, probe.seed).accuracy - probe.accuracy),
            "spread": probe.spread,
            "bytes_up": probe.bytes_up,
            "bytes_down": probe.bytes_down,
            "ratio_up": probe.raw_up / probe.bytes_up,
        }
        for probe in probes
    ]


def _decision(prober: Prober, decision: Decision, seconds: float) -> dict[str, Any]:
    drops = prober.drops(decision.accepted)
    return {
        "scale": decision.accepted,
        "refused": decision.refused,
        "tolerance": prober.scenario.calibration.tolerance,
        "mean_drop": float(np.mean(drops)),
        "upper_drop": upper_limit(drops),
        "seeds": len(drops),
        "probes": len(prober.done),
        "bytes": sum(probe.bytes_up + probe.bytes_down for probe in prober.done.values()),
        "seconds": seconds,
    }
