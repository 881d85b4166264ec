"""The server's end, and the round loop: events go into the scheduler, its actions are carried out one by one.

The round is a transaction (design law 9). `_aggregate` folds the updates, commits the round's rows, and saves a
checkpoint that also holds the actions still to be done; only then does the next model leave. A restart therefore goes
on with exactly those actions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fedbound.codecs import wire
from fedbound.errors import FederationError, MessageError
from fedbound.exchange import downlink
from fedbound.exchange.bounds import ALL_SILOS
from fedbound.exchange.layout import Layout, State
from fedbound.exchange.uplink import Receiver
from fedbound.federation import checkpoint
from fedbound.federation.algorithms import Algorithm
from fedbound.federation.records import Records
from fedbound.federation.schedulers import (
    Action,
    Aggregate,
    Arrived,
    Dispatch,
    Event,
    Finish,
    Scheduler,
    SetTimer,
    Start,
    Timer,
)
from fedbound.federation.transports import Transport

SERVER = -1
FOREVER: float | None = None
NO_LABEL = -1
_UPDATE_FIELDS = {
    "samples", "steps", "train_loss", "raw_bytes", "violations", "memory_bytes", "error_over_bound", "residual_norm",
    "train_seconds", "encode_seconds", "wait_seconds",
}  # fmt: skip


@dataclass
class Exchange:
    """The server's ends of the exchange."""

    sender: downlink.Sender
    receiver: Receiver


