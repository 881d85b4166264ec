"""The silo's end of a round: receive the model, train, encode, save, send."""

from __future__ import annotations

import resource
import time
import zipfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound import data, study
from fedbound.codecs import Codec, wire
from fedbound.errors import FedboundError, FederationError, LeaseError
from fedbound.exchange import downlink
from fedbound.exchange.blocks import Encoding
from fedbound.exchange.layout import Layout, State
from fedbound.exchange.uplink import Uplink, sent_model
from fedbound.federation import checkpoint
from fedbound.federation.ledger import Ledger

if TYPE_CHECKING:
    from fedbound.federation.algorithms import Client
    from fedbound.federation.team import Team
    from fedbound.models.training import LocalResult

NO_LABEL = -1
# what training, a user's own model, a codec or a damaged checkpoint may raise: the server hears of it and decides
_FAILURES = (
    FedboundError, ValueError, LookupError, TypeError, OSError, ArithmeticError, RuntimeError, MemoryError,
    AssertionError, AttributeError, NameError, ImportError, EOFError, zipfile.BadZipFile,
)  # fmt: skip


class Silo:
    """One silo: its data, its model and its end of the exchange.

    It owns the error-feedback residual. A training round is a transaction: the state that the update leaves behind is
    on disk before the update is sent, so a server that has folded it can count on it after a restart.

    Args:
        number: the silo's number, from 0.
        module: torch module; its parameters are overwritten by each model received.
        split: the silo's samples.
        layout: the model's layout.
        uplink: the silo's end of the exchange.
        downlink_codec: decodes the models.
        client: what the algorithm does at the silo beyond plain training.
        settings: the local training's settings.
        seed: the run's seed; with silo and round it determines the order of the samples.
        store: where checkpoints go; None where nothing survives (probes).
        ledger: counts what the silo releases under differential privacy; needed where the uplink perturbs.

    Attributes:
        team: the ranks that train it together; None where this process is all of it.
    """

    team: Team | None = None

    def __init__(
        self,
        number: int,
        module: Any,
        split: data.SiloData,
        layout: Layout,
        uplink: Uplink,
        downlink_codec: Codec,
        client: Client,
        settings: study.LocalTraining,
        seed: int,
        store: checkpoint.Store | None = None,
        ledger: Ledger | None = None,
    ):
        self.ledger = ledger
        self.number = number
        self.module = module
        self.split = split
        self.layout = layout
        self.uplink = uplink
        self.holder = downlink.Holder(layout, self._state(), downlink_codec)
        self.client = client
        self.settings = settings
        self.seed = seed
        self.store = store
        self.limits = wire.Limits(expected=layout.expected())
        self.wait_seconds = 0.0

    def handle(self, buffer: bytes | bytearray | memoryview) -> bytearray | None:
        """Take one message of the server and return the answer; a failure becomes a FAILURE message that names it.

        Raises:
            FederationError: a team's leader failed while it trained; the job must end, for the others wait in a sum.
        """
        try:
            return self._answer(buffer)
        except LeaseError:
            raise  # another job works on this run: this one must end
        except _FAILURES as error:
            text = str(error) if isinstance(error, FedboundError) else f"{type(error).__name__}: {error}"
            if self.team is not None and self.team.training:
                raise FederationError(f"the leader of silo {self.number} failed in training: {text}") from error
            return wire.pack(self._message(wire.Kind.FAILURE, 0, 0, text=text))

    def _answer(self, buffer: bytes | bytearray | memoryview) -> bytearray | None:
        kind = wire.peek(buffer).kind
        if kind == wire.Kind.STOP:
            return None
        if kind == wire.Kind.HELLO:
            return self._echo(buffer)
        message = wire.unpack(buffer, limits=self.limits)
        if kind == wire.Kind.CHECKPOINT:
            self._save(message.round)
            return wire.pack(self._message(wire.Kind.ACK, message.round, message.model_version))
        if kind != wire.Kind.MODEL:
            raise FederationError(f"silo {self.number} got a message of kind {kind.name}, which a silo does not take")
        answer = self._round(message)
        return None if answer is None else wire.pack(answer)

    def _echo(self, buffer: bytes | bytearray | memoryview) -> bytearray:
        """Send a link measurement's bytes back."""
        message = wire.unpack(buffer, limits=wire.Limits())
        return wire.pack(self._message(wire.Kind.HELLO, message.round, 0, records=message.records))

    def _round(self, message: wire.Message) -> wire.Message | None:
        started = time.perf_counter()
        if not self.holder.take(message):
            # a step on the way to the commanding message needs no answer: that one will not fit either
            return self._message(wire.Kind.RESYNC, message.round, message.model_version) if message.flags else None
        if not message.flags:
            return None
        reference = self.holder.state
        self._load(reference)
        loaded = time.perf_counter() - started
        label = int(message.fields.get("checkpoint_label", NO_LABEL))
        if label != NO_LABEL:
            self._restore(label)
        fields = {"wait_seconds": self.wait_seconds, "decode_seconds": loaded}
        if message.flags & wire.Flags.EVALUATE:
            fields |= self._evaluate()
        if not message.flags & wire.Flags.TRAIN:
            return self._message(wire.Kind.EVALUATION, message.round, message.model_version, fields=fields)
        answer = self._train(message, reference, fields)
        answer.fields["busy_seconds"] = time.perf_counter() - started
        return answer

    def _train(self, message: wire.Message, reference: State, fields: dict[str, float]) -> wire.Message:
        if self.client.wants_global_loss:
            fields["global_loss"] = self._training_loss()
        started = time.perf_counter()
        result, local = self._learn(message.round, reference, int(message.fields.get("steps", 0)))
        trained = time.perf_counter()
        if self.private:
            fields["releases"] = self._charge(message.round, reference)  # on disk before anything noised can leave
        self.uplink.factor = message.fields.get("bound_factor", 1.0)
        encoding, records = self._encode(local, reference, message.round)
        encoded = time.perf_counter()
        if message.flags & wire.Flags.CHECKPOINT:
            self._save(message.round + 1)
        residual = self.uplink.residual
        fields |= {
            "samples": len(self.split.train),
            "steps": result.steps,
            # a figure of the training data that no noise covers does not leave with a private update
            "train_loss": float("nan") if self.private else result.loss,
            "train_seconds": trained - started,
            "encode_seconds": encoded - trained,
            "error_over_bound": encoding.error_over_bound,
            "violations": encoding.violations,
            "residual_norm": 0.0 if residual is None else float(np.linalg.norm(residual)),
            "raw_bytes": self.layout.raw_bytes + 4 * self.layout.size * self.client.extras,
            "memory_bytes": peak_memory(),
        }
        if residual is None and self.uplink.error_norm:
            fields["error_norm"] = self.uplink.error_norm
        return self._message(wire.Kind.UPDATE, message.round, message.model_version, records=records, fields=fields)

    @property
    def private(self) -> bool:
        """Whether what it sends is under differential privacy."""
        return self.uplink.perturb is not None

    def _charge(self, round_: int, reference: State) -> int:
        """Charge a release that starts from `reference`; returns the silo's releases so far."""
        assert self.ledger is not None
        return self.ledger.charge(round_)

    def _encode(self, local: State, reference: State, round_: int) -> tuple[Encoding, list[wire.Record]]:
        """Encode the update and what goes with it, and let the algorithm's state follow what the server decodes."""
        encoding = self.uplink.encode(local, reference, round_)
        records = encoding.records
        if self.client.follows:
            sent = sent_model(self.uplink.mode, encoding.decoded, reference.vector)
            further = [
                self.uplink.encode_extra(vector, number)
                for number, vector in enumerate(self.client.extra(reference.vector, sent))
            ]
            self.client.commit(reference.vector, sent, [one.decoded for one in further])
            encoding.violations += sum(one.violations for one in further)
            records = [record for one in (encoding, *further) for record in one.records]
        return encoding, records

    def _training_loss(self) -> float:
        """Mean loss (nat) of the model as received on the training samples."""
        from fedbound.models import training

        self.module.to(training.resolve_device(self.settings.device))
        found = training.evaluate(self.module, self.split.train)
        return found.loss_sum / found.samples

    def _learn(self, round_: int, reference: State, steps: int = 0) -> tuple[LocalResult, State]:
        """Train the module as it stands for one round."""
        if self.team is not None and self.team.rank == 0:
            self.team.lead(round_, steps, reference, self.client.state())
        from fedbound.models import training

        hook = self.client.hook(self.module, reference.vector)
        seed = round_seed(self.seed, self.number, round_)
        result = training.train(self.module, self.split.train, self.settings, seed, steps, hook, self.team)
        if self.team is not None:
            self.team.training = False
        return result, self._state()

    def train_from(self, reference: State, round_: int, steps: int = 0) -> State:
        """The model that local training makes of `reference` in round `round_`; nothing is encoded or kept."""
        self._load(reference)
        return self._learn(round_, reference, steps)[1]

    def _evaluate(self) -> dict[str, float]:
        from fedbound.models import training

        started = time.perf_counter()
        self.module.to(training.resolve_device(self.settings.device))
        test = training.evaluate(self.module, self.split.test)
        validation = training.evaluate(self.module, self.split.validation)
        return {
            "test_samples": test.samples,
            "test_correct": test.correct,
            "test_loss": test.loss_sum,
            "validation_samples": validation.samples,
            "validation_correct": validation.correct,
            "evaluate_seconds": time.perf_counter() - started,
        }

    def _load(self, state: State) -> None:
        from fedbound.models.state import set_state

        set_state(self.module, self.layout.unflatten(state))

    def _state(self) -> State:
        from fedbound.models.state import get_state

        return self.layout.flatten(get_state(self.module))

    def _save(self, label: int) -> None:
        if self.store is None:
            return
        arrays = {} if self.uplink.residual is None else {"residual": self.uplink.residual}
        arrays |= {f"client-{key}": array for key, array in self.client.state().items()}
        self.store.save(checkpoint.State(label, arrays, {}))

    def _restore(self, label: int) -> None:
        if self.store is None:
            raise FederationError(f"silo {self.number} was told to resume from label {label} and keeps no checkpoints")
        state = self.store.load(label)
        if self.uplink.residual is not None:
            self.uplink.residual[:] = state.arrays["residual"]
        kept = {key.removeprefix("client-"): array for key, array in state.arrays.items() if key.startswith("client-")}
        self.client.restore(kept)

    def _message(
        self,
        kind: wire.Kind,
        round_: int,
        version: int,
        records: list[wire.Record] | None = None,
        fields: dict[str, float] | None = None,
        text: str = "",
    ) -> wire.Message:
        return wire.Message(kind, self.number, round_, version, records or [], fields or {}, text)


def serve(
    silos: dict[int, Silo], receive: Callable[[], tuple[int, Any]], send: Callable[[int, bytearray], None]
) -> None:
    """A silo process: answer messages until each of its silos was told to stop.

    Args:
        silos: the process's silos by number.
        receive: blocks until a message comes; returns the silo it is for and its bytes.
        send: sends a silo's answer to the server.
    """
    stopped: set[int] = set()
    while silos:
        started = time.perf_counter()
        number, buffer = receive()
        if wire.peek(buffer).kind == wire.Kind.STOP:
            stopped.add(number)
            if stopped == silos.keys():
                return
            continue
        silo = silos[number]
        silo.wait_seconds = time.perf_counter() - started
        answer = silo.handle(buffer)
        if answer is not None:
            send(number, answer)


def round_seed(seed: int, silo: int, round_: int) -> int:
    """Seed of one silo's local training in one round: stateless, so that a replayed round gives the same bits."""
    return int(np.random.SeedSequence([seed, silo, round_]).generate_state(1, np.uint64)[0] >> 1)


def peak_memory() -> int:
    """Peak resident memory of this process, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
