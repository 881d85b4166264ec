"""The table `jobs`: what each job took, by its benchmark file or by Slurm's accounting."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from report_cases import NONE, SILOS, privacy, train, written

from fedbound.artifacts import Artifact
from fedbound.cluster import logs
from fedbound.report import jobs

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


@pytest.fixture
def study(tmp_path: Path, monkeypatch) -> tuple[Path, dict[str, Artifact]]:
    """A training of 20 s and a privacy cell of 4 s, with benchmark files, in the folders of a study."""
    run, cell = train(NONE, 0, 0.9, 1000), privacy("gaussian", 1.0, 1e-4)
    found = {"train/t_0": run, "privacy/p_0": cell}
    written(tmp_path / "results/synthetic", found)
    for name, seconds, memory, cpu in (("train/t_0", 20, 1000, 75), ("privacy/p_0", 4, 100, 3)):
        path = logs.benchmark(tmp_path / f"results/synthetic/{name}.h5")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{HEAD}{seconds}\t0:00:{seconds}\t{memory}\t0\t0\t0\t0\t0\t0\t{cpu}\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return tmp_path, found


def table(folder: Path, found: dict[str, Artifact]):
    listed = [
        jobs.Written(*name.split("/"), folder / f"results/synthetic/{name}.h5", one) for name, one in found.items()
    ]
    made = Artifact("collect", "synthetic", {}, None, {"jobs": jobs.table(listed, folder)})
    return made["jobs"].set_index("stage")


def as_slurm_job(found: dict[str, Artifact], job: str) -> dict[str, Artifact]:
    return {name: dataclasses.replace(one, provenance={"job": job + name[0]}) for name, one in found.items()}


def accounts(folder: Path, text: str) -> None:
    """An sacct that answers so."""
    sacct = folder / "bin/sacct"
    sacct.parent.mkdir(exist_ok=True)
    sacct.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n")
    sacct.chmod(0o755)


def test_a_local_job_is_known_by_its_benchmark_file(study) -> None:
    rows = table(*study)
    assert rows.seconds.to_dict() == {"train": 20, "privacy": 4}
    assert rows.cores.to_dict() == {"train": SILOS + 1, "privacy": 1}
    assert rows.cpu_efficiency.to_dict() == {"train": 75 / (20 * 5), "privacy": 0.75}
    assert rows.memory["train"] == 1000 * 2**20
    assert (rows.source == "snakemake").all()
    assert rows.asked_memory.isna().all()


def test_ranks_that_srun_started_are_not_mistaken_for_idle(study) -> None:
    folder, found = study
    accounts(folder, "")
    rows = table(folder, {name: dataclasses.replace(one, provenance={"job": "7"}) for name, one in found.items()})
    assert rows.seconds["train"] == 20
    assert math.isnan(rows.cpu_efficiency["train"])
    assert math.isnan(rows.memory["train"])
    assert rows.cpu_efficiency["privacy"] == 0.75


def test_slurms_accounting_counts_where_it_knows_the_job(study) -> None:
    folder, found = study
    accounts(
        folder,
        f"7|{folder}|25|01:40.500|5||1||10000M\n"
        "7.batch||25|00:00.500|5|1|1|90000K|\n"
        "7.0||24|01:40.000|5|5|1|1000000K|\n"
        "8|/somewhere/else|999|1-00:00:00|64||4||1G\n",
    )
    marked = {"train/t_0": "7", "privacy/p_0": "8"}
    rows = table(folder, {n: dataclasses.replace(one, provenance={"job": marked[n]}) for n, one in found.items()})
    assert (rows.seconds["train"], rows.cpu_seconds["train"], rows.source["train"]) == (25, 100.5, "slurm")
    assert rows.cpu_efficiency["train"] == pytest.approx(100.5 / 125)
    assert rows.memory["train"] == 5 * 1000000 * 1024
    assert rows.memory_efficiency["train"] == pytest.approx(5 * 1000000 * 1024 / (10000 * 2**20))
    # another cluster's job of that id: it did not run here
    assert (rows.seconds["privacy"], rows.source["privacy"]) == (4, "snakemake")


def test_what_nobody_measured_is_unknown(study) -> None:
    folder, found = study
    for name in found:
        logs.benchmark(folder / f"results/synthetic/{name}.h5").unlink()
    rows = table(folder, found)
    assert rows.seconds.isna().all()
    assert (rows.source == "").all()
    assert "No job left" in jobs.html(rows.reset_index())


def test_the_report_has_a_line_for_each_stage(study) -> None:
    page = jobs.html(table(*study).reset_index())
    assert '<td class="text">train</td><td>1</td><td>0.0278</td><td>20 s</td><td>20 s</td><td>75 %</td>' in page
    assert '<td class="text">privacy</td>' in page
