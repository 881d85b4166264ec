"""The study: what a user may write in YAML, and what each stage gets to read of it.

Every section model below describes *one* setting: one value per key. A study may hold a list wherever a section has
a scalar, which makes a sweep; `expand` turns such a section into the list of its settings. The `*Scenario` models at
the end say which keys a stage reads, and therefore which edits make it run again.

The parts (codecs, mechanisms, algorithms ...) are not named here: each declares its own options in its own file.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from fedbound.artifacts import canonical, files_digest
from fedbound.errors import InputError, nearest, shown
from fedbound.registry import (
    ALGORITHMS,
    CODECS,
    DATASETS,
    ENGINES,
    MECHANISMS,
    MODELS,
    PARTITIONS,
    SCHEDULERS,
    Registry,
    explain,
    misread,
    takes_list,
)

NAME = r"[a-z0-9][a-z0-9_-]{0,63}"
LARGEST_SEED = 2**32 - 1  # what every library that is seeded takes
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


class Section(BaseModel):
    """One part of a study with one value per key."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Part:
    """Annotation of a field that names a part of `registry`: `sz3`, or `{name: sz3, predictor: nopred}`."""

    def __init__(self, registry: Registry):
        self.registry = registry

    def normalised(self, value: Any) -> dict[str, Any]:
        try:
            return self.registry.normalise(value)
        except InputError as error:
            raise ValueError(str(error)) from None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.normalised, handler(source))


Dataset = Annotated[dict[str, Any], _Part(DATASETS)]
Partition = Annotated[dict[str, Any], _Part(PARTITIONS)]
Model = Annotated[dict[str, Any], _Part(MODELS)]
Algorithm = Annotated[dict[str, Any], _Part(ALGORITHMS)]
Scheduler = Annotated[dict[str, Any], _Part(SCHEDULERS)]
Codec = Annotated[dict[str, Any], _Part(CODECS)]
Mechanism = Annotated[dict[str, Any], _Part(MECHANISMS)]
Engine = Annotated[dict[str, Any], _Part(ENGINES)]


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
        absent = {"unit": "silo", "bits": None, "honest": None, "rate": None}
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
        return self

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


class Guard(Section):
    """Moves the bounds during training: looser while validation accuracy holds, back at once where it does not."""

    tolerance: float = Field(
        default=1.0, gt=0, lt=100, description="validation accuracy that may be lost against the best so far, points"
    )
    step: float = Field(default=0.25, ge=0, description="added to the factor when accuracy has held for a while")
    decrease: float = Field(default=0.5, gt=0, lt=1, description="factor on the factor at a loss where it is 1 or less")
    patience: int = Field(default=3, ge=1, description="evaluations without a loss before the factor grows")
    smallest: float = Field(default=1 / 16, gt=0, le=1, description="smallest factor on the bounds")
    largest: float = Field(default=4.0, ge=1, description="largest factor on the bounds; 1: never looser than given")
    margin: float = Field(default=2.0, ge=0, description="standard errors of the accuracy that a loss must exceed")


def _switched(value: Any) -> Any:
    """A section that true turns on with its defaults and false off."""
    return {} if value is True else None if value is False else value


