"""Audits of training runs: canaries in what each kind of private run releases, shadow runs, codecs on real updates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedbound import artifacts, cli, study
from fedbound.auditing import membership, runs
from fedbound.bench import study_audits
from fedbound.data import federation
from fedbound.errors import InputError, LeaseError
from fedbound.federation import stage
from fedbound.privacy import sums

KINDS = {
    "updates": {"mechanism": "gaussian"},
    "updates, exchanged": {"mechanism": "laplace", "adjacency": "replace-one"},
    "steps": {"mechanism": "gaussian", "unit": "record"},
    "sums of records": {"mechanism": "skellam", "unit": "record", "bits": 18},
    "sampled sums": {"mechanism": "ddgauss", "unit": "record", "bits": 18, "rate": 0.5},
}


def scenario(privacy=None, rounds: int = 2, batch_size: int = 1000, **exchange) -> study.TrainScenario:
    return study.TrainScenario(
        study="t",
        data=study.Data(silos=2, validation=0.0, test=0.2),
        model={"name": "mlp", "hidden": []},
        training=study.Training(rounds=rounds, local_epochs=1, momentum=0, batch_size=batch_size, privacy=privacy),
        exchange=study.Exchange(**(exchange or {"codec": "none"})),
        seed=3,
    )


def shown(settings, **noise) -> runs.Canaries:
    """Of 650 canaries, from a fixed seed: what is drawn repeats."""
    return runs.canaries(scenario({"clip": 0.5, **settings, **noise}), 650, np.random.default_rng(0))


@pytest.mark.parametrize("kind", KINDS)
def test_canaries_stay_below_a_true_claim_and_refute_a_false_one(kind):
    """The false one: a claim of 1 for noise that is enough for 30."""
    settings = KINDS[kind]
    true = shown(settings, epsilon=1.0)
    assert true.claimed == pytest.approx(1.0, rel=0.01)
    assert true.shown.audited <= true.claimed
    loud = shown(settings, epsilon=30.0)
    assert true.claimed < loud.shown.audited <= min(loud.claimed, loud.shown.cap)


def test_canaries_without_noise_are_all_found():
    found = shown(KINDS["updates"], noise_multiplier=1e-3)
    assert found.shown.right == found.shown.guesses
    assert found.shown.audited == pytest.approx(found.shown.cap, rel=0.2)
    with pytest.raises(InputError, match="training.privacy: null"):
        runs.canaries(scenario(), 10, np.random.default_rng(0))


def test_canaries_of_dp_sgd_are_fewer_where_their_inputs_would_not_fit(monkeypatch):
    """One input for each record and canary: 1 GiB of float32."""
    assert runs._VALUES * 4 == 2**30
    one = scenario({"clip": 0.5, "epsilon": 1.0, **KINDS["steps"]}, rounds=1)
    sizes = [len(silo.train) for silo in federation(one.data).silos]
    values = 50 * max(sizes)
    monkeypatch.setattr(runs, "_VALUES", values)
    found = runs.canaries(one, 650, np.random.default_rng(0))
    assert found.shown.canaries in {values // size for size in sizes}  # of the silo that has spent the most


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_only_canaries_that_are_in_a_sum_are_encoded_and_the_others_are_absent(rate):
    """Of two silos with 40 and 60 vectors and 50 canaries: each along its own coordinate, with the clip's length."""

    seen = []

    class Recording:
        plan = sums.Plan("skellam", sums.Members(2, 100), 70, 0.5, 18, 1e-5, 3, rate=rate)

        def encode(self, vectors, absent, signs, rng):
            own = np.concatenate([np.zeros((0, 70)), *vectors])
            seen.append((own, absent))
            return np.zeros(self.plan.size, np.int64)

        def decode(self, total, vectors, signs):
            return np.zeros(70)

    _, included = runs._of_sums(Recording(), [40, 60], scenario(), 50, np.random.default_rng(0))
    assert len(included) == 50
    assert len(seen) == 6
    for (own, absent), size, first, last in zip(seen, [40, 60] * 3, [0, 40] * 3, [40, 50] * 3, strict=True):
        assert len(own) + absent == size
        assert (own.max(axis=1) == 0.5).all()
        assert (np.count_nonzero(own, axis=1) == 1).all()
        coordinates = own.argmax(axis=1)
        possible = first + np.flatnonzero(included[first:last])
        assert np.isin(coordinates, possible).all()
        assert rate < 1 or len(coordinates) == len(possible)
    sampled = sum(len(own) for own, _ in seen) / (3 * included.sum())
    assert sampled == 1 if rate == 1 else 0.3 < sampled < 0.7


