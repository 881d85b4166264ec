"""Silo to server: delta or weights, plus the residual, encoded; and decoded into an update of the reference model.

Error feedback follows Seide et al. (Interspeech 2014) and Karimireddy et al. (ICML 2019, arXiv 1901.09847),
Algorithm 1: v = x + residual, send v' = C(v), residual <- v - v'. With a bounded codec |residual| <= bound.
A silo that sits out some rounds keeps its residual: it is added to the next update that the silo sends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from fedbound import codecs
from fedbound.codecs.wire import Message
from fedbound.errors import MessageError
from fedbound.exchange.blocks import Encoder, Encoding, decode_records, decoders
from fedbound.exchange.layout import Layout, State
from fedbound.exchange.perturb import Perturbation


class Uplink:
    """A silo's end. Owns the residual, which must be part of the silo's checkpoint.

    Args:
        encoder: how blocks are encoded.
        mode: "delta" sends local - reference, "weights" sends local.
        error_feedback: whether to carry the encoding error over to the next update.
        perturb: clips and noises updates before anything else; only in mode "delta".
    """

    def __init__(self, encoder: Encoder, mode: str, error_feedback: bool, perturb: Perturbation | None = None):
        self.perturb = perturb
        self.encoder = encoder
        self.mode = mode
        self.residual = np.zeros(encoder.layout.size, np.float32) if error_feedback else None
        self.error_norm = 0.0  # L2 norm of what the last encoding lost
        self.factor = 1.0  # on every bound; the server's guard says it with each model

    def encode(self, local: State, reference: State, round_: int = 0) -> Encoding:
        """Encode the update that leads from `reference` to `local` in a round, and keep what the encoding lost.

        Raises:
            FederationError: the update holds NaN or infinite values and those are to be rejected.
        """
        v = local.vector - reference.vector if self.mode == "delta" else local.vector.copy()
        if self.perturb is not None:
            self.perturb.apply(v, round_)
        if self.residual is not None:
            v += self.residual
        encoding = self.encoder.encode(v, local.integers, self.factor)
        error = lost(v, encoding.decoded)
        self.error_norm = float(np.linalg.norm(error))
        if self.residual is not None:
            self.residual[:] = error
        return encoding

    def encode_extra(self, vector: np.ndarray, number: int) -> Encoding:
        """Encode a further vector (flat float32) that goes with the update, as it is and without error feedback."""
        encoding = self.encoder.encode(vector, [], self.factor)
        first = self.encoder.layout.extra(number)
        encoding.records = [dataclasses.replace(record, name=first + record.name) for record in encoding.records]
        return encoding


def lost(v: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """v - decoded, written into `v`; 0 where a value is not finite, which is always sent exactly."""
    with np.errstate(invalid="ignore"):
        np.subtract(v, decoded, out=v)
    if not np.isfinite(v).all():
        v[~np.isfinite(v)] = 0.0
    return v


class Receiver:
    """The server's end: stateless, so that one serves all silos.

    Args:
        layout: the model's layout.
        mode: "delta" or "weights", as the silos send.
        codec: the codec that silos use; besides it, only exact ones are accepted.
        non_finite: "reject" refuses updates that decode to NaN or infinities, "lossless" lets them through.
        extras: further vectors that come with each update.

    Attributes:
        beside: bytes of an update that leave the silo, but not in its message.
    """

    beside: int = 0

    def __init__(self, layout: Layout, mode: str, codec: codecs.Codec, non_finite: str = "reject", extras: int = 0):
        self.layout = layout
        self.mode = mode
        self.non_finite = non_finite
        self.extras = extras
        self._decoders = decoders(codec)

    def expected(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each record of an update, by name index."""
        return self.layout.expected(self.extras)

    def decode(self, message: Message, out: np.ndarray, extras: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
        """Decode an update message into `out` (flat float32) as it was sent: a change, or weights.

        Args:
            message: the update.
            out: written.
            extras: written: the further vectors, flat float32.

        Returns:
            The integer tensors.

        Raises:
            MessageError: a record is missing, twice there, does not decode, or decodes to non-finite values.
        """
        arrays = decode_records(self.layout, message, out, self._decoders, extras)
        if self.non_finite == "reject" and not all(np.isfinite(vector).all() for vector in (out, *extras)):
            raise MessageError(f"message from silo {message.sender} decodes to NaN or infinite values; it is rejected")
        return arrays

    def local(self, decoded: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """The silo's model as both ends know it, from what was decoded and the copy that the silo trained on."""
        return sent_model(self.mode, decoded, reference)

    def change(self, decoded: np.ndarray, model: State) -> None:
        """Make of what was decoded, in place, the change to be made to the global model.

        In mode "delta" that is the change against the copy that the silo trained on; in mode "weights" the received
        weights minus the global `model`, so that the mean of the changes leads to the mean of the weights.
        """
        if self.mode == "weights":
            decoded -= model.vector


def sent_model(mode: str, decoded: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The silo's model as the server decodes it; both ends compute it by this same operation (design law 1)."""
    return reference + decoded if mode == "delta" else decoded.copy()
