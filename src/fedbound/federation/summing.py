"""Federated rounds in which the server sees sums only: the silo's end, and the algorithm around the sum.

The sum's mean takes the place of the updates: the algorithm applies it as that of updates. In secure sums silos weigh
alike, whatever their samples: a weight would be one more sensitivity.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedbound.codecs import wire
from fedbound.exchange.blocks import Encoding
from fedbound.exchange.layout import Layout, State
from fedbound.exchange.perturb import Draw
from fedbound.exchange.summation import SumUplink
from fedbound.federation.algorithms import Client, Contribution, Mean
from fedbound.federation.resend import Resend, Sent
from fedbound.federation.silo import Silo, round_seed

if TYPE_CHECKING:
    from fedbound.models.per_example import RecordNoise
    from fedbound.models.training import LocalResult


class SumSilo(Silo):
    """A silo that sends packed integers; what it sent once is sent again, not drawn again."""

    uplink: SumUplink  # type: ignore[assignment]
    resend: Resend

    @property
    def private(self) -> bool:
        return True

    def _charge(self, round_: int, reference: State) -> int:
        assert self.ledger is not None
        if self._sent(round_, reference):
            return self.ledger.releases
        return self.ledger.charge(round_)

    def _learn(self, round_: int, reference: State, steps: int = 0) -> tuple[LocalResult, State]:
        from fedbound.models.training import LocalResult

        sent = self._sent(round_, reference)
        if sent is not None:
            return LocalResult(sent.steps, float("nan")), reference
        result, local = self._train_locally(round_, reference, steps)
        self._steps = result.steps
        return result, local

    def _train_locally(self, round_: int, reference: State, steps: int) -> tuple[LocalResult, State]:
        return super()._learn(round_, reference, steps)

    def _encode(self, local: State, reference: State, round_: int) -> tuple[Encoding, list[wire.Record]]:
        sent = self._sent(round_, reference)
        if sent is None:
            sent = Sent(self._steps, self._payload(local, reference, round_))
            self.resend.put(round_, _crc(reference), sent)
        records = [self.uplink.record(sent.payload)]
        return Encoding(records, np.zeros(0, np.float32), 0, 0.0), records

    def _payload(self, local: State, reference: State, round_: int) -> bytes:
        return self.uplink.payload(local, reference, round_)

    def _sent(self, round_: int, reference: State) -> Sent | None:
        return self.resend.find(round_, _crc(reference))


class RecordSumSilo(SumSilo):
    """A silo that sends the sum of its records' clipped gradients: one step a round, which the server makes.

    `clip` and `rate` are set by who makes it: the gradients' largest norm, and how likely a record takes part.
    """

    clip: float
    rate: float

    def _train_locally(self, round_: int, reference: State, steps: int) -> tuple[LocalResult, State]:
        from fedbound.models.training import LocalResult

        return LocalResult(1, float("nan")), reference  # the gradients are taken where they are packed, few at a time

    def _payload(self, local: State, reference: State, round_: int) -> bytes:
        from fedbound.models import per_example
        from fedbound.models.seeding import seeded
        from fedbound.models.training import resolve_device

        rng = self.uplink.draw(round_)
        index = per_example.sampled(len(self.split.train), self.rate, rng)
        found = per_example.vectors(
            self.module,
            self.split.train,
            index,
            self.clip,
            self.layout.slices,
            self.layout.size,
            self.settings.device,
        )
        with seeded(round_seed(self.seed, self.number, round_), resolve_device(self.settings.device)):
            return self.uplink.pack(found, len(self.split.train) - len(index), round_, rng)


class DpSgdSilo(Silo):
    """A silo whose local training hides each record (DP-SGD): what it sends is post-processing.

    `noise` and `draw` are set by who makes it. A round that is made again draws anew and is charged again.
    """

    noise: RecordNoise
    draw: Draw

    @property
    def private(self) -> bool:
        return True

    def _learn(self, round_: int, reference: State, steps: int = 0) -> tuple[LocalResult, State]:
        from fedbound.models import per_example

        hook = self.client.hook(self.module, reference.vector)
        seed, rng = round_seed(self.seed, self.number, round_), self.draw(round_)
        result = per_example.train(self.module, self.split.train, self.settings, self.noise, seed, rng, hook)
        return result, self._state()


def _crc(state: State) -> int:
    return zlib.crc32(np.ascontiguousarray(state.vector).data)


class MeanSource(Protocol):
    """A receiver that gives the mean of a round's updates, and none of them."""

    def clear(self) -> None:
        """Begin a round."""
        ...

    def take(self) -> np.ndarray | None:
        """The mean update, flat float64; None where there is none."""
        ...


class OfSums:
    """An algorithm whose server step is of the mean of updates, told the mean of a sum instead."""

    needs_base = False
    wants_global_loss = False

    def __init__(self, inner: Mean, receiver: MeanSource):
        self.inner = inner
        self.receiver = receiver
        self.synchronous = inner.synchronous

    def check(self, module: Any) -> None:
        self.inner.check(module)

    def client(self, layout: Layout) -> Client:
        return self.inner.client(layout)

    def begin(self, size: int, silos: int) -> None:
        self.receiver.clear()

    def fold(self, update: np.ndarray, about: Contribution) -> None:
        """The update is none: the receiver knows of the message."""

    def finish(self, model: np.ndarray) -> None:
        mean = self.receiver.take()
        if mean is not None:
            self.inner.apply(model, mean)

    def state(self) -> dict[str, np.ndarray]:
        return self.inner.state()

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.inner.restore(state)
