"""The round is a transaction (design law 9): killed after any single step, a run ends as if nothing had happened.

A step is a message sent, a silo's answer, a file synced, renamed, linked or copied. Each is followed by a kill once;
the next start must end with the bits of a run that was left alone, and no noised message may be missing from epsilon.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from fedbound import artifacts, data, study
from fedbound.codecs import wire
from fedbound.federation import assembly, lease, stage
from fedbound.federation.silo import Silo
from fedbound.federation.transports.local import LocalTransport
from fedbound.privacy import rounds as accounting

SILOS, ROUNDS, MULTIPLIER = 2, 3, 4.0


def scenario(
    algorithm: str = "fedavg", scheduler: object = "sync", private: bool = True, reduce: bool = False
) -> study.TrainScenario:
    privacy = {"noise_multiplier": MULTIPLIER, "insecure_seed": True} if private else None
    return study.TrainScenario(
        study="t",
        data=study.Data(silos=SILOS),
        model={"name": "mlp", "hidden": [4]},
        training=study.Training(
            rounds=ROUNDS,
            local_epochs=1,
            batch_size=512,
            algorithm=algorithm,
            scheduler=scheduler,
            privacy=privacy,
            reduce=reduce,
        ),
        exchange=study.Exchange(codec="none" if reduce else "sz3", bound=0.1),
        seed=5,
    )


class Kill(BaseException):
    """Nothing in the program handles it, as nothing handles a kill -9."""


class Steps:
    """Counts steps over several lives of a run, and kills after the one that it is told to."""

    def __init__(self, patch: pytest.MonkeyPatch, eager: bool):
        self.left = -1
        self.names: list[str] = []
        self.released: Counter[int] = Counter()  # noised updates that left their silo, in all lives
        for module, name in ((os, "fsync"), (os, "replace"), (os, "link"), (shutil, "copyfile"), (os, "rename")):
            patch.setattr(module, name, self._counted(name, getattr(module, name)))
        patch.setattr(LocalTransport, "send", self._counted("send", _eager if eager else LocalTransport.send))
        patch.setattr(Silo, "handle", self._answers(Silo.handle))
        # a killed process takes nothing back: its lease lies about, and nobody is alive to hold it
        patch.setattr(lease.Lease, "release", self._release(lease.Lease.release))
        patch.setattr(lease, "_alive", lambda owner, path: False)
        self.dead = False

    def start(self, dies_after: int) -> None:
        self.left, self.dead, self.names = dies_after, False, []

    def _step(self, name: str) -> None:
        self.names.append(name)
        self.left -= 1
        if self.left == 0:
            self.dead = True
            raise Kill(name)

    def _counted(self, name, original):
        def call(*args, **kwargs):
            result = original(*args, **kwargs)
            if not self.dead:
                self._step(name)
            return result

        return call

    def _answers(self, original):
        def handle(silo, buffer):
            answer = original(silo, buffer)
            if answer is not None and wire.peek(answer).kind == wire.Kind.UPDATE:
                self.released[silo.number] += 1
            self._step("answer")
            return answer

        return handle

    def _release(self, original):
        def release(held, *, done):
            if self.dead:
                held._stop.set()
                return
            original(held, done=done)

        return release


def _eager(transport, silo, message):
    """Silos that run ahead of the server as far as they can; `receive` finds their answers."""
    answer = transport.members[silo].handle(message)
    if answer is not None:
        transport.answers = [*getattr(transport, "answers", []), (silo, answer)]


def _answers_first(original):
    def receive(transport, timeout=None):
        answers = getattr(transport, "answers", [])
        return answers.pop(0) if answers else original(transport, timeout)

    return receive


def life(s: study.TrainScenario, folder: Path, every: int) -> artifacts.Artifact:
    """One start of the command; the artifact's own file (tests/test_artifacts.py) is one small one here."""
    folder.mkdir(exist_ok=True)

    def write(artifact: artifacts.Artifact) -> None:
        with open(folder / "part", "w", encoding="utf-8") as file:
            file.write(artifact.content_digest())
            os.fsync(file.fileno())
        os.replace(folder / "part", folder / "run")

    checkpoints = folder / "c"
    result = stage.run(s, {}, checkpoints=checkpoints, transport="local", checkpoint_every=every, write=write)
    assert result is not None
    return result


