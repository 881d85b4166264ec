"""The command line: exit codes and one sentence for each mistake."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fedbound import artifacts, schemas, study
from fedbound.cli import main

PRIVACY = '{"study":"t","privacy":{"mechanism":"gaussian","dimension":16,"trials":3}}'


def refusal(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("fedbound: ")
    return lines[0]


def test_a_stage_writes_its_artifact(tmp_path, capsys):
    out = tmp_path / "deep" / "p.h5"
    assert main(["privacy", "--scenario", PRIVACY, "--out", str(out)]) == 0
    assert artifacts.read(out, "privacy").scenario["privacy"]["dimension"] == 16
    assert main(["inspect", str(out)]) == 0
    assert "table results: 1 rows" in capsys.readouterr().out


def test_scenario_from_a_file_is_the_same(tmp_path):
    frozen = tmp_path / "s.json"
    frozen.write_text(PRIVACY)
    for name, source in (("a", PRIVACY), ("b", str(frozen))):
        assert main(["privacy", "--scenario", source, "--out", str(tmp_path / f"{name}.h5")]) == 0
    assert main(["inspect", "--diff", str(tmp_path / "a.h5"), str(tmp_path / "b.h5")]) == 0


@pytest.mark.parametrize(("scenario", "words"), [
    ("{", "not JSON"), ("nowhere.json", "cannot read 'nowhere.json'"), ('{"study":"t"}', "'privacy' is missing"),
    (PRIVACY.replace("dimension", "dimensoin"), "did you mean 'dimension'"),
    (PRIVACY.replace("16", "0"), "privacy.dimension: 0 is refused"),
    (PRIVACY.replace("gaussian", "gausian"), "did you mean 'gaussian'"),
])  # fmt: skip
def test_bad_scenarios(capsys, tmp_path, scenario, words):
    assert words in refusal(capsys, "privacy", "--scenario", scenario, "--out", str(tmp_path / "x.h5"))
    assert not (tmp_path / "x.h5").exists()


TRAIN = study.TrainScenario(
    study="t",
    data=study.Data(silos=2),
    model={"name": "mlp", "hidden": [8]},
    training=study.Training(rounds=1),
    exchange=study.Exchange(codec="sz3"),
    seed=0,
).model_dump_json()


@pytest.mark.parametrize(("content", "words"), [
    (b"", "no fedbound artifact"), (b"text, not HDF5" * 50, "no fedbound artifact"), (None, "does not exist"),
])  # fmt: skip
def test_bad_inputs_are_named(capsys, tmp_path, content, words):
    path = tmp_path / "bounds.h5"
    if content is not None:
        path.write_bytes(content)
    base = ["train", "--transport", "local", "--scenario", TRAIN, "--out", str(tmp_path / "x.h5")]
    message = refusal(capsys, *base, "--input", f"bounds={path}")
    assert words in message
    assert str(path) in message


def test_bounds_of_another_stage_or_model_are_refused(capsys, tmp_path):
    path = tmp_path / "b.h5"
    base = ["train", "--transport", "local", "--scenario", TRAIN, "--out", str(tmp_path / "x.h5")]
    artifacts.write(path, artifacts.Artifact("privacy", "t", {}))
    assert "'calibrate' one is needed" in refusal(capsys, *base, "--input", f"bounds={path}")
    row = {"direction": "up", "silo": -1, "tensor": "foreign", "bound": 1.0, "rule": "range", "scale": 0.1}
    table = schemas.BOUNDS.table([{**row, "predicted_bits": 1.0, "measured_bits": 1.0, "sensitivity": 0.0}])
    for key, words in (("model", "another model"), ("data", "another data"), ("mode", "another mode")):
        parsed = study.TrainScenario.model_validate_json(TRAIN)
        same = {"data": parsed.data.model_dump(mode="json"), "model": parsed.model, "mode": "delta"}
        foreign = same | {"error_feedback": True, key: "other"}
        artifacts.write(path, artifacts.Artifact("calibrate", "t", foreign, tables={"bounds": table}))
        assert words in refusal(capsys, *base, "--input", f"bounds={path}")
    artifacts.write(
        path,
        artifacts.Artifact(
            "calibrate",
            "t",
            {**same, "error_feedback": True, "downlink_bound": "calibrated"},
            tables={"bounds": table},
        ),
    )
    assert "another model" in refusal(capsys, *base, "--input", f"bounds={path}")
    assert "needs a bounds artifact" in refusal(capsys, *base)


def test_diff_finds_changed_contents_and_passes_over_measured_ones(tmp_path, capsys):
    base = {"bytes": 64, "rank": 1, "repeat": 0, "seconds": 1.0, "server_seconds": 0.5}
    for name, change in (("a", {}), ("b", {"seconds": 2.0}), ("c", {"bytes": 65})):
        table = schemas.PROFILE_LINK.table([base | change])
        artifacts.write(tmp_path / name / "x.h5", artifacts.Artifact("profile", "t", {}, tables={"link": table}))
    assert main(["inspect", "--diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert main(["inspect", "--diff", str(tmp_path / "a"), str(tmp_path / "c")]) == 1
    assert "column bytes" in capsys.readouterr().out
    (tmp_path / "c" / "x.h5").unlink()
    assert main(["inspect", "--diff", str(tmp_path / "a"), str(tmp_path / "c")]) == 1


def test_help_and_plan_import_nothing_heavy():
    """Law: imports point one way and heavy ones happen in the stage that needs them."""
    code = (
        "import sys, fedbound.cli, fedbound.workflow, fedbound.study as s, fedbound.plan as p;"
        "p.make(s.parse({'study': 'x'}));"
        "bad = {'torch', 'mpi4py', 'simgrid', 'sklearn', 'scipy', 'pandas', 'matplotlib', 'dp_accounting', 'pysz'};"
        "sys.exit(' '.join(bad & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_check_counts_jobs_and_refuses_a_typo(tmp_path, capsys):
    path = tmp_path / "study.yaml"
    path.write_text("study: x\nseeds: [0, 1]\nexchange: {codec: [none, sz3]}\n")
    assert main(["check", str(path)]) == 0
    assert "4 train" in capsys.readouterr().out
    path.write_text("study: x\ntrainnig: {rounds: 3}\n")
    assert "did you mean 'training'" in refusal(capsys, "check", str(path))
    path.write_text("study: x\ndata: {silos: 2000}\n")
    assert "data.silos" in refusal(capsys, "check", str(path))


def test_numbers_survive_as_they_are(tmp_path):
    """Same scenario, same numbers: two runs of a deterministic stage have one content digest."""
    for name in ("a", "b"):
        main(["privacy", "--scenario", PRIVACY, "--out", str(tmp_path / f"{name}.h5")])
    a, b = (artifacts.read(tmp_path / f"{name}.h5") for name in ("a", "b"))
    assert a.content_digest() == b.content_digest()
    assert np.isfinite(a["results"]["mse"]).all()