class Exchange(Section):
    """What happens to a model and its update on their way between server and silo."""

    codec: Codec = Field(default="none", validate_default=True, description="codec of the updates (uplink)")
    downlink: Codec | None = Field(
        default=None, description="codec of the model on its way to the silos; null: the same as of the updates"
    )
    mode: Literal["delta", "weights"] = Field(
        default="delta",
        description="what is sent both ways: the change against the model that both ends hold, or the weights",
    )
    error_feedback: bool | None = Field(
        default=True, description="add what the last encoding lost to the next update (lossy codecs only)"
    )
    bound: float | Literal["calibrated"] | None = Field(
        default="calibrated", description="error bound, or 'calibrated': taken from the calibrate stage"
    )
    bound_mode: Literal["rel", "abs", "rel_quantile", "std", "ratio"] | None = Field(
        default="rel",
        description="rel: times the value range (max - min) of each tensor; rel_quantile: times the range of the "
        "central 99.8 % of its values; std: times its standard deviation; abs: as it is; ratio: the smallest rel "
        "bound at which each update takes at most a bound-th of its raw bytes",
    )
    downlink_bound: float | Literal["calibrated"] | None = Field(
        default=None, description="error bound of the downlink; null: the same as of the updates"
    )
    non_finite: Literal["reject", "lossless"] = Field(
        default="reject",
        description="a tensor with NaN or infinite values ends the run (reject) or is sent exactly (lossless)",
    )

    guard: Annotated[Guard | None, BeforeValidator(_switched, json_schema_input_type=Guard | bool | None)] = Field(
        default=None,
        description="moves all bounds during training by the silos' validation accuracy: true, or a mapping of its "
        "options; false: bounds stay as they are",
    )

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A guard that is off is not there, so that runs of before there were guards keep their names."""
        found: dict[str, Any] = dump(self)
        return found if self.guard is not None else {k: v for k, v in found.items() if k != "guard"}

    @model_validator(mode="after")
    def _only_what_matters(self) -> Exchange:
        """Spellings that mean the same become the same scenario.

        An exact codec has no residual, one without error bound no bound; null says what an absent key says.
        """
        codec = CODECS.entry(self.codec["name"]).factory
        down = self.downlink or self.codec
        bound = self._bound(self.codec, self.bound)
        down_bound = self._bound(down, self.bound if self.downlink_bound is None else self.downlink_bound)
        numbers = isinstance(bound, float) or isinstance(down_bound, float)
        changes = {
            "downlink": down,
            "bound": bound,
            "downlink_bound": down_bound,
            "bound_mode": (self.bound_mode or "rel") if numbers else None,
            "error_feedback": None if codec.lossless else self.error_feedback is not False,
            "guard": None if bound is None and down_bound is None else self.guard,
        }
        for key, value in changes.items():
            object.__setattr__(self, key, value)  # the model is frozen for all but its own validation
        return self

    @staticmethod
    def _bound(codec: dict[str, Any], bound: float | Literal["calibrated"] | None) -> Any:
        if not CODECS.entry(codec["name"]).factory.error_bounded:
            return None
        return "calibrated" if bound is None else bound

    @model_validator(mode="after")
    def _positive_bound(self) -> Exchange:
        for codec, bound in ((self.codec, self.bound), (self.downlink or self.codec, self.downlink_bound)):
            if isinstance(bound, float) and bound <= 0:
                raise ValueError(
                    f"the bound {bound:g} of codec {codec['name']!r} must be above 0; "
                    "use the codec 'none' or 'lossless' for an exact exchange"
                )
            if self.bound_mode == "ratio" and isinstance(bound, float) and bound <= 1:
                raise ValueError(
                    f"the ratio {bound:g} of codec {codec['name']!r} must be above 1: raw bytes over bytes sent"
                )
        return self


class Calibration(Section):
    """The search for the largest bound that keeps accuracy."""

    codec: Codec = Field(default="ebq", validate_default=True, description="error-bounded codec of the probes")
    tolerance: float = Field(default=1.0, gt=0, lt=100, description="accuracy drop allowed, in percentage points")
    confidence: float = Field(
        default=0.95, ge=0.5, lt=1, description="probability, at least, that the accepted bound keeps the tolerance"
    )
    rounds: int = Field(
        default=20, ge=1, description="rounds of each probe: as many as the training's, or until accuracy is level"
    )
    seeds: list[Seed] = Field(
        default=[101, 102, 103, 104, 105, 106],
        min_length=4,
        description="seeds of the paired probes: the first one searches, the others (at least three) confirm; each "
        "holds out other samples of the silos, as many as data.validation says, as long as they last",
    )
    rule: Literal["range", "std"] = Field(
        default="std", description="what bounds are relative to: each tensor's standard deviation, or its value range"
    )
    smallest: float | None = Field(
        default=None, gt=0, description="smallest relative bound tried; null: 0.001 of ranges, 0.01 standard deviations"
    )
    largest: float | None = Field(
        default=None, gt=0, description="largest relative bound tried; null: 1 range, 10 standard deviations"
    )
    per_decade: int = Field(
        default=8, ge=1, le=32, description="grid points per factor of ten; the search looks at eight of them, at most"
    )
    tensors: Literal["uniform", "sensitivity", "rate", "deviation"] = Field(
        default="uniform",
        description="bounds of tensors: one share of each range; by sensitivity of the loss, fewest bits at high rate; "
        "the same with rate and error measured on a first update; one share of each standard deviation in round 0",
    )
    silos: Literal["uniform", "needs", "weights"] = Field(
        default="uniform",
        description="bounds of silos: alike; finer where labels are rich or accuracy is low; as 1 / number of samples",
    )
    reveal_epsilon: float | None = Field(
        default=None,
        gt=0,
        description="with silos 'needs': label entropies and accuracies go through the Laplace mechanism at this "
        "epsilon in all (one sample replaced), drawn from the system's entropy; null: as they are",
    )
    spread_factor: float | None = Field(
        default=None, gt=0, description="largest ratio of the silos' accuracy spread to the uncompressed one; null: any"
    )

    @model_validator(mode="after")
    def _sound(self) -> Calibration:
        smallest, largest = self.ends
        if smallest >= largest:
            raise ValueError(f"smallest ({smallest:g}) must be below largest ({largest:g})")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"the seeds {self.seeds} repeat one; give different ones")
        if self.reveal_epsilon is not None and self.silos != "needs":
            raise ValueError(
                f"reveal_epsilon ({self.reveal_epsilon:g}) is for silos: needs; silos {self.silos!r} reveals nothing "
                "that it would noise; remove it"
            )
        if not CODECS.entry(self.codec["name"]).factory.error_bounded:
            raise ValueError(f"the codec {self.codec['name']!r} has no error bound to calibrate; try 'ebq'")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """Smallest and largest relative bound tried."""
        smallest, largest = {"range": (1e-3, 1.0), "std": (1e-2, 10.0)}[self.rule]
        return self.smallest or smallest, self.largest or largest


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


class Profiling(Section):
    """What the profile stage measures."""

    rounds: int = Field(default=4, ge=2, description="rounds measured, after one of warm-up")
    bound: float = Field(default=0.1, gt=0, description="relative bound at which lossy codecs are timed")
    repeats: int = Field(default=5, ge=1, description="repetitions of each codec and link measurement")
    message_sizes: list[Annotated[int, Field(ge=1)]] = Field(
        default=[64, 4096, 65536, 1048576, 8388608], min_length=2, description="bytes of the link's test messages"
    )


class Override(Section):
    """What is simulated instead of what was measured, or instead of LV08's constants; null: as it is."""

    train_seconds: float | None = Field(default=None, ge=0, description="a round's local training, median client")
    encode_seconds: float | None = Field(default=None, ge=0, description="encoding an update")
    evaluate_seconds: float | None = Field(default=None, ge=0, description="evaluation, in each round")
    model_seconds: float | None = Field(default=None, ge=0, description="a client decoding the model")
    other_seconds: float | None = Field(default=None, ge=0, description="what else a round costs a client")
    decode_seconds: float | None = Field(default=None, ge=0, description="the server decoding an update")
    aggregate_seconds: float | None = Field(default=None, ge=0, description="the server folding an update")
    message_seconds: float | None = Field(default=None, ge=0, description="the server handling a message")
    message_byte_seconds: float | None = Field(default=None, ge=0, description="and each byte of one")
    downlink_seconds: float | None = Field(default=None, ge=0, description="the server encoding a version of the model")
    up_bytes: int | None = Field(default=None, ge=1, description="an update message")
    down_bytes: int | None = Field(default=None, ge=1, description="a model message")
    steps: float | None = Field(default=None, gt=0, description="local steps of a round")
    goodput_factor: float | None = Field(default=None, gt=0, le=1, description="share of a bandwidth that is payload")
    latency_factor: float | None = Field(default=None, ge=0, description="latencies paid before a transfer")
    weight_s: float | None = Field(default=None, gt=0, description="bytes: how much a slow link lowers a flow's share")
    tcp_gamma: float | None = Field(default=None, gt=0, description="bytes of the largest TCP window")


