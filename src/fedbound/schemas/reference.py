"""The reference of all tables: the content of docs/tables.md."""

from __future__ import annotations

from collections.abc import Mapping

from fedbound.artifacts import Field, Schema
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
from fedbound.schemas.run import (
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

TABLES: dict[str, dict[str, Schema]] = {
    "profile": {
        "nodes": PROFILE_NODES,
        "silos": PROFILE_SILOS,
        "rounds": PROFILE_ROUNDS,
        "codec": PROFILE_CODEC,
        "codec_times": PROFILE_CODEC_TIMES,
        "link": PROFILE_LINK,
        "pairs": PROFILE_PAIRS,
        "messages": PROFILE_MESSAGES,
        "sharing": PROFILE_SHARING,
        "utilisation": PROFILE_UTILISATION,
        "costs": PROFILE_COSTS,
        "server": PROFILE_SERVER,
    },
    "calibrate": {
        "bounds": BOUNDS,
        "probes": BOUNDS_PROBES,
        "scales": BOUNDS_SCALES,
        "decision": BOUNDS_DECISION,
        "silos": BOUNDS_SILOS,
        "aggregate": BOUNDS_AGGREGATE,
    },
    "train": {
        "rounds": RUN_ROUNDS,
        "silos": RUN_SILOS,
        "evaluations": RUN_EVALUATIONS,
        "tensors": RUN_TENSORS,
        "failures": RUN_FAILURES,
        "guard": RUN_GUARD,
        "privacy": RUN_PRIVACY,
        "summary": RUN_SUMMARY,
    },
    "privacy": {"results": PRIVACY_RESULTS},
    "simulate": {
        "rounds": SIMULATION_ROUNDS,
        "summary": SIMULATION_SUMMARY,
        "timeline": SIMULATION_TIMELINE,
        "events": SIMULATION_EVENTS,
        "validation": SIMULATION_VALIDATION,
        "validation_parts": SIMULATION_PARTS,
    },
    "collect": {
        "scenarios": STUDY_SCENARIOS,
        "settings": STUDY_SETTINGS,
        "comparisons": STUDY_COMPARISONS,
        "pareto": STUDY_PARETO,
        "private_training": STUDY_PRIVATE,
        "mechanisms": STUDY_RANKING,
        "links": STUDY_LINKS,
        "link_advice": STUDY_LINK_ADVICE,
        "recommendation": STUDY_RECOMMENDATION,
        "jobs": STUDY_JOBS,
        "provenance": STUDY_PROVENANCE,
    },
    "bench": {"rows": BENCH_ROWS},
}

_INTRODUCTION = """\
# Tables

What every artifact holds, stage by stage. Generated from `fedbound/schemas/` by `fedbound.schemas.markdown()`; edit
there. How the files are laid out and how to read them is in [artifacts.md](artifacts.md).

The unit `1` is a plain number. A column that is *measured* holds a time, or what is computed from times: it differs
between two runs of the same study, so `fedbound inspect --diff` and the content digest pass over it.
"""

_STUDY_KEYS_TEXT = """\
### Tables of the stages, collected

`study.h5` also holds the stages' own tables, the rows of all artifacts one after the other, with some of these
columns in front:
"""


def markdown() -> str:
    """The reference of all tables as Markdown: the content of `docs/tables.md`."""
    parts = [_INTRODUCTION]
    for stage, tables in TABLES.items():
        places = {"collect": "results/<study>/study.h5", "bench": "fedbound bench NAME --out FILE.h5"}
        parts.append(f"## {stage}: `{places.get(stage, f'results/<study>/{stage}/*.h5')}`\n")
        parts += [f"### `{name}`\n\n{_rows(schema.fields)}" for name, schema in tables.items()]
    parts.append(f"{_STUDY_KEYS_TEXT}\n{_rows(STUDY_KEYS)}")
    return "\n".join(parts)


def _rows(fields: Mapping[str, Field]) -> str:
    lines = ["| column | type | unit | measured | meaning |", "|---|---|---|---|---|"]
    for name, field in fields.items():
        meaning = field.description.replace("|", "\\|")
        lines.append(f"| `{name}` | {field.dtype} | {field.unit} | {'yes' if field.measured else ''} | {meaning} |")
    return "\n".join(lines) + "\n"
