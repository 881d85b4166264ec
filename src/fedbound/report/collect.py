"""From a study's artifacts to the tidy tables of study.h5.

Every table of every artifact is concatenated as whole columns, with the keys of its scenario in front; unit,
description and the measured flag stay those of the column it comes from. What needs several runs at once (pairs,
recommendation) is added by `comparison` and `recommend`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedbound import schemas, study
from fedbound.artifacts import Artifact, Column, Field, Schema, Table, canonical, read_tables, stamp
from fedbound.cluster import logs
from fedbound.errors import ArtifactError, InputError
from fedbound.plan import STAGES
from fedbound.report import comparison, jobs, labels, links, private, recommend


@dataclass(frozen=True)
class Source:
    """Where one table of study.h5 comes from: the stage, its table, the schema where no artifact has it, the keys.

    An optional table is one that not every artifact of the stage has. An artifact with more than `most` rows gives so
    many of them, evenly spaced, the first and the last among them; it has them all.
    """

    stage: str
    table: str
    schema: Schema
    keys: tuple[str, ...]
    optional: bool = False
    most: int | None = None


_RUN = ("stem", "setting", "algorithm", "codec", "bound", "seed")
_BOUNDS = ("stem", "setting", "algorithm", "codec", "mode")
_PROFILE = ("stem", "setting", "codec")
_SIMULATION = ("stem", "setting", "case", "run", "scheduler", "clients", "codec", "bound")

SOURCES = {
    "runs": Source(
        "train",
        "summary",
        schemas.RUN_SUMMARY,
        ("stem", "setting", "context", "problem", "algorithm", "codec", "mode", "bound", "bound_value", "seed"),
    ),
    "rounds": Source("train", "rounds", schemas.RUN_ROUNDS, _RUN),
    "silos": Source("train", "silos", schemas.RUN_SILOS, _RUN),
    "evaluations": Source("train", "evaluations", schemas.RUN_EVALUATIONS, _RUN),
    "private_runs": Source("train", "privacy", schemas.RUN_PRIVACY, _RUN, optional=True),
    "run_audits": Source("train", "audit", schemas.RUN_AUDIT, _RUN, optional=True),
    "bounds": Source("calibrate", "bounds", schemas.BOUNDS, _BOUNDS),
    "probes": Source("calibrate", "probes", schemas.BOUNDS_PROBES, _BOUNDS),
    "decision": Source("calibrate", "decision", schemas.BOUNDS_DECISION, _BOUNDS),
    "profile_codec": Source("profile", "codec", schemas.PROFILE_CODEC, _PROFILE),
    "profile_costs": Source("profile", "costs", schemas.PROFILE_COSTS, _PROFILE),
    "profile_server": Source("profile", "server", schemas.PROFILE_SERVER, _PROFILE),
    "profile_link": Source("profile", "link", schemas.PROFILE_LINK, _PROFILE),
    "profile_messages": Source("profile", "messages", schemas.PROFILE_MESSAGES, _PROFILE, optional=True),
    "profile_sharing": Source("profile", "sharing", schemas.PROFILE_SHARING, _PROFILE, optional=True),
    "profile_utilisation": Source("profile", "utilisation", schemas.PROFILE_UTILISATION, _PROFILE, optional=True),
    "simulations": Source("simulate", "summary", schemas.SIMULATION_SUMMARY, _SIMULATION),
    # an asynchronous server with 100,000 clients folds hundreds of thousands of times
    "simulation_rounds": Source("simulate", "rounds", schemas.SIMULATION_ROUNDS, _SIMULATION, most=1000),
    "simulation_timeline": Source("simulate", "timeline", schemas.SIMULATION_TIMELINE, _SIMULATION),
    "validation": Source("simulate", "validation", schemas.SIMULATION_VALIDATION, _SIMULATION, optional=True),
    "validation_parts": Source("simulate", "validation_parts", schemas.SIMULATION_PARTS, _SIMULATION, optional=True),
    "privacy": Source("privacy", "results", schemas.PRIVACY_RESULTS, ("stem", "setting", "seed")),
}
_ALSO_READ = {"profile": {"silos"}}  # tables that are not collected, and that `links` needs
PARTS = ("download", "compute", "codec", "upload", "server")


@dataclass(frozen=True)
class Scenario:
    """One artifact of the study with the keys that its rows carry; `artifact` is None for a hole."""

    stage: str
    stem: str
    artifact: Artifact | None
    content: str = ""
    error: str = ""
    keys: dict[str, Any] = field(default_factory=dict)


def run(scenario: study.CollectScenario, inputs: Mapping[str, Path], allow_holes: bool = False) -> Artifact:
    """Collect a study.

    Args:
        scenario: the collect job's scenario.
        inputs: path of each artifact by `stage/stem`, as in the plan.
        allow_holes: take a study with missing or unreadable artifacts; they become rows of status `missing`.

    Raises:
        InputError: there are no inputs.
        ArtifactError: an artifact is missing, damaged, of another stage or study; the sentence names the file.
    """
    if not inputs:
        raise InputError("collect needs the study's artifacts; give --input plan=PLAN.json")
    found = describe(_read_all(scenario.study, inputs, allow_holes))
    tables: dict[str, Table] = {"scenarios": _scenarios(found)}
    for name, source in SOURCES.items():
        tables[name] = concatenate(source, [one for one in found if one.stage == source.stage and one.artifact])
    tables["simulations"] |= _mean_parts([one for one in found if one.stage == "simulate" and one.artifact])
    tables["settings"] = comparison.settings(tables["runs"], tables["rounds"])
    tables["comparisons"] = comparison.comparisons(tables["runs"])
    tables["private_training"] = private.training(
        tables["settings"], tables["runs"], tables["private_runs"], tables["run_audits"]
    )
    tables["mechanisms"] = private.ranking(tables["privacy"], scenario.report.trust, scenario.report.bits)
    profiles = [(one.keys, one.artifact) for one in found if one.stage == "profile" and one.artifact]
    tables |= links.tables(profiles, sorted(set(tables["simulations"]["client_bandwidth"].values.tolist())))
    tables |= recommend.tables(tables, scenario.report.tolerance)
    paths = ((one, inputs[f"{one.stage}/{one.stem}"]) for one in found)
    tables["jobs"] = jobs.table([jobs.Written(o.stage, o.stem, path, o.artifact) for o, path in paths], Path.cwd())
    tables["provenance"] = _provenance(found)
    return Artifact(
        stage="collect",
        study=scenario.study,
        scenario=scenario.model_dump(mode="json"),
        tables=tables,
        inputs={f"{one.stage}/{one.stem}": one.content for one in found},
        provenance=stamp(**_versions()),
    )


def _versions() -> dict[str, str]:
    import matplotlib
    import pandas

    return {"pandas": pandas.__version__, "matplotlib": matplotlib.__version__}


# ---- reading --------------------------------------------------------------------------------------------------------


def _read_all(name: str, inputs: Mapping[str, Path], allow_holes: bool) -> list[Scenario]:
    found = []
    for key in sorted(inputs, key=_order):
        stage, _, stem = key.partition("/")
        try:
            found.append(Scenario(stage, stem, *_read(name, stage, inputs[key])))
        except ArtifactError as error:
            if not allow_holes:
                raise
            found.append(Scenario(stage, stem, None, error=_why(inputs[key], error)))
    return found


def _why(path: Path, error: ArtifactError) -> str:
    """Why there is no artifact: the last error in its job's log, where there is one."""
    return (not path.exists() and logs.last_error(path)) or str(error)


