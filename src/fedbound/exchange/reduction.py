"""Updates that are added up on their way: a silo's part of the round's mean, and the server's end, which sees the sum.

Silo k puts s_k (w_k - w) into the sum, s_k being its share of all training samples, so that the sum is FedAvg's mean.
It is computed in float32 and exact up to the rounding of its additions; nothing is encoded. What else an update tells,
a model's counters among it, is sent to the server as ever, by a message without tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedbound import codecs
from fedbound.codecs.payload import all_finite
from fedbound.codecs.wire import Message
from fedbound.errors import FederationError
from fedbound.exchange.blocks import Encoder, Encoding, decode_integers
from fedbound.exchange.layout import Layout, State
from fedbound.exchange.uplink import Receiver, Uplink


class ReducedUplink(Uplink):
    """A silo's end. What is added is the change against the model received, whatever the exchange's mode.

    Args:
        encoder: knows the layout and encodes counters; nothing else is encoded.
        share: the silo's training samples over those of all silos.
    """

    def __init__(self, encoder: Encoder, share: float):
        super().__init__(encoder, "delta", error_feedback=False)
        self.share = np.float32(share)
        self._part: np.ndarray | None = None

    def encode(self, local: State, reference: State, round_: int = 0) -> Encoding:
        """Keep the part for the sum, until `take`; the encoding holds counters alone.

        Raises:
            FederationError: the update holds NaN or infinite values; the tensor is named.
        """
        part = local.vector - reference.vector
        self.encoder.check(part)
        part *= self.share
        self._part = part
        return Encoding(self.encoder.integer_records(local.integers), np.empty(0, np.float32), 0, 0.0)

    def take(self) -> np.ndarray:
        """The part, flat float32; the caller may change it.

        Raises:
            FederationError: there is none: the sum is asked for out of turn.
        """
        if self._part is None:
            raise FederationError("a silo was asked for its part of a sum and has trained for none")
        part, self._part = self._part, None
        return part


class ReducedReceiver(Receiver):
    """The server's end.

    Args:
        layout: the model's layout.
        samples: training samples of all silos, by which their shares were made.
        reduce: writes the sum of all silos' parts into a flat float32 array.
    """

    def __init__(self, layout: Layout, samples: int, reduce: Callable[[np.ndarray], None]):
        super().__init__(layout, "delta", codecs.get("none"))
        self.beside = 4 * layout.size
        self.samples = samples
        self.reduce = reduce
        self.total = np.empty(layout.size, np.float32)
        self.mean = np.empty(layout.size, np.float64)
        self.clear()

    def clear(self) -> None:
        """Begin a round."""
        self.heard = 0

    def decode(self, message: Message, out: np.ndarray, extras: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
        """Take note of one silo's message; `out` is left as it is: no single update is ever here.

        Raises:
            MessageError: it holds more than counters, or they do not decode.
        """
        integers = decode_integers(self.layout, message)
        self.heard += int(message.fields["samples"])
        return integers

    def change(self, decoded: np.ndarray, model: State) -> None:
        """Nothing was decoded."""

    def take(self) -> np.ndarray:
        """The mean update, float64 [size], good until the next call.

        Raises:
            FederationError: not all silos have trained, or the sum is not finite, although every part of it was.
        """
        if self.heard != self.samples:
            raise FederationError(
                f"silos with {self.heard} training samples have trained and the sum is of {self.samples}; the ranks do "
                "not hold the same data"
            )
        self.reduce(self.total)
        if not all_finite(self.total):
            raise FederationError(
                "the sum of the silos' finite updates holds NaN or infinite values: it overflowed, or was altered "
                "between the ranks; lower the learning rate, or set training.reduce to false"
            )
        np.copyto(self.mean, self.total)
        return self.mean
