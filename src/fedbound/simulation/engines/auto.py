"""The engine that picks the engine."""

from __future__ import annotations

from collections.abc import Callable

from fedbound.registry import ENGINES, Options
from fedbound.simulation.engines import Engine
from fedbound.simulation.engines.fluid import Fluid
from fedbound.simulation.platform import Star


@ENGINES.register("auto", Options)
def auto(options: Options) -> Callable[[Star], Engine]:
    """The fastest engine that is exact: fluid, as every platform is a star."""
    return Fluid
