"""The far end of the SimGrid engine: one process, one simulation, driven over stdin and stdout by JSON lines.

First line in: the star. Then, in turn: a line in with the list of wanted transfers and timers, a line out with one
event `[time, kind, client]`. Kinds are 0 and 1 (a transfer down or up has ended), "timer" (one of those asked for is
due; the other end knows which) and "end".
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

_SPEED = 1e9  # flop/s of every host; delays are work of this speed
_CORES = 2**20  # of the host that times the timers: each timer gets a core of its own


class Worker:
    """Clients are hosts; a client's transfer is its download or upload task, preceded by a task for the delay."""

    def __init__(self, sg: Any, star: dict[str, Any]):
        self.sg = sg
        settings = [f"--cfg={key}:{value!r}" for key, value in star["settings"].items()]
        quiet = ["--cfg=network/crosstraffic:0", "--log=root.thres:warning"]
        self.engine = sg.Engine(["fedbound", *quiet, *settings])
        self.clients: list[Any] = []
        self.moves: dict[tuple[int, int], Any] = {}
        self.delays: dict[tuple[int, int], Any] = {}
        self.timers: list[Any] = []
        self.free_timers: list[int] = []
        self._build(star)
        sg.Task.on_completion_cb(self.completed)

    def _build(self, star: dict[str, Any]) -> None:
        sg, up = self.sg, self.sg.LinkInRoute.Direction.UP
        zone = self.engine.netzone_root.add_netzone_star("star")
        server = zone.add_host("server", _SPEED).seal()
        zone.add_route(server, None, self._server_route(zone, star["server"]), False)
        zone.add_route(None, server, self._server_route(zone, star["server"], arriving=True), False)
        self.server = server
        clock = zone.add_host("clock", _SPEED)
        clock.core_count = _CORES
        self.clock = clock.seal()
        for index, (bandwidth, latency) in enumerate(zip(star["bandwidth"], star["latency"], strict=True)):
            host = zone.add_host(f"client {index}", _SPEED).seal()
            link = zone.add_split_duplex_link(f"link {index}", bandwidth)
            link.set_latency(latency)
            link.seal()
            zone.add_route(host, None, [sg.LinkInRoute(link, up)], True)
            self.clients.append(host)
        zone.seal()

    def _server_route(self, zone: Any, capacity: dict[str, float | None], arriving: bool = False) -> list[Any]:
        """The server's link one way; an empty route where it is no bottleneck."""
        name = "UP" if arriving else "DOWN"
        bandwidth = capacity[name]
        if bandwidth is None:
            return []
        link = zone.add_link(f"server {name}", bandwidth)
        link.set_latency(0.0)
        return [self.sg.LinkInRoute(link.seal())]

    def run(self) -> None:
        self.obey()
        self.engine.run()
        self.tell("end", -1)

    def completed(self, task: Any) -> None:
        kind, *numbers = task.name.split()
        if kind == "timer":
            self._timer_due(int(numbers[0]))
            return
        direction, client = map(int, numbers)
        if kind == "delay":
            self._move(direction, client).enqueue_firings(1)
        else:
            self.tell(direction, client)
            self.obey()

    def _timer_due(self, index: int) -> None:
        self.tell("timer", index)
        self.obey()
        # Only now: SimGrid is not done with the task before this callback returns, so it must not start it anew.
        self.free_timers.append(index)

    def obey(self) -> None:
        for wanted in json.loads(sys.stdin.readline()):
            match wanted:
                case ["transfer", direction, client, size, delay]:
                    self.transfer(direction, client, size, delay)
                case ["timer", delay]:
                    self.timer(delay)
                case ["stop"]:
                    self.tell("end", -1)
                    os._exit(0)  # whatever is still under way has no say in the result

    def transfer(self, direction: int, client: int, size: float, delay: float) -> None:
        move = self._move(direction, client)
        move.bytes = size
        if delay > 0:
            self._start(self._delay(direction, client), delay)
        else:
            move.enqueue_firings(1)

    def _move(self, direction: int, client: int) -> Any:
        if (direction, client) not in self.moves:
            ends = (self.server, self.clients[client])
            name = f"move {direction} {client}"
            self.moves[direction, client] = self.sg.CommTask.init(name, 0.0, *(ends[::-1] if direction else ends))
        return self.moves[direction, client]

    def _delay(self, direction: int, client: int) -> Any:
        if (direction, client) not in self.delays:
            task = self.sg.ExecTask.init(f"delay {direction} {client}", 0.0, self.clients[client])
            self.delays[direction, client] = task
        return self.delays[direction, client]

    def timer(self, delay: float) -> None:
        if not self.free_timers:
            self.free_timers.append(len(self.timers))
            self.timers.append(self.sg.ExecTask.init(f"timer {len(self.timers)}", 0.0, self.clock))
        index = self.free_timers.pop()
        self._start(self.timers[index], delay)

    def _start(self, task: Any, seconds: float) -> None:
        # SimGrid 4.1's setter wants a third argument, which an assignment cannot give; a new task for each delay would
        # either pile up or be freed under SimGrid's feet.
        type(task).flops.fset(task, seconds * _SPEED, "instance_0")
        task.enqueue_firings(1)

    def tell(self, kind: Any, subject: int) -> None:
        sys.stdout.write(json.dumps([self.sg.Engine.clock, kind, subject]) + "\n")
        sys.stdout.flush()


def main() -> None:
    import simgrid

    Worker(simgrid, json.loads(sys.stdin.readline())).run()


if __name__ == "__main__":
    main()
