"""A synthetic study: small artifacts of every stage, made through the schemas with numbers a reader can check."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedbound import artifacts, schemas, study

SILOS = 4
ROUNDS = 5
SEEDS = (0, 1, 2)
SCALE = 0.178
NONE = {"codec": {"name": "none"}, "mode": "delta", "error_feedback": None, "bound": None, "bound_mode": None}
SZ3 = {
    "codec": {"name": "sz3", "predictor": "lorenzo"},
    "mode": "delta",
    "error_feedback": True,
    "bound": "calibrated",
    "bound_mode": None,
}
LOOSE = {**SZ3, "bound": 1.0, "bound_mode": "rel"}
DATA = {"dataset": {"name": "digits"}, "silos": SILOS, "partition": {"name": "dirichlet", "alpha": 0.5}, "seed": 0}
TRAINING = {"algorithm": {"name": "fedavg"}, "learning_rate": 0.05, "rounds": ROUNDS, "scheduler": {"name": "sync"}}
PROVENANCE: dict[str, str | int | float] = {"host": "node1", "numpy": "2.3.0", "written": "2026-01-01 00:00:00 +0000"}

# accuracy after the last round by exchange and seed; the worst silo is 5 points below
ACCURACY = {"none": (0.95, 0.96, 0.94), "sz3": (0.948, 0.955, 0.937), "loose": (0.90, 0.93, 0.85)}
BYTES_UP = {"none": 10_000_000, "sz3": 500_000, "loose": 200_000}
BYTES_DOWN = 2_000_000


def row(schema: artifacts.Schema, **given: Any) -> dict[str, Any]:
    """A row with the given columns; the others are 0 or ''."""
    assert given.keys() <= schema.fields.keys()
    empty = {key: "" if f.dtype == "str" else 0 for key, f in schema.fields.items()}
    return {**empty, **given}


def train(
    exchange: Mapping[str, Any],
    seed: int,
    accuracy: float,
    bytes_up: int,
    *,
    worst: float | None = None,
    training: Mapping[str, Any] = TRAINING,
    data: Mapping[str, Any] = DATA,
    bounds: artifacts.Artifact | None = None,
    name: str = "synthetic",
) -> artifacts.Artifact:
    """One run of ROUNDS rounds whose accuracy rises linearly from 0.1 to `accuracy`."""
    worst = accuracy - 0.05 if worst is None else worst
    scenario = {
        "study": name,
        "data": dict(data),
        "model": {"name": "mlp", "hidden": [32]},
        "training": dict(training),
        "exchange": copy.deepcopy(dict(exchange)),
        "seed": seed,
    }
    at = [0.1 + (accuracy - 0.1) * r / ROUNDS for r in range(ROUNDS + 1)]
    rounds = [
        row(
            schemas.RUN_ROUNDS,
            round=r,
            accuracy=at[r],
            epsilon=float("nan"),
            bytes_up=bytes_up // ROUNDS * (r > 0),
            bytes_down=BYTES_DOWN // ROUNDS * (r > 0),
            seconds=0.5 * (r > 0),
        )
        for r in range(ROUNDS + 1)
    ]
    silos = [
        row(schemas.RUN_SILOS, round=r, silo=k, bytes_up=bytes_up // ROUNDS // SILOS, train_seconds=0.1 + 0.01 * k)
        for r in range(1, ROUNDS + 1)
        for k in range(SILOS)
    ]
    evaluations = [
        row(
            schemas.RUN_EVALUATIONS,
            round=r,
            silo=k,
            test_samples=100,
            test_accuracy=at[r] - 0.05 + 0.1 * k / (SILOS - 1),
            validation_accuracy=at[r],
        )
        for r in range(ROUNDS + 1)
        for k in range(SILOS)
    ]
    summary = row(
        schemas.RUN_SUMMARY,
        accuracy=accuracy,
        accuracy_min=worst,
        accuracy_sd=0.03,
        rounds=ROUNDS,
        bytes_up=bytes_up,
        bytes_down=BYTES_DOWN,
        raw_up=9_990_000,
        ratio_up=9_990_000 / bytes_up,
        ratio_both=11_990_000 / (bytes_up + BYTES_DOWN),
        round_seconds=0.5,
        seconds=2.5,
        resumed_from=-1,
    )
    return artifacts.Artifact(
        "train",
        name,
        scenario,
        seed,
        {
            "rounds": schemas.RUN_ROUNDS.table(rounds),
            "silos": schemas.RUN_SILOS.table(silos),
            "evaluations": schemas.RUN_EVALUATIONS.table(evaluations),
            "summary": schemas.RUN_SUMMARY.table([summary]),
        },
        {"bounds": bounds.content_digest()} if bounds else {},
        PROVENANCE,
    )


def calibrate(name: str = "synthetic") -> artifacts.Artifact:
    scenario = {
        "study": name,
        "data": DATA,
        "model": {"name": "mlp"},
        "training": {"algorithm": {"name": "fedavg"}},
        "mode": "delta",
        "error_feedback": True,
        "calibration": {"codec": {"name": "sz3"}, "tolerance": 1.0, "seeds": [101, 102, 103]},
    }
    drops = {0.0: (0, 0, 0), 0.01: (0.1, -0.1, 0.0), 0.1: (0.2, 0.3, 0.1), SCALE: (0.4, 0.5, 0.3), 1.0: (5, 9, 30)}
    probes = [
        row(
            schemas.BOUNDS_PROBES,
            scale=scale,
            seed=101 + i,
            accuracy=0.95 - drop / 100,
            drop=drop,
            spread=0.02 + drop / 1000,
            bytes_up=int(1e6 / (1 + 100 * scale)),
            bytes_down=int(1e6 / (1 + 100 * scale)),
            ratio_up=20.0,
        )
        for scale, three in drops.items()
        for i, drop in enumerate(three)
    ]
    decision = row(
        schemas.BOUNDS_DECISION,
        rule="range",
        scale=SCALE,
        refused=1.0,
        tolerance=1.0,
        mean_drop=0.4,
        upper_drop=0.57,
        seeds=3,
        probes=15,
        bytes=12_000_000,
        seconds=21.0,
    )
    bounds = [
        row(schemas.BOUNDS, direction=where, silo=silo, tensor="0.weight", bound=0.01, rule="range", scale=SCALE)
        for where, silo in (("up", -1), ("up", 0), ("down", -1))
    ]
    tables = {
        "bounds": schemas.BOUNDS.table(bounds),
        "probes": schemas.BOUNDS_PROBES.table(probes),
        "decision": schemas.BOUNDS_DECISION.table([decision]),
    }
    return artifacts.Artifact("calibrate", name, scenario, None, tables, {}, PROVENANCE)


def profile(exchange: Mapping[str, Any], ratio: float, name: str = "synthetic") -> artifacts.Artifact:
    scenario = {
        "study": name,
        "data": DATA,
        "model": {"name": "mlp"},
        "training": {"algorithm": {"name": "fedavg"}},
        "exchange": dict(exchange),
        "profiling": {"rounds": 4},
    }
    costs = [
        row(
            schemas.PROFILE_COSTS,
            silo=k,
            samples=100 + k,
            train_seconds=0.1,
            alone_seconds=0.1,
            encode_seconds=0.01 * (ratio > 1),
            alone_encode_seconds=0.01 * (ratio > 1),
            latency=1e-5,
            bandwidth=2e9,
        )
        for k in range(SILOS)
    ]
    blocks = [
        row(
            schemas.PROFILE_CODEC,
            block=block,
            stage=stage,
            values=1000,
            bound=0.01,
            ratio=ratio * factor,
            encode_rate=2e8 * factor,
            decode_rate=5e8,
        )
        for block, factor in (("0.weight", 1.0), ("2.weight", 0.8))
        for stage in ("early", "late")
    ]
    link = [row(schemas.PROFILE_LINK, rank=1, bytes=64, repeat=i, seconds=1e-5) for i in range(2)]
    lines = [
        row(
            schemas.PROFILE_MESSAGES,
            what=what,
            bytes=size,
            measured=1.1e-5 + 1e-9 * size,
            fitted=1e-5 + 1e-9 * size,
            residual=0.1,
            fixed_seconds=1e-5,
            byte_seconds=1e-9,
        )
        for what in ("server", "link to rank 1")
        for size in (64, 10**6)
    ]
    sharing = [
        row(schemas.PROFILE_SHARING, kind="shared", working=k, silo=silo, train_seconds=0.1 * max(1.0, k / 2))
        for k in (1, 2, 4)
        for silo in range(k)
    ]
    samples = [row(schemas.PROFILE_UTILISATION, round=k // 2, time=0.05 * k, cpu=0.9, gpu=0.3) for k in range(4)]
    tables = {
        "messages": schemas.PROFILE_MESSAGES.table(lines),
        "sharing": schemas.PROFILE_SHARING.table(sharing),
        "utilisation": schemas.PROFILE_UTILISATION.table(samples),
        "codec": schemas.PROFILE_CODEC.table(blocks),
        "costs": schemas.PROFILE_COSTS.table(costs),
        "link": schemas.PROFILE_LINK.table(link),
        "server": schemas.PROFILE_SERVER.table([row(schemas.PROFILE_SERVER, ranks=5, cores=2)]),
        "silos": schemas.PROFILE_SILOS.table(
            row(schemas.PROFILE_SILOS, round=1, silo=k, raw_bytes=10**6, up_bytes=int(1e6 / ratio), down_bytes=10**6)
            for k in range(SILOS)
        ),
    }
    return artifacts.Artifact("profile", name, scenario, None, tables, {}, PROVENANCE)


def simulate(
    exchange: Mapping[str, Any], clients: int, seconds: float, run: artifacts.Artifact, name: str = "synthetic"
) -> artifacts.Artifact:
    """Two rounds of `seconds` and 1.5 `seconds`; the parts of a round add up to half of it."""
    scenario = {
        "study": name,
        "silos": SILOS,
        "exchange": dict(exchange),
        "simulation": {"clients": clients, "scheduler": {"name": "sync"}, "seed": 0, "rounds": 2},
    }
    took = (seconds, 1.5 * seconds)
    parts = {"download": 0.1, "compute": 0.2, "codec": 0.05, "upload": 0.1, "server": 0.05}
    rounds = [
        row(
            schemas.SIMULATION_ROUNDS,
            round=i + 1,
            seconds=took[i],
            **{part: share * took[i] for part, share in parts.items()},
        )
        for i in range(2)
    ]
    summary = row(
        schemas.SIMULATION_SUMMARY,
        clients=clients,
        scheduler="sync",
        codec=exchange["codec"]["name"],
        bound=str(exchange["bound"]),
        round_seconds=1.25 * seconds,
        epoch_seconds=1.25 * seconds,
        target=0.9,
        target_epochs=4.0,
        target_seconds=5.0 * seconds,
        curve="sync",
        uplink_utilisation=0.7,
        engine="fluid: a star",
    )
    tables = {
        "rounds": schemas.SIMULATION_ROUNDS.table(rounds),
        "summary": schemas.SIMULATION_SUMMARY.table([summary]),
        "timeline": schemas.SIMULATION_TIMELINE.table(
            row(schemas.SIMULATION_TIMELINE, client=k, downloaded=1.0, computed=2.0 + k, arrived=3.0 + k)
            for k in range(3)
        ),
    }
    if clients == SILOS:
        quantities = ("round", *(f"arrival of silo {k}" for k in range(SILOS)))
        tables["validation"] = schemas.SIMULATION_VALIDATION.table(
            row(
                schemas.SIMULATION_VALIDATION,
                quantity=quantity,
                predicted=1.04 * seconds,
                measured=seconds * (1 - 0.1 * i),
                error=0.04,
            )
            for i, quantity in enumerate(quantities)
        )
        tables["validation_parts"] = schemas.SIMULATION_PARTS.table(
            [row(schemas.SIMULATION_PARTS, part="training", predicted=1.0, measured=1.1, difference=-0.1)]
        )
    inputs = {"profile": "0" * 64, "run": run.content_digest()}
    return artifacts.Artifact("simulate", name, scenario, 0, tables, inputs, PROVENANCE)


def privacy(mechanism: str, epsilon: float, mse: float, name: str = "synthetic") -> artifacts.Artifact:
    scenario = {
        "study": name,
        "privacy": {"mechanism": {"name": mechanism}, "epsilon": epsilon, "delta": 1e-5, "clients": 100, "seed": 0},
    }
    result = row(
        schemas.PRIVACY_RESULTS,
        mechanism=mechanism,
        clients=100,
        dimension=256,
        clip=1.0,
        norm="L1" if mechanism == "laplace" else "L2",
        target_epsilon=epsilon,
        epsilon=epsilon,
        delta=1e-5,
        accountant="dp-accounting RDP",
        unit="one client's vector",
        adjacency="replace",
        trust="central server",
        sampling="none",
        audited=0.5 * epsilon,
        audited_gaussian=0.9 * epsilon,
        audit_claim=epsilon,
        audit_draws=1000,
        bits=32.0,
        mse=mse,
        mse_se=mse / 20,
        mse_closed=mse,
        gain=1.0,
        mse_scaled=mse,
        floor=1e-4 / epsilon**2,
        trials=20,
    )
    tables = {"results": schemas.PRIVACY_RESULTS.table([result])}
    return artifacts.Artifact("privacy", name, scenario, 0, tables, {}, PROVENANCE)


def whole_study() -> dict[str, artifacts.Artifact]:
    """Artifacts of all stages by `stage/stem`: three exchanges, three seeds, three scales, three mechanisms."""
    bounds = calibrate()
    found = {"calibrate/algorithm-fedavg_mode-delta_c0": bounds}
    for codec, exchange in (("none", NONE), ("sz3", SZ3), ("loose", LOOSE)):
        for seed in SEEDS:
            found[f"train/algorithm-fedavg_codec-{codec}_seed-{seed}_t0"] = train(
                exchange, seed, ACCURACY[codec][seed], BYTES_UP[codec], bounds=bounds if codec == "sz3" else None
            )
    for codec, exchange, factor in (("none", NONE, 10.0), ("sz3", SZ3, 1.0)):
        found[f"profile/codec-{codec}_p0"] = profile(exchange, 1.0 if codec == "none" else 22.0)
        run = found[f"train/algorithm-fedavg_codec-{codec}_seed-0_t0"]
        for clients in (4, 100, 10_000):
            found[f"simulate/scheduler-sync_clients-{clients}_codec-{codec}_s0"] = simulate(
                exchange, clients, factor * clients / 100, run
            )
    for mechanism, factor in (("gaussian", 1.1), ("laplace", 9.0), ("skellam", 1.3)):
        for epsilon in (0.1, 1.0, 10.0):
            found[f"privacy/mechanism-{mechanism}_epsilon-{epsilon:g}_v0"] = privacy(
                mechanism, epsilon, factor * 1e-4 / epsilon**2
            )
    return found


def written(folder: Path, found: Mapping[str, artifacts.Artifact]) -> dict[str, Path]:
    """The artifacts as files, by name."""
    paths = {name: folder / f"{name}.h5" for name in found}
    for name, artifact in found.items():
        artifacts.write(paths[name], artifact)
    return paths


def collect_scenario(tolerance: float = 1.0, title: str = "") -> study.CollectScenario:
    return study.CollectScenario(study="synthetic", report=study.Report(title=title, tolerance=tolerance))
