"""Models on their way out: which copy each silo holds, and the messages that lead it to the newest one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedbound.codecs import wire
from fedbound.exchange import downlink
from fedbound.exchange.layout import Layout
from fedbound.exchange.uplink import Receiver

SERVER = -1


@dataclass(frozen=True)
class Parcel:
    """What is sent to one silo.

    Attributes:
        messages: in order; the last one says what to do.
        size: their bytes, or what they would have been without a restart.
        payload: of those, the bytes of encoded tensors.
        raw: bytes that the model would take uncompressed; 0 where the silo holds it already.
    """

    messages: list[bytearray]
    size: int
    payload: int
    raw: int


@dataclass
class Exchange:
    """The server's ends of the exchange."""

    sender: downlink.Sender
    receiver: Receiver


class Outbox:
    """The server's end of the downlink, silo by silo.

    Attributes:
        sender: encodes the model, once for all silos.
        held: silo -> version of its copy of the model; a silo that is not here holds the first one, 0.
    """

    def __init__(self, layout: Layout, sender: downlink.Sender):
        self.layout = layout
        self.sender = sender
        self.held: dict[int, int] = {}

    def parcels(
        self, commands: Mapping[int, dict[str, float]], flags: wire.Flags, round_: int
    ) -> list[tuple[int, Parcel]]:
        """What brings each silo to the newest copy, with its command; silos in the same state get the same bytes.

        Args:
            commands: silo -> the fields of its command.
            flags: what to do with the model.
            round_: that the messages name.
        """
        packed: dict[tuple[object, ...], Parcel] = {}
        found = []
        for silo, command in commands.items():
            base = self.held.get(silo, 0)
            key = (base, *command.values())
            if key not in packed:
                packed[key] = self._pack(self.sender.path(base), flags, command, round_)
            self.held[silo] = self.sender.version
            found.append((silo, packed[key]))
        return found

    def whole(self, silo: int, command: dict[str, float], flags: wire.Flags, round_: int) -> bytearray:
        """The copy as it is, for a silo that does not hold what the steps start from."""
        (message,) = self._pack([self.sender.whole()], flags, command, round_).messages
        self.held[silo] = self.sender.version
        return message

    def _pack(self, path: list[downlink.Step], flags: wire.Flags, command: dict[str, float], round_: int) -> Parcel:
        """The messages that carry the steps of `path`; the last one says what to do."""
        size = sum(step.size for step in path) + wire.FIELD_BYTES * len(command)
        payload = sum(step.payload for step in path)
        raw = 0 if path[-1].empty else self.layout.raw_bytes
        if any(step.records is None for step in path):
            path = [self.sender.whole()]  # the steps were lost in a restart, and so were the silos' copies
        messages = []
        for step in path:
            last = step is path[-1]
            fields = downlink.fields(step) | (command if last else {})
            end = flags if last else wire.Flags(0)
            message = wire.Message(wire.Kind.MODEL, SERVER, round_, step.version, step.records or [], fields, flags=end)
            messages.append(wire.pack(message))
        return Parcel(messages, size, payload, raw)
