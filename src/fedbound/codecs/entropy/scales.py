"""Rows and columns of a matrix sorted by scale, so that each group of its entries has a table of its own: ours.

The entries of a weight matrix's update are independent draws, but not of one law: a column of the first layer that sees
a constant pixel has no update at all, a row whose unit is idle hardly one. So the scale of each row and of each column,
the root mean square of its quanta in octaves of the whole, is sent as side information, and an entry's context is the
sum of its row's and its column's octave (a rank-one model of the logarithm of the scale). Neighbouring contexts whose
own table would cost more than it saves are merged. Rows and columns without a quantum other than 0 take no bits at all.

All of it travels in the message: neither end has to hold anything of earlier rounds.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from fedbound.codecs.entropy import rans

FLOOR, CEILING = -12, 6  # octaves of a row's or column's scale against the whole
CLASSES = CEILING - FLOOR + 2  # class 0: no quantum other than 0
CONTEXTS = 2 * CLASSES - 1
_STREAM_BITS = 24  # what a group's table takes beside its entries


@dataclass(frozen=True)
class Groups:
    """Which entries are coded together.

    Attributes:
        rows: uint8 [R], class of each row.
        columns: uint8 [C], class of each column.
        starts: first context of each group, ascending; each group reaches to the next one's start.
        counts: int64 [G, number of the finest tokens], tokens of each group.
    """

    rows: np.ndarray
    columns: np.ndarray
    starts: list[int]
    counts: np.ndarray


def groups_of(tokens: np.ndarray, shape: tuple[int, int]) -> Groups | None:
    """Sort the entries of a matrix of finest tokens (row by row, not all 0) into groups.

    None where all rows are of one or two neighbouring octaves, and all columns too: what there is to gain then is less
    than a hundredth, and looking for it takes as long as coding.
    """
    magnitude = np.abs(rans.tokens_of(rans.FINEST).base).astype(np.float64)
    rows, columns = np.zeros(shape[0]), np.zeros(shape[1])
    energies(tokens, magnitude**2, rows, columns)
    of_rows, of_columns = _classes(rows), _classes(columns)
    if all(of.min() > 0 and int(of.max()) - int(of.min()) <= 1 for of in (of_rows, of_columns)):
        return None
    counts = np.zeros((CONTEXTS, int(tokens.max()) + 1), np.int64)
    context_counts(tokens, of_rows, of_columns, counts)
    starts, merged = _merged(counts)
    wide = np.zeros((len(starts), magnitude.size), np.int64)
    wide[:, : counts.shape[1]] = merged
    return Groups(of_rows, of_columns, starts, wide)


def _classes(squares: np.ndarray) -> np.ndarray:
    """Class of each row, or each column, from the sums of its squares."""
    present = squares > 0
    octaves = np.rint(0.5 * np.log2(np.where(present, squares, 1.0) / squares.mean()))
    return np.where(present, np.clip(octaves, FLOOR, CEILING) - FLOOR + 1, 0).astype(np.uint8)


def _merged(counts: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Neighbouring contexts merged as long as that saves bits, the greatest saving first."""
    present = np.flatnonzero(counts.sum(1))
    starts, parts = [int(k) for k in present], [counts[k] for k in present]
    costs = [_cost(part) for part in parts]
    joint = [_cost(a + b) for a, b in itertools.pairwise(parts)]
    while joint:
        saved = [a + b - both for (a, b), both in zip(itertools.pairwise(costs), joint, strict=True)]
        best = int(np.argmax(saved))
        if saved[best] <= 0:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
        costs[best : best + 2] = [joint.pop(best)]
        del starts[best + 1]
        for neighbour in (best - 1, best):
            if 0 <= neighbour < len(joint):
                joint[neighbour] = _cost(parts[neighbour] + parts[neighbour + 1])
    return starts, np.array(parts)


def _cost(counts: np.ndarray) -> float:
    """Bits of a group: its entropy, and its table at some ten bits per token that occurs."""
    found = counts[counts > 0]
    total = int(found.sum())
    return float(found @ (np.log2(total) - np.log2(found))) + 10.0 * found.size + _STREAM_BITS


def group_of_context(starts: list[int]) -> np.ndarray:
    """int64 [CONTEXTS], the group of each context; -1 where there is none."""
    return np.searchsorted(np.array(starts), np.arange(CONTEXTS), side="right") - 1


def sizes(rows: np.ndarray, columns: np.ndarray, of_context: np.ndarray, groups: int) -> np.ndarray:
    """int64 [groups], entries of each; what is in a class 0 belongs to none.

    Raises:
        ValueError: a context that occurs belongs to no group.
    """
    pairs = np.convolve(np.bincount(rows, minlength=CLASSES)[1:], np.bincount(columns, minlength=CLASSES)[1:])
    if pairs[of_context[2:] < 0].any():
        raise ValueError("its scales are impossible")
    found = np.zeros(groups, np.int64)
    np.add.at(found, of_context[2:], pairs)
    return found


@rans.compiled
def energies(tokens: np.ndarray, square: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
    """Add the square of each token's magnitude to its row and its column."""
    at = 0
    for i in range(rows.size):
        mine = 0.0
        for j in range(columns.size):
            t = tokens[at]
            at += 1
            if t:
                mine += square[t]
                columns[j] += square[t]
        rows[i] += mine


@rans.compiled
def context_counts(tokens: np.ndarray, rows: np.ndarray, columns: np.ndarray, counts: np.ndarray) -> None:
    """Count the tokens of each context, which is the sum of its row's and its column's class."""
    width = columns.size
    for i in range(rows.size):
        if rows[i]:
            for j in range(width):
                if columns[j]:
                    counts[np.int64(rows[i]) + columns[j], tokens[i * width + j]] += 1


@rans.compiled
def gather(
    tokens: np.ndarray,
    x: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    of_context: np.ndarray,
    cursors: np.ndarray,
    out_tokens: np.ndarray,
    out_x: np.ndarray,
) -> None:
    """Write the entries group by group; `cursors` (int64) says where each group begins, and is moved to its end."""
    width = columns.size
    for i in range(rows.size):
        if rows[i]:
            for j in range(width):
                if columns[j]:
                    group = of_context[np.int64(rows[i]) + columns[j]]
                    at = cursors[group]
                    cursors[group] = at + 1
                    out_tokens[at] = tokens[i * width + j]
                    out_x[at] = x[i * width + j]


@rans.compiled
def scatter(
    grouped: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    of_context: np.ndarray,
    cursors: np.ndarray,
    out: np.ndarray,
) -> None:
    """The inverse of `gather`, for values; what is in no group becomes 0."""
    width = columns.size
    for i in range(rows.size):
        for j in range(width):
            if rows[i] and columns[j]:
                group = of_context[np.int64(rows[i]) + columns[j]]
                at = cursors[group]
                cursors[group] = at + 1
                out[i * width + j] = grouped[at]
            else:
                out[i * width + j] = 0
