"""Rows and columns of a matrix sorted by scale, so that each group of its entries has a table of its own: ours.

The entries of a weight matrix's update are independent draws, but not of one law: a column of the first layer that sees
a constant pixel has no update at all, a row whose unit is idle hardly one. So the scale of each row and of each column,
the root mean square of its quanta in octaves of the whole, is sent as side information, and an entry's context is the
sum of its row's and its column's octave (a rank-one model of the logarithm of the scale). Neighbouring contexts whose
own table would cost more than it saves are merged. Rows and columns without a quantum other than 0 take no bits at all.

All of it travels in the message: neither end has to hold anything of earlier rounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedbound.codecs.entropy import rans, streams

FLOOR, CEILING = -12, 6  # octaves of a row's or column's scale against the whole
CLASSES = CEILING - FLOOR + 2  # class 0: no quantum other than 0
CONTEXTS = 2 * CLASSES - 1
_FAR = np.int32((1 << 15) - 1)
_STREAM_BITS = 72  # what a group's table takes beside its entries


@dataclass(frozen=True)
class Groups:
    """Which entries are coded together.

    Attributes:
        rows: uint8 [R], class of each row.
        columns: uint8 [C], class of each column.
        sorted: int32, the entries sorted by context, row by row in each; what is in a class 0 is left out.
        starts: first context of each group, ascending; each group reaches to the next one's start.
        sizes: int64 [G], entries of each group.
        counts: int32 [G, number of the finest tokens], tokens of each group.
        tokens: uint16, the finest tokens of `sorted`.
        cost: bits of all groups, their tables included, about.
    """

    rows: np.ndarray
    columns: np.ndarray
    sorted: np.ndarray
    starts: list[int]
    sizes: np.ndarray
    counts: np.ndarray
    tokens: np.ndarray
    cost: float


def groups_of(q: np.ndarray, shape: tuple[int, int], tokens: int) -> Groups | None:
    """Sort the entries of a matrix (int32, row by row) into groups.

    None where all rows are of one or two neighbouring octaves, and all columns too: what there is to gain then is less
    than a hundredth, and looking for it takes as long as coding.

    Args:
        tokens: the finest tokens of q are below this number.
    """
    rows, columns = np.zeros(shape[0], np.int64), np.zeros(shape[1], np.int64)
    energies(q, rows, columns)
    if not rows.any():
        return None
    of_rows, of_columns = _classes(rows), _classes(columns)
    if all(of.min() > 0 and int(of.max()) - int(of.min()) <= 1 for of in (of_rows, of_columns)):
        return None
    found = context_sizes(of_rows, of_columns)
    total = int(found.sum())
    ordered, mine = streams.buffer("sorted", total, np.int32), streams.buffer("sorted tokens", total, np.uint16)
    gather(q, *_order(of_rows, of_columns), _starts(found), ordered)
    present = np.flatnonzero(found)
    ends = np.cumsum(found)
    counts = np.zeros((present.size, 4, tokens), np.int32)
    for lanes, context in zip(counts, present, strict=True):
        part = slice(int(ends[context] - found[context]), int(ends[context]))
        rans.tokenise(ordered[part], 0, mine[part], lanes)
    merged = counts.sum(1, dtype=np.int32)
    firsts = merge(merged)
    raw = merged[firsts].sum(0) @ rans.tokens_of(rans.FINEST).raw[:tokens]
    cost = float(raw + sum(_cost(one) for one in merged[firsts]))
    starts = [int(present[first]) for first in firsts]
    sizes = np.add.reduceat(found, starts)
    return Groups(of_rows, of_columns, ordered, starts, sizes, merged[firsts], mine, cost)


def ungroup(grouped: np.ndarray, rows: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """Put values sorted by context back into the matrix `out`, and 0 where a class is 0."""
    scatter(grouped, *_order(rows, columns), _starts(context_sizes(rows, columns)), out)


def _order(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes of the rows; columns sorted by class; where in these each class begins, and the last one ends."""
    order = np.argsort(columns, kind="stable").astype(np.int32)
    return rows, order, np.searchsorted(columns[order], np.arange(CLASSES + 1))


