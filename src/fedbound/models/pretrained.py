"""Weights from a local folder in the safetensors format: read with checks, nothing in it can run code.

Format (github.com/huggingface/safetensors, "Format"): 8 bytes little-endian length N, N bytes of JSON that give each
tensor's dtype, shape and [begin, end) in the bytes that follow, row-major, little-endian, without holes.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound.artifacts import write_atomically
from fedbound.errors import InputError

if TYPE_CHECKING:
    import torch

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "U8": "<u1"}
_LONGEST_HEADER = 100_000_000  # as in the reference implementation


def digest(folder: str) -> str:
    """SHA-256 over the folder's *.safetensors, by name and content.

    Raises:
        InputError: there are none, or one cannot be read.
    """
    sha = hashlib.sha256()
    for path in _files(folder):
        try:
            status = path.stat()
            content = _file_digest(path.resolve(), status.st_ino, status.st_size, status.st_mtime_ns)
        except OSError as error:
            raise InputError(f"model.base: cannot read {str(path)!r} ({error.strerror}); check the file") from None
        sha.update(f"{path.name} {content}\n".encode())
    return sha.hexdigest()


@cache
def _file_digest(path: Path, number: int, size: int, changed: int) -> str:
    """SHA-256 of a file of this inode, size and time; a process that builds several models reads it once for this."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_into(module: torch.nn.Module, folder: str, expected_digest: str = "") -> None:
    """Write the folder's tensors into the module's own of the same names; other tensors of the folder are refused.

    Raises:
        InputError: a file is damaged or has changed, or its names or shapes are not the module's.
    """
    import torch

    if expected_digest and digest(folder) != expected_digest:
        raise InputError(
            f"model.base: the weights in {folder!r} have changed since the study was planned; plan it again, or put "
            "the old ones back"
        )
    arrays: dict[str, np.ndarray] = {}
    for path in _files(folder):
        for name, array in read(path).items():
            if name in arrays:
                raise InputError(f"model.base: the tensor {name!r} is in two files of {folder!r}; keep one")
            arrays[name] = array
    own = module.state_dict()
    for name in sorted(own.keys() ^ arrays.keys()):
        where = "not in the folder" if name in own else "not in this model"
        raise InputError(
            f"model.base: the tensor {name!r} is {where} ({folder!r}); give the options that the weights were made with"
        )
    with torch.no_grad():
        for name, array in arrays.items():
            if array.shape != tuple(own[name].shape):
                raise InputError(
                    f"model.base: {name!r} has shape {array.shape} in {folder!r} and {tuple(own[name].shape)} in this "
                    "model; give the options that the weights were made with"
                )
            own[name].copy_(torch.from_numpy(array))


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of one safetensors file by name; bfloat16 as float32.

    Raises:
        InputError: it is missing, damaged, or holds a type that is not supported.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, _LONGEST_HEADER):
                raise ValueError(f"its header of {length} bytes is longer than the file")
            header = json.loads(file.read(length))
            content = file.read()
        return {name: _tensor(entry, content) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"model.base: cannot read {str(path)!r} as safetensors ({error}); write it again") from None


def _tensor(entry: Mapping[str, Any], content: bytes) -> np.ndarray:
    kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if kind not in _TYPES:
        raise ValueError(f"tensors of type {kind} are not supported")
    dtype = np.dtype(_TYPES[kind])
    sizes = (*shape, begin, end)
    if not all(isinstance(one, int) and one >= 0 for one in sizes) or end > len(content):
        raise ValueError(f"offsets {begin} to {end} of shape {shape} do not lie in the file")
    if end - begin != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{end - begin} bytes do not hold shape {shape} of {kind}")
    array = np.frombuffer(content[begin:end], dtype).reshape(shape)
    if kind == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(dtype.newbyteorder("="))


def write(module: torch.nn.Module, folder: str | Path) -> Path:
    """Store all tensors of `module` as `model.safetensors` in `folder`, for the option `base`; floats as float32."""
    header: dict[str, Any] = {}
    parts: list[bytes] = []
    position = 0
    for name, tensor in module.state_dict().items():
        array = tensor.detach().cpu().float().numpy() if tensor.is_floating_point() else tensor.cpu().numpy()
        kind = {"float32": "F32", "int64": "I64", "int32": "I32", "uint8": "U8"}[str(array.dtype)]
        parts.append(array.astype(_TYPES[kind]).tobytes())
        offsets = [position, position + len(parts[-1])]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format asks for aligned data
    path = Path(folder) / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, struct.pack("<Q", len(text)) + text + b"".join(parts))
    return path


def _files(folder: str) -> list[Path]:
    place = Path(folder).expanduser()
    found = sorted(place.glob("*.safetensors")) if place.is_dir() else []
    if not found:
        raise InputError(f"model.base: {folder!r} is no folder with *.safetensors files; put the weights there")
    return found
