"""Audits of runs and of claims: what an attacker really learns.

`one_run.py` bounds epsilon from below by canaries in one run, `membership.py` attacks trained models, `compression.py`
tests the claim that a codec's error is privacy. Mechanisms themselves are audited in `fedbound.privacy.audit`.
"""
