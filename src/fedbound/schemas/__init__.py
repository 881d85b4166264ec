"""The tables of every artifact: their columns, units and meaning, a file per stage. The docs print
them by `markdown`.

`measured=True` marks what differs between two runs of the same study (times, what is computed from times, and what only
some transports can tell); `fedbound inspect --diff` and the content digests pass over those columns.
"""

from __future__ import annotations

from fedbound.schemas.bench import BENCH_ROWS
from fedbound.schemas.bounds import (
    BOUNDS,
    BOUNDS_AGGREGATE,
    BOUNDS_DECISION,
    BOUNDS_PROBES,
    BOUNDS_SCALES,
    BOUNDS_SILOS,
)
from fedbound.schemas.privacy import PRIVACY_RESULTS
from fedbound.schemas.profile import (
    PROFILE_CODEC,
    PROFILE_CODEC_TIMES,
    PROFILE_COSTS,
    PROFILE_LINK,
    PROFILE_MESSAGES,
    PROFILE_NODES,
    PROFILE_PAIRS,
    PROFILE_ROUNDS,
    PROFILE_SERVER,
    PROFILE_SHARING,
    PROFILE_SILOS,
    PROFILE_UTILISATION,
)
from fedbound.schemas.reference import TABLES, markdown
from fedbound.schemas.run import (
    RUN_AUDIT,
    RUN_EVALUATIONS,
    RUN_FAILURES,
    RUN_GUARD,
    RUN_PRIVACY,
    RUN_ROUNDS,
    RUN_SILOS,
    RUN_SUMMARY,
    RUN_TENSORS,
)
from fedbound.schemas.simulation import (
    SIMULATION_EVENTS,
    SIMULATION_PARTS,
    SIMULATION_ROUNDS,
    SIMULATION_SUMMARY,
    SIMULATION_TIMELINE,
    SIMULATION_VALIDATION,
)
from fedbound.schemas.study import (
    STUDY_COMPARISONS,
    STUDY_JOBS,
    STUDY_KEYS,
    STUDY_LINK_ADVICE,
    STUDY_LINKS,
    STUDY_PARETO,
    STUDY_PRIVATE,
    STUDY_PROVENANCE,
    STUDY_RANKING,
    STUDY_RECOMMENDATION,
    STUDY_SCENARIOS,
    STUDY_SETTINGS,
)

__all__ = [
    "BENCH_ROWS",
    "BOUNDS",
    "BOUNDS_AGGREGATE",
    "BOUNDS_DECISION",
    "BOUNDS_PROBES",
    "BOUNDS_SCALES",
    "BOUNDS_SILOS",
    "PRIVACY_RESULTS",
    "PROFILE_CODEC",
    "PROFILE_CODEC_TIMES",
    "PROFILE_COSTS",
    "PROFILE_LINK",
    "PROFILE_MESSAGES",
    "PROFILE_NODES",
    "PROFILE_PAIRS",
    "PROFILE_ROUNDS",
    "PROFILE_SERVER",
    "PROFILE_SHARING",
    "PROFILE_SILOS",
    "PROFILE_UTILISATION",
    "RUN_AUDIT",
    "RUN_EVALUATIONS",
    "RUN_FAILURES",
    "RUN_GUARD",
    "RUN_PRIVACY",
    "RUN_ROUNDS",
    "RUN_SILOS",
    "RUN_SUMMARY",
    "RUN_TENSORS",
    "SIMULATION_EVENTS",
    "SIMULATION_PARTS",
    "SIMULATION_ROUNDS",
    "SIMULATION_SUMMARY",
    "SIMULATION_TIMELINE",
    "SIMULATION_VALIDATION",
    "STUDY_COMPARISONS",
    "STUDY_JOBS",
    "STUDY_KEYS",
    "STUDY_LINKS",
    "STUDY_LINK_ADVICE",
    "STUDY_PARETO",
    "STUDY_PRIVATE",
    "STUDY_PROVENANCE",
    "STUDY_RANKING",
    "STUDY_RECOMMENDATION",
    "STUDY_SCENARIOS",
    "STUDY_SETTINGS",
    "TABLES",
    "markdown",
]
