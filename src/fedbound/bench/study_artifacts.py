"""Artifacts of a study that was never run, for `fedbound bench study`: real tables and row counts, random figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedbound import artifacts, schemas
from fedbound.artifacts import Artifact, Schema, Table
from fedbound.errors import InputError
from fedbound.plan import STAGES, Job, Plan

BLOCKS = ("0.weight", "2.weight", "0.bias+2.bias")
SIMULATED_ROUNDS, TIMELINE, REPEATS = 20, 60, 5


def fill(made: Plan, root: Path) -> int:
    """Write an artifact for every job of a plan but collect; returns their bytes.

    Raises:
        InputError: the study calibrates: a calibration's tables belong together too closely to be made up.
        ArtifactError: the folder cannot be written.
    """
    if made.jobs["calibrate"]:
        raise InputError("bench study: calibrations cannot be made up; give bounds as numbers")
    digests: dict[str, str] = {}
    size = 0
    for stage in STAGES[:-1]:
        for number, job in enumerate(made.jobs[stage].values()):
            artifact = made_up(job, made.study, {name: digests[path] for name, path in job.inputs.items()}, number)
            artifacts.write(root / job.path, artifact)
            digests[job.path] = artifact.content_digest()
            size += (root / job.path).stat().st_size
    return size


def made_up(job: Job, study: str, inputs: Mapping[str, str], number: int) -> Artifact:
    """One job's artifact, with random figures that `number` seeds."""
    rng = np.random.default_rng(number)
    keys = _ROWS[job.stage](job)
    tables = {
        name: _table(schema, keys[name], rng) for name, schema in schemas.TABLES[job.stage].items() if name in keys
    }
    seed = job.scenario.get("seed")
    provenance = artifacts.stamp(torch="2.13.0", mpi="made up", seconds=1.0)
    return Artifact(job.stage, study, job.scenario, seed, tables, dict(inputs), provenance)


def _table(schema: Schema, given: Mapping[str, np.ndarray], rng: np.random.Generator) -> Table:
    """A table with the given columns, and random numbers in the others."""
    length = len(next(iter(given.values())))
    columns = dict(given)
    for name, field in schema.fields.items():
        if name not in columns:
            columns[name] = _random(field.dtype, length, rng)
    return schema.columns({name: columns[name] for name in schema.fields})


def _random(dtype: str, length: int, rng: np.random.Generator) -> np.ndarray:
    if dtype == "str":
        return np.full(length, "made up", dtype=object)
    if dtype == "int64":
        return rng.integers(1, 10**6, length)
    return rng.uniform(0.5, 1.0, length)


def _grid(**axes: range | tuple[str, ...]) -> dict[str, np.ndarray]:
    """Columns of all combinations, the last axis fastest."""
    values = [np.array(list(axis), dtype=object if isinstance(axis, tuple) else np.int64) for axis in axes.values()]
    mesh = np.meshgrid(*values, indexing="ij")
    return {name: one.ravel() for name, one in zip(axes, mesh, strict=True)}


Rows = dict[str, dict[str, np.ndarray]]


def _profile(job: Job) -> Rows:
    silos = range(int(job.scenario["data"]["silos"]))
    return {
        "silos": _grid(round=range(1, int(job.scenario["profiling"]["rounds"]) + 1), silo=silos),
        "codec": _grid(block=BLOCKS, stage=("early", "late")),
        "link": _grid(rank=range(1, len(silos) + 1), bytes=range(64, 64 * 5, 64), repeat=range(REPEATS)),
        "costs": _grid(silo=silos),
        "server": {"ranks": np.array([len(silos) + 1])},
    }


def _train(job: Job) -> Rows:
    rounds, silos = int(job.scenario["training"]["rounds"]), range(int(job.scenario["data"]["silos"]))
    return {
        "rounds": _grid(round=range(rounds + 1)),
        "silos": _grid(round=range(1, rounds + 1), silo=silos),
        "evaluations": _grid(round=range(rounds + 1), silo=silos),
        "summary": {"rounds": np.array([rounds])},
    }


def _privacy(job: Job) -> Rows:
    privacy = job.scenario["privacy"]
    mechanism = np.array([privacy["mechanism"]["name"]], dtype=object)
    epsilon = np.array([float(privacy["epsilon"])])
    return {"results": {"mechanism": mechanism, "target_epsilon": epsilon, "norm": np.array(["L2"], dtype=object)}}


def _simulate(job: Job) -> Rows:
    simulation = job.scenario["simulation"]
    clients = int(simulation["clients"])
    named = {"scheduler": simulation["scheduler"]["name"], "codec": job.scenario["exchange"]["codec"]["name"]}
    return {
        "rounds": _grid(round=range(1, SIMULATED_ROUNDS + 1)),
        "summary": {
            "clients": np.array([clients]),
            "client_bandwidth": np.array([float(simulation["client_bandwidth"])]),
            **{key: np.array([value], dtype=object) for key, value in named.items()},
        },
        "timeline": _grid(client=range(min(clients, TIMELINE))),
    }


_ROWS = {"profile": _profile, "train": _train, "privacy": _privacy, "simulate": _simulate}
