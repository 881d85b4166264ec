"""Messages beyond 2^31 bytes over real MPI. Takes 4.5 GB of memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
MPIEXEC = shutil.which("mpiexec", path=str(BIN)) or shutil.which("mpiexec")
SIZE = (1 << 31) + 17

ECHO = f"""
import zlib
from fedbound.federation.transports import mpi

comm = mpi.load()
if comm.rank == 0:
    transport = mpi.MpiTransport(comm, 1)
    message = bytearray({SIZE})
    message[:5], message[-5:] = b"first", b"final"
    before = zlib.crc32(message)
    transport.send(0, message)
    silo, back = transport.receive(60.0)
    transport.close()
    transport.farewell(None)
    print(silo, len(back), zlib.crc32(back) == before)
else:
    endpoint = mpi.MpiEndpoint(comm)
    silo, message = endpoint.receive()
    endpoint.send(silo, message)
    endpoint.close()
"""


@pytest.mark.smoke
@pytest.mark.mpi
@pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec: install the extra 'mpi'")
def test_a_message_beyond_two_gibibytes_goes_both_ways_whole():
    arguments = [str(MPIEXEC), "-n", "2", sys.executable, "-m", "mpi4py", "-c", ECHO]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", str(SIZE), "True"]
