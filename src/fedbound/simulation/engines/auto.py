"""The engine that picks the engine."""

from __future__ import annotations

from collections.abc import Callable

from fedbound.registry import ENGINES, Options
from fedbound.simulation.engines import Engine
from fedbound.simulation.engines.fluid import make
from fedbound.simulation.engines.simgrid import SimGrid
from fedbound.simulation.platform import Star


@ENGINES.register("auto", Options)
def auto(options: Options) -> Callable[[Star], Engine]:
    """The fastest engine that is exact: fluid on a plain star, SimGrid where clients share sites' links."""
    return lambda star: make(star) if star.sites is None else SimGrid(star)