class Simulation(Section):
    """The population and network whose round time is predicted."""

    clients: int = Field(default=100, ge=1, le=10_000_000, description="number of clients")
    scheduler: Scheduler = Field(default="sync", validate_default=True, description="when clients train and report")
    rounds: int = Field(
        default=3,
        ge=1,
        description="rounds simulated; a scheduler without rounds gets as much local work as so many rounds of all are",
    )
    server_bandwidth: float = Field(default=1000.0, gt=0, description="server link, megabits per second each way")
    client_bandwidth: float = Field(default=100.0, gt=0, description="median client link, megabits per second")
    bandwidth_spread: float = Field(default=0.5, ge=0, description="sigma of the lognormal client bandwidth")
    latency: float = Field(default=0.01, ge=0, description="median one-way latency, seconds")
    latency_spread: float = Field(default=0.0, ge=0, description="sigma of the lognormal latency")
    sites: int = Field(
        default=0, ge=0, description="sites whose clients share a link; 0: none; needs the engine simgrid or auto"
    )
    site_bandwidth: float = Field(default=1000.0, gt=0, description="each site's link, megabits per second each way")
    slots: int | None = Field(
        default=None, ge=1, description="transfers that the server handles at once in each direction; null: all"
    )
    compute_spread: float = Field(default=0.5, ge=0, description="sigma of the lognormal client training time")
    compute_scale: float = Field(default=1.0, gt=0, description="training time as a multiple of the profiled one")
    stragglers: float = Field(default=0.0, ge=0, le=1, description="share of clients that train slower")
    straggler_clients: str | None = Field(default=None, description="and these, by number: '3, 10-19'; null: none")
    straggler_factor: float = Field(default=10.0, gt=0, description="their training time as a multiple of the others'")
    straggler_spread: float = Field(default=0.0, ge=0, description="sigma of the lognormal that their factor varies by")
    devices: str | None = Field(
        default=None,
        description="CSV or HDF5 table of devices that clients are: any of the columns bandwidth (Mbit/s), latency "
        "(s), and speed (relative to a profiled silo) or train_seconds; null: all is drawn",
    )
    bandwidth_trace: str | None = Field(
        default=None,
        description="CSV or HDF5 table of bandwidths over time: time (s), factor (of the nominal bandwidth) and client "
        "(a number, server, or all); null: they stay",
    )
    absence_trace: str | None = Field(
        default=None, description="CSV or HDF5 table of absences: client, left (s), returned (s; empty: never)"
    )
    files_digest: str = Field(
        default="", description="SHA-256 of these files; filled in, so that an edit there is another scenario"
    )
    present: float | None = Field(
        default=None, gt=0, description="mean seconds until a client leaves the federation; null: it never does"
    )
    absent: float = Field(default=60.0, gt=0, description="mean seconds until a client that left is back")
    override: Override = Field(default=Override(), description="costs typed in place of the profiled ones")
    target: float | None = Field(
        default=None, gt=0, le=1, description="accuracy to be reached; null: 0.99 of the best that the run has"
    )
    events: bool = Field(default=False, description="write the log of all events, one row each")
    engine: Engine = Field(default="fluid", validate_default=True, description="simulation engine")
    seed: Seed = Field(default=0, description="seed of the drawn population")

    @model_validator(mode="after")
    def _scheduler_fits(self) -> Simulation:
        try:
            SCHEDULERS.make(self.scheduler)(rounds=1).check(self.clients)
        except InputError as error:
            raise ValueError(f"{error} (clients: {self.clients})") from None
        if self.sites and self.engine["name"] == "fluid":
            raise ValueError("sites are simulated by the engine simgrid alone; set engine: simgrid (or auto)")
        if self.absence_trace is not None and self.present is not None:
            raise ValueError("absence_trace and present both say when clients are away; give one of them")
        if self.engine.get("platform") and (
            self.sites or self.present or self.absence_trace or self.bandwidth_trace or self.devices
        ):
            raise ValueError(
                "a platform file is its own network, always there: remove sites, present, absence_trace, "
                "bandwidth_trace and devices"
            )
        return self

    @model_validator(mode="after")
    def _files_found(self) -> Simulation:
        names = [path for path in (self.devices, self.bandwidth_trace, self.absence_trace) if path]
        if names and not self.files_digest:
            try:
                object.__setattr__(self, "files_digest", files_digest(names))
            except InputError as error:
                raise ValueError(str(error)) from None
        return self


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


