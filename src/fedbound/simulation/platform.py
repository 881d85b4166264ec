"""The network that is simulated: a star of clients around one server, or a tree with sites between them.

Constants are those of SimGrid's default TCP model LV08: a transfer of S bytes pays `13.01 * latency` first and then
moves `S / 0.97` bytes; a flow's share of a contended link has the weight `1 / (latency + sum of 20537 / bandwidth)`,
and TCP's window limits a flow to `gamma / (2 * latency)`. Source: Velho and Legrand, "Accuracy Study and Improvement of
Network Simulation in the SimGrid Framework", SIMUTools 2009; SimGrid 4.1 manual, "Configuring SimGrid", keys
`network/bandwidth-factor`, `latency-factor`, `weight-S`, `TCP-gamma`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np

from fedbound.errors import InputError

# A field of this type takes a single number for all clients or one per client; it then is a (n,) float64 array.
PerClient: TypeAlias = Any

GOODPUT_FACTOR = 0.97  # share of a link's bandwidth that carries payload
LATENCY_FACTOR = 13.01  # seconds paid per second of latency: slow start and acknowledgements
WEIGHT_S = 20537.0  # bytes: how much a slow link lowers a flow's share
TCP_GAMMA = 4194304.0  # bytes: the largest TCP window


SERVER = -1  # in a Change: the server's link, both ways


class Direction(IntEnum):
    """Which way a transfer goes."""

    DOWN = 0  # server to client
    UP = 1  # client to server


@dataclass(frozen=True)
class Change:
    """From `time` on, a link has `factor` times its nominal bandwidth, both ways.

    Attributes:
        time: seconds.
        client: whose link; SERVER for the server's.
        factor: above 0.

    Raises:
        InputError: the time is negative, or the factor not above 0.
    """

    time: float
    client: int
    factor: float

    def __post_init__(self) -> None:
        if not 0 <= self.time < np.inf:
            raise InputError(f"a bandwidth change at {self.time} s is refused; give seconds from 0")
        if not 0 < self.factor < np.inf:
            raise InputError(f"a bandwidth change by the factor {self.factor} is refused; give a number above 0")


@dataclass(frozen=True)
class Star:
    """Clients, each behind a link of its own, around a server whose link all of them share.

    Attributes:
        server_up: bytes/s of the server's link for updates coming in; infinite where it is no bottleneck.
        server_down: bytes/s of the server's link for models going out; infinite where it is no bottleneck.
        client_bandwidth: (n,) float64, bytes/s of each client's link, each way.
        latency: (n,) float64, one-way latency to each client in seconds (a single number serves all).
        goodput_factor: share of the bandwidth that carries payload.
        latency_factor: seconds paid before a transfer per second of latency.
        weight_s: bytes in the weights' formula; None gives every flow the same weight.
        tcp_gamma: bytes of the largest TCP window; infinite for none.
        slots: transfers that the server handles at once in each direction, first come first served; None for all.
        changes: of bandwidths over time, in any order.
        sites: (n,) int, the site of each client, whose link it shares with the others there; None for a plain star.
        site_bandwidth: (s,) float64, bytes/s of each site's link, each way; None for a plain star.

    Raises:
        InputError: a bandwidth is zero, negative or no number, a latency negative, slots below 1, a change names a
            client that is not there, or a client a site.
    """

    server_up: float
    server_down: float
    client_bandwidth: np.ndarray
    latency: PerClient
    goodput_factor: float = GOODPUT_FACTOR
    latency_factor: float = LATENCY_FACTOR
    weight_s: float | None = WEIGHT_S
    tcp_gamma: float = TCP_GAMMA
    slots: int | None = None
    changes: tuple[Change, ...] = ()
    sites: np.ndarray | None = None
    site_bandwidth: np.ndarray | None = None

    def __post_init__(self) -> None:
        bandwidth = vector("client_bandwidth", self.client_bandwidth, None, "bytes/s above 0", lambda x: x > 0)
        latency = vector("latency", self.latency, len(bandwidth), "seconds from 0", lambda x: x >= 0)
        object.__setattr__(self, "client_bandwidth", bandwidth)
        object.__setattr__(self, "latency", latency)
        for key in ("server_up", "server_down", "tcp_gamma", "goodput_factor"):
            if not getattr(self, key) > 0:
                raise InputError(f"{key}: {getattr(self, key)} is refused; give a number above 0 (inf for no limit)")
        if not 0 <= self.latency_factor < np.inf:
            raise InputError(f"latency_factor: {self.latency_factor} is refused; give a number from 0")
        if self.weight_s is not None and not 0 < self.weight_s < np.inf:
            raise InputError(f"weight_s: {self.weight_s} is refused; give bytes above 0, or None for equal weights")
        if self.slots is not None and self.slots < 1:
            raise InputError(f"slots: {self.slots} is refused; give 1 or more, or None for all transfers at once")
        if self.sites is not None or self.site_bandwidth is not None:
            self._check_sites()
        for change in self.changes:
            if not SERVER <= change.client < len(bandwidth):
                raise InputError(
                    f"a bandwidth change of client {change.client} is refused; there are clients 0 to "
                    f"{len(bandwidth) - 1}, and {SERVER} is the server"
                )

    def _check_sites(self) -> None:
        if self.sites is None or self.site_bandwidth is None:
            raise InputError("sites and site_bandwidth belong together; give both or neither")
        links = vector("site_bandwidth", self.site_bandwidth, None, "bytes/s above 0", lambda x: x > 0)
        sites = np.asarray(self.sites, np.int64)
        if sites.shape != (len(self),):
            raise InputError(f"sites: an array of shape {sites.shape} is refused; give one site per client")
        for client in np.flatnonzero((sites < 0) | (sites >= len(links)))[:1]:
            raise InputError(
                f"sites: {sites[client]} for client {client} is refused; there are {len(links)} sites from 0"
            )
        object.__setattr__(self, "sites", sites)
        object.__setattr__(self, "site_bandwidth", links)

    def __len__(self) -> int:
        return len(self.client_bandwidth)

    def capacity(self, direction: Direction) -> float:
        """Bytes/s of the server's link that transfers of `direction` share."""
        return self.server_up if direction is Direction.UP else self.server_down

    def caps(self, direction: Direction) -> np.ndarray:
        """(n,) float64: the most that a flow alone in the network moves, bytes/s."""
        caps: np.ndarray = self.cap(self.client_bandwidth, self.capacity(direction), self.latency)
        return caps

    def weights(self, direction: Direction) -> np.ndarray:
        """(n,) float64: each flow's weight in the sharing of the server's link."""
        weights: np.ndarray = self.weight(self.client_bandwidth, self.capacity(direction), self.latency)
        return weights

    def cap(self, bandwidth: Any, capacity: float, latency: Any) -> Any:
        """The least of the two links (bytes/s) and TCP's window; elementwise."""
        with np.errstate(divide="ignore"):
            window = self.tcp_gamma / (2 * np.asarray(latency))
        return np.minimum(np.minimum(bandwidth, capacity), window)

    def weight(self, bandwidth: Any, capacity: float, latency: Any) -> Any:
        """A flow's weight over two links (bytes/s) and a latency (s); elementwise."""
        if self.weight_s is None:
            return np.ones(np.shape(bandwidth))
        return 1 / (latency + self.weight_s * (1 / bandwidth + 1 / capacity))

    def delays(self) -> np.ndarray:
        """(n,) float64: seconds before a transfer's first byte moves."""
        delays: np.ndarray = self.latency_factor * self.latency
        return delays


def vector(key: str, values: Any, count: int | None, wanted: str, good: Any) -> np.ndarray:
    """`values` as a read-only (count,) float64 array, a single number repeated; raises InputError on a bad entry."""
    array = np.asarray(values, np.float64)
    if array.ndim == 0 and count is not None:
        array = np.full(count, float(array))
    if array.ndim != 1 or not len(array) or (count is not None and len(array) != count):
        raise InputError(f"{key}: an array of shape {array.shape} is refused; give one number per client")
    bad = np.flatnonzero(~(good(array) & np.isfinite(array)))
    if len(bad):
        raise InputError(f"{key}: {array[bad[0]]:g} for client {bad[0]} is refused; give {wanted}")
    array = array.copy() if array is values else array
    array.setflags(write=False)
    return array
