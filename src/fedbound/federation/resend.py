"""What a silo sent in its last rounds: a round that is made again after a kill sends the very same bytes (law 9).

A payload is on disk before it leaves, and after its charge in the ledger. So a message that may have left is found
here, and is no second release; one that is not found never left, and its making again is charged again.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from fedbound.artifacts import write_atomically

_HEAD = struct.Struct("<4sQIQI")  # magic, round, CRC of the model, local steps, CRC of the payload
_MAGIC = b"FBOB"


@dataclass(frozen=True)
class Sent:
    """One round's message: how many local steps made it, and its packed integers."""

    steps: int
    payload: bytes


class Resend:
    """One silo's.

    Args:
        stem: folder and beginning of the files' names; None keeps nothing (probes).
        keep: rounds that are kept: as many as a restart may go back.
    """

    def __init__(self, stem: Path | None, keep: int):
        self.stem = stem
        self.keep = keep

    def find(self, round_: int, model: int) -> Sent | None:
        """What was sent in that round from the model with that CRC; None where nothing was."""
        if self.stem is None or not self._file(round_).exists():
            return None
        raw = self._file(round_).read_bytes()
        if len(raw) < _HEAD.size:
            return None
        magic, number, crc, steps, check = _HEAD.unpack_from(raw)
        payload = raw[_HEAD.size :]
        if (magic, number, crc, check) != (_MAGIC, round_, model, zlib.crc32(payload)):
            return None
        return Sent(steps, payload)

    def put(self, round_: int, model: int, sent: Sent) -> None:
        """Keep a message, synced; forget the oldest."""
        if self.stem is None:
            return
        head = _HEAD.pack(_MAGIC, round_, model, sent.steps, zlib.crc32(sent.payload))
        write_atomically(self._file(round_), head + sent.payload)
        if round_ >= self.keep:
            self._file(round_ - self.keep).unlink(missing_ok=True)

    def _file(self, round_: int) -> Path:
        assert self.stem is not None
        return self.stem.with_name(f"{self.stem.name}_{round_:08d}.bin")
