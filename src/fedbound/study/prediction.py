"""The sections of what is predicted of a run: profile and simulation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from fedbound.artifacts import files_digest
from fedbound.errors import InputError
from fedbound.registry import SCHEDULERS
from fedbound.study.parts import Engine, Scheduler, Section, Seed


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
