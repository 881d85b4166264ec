"""What happens to an update on its way: delta, error feedback, bound, encoding; and back.

`layout.py` says how a model's tensors lie in one flat vector and in blocks, `bounds.py` turns a study's bound into an
absolute one per block, `uplink.py` holds the two ends of the way from silo to server, `downlink.py` of the way back.
"""
