from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbound.exchange import packing


@given(st.integers(1, 32), st.lists(st.integers(-(2**40), 2**40), max_size=70))
def test_unpacking_gives_the_values_modulo_2_to_the_bits(bits, values):
    array = np.array(values, np.int64)
    payload = packing.pack(array, bits)
    assert len(payload) == packing.packed_bytes(len(values), bits) == (len(values) * bits + 7) // 8
    assert packing.unpack(payload, len(values), bits).tolist() == [value % 2**bits for value in values]


@pytest.mark.parametrize("bits", [1, 5, 18, 32])
def test_many_values_go_in_blocks(bits):
    values = np.random.default_rng(bits).integers(0, 2**bits, packing._BLOCK + 13)
    np.testing.assert_array_equal(packing.unpack(packing.pack(values, bits), len(values), bits), values)


def test_what_is_no_packing_is_refused():
    payload = packing.pack(np.arange(5), 3)
    with pytest.raises(ValueError, match="do not hold 6 numbers"):
        packing.unpack(payload, 6, 3)
    with pytest.raises(ValueError, match="bits after the last"):
        packing.unpack(payload[:-1] + bytes([payload[-1] | 1]), 5, 3)
