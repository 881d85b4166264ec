"""Files that are whole or not there: sealed, and written beside their place, synced and renamed (design law 7)."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path

from fedbound.errors import ArtifactError

_MAGIC = "fedbound artifact\n"
SEAL_SIZE = 512  # bytes; the smallest user block that HDF5 knows


def seal_of(size: int, sha256: str) -> bytes:
    """The HDF5 user block: text that names the file, and size and digest of all bytes after it."""
    text = (
        f"{_MAGIC}size {size}\nsha256 {sha256}\n"
        f"HDF5 from byte {SEAL_SIZE} on: any HDF5 tool reads this file; fedbound.load(path) also checks it.\n"
    )
    return text.encode().ljust(SEAL_SIZE, b"\n")


def check_seal(path: Path) -> None:
    """Refuse damage before libhdf5 sees it: one flipped bit in a string heap makes HDF5 2.0 loop for ever."""
    with open(path, "rb") as file:
        seal = file.read(SEAL_SIZE)
        if not seal.startswith(_MAGIC.encode()):
            raise ArtifactError(
                f"{path} is no fedbound artifact, or its beginning is damaged; give a file that a fedbound stage wrote"
            )
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if seal != seal_of(max(0, file.tell() - SEAL_SIZE), digest):
            raise ArtifactError(f"{path} is truncated or was altered after it was written; run its stage again")


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Make `path` hold `content`, whole and on disk; until then its old content stays. Folders are made as needed.

    Raises:
        ArtifactError: the folder cannot be written, or the disk is full; nothing is left behind.
    """
    target = Path(path)
    # hidden, and ending otherwise than any result: what a killed writer leaves is never taken for one
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _fsync_folder(target.parent)
    except OSError as error:
        raise ArtifactError(f"cannot write {target}: {error.strerror}; check space and permissions there") from error


def _fsync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
