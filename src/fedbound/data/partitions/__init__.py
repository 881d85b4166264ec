"""Partitions of a data set into silos: one file each."""
