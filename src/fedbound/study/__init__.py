"""The study: what a user may write in YAML, and what each stage gets to read of it.

Every section model describes *one* setting: one value per key. A study may hold a list wherever a section has a scalar,
which makes a sweep; `expand` turns such a section into the list of its settings. The `*Scenario` models say which
keys a stage reads, and therefore which edits make it run again.

The parts (codecs, mechanisms, algorithms ...) are not named here: each declares its own options in its own file.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fedbound.errors import InputError, nearest, shown
from fedbound.registry import DATASETS, MODELS
from fedbound.study.exchange import Calibration, Exchange, Guard
from fedbound.study.outcome import Privacy, Report, Resources, StageResources
from fedbound.study.parts import LARGEST_SEED, Part, Section
from fedbound.study.prediction import Override, Profiling, Simulation
from fedbound.study.scenarios import (
    CalibrateScenario,
    CollectScenario,
    PrivacyScenario,
    ProfileScenario,
    SimulateScenario,
    TrainScenario,
)
from fedbound.study.sweeps import choices, expand, registry_of, seeds_of, setting
from fedbound.study.training import INTEGER_SUMS, Data, LocalTraining, Training, TrainingPrivacy

__all__ = [
    "FIXED",
    "INTEGER_SUMS",
    "KEYS",
    "LARGEST_SEED",
    "NAME",
    "OFF",
    "SWEPT",
    "CalibrateScenario",
    "Calibration",
    "CollectScenario",
    "Data",
    "Exchange",
    "Guard",
    "LocalTraining",
    "Override",
    "Part",
    "Privacy",
    "PrivacyScenario",
    "ProfileScenario",
    "Profiling",
    "Report",
    "Resources",
    "Section",
    "SimulateScenario",
    "Simulation",
    "StageResources",
    "Study",
    "TrainScenario",
    "Training",
    "TrainingPrivacy",
    "check_private_exchange",
    "check_reduced_exchange",
    "expand",
    "parse",
    "registry_of",
]

NAME = r"[a-z0-9][a-z0-9_-]{0,63}"

SWEPT: dict[str, type[Section]] = {
    "data": Data,
    "training": Training,
    "exchange": Exchange,
    "calibration": Calibration,
    "privacy": Privacy,
    "profiling": Profiling,
    "simulation": Simulation,
}
FIXED: dict[str, type[Section]] = {"resources": Resources, "report": Report}
OFF = ("privacy", "profiling", "simulation")  # sections that a study may switch off, and their stages with them
KEYS = ("study", "seeds", "data", "model", "training", "exchange", *list(SWEPT)[3:], *FIXED)


class Study(BaseModel):
    """A validated study: every section expanded to the list of its settings, in the order written; none where off."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    study: str = Field(pattern=f"^{NAME}$")
    seeds: tuple[int, ...]
    data: tuple[Data, ...]
    model: tuple[dict[str, Any], ...]
    training: tuple[Training, ...]
    exchange: tuple[Exchange, ...]
    calibration: tuple[Calibration, ...]
    privacy: tuple[Privacy, ...]
    profiling: tuple[Profiling, ...]
    simulation: tuple[Simulation, ...]
    resources: Resources
    report: Report


def parse(config: Mapping[str, Any]) -> Study:
    """Validate a study as read from YAML.

    Raises:
        InputError: with one sentence that names the first bad key, its value and the mend.
    """
    if not isinstance(config, Mapping):
        raise InputError("a study is a mapping of keys such as 'study', 'data' and 'training'; this file is none")
    for key in config:
        if key not in KEYS:
            raise InputError(f"unknown key {str(key)!r} in the study; {nearest(str(key), KEYS)}")
    name = config.get("study")
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise InputError(
            f"study: {shown(name)} is refused: give a name of at most 64 lower-case letters, digits, '-' and '_', "
            "the first a letter or digit"
        )
    swept = {key: [] if _is_off(config, key) else expand(model, config.get(key), key) for key, model in SWEPT.items()}
    if swept["simulation"] and not swept["profiling"]:
        raise InputError("profiling: off is refused: simulations are computed from a profile; say simulation: off too")
    models = tuple(choices(MODELS, config.get("model", "mlp"), "model"))
    _refuse_unreadable(swept["data"], models)
    _refuse_compressed_sums(swept["training"], swept["exchange"])
    return Study(
        study=name,
        seeds=seeds_of(config.get("seeds", [0, 1, 2])),
        model=models,
        **{key: tuple(values) for key, values in swept.items()},
        **{key: setting(model, config.get(key), key) for key, model in FIXED.items()},
    )


def _is_off(config: Mapping[str, Any], key: str) -> bool:
    """Whether the study says `key: off`, which YAML reads as false."""
    return key in OFF and config.get(key) is False


def _refuse_compressed_sums(trainings: Iterable[Training], exchanges: Iterable[Exchange]) -> None:
    """Raises InputError where updates of a sum would be sent through a codec, or be no updates."""
    for training, exchange in itertools.product(trainings, exchanges):
        if training.privacy is not None:
            check_private_exchange(training.privacy, exchange)
        if training.reduce:
            check_reduced_exchange(exchange)


def check_private_exchange(privacy: TrainingPrivacy, exchange: Exchange) -> None:
    """Raise InputError where private updates cannot be sent so.

    Raises:
        InputError: a secure sum through a lossy codec or with a residual; weights; values that cannot be clipped.
    """
    if privacy.sums and exchange.codec["name"] != "none":
        raise InputError(
            f"exchange.codec: {exchange.codec['name']!r} is refused with training.privacy.mechanism "
            f"{privacy.mechanism!r}: integers of a secure sum take no codec and no residual; set codec to none (the "
            "model's way down may have one: downlink)"
        )
    if exchange.mode == "weights":
        raise InputError(
            "exchange.mode: 'weights' is refused with training.privacy: noise is put on the clipped update; use 'delta'"
        )
    if exchange.non_finite == "lossless":
        raise InputError(
            "exchange.non_finite: 'lossless' is refused with training.privacy: NaN and infinite values cannot be "
            "clipped; use 'reject'"
        )


def check_reduced_exchange(exchange: Exchange) -> None:
    """Raise InputError where updates cannot be added up on their way.

    Raises:
        InputError: a codec either way, or values that have no sum.
    """
    for key, codec in (("codec", exchange.codec), ("downlink", exchange.downlink)):
        if codec is not None and codec["name"] != "none":
            raise InputError(
                f"exchange.{key}: {codec['name']!r} is refused with training.reduce: true, which adds up uncompressed "
                "updates; set it to 'none', or training.reduce to false"
            )
    if exchange.non_finite == "lossless":
        raise InputError(
            "exchange.non_finite: 'lossless' is refused with training.reduce: true: NaN and infinite values have no "
            "sum; use 'reject'"
        )


def _refuse_unreadable(data: Iterable[Data], models: Iterable[dict[str, Any]]) -> None:
    """Raises InputError where a model cannot read what a data set holds, tokens or numbers."""
    for one, model in itertools.product(data, models):
        holds = "tokens" if getattr(DATASETS.entry(one.dataset["name"]).factory, "tokens", False) else "numbers"
        takes = getattr(MODELS.entry(model["name"]).factory, "takes", "numbers")
        other = "transformer" if holds == "tokens" else "mlp"
        if takes not in (holds, "any"):
            raise InputError(
                f"model: {model['name']!r} takes {takes}, but the data set {one.dataset['name']!r} holds {holds}; "
                f"use {other!r} with it, or another data set"
            )