def test_a_run_that_asks_for_canaries_is_audited_in_its_artifact(tmp_path, capsys):
    """By the command; the same twice, and the run itself is as without: its noise is from the study's seed here."""
    told = {}
    for canaries in (0, 300, 300):
        settings = {"epsilon": 4.0, "clip": 0.5, "insecure_seed": True, "canaries": canaries}
        one = scenario({**KINDS["sums of records"], **settings})
        out = tmp_path / f"{len(told)}.h5"
        cli.main(["train", "--scenario", one.model_dump_json(), "--transport", "local", "--out", str(out)])
        told[len(told)] = artifacts.read(out, "train")
    said = capsys.readouterr().out
    assert "audit" not in told[0].tables
    row = told[1]["audit"].iloc[0]
    assert row.claimed == pytest.approx(4, rel=0.01)
    assert 0 < row.audited <= row.claimed
    assert row.audited < row["cap"]
    assert (row.canaries, row.level) == (300, runs.LEVEL)
    assert said.count(f"300 canaries in a replay of the releases show epsilon {row.audited:.3g}") == 2
    assert told[1].content_digest() == told[2].content_digest()
    assert artifacts.differences(told[0], told[1]) != []
    assert told[0]["privacy"].equals(told[1]["privacy"])
    assert told[0]["evaluations"].equals(told[1]["evaluations"])


def test_a_job_that_was_replaced_during_its_audit_writes_nothing(tmp_path):
    """The other job takes the lease while the first one's canaries are out."""

    def slow(run):
        [root] = (tmp_path / "c").iterdir()
        (root / "lease-0002.json").write_text("")
        return run

    written = []
    with pytest.raises(LeaseError, match="took over"):
        stage.run(scenario(), {}, checkpoints=tmp_path / "c", transport="local", audit=slow, write=written.append)
    assert written == []


def test_shadow_runs_train_on_half_of_the_records_and_say_each_ones_confidence(monkeypatch):
    asked = []

    def attack(train, records, models, rng):
        chosen = np.zeros(records, bool)
        chosen[::2] = True
        asked.append((train(chosen, rng), records, models))
        return "attack"

    monkeypatch.setattr(membership, "likelihood_ratio", attack)
    seen = []
    server = runs.Assembly.server

    def watching(self, *args):
        seen.append([len(silo.train) for silo in self.silos.silos])
        return server(self, *args)

    monkeypatch.setattr(runs.Assembly, "server", watching)
    one = scenario(rounds=4, batch_size=8)
    assert runs.members(one, 6, np.random.default_rng(0)) == "attack"
    confidence, records, models = asked[0]
    sizes = [len(silo.train) for silo in federation(one.data).silos]
    assert (records, models, len(confidence)) == (sum(sizes), 6, sum(sizes))
    assert [sum(found) for found in seen] == [(sum(sizes) + 1) // 2]
    assert ((confidence > 0) & (confidence <= 1)).all()
    assert confidence.mean() > 0.3  # it has learned: guessing has 0.1


def test_a_codecs_error_on_a_real_update_is_no_noise():
    found = runs.codec(scenario(codec="sz3", bound=0.01), 20, np.random.default_rng(0))
    assert found.law.uniform < 0.1 < found.told
    assert found.edges == 5
    assert runs.codec(scenario(), 20, np.random.default_rng(0)) is None
    calibrated = runs.codec(scenario(codec="sz3", bound="calibrated"), 2, np.random.default_rng(0))
    assert calibrated.bound == found.bound  # the same relative bound


def test_the_command_names_each_run_and_says_what_nothing_applies_to():
    found = study.parse(
        {
            "study": "t",
            "seeds": [0, 1],
            "data": {"silos": 2, "validation": 0},
            "model": {"name": "mlp", "hidden": []},
            "training": {
                "rounds": 1,
                "privacy": [None, {"noise_multiplier": 2}, {"noise_multiplier": 2, "unit": "record"}],
            },
            "exchange": {"codec": "none"},
            "privacy": False,
            "profiling": False,
            "simulation": False,
        }
    )
    said = []
    rows = study_audits.measure(found, study_audits.Effort(canaries=50), said.append)
    cases = list(dict.fromkeys(row.case for row in rows))
    assert len(cases) == len(said) == 2
    assert [case.split(",")[0] for case in cases] == ["canaries: unit=record", "canaries: unit=silo"]
    text = study_audits.table(rows)
    assert all(case.removeprefix("canaries: ") in text for case in cases)
    with pytest.raises(InputError, match="nothing to test"):
        study_audits.measure(found, study_audits.Effort(canaries=0), said.append)
    with pytest.raises(InputError, match="--models: 3 are too few"):
        study_audits.Effort(models=3)
    assert math.isinf(runs.claim(scenario()))
