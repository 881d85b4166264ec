"""The far end of the SimGrid engine: one process, one simulation, driven over stdin and stdout by JSON lines.

First line in: the star. Then, in turn: a line in with the list of wanted transfers and timers, a line out with one
event `[time, kind, client]`. Kinds are 0 and 1 (a transfer down or up has ended), "timer" (one of those asked for is
due; the other end knows which) and "end".
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any, NoReturn

REFUSED = "fedbound refuses: "  # begins a sentence for the user, on stderr
_SPEED = 1e9  # flop/s of every host; delays are work of this speed
_CORES = 2**20  # of every host: each delay and each timer gets a core of its own


class Worker:
    """Clients are hosts; a client's transfer is its download or upload task, preceded by a task for the delay."""

    def __init__(self, sg: Any, star: dict[str, Any]):
        self.sg = sg
        settings = [f"--cfg={key}:{value!r}" for key, value in star["settings"].items()]
        quiet = ["--cfg=network/crosstraffic:0", "--log=root.thres:warning"]
        self.engine = sg.Engine(["fedbound", *quiet, *settings])
        self.clients: list[Any] = []
        self.waiting: list[Any] = []  # hosts of the clients' delays
        self.links: list[tuple[Any, float]] = []
        self.server_links: list[tuple[Any, float]] = []
        self.factors: dict[int, float] = {}
        self.peaks: dict[int, float] = dict(star["peaks"])
        self.lifts: list[Any] = []
        self.free_lifts: list[int] = []
        self.lifted: dict[int, list[int]] = {}
        self.moves: dict[tuple[int, int], Any] = {}
        self.tickets: dict[tuple[int, int], int] = {}  # of the transfer that is wanted; a cancelled one is outdated
        self.moving: set[tuple[int, int]] = set()
        self.cancelled: set[tuple[int, int]] = set()  # moves that SimGrid is about to report as ended
        self.delays: list[Any] = []
        self.free_delays: dict[int, list[int]] = {}
        self.delayed: dict[int, tuple[int, int, int]] = {}  # delay -> direction, client, ticket
        self.timers: list[Any] = []
        self.free_timers: list[int] = []
        if star["platform"]:
            self._load(star["platform"], star["host"], len(star["bandwidth"]))
        else:
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
        sites = [
            self._split_link(zone, f"site {k}", bandwidth, 0.0)
            for k, bandwidth in enumerate(star["site_bandwidth"] or [])
        ]
        for index, (bandwidth, latency) in enumerate(zip(star["bandwidth"], star["latency"], strict=True)):
            host = zone.add_host(f"client {index}", _SPEED)
            host.core_count = _CORES
            host = host.seal()
            link = self._split_link(zone, f"link {index}", bandwidth, latency)
            route = [link, sites[star["sites"][index]]] if sites else [link]
            zone.add_route(host, None, [sg.LinkInRoute(part, up) for part in route], True)
            self.clients.append(host)
            self.waiting.append(host)
            self.links.append((link, bandwidth))
        zone.seal()

    def _load(self, path: str, server: str, count: int) -> None:
        """Clients are the platform's hosts in the order of names, in turn; delays run on a host beside it."""
        hosts = load_platform(self.engine, path, server)
        self.server = self.engine.host_by_name(server)
        clock = self.engine.netzone_root.add_host("fedbound clock", _SPEED)
        clock.core_count = 2 * _CORES
        self.clock = clock.seal()
        self.clients = [hosts[i % len(hosts)] for i in range(count)]
        self.waiting = [self.clock] * count

    def _split_link(self, zone: Any, name: str, bandwidth: float, latency: float) -> Any:
        link = zone.add_split_duplex_link(name, bandwidth)
        link.set_latency(latency)
        return link.seal() or link

    def _server_route(self, zone: Any, capacity: dict[str, float | None], arriving: bool = False) -> list[Any]:
        """The server's link one way; an empty route where it is no bottleneck."""
        name = "UP" if arriving else "DOWN"
        bandwidth = capacity[name]
        if bandwidth is None:
            return []
        link = zone.add_link(f"server {name}", bandwidth)
        link.set_latency(0.0)
        self.server_links.append((link.seal(), bandwidth))
        return [self.sg.LinkInRoute(link)]

    def run(self) -> None:
        self.obey()
        self.engine.run()
        self.tell("end", -1)

    def completed(self, task: Any) -> None:
        kind, *numbers = task.name.split()
        if kind == "timer":
            self._timer_due(int(numbers[0]))
            return
        if kind == "lift":
            self._lift_over(int(numbers[0]))
            return
        if kind == "delay":
            self._delay_over(int(numbers[0]))
            return
        direction, client = map(int, numbers)
        self.moving.discard((direction, client))
        if (direction, client) in self.cancelled:
            self.cancelled.discard((direction, client))
            self._switch(client, on=True)
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
                case ["cancel", direction, client]:
                    self.cancel(direction, client)
                case ["rescale", client, factor]:
                    self.rescale(client, factor)
                case ["stop"]:
                    self.tell("end", -1)
                    os._exit(0)  # whatever is still under way has no say in the result

    def transfer(self, direction: int, client: int, size: float, delay: float) -> None:
        self._move(direction, client).bytes = size
        ticket = self.tickets[direction, client] = self.tickets.get((direction, client), 0) + 1
        if delay > 0:
            self._delay(direction, client, ticket, delay)
        else:
            self._begin(direction, client)

    def cancel(self, direction: int, client: int) -> None:
        """A task cannot be cancelled: the client's link is switched off, which ends the transfer, and on again."""
        self.tickets[direction, client] = self.tickets.get((direction, client), 0) + 1
        if (direction, client) in self.moving:
            self.cancelled.add((direction, client))
            self._switch(client, on=False)

    def _switch(self, client: int, on: bool) -> None:
        link, _ = self.links[client]
        for half in (link.link_up, link.link_down):
            (half.turn_on if on else half.turn_off)()

    def rescale(self, client: int, factor: float) -> None:
        self.factors[client] = factor
        self._set_bandwidth(client, factor)

    def _set_bandwidth(self, client: int, factor: float) -> None:
        if client >= 0:
            link, bandwidth = self.links[client]
            for half in (link.link_up, link.link_down):
                half.set_bandwidth(factor * bandwidth)
            return
        for link, bandwidth in self.server_links:
            link.set_bandwidth(factor * bandwidth)

    def _begin(self, direction: int, client: int) -> None:
        self.moving.add((direction, client))
        self._move(direction, client).enqueue_firings(1)
        changing = [end for end in (client, -1) if end in self.peaks]
        if changing:
            self._lift(changing)

    def _lift(self, ends: list[int]) -> None:
        """Let the transfer that is about to begin see the highest bandwidths, for no time at all."""
        for end in ends:
            self._set_bandwidth(end, self.peaks[end])
        if not self.free_lifts:
            self.free_lifts.append(len(self.lifts))
            self.lifts.append(self.sg.ExecTask.init(f"lift {len(self.lifts)}", 0.0, self.clock))
        index = self.free_lifts.pop()
        self.lifted[index] = ends
        self.lifts[index].enqueue_firings(1)

    def _lift_over(self, index: int) -> None:
        for end in self.lifted.pop(index):
            self._set_bandwidth(end, self.factors.get(end, 1.0))
        self.free_lifts.append(index)

    def _move(self, direction: int, client: int) -> Any:
        if (direction, client) not in self.moves:
            ends = (self.server, self.clients[client])
            name = f"move {direction} {client}"
            self.moves[direction, client] = self.sg.CommTask.init(name, 0.0, *(ends[::-1] if direction else ends))
        return self.moves[direction, client]

    def _delay(self, direction: int, client: int, ticket: int, seconds: float) -> None:
        """A task of the client's host: the delay of a cancelled transfer may still be under way beside it."""
        free = self.free_delays.setdefault(client, [])
        if not free:
            free.append(len(self.delays))
            self.delays.append(self.sg.ExecTask.init(f"delay {len(self.delays)}", 0.0, self.waiting[client]))
        index = free.pop()
        self.delayed[index] = (direction, client, ticket)
        self._start(self.delays[index], seconds)

    def _delay_over(self, index: int) -> None:
        direction, client, ticket = self.delayed.pop(index)
        if self.tickets[direction, client] == ticket:
            self._begin(direction, client)
        self.free_delays[client].append(index)

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


