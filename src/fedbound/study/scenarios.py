"""What each stage gets to read of a study, and therefore which edits make it run again."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedbound.errors import InputError
from fedbound.registry import DATASETS
from fedbound.study.exchange import Calibration, Exchange
from fedbound.study.outcome import Privacy, Report
from fedbound.study.parts import Codec, Model, Section, Seed
from fedbound.study.prediction import Profiling, Simulation
from fedbound.study.training import Data, LocalTraining, Training


class ProfileScenario(Section):
    """What `fedbound profile` reads."""

    study: str
    data: Data
    model: Model
    training: LocalTraining
    exchange: Exchange
    profiling: Profiling


class CalibrateScenario(Section):
    """What `fedbound calibrate` reads.

    A downlink whose bound is to be calibrated shares the search with the uplink: one scale for both directions.
    `bound_mode` belongs to a downlink bound that is a number.
    """

    study: str
    data: Data
    model: Model
    training: LocalTraining
    mode: Literal["delta", "weights"]
    error_feedback: bool
    downlink: Codec
    downlink_bound: float | Literal["calibrated"] | None
    bound_mode: Literal["rel", "abs", "rel_quantile", "std", "ratio"] | None
    calibration: Calibration

    def check(self) -> None:
        """Refuse, before any job, what no calibration can work with.

        Raises:
            InputError: there is but one silo, no sample is held out, or texts would be revealed with noise for labels.
        """
        if self.data.silos < 2:
            raise InputError(
                "data.silos: 1 silo has no federation to calibrate; use at least 2, or give exchange.bound as a number"
            )
        tokens = getattr(DATASETS.entry(self.data.dataset["name"]).factory, "tokens", False)
        if tokens and self.calibration.reveal_epsilon is not None:
            raise InputError(
                f"calibration.reveal_epsilon: {self.calibration.reveal_epsilon:g} is refused with the data set "
                f"{self.data.dataset['name']!r}: its noise is for samples of one label each; remove it, or use silos: "
                "uniform"
            )
        if not self.data.validation:
            raise InputError(
                "data.validation: 0 leaves no validation samples to calibrate on; raise it, or give exchange.bound as "
                "a number"
            )


class TrainScenario(Section):
    """What `fedbound train` reads; `calibration` is the one whose bounds a calibrated exchange takes, else None.

    Training needs only the bounds themselves, an input of the job; their origin is here so that runs under two
    calibrations are two scenarios, in the artifact as in the report.
    """

    study: str
    data: Data
    model: Model
    training: Training
    exchange: Exchange
    calibration: Calibration | None = None
    seed: Seed


class PrivacyScenario(Section):
    """What `fedbound privacy` reads."""

    study: str
    privacy: Privacy


class SimulateScenario(Section):
    """What `fedbound simulate` reads."""

    study: str
    silos: int = Field(ge=1)
    exchange: Exchange
    simulation: Simulation


class CollectScenario(Section):
    """What `fedbound collect` reads."""

    study: str
    report: Report