def _read(name: str, stage: str, path: Path) -> tuple[Artifact, str]:
    """The artifact, with the tables that are collected, and its content digest."""
    wanted = {one.table for one in SOURCES.values() if one.stage == stage} | _ALSO_READ.get(stage, set())
    artifact, content = read_tables(path, stage, wanted)
    if artifact.study != name:
        raise ArtifactError(f"{path} belongs to the study {artifact.study!r}, not {name!r}; give this study's files")
    return artifact, content


def _order(key: str) -> tuple[int, list[tuple[int, float, str]]]:
    """Stages in the order they run; within one, numbers in a name by their value."""
    stage, _, stem = key.partition("/")
    if stage not in STAGES:
        raise ArtifactError(f"the input {key!r} names no stage; possible: {', '.join(STAGES[:-1])}")
    words = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", stem.rpartition("_")[0])  # odd positions hold the numbers
    natural = [(0, float(word), "") if i % 2 else (1, 0.0, word) for i, word in enumerate(words)]
    return STAGES.index(stage), [*natural, (1, 0.0, stem)]


# ---- keys -----------------------------------------------------------------------------------------------------------


def describe(found: Sequence[Scenario]) -> list[Scenario]:
    """Give every scenario its keys; names depend on what varies among the scenarios of the same stage."""
    keyed: dict[tuple[str, str], dict[str, Any]] = {}
    for stage, keys_of in _KEYS_OF.items():
        whole = [one for one in found if one.stage == stage and one.artifact]
        keyed.update(zip([(stage, one.stem) for one in whole], keys_of([_artifact(one) for one in whole]), strict=True))
    scales = {one.content: _accepted(_artifact(one)) for one in found if one.stage == "calibrate" and one.artifact}
    runs = {one.content: one for one in found if one.stage == "train" and one.artifact}
    described = []
    for one in found:
        keys = keyed.get((one.stage, one.stem)) or _from_stem(one.stem)
        if one.stage == "train" and one.artifact and keys["bound"] == "calibrated":
            keys["bound_value"] = scales.get(one.artifact.inputs.get("bounds", ""), math.nan)
        if one.stage == "simulate" and one.artifact:
            run_ = runs.get(one.artifact.inputs.get("run", ""))
            keys["run"] = run_.stem if run_ else ""
            keys["setting"] = keyed["train", run_.stem]["setting"] if run_ else keys["setting"]
        described.append(replace(one, keys={"stem": one.stem, **keys}))
    return described


