"""The simulated federation: a scheduler of the real one, clients and a server that only take time, and an engine.

    dispatch -> server: one message each -> latency -> download -> evaluate, train, encode -> latency -> upload
    arrival  -> server: one message -> the scheduler decides
    aggregate of k updates -> server: k times decode and fold

The server's processor does one thing after the other, in the order asked (FIFO); its end times are therefore known at
once and need no events. The scheduler is the very object that drives the MPI server (design law 5): it hears of an
arrival when the upload ends, and a model that it dispatches leaves when the processor gets to it.
"""

from __future__ import annotations

from array import array
from collections import deque
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
    Scheduler,
    SetTimer,
    Start,
    Timer,
)
from fedbound.simulation import engines
from fedbound.simulation.engines import Engine
from fedbound.simulation.platform import Direction, Star
from fedbound.simulation.workload import Workload

_IDLE, _BUSY, _WAITING = 0, 1, 2  # a client: without work, at work or on its way, its update waits at the server


@dataclass(frozen=True, slots=True)
class Round:
    """One aggregation. Parts are means over its clients, all in seconds.

    Attributes:
        round: from 1.
        start: when the first of its models was dispatched.
        end: when the new model was ready.
        download: from dispatch to model received.
        compute: evaluation, training and what else the client does.
        codec: encoding.
        upload: from update ready to update received.
        server: from the last arrival to the new model.
        slowest: client that arrived last.
        clients: number of updates folded.
    """

    round: int
    start: float
    end: float
    download: float
    compute: float
    codec: float
    upload: float
    server: float
    slowest: int
    clients: int

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Result:
    """What a simulation found.

    Attributes:
        rounds: one entry per aggregation.
        seconds: when the federation was over.
        arrivals: (n,) float64, each client's last time from dispatch to arrival at the server; NaN where it had none.
        up_bytes, down_bytes: delivered payload, headers included.
        uplink_utilisation, downlink_utilisation: busy share of the server's link; 0 where it is infinite.
        events: what the engine processed.
        engine: which engine ran, and why it is valid.
    """

    rounds: list[Round]
    seconds: float
    arrivals: np.ndarray
    up_bytes: float
    down_bytes: float
    uplink_utilisation: float
    downlink_utilisation: float
    events: int
    engine: str


def simulate(
    workload: Workload, platform: Star, scheduler: Scheduler, engine: str | dict[str, Any] = "fluid"
) -> Result:
    """Run `scheduler` over simulated clients until it finishes.

    Args:
        workload: costs of n clients.
        platform: network of the same n clients.
        scheduler: from `fedbound.federation.schedulers.get`, fresh; it is used up.
        engine: a registered engine's name, or a choice `{"name": ..., **options}`.

    Raises:
        InputError: workload and platform differ in clients; the engine is unknown or not installed.
        FedboundError: the scheduler waits for something that never happens.
    """
    if len(workload) != len(platform):
        raise InputError(
            f"the workload has {len(workload)} clients and the platform {len(platform)}; give the same number to both"
        )
    return _Federation(workload, platform, scheduler, engines.get(engine)(platform)).run()


class _Admission:
    """Transfer slots in one direction, first come first served; None serves all at once.

    A slot is held from admission, before the latency, to the end of the transfer.
    """

    def __init__(self, engine: Engine, direction: Direction, sizes: array[float], slots: int | None):
        self.engine = engine
        self.direction = direction
        self.sizes = sizes
        self.unlimited = slots is None
        self.free = slots or 0
        self.queue: deque[int] = deque()
        self.moved = 0.0

    def request(self, client: int, delay: float) -> None:
        """Ask for the client's transfer, `delay` seconds from now."""
        if self.unlimited:
            self.engine.transfer(self.direction, client, self.sizes[client], delay)
        elif delay > 0:
            self.engine.timer(self.engine.now + delay, _queue_key(self.direction, client))
        else:
            self.join(client)

    def join(self, client: int) -> None:
        self.queue.append(client)
        self._admit()

    def ended(self, client: int) -> None:
        self.moved += self.sizes[client]
        if not self.unlimited:
            self.free += 1
            self._admit()

    def _admit(self) -> None:
        while self.free and self.queue:
            self.free -= 1
            client = self.queue.popleft()
            self.engine.transfer(self.direction, client, self.sizes[client], 0.0)


# An engine's timers carry one whole number: from 0, a timer of the scheduler; below 0, a client that joins a queue.
def _queue_key(direction: Direction, client: int) -> int:
    return -1 - (2 * client + direction)


