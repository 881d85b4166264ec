"""The errors a user meets: one sentence that names the key or file, the value and the mend."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class FedboundError(Exception):
    """Base of all errors that fedbound raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(FedboundError):
    """The user's input (study, option, file) is wrong; nothing was run. Exit code 2."""

    exit_code = 2


class ArtifactError(InputError):
    """An HDF5 artifact is missing, truncated, altered, foreign, or of a newer schema than this version reads."""


class MessageError(FedboundError):
    """A message on the wire is malformed, oversized, truncated, stale or non-finite; it names the sender."""


class FederationError(FedboundError):
    """A federation could not go on: a silo failed, stalled or broke the protocol under the policy `abort`."""


class LeaseError(FedboundError):
    """Another job owns this scenario's checkpoints, or took them over from this one."""


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 80, 80, 80


def shown(value: Any) -> str:
    """A user's value as it stands in a message: its repr, cut where it is long or deep."""
    return _SHORT.repr(value)


def nearest(word: str, candidates: Iterable[str]) -> str:
    """A hint like `; did you mean 'sz3'?`, or the list of what is possible when nothing is near."""
    options = sorted(candidates)
    match = difflib.get_close_matches(str(word), options, n=1, cutoff=0.6)
    if match:
        return f"did you mean {match[0]!r}?"
    return f"possible: {', '.join(options)}" if options else "nothing is possible here"