def context_sizes(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """int64 [CONTEXTS], entries of each context; what is in a class 0 belongs to none."""
    pairs = np.convolve(np.bincount(rows, minlength=CLASSES)[1:], np.bincount(columns, minlength=CLASSES)[1:])
    return np.concatenate((np.zeros(2, np.int64), pairs))


def group_sizes(found: np.ndarray, starts: list[int]) -> np.ndarray:
    """int64 [G], entries of each group.

    Raises:
        ValueError: a context that occurs belongs to no group.
    """
    if found[: starts[0]].any() or starts[-1] >= CONTEXTS:
        raise ValueError("its scales are impossible")
    return np.add.reduceat(found, starts)


def _starts(sizes: np.ndarray) -> np.ndarray:
    return np.cumsum(sizes) - sizes


def _classes(squares: np.ndarray) -> np.ndarray:
    """Class of each row, or each column, from the sums of its squares."""
    present = squares > 0
    octaves = np.rint(0.5 * np.log2(np.where(present, squares, 1.0) / squares.mean()))
    return np.where(present, np.clip(octaves, FLOOR, CEILING) - FLOOR + 1, 0).astype(np.uint8)


@rans.compiled
def _cost(counts: np.ndarray) -> float:
    """Bits of a group: its entropy, and its table at some ten bits per token that occurs."""
    total, inner, present = 0.0, 0.0, 0
    for count in counts:
        if count:
            total += count
            inner += count * np.log2(np.float64(count))
            present += 1
    return total * np.log2(total) - inner + 10.0 * present + _STREAM_BITS if present else 0.0


@rans.compiled
def _merge(counts: np.ndarray, joint: np.ndarray, following: np.ndarray) -> None:
    """Add neighbouring rows of `counts` into the first of them as long as that saves bits, the greatest saving first.

    Args:
        counts: int32 [contexts, tokens], changed.
        joint: float64 [contexts], scratch.
        following: int64 [contexts], written: the row after each row that is left; -1 for one that is in another.
    """
    size = counts.shape[0]
    own = np.empty(size)
    for row in range(size):
        following[row] = row + 1
        own[row] = _cost(counts[row])
        joint[row] = _cost(counts[row] + counts[row + 1]) if row + 1 < size else np.inf
    while True:
        best, most, row = -1, 0.0, 0
        while following[row] < size:
            saved = own[row] + own[following[row]] - joint[row]
            if saved > most:
                best, most = row, saved
            row = following[row]
        if best < 0:
            return
        gone = following[best]
        counts[best] += counts[gone]
        own[best] = joint[best]
        following[best], following[gone] = following[gone], -1
        if following[best] < size:
            joint[best] = _cost(counts[best] + counts[following[best]])
        row = 0
        while row != best:
            if following[row] == best:
                joint[row] = _cost(counts[row] + counts[best])
            row = following[row]


def merge(counts: np.ndarray) -> np.ndarray:
    """Merge rows of `counts` in place, into the first of each group; the indices of these."""
    following = np.empty(len(counts), np.int64)
    _merge(counts, np.empty(len(counts)), following)
    return np.flatnonzero(following >= 0)


@rans.compiled
def energies(q: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
    """Add the square of each entry, or of `_FAR` where it is farther, to its row and its column (int64)."""
    width = columns.size
    for i in range(rows.size):
        mine = q[i * width : (i + 1) * width]
        total = np.int64(0)
        for j in range(width):
            near = np.int64(min(max(mine[j], -_FAR), _FAR))
            total += near * near
        if total:
            rows[i] = total
            for j in range(width):
                near = np.int64(min(max(mine[j], -_FAR), _FAR))
                columns[j] += near * near


@rans.compiled
def gather(
    q: np.ndarray, rows: np.ndarray, order: np.ndarray, edges: np.ndarray, cursors: np.ndarray, out: np.ndarray
) -> None:
    """Write the entries context by context; `cursors` (int64) says where each begins, and is moved to its end."""
    width = order.size
    for i in range(rows.size):
        if rows[i]:
            mine = q[i * width : (i + 1) * width]
            for k in range(1, edges.size - 1):
                first, last = edges[k], edges[k + 1]
                if first < last:
                    context = np.int64(rows[i]) + k
                    at = cursors[context]
                    cursors[context] = at + last - first
                    places, target = order[first:last], out[at : at + last - first]
                    for j in range(places.size):
                        target[j] = mine[places[j]]


@rans.compiled
def scatter(
    grouped: np.ndarray, rows: np.ndarray, order: np.ndarray, edges: np.ndarray, cursors: np.ndarray, out: np.ndarray
) -> None:
    """The inverse of `gather`; what is in no context becomes 0."""
    width = order.size
    for i in range(rows.size):
        mine = out[i * width : (i + 1) * width]
        if not rows[i]:
            mine[:] = 0
            continue
        for j in range(edges[1]):
            mine[order[j]] = 0
        for k in range(1, edges.size - 1):
            first, last = edges[k], edges[k + 1]
            if first < last:
                context = np.int64(rows[i]) + k
                at = cursors[context]
                cursors[context] = at + last - first
                places, source = order[first:last], grouped[at : at + last - first]
                for j in range(places.size):
                    mine[places[j]] = source[j]