def load_platform(engine: Any, path: str, server: str) -> list[Any]:
    """The platform's hosts but the server, in the order of names, numbers in them by value.

    Raises:
        SystemExit: after a sentence, where what the simulation needs is not there; SimGrid raises where it refuses.
    """
    engine.load_platform(path)
    hosts = {host.name: host for host in engine.all_hosts}
    for link in engine.all_links:
        if not link.bandwidth > 0 or link.latency < 0:
            _refuse(f"{path}: the link {link.name!r} has {link.bandwidth:g} bytes/s, {link.latency:g} s; mend it")
    if server not in hosts:
        named = ", ".join(sorted(hosts)[:5])
        _refuse(f"{path} has no host {server!r} to be the server; name one of its hosts with server: ({named} ...)")
    home = hosts.pop(server)
    if not hosts:
        _refuse(f"{path} has no host but the server; add hosts to be clients")
    for name, host in hosts.items():
        for one, other in ((home, host), (host, home)):
            if not one.route_to(other)[0]:
                _refuse(f"{path} has no route from {one.name!r} to {name if one is home else server!r}; add one")
    return [hosts[name] for name in sorted(hosts, key=_by_number)]


def _by_number(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def _refuse(sentence: str) -> NoReturn:
    print(f"{REFUSED}{sentence}", file=sys.stderr)
    raise SystemExit(1)


def main() -> None:
    import simgrid

    if sys.argv[1:2] == ["--check"]:
        load_platform(simgrid.Engine(["fedbound", "--log=root.thres:critical"]), *sys.argv[2:])
        return
    Worker(simgrid, json.loads(sys.stdin.readline())).run()


if __name__ == "__main__":
    main()
