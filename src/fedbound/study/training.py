"""The sections of a federated run: its data, local training, privacy and rounds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from fedbound.registry import ALGORITHMS, MECHANISMS
from fedbound.study.parts import Algorithm, Dataset, Partition, Scheduler, Section, Seed


class Data(Section):
    """Which data, and how they lie in silos."""

    dataset: Dataset = Field(default="digits", validate_default=True, description="the data set")
    silos: int = Field(default=4, ge=1, description="number of silos")
    partition: Partition = Field(
        default="dirichlet", validate_default=True, description="how samples are split among silos"
    )
    validation: float = Field(default=0.15, ge=0, lt=1, description="share of each silo's samples kept for calibration")
    test: float = Field(default=0.25, gt=0, lt=1, description="share of each silo's samples kept for the test")
    seed: Seed = Field(default=0, description="seed of the split into silos and parts")

    @model_validator(mode="after")
    def _leaves_training_data(self) -> Data:
        if self.validation + self.test > 1 - 1e-9:
            raise ValueError(
                f"validation ({self.validation:g}) and test ({self.test:g}) leave nothing to train on; "
                "lower them so that they add up to less than 1"
            )
        return self


class LocalTraining(Section):
    """What one silo does in one round."""

    algorithm: Algorithm = Field(default="fedavg", validate_default=True, description="federated algorithm")
    local_epochs: int = Field(default=2, ge=1, description="passes over a silo's training samples per round")
    batch_size: int = Field(default=32, ge=1, description="samples per local step")
    optimizer: Literal["sgd", "adam"] = Field(default="sgd", description="local optimizer, fresh in each round")
    learning_rate: float = Field(default=0.05, gt=0, description="local learning rate")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of sgd; adam ignores it")
    weight_decay: float = Field(default=0.0, ge=0, description="L2 penalty of the local optimizer")
    device: Literal["cpu", "cuda", "auto"] = Field(
        default="cpu", description="where silos train; each rank of a node takes a GPU of its own as far as they go"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="bfloat16: mixed precision, on CUDA only; weights, losses, evaluation and exchange stay float32",
    )

    @model_validator(mode="after")
    def _mixed_on_cuda_only(self) -> LocalTraining:
        if self.precision != "float32" and self.device == "cpu":
            raise ValueError(
                f"precision {self.precision!r} needs a GPU and device is 'cpu'; set device to 'cuda' or 'auto', or "
                "precision to 'float32'"
            )
        return self


INTEGER_SUMS = ("skellam", "ddgauss", "binomial", "pbm")


class TrainingPrivacy(Section):
    """What is protected in training, by which noise, put on where (docs/privacy.md, "In training").

    - unit silo, gaussian or laplace: every update is clipped, noised, then encoded (output perturbation).
    - unit silo, skellam, ddgauss, binomial or pbm: every update becomes integers with a share of the noise, and the
      server decodes their sum modulo 2^bits (secure aggregation, simulated).
    - unit record, gaussian: DP-SGD within each silo: per-record gradients clipped, their sum noised, step by step.
    - unit record, skellam, ddgauss, binomial or pbm: one gradient per record and round, in sums as above.
    """

    unit: Literal["silo", "record"] = Field(
        default="silo", description="what is protected: all of a silo's data at once, or one training record"
    )
    mechanism: Literal["gaussian", "laplace", "skellam", "ddgauss", "binomial", "pbm"] = Field(
        default="gaussian", description="law of the noise; the last four are added as integer shares to a secure sum"
    )
    clip: float = Field(
        default=1.0,
        gt=0,
        description="largest norm of an update (unit silo) or of one record's gradient (unit record): L2, laplace L1",
    )
    epsilon: float | None = Field(
        default=None, gt=0, description="target epsilon of all rounds together, for which the noise is solved"
    )
    noise_multiplier: float | None = Field(
        default=None,
        gt=0,
        description="noise (of the sum, where there is one) over sensitivity, instead of a target epsilon",
    )
    delta: float = Field(default=1e-5, gt=0, lt=1, description="delta at which epsilon is stated")
    adjacency: Literal["zero-out", "replace-one"] = Field(
        default="zero-out",
        description="what is protected is removed (sensitivity clip) or exchanged (2 clip; noised updates alone)",
    )
    bits: int | None = Field(
        default=None, ge=2, le=32, description="bits per coordinate of a secure sum; null: 16 with sums, else none"
    )
    honest: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of silos whose noise is counted in a secure sum: the others may lie; null: 1 with sums",
    )
    rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="unit record: probability with which a record takes part in a step; null: batch_size over the "
        "silo's samples for gaussian, 1 for sums",
    )
    insecure_seed: bool = Field(
        default=False, description="noise from the study's seed, to compare runs: it protects nobody"
    )
    canaries: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="most canaries in a replay of the run's releases after training: right guesses of them bound "
        "epsilon from below; 0: no audit",
    )

    @field_validator("mechanism", mode="before")
    @classmethod
    def _trains(cls, value: Any) -> Any:
        """Refuse mechanisms of the privacy stage that no training has, and say why."""
        if value not in ("gaussian", "laplace", *INTEGER_SUMS) and value in MECHANISMS.available():
            trust = MECHANISMS.get(value).trust
            why = {
                "local": "every message is private by itself, which costs some n times the error of a sum of n silos",
                "central server": "it trusts the server with the noise, and a silo adds its own here",
            }.get(trust, "only its single release is accounted, not the sum of rounds with silos that drop out")
            raise ValueError(
                f"the mechanism {value!r} is refused in training ({why}); use 'gaussian' or 'laplace' where nobody is "
                f"trusted, {', '.join(map(repr, INTEGER_SUMS))} with secure sums, and the privacy stage to study it"
            )
        return value

    @property
    def sums(self) -> bool:
        """Whether silos send integers for a secure sum."""
        return self.mechanism in INTEGER_SUMS

    @model_validator(mode="after")
    def _fits(self) -> TrainingPrivacy:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("give either epsilon or noise_multiplier")
        if self.mechanism == "laplace" and self.unit == "record":
            raise ValueError("the mechanism 'laplace' is refused with unit 'record'; use 'gaussian', or a secure sum's")
        if self.adjacency == "replace-one" and (self.sums or self.unit == "record"):
            raise ValueError("adjacency 'replace-one' is accounted for noised updates of silos alone; use 'zero-out'")
        if self.rate is not None and self.unit == "silo":
            raise ValueError("rate is refused with unit 'silo': the server knows which silos take part; remove it")
        if not self.sums and (self.bits is not None or self.honest is not None):
            raise ValueError(f"bits and honest are of secure sums and mechanism is {self.mechanism!r}; remove them")
        if self.sums:  # spellings that mean the same become the same scenario
            object.__setattr__(self, "bits", 16 if self.bits is None else self.bits)
            object.__setattr__(self, "honest", 1.0 if self.honest is None else self.honest)
            if self.unit == "record":
                object.__setattr__(self, "rate", 1.0 if self.rate is None else self.rate)
            if self.mechanism == "pbm" and self.bits is not None and self.bits > 20:
                raise ValueError(
                    f"bits {self.bits} are refused with pbm, whose coins are counted one by one; at most 20"
                )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what says no more than its absence: settings of before those keys keep their artifacts' names."""
        found: dict[str, Any] = handler(self)
        absent = {"unit": "silo", "bits": None, "honest": None, "rate": None, "canaries": 0}
        return {key: value for key, value in found.items() if key not in absent or value != absent[key]}


