"""Short federated runs in one process, paired by seed: what calibration learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedbound import data, study
from fedbound.errors import FederationError, InputError
from fedbound.exchange.layout import Layout, State
from fedbound.federation.assembly import Assembly
from fedbound.federation.records import fairness

LAST = 3  # evaluations that a probe's accuracy is the mean of: one alone is noisy


@dataclass(frozen=True)
class Probe:
    """One probe's outcome.

    Attributes:
        scale: relative bound; 0 for the uncompressed run.
        seed: the run's seed.
        accuracy: validation accuracy over all silos' samples, mean of the last three evaluations.
        spread: standard deviation over silos of their validation accuracy at the end.
        bytes_up, bytes_down: bytes each way, headers included.
        raw_up: those of the uplink uncompressed.
        model: the final model.
    """

    scale: float
    seed: int
    accuracy: float
    spread: float
    bytes_up: int
    bytes_down: int
    raw_up: int
    model: State


class Prober:
    """Runs probes of one scenario and remembers them."""

    def __init__(self, scenario: study.CalibrateScenario):
        self.scenario = scenario
        self.federation = data.federation(scenario.data)
        self.done: dict[tuple[float, int], Probe] = {}
        if not sum(len(silo.validation) for silo in self.federation.silos):
            raise InputError(
                f"data.validation: {scenario.data.validation:g} leaves no validation samples to calibrate on; raise it"
            )

    def assembly(self, scale: float, seed: int) -> Assembly:
        s = self.scenario
        if scale:
            exchange = study.Exchange(
                codec=s.calibration.codec,
                mode=s.mode,
                error_feedback=s.error_feedback,
                bound=scale,
                **self._downlink(scale),
            )
        else:
            exchange = study.Exchange(codec="none", mode=s.mode)
        training = study.Training(**s.training.model_dump(), rounds=s.calibration.rounds)
        return Assembly(s.data, s.model, training, exchange, seed, source=self.federation)

    def _downlink(self, scale: float) -> dict[str, Any]:
        s = self.scenario
        if s.downlink_bound == "calibrated":
            return {"downlink": s.downlink, "downlink_bound": scale, "bound_mode": "rel"}
        return {"downlink": s.downlink, "downlink_bound": s.downlink_bound, "bound_mode": s.bound_mode}

    def probe(self, scale: float, seed: int) -> Probe:
        """The run at `scale` with `seed`, made at most once.

        Raises:
            InputError: the uncompressed run does not train (its loss is not finite).
        """
        if (scale, seed) not in self.done:
            self.done[scale, seed] = self._run(scale, seed)
        return self.done[scale, seed]

    def _run(self, scale: float, seed: int) -> Probe:
        assembly = self.assembly(scale, seed)
        server = assembly.server(assembly.local())
        rows = server.records.rows
        diverged = False
        try:
            server.run()
        except FederationError as error:
            if "NaN or infinite" not in str(error):
                raise
            diverged = True
        if not scale and (diverged or not np.isfinite([row["train_loss"] for row in rows["silos"]]).all()):
            raise InputError(
                f"training.learning_rate: {self.scenario.training.learning_rate:g} makes the uncompressed run diverge "
                "(its loss is NaN); lower it before calibrating"
            )
        sent = sum(row["bytes_up"] for row in rows["silos"])
        down = sum(row["bytes_down"] for row in rows["rounds"])
        raw = sum(row["raw_up"] for row in rows["silos"])
        if diverged:  # a bound at which training breaks down keeps nothing
            return Probe(scale, seed, 0.0, 0.0, max(sent, 1), down, raw, server.model)
        by_round: dict[int, dict[str, float]] = {}
        for round_ in sorted({row["round"] for row in rows["evaluations"]})[-LAST:]:
            found = [row for row in rows["evaluations"] if row["round"] == round_ and row["validation_samples"]]
            by_round[round_] = fairness(
                [row["validation_accuracy"] for row in found], [row["validation_samples"] for row in found], [0.0]
            )
        return Probe(
            scale,
            seed,
            float(np.mean([figures["accuracy"] for figures in by_round.values()])),
            by_round[max(by_round)]["accuracy_sd"],
            sent,
            down,
            raw,
            server.model,
        )

    def drops(self, scale: float) -> list[float]:
        """Accuracy drops in percentage points against the uncompressed runs of the same seeds."""
        seeds = self.scenario.calibration.seeds
        return [100 * (self.probe(0.0, s).accuracy - self.probe(scale, s).accuracy) for s in seeds]


def first_updates(prober: Prober, seed: int) -> tuple[Layout, list[np.ndarray]]:
    """The layout and each silo's update of the first round, uncompressed (flat float32)."""
    assembly = prober.assembly(0.0, seed)
    reference = assembly.initial_state()
    updates = []
    for number in range(prober.scenario.data.silos):
        silo = assembly.silo(number)
        local = silo.train_from(reference, 0)
        delta = prober.scenario.mode == "delta"
        updates.append(local.vector - reference.vector if delta else local.vector)
    return assembly.layout, updates
