"""Federated runs in one process, paired by seed: what calibration learns from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedbound import data, study
from fedbound.artifacts import Artifact
from fedbound.calibration import folds
from fedbound.calibration.shape import Shape
from fedbound.calibration.watch import Aggregate, watch
from fedbound.errors import FederationError, InputError
from fedbound.exchange.downlink import Sender
from fedbound.exchange.layout import Layout, State
from fedbound.federation.assembly import Assembly
from fedbound.federation.server import Server

LAST = 5  # evaluations that a probe's accuracy is the mean of: one alone is noisy


@dataclass(frozen=True)
class Probe:
    """One probe's outcome.

    Attributes:
        scale: relative bound; 0 for the uncompressed run.
        seed: the run's seed.
        correct: per held-out sample, silo by silo: share of the last five evaluations that were right (float64).
        by_silo: each silo's mean of that.
        bytes_up, bytes_down: bytes each way, headers included.
        raw_up: those of the uplink uncompressed.
        bits: bits per value that were sent, by direction, silo (-1 downlink) and block; mean over rounds.
        aggregates: measured and predicted error of each aggregate; empty for the uncompressed run.
        model: the final model.
    """

    scale: float
    seed: int
    correct: np.ndarray
    by_silo: np.ndarray
    bytes_up: int
    bytes_down: int
    raw_up: int
    bits: Mapping[tuple[str, int, str], float]
    aggregates: list[Aggregate]
    model: State

    @property
    def accuracy(self) -> float:
        """Accuracy over all held-out samples."""
        return float(self.correct.mean())

    @property
    def spread(self) -> float:
        """Standard deviation over silos of their own accuracy."""
        return float(self.by_silo.std())

    @property
    def worst(self) -> float:
        """The worst silo's own accuracy."""
        return float(self.by_silo.min())


class Prober:
    """Runs probes of one scenario and remembers them.

    Each of the calibration's seeds holds out another fold (folds.py), of as many samples as the study's validation
    part; any other seed the study's own part.

    Args:
        scenario: what is calibrated.
        shape: how the scale is spread over tensors and silos; set by the stage before lossy probes.

    Attributes:
        tested: test samples of all silos, which probes never touch.
    """

    def __init__(self, scenario: study.CalibrateScenario, shape: Shape | None = None):
        self.scenario = scenario
        self.shape = shape or Shape(rule=scenario.calibration.rule)
        self.federation = data.federation(scenario.data)
        self.done: dict[tuple[float, int], Probe] = {}
        sizes = [len(silo.validation) for silo in self.federation.silos]
        if not sum(sizes):
            raise InputError(
                f"data.validation: {scenario.data.validation:g} leaves no validation samples to calibrate on; raise it"
            )
        self.owner = np.repeat(np.arange(len(sizes)), sizes)
        self.tested = sum(len(silo.test) for silo in self.federation.silos)
        self.folds = folds.count(self.federation)
        self._rotated: tuple[int, data.Federation] = (0, self.federation)

    def fold(self, seed: int) -> int:
        """The fold that probes of `seed` hold out."""
        seeds = self.scenario.calibration.seeds
        return seeds.index(seed) % self.folds if seed in seeds else 0

    def _split(self, seed: int) -> data.Federation:
        """The silos' samples as the probes of `seed` have them; only the last ones are kept."""
        fold = self.fold(seed)
        if self._rotated[0] != fold:
            self._rotated = (fold, folds.rotated(self.federation, fold))
        return self._rotated[1]

    def assembly(self, scale: float, seed: int) -> Assembly:
        """The federation at `scale`; 0 is uncompressed."""
        s = self.scenario
        training = study.Training(
            **s.training.model_dump(), rounds=s.calibration.rounds, evaluate_every=s.calibration.rounds
        )
        if not scale:
            exchange = study.Exchange(codec="none", mode=s.mode)
            return Assembly(s.data, s.model, training, exchange, seed, source=self._split(seed))
        exchange = study.Exchange(
            codec=s.calibration.codec,
            mode=s.mode,
            error_feedback=s.error_feedback,
            bound="calibrated",
            downlink=s.downlink,
            downlink_bound=s.downlink_bound,
            bound_mode=s.bound_mode,
        )
        layout = self.assembly(0.0, seed).layout
        bounds = Artifact("calibrate", s.study, {}, None, {"bounds": self.shape.table(layout, scale)}, {}, {})
        return Assembly(s.data, s.model, training, exchange, seed, bounds, source=self._split(seed))

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
        last = self._listen(server, assembly.module(), assembly.silos)
        aggregates = watch(server) if scale else []
        diverged = False
        try:
            server.run()
        except FederationError as error:
            if "NaN or infinite" not in str(error):
                raise
            diverged = True
        rows = server.records.rows
        if not scale and (diverged or not np.isfinite([row["train_loss"] for row in rows["silos"]]).all()):
            raise InputError(
                f"training.learning_rate: {self.scenario.training.learning_rate:g} makes the uncompressed run diverge "
                "(its loss is NaN); lower it before calibrating"
            )
        # a bound at which training breaks down keeps nothing
        correct = np.zeros(len(self.owner)) if diverged else np.mean(last, axis=0)
        held = np.unique(self.owner)
        return Probe(
            scale,
            seed,
            correct,
            np.array([correct[self.owner == silo].mean() for silo in held]),
            max(1, sum(row["bytes_up"] for row in rows["silos"])),
            sum(row["bytes_down"] for row in rows["rounds"]),
            sum(row["raw_up"] for row in rows["silos"]),
            _bits(server),
            aggregates,
            server.model,
        )

    def _listen(self, server: Server, module: Any, silos: data.Federation) -> list[np.ndarray]:
        """Fills with the correctness of the last models that the silos hold, as the server runs."""
        found: list[np.ndarray] = []
        held = folds.held_out(silos)
        first = self.scenario.calibration.rounds - LAST + 1

        def moved(sender: Sender) -> None:
            if sender.version >= first:
                found.append(_correct(module, server.layout, sender.held, held))

        server.sender = _Listener(server.sender, moved)  # type: ignore[assignment]
        return found

    def drops(self, scale: float, seed: int) -> np.ndarray:
        """Percentage points that each held-out sample loses against the uncompressed run of the same seed."""
        found: np.ndarray = 100 * (self.probe(0.0, seed).correct - self.probe(scale, seed).correct)
        return found


class _Listener:
    """A downlink sender that says when the copy that all silos hold has moved on."""

    def __init__(self, sender: Sender, moved: Callable[[Sender], None]):
        self._sender, self._moved = sender, moved

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sender, name)

    def advance(self, model: State, version: int) -> Any:
        before = self._sender.version
        encoding = self._sender.advance(model, version)
        if self._sender.version > before:
            self._moved(self._sender)
        return encoding


def _correct(module: Any, layout: Layout, model: State, split: data.Split) -> np.ndarray:
    """The share of each sample's predictions that `model` gets right, float64."""
    from fedbound.models.state import set_state
    from fedbound.models.training import right

    set_state(module, layout.unflatten(model))
    return right(module, split)


def _bits(server: Server) -> dict[tuple[str, int, str], float]:
    """Mean bits per value by direction, silo and block."""
    sums: dict[tuple[str, int, str], list[int]] = {}
    for row in server.records.rows["tensors"]:
        total = sums.setdefault((row["direction"], row["silo"], row["block"]), [0, 0])
        total[0] += 8 * row["bytes"]
        total[1] += row["values"]
    return {key: bits / values for key, (bits, values) in sums.items()}


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
