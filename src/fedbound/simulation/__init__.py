"""How long a federation takes: the federation's own schedulers on simulated clients and networks."""

from __future__ import annotations

from fedbound.simulation.driver import Result, Round, simulate
from fedbound.simulation.platform import Direction, Star
from fedbound.simulation.workload import Workload

__all__ = ["Direction", "Result", "Round", "Star", "Workload", "simulate"]