class _Federation:
    def __init__(self, workload: Workload, star: Star, scheduler: Scheduler, engine: Engine):
        count = len(workload)
        self.workload = workload
        self.star = star
        self.scheduler = scheduler
        self.engine = engine
        self.down = _Admission(engine, Direction.DOWN, _doubles(workload.down_bytes), star.slots)
        self.up = _Admission(engine, Direction.UP, _doubles(workload.up_bytes), star.slots)
        self.train = _doubles(workload.train_seconds)
        self.unscaled = _doubles(workload.evaluate_seconds + workload.other_seconds)
        self.encode = _doubles(workload.encode_seconds)
        self.status = bytearray(count)
        self.computing = array("d", bytes(8 * count))
        self.dispatched = array("d", bytes(8 * count))
        self.downloaded = array("d", bytes(8 * count))
        self.arrived = array("d", [np.nan]) * count
        self.processor_free = 0.0
        self.timer_keys: list[int] = []
        self.rounds: list[Round] = []
        self.finished = False

    def run(self) -> Result:
        self.tell(Start(len(self.workload), 0.0))
        self.engine.run(self.received, self.due)
        if not self.finished:
            raise FedboundError(
                f"the simulated federation came to a halt at {self.engine.now:g} s, after {len(self.rounds)} "
                f"aggregations: scheduler {type(self.scheduler).__name__!r} waits for what never happens"
            )
        return self.result()

    def received(self, direction: Direction, client: int) -> None:
        if direction == Direction.DOWN:
            self.model_received(client)
        else:
            self.update_received(client)

    def model_received(self, client: int) -> None:
        self.downloaded[client] = self.engine.now
        self.down.ended(client)
        self.up.request(client, self.computing[client] + self.encode[client])

    def update_received(self, client: int) -> None:
        now = self.engine.now
        self.arrived[client] = now
        self.up.ended(client)
        self.status[client] = _WAITING
        self.occupy(self.workload.message_seconds)
        self.tell(Arrived(client, now))

    def due(self, key: int) -> None:
        if key >= 0:
            self.tell(Timer(self.timer_keys[key], self.engine.now))
            return
        client, direction = divmod(-1 - key, 2)
        (self.up if direction == Direction.UP else self.down).join(client)

    def tell(self, event: Event) -> None:
        if self.finished:
            return
        for action in self.scheduler.handle(event):
            self.act(action)

    def act(self, action: Action) -> None:
        match action:
            case Dispatch(silos=silos, steps=steps):
                self.dispatch(silos, steps)
            case Aggregate(silos=silos):
                self.aggregate(silos)
            case Discard(silos=silos):
                self.use_up(silos)
            case SetTimer(key=key, time=time):
                self.timer_keys.append(key)
                self.engine.timer(time, len(self.timer_keys) - 1)
            case Finish():
                self.finished = True
                self.engine.stop()

    def occupy(self, seconds: float) -> float:
        """Queue `seconds` of work at the server's processor; returns when it will be done."""
        self.processor_free = max(self.processor_free, self.engine.now) + seconds
        return self.processor_free

    def dispatch(self, silos: Sequence[int], steps: int) -> None:
        start = self.occupy(0.0)
        share = steps / self.workload.steps if steps else 1.0
        for client in silos:
            if self.status[client] == _BUSY:
                raise ValueError(f"client {client} was dispatched at {start} s while it is still at work")
            self.status[client] = _BUSY
            self.dispatched[client] = start
            self.computing[client] = self.train[client] * share + self.unscaled[client]
            self.down.request(client, self.occupy(self.workload.message_seconds) - self.engine.now)

    def aggregate(self, silos: Sequence[int]) -> None:
        members = np.asarray(silos, np.int64)
        self.use_up(silos)
        end = self.occupy(len(members) * (self.workload.decode_seconds + self.workload.aggregate_seconds))
        self.rounds.append(self.account(members, end))

    def use_up(self, silos: Sequence[int]) -> None:
        for client in silos:
            if self.status[client] != _WAITING:
                raise ValueError(f"client {client} has no update that waits at the server")
            self.status[client] = _IDLE

    def account(self, members: np.ndarray, end: float) -> Round:
        dispatched, downloaded = _view(self.dispatched)[members], _view(self.downloaded)[members]
        arrived, computing = _view(self.arrived)[members], _view(self.computing)[members]
        encode = self.workload.encode_seconds[members]
        last = int(arrived.argmax())
        return Round(
            round=len(self.rounds) + 1,
            start=float(dispatched.min()),
            end=end,
            download=float((downloaded - dispatched).mean()),
            compute=float(computing.mean()),
            codec=float(encode.mean()),
            upload=float((arrived - downloaded - computing - encode).mean()),
            server=end - float(arrived[last]),
            slowest=int(members[last]),
            clients=len(members),
        )

    def result(self) -> Result:
        end = self.occupy(0.0)
        return Result(
            rounds=self.rounds,
            seconds=end,
            arrivals=_view(self.arrived) - _view(self.dispatched),
            up_bytes=self.up.moved,
            down_bytes=self.down.moved,
            uplink_utilisation=self.utilisation(self.up, end),
            downlink_utilisation=self.utilisation(self.down, end),
            events=self.engine.events,
            engine=self.engine.validity,
        )

    def utilisation(self, link: _Admission, seconds: float) -> float:
        wire = link.moved / self.star.goodput_factor
        return wire / (self.star.capacity(link.direction) * seconds) if seconds else 0.0


def _doubles(values: np.ndarray) -> array[float]:
    return array("d", np.ascontiguousarray(values, np.float64).tobytes())


def _view(values: array[float]) -> np.ndarray:
    return np.frombuffer(values, np.float64)