@pytest.fixture(autouse=True)
def _data_once(monkeypatch):
    """Hundreds of starts read the same samples."""
    monkeypatch.setattr(assembly, "federation", functools.cache(lambda key: data.federation(key)))
    monkeypatch.setattr(study.Data, "__hash__", lambda self: hash(self.model_dump_json()), raising=False)


@pytest.mark.parametrize(
    ("algorithm", "scheduler", "private", "reduce", "every", "eager", "stride"),
    [
        ("fedavg", "sync", True, False, 1, False, 1),
        ("iiadmm", "sync", True, False, 2, True, 2),
        ("fedavgm", {"name": "sync", "participation": 0.5}, False, False, 1, True, 3),
        ("fedbuff", {"name": "buffered", "buffer": 1}, True, False, 1, True, 3),
        ("fedadam", "sync", False, True, 2, True, 3),
    ],
)
def test_killed_after_any_step_a_run_ends_as_if_nothing_had_happened(
    tmp_path, monkeypatch, algorithm, scheduler, private, reduce, every, eager, stride
):
    s = scenario(algorithm, scheduler, private, reduce)
    monkeypatch.setattr(LocalTransport, "receive", _answers_first(LocalTransport.receive))
    steps = Steps(monkeypatch, eager)
    steps.start(-1)
    whole = life(s, tmp_path / "whole", every)
    count = len(steps.names)
    assert {"send", "answer", "fsync", "replace", "link"} <= set(steps.names)
    for dies_after in range(1, count + 1, stride):
        folder = tmp_path / str(dies_after)
        steps.released.clear()
        steps.start(dies_after)
        with pytest.raises(Kill):
            life(s, folder, every)
        steps.start(-1)
        again = life(s, folder, every)
        where = f"after step {dies_after} of {count} ({algorithm})"
        if algorithm != "fedbuff":  # silos out at the kill start anew there: whole updates, but other ones
            assert _differences(whole, again) == [], where
        assert list(again["rounds"]["round"].values) == list(range(ROUNDS + 1)), where
        if private:
            least = accounting.epsilon("gaussian", MULTIPLIER, max(steps.released.values()), 1e-5)
            assert again["rounds"]["epsilon"].values[-1] >= least, where
        assert not list((folder / "c").rglob("*.npz")), where


def _differences(a: artifacts.Artifact, b: artifacts.Artifact) -> list[str]:
    """All that differs but what a replayed round is charged again."""
    return [line for line in artifacts.differences(a, b) if "epsilon" not in line and "releases" not in line]


def test_killed_twice_in_a_row(tmp_path, monkeypatch):
    """The second kill strikes while the first one's checkpoints are being adopted, and soon after."""
    s = scenario()
    steps = Steps(monkeypatch, False)
    whole = life(s, tmp_path / "whole", 1)
    middle = len(steps.names) // 2
    for second in range(1, 16):
        folder = tmp_path / str(second)
        for dies_after in (middle, second):
            steps.start(dies_after)
            with pytest.raises(Kill):
                life(s, folder, 1)
        steps.start(-1)
        assert _differences(whole, life(s, folder, 1)) == [], second


def test_killed_while_finished_checkpoints_are_deleted_it_starts_afresh(tmp_path, monkeypatch):
    s = scenario(private=False)
    whole = life(s, tmp_path / "whole", 1)
    with monkeypatch.context() as patch:

        def half(folder, ignore_errors=False):
            for file in Path(folder).rglob("silo-*"):
                file.unlink()
            raise Kill

        patch.setattr(lease.shutil, "rmtree", half)
        with pytest.raises(Kill):
            life(s, tmp_path / "c", 1)
    monkeypatch.setattr(lease, "_alive", lambda owner, path: False)
    assert artifacts.differences(whole, life(s, tmp_path / "c", 1)) == []
