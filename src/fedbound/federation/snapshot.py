"""The server's checkpoint: everything that a restart needs, and how it is taken over."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound.codecs import wire
from fedbound.federation import checkpoint
from fedbound.federation.desk import NO_LABEL, Task, Waiting
from fedbound.federation.schedulers import (
    Action,
    Aggregate,
    Arrived,
    Discard,
    Dispatch,
    Finish,
    Left,
    Rejected,
    SetTimer,
    Timer,
)

if TYPE_CHECKING:
    from fedbound.federation.server import Server

_EVENTS: dict[str, Any] = {kind.__name__: kind for kind in (Arrived, Rejected, Left, Timer)}
_ACTIONS: dict[str, Any] = {kind.__name__: kind for kind in (Dispatch, Aggregate, Discard, SetTimer, Finish)}


def take(server: Server, pending: list[Action]) -> checkpoint.State:
    """The server's state, with the actions that are still to be done."""
    arrays = {"model": server.model.vector}
    arrays |= {f"integer-{i}": array for i, array in enumerate(server.model.integers)}
    arrays |= {f"algorithm-{key}": array for key, array in server.algorithm.state().items()}
    arrays |= {f"reference-{version}": array for version, array in server.references.items()}
    arrays |= {f"waiting-{silo}": np.frombuffer(one.buffer, np.uint8) for silo, one in server.waiting.items()}
    copies, sender = server.sender.state()
    arrays |= {f"downlink-{key}": array for key, array in copies.items()}
    labels = server.kept.labels | {
        silo: server.tasks[silo].label for silo in server.waiting if server.tasks[silo].label != NO_LABEL
    }
    meta = {
        "version": server.version,
        "scheduler": server.scheduler.state(),
        "time": server._now(),
        "timers": {str(key): at for key, at in server.timers.items()},
        "events": [[type(event).__name__, asdict(event)] for event in server.events],
        "sender": sender,
        "living": sorted(server.living),
        "tasks": {str(silo): asdict(task) for silo, task in server.tasks.items()},
        "held": {str(silo): version for silo, version in server.outbox.held.items()},
        "pending": [[type(action).__name__, asdict(action)] for action in pending],
        "silo_labels": {str(silo): label for silo, label in labels.items()},
        "evaluated_version": server.evaluations.latest,
        "incomplete": sorted(server.evaluations.unfinished()),
        "charged": {str(silo): count for silo, count in server.charged.items()},
        "guard": None if server.guard is None else server.guard.state(),
    }
    return checkpoint.State(server.version, arrays, meta)


def restore(server: Server, state: checkpoint.State) -> list[Action]:
    """Take over what `take` gave; returns the actions that are still to be done."""
    meta = state.meta
    server.version = server.resumed_from = meta["version"]
    server.model.vector[:] = state.arrays["model"]
    server.model.integers = [state.arrays[f"integer-{i}"] for i in range(len(server.layout.integers))]
    server.algorithm.restore(_part(state.arrays, "algorithm-"))
    server.references = {int(k): array for k, array in _part(state.arrays, "reference-").items()}
    server.sender.restore(_part(state.arrays, "downlink-"), meta["sender"])
    server.outbox.held = {int(silo): version for silo, version in meta["held"].items()}
    server.scheduler.restore(meta["scheduler"])
    server.clock = time.perf_counter() - meta["time"]
    server.row_started = time.perf_counter()
    server.timers = {int(key): at for key, at in meta["timers"].items()}
    server.living = set(meta["living"])
    server.kept.restore({int(silo): label for silo, label in meta["silo_labels"].items()})
    server.evaluations.latest = meta["evaluated_version"]
    server.evaluations.incomplete = set(meta["incomplete"])
    for silo, count in meta["charged"].items():
        server.charged[int(silo)] = max(count, server.charged.get(int(silo), 0))
    if server.guard is not None:
        server.guard.restore(meta["guard"])
    server.records.restore(server.version)
    _restore_tasks(server, meta["tasks"], _part(state.arrays, "waiting-"))
    server.events.extend(_EVENTS[name](**values) for name, values in meta["events"])
    return [_ACTIONS[name](**values) for name, values in meta["pending"]]


def _restore_tasks(server: Server, tasks: dict[str, Any], waiting: dict[str, np.ndarray]) -> None:
    """Updates that had arrived wait again; silos that were out have lost their work and are sent off anew."""
    for name, array in waiting.items():
        buffer = array.tobytes()
        server.waiting[int(name)] = Waiting(buffer, wire.unpack(buffer, limits=server.limits), server._now())
        server.tasks[int(name)] = Task(**tasks[name])
    for name, values in tasks.items():
        if name not in waiting and int(name) in server.living - server.absent.keys():
            server.send_model([int(name)], wire.Flags.TRAIN | wire.Flags.CHECKPOINT, values["steps"])


def _part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
