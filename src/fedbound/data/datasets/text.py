"""Characters of a text for language models: fixed windows, each position predicts the next character.

The silos of tests are the speakers of plays, as in McMahan et al., AISTATS 2017 (arXiv 1602.05629), section 3, and in
the Shakespeare data of LEAF (Caldas et al. 2018, arXiv 1812.01097); windows are this package's own: cut one after the
other, and every position counts, not only the last.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from pydantic import Field

from fedbound.data import Dataset
from fedbound.data.own import files
from fedbound.errors import InputError
from fedbound.registry import DATASETS, Options

_SPEAKER = re.compile(r"(?:\A|\n\n+)([^\n:]{1,64}):(?=\n)")


class TextOptions(Options):
    """Options of `text`."""

    path: str = Field(description="a UTF-8 text file, or a folder with one .txt file per silo")
    context: int = Field(default=64, ge=1, description="characters per sample, each of which predicts the next one")
    speakers: bool = Field(
        default=True,
        description="in a single file, lines `NAME:` after an empty line say whose text follows; false: one text",
    )
    alphabet: str = Field(
        default="",
        description="the characters, where a model made on another text needs the same; empty: the text's own",
    )


@DATASETS.register("text", TextOptions)
class Text:
    """Next characters of a text: x tokens [n, context], y the same shifted by one; classes are the characters.

    Tokens are uint8 (int32 beyond 256 characters); their number is the character's place in the sorted set of all
    characters of all files, or of `alphabet`. Each owner's utterances are joined by line ends, without the speaker
    lines, and cut into windows that share no predicted character; what is left at an owner's end, less than a window,
    is dropped.
    """

    tokens = True

    def __init__(self, options: TextOptions):
        self.options = options

    def count(self) -> None:
        files(self.options.path, (".txt",))

    def load(self) -> Dataset:
        paths, per_silo = files(self.options.path, (".txt",))
        texts = [_read(path) for path in paths]
        streams = texts
        if not per_silo and self.options.speakers:
            streams = list(speeches(texts[0]).values()) or texts
        codes = self._alphabet("".join(texts))
        x, y, owner = self._windows(streams, codes)
        if not len(x):
            raise InputError(
                f"data.dataset.context: no text at {self.options.path!r} has the {self.options.context + 1} characters "
                "of one sample; use a smaller context or a longer text"
            )
        return Dataset(x, y, len(codes), "text", owner if len(streams) > 1 or per_silo else None)

    def _alphabet(self, text: str) -> np.ndarray:
        """Code points of the characters, sorted; raises InputError where the alphabet lacks one."""
        used = np.unique(_codepoints(text))
        codes = np.unique(_codepoints(self.options.alphabet)) if self.options.alphabet else used
        missing = np.setdiff1d(used, codes)
        if missing.size:
            raise InputError(
                f"data.dataset.alphabet: the text holds {chr(missing[0])!r}, which is not in it; add it, or leave the "
                "alphabet empty"
            )
        return codes

    def _windows(self, streams: list[str], codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        context = self.options.context
        dtype = np.uint8 if len(codes) <= 256 else np.int32
        x, y, owner = [], [], []
        for number, stream in enumerate(streams):
            tokens = np.searchsorted(codes, _codepoints(stream)).astype(dtype)
            count = (len(tokens) - 1) // context if len(tokens) else 0
            x.append(tokens[: count * context].reshape(count, context))
            y.append(tokens[1 : count * context + 1].reshape(count, context))
            owner.append(np.full(count, number, np.int64))
        return np.concatenate(x), np.concatenate(y), np.concatenate(owner)


def speeches(text: str) -> dict[str, str]:
    """Each speaker's utterances, joined by line ends, in order of first appearance; text before the first is dropped.

    A speaker is a line `NAME:` of at most 64 characters before the colon, after an empty line or at the start.
    """
    _, *found = _SPEAKER.split(text)
    spoken: dict[str, list[str]] = {}
    for name, words in zip(found[::2], found[1::2], strict=True):
        spoken.setdefault(name, []).append(words.strip("\n") + "\n")
    return {name: "".join(parts) for name, parts in spoken.items()}


def _codepoints(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {str(path)!r} as UTF-8 text ({error}); save it as UTF-8") from None
