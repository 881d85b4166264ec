"""The reference of all tables: the content of docs/tables.md."""

from __future__ import annotations

from collections.abc import Mapping

from fedbound.artifacts import Field, Schema
from fedbound.schemas import bench, bounds, privacy, profile, run, simulation, study

TABLES: dict[str, dict[str, Schema]] = {
    "profile": {
        "nodes": profile.PROFILE_NODES,
        "silos": profile.PROFILE_SILOS,
        "rounds": profile.PROFILE_ROUNDS,
        "codec": profile.PROFILE_CODEC,
        "codec_times": profile.PROFILE_CODEC_TIMES,
        "link": profile.PROFILE_LINK,
        "pairs": profile.PROFILE_PAIRS,
        "messages": profile.PROFILE_MESSAGES,
        "sharing": profile.PROFILE_SHARING,
        "utilisation": profile.PROFILE_UTILISATION,
        "costs": profile.PROFILE_COSTS,
        "server": profile.PROFILE_SERVER,
    },
    "calibrate": {
        "bounds": bounds.BOUNDS,
        "probes": bounds.BOUNDS_PROBES,
        "scales": bounds.BOUNDS_SCALES,
        "decision": bounds.BOUNDS_DECISION,
        "silos": bounds.BOUNDS_SILOS,
        "aggregate": bounds.BOUNDS_AGGREGATE,
    },
    "train": {
        "rounds": run.RUN_ROUNDS,
        "silos": run.RUN_SILOS,
        "evaluations": run.RUN_EVALUATIONS,
        "tensors": run.RUN_TENSORS,
        "failures": run.RUN_FAILURES,
        "guard": run.RUN_GUARD,
        "privacy": run.RUN_PRIVACY,
        "audit": run.RUN_AUDIT,
        "summary": run.RUN_SUMMARY,
    },
    "privacy": {"results": privacy.PRIVACY_RESULTS},
    "simulate": {
        "rounds": simulation.SIMULATION_ROUNDS,
        "summary": simulation.SIMULATION_SUMMARY,
        "timeline": simulation.SIMULATION_TIMELINE,
        "events": simulation.SIMULATION_EVENTS,
        "validation": simulation.SIMULATION_VALIDATION,
        "validation_parts": simulation.SIMULATION_PARTS,
    },
    "collect": {
        "scenarios": study.STUDY_SCENARIOS,
        "settings": study.STUDY_SETTINGS,
        "comparisons": study.STUDY_COMPARISONS,
        "pareto": study.STUDY_PARETO,
        "private_training": study.STUDY_PRIVATE,
        "mechanisms": study.STUDY_RANKING,
        "links": study.STUDY_LINKS,
        "link_advice": study.STUDY_LINK_ADVICE,
        "recommendation": study.STUDY_RECOMMENDATION,
        "jobs": study.STUDY_JOBS,
        "provenance": study.STUDY_PROVENANCE,
    },
    "bench": {"rows": bench.BENCH_ROWS},
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
    parts.append(f"{_STUDY_KEYS_TEXT}\n{_rows(study.STUDY_KEYS)}")
    return "\n".join(parts)


def _rows(fields: Mapping[str, Field]) -> str:
    lines = ["| column | type | unit | measured | meaning |", "|---|---|---|---|---|"]
    for name, field in fields.items():
        meaning = field.description.replace("|", "\\|")
        lines.append(f"| `{name}` | {field.dtype} | {field.unit} | {'yes' if field.measured else ''} | {meaning} |")
    return "\n".join(lines) + "\n"