class ProfileScenario(Section):
    """What `fedbound profile` reads."""

    study: str
    data: Data
    model: Model
    training: LocalTraining
    exchange: Exchange
    profiling: Profiling


class CalibrateScenario(Section):
    """What `fedbound calibrate` reads.

    A downlink whose bound is to be calibrated shares the search with the uplink: one scale for both directions.
    `bound_mode` belongs to a downlink bound that is a number.
    """

    study: str
    data: Data
    model: Model
    training: LocalTraining
    mode: Literal["delta", "weights"]
    error_feedback: bool
    downlink: Codec
    downlink_bound: float | Literal["calibrated"] | None
    bound_mode: Literal["rel", "abs", "rel_quantile", "std", "ratio"] | None
    calibration: Calibration

    def check(self) -> None:
        """Refuse, before any job, what no calibration can work with.

        Raises:
            InputError: there is but one silo, or no sample is held out.
        """
        if self.data.silos < 2:
            raise InputError(
                "data.silos: 1 silo has no federation to calibrate; use at least 2, or give exchange.bound as a number"
            )
        if not self.data.validation:
            raise InputError(
                "data.validation: 0 leaves no validation samples to calibrate on; raise it, or give exchange.bound as "
                "a number"
            )


class TrainScenario(Section):
    """What `fedbound train` reads; `calibration` is the one whose bounds a calibrated exchange takes, else None.

    Training needs only the bounds themselves, an input of the job; their origin is here so that runs under two
    calibrations are two scenarios, in the artifact as in the report.
    """

    study: str
    data: Data
    model: Model
    training: Training
    exchange: Exchange
    calibration: Calibration | None = None
    seed: Seed


