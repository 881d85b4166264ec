"""Handwritten digits that come with scikit-learn: 1797 images of 8 x 8 pixels, 10 classes, no download.

Source: UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998), its test part.
"""

from __future__ import annotations

import numpy as np

from fedbound.data import Dataset
from fedbound.errors import InputError
from fedbound.registry import DATASETS, Options


@DATASETS.register("digits")
class Digits:
    """scikit-learn's digits: x float32 [1797, 1, 8, 8] in [0, 1], 10 classes."""

    def __init__(self, options: Options):
        pass

    def count(self) -> int:
        return 1797

    def load(self) -> Dataset:
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise InputError(
                "data.dataset: 'digits' needs scikit-learn, which is not installed; install fedbound[train]"
            ) from None
        digits = load_digits()
        x = (digits.images / 16.0).astype(np.float32)[:, None]
        return Dataset(x, digits.target.astype(np.int64), 10, "digits")
