"""The simulated federation: a scheduler of the real one, clients and a server that only take time, and an engine.

    dispatch -> server: encode the model, once a version; one message each -> latency -> download
             -> client: decode the model, evaluate, train, encode; save -> latency -> upload
    arrival  -> server: one message -> the scheduler decides
    aggregate of k updates -> server: k times decode and fold

The server's processor does one thing after the other, in the order asked (FIFO); its end times are therefore known at
once and need no events. The scheduler is the very object that drives the MPI server (design law 5): it hears of an
arrival when the upload ends, and a model that it dispatches leaves when the processor gets to it.

A client that leaves takes its work with it: transfers end, what it computed is lost. An update that has arrived counts.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedbound.errors import FedboundError, InputError
from fedbound.federation.schedulers import (
    Action,
    Aggregate,
    Arrived,
    Discard,
    Dispatch,
    Event,
    Finish,
    Left,
    Returned,
    Scheduler,
    SetTimer,
    Start,
    Timer,
)
from fedbound.simulation import engines
from fedbound.simulation.admission import Admission
from fedbound.simulation.availability import Availability
from fedbound.simulation.cores import Processors
from fedbound.simulation.engines import Engine
from fedbound.simulation.platform import Direction, Star
from fedbound.simulation.rounds import Round, Rounds
from fedbound.simulation.workload import Workload

_IDLE, _BUSY, _WAITING = 0, 1, 2  # a client: without work, at work or on its way; its update waits at the server


@dataclass(frozen=True)
class Result:
    """What a simulation found.

    Attributes:
        rounds: one entry per aggregation.
        seconds: when the federation was over.
        arrivals: (n,) float64, each client's last time from dispatch to arrival at the server; NaN where it had none.
        tasks: (n, 4) float64, when each client's last task that arrived was dispatched, downloaded, computed and had
            arrived; NaN where there was none.
        up_bytes, down_bytes: delivered payload, headers included.
        uplink_utilisation, downlink_utilisation: busy share of the server's link, of its nominal capacity where that
            changes; 0 where it is infinite.
        server_utilisation: busy share of the server's processor.
        client_utilisation: mean share of the time that a client spends computing for updates that arrived.
        departures: how often a client left.
        events: what the engine processed.
        engine: which engine ran, and why it is valid.
        log: (m, 3) float64, time, index in `LOGGED` and client (-1: none) of all that happened; empty unless wanted.
    """

    rounds: Rounds
    seconds: float
    arrivals: np.ndarray
    tasks: np.ndarray
    up_bytes: float
    down_bytes: float
    uplink_utilisation: float
    downlink_utilisation: float
    server_utilisation: float
    client_utilisation: float
    departures: int
    events: int
    engine: str
    log: np.ndarray


LOGGED = ("dispatched", "downloaded", "computed", "arrived", "folded", "discarded", "aggregated", "left", "returned")
_DISPATCHED, _DOWNLOADED, _COMPUTED, _ARRIVED, _FOLDED, _DISCARDED, _AGGREGATED, _LEFT, _RETURNED = range(len(LOGGED))


def simulate(
    workload: Workload,
    platform: Star,
    scheduler: Scheduler,
    engine: str | dict[str, Any] | engines.Maker = "fluid",
    availability: Availability | None = None,
    work: float | None = None,
    log: bool = False,
) -> Result:
    """Run `scheduler` over simulated clients until it finishes.

    Args:
        workload: costs of n clients.
        platform: network of the same n clients.
        scheduler: from `fedbound.federation.schedulers.get`, fresh; it is used up.
        engine: a registered engine's name, a choice `{"name": ..., **options}`, or what makes an engine of a platform.
        availability: when clients are away; None for never.
        work: end with the aggregation that brings the work of all rounds to this, though the scheduler would go on;
            None for its own end.
        log: keep all events.

    Raises:
        InputError: workload and platform differ in clients; the scheduler cannot work with so many; the engine is
            unknown or not installed.
        FedboundError: the scheduler waits for something that never happens.
    """
    if len(workload) != len(platform):
        raise InputError(
            f"the workload has {len(workload)} clients and the platform {len(platform)}; give the same number to both"
        )
    scheduler.check(len(workload))
    return _Federation(workload, platform, scheduler, engines.get(engine)(platform), availability, work, log).run()


# What the driver itself asks an engine's timer for. An engine's timer carries one whole number: from 0, a timer of the
# scheduler; below 0, one of these with its client and a number that tells outdated timers.
_JOIN_DOWN, _JOIN_UP, _LEAVE, _RETURN, _CHANGE, _COMPUTES = range(6)
_KINDS = 6
_ROUNDING = 1e-9  # of a task's work


class _Federation:
    def __init__(
        self,
        workload: Workload,
        star: Star,
        scheduler: Scheduler,
        engine: Engine,
        availability: Availability | None,
        work: float | None,
        log: bool,
    ):
        count = len(workload)
        self.workload = workload
        self.star = star
        self.scheduler = scheduler
        self.engine = engine
        self.availability = availability
        self.left = work  # to be folded; None where the scheduler decides
        self.links = [
            Admission(engine, Direction.DOWN, _doubles(workload.down_bytes), star.slots),
            Admission(engine, Direction.UP, _doubles(workload.up_bytes), star.slots),
        ]
        self.train = _doubles(workload.train_seconds)
        self.unscaled = _doubles(workload.load_seconds + workload.evaluate_seconds)
        self.other = _doubles(workload.other_seconds)
        self.encode = _doubles(workload.encode_seconds)
        self.cores = None if workload.cores is None else Processors(workload.cores, self.computes)
        self.stretch = array("d", [1.0]) * (count if workload.cores else 0)  # of what a client computed last
        self.variation = workload.pool()
        self.status = bytearray(count)
        self.away = bytearray(count)
        self.absences = array("q", bytes(8 * count)) if availability else array("q")
        self.task = array("q", bytes(8 * count))  # number of tasks begun or lost: tells outdated timers
        self.share = array("d", bytes(8 * count))  # of the workload's steps
        self.computing = array("d", bytes(8 * count))
        self.dispatched = array("d", bytes(8 * count))
        self.downloaded = array("d", bytes(8 * count))
        self.arrived = array("d", [np.nan]) * count
        self.tasks = [array("d", [np.nan]) * count for _ in range(3)]  # of what has arrived: the times before that
        self.version_sent = array("q", bytes(8 * count))
        self.processor_free = 0.0
        self.processor_work = 0.0
        self.computed = 0.0
        self.departures = 0
        self.encoded_version = -1
        self.timer_keys: list[int] = []
        self.rounds = Rounds()
        self.version = 0  # of the model: aggregations so far
        self.finished = False
        self.log: array[float] | None = array("d") if log else None

    def run(self) -> Result:
        for index, change in enumerate(self.star.changes):
            self.own_timer(change.time, _CHANGE, 0, index)
        if self.availability:
            for client in range(len(self.workload)):
                self.plan_absence(client, 0.0)
        self.tell(Start(len(self.workload), 0.0))
        self.engine.run(self.received, self.due)
        if not self.finished:
            raise FedboundError(
                f"the simulated federation came to a halt at {self.engine.now:g} s, after {self.version} "
                f"aggregations: scheduler {type(self.scheduler).__name__!r} waits for what never happens"
            )
        return self.result()

    # ---- what the engine reports ----------------------------------------------------------------------------------

    def received(self, direction: Direction, client: int) -> None:
        if direction == Direction.DOWN:
            self.model_received(client)
        else:
            self.update_received(client)

    def model_received(self, client: int) -> None:
        self.downloaded[client] = self.engine.now
        if self.log is not None:
            self.note(_DOWNLOADED, client, self.engine.now)
        self.links[Direction.DOWN].ended(client)
        work = self.computing[client] + self.encode[client]
        if self.cores is None:
            self.request(Direction.UP, client, work + self.other[client])
        else:
            self.cores.join(client, self.task[client], work, self.engine.now)

    def computes(self, time: float, node: int, alarm: int) -> None:
        """The processors of `node` want to be asked at `time`."""
        self.own_timer(time, _COMPUTES, node, alarm)

    def computed_on(self, node: int, alarm: int) -> None:
        """Clients of `node` have computed; what they took there, beside others, is what counts as theirs."""
        assert self.cores is not None
        for client in self.cores.due(node, alarm, self.engine.now):
            work = self.computing[client] + self.encode[client]
            stretched = (self.engine.now - self.downloaded[client]) / work if work else 1.0
            self.stretch[client] = stretched
            self.computing[client] *= stretched
            self.request(Direction.UP, client, self.other[client])

    def update_received(self, client: int) -> None:
        now = self.engine.now
        self.arrived[client] = now
        work = self.computing[client] + self.encoding(client) + self.other[client]
        self.computed += work
        downloaded = self.downloaded[client]
        for times, time in zip(self.tasks, (self.dispatched[client], downloaded, downloaded + work), strict=True):
            times[client] = time
        if self.log is not None:
            self.note(_COMPUTED, client, downloaded + work)
            self.note(_ARRIVED, client, now)
        self.links[Direction.UP].ended(client)
        self.status[client] = _WAITING
        each = self.workload.message_byte_seconds
        self.occupy(self.workload.message_seconds + each * self.links[Direction.UP].sizes[client])
        self.tell(Arrived(client, now))

    def due(self, key: int) -> None:
        if key >= 0:
            self.tell(Timer(self.timer_keys[key], self.engine.now))
            return
        rest, kind = divmod(-1 - key, _KINDS)
        number, client = divmod(rest, len(self.workload))
        if kind == _CHANGE:
            change = self.star.changes[number]
            self.engine.rescale(change.client, change.factor)
        elif kind == _COMPUTES:
            self.computed_on(client, number)
        elif kind == _LEAVE:
            self.leave(client)
        elif kind == _RETURN:
            self.away[client] = False
            self.note(_RETURNED, client, self.engine.now)
            self.plan_absence(client, self.engine.now)
            self.tell(Returned(client, self.engine.now))
        elif number == self.task[client]:
            self.links[kind].join(client)

    def encoding(self, client: int) -> float:
        """Seconds that the client's last encoding took."""
        return self.encode[client] * self.stretch[client] if self.stretch else self.encode[client]

    def own_timer(self, time: float, kind: int, client: int, number: int) -> None:
        self.engine.timer(time, -1 - ((number * len(self.workload) + client) * _KINDS + kind))

    def request(self, direction: Direction, client: int, delay: float) -> None:
        """Ask for the client's transfer, `delay` seconds from now."""
        link = self.links[direction]
        if link.unlimited:
            link.transfer(client, delay)
        elif delay > 0:
            kind = _JOIN_UP if direction == Direction.UP else _JOIN_DOWN
            self.own_timer(self.engine.now + delay, kind, client, self.task[client])
        else:
            link.join(client)

    # ---- who is there ---------------------------------------------------------------------------------------------

    def plan_absence(self, client: int, since: float) -> None:
        assert self.availability is not None
        absence = self.availability.absence(client, self.absences[client], since)
        if absence is None:
            return
        self.absences[client] += 1
        self.own_timer(absence[0], _LEAVE, client, 0)
        if absence[1] < np.inf:
            self.own_timer(absence[1], _RETURN, client, 0)

    def leave(self, client: int) -> None:
        self.departures += 1
        self.away[client] = True
        self.note(_LEFT, client, self.engine.now)
        if self.status[client] == _BUSY:
            self.task[client] += 1
            self.status[client] = _IDLE
            for link in self.links:
                link.cancel(client)
            if self.cores is not None:
                self.cores.leave(client, self.engine.now)
        self.tell(Left(client, self.engine.now))

    # ---- what the scheduler wants ---------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        if self.finished:
            return
        for action in self.scheduler.handle(event):
            self.act(action)
            if self.finished:
                return

    def act(self, action: Action) -> None:
        match action:
            case Dispatch(silos=silos, steps=steps):
                self.dispatch(silos, steps)
            case Aggregate(silos=silos):
                self.aggregate(silos)
            case Discard(silos=silos):
                self.use_up(silos, _DISCARDED)
            case SetTimer(key=key, time=time):
                self.timer_keys.append(key)
                self.engine.timer(time, len(self.timer_keys) - 1)
            case Finish():
                self.finished = True
                self.engine.stop()

    def occupy(self, seconds: float) -> float:
        """Queue `seconds` of work at the server's processor; returns when it will be done."""
        self.processor_free = max(self.processor_free, self.engine.now) + seconds
        self.processor_work += seconds
        return self.processor_free

    def dispatch(self, silos: Sequence[int], steps: int) -> None:
        start = self.occupy(0.0)
        version = self.version
        if self.encoded_version < version:
            self.encoded_version = version
            self.occupy(self.workload.downlink_seconds)
        share = steps / self.workload.steps if steps else 1.0
        each = self.workload.message_byte_seconds
        for client in silos:
            if self.status[client] == _BUSY or self.away[client]:
                state = "away" if self.away[client] else "still at work"
                raise ValueError(f"client {client} was dispatched at {start} s while it is {state}")
            self.status[client] = _BUSY
            self.task[client] += 1
            self.version_sent[client] = version
            self.dispatched[client] = start
            if self.log is not None:
                self.note(_DISPATCHED, client, start)
            self.share[client] = share
            train = self.train[client] * share
            if self.variation:
                train *= self.variation.draw(client, self.task[client])
            self.computing[client] = train + self.unscaled[client]
            sent = self.occupy(self.workload.message_seconds + each * self.links[Direction.DOWN].sizes[client])
            self.request(Direction.DOWN, client, sent - self.engine.now)

    def aggregate(self, silos: Sequence[int]) -> None:
        self.use_up(silos, _FOLDED)
        end = self.occupy(len(silos) * (self.workload.decode_seconds + self.workload.aggregate_seconds))
        work = self.account_one(silos[0], end) if len(silos) == 1 else self.account(silos, end)
        self.version += 1
        self.note(_AGGREGATED, -1, end)
        if self.left is not None:
            self.left -= work
            if self.left <= _ROUNDING:
                self.act(Finish())

    def use_up(self, silos: Sequence[int], what: int) -> None:
        for client in silos:
            if self.status[client] != _WAITING:
                raise ValueError(f"client {client} has no update that waits at the server")
            self.status[client] = _IDLE
            if self.log is not None:
                self.note(what, client, self.engine.now)

    def note(self, what: int, client: int, time: float) -> None:
        """Log an event, where that is wanted."""
        if self.log is not None:
            self.log.extend((time, what, client))

    def account(self, silos: Sequence[int], end: float) -> float:
        """Record an aggregation; returns the work that it folds."""
        members = np.asarray(silos, np.int64)
        dispatched, downloaded = _view(self.dispatched)[members], _view(self.downloaded)[members]
        arrived, computing = _view(self.arrived)[members], _view(self.computing)[members]
        encode = np.array([self.encoding(client) for client in silos]) if self.cores else _view(self.encode)[members]
        other = _view(self.other)[members]
        last = int(arrived.argmax())
        one = Round(
            round=self.version + 1,
            start=float(dispatched.min()),
            end=end,
            download=float((downloaded - dispatched).mean()),
            compute=float((computing + other).mean()),
            codec=float(encode.mean()),
            upload=float((arrived - downloaded - computing - encode - other).mean()),
            wait=float((arrived[last] - arrived).mean()),
            server=end - float(arrived[last]),
            slowest=int(members[last]),
            clients=len(members),
            staleness=float(self.version - _view(self.version_sent, np.int64)[members].mean()),
            work=float(_view(self.share)[members].sum()),
            up_bytes=float(self.workload.up_bytes[members].sum()),
            down_bytes=float(self.workload.down_bytes[members].sum()),
        )
        self.rounds.append(one)
        return one.work

    def account_one(self, client: int, end: float) -> float:
        """`account` of one client: where every update is aggregated alone, arrays of one cost a quarter of the time."""
        dispatched, downloaded, arrived = self.dispatched[client], self.downloaded[client], self.arrived[client]
        computing, encode = self.computing[client] + self.other[client], self.encoding(client)
        work = self.share[client]
        upload = arrived - downloaded - computing - encode
        times = (
            self.version + 1,
            dispatched,
            end,
            downloaded - dispatched,
            computing,
            encode,
            upload,
            0.0,
            end - arrived,
        )
        down, up = self.links
        counts = (client, 1, self.version - self.version_sent[client], work, up.sizes[client], down.sizes[client])
        self.rounds.add(times + counts)
        return work

    def result(self) -> Result:
        end = self.occupy(0.0)
        down, up = self.links
        tasks = np.stack([*map(_view, self.tasks), _view(self.arrived)], axis=1)
        return Result(
            rounds=self.rounds,
            seconds=end,
            arrivals=tasks[:, 3] - tasks[:, 0],
            tasks=tasks,
            up_bytes=up.moved,
            down_bytes=down.moved,
            uplink_utilisation=self.utilisation(up, end),
            downlink_utilisation=self.utilisation(down, end),
            server_utilisation=self.processor_work / end if end else 0.0,
            client_utilisation=self.computed / (end * len(self.workload)) if end else 0.0,
            departures=self.departures,
            events=self.engine.events,
            engine=self.engine.validity,
            log=self.events(),
        )

    def events(self) -> np.ndarray:
        """(m, 3) float64, the log in the order of time."""
        rows = np.array(self.log if self.log is not None else (), np.float64).reshape(-1, 3)
        return rows[np.argsort(rows[:, 0], kind="stable")]

    def utilisation(self, link: Admission, seconds: float) -> float:
        wire = link.moved / self.star.goodput_factor
        return wire / (self.star.capacity(link.direction) * seconds) if seconds else 0.0


def _doubles(values: np.ndarray) -> array[float]:
    return array("d", np.ascontiguousarray(values, np.float64).tobytes())


def _view(values: array[Any], dtype: Any = np.float64) -> np.ndarray:
    return np.frombuffer(values, dtype)
