"""Updates as integers for a sum modulo 2^b: a silo's end, and the server's, which decodes one sum a round.

Order: update -> clip -> rotate -> scale -> round -> + noise share -> modulo 2^b -> packed bits. No residual is kept and
no codec compresses: the integers are uniform to the eye, and the sum is taken in them.

Secure aggregation is simulated: the messages are no ciphertexts, and the server as coded could look at each of them. It
does not: it adds them modulo 2^b, keeps their running sum alone, and decodes it once, when the round is complete.
Epsilon holds against whoever sees the sums; against a server that looks at single messages it is far larger.

The rotation's signs follow from the run's seed and the round, and are public; no guarantee depends on them. The noise
never follows from that seed, but under `insecure_seed`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fedbound import codecs
from fedbound.codecs.wire import Message, Record
from fedbound.errors import FederationError, MessageError
from fedbound.exchange import packing
from fedbound.exchange.layout import Layout, State
from fedbound.exchange.perturb import Draw
from fedbound.exchange.uplink import Receiver
from fedbound.privacy import transforms
from fedbound.privacy.sums import Sum, Vectors

BLOCK = "sum modulo 2^b"


def signs(seed: int, round_: int, size: int) -> np.ndarray:
    """The round's rotation, float64 [size]; public."""
    return transforms.random_signs(size, np.random.default_rng(np.random.SeedSequence([seed, round_, 0x5167])))


class SumUplink:
    """A silo's end.

    Args:
        layout: the model's layout.
        sum_: the mechanism.
        draw: gives the generator of a round's noise.
        seed: the run's seed, of the public rotations.
    """

    mode = "delta"
    factor = 1.0  # of bounds: there are none
    error_norm = 0.0  # of a codec: there is none
    perturb = None
    residual = None

    def __init__(self, layout: Layout, sum_: Sum, draw: Draw, seed: int):
        self.layout = layout
        self.sum = sum_
        self.draw = draw
        self.seed = seed

    def payload(self, local: State, reference: State, round_: int) -> bytes:
        """The update that leads from `reference` to `local`, noised and packed.

        Raises:
            FederationError: the update holds NaN or infinite values.
        """
        update = local.vector.astype(np.float64) - reference.vector
        if not np.isfinite(update).all():
            raise FederationError("the update holds NaN or infinite values, which cannot be clipped")
        return self.pack(update[None, :], 0, round_, self.draw(round_))

    def pack(self, vectors: Vectors, absent: int, round_: int, rng: np.random.Generator) -> bytes:
        """Vectors float64 [k, d], and how many were not sampled, as the silo's packed message."""
        plan = self.sum.plan
        return packing.pack(self.sum.encode(vectors, absent, signs(self.seed, round_, plan.size), rng), plan.bits)

    def record(self, payload: bytes) -> Record:
        """The one record of an update message: bytes, after all indices that the layout knows."""
        codec = codecs.get("none")
        return Record(self.layout.extra(0), np.dtype("u1"), (len(payload),), codec.id, codec.version, 0.0, payload)


class SumLog:
    """Which silos each round's sum was taken over, on disk before it is decoded, never rolled back.

    Two sums of one round over different silos would differ by what the others sent, with their own noise alone.
    """

    def __init__(self, file: Path | None = None):
        self.file = file
        self.taken: dict[int, list[int]] = {}
        lines = file.read_text(encoding="utf-8").splitlines() if file and file.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # cut short by a kill: nothing was decoded after it
            self.taken[entry["round"]] = entry["silos"]

    def note(self, round_: int, silos: list[int]) -> None:
        """Fix the silos of a round's sum.

        Raises:
            FederationError: the sum was taken over others before a restart.
        """
        known = self.taken.get(round_)
        if known is not None:
            if known != silos:
                raise FederationError(
                    f"round {round_ + 1} was summed over the silos {known} before a restart and cannot be summed over "
                    f"{silos}: the difference would show single silos' updates; delete the checkpoints to start afresh"
                )
            return
        if self.file is not None:
            with open(self.file, "a", encoding="utf-8") as stream:
                stream.write("\n" + json.dumps({"round": round_, "silos": silos}) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        self.taken[round_] = silos


class SumReceiver(Receiver):
    """The server's end: a running sum of integers, and at most one message unpacked besides.

    Args:
        layout: the model's layout.
        sum_: the mechanism.
        seed: the run's seed, of the public rotations.
        vectors: how many vectors each silo's message is of, absent ones included.
        mean: makes the mean update of the sum and the silos in it.
        log: which silos were summed.
    """

    def __init__(
        self,
        layout: Layout,
        sum_: Sum,
        seed: int,
        vectors: Sequence[int],
        mean: Callable[[np.ndarray, list[int]], np.ndarray],
        log: SumLog,
    ):
        super().__init__(layout, "delta", codecs.get("none"))
        self.sum = sum_
        self.seed = seed
        self.vectors = vectors
        self.mean = mean
        self.log = log
        self.clear()

    def clear(self) -> None:
        """Start a sum."""
        self.total = np.zeros(self.sum.plan.size, np.int64)
        self.silos: list[int] = []
        self.round = -1

    def expected(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of records by name index."""
        plan = self.sum.plan
        return [*self.layout.expected(), ((packing.packed_bytes(plan.size, plan.bits),), np.dtype("u1"))]

    def decode(self, message: Message, out: np.ndarray, extras: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
        """Add a message to the sum; `out` is left as it is: no single update is ever decoded.

        Raises:
            MessageError: it is no message of this sum, or of a silo that the round was summed without before a restart.
        """
        plan, who = self.sum.plan, f"message from silo {message.sender}"
        if [record.name for record in message.records] != [self.layout.extra(0)]:
            raise MessageError(f"{who} is not the packed integers of a sum alone; it is rejected")
        if self.silos and message.round != self.round:
            raise MessageError(f"{who} is of round {message.round} in the sum of round {self.round}; it is rejected")
        if message.sender not in self.log.taken.get(message.round, [message.sender]):
            raise MessageError(f"{who}: round {message.round + 1} was summed without it before; it is rejected")
        record = message.records[0]
        if record.codec != codecs.get("none").id:
            raise MessageError(f"{who}: packed integers are of codec {record.codec}; it is rejected")
        try:
            codes = packing.unpack(record.payload, plan.size, plan.bits)
        except ValueError as error:
            raise MessageError(f"{who}: the packed integers do not decode ({error}); it is rejected") from None
        self.round = message.round
        self.total += codes
        self.total &= (1 << plan.bits) - 1
        self.silos.append(message.sender)
        return []

    def change(self, decoded: np.ndarray, model: State) -> None:
        """Nothing was decoded."""

    def take(self) -> np.ndarray | None:
        """The mean update, float64 [size], from the sum; None where nothing was summed.

        Raises:
            FederationError: the round was summed over other silos before a restart.
        """
        if not self.silos:
            return None
        silos = sorted(self.silos)
        self.log.note(self.round, silos)
        count = sum(self.vectors[silo] for silo in silos)
        return self.mean(self.sum.decode(self.total, count, signs(self.seed, self.round, self.sum.plan.size)), silos)
