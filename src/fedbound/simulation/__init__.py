"""How long a federation takes: the federation's own schedulers on simulated clients and networks."""

from __future__ import annotations

from fedbound.simulation.availability import Availability, Churn, Trace
from fedbound.simulation.driver import Result, simulate
from fedbound.simulation.platform import SERVER, Change, Direction, Star
from fedbound.simulation.rounds import Round, Rounds
from fedbound.simulation.workload import Workload

__all__ = [
    "SERVER",
    "Availability",
    "Change",
    "Churn",
    "Direction",
    "Result",
    "Round",
    "Rounds",
    "Star",
    "Trace",
    "Workload",
    "simulate",
]
