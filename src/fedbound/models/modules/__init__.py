"""Torch modules that model families are built of. They import torch, so families import them inside `build`."""
