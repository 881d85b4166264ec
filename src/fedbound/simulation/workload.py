"""What every client and the server have to do in a round: measured seconds and bytes, for a few silos or for many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedbound.artifacts import Artifact
from fedbound.errors import InputError
from fedbound.simulation.cores import Cores
from fedbound.simulation.draws import Pool
from fedbound.simulation.platform import PerClient, vector

if TYPE_CHECKING:
    import pandas as pd

_MATCHED = ("algorithm", "local_epochs", "batch_size", "optimizer", "device")  # training keys that change a step's cost

_SERVER = ("decode_seconds", "aggregate_seconds", "message_seconds", "message_byte_seconds", "downlink_seconds")


@dataclass(frozen=True)
class Workload:
    """Costs of one round; a single number serves all n clients.

    Attributes:
        train_seconds: (n,) float64, local training of `steps` steps.
        encode_seconds: (n,) float64, encoding the update.
        evaluate_seconds: (n,) float64, evaluating the received model.
        up_bytes: (n,) float64, update message, header included.
        down_bytes: (n,) float64, model message, header included.
        decode_seconds: server time to decode one update.
        aggregate_seconds: server time to fold one decoded update.
        message_seconds: server time for each message that is neither decoding nor folding.
        message_byte_seconds: and for each of its bytes: packing, copying, checking.
        steps: local steps that train_seconds stands for; a scheduler that asks for other steps scales by them.
        other_seconds: (n,) float64, what else a round costs a client: packing, saving.
        load_seconds: (n,) float64, decoding the model message.
        downlink_seconds: server time to encode the model, once for each version that is sent.
        variation: factors, equally likely, one of which is drawn for each task's training time; None for no variation.
        seed: of those draws.
        cores: which clients share a node's cores, and how much slower they are then; None: none do. Loading,
            evaluating, training and encoding are what is slowed down.

    Raises:
        InputError: a time is negative, a size not positive, or either no finite number.
    """

    train_seconds: np.ndarray
    encode_seconds: PerClient
    evaluate_seconds: PerClient
    up_bytes: PerClient
    down_bytes: PerClient
    decode_seconds: float = 0.0
    aggregate_seconds: float = 0.0
    message_seconds: float = 0.0
    steps: float = 1.0
    other_seconds: PerClient = 0.0
    load_seconds: PerClient = 0.0
    downlink_seconds: float = 0.0
    variation: np.ndarray | None = None
    seed: int = 0
    message_byte_seconds: float = 0.0
    cores: Cores | None = None

    def __post_init__(self) -> None:
        count = len(np.atleast_1d(self.train_seconds))
        for key in ("train_seconds", "encode_seconds", "evaluate_seconds", "other_seconds", "load_seconds"):
            object.__setattr__(self, key, vector(key, getattr(self, key), count, "seconds from 0", lambda x: x >= 0))
        for key in ("up_bytes", "down_bytes"):
            object.__setattr__(self, key, vector(key, getattr(self, key), count, "bytes above 0", lambda x: x > 0))
        if self.variation is not None:
            good = vector("variation", self.variation, None, "factors from 0", lambda x: x >= 0)
            object.__setattr__(self, "variation", good)
        for key in _SERVER:
            if not 0 <= getattr(self, key) < np.inf:
                raise InputError(f"{key}: {getattr(self, key)} is refused; give seconds from 0")
        if self.cores is not None and len(self.cores.node) != count:
            raise InputError(f"cores.node: {len(self.cores.node)} clients are refused; give a node to each of {count}")
        if not 0 < self.steps < np.inf:
            raise InputError(f"steps: {self.steps} is refused; give a number above 0")

    def __len__(self) -> int:
        return len(self.train_seconds)

    def pool(self) -> Pool | None:
        """Where each task's factor is drawn from; None without variation."""
        return None if self.variation is None else Pool(self.variation, self.seed)


def check_match(profile: Artifact, run: Artifact) -> None:
    """Refuse a profile that was measured on other work than the run's.

    Raises:
        InputError: naming what differs.
    """
    for key in ("data", "model"):
        _check_equal(key, profile.scenario.get(key), run.scenario.get(key))
    theirs, ours = profile.scenario.get("training", {}), run.scenario.get("training", {})
    for key in _MATCHED:
        _check_equal(f"training.{key}", theirs.get(key), ours.get(key))
    codecs = [artifact.scenario.get("exchange", {}).get("codec") for artifact in (profile, run)]
    _check_equal("exchange.codec", *codecs)


def _check_equal(key: str, profiled: object, trained: object) -> None:
    if profiled != trained:
        raise InputError(
            f"the profile was measured with {key} {_short(profiled)} but the run was made with {_short(trained)}; "
            "give the profile of the run's own study"
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def variation(profile: Artifact) -> np.ndarray | None:
    """Each training time of a silo alone on its node over that silo's median; None where nothing varied."""
    shared = profile["sharing"]
    silos = shared[shared["kind"] == "alone"]
    medians = silos.groupby("silo").train_seconds.transform("median")
    factors: np.ndarray = (silos.train_seconds / medians)[medians > 0].to_numpy(np.float64)
    return factors if len(factors) and (factors != 1).any() else None


def silo_costs(profile: Artifact) -> pd.DataFrame:
    """The profile's table "costs", one row per silo, in the order of silos."""
    return profile["costs"].sort_values("silo")


def evaluate_every(run: Artifact) -> int:
    """Rounds between two evaluations of the run."""
    return int(run.scenario["training"]["evaluate_every"])
