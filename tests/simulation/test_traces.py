"""Files that a simulation reads: what they may say, and the sentence for what they may not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from simulation_cases import needs_simgrid, sync

from fedbound import study, study_file
from fedbound.errors import InputError
from fedbound.simulation import Star, Workload, simulate, traces
from fedbound.simulation.engines.simgrid import check_platform

PLATFORM = """<?xml version='1.0'?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1"><zone id="all" routing="Full">
<host id="server" speed="1Gf"/><host id="c10" speed="1Gf"/><host id="c2" speed="1Gf"/>
<link id="fast" bandwidth="100MBps" latency="0us"/><link id="slow" bandwidth="10MBps" latency="0us"/>
<route src="server" dst="c2"><link_ctn id="fast"/></route>
<route src="server" dst="c10"><link_ctn id="slow"/></route>
</zone></platform>
"""


def test_hdf5_is_as_good_as_csv(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["bandwidth"], file["train_seconds"] = [8.0, 16.0], [1.0, 0.0]
    found = traces.devices(str(tmp_path / "d.h5"))
    assert found.bandwidth is not None
    np.testing.assert_array_equal(found.bandwidth, [1e6, 2e6])
    assert (found.latency, found.speed) == (None, None)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["time"], file["factor"], file["client"] = [0.0, 0.0], [0.5, 2.0], ["server", "0"]
    assert [c.client for c in traces.bandwidths(str(tmp_path / "b.h5"), 3)] == [-1, 0]


def test_all_clients_at_once(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("time,factor\n0,1\n10,0.25\n")
    changes = traces.bandwidths(str(tmp_path / "b.csv"), 2)
    assert [(c.time, c.client, c.factor) for c in changes] == [(0, 0, 1), (0, 1, 1), (10, 0, 0.25), (10, 1, 0.25)]


def bandwidths(path: str) -> object:
    return traces.bandwidths(path, 5)


def absences(path: str) -> object:
    return traces.absences(path, 5)


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (traces.devices, "bandwidth\n1\n0\n", r"bandwidth 0 in row 2 is refused; give numbers above 0"),
        (traces.devices, "bandwidth,latency\n1,-2\n", r"latency -2 in row 1 is refused; give numbers from 0"),
        (traces.devices, "bandwidth,latency\n1,1\n1,\n", r"row 2: a gap in latency is refused"),
        (traces.devices, "speed\nfast\n", r"row 1: speed fast is refused; give a number"),
        (traces.devices, "speed,train_seconds\n1,1\n", r"say the same twice"),
        (traces.devices, "colour\nred\n", r"at least one of the columns bandwidth"),
        (traces.devices, "speed\n", r"an empty table is refused"),
        (traces.devices, "", r"cannot be read as a table"),
        (bandwidths, "time,factor\n3,1\n", r"row 1: the trace of 'all' has a gap from 0 to 3 s; begin it at 0"),
        (bandwidths, "time,factor\n0,1\n9,\n", r"row 2: a gap in factor is refused"),
        (bandwidths, "time,factor\n0,1\n9,0\n", r"row 2: a bandwidth change by the factor 0.0 is refused"),
        (bandwidths, "time,factor\n0,1\n9,1\n8,1\n", r"row 3: 8 s of 'all' comes after 9 s; sort by time"),
        (bandwidths, "time,factor,client\n0,1,5\n", r"'5' is refused; there are clients 0 to 4"),
        (bandwidths, "time,factor,client\n0,1,x\n", r"client 'x' is refused; give a number, server or all"),
        (bandwidths, "time\n0\n", r"the column 'factor' is missing"),
        (absences, "client,left,returned\n5,1,2\n", r"row 1: client 5 is refused; there are clients 0 to 4"),
        (absences, "client,left,returned\n1,3,2\n", r"an absence of client 1 from 3.0 to 2.0 s is refused"),
        (absences, "client,left,returned\n1,1,4\n1,2,5\n", r"two absences of client 1 overlap"),
        (absences, "client,left\n1,1\n", r"the column 'returned' is missing"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, read: Callable[[str], object], content: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=rf"t\.csv.*{message}"):
        read(str(tmp_path / "t.csv"))


def test_clients_are_named_by_numbers_and_ranges() -> None:
    np.testing.assert_array_equal(traces.clients_of("7, 2-4,3", 8), [2, 3, 4, 7])
    for text in ("8", "4-2", "a", "1;2", ""):
        with pytest.raises(InputError, match="is refused"):
            traces.clients_of(text, 8)


def test_traces_are_looked_at_before_any_job(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("speed\n0\n")
    parsed = study.parse({"study": "t", "simulation": {"devices": str(tmp_path / "d.csv")}})
    with pytest.raises(InputError, match=r"simulation\.devices: .*speed 0 in row 1"):
        study_file.check_simulations(parsed)
    parsed = study.parse({"study": "t", "simulation": {"clients": 4, "straggler_clients": "2-4"}})
    with pytest.raises(InputError, match=r"simulation\.straggler_clients: '2-4' is refused; there are clients 0 to 3"):
        study_file.check_simulations(parsed)


class TestPlatformFiles:
    pytestmark = needs_simgrid

    def test_its_links_are_simulated(self, tmp_path: Path) -> None:
        """Clients by name, numbers by value, so c2 first; the third one shares the host and the link of the first."""
        (tmp_path / "p.xml").write_text(PLATFORM)
        workload = Workload(np.array([1.0, 1.0, 50.0]), 0, 0, 97_000_000, 97_000_000)
        star = Star(np.inf, np.inf, np.ones(3), 0.0)
        engine = {"name": "simgrid", "platform": str(tmp_path / "p.xml")}
        result = simulate(workload, star, sync(), engine)
        np.testing.assert_allclose(result.arrivals, [2 + 1 + 1, 10 + 1 + 10, 2 + 50 + 1], rtol=1e-9)
        assert "on the platform p.xml" in result.engine

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("</zone>", "", "SimGrid refuses the platform: Parse error"),
            ('"10MBps"', '"-1Bps"', "the link 'slow' has -1 bytes/s, 0 s; mend it"),
            ('"server" speed', '"boss" speed', "SimGrid refuses the platform"),
            ('<route src="server" dst="c2"><link_ctn id="fast"/></route>', "", "has no route from 'server' to 'c2'"),
        ],
    )
    def test_what_simgrid_refuses_is_one_sentence(self, tmp_path: Path, old: str, new: str, message: str) -> None:
        (tmp_path / "p.xml").write_text(PLATFORM.replace(old, new))
        with pytest.raises(InputError, match=message):
            check_platform(str(tmp_path / "p.xml"), "server")

    def test_a_platform_needs_its_server(self, tmp_path: Path) -> None:
        (tmp_path / "p.xml").write_text(PLATFORM)
        with pytest.raises(InputError, match="has no host 'boss' to be the server; name one of its hosts"):
            check_platform(str(tmp_path / "p.xml"), "boss")
