"""Simulation engines: one file each."""