class Training(LocalTraining):
    """The federated training run."""

    privacy: TrainingPrivacy | None = Field(default=None, description="differential privacy of updates; null: none")

    scheduler: Scheduler = Field(default="sync", validate_default=True, description="when silos train and report")
    rounds: int = Field(default=20, ge=1, description="rounds of training")
    evaluate_every: int = Field(default=1, ge=1, description="rounds between evaluations; the last is always evaluated")
    on_failure: Literal["abort", "drop"] = Field(
        default="abort",
        description="a silo that raises, stalls or sends garbage ends the run (abort), or the run goes on without it",
    )
    least_silos: int = Field(default=1, ge=1, description="living silos below which a run ends all the same")
    silo_timeout: float = Field(
        default=0.0, ge=0, description="seconds after which a silo that owes an answer has stalled; 0: never"
    )
    ranks_per_silo: int = Field(
        default=1,
        ge=1,
        exclude_if=lambda ranks: ranks == 1,  # so that runs of before it was there are the same scenarios
        description="MPI ranks of each silo, among which it splits its mini-batches; on CUDA a GPU each",
    )
    reduce: bool = Field(
        default=False,
        exclude_if=lambda on: not on,  # so that runs of before it was there are the same scenarios
        description="silos add up their updates themselves, by one MPI Reduce a round, instead of sending them "
        "(uncompressed synchronous runs)",
    )

    @model_validator(mode="after")
    def _fits_scheduler(self) -> Training:
        """Some algorithms need all silos in step."""
        factory, scheduler = ALGORITHMS.entry(self.algorithm["name"]).factory, self.scheduler
        in_step = scheduler["name"] == "sync" and scheduler["participation"] == 1 and scheduler["quorum"] is None
        if getattr(factory, "synchronous", False) and not in_step:
            raise ValueError(
                f"the algorithm {self.algorithm['name']!r} needs every silo in every round and does not go with this "
                "scheduler; use 'sync' without participation and quorum, or another algorithm"
            )
        self._check_privacy(in_step)
        self._check_reduce(in_step)
        return self

    def _check_reduce(self, in_step: bool) -> None:
        """Refuse what a sum of all silos' updates is not enough for."""
        if not self.reduce:
            return
        if not in_step:
            raise ValueError(
                "reduce: true sums one update of every silo in every round and does not go with this scheduler; use "
                "'sync' without participation and quorum, or reduce: false"
            )
        if not getattr(ALGORITHMS.make(self.algorithm), "of_mean", False):
            raise ValueError(
                f"reduce: true is refused with the algorithm {self.algorithm['name']!r}, which needs each silo's own "
                "update; use 'fedavg', 'fedprox', 'fedavgm', 'fedadam', 'fedyogi' or 'fedadagrad', or reduce: false"
            )
        refused = {
            "on_failure": (self.on_failure, "abort", "a sum cannot go on without one of its silos"),
            "ranks_per_silo": (self.ranks_per_silo, 1, "the sum is over ranks that hold whole silos"),
            "privacy": (self.privacy and self.privacy.mechanism, None, "private updates are sent one by one"),
        }
        for key, (value, needed, why) in refused.items():
            if value != needed:
                mend = "null" if needed is None else needed
                raise ValueError(f"reduce: true is refused with {key} {value!r}: {why}; use {mend}, or reduce: false")

    def _check_privacy(self, in_step: bool) -> None:
        """Refuse what the accounting does not cover."""
        privacy, name = self.privacy, self.algorithm["name"]
        if privacy is None:
            return
        if privacy.sums and not in_step:
            raise ValueError(
                f"privacy.mechanism {privacy.mechanism!r} sums one update of every silo in every round and does not go "
                "with this scheduler; use 'sync' without participation and quorum"
            )
        if privacy.sums and not getattr(ALGORITHMS.make(self.algorithm), "of_mean", False):
            raise ValueError(
                f"the algorithm {name!r} needs each silo's own update, and privacy.mechanism {privacy.mechanism!r} "
                "shows their sum alone; use 'fedavg', 'fedprox', 'fedavgm', 'fedadam', 'fedyogi' or 'fedadagrad'"
            )
        if privacy.epsilon is not None and self.scheduler["name"] != "sync":
            raise ValueError(
                f"privacy.epsilon {privacy.epsilon:g} is refused with the scheduler {self.scheduler['name']!r}: how "
                "often a silo reports is not known before; give privacy.noise_multiplier instead"
            )
        if privacy.unit == "record" and self.ranks_per_silo > 1:
            raise ValueError(
                f"ranks_per_silo: {self.ranks_per_silo} is refused with privacy.unit 'record': each rank would noise "
                "its share of a batch by itself; use 1"
            )
        if privacy.unit == "record" and self.scheduler["name"] == "compass":
            raise ValueError("privacy.unit 'record' counts steps, which the scheduler 'compass' varies; use another")
        one_step = self.local_epochs == 1 and self.optimizer == "sgd" and not (self.momentum or self.weight_decay)
        if privacy.sums and privacy.unit == "record" and not one_step:
            raise ValueError(
                f"privacy.unit 'record' with {privacy.mechanism!r} sends one gradient per record and round; set "
                "local_epochs to 1, optimizer to sgd, momentum and weight_decay to 0"
            )
