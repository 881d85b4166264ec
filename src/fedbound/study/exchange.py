"""The sections of what is sent: codecs, bounds, and the search for them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from fedbound.registry import CODECS
from fedbound.study.parts import Codec, Section, Seed


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
