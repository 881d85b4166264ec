"""What the server remembers of its silos: who was asked what, whose update waits, whose evaluation is missing."""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

from fedbound.codecs import wire
from fedbound.errors import MessageError

NO_LABEL = -1


class BreachError(MessageError):
    """A silo's answer belongs to nothing that it was asked: its messages and the server's are not in step any more."""


@dataclass
class Task:
    """What a silo is training on.

    Attributes:
        version: of the model that it was sent.
        size: bytes of that model's messages.
        payload: of those, the bytes of encoded tensors.
        steps: local steps asked for; 0 for the study's own.
        time: when it was sent, seconds on the run's clock.
        label: under which the silo keeps the state that its update leaves behind; NO_LABEL where it was not asked to.
    """

    version: int
    size: int
    payload: int
    steps: int
    time: float
    label: int


@dataclass
class Waiting:
    """An update that has arrived: its bytes, the message they hold, and when it came (seconds)."""

    buffer: Any
    message: wire.Message
    time: float


@dataclass(frozen=True)
class Command:
    """What a silo was asked to do with the model of a version."""

    version: int
    flags: wire.Flags
    fields: dict[str, float]


class Asked:
    """Commands without an answer, silo by silo; answers come in the order of the commands."""

    def __init__(self) -> None:
        self.queues: dict[int, deque[Command]] = {}

    def add(self, silo: int, command: Command) -> None:
        self.queues.setdefault(silo, deque()).append(command)

    def owes(self, silo: int) -> bool:
        """Whether an answer of `silo` is awaited."""
        return bool(self.queues.get(silo))

    def oldest(self, silo: int) -> Command | None:
        """The command that the next message of `silo` answers, taken from the queue; None where there is none."""
        return self.queues[silo].popleft() if self.owes(silo) else None

    def answered(self, silo: int, kind: wire.Kind) -> Command:
        """The command that a message of this kind answers.

        Raises:
            BreachError: there is none, or it asks for another kind of answer.
        """
        command = self.oldest(silo)
        if command is None:
            raise BreachError(f"silo {silo} sent an answer to nothing that it was asked")
        wanted = wire.Kind.UPDATE if command.flags & wire.Flags.TRAIN else wire.Kind.EVALUATION
        if kind not in (wanted, wire.Kind.RESYNC):
            raise BreachError(f"silo {silo} sent a message of kind {kind.name} where {wanted.name} was awaited")
        return command


@dataclass
class Evaluations:
    """Which versions are being evaluated, and by whom.

    Attributes:
        missing: version -> silos whose evaluation is still to come.
        incomplete: versions whose evaluation some silo never finished.
        latest: the newest version that was sent out for evaluation.
    """

    missing: dict[int, set[int]] = field(default_factory=dict)
    incomplete: set[int] = field(default_factory=set)
    latest: int = -1

    def begin(self, version: int, silos: Set[int]) -> None:
        """All of `silos` are asked to evaluate `version`."""
        self.missing[version] = set(silos)
        self.latest = version

    def pending(self) -> bool:
        """Whether some evaluation is still to come."""
        return any(self.missing.values())

    def arrived(self, version: int, silo: int) -> bool:
        """Note one; False where it is not awaited, as one of before a restart."""
        silos = self.missing.get(version, set())
        if silo not in silos:
            return False
        silos.discard(silo)
        return True

    def give_up(self, silo: int, of: int | None = None) -> None:
        """That silo will not evaluate that version, or any that it was asked to."""
        for version, silos in self.missing.items():
            if silo in silos and of in (None, version):
                silos.discard(silo)
                self.incomplete.add(version)

    def unfinished(self) -> set[int]:
        """Versions that are not, or not yet, evaluated by all that were asked."""
        return self.incomplete | {version for version, silos in self.missing.items() if silos}
