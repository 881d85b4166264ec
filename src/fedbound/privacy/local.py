"""Local privacy of vectors by a kernel for numbers: spread, pick few coordinates, send a level of each.

Client: clip to an L2 norm c, or to an Linf norm, spread over N coordinates within c_inf (`fedbound.privacy.rotation`:
rotate and clip, or Kashin's representation, or not at all, as Linf needs), pick k coordinates at random, send the
kernel's level of each at epsilon/k.
Server: the decoded value times c_inf N/k at each coordinate, averaged, spread back. k is chosen for the least error.
Nobody is trusted: the message of one client is epsilon-DP under replacement of its whole vector, whatever the spread.

Papers define these kernels for numbers, or for vectors in other geometries; this vector form, that of sampled
coordinates (as in SQKR and CLDP), is ours, and the same for all kernels, so that they can be compared.

What the server sees is either a list of messages, client by client, or the messages shuffled by a trusted shuffler,
whose epsilon is amplified (`accounting.shuffled_epsilon`). The theorem wants the same randomizer for every client and
messages that do not tell who sent them: the picked coordinates are then the client's own secret coins, and are sent.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field, model_validator

from fedbound.privacy import accounting, loss, transforms
from fedbound.privacy.kernels import Table
from fedbound.privacy.mechanisms import Accounts, Adjacency, Guarantee, Law, Norm, Setting, Trust
from fedbound.privacy.rotation import Basis, Kind, Spread
from fedbound.registry import Options

MOST_COORDINATES = 12
MOST_CORNERS = 70  # of a kernel whose inputs are all paired; the noisy sign's ends are its worst


TAIL = Field(default=1e-3, gt=0, lt=1, description="probability that some rotated coordinate is clipped")


class MessageOptions(Options):
    """Options of mechanisms that protect every message by itself."""

    aggregate: Literal["list", "shuffle"] = Field(
        default="list",
        description="what the server sees: messages client by client, or shuffled by a trusted shuffler",
    )


class SpreadOptions(Options):
    """Options of mechanisms that spread a vector over coordinates and clip those."""

    rotation: Kind = Field(
        default="hadamard", description="how a vector is spread: hadamard (rotated, clipped), kashin or none"
    )
    tail: float = TAIL


class LocalOptions(MessageOptions, SpreadOptions):
    """Options of local kernels."""

    norm: Literal["L2", "Linf"] = Field(
        default="L2",
        exclude_if=lambda norm: norm == "L2",  # so that cells of before it was there are the same
        description="norm of the clip; Linf bounds every coordinate by itself, and goes with rotation none",
    )
    coordinates: int = Field(default=0, ge=0, le=64, description="coordinates each client sends; 0: of least error")

    @model_validator(mode="after")
    def _no_rotation_of_a_box(self) -> LocalOptions:
        if self.norm == "Linf" and self.rotation != "none":
            raise ValueError(
                f"rotation {self.rotation!r} is refused with norm Linf: a rotated box is none; set rotation to 'none'"
            )
        return self


class PerMessage:
    """A mechanism whose messages are epsilon-DP one by one, seen as a list or shuffled."""

    adjacency: ClassVar[Adjacency] = "replace"

    @property
    def norm(self) -> Norm:
        return "L2"

    def __init__(self, options: MessageOptions):
        self.options = options

    @property
    def trust(self) -> Trust:
        return "shuffler" if self.options.aggregate == "shuffle" else "local"

    def message_epsilon(self, setting: Setting) -> float:
        """The pure epsilon that one message may have for the setting's target."""
        if self.trust == "local":
            return setting.epsilon
        return accounting.shuffled_local_epsilon(setting.clients, setting.epsilon, setting.delta)

    def claim(self, setting: Setting, message: float) -> Guarantee:
        """What holds where every message is `message`-DP."""
        if self.trust == "local":
            return Guarantee(message, setting.delta, accounting.PURE, self.adjacency, self.trust)
        epsilon = min(setting.epsilon, accounting.shuffled_epsilon(setting.clients, message, setting.delta))
        return Guarantee(epsilon, setting.delta, accounting.SHUFFLED, self.adjacency, self.trust)


class Local(PerMessage, ABC):
    """A kernel at epsilon/k on k random coordinates of the spread vector."""

    name: ClassVar[str]
    options: LocalOptions

    def __init__(self, options: LocalOptions):
        super().__init__(options)

    @property
    def norm(self) -> Norm:
        return self.options.norm

    @abstractmethod
    def kernel(self, epsilon: float) -> Table:
        """The kernel whose pure epsilon is at most `epsilon`."""

    def calibrate(self, setting: Setting) -> LocalRelease:
        """The kernel at epsilon/k, for the number k of coordinates of least error."""
        setting.once(self.name)
        options = self.options
        spread = Spread(options.rotation, setting.dimension, setting.clip, options.tail)
        message = self.message_epsilon(setting)
        most = min(spread.size, MOST_COORDINATES)
        counts = [min(options.coordinates, spread.size)] if options.coordinates else range(1, most + 1)
        best: LocalRelease | None = None
        for count in counts:
            kernel = self.kernel(message / count)
            pure = min(message, count * kernel.pure_epsilon)  # the product may round up
            release = LocalRelease(setting, kernel, count, spread, pure, self.claim(setting, pure), self.norm)
            if best is not None and release.mse >= best.mse:
                break  # the error has one minimum over k
            best = release
        assert best is not None
        return best