def _artifact(one: Scenario) -> Artifact:
    if one.artifact is None:
        raise ValueError(f"{one.stem} is a hole")
    return one.artifact


def _accepted(artifact: Artifact) -> float:
    return float(artifact.tables["decision"]["scale"].values[0])


def _train_keys(artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    flats = [_with_what_is_off(labels.flatten(a.scenario), a.scenario["training"].get("privacy")) for a in artifacts]
    varying = [key for key in labels.varying(flats) if key not in ("seed", *_EXCHANGE_LABEL)]
    context = [key for key in varying if not key.startswith(("exchange.", "calibration."))]
    # what is asked for, and not chosen among: other data, another model, another privacy
    problem = [key for key in context if key.startswith(("data.", "model.", "training.privacy"))]
    settings = labels.unique(
        [
            ", ".join(filter(None, [labels.exchange(a.scenario["exchange"]), labels.extras(f, varying)]))
            for a, f in zip(artifacts, flats, strict=True)
        ],
        [canonical({k: v for k, v in a.scenario.items() if k != "seed"}) for a in artifacts],
    )
    return [
        {
            "setting": setting,
            "context": labels.extras(flat, context),
            "problem": labels.extras(flat, problem),
            "algorithm": labels.part(a.scenario["training"]["algorithm"]),
            "scheduler": labels.part(a.scenario["training"]["scheduler"]),
            **_exchange_keys(a.scenario["exchange"]),
            "mode": a.scenario["exchange"]["mode"],
            "bound_value": _number(a.scenario["exchange"]["bound"]),
            "clients": a.scenario["data"]["silos"],
            "seed": a.scenario["seed"],
        }
        for a, flat, setting in zip(artifacts, flats, settings, strict=True)
    ]


def _with_what_is_off(flat: labels.Flat, privacy: Mapping[str, Any] | None) -> labels.Flat:
    """With keys that a scenario lacks where they are off: it differs from one where they are on."""
    off = {"training.reduce": False, "training.ranks_per_silo": 1}
    return {**off, **flat, "training.privacy": privacy["mechanism"] if privacy else "none"}


# Keys that the label of an exchange spells out by itself.
_EXCHANGE_LABEL = ("exchange.codec.name", "exchange.bound", "exchange.bound_mode")


def _exchange_keys(exchange: Mapping[str, Any]) -> dict[str, Any]:
    return {"codec": labels.part(exchange["codec"]), "bound": labels.bound(exchange)}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _calibrate_keys(artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    flats = [labels.flatten(a.scenario) for a in artifacts]
    varying = [key for key in labels.varying(flats) if key != "calibration.codec.name"]
    codecs = [labels.part(a.scenario["calibration"]["codec"]) for a in artifacts]
    settings = _settings(codecs, flats, varying, artifacts)
    return [
        {
            "setting": setting,
            "algorithm": labels.part(a.scenario["training"]["algorithm"]),
            "codec": codec,
            "mode": a.scenario["mode"],
            "clients": a.scenario["data"]["silos"],
        }
        for a, codec, setting in zip(artifacts, codecs, settings, strict=True)
    ]


def _profile_keys(artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    flats = [labels.flatten(a.scenario) for a in artifacts]
    varying = [key for key in labels.varying(flats) if key not in _EXCHANGE_LABEL]
    names = [labels.exchange(a.scenario["exchange"]) for a in artifacts]
    return [
        {
            "setting": setting,
            **_exchange_keys(a.scenario["exchange"]),
            "algorithm": labels.part(a.scenario["training"]["algorithm"]),
            "clients": a.scenario["data"]["silos"],
        }
        for a, setting in zip(artifacts, _settings(names, flats, varying, artifacts), strict=True)
    ]


def _simulate_keys(artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    flats = [labels.flatten(a.scenario) for a in artifacts]
    varying = labels.varying(flats)
    case = [key for key in varying if key.startswith("simulation.") and key not in _SIMULATION_KEYS]
    return [
        {
            "setting": labels.exchange(a.scenario["exchange"]),  # the training run's name where it was collected
            "case": labels.extras(flat, case),
            "run": "",
            "scheduler": labels.part(a.scenario["simulation"]["scheduler"]),
            "clients": a.scenario["simulation"]["clients"],
            **_exchange_keys(a.scenario["exchange"]),
            "seed": a.scenario["simulation"]["seed"],
        }
        for a, flat in zip(artifacts, flats, strict=True)
    ]


_SIMULATION_KEYS = ("simulation.clients", "simulation.scheduler.name")


def _privacy_keys(artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    flats = [labels.flatten(a.scenario) for a in artifacts]
    skipped = ("privacy.mechanism.name", "privacy.epsilon", "privacy.seed")
    varying = [key for key in labels.varying(flats) if key not in skipped]
    names = [labels.part(a.scenario["privacy"]["mechanism"]) for a in artifacts]
    return [
        {
            "setting": ", ".join(filter(None, [name, labels.extras(flat, varying)])),
            "mechanism": name,
            "epsilon": a.scenario["privacy"]["epsilon"],
            "clients": a.scenario["privacy"]["clients"],
            "seed": a.scenario["privacy"]["seed"],
        }
        for a, flat, name in zip(artifacts, flats, names, strict=True)
    ]


def _settings(
    names: Sequence[str], flats: Sequence[labels.Flat], varying: Sequence[str], artifacts: Sequence[Artifact]
) -> list[str]:
    named = [", ".join(filter(None, [n, labels.extras(f, varying)])) for n, f in zip(names, flats, strict=True)]
    return labels.unique(named, [canonical(a.scenario) for a in artifacts])


_KEYS_OF: dict[str, Callable[[Sequence[Artifact]], list[dict[str, Any]]]] = {
    "profile": _profile_keys,
    "calibrate": _calibrate_keys,
    "train": _train_keys,
    "privacy": _privacy_keys,
    "simulate": _simulate_keys,
}


def _from_stem(stem: str) -> dict[str, Any]:
    """What a hole's name says of it: `codec-sz3_bound-calibrated_seed-0_<digest>`."""
    words = dict(word.split("-", 1) for word in stem.split("_")[:-1] if "-" in word)
    numbers = {"seed": int, "clients": int, "epsilon": float}
    return {key: numbers.get(key, str)(value) for key, value in words.items()}


# ---- tables ---------------------------------------------------------------------------------------------------------


def concatenate(source: Source, found: Sequence[Scenario]) -> Table:
    """One table of all artifacts of its stage, keys first; empty (but typed) where there are none.

    A key that the table has itself is taken from the table.

    Raises:
        ArtifactError: an artifact lacks the table, or has other columns than the others.
    """
    if source.optional:
        found = [one for one in found if source.table in _artifact(one).tables]
    tables = [_table_of(source, one) for one in found]
    fields = {name: field for name in _names(source, tables) if (field := _meaning(source, name, found, tables))}
    lengths = [len(next(iter(table.values())).values) for table in tables]
    varies = all(field.measured for field in fields.values())  # then how many rows there are is measured, too
    keys = {key: _key(key, found, lengths, varies) for key in source.keys if key not in fields}
    return keys | {name: Column(meaning, _joined(meaning, tables, name, lengths)) for name, meaning in fields.items()}


def _names(source: Source, tables: Sequence[Table]) -> list[str]:
    """Columns in the order of the artifacts, then those that only this version of fedbound writes."""
    return list(dict.fromkeys([*(name for table in tables for name in table), *source.schema.fields]))


def _meaning(source: Source, name: str, found: Sequence[Scenario], tables: Sequence[Table]) -> Field | None:
    """The column's meaning in this version's words; None where artifacts of an earlier version all lack it.

    An artifact of an earlier version may lack a number or a text that later ones have: it is NaN, or empty.
    """
    seen = [(one, table[name].field) for one, table in zip(found, tables, strict=True) if name in table]
    ours = source.schema.fields.get(name)
    first = seen[0][1] if seen else ours
    assert first is not None  # the name is from one of them
    fillable = first.dtype.startswith("float") or first.dtype == "str"
    odd = next((one for one, field in seen if _kind(field) != _kind(first)), None)
    if odd is None and 0 < len(seen) < len(found) and not (ours and fillable):
        odd = next(one for one, table in zip(found, tables, strict=True) if (name in table) != (name in tables[0]))
    if odd is not None:
        raise ArtifactError(
            f"{odd.stage}/{odd.stem} has other columns in its table {source.table!r} than {found[0].stem}; "
            "run both again with one version of fedbound"
        )
    if found and not seen and not fillable:
        return None
    return ours if ours and _kind(ours) == _kind(first) else first


def _kind(field: Field) -> tuple[str, str, bool]:
    """All of a column's meaning but its words, which may be put better in a later version."""
    return field.dtype, field.unit, field.measured


def _joined(meaning: Field, tables: Sequence[Table], name: str, lengths: Sequence[int]) -> np.ndarray:
    dtype = object if meaning.dtype == "str" else np.dtype(meaning.dtype)
    lacking = "" if meaning.dtype == "str" else math.nan
    parts = [
        table[name].values if name in table else np.full(length, lacking, dtype)
        for table, length in zip(tables, lengths, strict=True)
    ]
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _table_of(source: Source, one: Scenario) -> Table:
    tables = _artifact(one).tables
    if source.table not in tables:
        raise ArtifactError(f"{one.stage}/{one.stem} has no table {source.table!r}; run its stage again")
    return _thinned(tables[source.table], source.most)


def _thinned(table: Table, most: int | None) -> Table:
    rows = len(next(iter(table.values())).values)
    if most is None or rows <= most:
        return table
    kept = np.arange(most) * (rows - 1) // (most - 1)
    return {name: Column(column.field, column.values[kept]) for name, column in table.items()}


def _key(key: str, found: Sequence[Scenario], lengths: Sequence[int], measured: bool) -> Column:
    meaning = replace(schemas.STUDY_KEYS[key], measured=measured)
    values = np.array([one.keys[key] for one in found], dtype=object if meaning.dtype == "str" else meaning.dtype)
    return Column(meaning, np.repeat(values, lengths))


def _scenarios(found: Sequence[Scenario]) -> Table:
    defaults = {"seed": -1, "clients": -1, "epsilon": math.nan}
    rows = []
    for one in found:
        row = {key: one.keys.get(key, defaults.get(key, "")) for key in schemas.STUDY_SCENARIOS.fields}
        status = "done" if one.artifact else "missing"
        rows.append(row | {"stage": one.stage, "status": status, "content_digest": one.content, "error": one.error})
    return schemas.STUDY_SCENARIOS.table(rows)


def _mean_parts(simulated: Sequence[Scenario]) -> Table:
    """Mean over each simulation's rounds of the parts of a round, as columns `<part>_seconds`."""
    rounds = [_artifact(one).tables["rounds"] for one in simulated]
    table = {}
    for part in PARTS:
        meaning = schemas.SIMULATION_ROUNDS.fields[part]
        meaning = replace(meaning, description=f"mean over rounds: {meaning.description}")
        means = [one[part].values.mean() if len(one[part].values) else math.nan for one in rounds]
        table[f"{part}_seconds"] = Column(meaning, np.array(means, dtype=np.float64))
    return table


def _provenance(found: Sequence[Scenario]) -> Table:
    rows = [
        {"stem": one.stem, "key": key, "value": str(value)}
        for one in found
        if one.artifact
        for key, value in sorted(one.artifact.provenance.items())
    ]
    return schemas.STUDY_PROVENANCE.table(rows)
