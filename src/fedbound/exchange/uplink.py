"""Silo to server: delta or weights, plus the residual, encoded; and decoded into an update of the reference model.

Error feedback follows Seide et al. (Interspeech 2014) and Karimireddy et al. (ICML 2019, arXiv 1901.09847),
Algorithm 1: v = x + residual, send v' = C(v), residual <- v - v'. With a bounded codec |residual| <= bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedbound import codecs
from fedbound.codecs.guard import encode_checked
from fedbound.codecs.wire import Message, Record
from fedbound.errors import FederationError, MessageError
from fedbound.exchange.bounds import BoundRule
from fedbound.exchange.layout import Layout, State


@dataclass
class Encoding:
    """What one encoding gave.

    Attributes:
        records: one record per block, then one per integer tensor.
        decoded: flat float32 vector that the receiver will decode, bit for bit.
        violations: blocks whose first encoding broke the bound and was replaced.
        error_over_bound: largest |v - decoded| / bound over the lossy blocks.
    """

    records: list[Record]
    decoded: np.ndarray
    violations: int
    error_over_bound: float


class Uplink:
    """A silo's end. Owns the residual, which must be part of the silo's checkpoint.

    Args:
        layout: the model's layout, the same at both ends.
        codec: codec of the float blocks.
        rule: gives each block's absolute bound.
        mode: "delta" sends local - reference, "weights" sends local.
        error_feedback: whether to carry the encoding error over to the next update.
    """

    def __init__(self, layout: Layout, codec: codecs.Codec, rule: BoundRule, mode: str, error_feedback: bool):
        self.layout = layout
        self.codec = codec
        self.rule = rule
        self.mode = mode
        self.residual = np.zeros(layout.size, np.float32) if error_feedback else None

    def encode(self, local: State, reference: State) -> Encoding:
        """Encode the update that leads from `reference` to `local`, and keep what the encoding lost.

        Raises:
            FederationError: the update holds NaN or infinite values.
        """
        v = local.vector - reference.vector if self.mode == "delta" else local.vector.copy()
        if self.residual is not None:
            v += self.residual
        self._refuse_non_finite(v)
        encoding = self._encode_blocks(v)
        encoding.records += self._integer_records(local)
        if self.residual is not None:
            np.subtract(v, encoding.decoded, out=self.residual)
        return encoding

    def _refuse_non_finite(self, v: np.ndarray) -> None:
        if np.isfinite(v).all():
            return
        bad = next(name for name, part in self.layout.slices.items() if not np.isfinite(v[part]).all())
        raise FederationError(
            f"the update of tensor {bad!r} holds NaN or infinite values; lower the learning rate or check the data"
        )

    def _encode_blocks(self, v: np.ndarray) -> Encoding:
        encoding = Encoding([], np.empty_like(v), 0, 0.0)
        for index, block in enumerate(self.layout.blocks):
            values = v[block.start : block.stop]
            bound = self.rule.absolute(block, values)
            checked = encode_checked(self.codec, values, bound)
            encoding.decoded[block.start : block.stop] = checked.decoded
            encoding.violations += checked.violations
            encoding.error_over_bound = max(encoding.error_over_bound, checked.error_over_bound)
            encoding.records.append(_record(index, values, checked.codec_id, checked.bound, checked.payload))
        return encoding

    def _integer_records(self, state: State) -> list[Record]:
        codec = codecs.get("lossless")
        first = len(self.layout.blocks)
        return [
            _record(first + i, np.ascontiguousarray(array), codec.id, 0.0, codec.encode(array, 0.0))
            for i, array in enumerate(state.integers)
        ]


def _record(index: int, values: np.ndarray, codec_id: int, bound: float, payload: bytes) -> Record:
    version = codecs.by_id(codec_id).version
    return Record(index, values.dtype, values.shape, codec_id, version, bound, payload)


class Receiver:
    """The server's end: stateless, so that one serves all silos."""

    def __init__(self, layout: Layout, mode: str):
        self.layout = layout
        self.mode = mode
        self._decoders: dict[int, codecs.Codec] = {}

    def decode(self, message: Message, reference: State, out: np.ndarray) -> list[np.ndarray]:
        """Decode an update message into `out` (flat float32): the change against `reference`, in both modes.

        Returns:
            The integer tensors.

        Raises:
            MessageError: a record is missing, twice there, does not decode, or decodes to non-finite values.
        """
        arrays = decode_records(self.layout, message, out, self._decoders)
        if not np.isfinite(out).all():
            raise MessageError(f"message from silo {message.sender} decodes to NaN or infinite values; it is rejected")
        if self.mode == "weights":
            out -= reference.vector
        return arrays


def decode_records(
    layout: Layout, message: Message, out: np.ndarray, decoders: dict[int, codecs.Codec]
) -> list[np.ndarray]:
    """Decode all of a message's records: float blocks into `out`, integer tensors into the list returned.

    Raises:
        MessageError: the records are not exactly the layout's, or one does not decode.
    """
    count = len(layout.blocks) + len(layout.integers)
    if sorted(record.name for record in message.records) != list(range(count)):
        raise MessageError(
            f"message from silo {message.sender} does not hold exactly the model's {count} records; it is rejected"
        )
    integers = [np.empty(tuple(s.shape), np.dtype(s.dtype)) for s in layout.integers]
    for record in message.records:
        floats = record.name < len(layout.blocks)
        block = layout.blocks[record.name] if floats else None
        target = out[block.start : block.stop] if block else integers[record.name - len(layout.blocks)]
        decoder = decoders.get(record.codec)
        if decoder is None:
            decoder = decoders[record.codec] = codecs.get(codecs.by_id(record.codec).name)
        try:
            decoder.decode(record.payload, target)
        except ValueError as error:
            raise MessageError(
                f"message from silo {message.sender}: record {record.name} does not decode ({error}); it is rejected"
            ) from None
    return integers