class PrivacyScenario(Section):
    """What `fedbound privacy` reads."""

    study: str
    privacy: Privacy


class SimulateScenario(Section):
    """What `fedbound simulate` reads."""

    study: str
    silos: int = Field(ge=1)
    exchange: Exchange
    simulation: Simulation


class CollectScenario(Section):
    """What `fedbound collect` reads."""

    study: str
    report: Report


SWEPT: dict[str, type[Section]] = {
    "data": Data,
    "training": Training,
    "exchange": Exchange,
    "calibration": Calibration,
    "privacy": Privacy,
    "profiling": Profiling,
    "simulation": Simulation,
}
FIXED: dict[str, type[Section]] = {"resources": Resources, "report": Report}
OFF = ("privacy", "profiling", "simulation")  # sections that a study may switch off, and their stages with them
KEYS = ("study", "seeds", "data", "model", "training", "exchange", *list(SWEPT)[3:], *FIXED)


class Study(BaseModel):
    """A validated study: every section expanded to the list of its settings, in the order written; none where off."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    study: str = Field(pattern=f"^{NAME}$")
    seeds: tuple[int, ...]
    data: tuple[Data, ...]
    model: tuple[dict[str, Any], ...]
    training: tuple[Training, ...]
    exchange: tuple[Exchange, ...]
    calibration: tuple[Calibration, ...]
    privacy: tuple[Privacy, ...]
    profiling: tuple[Profiling, ...]
    simulation: tuple[Simulation, ...]
    resources: Resources
    report: Report


def parse(config: Mapping[str, Any]) -> Study:
    """Validate a study as read from YAML.

    Raises:
        InputError: with one sentence that names the first bad key, its value and the mend.
    """
    if not isinstance(config, Mapping):
        raise InputError("a study is a mapping of keys such as 'study', 'data' and 'training'; this file is none")
    for key in config:
        if key not in KEYS:
            raise InputError(f"unknown key {str(key)!r} in the study; {nearest(str(key), KEYS)}")
    name = config.get("study")
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise InputError(
            f"study: {shown(name)} is refused: give a name of at most 64 lower-case letters, digits, '-' and '_', "
            "the first a letter or digit"
        )
    swept = {key: [] if _is_off(config, key) else expand(model, config.get(key), key) for key, model in SWEPT.items()}
    if swept["simulation"] and not swept["profiling"]:
        raise InputError("profiling: off is refused: simulations are computed from a profile; say simulation: off too")
    models = tuple(_parts(MODELS, config.get("model", "mlp"), "model"))
    _refuse_unreadable(swept["data"], models)
    _refuse_compressed_sums(swept["training"], swept["exchange"])
    return Study(
        study=name,
        seeds=_seeds(config.get("seeds", [0, 1, 2])),
        model=models,
        **{key: tuple(values) for key, values in swept.items()},
        **{key: _section(model, config.get(key), key) for key, model in FIXED.items()},
    )


def _is_off(config: Mapping[str, Any], key: str) -> bool:
    """Whether the study says `key: off`, which YAML reads as false."""
    return key in OFF and config.get(key) is False


def _refuse_compressed_sums(trainings: Iterable[Training], exchanges: Iterable[Exchange]) -> None:
    """Raises InputError where updates of a secure sum would be sent through a codec, or be no updates."""
    for training, exchange in itertools.product(trainings, exchanges):
        if training.privacy is not None:
            check_private_exchange(training.privacy, exchange)


def check_private_exchange(privacy: TrainingPrivacy, exchange: Exchange) -> None:
    """Raise InputError where private updates cannot be sent so.

    Raises:
        InputError: a secure sum through a lossy codec or with a residual; weights; values that cannot be clipped.
    """
    if privacy.sums and exchange.codec["name"] != "none":
        raise InputError(
            f"exchange.codec: {exchange.codec['name']!r} is refused with training.privacy.mechanism "
            f"{privacy.mechanism!r}: integers of a secure sum take no codec and no residual; set codec to none (the "
            "model's way down may have one: downlink)"
        )
    if exchange.mode == "weights":
        raise InputError(
            "exchange.mode: 'weights' is refused with training.privacy: noise is put on the clipped update; use 'delta'"
        )
    if exchange.non_finite == "lossless":
        raise InputError(
            "exchange.non_finite: 'lossless' is refused with training.privacy: NaN and infinite values cannot be "
            "clipped; use 'reject'"
        )


def _refuse_unreadable(data: Iterable[Data], models: Iterable[dict[str, Any]]) -> None:
    """Raises InputError where a model cannot read what a data set holds, tokens or numbers."""
    for one, model in itertools.product(data, models):
        holds = "tokens" if getattr(DATASETS.entry(one.dataset["name"]).factory, "tokens", False) else "numbers"
        takes = getattr(MODELS.entry(model["name"]).factory, "takes", "numbers")
        other = "transformer" if holds == "tokens" else "mlp"
        if takes not in (holds, "any"):
            raise InputError(
                f"model: {model['name']!r} takes {takes}, but the data set {one.dataset['name']!r} holds {holds}; "
                f"use {other!r} with it, or another data set"
            )


def expand(model: type[Section], raw: Any, name: str) -> list[Any]:
    """All settings of one section: the product of its lists, validated, in the order written, without repeats.

    A section may also be a list of mappings, each of which is expanded by itself.

    Raises:
        InputError: naming section, key, value and mend.
    """
    if raw is None:
        raw = {}
    if isinstance(raw, list) and raw and all(isinstance(one, Mapping) for one in raw):
        return _unique(s for i, one in enumerate(raw) for s in expand(model, one, f"{name}[{i}]"))
    if not isinstance(raw, Mapping):
        raise _no_mapping(model, raw, name)
    axes: list[list[tuple[str, Any]]] = []
    for key, value in raw.items():
        values = value if isinstance(value, list) and not takes_list(model, str(key)) else [value]
        if not values:
            raise InputError(f"{name}.{key}: the list is empty; give at least one value or remove the key")
        registry = registry_of(model, str(key))
        if registry is not None:
            values = [one for item in values for one in _expanded(registry, item, f"{name}.{key}")]
        axes.append([(str(key), one) for one in values])
    return _unique(_section(model, dict(pairs), name) for pairs in itertools.product(*axes))


def _no_mapping(model: type[Section], raw: Any, name: str) -> InputError:
    return InputError(f"{name}: {shown(raw)} is refused: write a mapping of keys ({', '.join(model.model_fields)})")


def _section(model: type[Section], values: Any, name: str) -> Any:
    if values is not None and not isinstance(values, Mapping):
        raise _no_mapping(model, values, name)
    values = {str(key): value for key, value in (values or {}).items()}
    problem = misread(model, values)
    if problem:
        raise InputError(f"{name}.{problem}")
    try:
        return model(**values)
    except ValidationError as error:
        raise InputError(explain(error, model, name)) from None


def registry_of(model: type[BaseModel], key: str) -> Registry | None:
    field = model.model_fields.get(key)
    markers = [m for m in field.metadata if isinstance(m, _Part)] if field else []
    return markers[0].registry if markers else None


def _expanded(registry: Registry, item: Any, where: str) -> list[Any]:
    try:
        return registry.expand(item)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _parts(registry: Registry, raw: Any, where: str) -> list[dict[str, Any]]:
    items = raw if isinstance(raw, list) else [raw]
    if not items:
        raise InputError(f"{where}: the list is empty; give at least one value or remove the key")
    choices = [one for item in items for one in _expanded(registry, item, where)]
    try:
        return _unique(registry.normalise(choice) for choice in choices)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _seeds(raw: Any) -> tuple[int, ...]:
    seeds = raw if isinstance(raw, list) else [raw]
    for seed in seeds:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
            raise InputError(f"seeds: {shown(seed)} is refused: seeds are whole numbers from 0 to {LARGEST_SEED}")
    if not seeds:
        raise InputError("seeds: the list is empty; give at least one seed")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds: {shown(seeds)} repeats a seed; give different ones")
    return tuple(seeds)


def _unique(items: Iterable[Any]) -> list[Any]:
    kept: dict[str, Any] = {}
    for item in items:
        kept.setdefault(canonical(item.model_dump(mode="json") if isinstance(item, BaseModel) else item), item)
    return list(kept.values())
