"""Server to silo: the model as a chain of encoded steps from the copy that silos hold to the server's own.

Every silo in step holds the same copy `held`. The server sends C(model - held) and both ends add the *decoded* step to
`held` (design law 1), so what one encoding lost is part of the next step: error feedback without a residual, and the
server's own model never rounds. This is compression with a preserved model, as in MCM (Philippenko and Dieuleveut,
NeurIPS 2021, arXiv 2102.12528) with memory rate 1; DORE (Liu et al., AISTATS 2020, arXiv 1910.07561) keeps the same
kind of state. Silos train from `held`, and it is what they evaluate.

A silo that sat out some versions gets the steps that it missed, one after the other, as long as they are smaller than
the exact model; the server keeps encoded steps up to that size and no model per silo. A silo that does not hold what a
step starts from (it restarted) says so and gets the exact copy.

The first model does not travel: every rank builds it from the study's seed, and a checksum tells when one differs.
With an exact codec, and in mode "weights", each message carries the whole model instead of a step.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedbound import codecs
from fedbound.codecs import wire
from fedbound.errors import MessageError
from fedbound.exchange.blocks import Encoder, Encoding, decode_records, decoders, exact
from fedbound.exchange.layout import Layout, State

WHOLE = -1  # base of a message that carries the whole model


@dataclass(frozen=True)
class Step:
    """What leads from one version of the silos' copy to a later one.

    Attributes:
        base: version that it starts from; WHOLE where it needs none.
        version: version that it leads to.
        crc: CRC-32 of the copy that it starts from; 0 for WHOLE.
        size: bytes of the message that carries it.
        payload: of those, the bytes of its encoded blocks.
        records: its encoded blocks; None after a restart, when only its size is still known.
    """

    base: int
    version: int
    crc: int
    size: int = 0
    payload: int = 0
    records: list[wire.Record] | None = field(default=None, repr=False)

    @property
    def empty(self) -> bool:
        """Whether it leaves the copy as it is."""
        return self.base == self.version


def fields(step: Step) -> dict[str, float]:
    """The message fields from which a silo learns where the step starts."""
    return {"base_version": float(step.base), "base_crc": float(step.crc)}


class Sender:
    """The server's end. Its `held` copy and the sizes of the steps kept belong to the server's checkpoint.

    Args:
        encoder: how the blocks of a step are encoded.
        mode: "delta" sends steps where the codec is lossy, "weights" the whole model.
        initial: the model that all ranks build by themselves.
    """

    def __init__(self, encoder: Encoder, mode: str, initial: State):
        self.encoder = encoder
        self.chained = mode == "delta" and not encoder.codec.lossless
        self.held = initial.copy()
        self.version = 0
        self.steps: list[Step] = []
        self.crc = checksum(self.held)
        self.factor = 1.0  # on every bound; a bound travels with its values, so silos need not know

    def advance(self, model: State, version: int) -> Encoding | None:
        """Bring the silos' copy to `version`, as close to `model` as the bound says; None where it is there already.

        Raises:
            FederationError: the model holds NaN or infinite values and those are to be rejected.
        """
        if version == self.version:
            return None
        if self.chained:
            with np.errstate(invalid="ignore"):
                v = model.vector - self.held.vector
            encoding = self.encoder.encode(v, model.integers, self.factor)
            step = Step(self.version, version, self.crc, records=encoding.records)
            self.held.vector += encoding.decoded
        else:
            encoding = self.encoder.encode(model.vector, model.integers, self.factor)
            step = Step(WHOLE, version, 0, records=encoding.records)
            self.held.vector[:] = encoding.decoded
            self.steps = []
        self.held.integers = [array.copy() for array in model.integers]
        self.version = version
        self.crc = checksum(self.held) if self.chained else 0
        self.steps.append(_sized(step))
        self._forget()
        return encoding

    def _forget(self) -> None:
        """Steps beyond the size of the exact model will never be sent."""
        total = 0
        for index in range(len(self.steps) - 1, -1, -1):
            total += self.steps[index].size
            if total > self.encoder.layout.raw_bytes and index < len(self.steps) - 1:
                self.steps = self.steps[index + 1 :]
                return

    def path(self, base: int) -> list[Step]:
        """The steps that lead a silo from version `base` to the current one; the whole copy where none do."""
        if base == self.version:
            return [_sized(Step(base, base, self.crc, records=[]))]
        if not self.chained:
            return self.steps[-1:]
        for index, step in enumerate(self.steps):
            if step.base == base:
                return self.steps[index:]
        return [self.whole()]

    def whole(self) -> Step:
        """The silos' copy as it is, exact."""
        return _sized(Step(WHOLE, self.version, 0, records=exact(self.encoder.layout, self.held)))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What must survive a restart: arrays by name, and JSON values."""
        arrays = {"held": self.held.vector}
        arrays |= {f"held-integer-{i}": array for i, array in enumerate(self.held.integers)}
        return arrays, {
            "version": self.version,
            "steps": [[s.base, s.version, s.crc, s.size, s.payload] for s in self.steps],
        }

    def restore(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.held.vector[:] = arrays["held"]
        self.held.integers = [arrays[f"held-integer-{i}"] for i in range(len(self.held.integers))]
        self.version = meta["version"]
        self.steps = [Step(*values) for values in meta["steps"]]
        self.crc = checksum(self.held) if self.chained else 0


def _sized(step: Step) -> Step:
    message = wire.Message(wire.Kind.MODEL, -1, 0, step.version, step.records or [], fields(step))
    payload = sum(memoryview(record.payload).nbytes for record in message.records)
    return Step(step.base, step.version, step.crc, wire.size(message), payload, step.records)


class Holder:
    """A silo's end: its copy of the model, which it trains from and must not change otherwise.

    Args:
        layout: the model's layout.
        initial: the copy to begin with; it is changed in place.
        codec: the downlink's codec; None where only exact messages are accepted.
    """

    def __init__(self, layout: Layout, initial: State, codec: codecs.Codec | None = None):
        self.layout = layout
        self.state = initial
        self.version = 0
        self.crc: int | None = None  # computed when first asked for
        self._step = np.empty(0, np.float32)
        self._decoders = decoders(codec)

    def take(self, message: wire.Message) -> bool:
        """Follow one model message; False where this copy is not the one that it starts from.

        Raises:
            MessageError: its records do not decode.
        """
        base = int(message.fields.get("base_version", WHOLE))
        if base == WHOLE:
            self.state.integers = decode_records(self.layout, message, self.state.vector, self._decoders)
        else:
            if base != self.version or int(message.fields.get("base_crc", 0)) not in (0, self._checksum()):
                return False
            if message.model_version == base:
                return True
            self._follow(message)
        self.version = message.model_version
        self.crc = None
        return True

    def _follow(self, message: wire.Message) -> None:
        if not self._step.size:
            self._step = np.empty(self.layout.size, np.float32)
        self.state.integers = decode_records(self.layout, message, self._step, self._decoders)
        self.state.vector += self._step

    def _checksum(self) -> int:
        if self.crc is None:
            self.crc = checksum(self.state)
        return self.crc


def checksum(state: State) -> int:
    """CRC-32 of a model: floats, then integer tensors."""
    crc = 0
    for array in (state.vector, *state.integers):
        crc = zlib.crc32(np.ascontiguousarray(array).data, crc)
    return crc


def decode_exact(layout: Layout, message: wire.Message) -> State:
    """The whole model that a message carries.

    Raises:
        MessageError: it does not carry a whole model of this layout.
    """
    holder = Holder(layout, State(np.empty(layout.size, np.float32), []))
    if int(message.fields.get("base_version", WHOLE)) != WHOLE or not holder.take(message):
        raise MessageError("a message carries a step where the whole model was expected; it is rejected")
    return holder.state