class Messages:
    """What releases share whose messages are `message`-DP one by one."""

    setting: Setting
    message: float
    guarantee: Guarantee
    mse: Any  # a float; how it is had is the release's own

    @property
    def noise(self) -> float:
        """Standard deviation of the summed error per coordinate."""
        return float(math.sqrt(self.mse)) * self.setting.clients

    def epsilon_of(self, present: int) -> float:
        """Epsilon where only `present` messages arrive: shuffling among fewer hides less."""
        if self.guarantee.trust == "local":
            return self.guarantee.epsilon
        return accounting.shuffled_epsilon(present, self.message, self.guarantee.delta)

    @property
    def epsilon_alone(self) -> float:
        return self.message


@dataclass(frozen=True)
class LocalRelease(Messages):
    """A kernel on `coordinates` of the coordinates that each client's vector is spread over.

    `message` is the pure epsilon of one message, `norm` that of the clip.
    """

    setting: Setting
    kernel: Table
    coordinates: int
    spread: Spread
    message: float
    guarantee: Guarantee
    norm: Norm = "L2"

    @property
    def bits(self) -> float:
        """The coordinates are public randomness; where they are not, each costs log2 N bits more."""
        sent = math.log2(self.kernel.levels)
        if self.guarantee.trust == "shuffler":
            sent += math.log2(self.spread.size)
        return self.coordinates * sent / self.setting.dimension

    @cached_property
    def mse(self) -> float:
        """Mean squared error per coordinate for vectors of norm c in independent directions (`typical`).

        For a frame, which is no rotation, see `frame_error`.
        """
        if self.spread.kind == "kashin" or (self.spread.kind == "none" and self.norm == "L2"):
            return frame_error(self.kernel, self.coordinates, self.spread) / self.setting.clients
        one = coordinate_error(self.kernel, self.typical, self.spread.reach, self.spread.size / self.coordinates)
        return one / self.setting.clients

    @cached_property
    def gain(self) -> float:
        return coordinate_gain(self.kernel, self.typical, self.spread.reach)

    @property
    def typical(self) -> np.ndarray:
        """Coordinates of clients' vectors after spreading, unclipped: float64 [m], of equal weight."""
        if self.norm == "Linf":
            return self.setting.clip * transforms.cube_coordinates()
        if self.spread.kind == "hadamard":
            return self.setting.clip * transforms.sphere_coordinates(self.spread.size)
        return self.spread.sample[1].ravel()

    def estimate(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.setting.check(vectors)
        public, private = rng.spawn(2)
        basis = self.spread.draw(public)
        total = np.zeros(self.spread.size)
        for block in transforms.blocks(vectors):
            chosen = pick(len(block), self.spread.size, self.coordinates, public)
            total += self.decode(chosen, self.encode(block, basis, chosen, private))
        return basis.vectors(total[None, :] / self.setting.clients)[0]

    def accounts(self) -> Accounts:
        if self.guarantee.trust == "shuffler":
            return Accounts(self.guarantee.epsilon, math.nan)
        return kernel_accounts(self.kernel, self.coordinates, self.setting.delta)

    def observe(self, values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        basis, chosen = self.spread.trivial, np.tile(np.arange(self.coordinates), (draws, 1))
        place = self.kernel.levels ** np.arange(self.coordinates)

        def message(value: float) -> np.ndarray:
            return self.encode(np.full((draws, 1), value, dtype=np.float64), basis, chosen, rng) @ place

        if self.guarantee.trust == "local":
            return message(values[0])
        return np.sum([message(value) for value in values], axis=0)  # of what is shuffled, its sum

    def law(self, values: np.ndarray) -> Law:
        """Outcomes are the levels of all N coordinates, as digits."""
        first = self._message_law(values[0])
        if self.guarantee.trust == "local":
            return first
        laws = [first, *(self._message_law(value) for value in values[1:])]
        return Law.of_sum([law.pmf for law in laws])

    def _message_law(self, value: float) -> Law:
        inside = self.spread.trivial.coordinates(np.array([[value]], dtype=np.float64))[0] / self.spread.reach
        pmf, decoded = np.ones(1), np.zeros(1)
        for j in range(self.coordinates):
            row = self.kernel.pmf(np.clip(inside[j : j + 1], -1, 1))[0]
            weight = self.spread.trivial.vectors(np.eye(self.spread.size)[j : j + 1])[0, 0]
            part = self.kernel.values * weight * self.spread.reach * self.spread.size / self.coordinates
            pmf, decoded = np.outer(row, pmf).ravel(), np.add.outer(part, decoded).ravel()
        return Law(np.arange(len(pmf)), pmf, decoded)

    def encode(self, vectors: np.ndarray, basis: Basis, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What each client sends: float64 vectors [r, d] and coordinates int64 [r, k] to levels int64 [r, k]."""
        clipped = transforms.clip_linf if self.norm == "Linf" else transforms.clip_l2
        spread = basis.coordinates(clipped(vectors, self.setting.clip))
        picked = np.take_along_axis(spread, chosen, axis=1) / self.spread.reach
        return self.kernel.sample(np.clip(picked, -1, 1), rng)

    def decode(self, chosen: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """The sum of the spread vectors' estimates, float64 [N], from coordinates and levels [r, k]."""
        scale = self.spread.reach * self.spread.size / self.coordinates
        return np.bincount(chosen.ravel(), scale * self.kernel.values[levels.ravel()], self.spread.size)


class Kernel(Protocol):
    """What decodes a level: mean and mean square of its value for an input in [-1, 1]."""

    def mean(self, x: np.ndarray) -> np.ndarray: ...

    def square(self, x: np.ndarray) -> np.ndarray: ...


def coordinate_error(kernel: Kernel, x: np.ndarray, reach: float, weight: float) -> float:
    """Mean squared error of one client's coordinates x, each sent with probability 1/`weight` and weighed by it.

    With x clipped to y in units of c_inf = `reach`: weight c_inf^2 E[a^2 | y] - 2 x c_inf E[a | y] + x^2, averaged.
    """
    y = np.clip(x / reach, -1, 1)
    return float(np.mean(weight * reach**2 * kernel.square(y) - 2 * x * reach * kernel.mean(y) + x**2))


def coordinate_gain(kernel: Kernel, x: np.ndarray, reach: float) -> float:
    """Of coordinates x, clipped to y in units of c_inf = `reach`: c_inf E[x E[a | y]] / E[x^2]."""
    return float(x @ kernel.mean(np.clip(x / reach, -1, 1))) * reach / float(x @ x)


def frame_error(kernel: Table, count: int, spread: Spread) -> float:
    """Mean squared error per coordinate of one client's vector x, of which `count` of N frame coefficients are sent.

    With T the frame, y = T's coefficients of x over c_inf, m = c_inf E[a | y], and |T_j|^2 = d/N for all j:
    (d/k) c_inf^2 sum E[a^2 | y] + N(k-1)/(k(N-1)) (|T^t m|^2 - d/N |m|^2) - 2 x T^t m + |x|^2, over d; averaged
    over random directions x by simulation with a fixed seed.
    """
    x, coefficients, basis = spread.sample
    y = np.clip(coefficients / spread.reach, -1, 1)
    size, dimension = spread.size, spread.dimension
    squares = spread.reach**2 * kernel.square(y.ravel()).reshape(y.shape).sum(axis=1)
    means = spread.reach * kernel.mean(y.ravel()).reshape(y.shape)
    back = basis.vectors(means)
    both = size * (count - 1) / (count * max(1, size - 1))
    pairs = np.square(back).sum(axis=1) - dimension / size * np.square(means).sum(axis=1)
    error = dimension / count * squares + both * pairs - 2 * (x * back).sum(axis=1) + np.square(x).sum(axis=1)
    return float(error.mean()) / dimension


def pick(rows: int, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` different coordinates of `size` for each of `rows` clients, uniformly: int64 [rows, count]."""
    if count == 1:
        return rng.integers(0, size, (rows, 1))
    if count == size:
        return np.tile(np.arange(size), (rows, 1))
    return np.argpartition(rng.random((rows, size)), count, axis=1)[:, :count]


def kernel_accounts(kernel: Table, coordinates: int, delta: float) -> Accounts:
    """Epsilon at `delta` of `coordinates` levels, by both accountants; neither can exceed the pure one by much."""
    pairs = kernel.pairs() if len(kernel.corners) <= MOST_CORNERS else [kernel.worst_pair()]
    return _accounts(pairs, coordinates, coordinates * kernel.pure_epsilon, delta)


def response_accounts(kept: float, other: float, outcomes: int, repeats: int, pure: float, delta: float) -> Accounts:
    """Epsilon at `delta` of `repeats` randomised responses among `outcomes`, the true one of probability `kept`.

    Of two inputs that stand for one outcome each: either of the two, or any of the others, which tell nothing.
    """
    rest = (outcomes - 2) * other
    p, q = np.array([kept, other, rest]), np.array([other, kept, rest])
    return _accounts([(p[:2], q[:2]) if rest <= 0 else (p, q)], repeats, pure, delta)


def _accounts(pairs: Sequence[tuple[np.ndarray, np.ndarray]], repeats: int, pure: float, delta: float) -> Accounts:
    mirrored = [pair for p, q in pairs for pair in ((p, q), (q, p))]
    pld = loss.from_pairs(mirrored).compose(repeats, delta * 1e-6).epsilon(delta)
    rdp = repeats * np.max([loss.renyi(p, q, accounting.COARSE_ORDERS) for p, q in mirrored], axis=0)
    return Accounts(min(pure, pld), min(pure, accounting.rdp_epsilon(accounting.COARSE_ORDERS, rdp, delta)))