class Server:
    """The federation's server. Owns the global model, its version, the scheduler and the run's records.

    Args:
        layout: the model's layout.
        model: the initial model.
        algorithm: folds updates into the model.
        scheduler: says who trains when.
        transport: moves the messages.
        exchange: the server's ends of the exchange.
        evaluate_every: versions between evaluations.
        records: takes the rows.
        store: where checkpoints go; None where nothing survives.
        checkpoint_every: versions between checkpoints.
    """

    def __init__(
        self,
        layout: Layout,
        model: State,
        algorithm: Algorithm,
        scheduler: Scheduler,
        transport: Transport,
        exchange: Exchange,
        evaluate_every: int,
        records: Records,
        store: checkpoint.Store | None = None,
        checkpoint_every: int = 1,
    ):
        self.layout = layout
        self.model = model
        self.algorithm = algorithm
        self.scheduler = scheduler
        self.transport = transport
        self.sender = exchange.sender
        self.receiver = exchange.receiver
        self.evaluate_every = evaluate_every
        self.records = records
        self.store = store
        self.checkpoint_every = checkpoint_every
        self.version = 0
        self.resumed_from = -1
        self.finished = False
        self.limits = wire.Limits(expected=layout.expected())
        self.waiting: dict[int, tuple[Any, float]] = {}  # encoded updates that have arrived, with their time
        self.sent: dict[int, tuple[int, int]] = {}  # silo -> (version, bytes) of the model it trains on
        self.held: dict[int, int] = {}  # silo -> version of its copy of the model; 0 where it is not here
        self.asked: dict[int, tuple[wire.Flags, dict[str, float]]] = {}  # silo -> what the last model asked of it
        self.evaluating: set[int] = set()  # silos whose evaluation of the current version is still to come
        self.evaluated_version = -1
        self.silo_labels: dict[int, int] = {}
        self.dirty: set[int] = set()  # silos whose state changed since they last saved it
        self.restored: dict[int, int] = {}  # silo -> label that it must load before it trains again
        self.timers: dict[int, float] = {}
        self.clock = time.perf_counter()
        self._begin_row()

    # ---- the loop -------------------------------------------------------------------------------------------------

    def run(self, resume: checkpoint.State | None = None) -> State:
        """Run to the scheduler's Finish and return the final model; all silos have evaluated it.

        Raises:
            FederationError: a silo failed or broke the protocol.
        """
        if resume is not None:
            actions = self._restore(resume)
        else:
            actions = self.scheduler.handle(Start(self.transport.silos, self._now()))
        while not self.finished:
            self._carry_out(actions)
            if not self.finished:
                actions = self.scheduler.handle(self._next_event())
        self._evaluate_final()
        for silo in range(self.transport.silos):
            self.transport.send(
                silo, wire.pack(wire.Message(wire.Kind.STOP, SERVER, self.version, self.version, [], {}))
            )
        self.transport.close()
        return self.model

    def _carry_out(self, actions: list[Action]) -> None:
        for index, action in enumerate(actions):
            match action:
                case Aggregate(silos=silos):
                    self._aggregate(silos, actions[index + 1 :])
                case Dispatch(silos=silos, steps=steps):
                    self._dispatch(silos, steps)
                case SetTimer(key=key, time=at):
                    self.timers[key] = at
                case Finish():
                    self.finished = True

    def _next_event(self) -> Event:
        while True:
            key = min(self.timers, key=self.timers.__getitem__) if self.timers else None
            timeout = FOREVER if key is None else max(0.0, self.timers[key] - self._now())
            received = self._receive(timeout)
            if received is None and key is not None:
                del self.timers[key]
                return Timer(key, self._now())
            if received is not None and self._take(*received):
                return Arrived(received[0], self._now())

    def _now(self) -> float:
        return time.perf_counter() - self.clock

    # ---- messages -------------------------------------------------------------------------------------------------

    def _receive(self, timeout: float | None) -> tuple[int, Any] | None:
        started = time.perf_counter()
        received = self.transport.receive(timeout)
        self.row["wait_seconds"] += time.perf_counter() - started
        if received is None and timeout is FOREVER:
            raise FederationError(f"no silo answers any more in round {self.version}; see the log of the silos")
        if received is not None:
            self.row["bytes_up"] += len(received[1])
        return received

    def _take(self, silo: int, buffer: Any) -> bool:
        """Take in one message; True when it is an update that the scheduler must hear of."""
        header = wire.peek(buffer)
        if header.sender != silo:
            raise MessageError(f"a message of silo {silo} claims to come from {header.sender}; it is rejected")
        if header.kind == wire.Kind.UPDATE:
            self.waiting[silo] = (buffer, self._now())
            return True
        message = wire.unpack(buffer, limits=wire.Limits())
        if header.kind == wire.Kind.RESYNC:
            self._resync(silo, len(buffer))
            return False
        if header.kind == wire.Kind.FAILURE:
            raise FederationError(f"silo {silo} failed in round {self.version + 1}: {message.text}")
        if header.kind == wire.Kind.EVALUATION:
            self._note_evaluation(silo, message)
            return False
        raise MessageError(f"silo {silo} sent a message of kind {header.kind.name}, which the server does not take")

    def _dispatch(self, silos: Sequence[int], steps: int) -> None:
        """Send the current model to `silos` for training, and to the others too when they are to evaluate it."""
        due = self.version % self.evaluate_every == 0 and self.evaluated_version < self.version
        if due:
            self.evaluating = set(range(self.transport.silos))
            self.evaluated_version = self.version
        flags = wire.Flags.TRAIN | (wire.Flags.EVALUATE if due else wire.Flags(0))
        if (self.version + 1) % self.checkpoint_every == 0:
            flags |= wire.Flags.CHECKPOINT
        self.row_started = time.perf_counter()
        self._send_model(silos, flags, steps)
        if due:
            self._send_model(sorted(self.evaluating - set(silos)), wire.Flags.EVALUATE, 0)

    def _send_model(self, silos: Sequence[int], flags: wire.Flags, steps: int) -> None:
        """Bring the copies of `silos` to the current model and tell them what to do with it."""
        if not silos:
            return
        self._advance()
        packed: dict[tuple[int, int], _Parcel] = {}
        for silo in silos:
            base, label = self.held.get(silo, 0), self.restored.pop(silo, NO_LABEL)
            command = {"steps": float(steps), "checkpoint_label": float(label)}
            if (base, label) not in packed:
                packed[base, label] = self._pack(self.sender.path(base), flags, command)
            parcel = packed[base, label]
            self.held[silo] = self.version
            self.asked[silo] = (flags, command)
            if flags & wire.Flags.TRAIN:
                self.sent[silo] = (self.version, parcel.size)
            self.row["bytes_down"] += parcel.size
            self.row["resync_bytes"] += sum(map(len, parcel.messages)) - parcel.size
            self.row["raw_down"] += self.layout.raw_bytes if parcel.carries_model else 0
            for message in parcel.messages:
                self.transport.send(silo, message)

    def _advance(self) -> None:
        started = time.perf_counter()
        encoding = self.sender.advance(self.model, self.version)
        if encoding is None:
            return
        self.row["violations"] += encoding.violations
        self._note_tensors("down", ALL_SILOS, self.version, encoding.records)
        self.row["downlink_seconds"] += time.perf_counter() - started

    def _pack(self, path: list[downlink.Step], flags: wire.Flags, command: dict[str, float]) -> _Parcel:
        """The messages that carry the steps of `path`; the last one says what to do."""
        size = sum(step.size for step in path) + wire.FIELD_BYTES * len(command)
        carries_model = not path[-1].empty
        if any(step.records is None for step in path):
            path = [self.sender.whole()]  # the steps were lost in a restart, and so were the silos' copies
        messages = []
        for step in path:
            last = step is path[-1]
            fields = downlink.fields(step) | (command if last else {})
            messages.append(
                wire.pack(
                    wire.Message(
                        wire.Kind.MODEL,
                        SERVER,
                        self.version,
                        step.version,
                        step.records or [],
                        fields,
                        flags=flags if last else wire.Flags(0),
                    )
                )
            )
        return _Parcel(messages, size, carries_model)

    def _resync(self, silo: int, asked_bytes: int) -> None:
        """The silo does not hold what the last step starts from: send it the whole copy, with the same command."""
        flags, command = self.asked[silo]
        (message,) = self._pack([self.sender.whole()], flags, command).messages
        self.held[silo] = self.sender.version
        if silo in self.sent:
            self.sent[silo] = (self.sender.version, self.sent[silo][1])
        self.row["bytes_up"] -= asked_bytes  # a restart must not show in the run's traffic
        self.row["resync_bytes"] += asked_bytes + len(message)
        self.transport.send(silo, message)

    # ---- the transaction ------------------------------------------------------------------------------------------

    def _aggregate(self, silos: Sequence[int], pending: list[Action]) -> None:
        while self.evaluating - set(self.waiting):  # evaluations of this version belong to this transaction
            received = self._receive(FOREVER)
            assert received is not None
            self._take(*received)
        self.algorithm.begin(self.layout.size)
        update = np.empty(self.layout.size, np.float32)  # the only decoded update at any time (design law 6)
        integers: list[np.ndarray] = []
        for silo in silos:
            integers = self._fold(silo, update, integers)
        started = time.perf_counter()
        self.algorithm.finish(self.model.vector)
        self.model.integers = integers or self.model.integers
        self.row["aggregate_seconds"] += time.perf_counter() - started
        self.version += 1
        self._commit(pending)

    def _fold(self, silo: int, update: np.ndarray, integers: list[np.ndarray]) -> list[np.ndarray]:
        buffer, arrival = self.waiting.pop(silo)
        version, bytes_down = self.sent.pop(silo)
        started = time.perf_counter()
        message = wire.unpack(buffer, limits=self.limits)
        if message.model_version != version:
            raise MessageError(
                f"the update of silo {silo} is for model {message.model_version} and model {version} was sent to it"
            )
        missing = _UPDATE_FIELDS - message.fields.keys()
        if missing:
            raise MessageError(f"message from silo {silo} lacks the field {min(missing)!r}; it is rejected")
        theirs = self.receiver.decode(message, self.model, update)
        decoded = time.perf_counter()
        staleness = self.version - version
        self.algorithm.fold(update, int(message.fields["samples"]), staleness)
        folded = time.perf_counter()
        self.row["decode_seconds"] += decoded - started
        self.row["aggregate_seconds"] += folded - decoded
        self._note_update(silo, message, len(buffer), bytes_down, arrival, decoded - started, staleness)
        if "test_samples" in message.fields:
            self._note_evaluation(silo, message)
        self.dirty.add(silo)
        # counters (BatchNorm's) have no mean: the largest one is what the silo that trained most has counted
        return [np.maximum(a, b) for a, b in zip(integers, theirs, strict=True)] if integers else theirs

    def _commit(self, pending: list[Action]) -> None:
        self.row["seconds"] = time.perf_counter() - self.row_started
        saving = self.store is not None and (self.version % self.checkpoint_every == 0 or Finish() in pending)
        if saving:
            self._save_silos()
            # The checkpoint's own cost cannot be part of the row that it must contain: it is noted in the next one.
        self.records.add("rounds", round=self.version, **self._rates())
        self.records.commit(self.version)
        self._begin_row()
        if saving:
            started = time.perf_counter()
            self.row["checkpoint_bytes"] = self._save(pending)
            self.row["checkpoint_seconds"] = time.perf_counter() - started

    def _save_silos(self) -> None:
        """Every silo whose state changed has it on disk under this version's label, or is asked to now."""
        asked = set()
        for silo in sorted(self.dirty):
            if self.version % self.checkpoint_every == 0 and silo in self.folded_now:
                continue  # it saved before it sent
            message = wire.Message(wire.Kind.CHECKPOINT, SERVER, self.version, self.version, [], {})
            self.transport.send(silo, wire.pack(message))
            asked.add(silo)
        while asked:
            received = self._receive(FOREVER)
            assert received is not None
            if wire.peek(received[1]).kind == wire.Kind.ACK:
                asked.discard(received[0])
                self.row["bytes_up"] -= len(received[1])  # how often we save must not show in the traffic
            else:
                self._take(*received)
        self.silo_labels |= dict.fromkeys(self.dirty, self.version)
        self.dirty = set()

    def _save(self, pending: list[Action]) -> int:
        assert self.store is not None
        arrays = {"model": self.model.vector}
        arrays |= {f"integer-{i}": array for i, array in enumerate(self.model.integers)}
        arrays |= {f"algorithm-{key}": array for key, array in self.algorithm.state().items()}
        copies, sender = self.sender.state()
        arrays |= {f"downlink-{key}": array for key, array in copies.items()}
        meta = {
            "version": self.version,
            "scheduler": self.scheduler.state(),
            "sender": sender,
            "held": {str(silo): version for silo, version in self.held.items()},
            "pending": [[type(action).__name__, asdict(action)] for action in pending],
            "silo_labels": {str(silo): label for silo, label in self.silo_labels.items()},
            "evaluated_version": self.evaluated_version,
        }
        return self.store.save(checkpoint.State(self.version, arrays, meta))

    def _restore(self, state: checkpoint.State) -> list[Action]:
        self.version = self.resumed_from = state.meta["version"]
        self.model.vector[:] = state.arrays["model"]
        self.model.integers = [state.arrays[f"integer-{i}"] for i in range(len(self.layout.integers))]
        self.algorithm.restore(_part(state.arrays, "algorithm-"))
        self.sender.restore(_part(state.arrays, "downlink-"), state.meta["sender"])
        self.held = {int(silo): version for silo, version in state.meta["held"].items()}
        self.scheduler.restore(state.meta["scheduler"])
        self.silo_labels = {int(silo): label for silo, label in state.meta["silo_labels"].items()}
        self.restored = dict(self.silo_labels)
        self.evaluated_version = state.meta["evaluated_version"]
        self.records.restore(self.version)
        kinds: dict[str, Any] = {kind.__name__: kind for kind in (Dispatch, Aggregate, SetTimer, Finish)}
        return [kinds[name](**values) for name, values in state.meta["pending"]]

    # ---- records --------------------------------------------------------------------------------------------------

    def _begin_row(self) -> None:
        keys = ("bytes_up", "bytes_down", "raw_up", "raw_down", "violations", "checkpoint_bytes", "resync_bytes")
        self.row: dict[str, Any] = dict.fromkeys(keys, 0)
        times = ("seconds", "aggregate_seconds", "decode_seconds", "wait_seconds", "checkpoint_seconds")
        self.row |= dict.fromkeys((*times, "downlink_seconds"), 0.0)
        self.row_started = time.perf_counter()
        self.folded_now: set[int] = set()

    def _rates(self) -> dict[str, Any]:
        ratio = self.row["raw_up"] / self.row["bytes_up"] if self.row["bytes_up"] else float("nan")
        return {**self.row, "ratio_up": ratio}

    def _note_update(
        self,
        silo: int,
        message: wire.Message,
        size: int,
        bytes_down: int,
        arrival: float,
        decode_seconds: float,
        staleness: int,
    ) -> None:
        fields = message.fields
        self.folded_now.add(silo)
        self.row["raw_up"] += int(fields["raw_bytes"])
        self.row["violations"] += int(fields["violations"])
        round_ = self.version + 1
        self.records.add(
            "silos",
            round=round_,
            silo=silo,
            **{key: int(fields[key]) for key in ("samples", "steps", "violations", "memory_bytes")},
            **{key: fields[key] for key in ("train_loss", "error_over_bound", "residual_norm")},
            **{key: fields[key] for key in ("train_seconds", "encode_seconds", "wait_seconds")},
            evaluate_seconds=fields.get("evaluate_seconds", 0.0),
            model_seconds=fields.get("decode_seconds", 0.0),
            bytes_up=size,
            payload_up=sum(len(record.payload) for record in message.records),
            raw_up=int(fields["raw_bytes"]),
            bytes_down=bytes_down,
            staleness=staleness,
            decode_seconds=decode_seconds,
            arrival_seconds=arrival - (self.row_started - self.clock),
        )
        self._note_tensors("up", silo, round_, message.records)

    def _note_tensors(self, direction: str, silo: int, round_: int, records: list[wire.Record]) -> None:
        for record in records[: len(self.layout.blocks)]:
            block = self.layout.blocks[record.name]
            self.records.add(
                "tensors",
                round=round_,
                direction=direction,
                silo=silo,
                block=block.name,
                values=block.size,
                bound=record.bound,
                bytes=len(record.payload),
            )

    def _note_evaluation(self, silo: int, message: wire.Message) -> None:
        fields = message.fields
        tests, validations = int(fields["test_samples"]), int(fields["validation_samples"])
        self.evaluating.discard(silo)
        self.records.add(
            "evaluations",
            round=message.model_version,
            silo=silo,
            test_samples=tests,
            test_accuracy=fields["test_correct"] / tests,
            test_loss=fields["test_loss"] / tests,
            validation_samples=validations,
            validation_accuracy=fields["validation_correct"] / validations if validations else float("nan"),
        )

    def _evaluate_final(self) -> None:
        """All silos evaluate the final model; its bytes belong to no round and are left out of them."""
        if self.evaluated_version < self.version:
            self.evaluated_version = self.version
            self.evaluating = set(range(self.transport.silos))
            self._send_model(sorted(self.evaluating), wire.Flags.EVALUATE, 0)
        while self.evaluating:
            received = self._receive(FOREVER)
            assert received is not None
            self._take(*received)
        # under the next label: a restart from the last checkpoint evaluates again and must not find these rows
        self.records.commit(self.version + 1)


@dataclass(frozen=True)
class _Parcel:
    """What is sent to one silo.

    Attributes:
        messages: in order; the last one says what to do.
        size: their bytes, or what they would have been without a restart.
        carries_model: False where the silo holds the model already.
    """

    messages: list[bytearray]
    size: int
    carries_model: bool


def _part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
