"""The server's end, and the round loop: events go into the scheduler, its actions are carried out one by one.

The round is a transaction (design law 9). `_aggregate` folds the updates, commits the round's rows, and saves a
checkpoint that also holds the actions still to be done, and the updates that wait; only then does the next model leave.
A restart therefore goes on with exactly those actions, and silos that were out are sent off anew.

Schedulers that aggregate while silos are out ("overlapping") are not held up by evaluations: those are taken as they
come, and an evaluation that not all silos finished is left out of the results.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fedbound.codecs import wire
from fedbound.errors import FederationError, MessageError
from fedbound.exchange.bounds import ALL_SILOS
from fedbound.exchange.layout import Layout, State
from fedbound.federation import checkpoint, rows, snapshot
from fedbound.federation.algorithms import Algorithm, Contribution
from fedbound.federation.desk import NO_LABEL, Asked, BreachError, Command, Evaluations, Task, Waiting
from fedbound.federation.failures import Failures
from fedbound.federation.guard import Guard
from fedbound.federation.kept import Kept
from fedbound.federation.lost import Lost
from fedbound.federation.outbox import SERVER, Exchange, Outbox
from fedbound.federation.records import Records
from fedbound.federation.schedulers import (
    Action,
    Aggregate,
    Arrived,
    Discard,
    Dispatch,
    Event,
    Finish,
    Left,
    Rejected,
    Scheduler,
    SetTimer,
    Start,
    Timer,
)
from fedbound.federation.transports import Transport


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
        failures: what is done about silos that fail, stall or send garbage.
        guard: moves the bounds as accuracy holds or not; None: they stay as they are.
        released: silo -> noised updates of earlier starts, whether or not a checkpoint knows of them.
        absent: silo -> why it takes no part any more.
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
        failures: Failures | None = None,
        guard: Guard | None = None,
        released: Mapping[int, int] | None = None,
        absent: Mapping[int, str] | None = None,
    ):
        self.layout = layout
        self.model = model
        self.algorithm = algorithm
        self.scheduler = scheduler
        self.transport = transport
        self.sender = exchange.sender
        self.outbox = Outbox(layout, exchange.sender)
        self.receiver = exchange.receiver
        self.evaluate_every = evaluate_every
        self.records = records
        self.store = store
        self.checkpoint_every = checkpoint_every
        self.failures = failures or Failures()
        self.guard = guard
        self.absent = dict(absent or {})
        # out of step, a silo in this process may have encoded its next update before this one is folded
        self.lost = Lost(layout, {} if scheduler.overlapping else getattr(transport, "members", {}))
        self.version = 0
        self.resumed_from = -1
        self.finished = False
        self.living = set(range(transport.silos))
        self.limits = wire.Limits(expected=self.receiver.expected())
        self.events: deque[Event] = deque()
        self.waiting: dict[int, Waiting] = {}
        self.tasks: dict[int, Task] = {}
        self.asked = Asked()
        self.references: dict[int, np.ndarray] = {}  # version -> copy that silos out of step trained on
        self.evaluations = Evaluations()
        self.charged = dict(released or {})  # silo -> noised updates that it was asked for, made or says it made
        self.kept = Kept()
        self.timers: dict[int, float] = {}
        self.clock = time.perf_counter()
        self._begin_row()

    # ---- the loop -------------------------------------------------------------------------------------------------

    def run(self, resume: checkpoint.State | None = None) -> State:
        """Run to the scheduler's Finish and return the final model; all silos have evaluated it.

        Raises:
            FederationError: a silo failed or broke the protocol, and the policy is to end then.
        """
        if resume is not None:
            actions = snapshot.restore(self, resume)
        else:
            actions = self.scheduler.handle(Start(self.transport.silos, self._now()))
        for silo, why in sorted(self.absent.items()):
            self._lose(silo, why)
        while not self.finished:
            self._carry_out(actions)
            if not self.finished:
                actions = self.scheduler.handle(self._next_event())
        self._evaluate_final()
        stop = wire.pack(wire.Message(wire.Kind.STOP, SERVER, self.version, self.version, [], {}))
        for silo in sorted(set(range(self.transport.silos)) - self.absent.keys()):
            self.transport.send(silo, stop)
        self.transport.close(sorted(set(range(self.transport.silos)) - self.living))
        return self.model

    def _carry_out(self, actions: list[Action]) -> None:
        for index, action in enumerate(actions):
            match action:
                case Aggregate(silos=silos):
                    self._aggregate(silos, actions[index + 1 :])
                case Discard(silos=silos):
                    for silo in silos:
                        self._keep_state(silo, self.tasks.get(silo))
                        self._forget_update(silo)
                case Dispatch(silos=silos, steps=steps):
                    self._dispatch(silos, steps)
                case SetTimer(key=key, time=at):
                    self.timers[key] = at
                case Finish():
                    self.finished = True

    def _next_event(self) -> Event:
        while not self.events:
            key = min(self.timers, key=self.timers.__getitem__) if self.timers else None
            if key is not None and self.timers[key] <= self._now():
                del self.timers[key]
                return Timer(key, self._now())
            self._pump(None if key is None else self.timers[key])
        return self.events.popleft()

    def _now(self) -> float:
        return time.perf_counter() - self.clock

    @property
    def overlapping(self) -> bool:
        """Whether aggregations happen while silos are out."""
        return self.scheduler.overlapping

    # ---- messages -------------------------------------------------------------------------------------------------

    def _pump(self, until: float | None) -> None:
        """Wait for one message, until a time of this run's clock; what the scheduler must hear goes to `events`."""
        due = self.failures.next_due()
        times = [at for at in (until, due) if at is not None]
        timeout = max(0.0, min(times) - self._now()) if times else None
        started = time.perf_counter()
        received = self.transport.receive(timeout)
        self.row["wait_seconds"] += time.perf_counter() - started
        if received is not None:
            self.row["bytes_up"] += len(received[1])
            self._take(*received)
            return
        if timeout is None:
            raise FederationError(f"no silo answers any more in round {self.version}; see the log of the silos")
        for silo in self.failures.overdue(self._now()):
            self._lose(silo, f"it has not answered for {self.failures.timeout:g} s")

    def _take(self, silo: int, buffer: Any) -> None:
        """Take in one message."""
        self.failures.answered(silo)
        if silo not in self.living:
            return  # it was given up; what it still sends is not used
        try:
            header = wire.peek(buffer)
            if header.sender != silo:
                raise MessageError(f"a message of silo {silo} claims to come from {header.sender}; it is rejected")
            if header.kind == wire.Kind.UPDATE:
                self._take_update(silo, buffer)
                return
            message = wire.unpack(buffer, limits=wire.Limits())
            match header.kind:
                case wire.Kind.RESYNC:
                    self._resync(silo, len(buffer))
                case wire.Kind.FAILURE:
                    self._lose(silo, message.text)
                case wire.Kind.EVALUATION:
                    rows.check_evaluation(message)
                    self.asked.answered(silo, header.kind)
                    self._note_evaluation(silo, message)
                case wire.Kind.ACK:
                    self._take_acknowledgement(silo, message, len(buffer))
                case _:
                    raise BreachError(
                        f"silo {silo} sent a message of kind {header.kind.name}, which the server does not take"
                    )
        except BreachError as error:
            self._lose(silo, str(error))
        except MessageError as error:
            self._reject(silo, str(error))
        finally:
            if silo in self.living and (self.asked.owes(silo) or silo in self.kept.saving):
                self.failures.expect(silo, self._now())  # more is owed: a silo that stalls at it must be noticed

    def _take_acknowledgement(self, silo: int, message: wire.Message, size: int) -> None:
        if silo not in self.kept.saving or message.round != self.version:
            raise BreachError(f"silo {silo} says that it saved round {message.round}, which it was not asked to")
        self.row["bytes_up"] -= size  # how often we save must not show in the traffic
        self.kept.saved(silo, message.round)

    def _take_update(self, silo: int, buffer: Any) -> None:
        message = wire.unpack(buffer, limits=self.limits)
        task = self.tasks.get(silo)
        if task is None or silo in self.waiting:
            raise BreachError(f"silo {silo} sent an update that it was not asked for")
        self.charged[silo] = max(self.charged.get(silo, 0), int(message.fields.get("releases", 0)))
        if message.model_version != task.version:
            raise MessageError(
                f"the update of silo {silo} is for model {message.model_version} and model {task.version} was sent "
                "to it; it is rejected"
            )
        rows.check_update(message, self.algorithm.wants_global_loss)
        evaluated = "test_samples" in message.fields
        if evaluated:
            rows.check_evaluation(message)
        self.asked.answered(silo, wire.Kind.UPDATE)
        if evaluated:
            self._note_evaluation(silo, message)
        now = self._now()
        self.failures.slowest = max(self.failures.slowest, now - task.time)
        self.waiting[silo] = Waiting(buffer, message, now)
        self.events.append(Arrived(silo, now))

    def _reject(self, silo: int, why: str) -> None:
        """A message that cannot be used: end the run, or go on without that update."""
        self.failures.note(self.records, self.version + 1, silo, "rejected", why, self.living)
        if self.algorithm.synchronous or silo in self.kept.saving:
            self._lose(silo, why)  # both ends' duals, or the silo's saved state, would differ from now on
            return
        command = self.asked.oldest(silo)  # whatever the message was, it was the answer to this
        if command is None:
            return
        if command.flags & wire.Flags.EVALUATE:
            self.evaluations.give_up(silo, command.version)
        if command.flags & wire.Flags.TRAIN:
            self._keep_state(silo, self.tasks[silo])
            self._forget_update(silo)
            self.events.append(Rejected(silo, self._now()))

    def _lose(self, silo: int, why: str) -> None:
        """A silo that failed or stalled: end the run, or go on without it."""
        if silo not in self.living:
            return
        self.living.discard(silo)
        self.failures.note(self.records, self.version + 1, silo, "failed", why, self.living)
        self.evaluations.give_up(silo)
        self.kept.forget(silo)
        if silo not in self.waiting:
            self._forget_update(silo)
        self.events.append(Left(silo, self._now()))

    def _keep_state(self, silo: int, task: Task | None) -> None:
        if task is not None and silo in self.living:
            self.kept.changed(silo, task)

    def _forget_update(self, silo: int) -> None:
        self.waiting.pop(silo, None)
        self.tasks.pop(silo, None)
        self._prune()

    def _dispatch(self, silos: Sequence[int], steps: int) -> None:
        """Send the current model to `silos` for training, and to the others too when they are to evaluate it."""
        # the scheduler hears next of those who were lost meanwhile
        silos = [silo for silo in silos if silo in self.living]
        due = self.version % self.evaluate_every == 0 and self.evaluations.latest < self.version
        if due:
            self.evaluations.begin(self.version, self.living)
        flags = wire.Flags.TRAIN | (wire.Flags.EVALUATE if due else wire.Flags(0))
        if self.overlapping or (self.version + 1) % self.checkpoint_every == 0:
            flags |= wire.Flags.CHECKPOINT
        self.row_started = time.perf_counter()
        self.send_model(silos, flags, steps)
        if due:
            self.send_model(sorted(self.living - set(silos)), wire.Flags.EVALUATE, 0)

    def send_model(self, silos: Sequence[int], flags: wire.Flags, steps: int) -> None:
        """Bring the copies of `silos` to the current model and tell them what to do with it."""
        if not silos:
            return
        self._advance()
        commands = {silo: {"steps": float(steps), "checkpoint_label": float(self.kept.load(silo))} for silo in silos}
        if self.guard is not None:
            commands = {silo: {**command, "bound_factor": self.guard.now} for silo, command in commands.items()}
        for silo, parcel in self.outbox.parcels(commands, flags, self.version):
            self.asked.add(silo, Command(self.version, flags, commands[silo]))
            if flags & wire.Flags.TRAIN:
                self.charged[silo] = self.charged.get(silo, 0) + 1
                saved = self.version + 1 if flags & wire.Flags.CHECKPOINT else NO_LABEL
                self.tasks[silo] = Task(self.version, parcel.size, parcel.payload, steps, self._now(), saved)
            rows.note_parcel(self.row, parcel)
            self.failures.expect(silo, self._now())
            for message in parcel.messages:
                self.transport.send(silo, message)

    def _advance(self) -> None:
        started = time.perf_counter()
        if self.algorithm.needs_base and any(task.version == self.sender.version for task in self.tasks.values()):
            self.references[self.sender.version] = self.sender.held.vector.copy()
        self.sender.factor = 1.0 if self.guard is None else self.guard.now
        encoding = self.sender.advance(self.model, self.version)
        if encoding is None:
            return
        self.row["violations"] += encoding.violations
        for row in rows.tensors(self.layout, encoding.records):
            self.records.add("tensors", round=self.version, direction="down", silo=ALL_SILOS, **row)
        self.row["downlink_seconds"] += time.perf_counter() - started

    def _resync(self, silo: int, asked_bytes: int) -> None:
        """The silo does not hold what that step starts from: send it the whole copy as it is now, and the command."""
        asked = self.asked.answered(silo, wire.Kind.RESYNC)
        now = self.sender.version
        message = self.outbox.whole(silo, asked.fields, asked.flags, self.version)
        self.asked.add(silo, Command(now, asked.flags, asked.fields))
        if asked.flags & wire.Flags.TRAIN:
            self.tasks[silo].version = now
        if asked.flags & wire.Flags.EVALUATE and now != asked.version:
            self.evaluations.give_up(silo, asked.version)
        self.row["bytes_up"] -= asked_bytes  # a restart must not show in the run's traffic
        self.row["resync_bytes"] += asked_bytes + len(message)
        self.failures.expect(silo, self._now())
        self.transport.send(silo, message)

    # ---- the transaction ------------------------------------------------------------------------------------------

    def _aggregate(self, silos: Sequence[int], pending: list[Action]) -> None:
        if not self.overlapping:
            while self.evaluations.pending():
                self._pump(None)  # evaluations of this version belong to this transaction
        self.algorithm.begin(self.layout.size, len(self.living))
        update = np.empty(self.layout.size, np.float32)  # the only decoded update at any time (design law 6)
        extras = [np.empty_like(update) for _ in range(self.receiver.extras)]
        integers: list[np.ndarray] = []
        for silo in silos:
            integers = self._fold(silo, update, extras, integers)
        started = time.perf_counter()
        self.algorithm.finish(self.model.vector)
        self.model.integers = integers or self.model.integers
        self.row["aggregate_seconds"] += time.perf_counter() - started
        self.version += 1
        self._prune()
        self._commit(pending)

    def _fold(
        self, silo: int, update: np.ndarray, extras: list[np.ndarray], integers: list[np.ndarray]
    ) -> list[np.ndarray]:
        waiting, task = self.waiting.pop(silo), self.tasks.pop(silo)
        started = time.perf_counter()
        message = waiting.message
        try:
            theirs = self.receiver.decode(message, update, extras)
        except MessageError as error:
            self.failures.note(self.records, self.version + 1, silo, "rejected", str(error), self.living)
            self._keep_state(silo, task)
            if self.algorithm.synchronous:
                self._lose(silo, str(error))
            return integers
        staleness = self.version - task.version
        reference = local = None
        if self.algorithm.needs_base:
            reference = self._reference(task.version)
            local = self.receiver.local(update, reference)
        self.receiver.change(update, self.model)
        decoded = time.perf_counter()
        about = Contribution(
            silo,
            int(message.fields["samples"]),
            staleness,
            reference,
            local,
            message.fields.get("global_loss", float("nan")),
            tuple(extras),
        )
        self.algorithm.fold(update, about)
        folded = time.perf_counter()
        self.row["decode_seconds"] += decoded - started
        self.row["aggregate_seconds"] += folded - decoded
        self._keep_state(silo, task)
        self._note_update(
            waiting, task, staleness, decode_seconds=decoded - started, aggregate_seconds=folded - decoded
        )
        # counters (BatchNorm's) have no mean: the largest one is what the silo that trained most has counted
        return [np.maximum(a, b) for a, b in zip(integers, theirs, strict=True)] if integers else theirs

    def _reference(self, version: int) -> np.ndarray:
        """The silos' copy of `version`, which some silo trained on."""
        return self.sender.held.vector if version == self.sender.version else self.references[version]

    def _prune(self) -> None:
        wanted = {task.version for task in self.tasks.values()}
        self.references = {version: kept for version, kept in self.references.items() if version in wanted}

    def _note_update(self, waiting: Waiting, task: Task, staleness: int, **seconds: float) -> None:
        self.lost.add(waiting.message)
        beside = self.receiver.beside
        row = rows.update(waiting, task, self.version + 1, self.row_started - self.clock, beside)
        rows.note_update(self.row, row, beside)
        self.records.add("silos", **row, staleness=staleness, **seconds)
        for one in rows.of_update(self.layout, waiting.message, beside):
            self.records.add("tensors", round=row["round"], direction="up", silo=row["silo"], **one)

    def _commit(self, pending: list[Action]) -> None:
        self.row["seconds"] = time.perf_counter() - self.row_started
        saving = self.store is not None and (self.version % self.checkpoint_every == 0 or Finish() in pending)
        if saving:
            started = time.perf_counter()
            self._save_silos()
            self.row["save_seconds"] = time.perf_counter() - started
            # The checkpoint's own cost cannot be part of the row that it must contain: it is noted in the next one.
        ratio = self.row["raw_up"] / self.row["bytes_up"] if self.row["bytes_up"] else float("nan")
        self.records.add("rounds", round=self.version, **self.row, ratio_up=ratio, **self.lost.figures())
        for change in self.guard.settle(self.evaluations.unfinished()) if self.guard is not None else ():
            self.records.add("guard", **asdict(change))
        self.records.commit(self.version)
        self._begin_row()
        if saving:
            started = time.perf_counter()
            self.row["checkpoint_bytes"] = self._save(pending)
            self.row["checkpoint_seconds"] = time.perf_counter() - started

    def _save(self, pending: list[Action]) -> int:
        assert self.store is not None
        return self.store.save(snapshot.take(self, pending))

    def _save_silos(self) -> None:
        """Every silo whose state changed has it on disk, or is asked to save it now."""
        for silo in self.kept.ask():
            message = wire.Message(wire.Kind.CHECKPOINT, SERVER, self.version, self.version, [], {})
            self.failures.expect(silo, self._now())
            self.transport.send(silo, wire.pack(message))
        while self.kept.saving:
            self._pump(None)

    # ---- records --------------------------------------------------------------------------------------------------

    def _begin_row(self) -> None:
        self.row = rows.new_round()
        self.row_started = time.perf_counter()

    def _note_evaluation(self, silo: int, message: wire.Message) -> None:
        if self.evaluations.arrived(message.model_version, silo):
            self.records.add("evaluations", round=message.model_version, silo=silo, **rows.evaluation(message))
            if self.guard is not None:
                self.guard.hear(message.model_version, *rows.validated(message))

    def _evaluate_final(self) -> None:
        """All silos evaluate the final model; its bytes belong to no round and are left out of them."""
        if self.evaluations.latest < self.version or self.version in self.evaluations.incomplete:
            self.evaluations.incomplete.discard(self.version)
            self.records.forget_evaluations({self.version})
            self.evaluations.begin(self.version, self.living)
            self.send_model(sorted(self.living), wire.Flags.EVALUATE, 0)
        if self.overlapping:
            self.failures.end([silo for silo in sorted(self.living) if self.asked.owes(silo)], self._now())
        while self.evaluations.pending():
            self._pump(None)
        # under the next label: a restart from the last checkpoint evaluates again and must not find these rows
        self.records.commit(self.version + 1)
        self.records.forget_evaluations(self.evaluations.incomplete - {self.version})
