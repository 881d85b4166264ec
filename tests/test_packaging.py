"""What is installed, and how: pins, extras, Makefile, Slurm profiles, and the SimGrid that `make simgrid` builds."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, Requirement]:
    lines = (repository / "envs" / "constraints.txt").read_text().splitlines()
    return {
        canonicalize_name(pin.name): pin for pin in map(Requirement, filter(lambda x: x[:1] not in ("#", ""), lines))
    }


@pytest.fixture(scope="module")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


def exact_version(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "==", pin
    return specifier.version


def test_every_pin_is_one_version_anybody_can_find(pins) -> None:
    for pin in pins.values():
        assert pin.url is None, pin
        assert re.fullmatch(r"[0-9][0-9a-z.]*", exact_version(pin)), f"{pin}: no local build, no wildcard"
    assert exact_version(pins["torch"]) == "2.13.0"


def test_every_extra_can_be_installed_under_the_pins(pins, project) -> None:
    wanted = [("core", text) for text in project["dependencies"]]
    wanted += [(extra, text) for extra, texts in project["optional-dependencies"].items() for text in texts]
    for extra, text in wanted:
        requirement = Requirement(text)
        if requirement.name == "fedbound":
            assert requirement.extras <= set(project["optional-dependencies"]), text
        elif requirement.name != "simgrid":  # built by a recipe of its own
            pin = pins[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(exact_version(pin)), f"{extra}: {text}, but {pin}"


def test_makefile_installs_extras_that_exist(repository: Path, project) -> None:
    (extras,) = re.findall(r"^EXTRAS := (.+)$", (repository / "Makefile").read_text(), re.M)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert "mpi" not in extras.split(","), "the embedded MPI is a choice"


@pytest.mark.parametrize(("arguments", "installed"), [((), True), (("MPI=site",), False)])
def test_embedded_mpi_is_left_out_for_the_sites_own(repository: Path, tmp_path: Path, arguments, installed) -> None:
    """From an environment that is not there yet, so that every step is planned."""
    command = ["make", "--dry-run", f"VENV={tmp_path / 'venv'}", *arguments, "install"]
    planned = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in planned.splitlines() if " -e " in line]
    assert (",mpi]" in line) == installed
    assert ("uninstall --quiet --yes mpich" in planned) != installed


def test_torch_index_is_used_for_torch_and_nothing_else(repository: Path, tmp_path: Path) -> None:
    command = ["make", "--dry-run", f"VENV={tmp_path / 'venv'}", "TORCH_INDEX=https://index.example/cpu", "test"]
    planned = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in planned.splitlines() if "index.example" in line]
    assert line.endswith("torch==2.13.0 --index-url https://index.example/cpu")


def test_an_unknown_choice_of_mpi_is_refused(repository: Path) -> None:
    done = subprocess.run(["make", "MPI=openmpi", "help"], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "MPI is 'openmpi'; say MPI=embedded or MPI=site" in done.stderr


@pytest.mark.simgrid
def test_built_simgrid_simulates() -> None:
    """1 MB over a link of 1 MB/s with half a second of latency, in the model without correction factors: 1.5 s."""
    pytest.importorskip("simgrid")
    code = """
import simgrid as sg
engine = sg.Engine(["test", "--cfg=network/model:CM02", "--cfg=network/crosstraffic:0"])
zone = engine.netzone_root
here, there, link = zone.add_host("here", 1e9), zone.add_host("there", 1e9), zone.add_link("link", 1e6)
link.set_latency(0.5)
zone.add_route(here, there, [link])
zone.seal()
here.add_actor("send", lambda: sg.Mailbox.by_name("box").put("message", 1_000_000))
there.add_actor("receive", lambda: sg.Mailbox.by_name("box").get())
engine.run()
print(engine.clock)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert float(done.stdout.split()[-1]) == pytest.approx(1.5, abs=1e-9)
