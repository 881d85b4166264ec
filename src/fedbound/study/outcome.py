"""The sections of mechanisms that are compared, of what jobs may take, and of the report."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedbound.study.parts import Mechanism, Section, Seed


class Privacy(Section):
    """Mean estimation under differential privacy: what each mechanism costs at each epsilon."""

    mechanism: Mechanism = Field(default="gaussian", validate_default=True, description="DP mechanism")
    epsilon: float = Field(default=1.0, gt=0, description="target epsilon of one release")
    delta: float = Field(default=1e-5, gt=0, lt=1, description="target delta of one release")
    clients: int = Field(default=100, ge=1, description="clients whose vectors are averaged")
    dimension: int = Field(default=256, ge=1, description="coordinates of each vector")
    clip: float = Field(default=1.0, gt=0, description="bound on each vector's norm (L2; L1 for laplace)")
    trials: int = Field(default=20, ge=2, description="repetitions of the estimate")
    audit_draws: int = Field(default=100_000, ge=0, description="draws of the mechanism's audit, each side; 0: none")
    seed: Seed = Field(default=0, description="seed of the simulated vectors and noise (not for production)")


class StageResources(Section):
    """What one job of a stage asks of the cluster."""

    mem_mb: int = Field(default=2000, ge=1, description="memory per job (per rank for MPI stages), megabytes")
    runtime: int = Field(default=30, ge=1, description="time limit, minutes")


class Resources(Section):
    """How jobs run. Nothing here changes a number in a result, so nothing here makes a stage run again."""

    checkpoint_every: int = Field(default=1, ge=1, description="rounds between checkpoints: the most a kill can cost")
    max_core_hours: float | None = Field(
        default=None,
        gt=0,
        description="a study whose jobs to come are estimated (`fedbound plan`) above this is refused; null: no limit",
    )
    profile: StageResources = StageResources()
    calibrate: StageResources = StageResources()
    train: StageResources = StageResources()
    privacy: StageResources = StageResources()
    simulate: StageResources = StageResources()
    collect: StageResources = StageResources()


class Report(Section):
    """What the report shows."""

    title: str = Field(default="", description="title of the HTML report; the study's name when empty")
    tolerance: float = Field(
        default=1.0, gt=0, description="accuracy drop, in points, that the recommendation may accept"
    )
    trust: Literal["local", "shuffler", "secure aggregation", "central server"] = Field(
        default="central server",
        exclude_if=lambda trust: trust == "central server",  # so that collections of before it was there are the same
        description="who is trusted when privacy's mechanisms are ranked: those that need more are not",
    )
    bits: float | None = Field(
        default=None,
        gt=0,
        exclude_if=lambda bits: bits is None,
        description="most bits per coordinate that a client may send when mechanisms are ranked; null: any",
    )
