"""fedbound: cross-silo federated learning studies with error-bounded compression, privacy and simulation.

Nothing heavy is imported here: `import fedbound` costs milliseconds, and torch, mpi4py or simgrid are loaded only
by the stage that needs them.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedbound.artifacts import Artifact

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(path: str | PathLike[str]) -> Artifact:
    """Read any fedbound artifact; `load(path)["rounds"]` is a pandas DataFrame.

    Raises:
        fedbound.errors.ArtifactError: the file is missing, truncated, altered, foreign or of a newer schema.
    """
    from fedbound.artifacts import read

    return read(path)
