"""From a study to jobs: which scenarios each stage runs, what each reads, and where its artifact lies.

A plan is frozen: snakemake's main process saves it under its own digest, and jobs on other nodes load that file, never
the study, so that editing the YAML while jobs wait changes nothing under them (design law 10). An artifact's name holds
a few readable keys and a digest of its resolved scenario and of its inputs' names, so that turning a scalar into a
list, or adding a seed, renames nothing that is done.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedbound import study as s
from fedbound.artifacts import canonical, write_atomically
from fedbound.errors import ArtifactError, FedboundError

STAGES = ("profile", "calibrate", "train", "privacy", "simulate", "collect")
RESULTS = "results"


@dataclass(frozen=True)
class Job:
    """One run of one stage: its resolved scenario and, by input name, the paths it reads."""

    stage: str
    stem: str
    scenario: dict[str, Any]
    inputs: dict[str, str]
    path: str

    @property
    def scenario_json(self) -> str:
        return canonical(self.scenario)


@dataclass(frozen=True)
class Plan:
    """All jobs of a study, by stage and stem, and the resources that they ask for."""

    study: str
    jobs: dict[str, dict[str, Job]]
    resources: dict[str, Any]

    def job(self, stage: str, stem: str) -> Job:
        return self.jobs[stage][stem]

    def paths(self, stage: str) -> list[str]:
        return [job.path for job in self.jobs[stage].values()]

    def __iter__(self) -> Iterator[Job]:
        return (job for stage in STAGES for job in self.jobs[stage].values())

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the plan as JSON named after its digest; the same plan is the same file, and is not touched again.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        content = canonical(asdict(self)).encode()
        path = Path(folder) / f"{_digest(content, 16)}.json"
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content)
        return path

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Plan:
        """Read a saved plan.

        Raises:
            ArtifactError: it is missing, or its content does not match the digest in its name.
        """
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ArtifactError(f"cannot read the plan {path}: {error.strerror}; start snakemake again") from None
        if _digest(content, 16) != path.stem:
            raise ArtifactError(f"the plan {path} was altered; start snakemake again")
        return _from_json(content)


def make(study: s.Study) -> Plan:
    """Resolve a study into jobs: stage by stage, so that each finds the artifacts it reads."""
    builder = _Builder(study)
    builder.build()
    plan = Plan(study.study, builder.jobs, study.resources.model_dump(mode="json"))
    return _from_json(canonical(asdict(plan)))  # in the order in which a saved plan is read, on every node


def _from_json(text: str | bytes) -> Plan:
    raw = json.loads(text)
    jobs = {stage: {stem: Job(**job) for stem, job in raw["jobs"][stage].items()} for stage in STAGES}
    return Plan(raw["study"], jobs, raw["resources"])


def _digest(content: bytes, length: int) -> str:
    return hashlib.sha256(content).hexdigest()[:length]


class _Builder:
    def __init__(self, study: s.Study):
        self.study = study
        self.jobs: dict[str, dict[str, Job]] = {stage: {} for stage in STAGES}

    def build(self) -> None:
        study = self.study
        for data in study.data:
            for model in study.model:
                for training in study.training:
                    for exchange in study.exchange:
                        self._cell(data, model, training, exchange)
        for privacy in study.privacy:
            self._privacy(privacy)
        self._collect()

    def _cell(self, data: s.Data, model: dict[str, Any], training: s.Training, exchange: s.Exchange) -> None:
        """Everything that hangs on one setting of data, model, training and exchange."""
        profiles = [self._profile(data, model, training, exchange, profiling) for profiling in self.study.profiling]
        calibrated = "calibrated" in (exchange.bound, exchange.downlink_bound)
        calibrations = self.study.calibration if calibrated else (None,)
        for calibration in calibrations:
            runs = [self._train(data, model, training, exchange, calibration, seed) for seed in self.study.seeds]
            for profile in profiles:
                for simulation in self.study.simulation:
                    # The first seed's run only: its bytes and rounds are what is simulated, and a seed that is added
                    # later must not make finished simulations run again.
                    self._simulate(data, exchange, simulation, profile, runs[0])

    def _add(self, stage: str, scenario: s.Section, keys: dict[str, Any], inputs: dict[str, str] | None = None) -> Job:
        inputs = inputs or {}
        resolved = scenario.model_dump(mode="json")
        identity = canonical([stage, resolved, {name: Path(path).stem for name, path in inputs.items()}])
        stem = "_".join([*(f"{key}-{_readable(value)}" for key, value in keys.items()), _digest(identity.encode(), 10)])
        job = Job(stage, stem, resolved, inputs, f"{RESULTS}/{self.study.study}/{stage}/{stem}.h5")
        known = self.jobs[stage].setdefault(stem, job)
        if known != job:
            raise FedboundError(f"two {stage} scenarios share the name {stem}; change any key of one of them")
        return known

    def _profile(
        self,
        data: s.Data,
        model: dict[str, Any],
        training: s.Training,
        exchange: s.Exchange,
        profiling: s.Profiling,
    ) -> Job:
        if exchange.bound is not None or exchange.downlink_bound is not None:
            fixed = {"bound": profiling.bound, "downlink_bound": profiling.bound, "bound_mode": "rel"}
            exchange = s.Exchange(**{**exchange.model_dump(), **fixed})
        else:  # nothing reads the profiling's bound, so an edit of it must not make this job run again
            profiling = s.Profiling(**profiling.model_dump(exclude={"bound"}))
        scenario = s.ProfileScenario(
            study=self.study.study,
            data=data,
            model=model,
            training=_local(training),
            exchange=exchange,
            profiling=profiling,
        )
        return self._add("profile", scenario, {"codec": exchange.codec})

    def _calibrate(
        self,
        data: s.Data,
        model: dict[str, Any],
        training: s.Training,
        exchange: s.Exchange,
        calibration: s.Calibration,
    ) -> Job:
        scenario = s.CalibrateScenario(
            study=self.study.study,
            data=data,
            model=model,
            training=_local(training),
            mode=exchange.mode,
            error_feedback=bool(exchange.error_feedback),
            # the error of a bound does not depend on who codes it: one calibration serves all codecs of a study
            downlink=calibration.codec if exchange.downlink_bound == "calibrated" else exchange.downlink,
            downlink_bound=exchange.downlink_bound,
            bound_mode=exchange.bound_mode,
            calibration=calibration,
        )
        scenario.check()
        return self._add("calibrate", scenario, {"algorithm": training.algorithm, "mode": exchange.mode})

    def _train(
        self,
        data: s.Data,
        model: dict[str, Any],
        training: s.Training,
        exchange: s.Exchange,
        calibration: s.Calibration | None,
        seed: int,
    ) -> Job:
        bounds = {}
        if calibration is not None:
            bounds = {"bounds": self._calibrate(data, model, training, exchange, calibration).path}
        scenario = s.TrainScenario(
            study=self.study.study,
            data=data,
            model=model,
            training=training,
            exchange=exchange,
            calibration=calibration,
            seed=seed,
        )
        keys = {
            "algorithm": training.algorithm,
            "codec": exchange.codec,
            "bound": exchange.bound,
            "seed": seed,
        }
        return self._add("train", scenario, keys, bounds)

    def _privacy(self, privacy: s.Privacy) -> Job:
        scenario = s.PrivacyScenario(study=self.study.study, privacy=privacy)
        return self._add("privacy", scenario, {"mechanism": privacy.mechanism, "epsilon": privacy.epsilon})

    def _simulate(self, data: s.Data, exchange: s.Exchange, simulation: s.Simulation, profile: Job, run: Job) -> Job:
        scenario = s.SimulateScenario(
            study=self.study.study, silos=data.silos, exchange=exchange, simulation=simulation
        )
        keys = {
            "scheduler": simulation.scheduler,
            "clients": simulation.clients,
            "codec": exchange.codec,
            "bound": exchange.bound,
        }
        return self._add("simulate", scenario, keys, {"profile": profile.path, "run": run.path})

    def _collect(self) -> Job:
        scenario = s.CollectScenario(study=self.study.study, report=self.study.report)
        inputs = {f"{stage}/{stem}": job.path for stage, jobs in self.jobs.items() for stem, job in jobs.items()}
        job = Job(
            "collect",
            "study",
            scenario.model_dump(mode="json"),
            inputs,
            f"{RESULTS}/{self.study.study}/study.h5",
        )
        self.jobs["collect"]["study"] = job
        return job


def _local(training: s.Training) -> s.LocalTraining:
    return s.LocalTraining(**{key: getattr(training, key) for key in s.LocalTraining.model_fields})


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        value = value["name"]
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return re.sub(r"[^A-Za-z0-9.+-]", "-", str(value))
