"""Server to silo: the whole model, exact. What silos train on is then bit for bit what the server aggregated into."""

from __future__ import annotations

import numpy as np

from fedbound import codecs
from fedbound.codecs.wire import Message, Record
from fedbound.exchange.layout import Layout, State
from fedbound.exchange.uplink import decode_records


def encode_model(layout: Layout, state: State) -> list[Record]:
    """Records of the model as it is: float blocks uncompressed, integer tensors too."""
    codec = codecs.get("none")
    arrays = [state.vector[b.start : b.stop] for b in layout.blocks] + list(state.integers)
    return [
        Record(i, array.dtype, array.shape, codec.id, codec.version, 0.0, codec.encode(array, 0.0))
        for i, array in enumerate(arrays)
    ]


def decode_model(layout: Layout, message: Message) -> State:
    """The model that a message carries.

    Raises:
        MessageError: its records are not the layout's.
    """
    vector = np.empty(layout.size, np.float32)
    return State(vector, decode_records(layout, message, vector, {}))
