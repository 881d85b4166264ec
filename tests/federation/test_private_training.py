"""Output perturbation in training: what is sent, what it is charged, and that nothing is forgotten."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedbound import artifacts, study
from fedbound.codecs import wire
from fedbound.errors import FederationError, InputError
from fedbound.exchange import perturb
from fedbound.federation import ledger, stage
from fedbound.federation.assembly import Assembly
from fedbound.federation.lease import Lease
from fedbound.federation.ledger import Ledger
from fedbound.federation.server import Server
from fedbound.federation.transports.local import LocalTransport
from fedbound.privacy import accounting, rounds


def scenario(algorithm="fedavg", count: int = 4, codec: str = "sz3", mode: str = "delta", **privacy):
    settings = {"clip": 0.5, "noise_multiplier": 0.05, "insecure_seed": True, **privacy}
    return study.TrainScenario(
        study="t",
        data=study.Data(silos=3),
        model={"name": "mlp", "hidden": [48]},
        training=study.Training(rounds=count, local_epochs=1, algorithm=algorithm, privacy=settings),
        exchange=study.Exchange(codec=codec, bound=0.1, mode=mode),
        seed=5,
    )


def assemble(s) -> Assembly:
    return Assembly(s.data, s.model, s.training, s.exchange, s.seed)


@pytest.mark.parametrize(("mechanism", "order"), [("gaussian", 2), ("laplace", 1)])
def test_updates_are_clipped_in_the_mechanisms_norm_and_noised(mechanism, order):
    quiet = perturb.Perturbation(mechanism, 0.5, 1e-12, perturb.insecure(0, 0))
    update = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    small = (update / np.linalg.norm(update, order) * 0.2).astype(np.float32)
    for given, expected in ((update, 0.5), (small, 0.2)):
        sent = given.copy()
        quiet.apply(sent, 3)
        norm = np.linalg.norm(sent.astype(np.float64), order)
        assert norm == pytest.approx(expected, rel=2e-6)
        assert norm <= 0.5
        np.testing.assert_allclose(sent / norm, given / np.linalg.norm(given, order), rtol=1e-4, atol=1e-7)
    loud = perturb.Perturbation(mechanism, 0.5, 2.0, perturb.insecure(0, 0))
    noised = np.zeros(100_000, np.float32)
    loud.apply(noised, 3)
    # the mean of 100,000 squares (or magnitudes): within 5 standard errors, false alarms below 1e-6
    found = np.mean(noised.astype(np.float64) ** 2) if mechanism == "gaussian" else np.mean(np.abs(noised))
    expected = 4.0 if mechanism == "gaussian" else 2.0
    spread = 4.0 * math.sqrt(2) if mechanism == "gaussian" else 2.0
    assert abs(found - expected) <= 5 * spread / math.sqrt(100_000)


def test_secure_noise_is_fresh_and_insecure_noise_is_a_function_of_the_round():
    def drawn(draw, round_):
        return draw(round_).normal(size=4).tolist()

    assert drawn(perturb.entropy, 1) != drawn(perturb.entropy, 1)
    fixed = perturb.insecure(7, 2)
    assert drawn(fixed, 1) == drawn(fixed, 1) != drawn(fixed, 2)
    assert drawn(fixed, 1) != drawn(perturb.insecure(7, 3), 1)


@pytest.mark.parametrize("releases", [1, 10, 300])
def test_gaussian_rounds_compose_to_one_gaussian(releases):
    found = rounds.epsilon("gaussian", 3.0, releases, 1e-5)
    assert found == pytest.approx(accounting.gaussian_epsilon(3.0 / math.sqrt(releases), 1e-5), rel=2e-3)


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
@pytest.mark.parametrize(("target", "releases"), [(1.0, 1), (1.0, 20), (8.0, 20)])
def test_the_solved_noise_costs_the_target_and_hardly_less(mechanism, target, releases):
    multiplier = rounds.multiplier(mechanism, target, releases, 1e-5)
    assert rounds.epsilon(mechanism, multiplier, releases, 1e-5) <= target * (1 + 1e-9)
    assert rounds.epsilon(mechanism, multiplier * 0.98, releases, 1e-5) > target
    assert rounds.epsilon(mechanism, multiplier, 0, 1e-5) == 0


def test_laplace_is_never_above_pure_composition():
    for multiplier in (0.1, 1.0, 10.0):
        for releases in (1, 5, 50):
            assert rounds.epsilon("laplace", multiplier, releases, 1e-5) <= releases / multiplier + 1e-9


def test_a_run_says_its_epsilon_round_by_round(tmp_path):
    s = scenario(count=5, noise_multiplier=4.0)
    run = stage.run(s, {}, checkpoints=tmp_path / "c", transport="local")
    expected = [rounds.epsilon("gaussian", 4.0, n, 1e-5) for n in range(6)]
    np.testing.assert_allclose(run["rounds"]["epsilon"].values, expected)
    assert np.isnan(run["silos"]["train_loss"].values).all()
    again = stage.run(s, {}, checkpoints=tmp_path / "d", transport="local")
    assert artifacts.differences(run, again) == []  # insecure_seed
    stated = run["privacy"]
    np.testing.assert_allclose(stated["epsilon"].values, expected)
    assert stated["releases"].values.tolist() == [0, 1, 2, 3, 4, 5]
    said = {key: set(column.values.tolist()) for key, column in stated.items() if key not in ("round", "epsilon")}
    assert said["unit"] == {"one silo's update"}
    assert said["adjacency"] == {"zero-out"}
    assert said["trust"] == {"nobody outside the silo"}
    assert (said["noise_multiplier"], said["delta"], said["clip"], said["secure"]) == ({4.0}, {1e-5}, {0.5}, {0})
    plain = s.model_copy(update={"training": s.training.model_copy(update={"privacy": None})})
    without = stage.run(plain, {}, checkpoints=tmp_path / "e", transport="local")
    assert "privacy" not in without.tables
    assert np.isnan(without["rounds"]["epsilon"].values).all()
    assert (without["silos"]["releases"].values == 0).all()


@pytest.mark.parametrize("moment", ["_aggregate", "_commit", "_save"])
def test_a_replayed_round_is_charged_again(tmp_path, monkeypatch, moment):
    """Killed after the noised messages left: the rerun draws anew, and epsilon counts what was released in all."""
    s = scenario(count=5, noise_multiplier=4.0)
    with monkeypatch.context() as patch:
        original = getattr(Server, moment)

        def dying(self, *args):
            if self.version >= 3:
                raise KeyboardInterrupt
            return original(self, *args)

        patch.setattr(Server, moment, dying)
        with pytest.raises(KeyboardInterrupt):
            stage.run(s, {}, checkpoints=tmp_path / "c", transport="local")
    ledgers = sorted((tmp_path / "c").rglob("ledger-*.jsonl"))
    released = [Ledger(file).releases for file in ledgers]
    assert len(released) == 3
    run = stage.run(s, {}, checkpoints=tmp_path / "c", transport="local")
    resumed = int(run["summary"]["resumed_from"][0])
    total = max(released) + 5 - resumed
    assert total > 5
    assert run["silos"]["releases"].values.max() == total
    assert run["rounds"]["epsilon"].values[-1] == pytest.approx(rounds.epsilon("gaussian", 4.0, total, 1e-5))


def test_a_nan_is_not_released_unclipped():
    made = assemble(scenario())
    silo = made.silo(0)
    local = made.initial_state()
    local.vector[5] = np.nan
    local.vector[6] = 100.0
    with pytest.raises(FederationError, match="cannot be clipped"):
        silo.uplink.encode(local, made.initial_state(), 0)
    s = scenario()
    s = s.model_copy(update={"exchange": s.exchange.model_copy(update={"non_finite": "lossless"})})
    with pytest.raises(InputError, match=r"exchange\.non_finite: 'lossless' is refused"):
        assert assemble(s).layout


def test_releases_that_were_never_folded_are_charged():
    """A rejected update has left its silo all the same."""
    s = scenario(count=3, noise_multiplier=4.0)
    object.__setattr__(s.training, "on_failure", "drop")
    made = assemble(s)
    members = made.local().members
    answer = members[1].handle

    def damaged(buffer):
        sent = answer(buffer)
        if sent is not None and wire.peek(sent).kind == wire.Kind.UPDATE:
            sent[-1] ^= 1
        return sent

    members[1].handle = damaged
    server = made.server(LocalTransport(members))
    server.run()
    assert server.charged == {0: 3, 1: 3, 2: 3}
    assert members[1].ledger.releases == 3


def test_what_the_ledger_knows_and_the_server_was_never_told_is_charged(tmp_path):
    """Noised before a kill, by a silo that never answers again: its releases are in the ledger only."""
    s = scenario(count=2, noise_multiplier=4.0)
    object.__setattr__(s.training, "on_failure", "drop")
    made = assemble(s)
    held = Lease(tmp_path / "c")
    ledger.path(held.root, 1).write_text('{"round": 0}\n' * 7)
    members = made.local(None, held.folder).members
    members[1].handle = lambda buffer: wire.pack(wire.Message(wire.Kind.FAILURE, 1, 0, 0, [], {}, "no memory"))
    server = made.server(LocalTransport(members), held.folder)
    server.run()
    held.release(done=True)
    assert server.charged == {0: 2, 1: 8, 2: 2}  # the eighth was asked for, and may have been made


def test_a_cut_line_of_the_ledger_counts(tmp_path):
    file = tmp_path / "ledger-0.jsonl"
    before = Ledger(file)
    assert [before.charge(0), before.charge(1)] == [1, 2]
    with open(file, "a", encoding="utf-8") as stream:
        stream.write('{"rou')
    again = Ledger(file)
    assert again.releases == 3
    again.charge(2)
    assert Ledger(file).releases == 4  # the next line did not join the one that was cut


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
@pytest.mark.parametrize("codec", ["sz3", "ebq"])
def test_iiadmm_duals_agree_to_the_bit_under_noise_and_compression(mechanism, codec):
    s = scenario({"name": "iiadmm", "rho": 2.0, "zeta": 20.0}, count=50, codec=codec, mechanism=mechanism)
    made = assemble(s)
    transport = made.local()
    server = made.server(transport)
    server.run()
    for number, silo in transport.members.items():
        np.testing.assert_array_equal(server.algorithm.duals[number], silo.client.dual)
        assert np.abs(silo.client.dual).max() > 0


@pytest.mark.parametrize("codec", ["sz3", "ebq"])
def test_the_residual_is_of_noised_updates(codec):
    """Noise comes first: residual = noised update + old residual - what is decoded, and the noise is in the update."""
    made = assemble(scenario(codec=codec, noise_multiplier=1.0))
    silo = made.silo(0)
    reference = made.initial_state()
    local = made.initial_state()
    local.vector += 1e-3
    before = silo.uplink.residual.copy()
    encoding = silo.uplink.encode(local, reference, 2)
    noised = local.vector - reference.vector
    silo.uplink.perturb.apply(noised, 2)
    np.testing.assert_array_equal(silo.uplink.residual, noised + before - encoding.decoded)
    assert np.std(encoding.decoded) > 0.1  # noise 0.5 per coordinate; the update itself is far below


def test_what_noise_does_not_cover_is_refused():
    with pytest.raises(InputError, match=r"exchange\.mode: 'weights' is refused"):
        assert assemble(scenario(mode="weights")).layout
    for algorithm in ("iceadmm", "qffl"):
        with pytest.raises(InputError, match=f"{algorithm}.*more than the update"):
            assert assemble(scenario(algorithm)).layout
    with pytest.raises(InputError, match="either epsilon or noise_multiplier"):
        study.parse({"study": "s", "training": {"privacy": {"clip": 1.0}}})
    with pytest.raises(InputError, match=r"training\.privacy"):
        study.parse({"study": "s", "training": {"privacy": {"epsilon": -1.0}}})


def test_a_run_says_what_its_epsilon_means_and_what_the_codec_adds(tmp_path, capsys):
    s = scenario(count=2, noise_multiplier=4.0)
    s = s.model_copy(update={"exchange": study.Exchange(codec="sz3", bound=2.0, bound_mode="abs")})
    stage.run(s, {}, checkpoints=tmp_path / "c", transport="local")
    said = capsys.readouterr().out
    assert "at delta 1e-05, zero-out; unit: one silo's update" in said
    assert "trust: nobody outside the silo; sampling: none counted" in said
    assert "protects nobody" in said
    assert "adds about 33 % to the noise's variance (bounds of 2 to a noise of 2 per value)" in said  # 4/3 to 4
