"""What the silos keep on disk, as the server knows it: a restart needs the state behind each silo's newest update."""

from __future__ import annotations

from collections.abc import Mapping

from fedbound.federation.desk import NO_LABEL, Task


class Kept:
    """The silos' saved states.

    Attributes:
        labels: silo -> label under which it keeps the newest state that counts.
        unsaved: silos whose state changed since they last saved it.
        saving: those of them that are saving it now.
        to_load: silo -> label that it must load before it trains again, after a restart.
    """

    def __init__(self) -> None:
        self.labels: dict[int, int] = {}
        self.unsaved: set[int] = set()
        self.saving: set[int] = set()
        self.to_load: dict[int, int] = {}

    def restore(self, labels: Mapping[int, int]) -> None:
        """The run goes on from these."""
        self.labels = dict(labels)
        self.to_load = dict(labels)

    def load(self, silo: int) -> int:
        """The label that the silo must load before its next work; NO_LABEL where it has it in memory."""
        return self.to_load.pop(silo, NO_LABEL)

    def changed(self, silo: int, task: Task) -> None:
        """The silo's state has gone on with this task's update, whether or not that counts."""
        if task.label == NO_LABEL:
            self.unsaved.add(silo)
        else:
            self.labels[silo] = task.label
            self.unsaved.discard(silo)

    def ask(self) -> list[int]:
        """The silos that must save their state now."""
        self.saving = set(self.unsaved)
        return sorted(self.saving)

    def saved(self, silo: int, label: int) -> None:
        """The silo has saved its state under this label."""
        self.forget(silo)
        self.labels[silo] = label

    def forget(self, silo: int) -> None:
        """The silo's saving is not awaited: it is done, or the silo is lost."""
        self.unsaved.discard(silo)
        self.saving.discard(silo)
