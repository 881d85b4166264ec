"""Differential privacy of aggregates: mechanisms, the accounting of their epsilon, and the stage that compares them.

`mechanisms/` holds one file per mechanism, `transforms.py` the steps that they share (clip, rotate, round, wrap),
`accounting.py` every epsilon (design law 4), `stage.py` the mean-estimation stage. Noise here is drawn from the
generator that the caller gives. The stage gives a seeded one, so that studies repeat: not for production (law 8).
"""
