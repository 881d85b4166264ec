"""Putting a federation together from its settings: the same parts for every transport."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fedbound import study
from fedbound.codecs import Codec
from fedbound.data import Federation, federation
from fedbound.errors import InputError
from fedbound.exchange import bounds as rules
from fedbound.exchange import downlink, perturb
from fedbound.exchange.blocks import Encoder
from fedbound.exchange.layout import Layout, State
from fedbound.exchange.reduction import ReducedReceiver, ReducedUplink
from fedbound.exchange.uplink import Receiver, Uplink
from fedbound.federation import checkpoint, ledger, schedulers, team
from fedbound.federation.algorithms import Algorithm, Client
from fedbound.federation.failures import Failures
from fedbound.federation.guard import Guard
from fedbound.federation.ledger import Ledger
from fedbound.federation.outbox import Exchange
from fedbound.federation.private import PrivateSteps, PrivateSums
from fedbound.federation.records import Records
from fedbound.federation.resend import Resend
from fedbound.federation.server import Server
from fedbound.federation.silo import Silo
from fedbound.federation.spending import Nothing, Spending, Updates
from fedbound.federation.summing import OfSums
from fedbound.federation.transports import Reducing, Transport
from fedbound.federation.transports.local import LocalTransport
from fedbound.privacy import rounds
from fedbound.registry import ALGORITHMS, CODECS

if TYPE_CHECKING:
    from fedbound.artifacts import Artifact


_ENDS: tuple[tuple[rules.Direction, int], ...] = (("up", 0), ("down", rules.ALL_SILOS))


@dataclass
class Assembly:
    """One run's settings, and the parts made from them.

    Attributes:
        data, model, training, exchange, seed: as in the study.
        bounds: the bounds artifact where the exchange is calibrated.
        source: the data, when the caller has them already.
    """

    data: study.Data
    model: dict[str, Any]
    training: study.Training
    exchange: study.Exchange
    seed: int
    bounds: Artifact | None = None
    source: Federation | None = None

    @cached_property
    def silos(self) -> Federation:
        return self.source or federation(self.data)

    @cached_property
    def layout(self) -> Layout:
        from fedbound.models import state, training

        training.resolve_device(self.training.device)  # refuse a missing GPU before anything starts
        module = self.module()
        layout = Layout(state.specs(module))
        ALGORITHMS.make(self.training.algorithm).check(module)
        if self.training.ranks_per_silo > 1:
            team.check(module)
        self._check_privacy()
        self._check_guard()
        if self.training.reduce:
            study.check_reduced_exchange(self.exchange)
        self.scheduler().check(self.data.silos)
        for direction, silo in _ENDS:  # refuse foreign bounds before anything starts
            rules.rule(self.exchange, layout, silo, self.bounds, direction)
        return layout

    def _check_privacy(self) -> None:
        """Refuse what a private update cannot be sent with.

        Raises:
            InputError: the exchange sends weights, or the algorithm sends or tells more than the update.
        """
        if self.training.privacy is None:
            return
        study.check_private_exchange(self.training.privacy, self.exchange)
        client = self.client_of(self.training.algorithm)
        if self.training.privacy.unit == "record":
            from fedbound.models import per_example

            per_example.check(self.module())
        if (client.extras and self.steps is None) or client.wants_global_loss:
            raise InputError(
                f"training.algorithm: {self.training.algorithm['name']!r} is refused with training.privacy: it sends "
                "more than the update, which no noise covers; use another algorithm, such as 'iiadmm' or 'fedavg'"
            )

    def _check_guard(self) -> None:
        """Refuse a guard that has nothing to look at, or that would look where it must not.

        Raises:
            InputError: no silo has validation samples, or updates are private.
        """
        if self.exchange.guard is None:
            return
        if not any(len(silo.validation) for silo in self.silos.silos):
            raise InputError(
                f"exchange.guard: there are no validation samples to guard by (data.validation: "
                f"{self.data.validation:g}); raise data.validation, or set guard to false"
            )
        if self.training.privacy is not None:
            raise InputError(
                "exchange.guard: a guard is refused with training.privacy: bounds would follow validation samples that "
                "no noise covers; set guard to false"
            )

    def module(self) -> Any:
        """A fresh torch module with the run's initial weights, the same on every rank."""
        from fedbound import models

        one_thread_per_rank()
        return models.build(self.model, self.silos.shape, self.silos.classes, self.seed)

    def initial_state(self) -> State:
        from fedbound.models import state

        return self.layout.flatten(state.get_state(self.module()))

    def encoder(self, direction: rules.Direction, silo: int = rules.ALL_SILOS) -> Encoder:
        """How the blocks of one direction are encoded; for the uplink, those of `silo`."""
        rule = rules.rule(self.exchange, self.layout, silo, self.bounds, direction)
        codec = self.codec(direction)
        if hasattr(codec, "warm_up"):
            codec.warm_up()
        return Encoder(self.layout, codec, rule, self.exchange.non_finite)

    def codec(self, direction: rules.Direction) -> Codec:
        """The codec of one direction."""
        choice = self.exchange.codec if direction == "up" else self.exchange.downlink
        codec: Codec = CODECS.make(choice or {})  # a validated exchange names both
        return codec

    def _server_exchange(self) -> Exchange:
        sender = downlink.Sender(self.encoder("down"), self.exchange.mode, self.initial_state())
        return Exchange(
            sender,
            Receiver(self.layout, self.exchange.mode, self.codec("up"), self.exchange.non_finite, self.client().extras),
        )

    def client(self) -> Client:
        """A silo's end of the algorithm."""
        algorithm: Algorithm = ALGORITHMS.make(self.training.algorithm)
        return algorithm.client(self.layout)

    @staticmethod
    def client_of(choice: dict[str, Any]) -> Client:
        """A silo's end of the algorithm, of no model: what it sends and asks for."""
        algorithm: Algorithm = ALGORITHMS.make(choice)
        return algorithm.client(Layout([]))

    def silo(self, number: int, folder: Path | None = None, checkpoint_every: int = 1) -> Silo:
        """Silo `number`; its checkpoints go to `folder`."""
        ends: tuple[Any, ...] = (
            self.codec("down"),
            self.client(),
            self.training,
            self.seed,
            checkpoint.Store(folder, f"silo-{number}", self._keep(checkpoint_every)) if folder else None,
            Ledger(ledger.path(folder.parent, number) if folder else None),
        )
        parts = (number, self.module(), self.silos.silos[number], self.layout)
        if self.private is not None:
            sent = Resend(folder.parent / f"sent-{number}" if folder else None, 2 * checkpoint_every + 2)
            return self.private.silo(parts, ends, sent)
        if self.training.reduce:
            share = len(self.silos.silos[number].train) / self._samples
            return Silo(*parts, ReducedUplink(self.encoder("up", number), share), *ends)
        feedback = bool(self.exchange.error_feedback)
        uplink = Uplink(self.encoder("up", number), self.exchange.mode, feedback, self._perturbation(number))
        if self.steps is not None:
            return self.steps.silo(parts, uplink, ends)
        return Silo(*parts, uplink, *ends)

    def server(
        self,
        transport: Transport,
        folder: Path | None = None,
        checkpoint_every: int = 1,
        absent: Mapping[int, str] | None = None,
    ) -> Server:
        """The server on `transport`; its checkpoints and the log of its records go to `folder`.

        Args:
            absent: silo -> why it takes no part any more.
        """
        exchange, algorithm = self._server_exchange(), ALGORITHMS.make(self.training.algorithm)
        if self.private is not None:
            receiver = self.private.receiver(folder.parent / "sums.jsonl" if folder else None)
            exchange.receiver, algorithm = receiver, OfSums(algorithm, receiver)
        if self.training.reduce:
            timeout = self.training.silo_timeout or None
            reduce = partial(cast(Reducing, transport).reduce, timeout=timeout)
            reduced = ReducedReceiver(self.layout, self._samples, reduce)
            exchange.receiver, algorithm = reduced, OfSums(algorithm, reduced)
        return Server(
            self.layout,
            self.initial_state(),
            algorithm,
            self.scheduler(),
            transport,
            exchange,
            self.training.evaluate_every,
            Records(folder / "records.jsonl" if folder else None),
            checkpoint.Store(folder, checkpoint.SERVER) if folder else None,
            checkpoint_every,
            Failures(self.training.on_failure, self.training.least_silos, self.training.silo_timeout),
            None if self.exchange.guard is None else Guard(self.exchange.guard),
            {silo: ledger.releases(folder.parent, silo) for silo in range(transport.silos)} if folder else None,
            absent,
        )

    @property
    def _samples(self) -> int:
        """Training samples of all silos."""
        return sum(len(split.train) for split in self.silos.silos)

    def _perturbation(self, number: int) -> perturb.Perturbation | None:
        """What silo `number` does to its updates under differential privacy."""
        settings = self.training.privacy
        if settings is None or settings.sums or settings.unit == "record":
            return None
        scale = self.noise_multiplier() * rounds.sensitivity(settings.clip, settings.adjacency)
        assert settings.mechanism in ("gaussian", "laplace")
        return perturb.Perturbation(settings.mechanism, settings.clip, scale, self._draw(number))

    def _draw(self, number: int) -> perturb.Draw:
        """The noise of silo `number`."""
        settings = self.training.privacy
        assert settings is not None
        return perturb.insecure(self.seed, number) if settings.insecure_seed else perturb.entropy

    @cached_property
    def private(self) -> PrivateSums | None:
        """The parts of a run whose updates are secure sums; None for others."""
        settings = self.training.privacy
        return None if settings is None or not settings.sums else PrivateSums(self, settings)

    @cached_property
    def steps(self) -> PrivateSteps | None:
        """The parts of a run with DP-SGD in its silos; None for others."""
        settings = self.training.privacy
        record = settings is not None and settings.unit == "record" and not settings.sums
        return PrivateSteps(self, settings) if record and settings is not None else None

    def noise_multiplier(self) -> float:
        """Noise over sensitivity: as given, or solved for the target epsilon, one release a round."""
        settings = self.training.privacy
        assert settings is not None
        assert settings.mechanism in ("gaussian", "laplace")
        if settings.noise_multiplier is not None:
            return settings.noise_multiplier
        assert settings.epsilon is not None  # a validated study gives one of the two
        return rounds.multiplier(settings.mechanism, settings.epsilon, self.training.rounds, settings.delta)

    def noise_deviation(self) -> float:
        """Standard deviation of the noise on each value of an update, where updates are perturbed one by one."""
        settings = self.training.privacy
        assert settings is not None
        scale = self.noise_multiplier() * rounds.sensitivity(settings.clip, settings.adjacency)
        return scale * math.sqrt(2) if settings.mechanism == "laplace" else scale

    def spending(self) -> Spending:
        """How this run's epsilon follows from its releases."""
        settings = self.training.privacy
        if settings is None:
            return Nothing()
        if self.private is not None:
            return self.private.spending()
        if self.steps is not None:
            return self.steps.spending()
        assert settings.mechanism in ("gaussian", "laplace")
        return Updates(settings.mechanism, self.noise_multiplier(), settings.delta)

    def scheduler(self) -> schedulers.Scheduler:
        """A fresh scheduler of this run."""
        options = dict(self.training.scheduler)
        return schedulers.get(options.pop("name"), rounds=self.training.rounds, seed=self.seed, **options)

    def _keep(self, checkpoint_every: int) -> int:
        """Checkpoints that a silo keeps: where silos are out while others are aggregated, it saves at every update."""
        return checkpoint.KEEP + checkpoint_every if self.scheduler().overlapping else checkpoint.KEEP

    def local(
        self, numbers: Iterable[int] | None = None, folder: Path | None = None, checkpoint_every: int = 1
    ) -> LocalTransport:
        """All silos in this process."""
        members = range(self.data.silos) if numbers is None else numbers
        return LocalTransport({number: self.silo(number, folder, checkpoint_every) for number in members})


def one_thread_per_rank() -> None:
    """Keep torch to OMP_NUM_THREADS threads, one where it is unset: several ranks share a machine's cores."""
    import torch

    threads = max(1, int(os.environ.get("OMP_NUM_THREADS") or 1))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
