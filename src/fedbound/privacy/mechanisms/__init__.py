"""Differentially private mechanisms: one file per paper."""
