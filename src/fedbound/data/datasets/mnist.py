"""MNIST and Fashion-MNIST from IDX files in a folder.

Sources: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 86(11), 1998; Xiao, Rasul
and Vollgraf, "Fashion-MNIST", 2017 (arXiv 1708.07747). Both come as the same four files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from fedbound.data import Dataset
from fedbound.data.idx import read_idx, read_shape
from fedbound.errors import InputError
from fedbound.registry import DATASETS, Options


class IdxOptions(Options):
    """Options of `mnist` and `fashion_mnist`."""

    folder: str = Field(description="folder with train-* and/or t10k-* IDX files, plain or .gz; all found are used")


@DATASETS.register("mnist", IdxOptions)
class Mnist:
    """MNIST from IDX files: x float32 [n, 1, 28, 28] in [0, 1], 10 classes."""

    name = "mnist"

    def __init__(self, options: IdxOptions):
        self.folder = Path(options.folder).expanduser()

    def count(self) -> int:
        return sum(read_shape(images)[0] for images, _ in self._files())

    def load(self) -> Dataset:
        parts = [(read_idx(images), read_idx(labels)) for images, labels in self._files()]
        for (images, labels), (path, _) in zip(parts, self._files(), strict=True):
            if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max(initial=0) > 9:
                raise InputError(
                    f"{str(path)!r} and its labels do not fit: images {images.shape}, labels {labels.shape} up to "
                    f"{labels.max(initial=0)}; put the original pair there"
                )
        if len({images.shape[1:] for images, _ in parts}) > 1:
            raise InputError(f"the train and t10k images in {str(self.folder)!r} differ in size; keep one of them")
        x = np.concatenate([images for images, _ in parts])[:, None].astype(np.float32)
        x /= 255
        return Dataset(x, np.concatenate([labels for _, labels in parts]).astype(np.int64), 10, self.name)

    def _files(self) -> list[tuple[Path, Path]]:
        """Pairs of image and label files, the training part first."""
        pairs = []
        for part in ("train", "t10k"):
            images, labels = self._find(f"{part}-images", 3), self._find(f"{part}-labels", 1)
            if (images is None) != (labels is None):
                raise InputError(
                    f"{str(self.folder)!r} holds only half of {images or labels}; put its partner beside it"
                )
            if images and labels:
                pairs.append((images, labels))
        if not pairs:
            raise InputError(
                f"data.dataset.folder: {str(self.folder)!r} holds no IDX files for {self.name!r}; put "
                "train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz (or the t10k pair) there"
            )
        return pairs

    def _find(self, stem: str, dimensions: int) -> Path | None:
        names = [f"{stem}{dash}idx{dimensions}-ubyte{end}" for dash in "-." for end in ("", ".gz")]
        return next((self.folder / name for name in names if (self.folder / name).is_file()), None)


@DATASETS.register("fashion_mnist", IdxOptions)
class FashionMnist(Mnist):
    """Fashion-MNIST from IDX files: x float32 [n, 1, 28, 28] in [0, 1], 10 classes."""

    name = "fashion_mnist"
