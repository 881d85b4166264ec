"""Kernels of the compiled fluid engine: the arithmetic of `fluid.SharedLink`, step by step, over flat arrays.

A million Python objects are scattered over a gigabyte, so that most steps of the pure Python engine wait for memory.
Here a flow is one row of eight numbers, one cache line; and a heap is two arrays, its keys and what they stand for,
with four children a node, which lie in one cache line as well. Entries are deleted lazily, as there.

Flow f of the star of n clients is client f of direction 0, or client f - n of direction 1. All flows of a direction
share a row of `LINK` numbers and four heaps.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from fedbound.simulation.fluid import CAP_FROM, CLOCK_ROUNDING, ROUNDING, SHARE_FROM, TOGETHER

# Columns of a flow's row. END is a virtual time for a shared flow and a real one for a capped flow; VERSION tells
# outdated heap entries, and AWAITED outdated openings (0: none is awaited).
CAP, WEIGHT, RATIO, END, SIZE, SIDE, VERSION, AWAITED = range(8)
FLOW = 8
IDLE, SHARED, CAPPED = 0.0, 1.0, 2.0
# Columns of a link's row; totals are Neumaier's sums, in two parts each.
CAPACITY, TIME, VIRTUAL, LEVEL, WEIGHTS, WEIGHTS_LOST, RATES, RATES_LOST, NEXT, N_SHARED, N_CAPPED, CHANGED = range(12)
LINK = 12
# Heaps of a link: ends of shared and of capped flows, shared flows by ratio, capped ones by -ratio. Then: openings.
SHARED_ENDS, CAPPED_ENDS, TO_CAP, TO_SHARE = range(4)
HEAPS = 4
OPENINGS = 2 * HEAPS
BATCH = 1e-12  # seconds: what is due closer than this is handled together, and the links settle once
SPARE = 1024  # a heap is cleared of outdated entries when they outnumber the flows by so many
_BITS = 32  # of a tag, for the version
_ARITY = 4


def compiled(function: Any) -> Any:
    """Compile without Python's lock; on disk where there is a folder to write to, so that later processes load it."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither beside this file nor in the user's cache folder
        return numba.njit(nogil=True)(function)


# ---- heaps: least (key, tag) first --------------------------------------------------------------------------------


@compiled
def _rise(keys: Any, tags: Any, at: int, key: float, tag: int) -> None:
    while at > 0:
        above = (at - 1) // _ARITY
        if keys[above] < key or (keys[above] == key and tags[above] <= tag):
            break
        keys[at], tags[at] = keys[above], tags[above]
        at = above
    keys[at], tags[at] = key, tag


@compiled
def _sink(keys: Any, tags: Any, size: int, at: int, key: float, tag: int) -> None:
    while True:
        first = _ARITY * at + 1
        if first >= size:
            break
        least = first
        for child in range(first + 1, min(first + _ARITY, size)):
            if keys[child] < keys[least] or (keys[child] == keys[least] and tags[child] < tags[least]):
                least = child
        if key < keys[least] or (key == keys[least] and tag <= tags[least]):
            break
        keys[at], tags[at] = keys[least], tags[least]
        at = least
    keys[at], tags[at] = key, tag


@compiled
def _pop(keys: Any, tags: Any, sizes: Any, heap: int) -> None:
    size = sizes[heap] - 1
    sizes[heap] = size
    if size > 0:
        _sink(keys[heap], tags[heap], size, 0, keys[heap, size], tags[heap, size])


@compiled
def _push(flows: Any, links: Any, keys: Any, tags: Any, sizes: Any, heap: int, key: float, flow: int) -> None:
    """Add a flow's entry, and drop the outdated ones where they outnumber the link's open flows."""
    link = heap // HEAPS
    if sizes[heap] >= SPARE + 2 * int(links[link, N_SHARED] + links[link, N_CAPPED]):
        _clear(flows, keys[heap], tags[heap], sizes, heap)
    size = sizes[heap]
    sizes[heap] = size + 1
    _rise(keys[heap], tags[heap], size, key, (flow << _BITS) | int(flows[flow, VERSION]))


@compiled
def _clear(flows: Any, keys: Any, tags: Any, sizes: Any, heap: int) -> None:
    kept = 0
    for i in range(sizes[heap]):
        if _valid(flows, tags[i]):
            keys[kept], tags[kept] = keys[i], tags[i]
            kept += 1
    sizes[heap] = kept
    for at in range((kept - 2) // _ARITY, -1, -1):
        _sink(keys, tags, kept, at, keys[at], tags[at])


@compiled
def _valid(flows: Any, tag: int) -> bool:
    return int(flows[tag >> _BITS, VERSION]) == tag & ((1 << _BITS) - 1)


@compiled
def _top(flows: Any, keys: Any, tags: Any, sizes: Any, heap: int) -> int:
    """The flow of the least valid entry, or -1; outdated ones before it are dropped."""
    while sizes[heap]:
        if _valid(flows, tags[heap, 0]):
            return int(tags[heap, 0] >> _BITS)
        _pop(keys, tags, sizes, heap)
    return -1


# ---- a link: as in fluid.SharedLink, method by method ---------------------------------------------------------------


@compiled
def _add(link: Any, total: int, term: float) -> None:
    before = link[total]
    after = before + term
    arrived = after - before
    link[total + 1] += (before - (after - arrived)) + (term - arrived)
    link[total] = after


@compiled
def _advance(link: Any, time: float) -> None:
    if link[N_SHARED] > 0:
        link[VIRTUAL] += link[LEVEL] * (time - link[TIME])
    link[TIME] = time


@compiled
def _share(flows: Any, links: Any, keys: Any, tags: Any, sizes: Any, d: int, flow: int, size: float) -> None:
    link, row = links[d], flows[flow]
    row[END] = link[VIRTUAL] + size / row[WEIGHT]
    row[SIDE] = SHARED
    link[N_SHARED] += 1
    _add(link, WEIGHTS, row[WEIGHT])
    _push(flows, links, keys, tags, sizes, HEAPS * d + SHARED_ENDS, row[END], flow)
    _push(flows, links, keys, tags, sizes, HEAPS * d + TO_CAP, row[RATIO], flow)


@compiled
def _cap(flows: Any, links: Any, keys: Any, tags: Any, sizes: Any, d: int, flow: int, size: float) -> None:
    link, row = links[d], flows[flow]
    row[END] = link[TIME] + size / row[CAP]
    row[SIDE] = CAPPED
    link[N_CAPPED] += 1
    _add(link, RATES, row[CAP])
    _push(flows, links, keys, tags, sizes, HEAPS * d + CAPPED_ENDS, row[END], flow)
    _push(flows, links, keys, tags, sizes, HEAPS * d + TO_SHARE, -row[RATIO], flow)


@compiled
def _remove(flows: Any, links: Any, d: int, flow: int) -> float:
    """Take a flow out of its side; returns the bytes it has yet to move."""
    link, row = links[d], flows[flow]
    row[VERSION] += 1
    side, row[SIDE] = row[SIDE], IDLE
    if side == SHARED:
        left = (row[END] - link[VIRTUAL]) * row[WEIGHT]
        link[N_SHARED] -= 1
        _add(link, WEIGHTS, -row[WEIGHT])
        if link[N_SHARED] == 0:
            link[WEIGHTS], link[WEIGHTS_LOST], link[VIRTUAL] = 0.0, 0.0, 0.0
    else:
        left = (row[END] - link[TIME]) * row[CAP]
        link[N_CAPPED] -= 1
        _add(link, RATES, -row[CAP])
        if link[N_CAPPED] == 0:
            link[RATES], link[RATES_LOST] = 0.0, 0.0
    return max(left, 0.0)


@compiled
def _open(flows: Any, links: Any, keys: Any, tags: Any, sizes: Any, d: int, flow: int, time: float) -> None:
    _advance(links[d], time)
    if flows[flow, RATIO] <= links[d, LEVEL]:
        _cap(flows, links, keys, tags, sizes, d, flow, flows[flow, SIZE])
    else:
        _share(flows, links, keys, tags, sizes, d, flow, flows[flow, SIZE])
    links[d, CHANGED] = 1.0


@compiled
def _close(flows: Any, links: Any, keys: Any, tags: Any, sizes: Any, d: int, time: float, ended: Any, n: int) -> int:
    """Take out the flows that end at `time` and add them to `ended`, which holds n; returns how many it holds then."""
    link = links[d]
    _advance(link, time)
    slack = max(TOGETHER, CLOCK_ROUNDING * time)
    virtual_slack = slack * link[LEVEL] if link[N_SHARED] > 0 else 0.0
    shared, capped = HEAPS * d + SHARED_ENDS, HEAPS * d + CAPPED_ENDS
    while True:
        flow = _top(flows, keys, tags, sizes, shared)
        if flow < 0 or keys[shared, 0] > link[VIRTUAL] + max(virtual_slack, ROUNDING * abs(keys[shared, 0])):
            break
        _remove(flows, links, d, flow)
        ended[n] = flow
        n += 1
    while True:
        flow = _top(flows, keys, tags, sizes, capped)
        if flow < 0 or keys[capped, 0] > time + slack:
            break
        _remove(flows, links, d, flow)
        ended[n] = flow
        n += 1
    link[CHANGED] = 1.0
    return n


@compiled
def _level(link: Any) -> float:
    """The water level for the flows now open: see `fluid.SharedLink._water_level`."""
    rates = link[RATES] + link[RATES_LOST]
    if link[N_SHARED] > 0:
        return max((link[CAPACITY] - rates) / (link[WEIGHTS] + link[WEIGHTS_LOST]), 0.0)
    return np.inf if rates <= link[CAPACITY] * CAP_FROM else 0.0


@compiled
def _settle(flows: Any, links: Any, keys: Any, tags: Any, sizes: Any, d: int) -> None:
    link, to_cap, to_share = links[d], HEAPS * d + TO_CAP, HEAPS * d + TO_SHARE
    while True:
        link[LEVEL] = level = _level(link)
        flow = _top(flows, keys, tags, sizes, to_cap)
        if flow >= 0 and keys[to_cap, 0] <= level * CAP_FROM:
            _cap(flows, links, keys, tags, sizes, d, flow, _remove(flows, links, d, flow))
            continue
        flow = _top(flows, keys, tags, sizes, to_share)
        if flow >= 0 and -keys[to_share, 0] > level * SHARE_FROM:
            _share(flows, links, keys, tags, sizes, d, flow, _remove(flows, links, d, flow))
            continue
        break
    end = np.inf
    if _top(flows, keys, tags, sizes, HEAPS * d + SHARED_ENDS) >= 0 and level > 0:
        end = link[TIME] + max(keys[HEAPS * d + SHARED_ENDS, 0] - link[VIRTUAL], 0.0) / level
    if _top(flows, keys, tags, sizes, HEAPS * d + CAPPED_ENDS) >= 0:
        end = min(end, keys[HEAPS * d + CAPPED_ENDS, 0])
    link[NEXT] = end
    link[CHANGED] = 0.0


# ---- what the engine calls ----------------------------------------------------------------------------------------


@compiled
def ask(flows: Any, keys: Any, tags: Any, sizes: Any, wanted: Any, asked: Any, count: int, first: int) -> None:
    """Take in `count` openings: flow `asked[i]`, of flows[.., SIZE] bytes, at `wanted[i]`; tickets from `first` on."""
    times, tickets = keys[OPENINGS], tags[OPENINGS]
    for i in range(count):
        flow = asked[i]
        flows[flow, AWAITED] = first + i
        if sizes[OPENINGS] == len(times):
            _clear_openings(flows, times, tickets, sizes)
        sizes[OPENINGS] += 1
        _rise(times, tickets, sizes[OPENINGS] - 1, wanted[i], ((first + i) << _BITS) | flow)


@compiled
def _clear_openings(flows: Any, times: Any, tickets: Any, sizes: Any) -> None:
    kept = 0
    for i in range(sizes[OPENINGS]):
        if _awaited(flows, tickets[i]):
            times[kept], tickets[kept] = times[i], tickets[i]
            kept += 1
    sizes[OPENINGS] = kept
    for at in range((kept - 2) // _ARITY, -1, -1):
        _sink(times, tickets, kept, at, times[at], tickets[at])


@compiled
def _awaited(flows: Any, ticket: int) -> bool:
    flow = ticket & ((1 << _BITS) - 1)
    return int(flows[flow, AWAITED]) == ticket >> _BITS


@compiled
def run(
    flows: Any,
    links: Any,
    keys: Any,
    tags: Any,
    sizes: Any,
    wanted: Any,
    asked: Any,
    count: int,
    first: int,
    now: float,
    until: float,
) -> tuple[float, int, int]:
    """`ask`, open what is due at `now`, let the links settle, and go on until flows end or time is `until`.

    Returns:
        The time, how many flows have ended (in `asked` now, direction 0 first), and how many openings were due.
    """
    ask(flows, keys, tags, sizes, wanted, asked, count, first)
    times, tickets = keys[OPENINGS], tags[OPENINGS]
    opened, clients = 0, len(flows) // 2
    while True:
        last = now + BATCH
        while sizes[OPENINGS] and times[0] <= last:
            ticket = tickets[0]
            sizes[OPENINGS] -= 1
            size = sizes[OPENINGS]
            if size:
                _sink(times, tickets, size, 0, times[size], tickets[size])
            opened += 1
            if _awaited(flows, ticket):
                flow = ticket & ((1 << _BITS) - 1)
                flows[flow, AWAITED] = 0.0
                _open(flows, links, keys, tags, sizes, int(flow // clients), flow, now)
        for d in range(2):
            if links[d, CHANGED] > 0:
                _settle(flows, links, keys, tags, sizes, d)
        now = min(until, links[0, NEXT], links[1, NEXT])
        if sizes[OPENINGS]:
            now = min(now, times[0])
        if now == np.inf:
            return now, 0, opened
        n = 0
        for d in range(2):
            if links[d, NEXT] <= now:
                n = _close(flows, links, keys, tags, sizes, d, now, asked, n)
        if n or until <= now + BATCH:
            return now, n, opened


@compiled
def cancel(flows: Any, links: Any, flow: int, time: float) -> None:
    """Give up a flow's opening, or the flow."""
    d = flow // (len(flows) // 2)
    flows[flow, AWAITED] = 0.0
    if flows[flow, SIDE] != IDLE:
        _advance(links[d], time)
        _remove(flows, links, d, flow)
    links[d, CHANGED] = 1.0


@compiled
def rescale(
    flows: Any, links: Any, keys: Any, tags: Any, sizes: Any, flow: int, time: float, cap: float, weight: float
) -> None:
    """Give a flow, open or not, another cap and weight."""
    d = flow // (len(flows) // 2)
    _advance(links[d], time)
    row = flows[flow]
    is_open = row[SIDE] != IDLE
    left = _remove(flows, links, d, flow) if is_open else 0.0
    row[CAP], row[WEIGHT], row[RATIO] = cap, weight, cap / weight
    if is_open:
        _share(flows, links, keys, tags, sizes, d, flow, left)
    links[d, CHANGED] = 1.0


@compiled
def resize(
    flows: Any,
    links: Any,
    keys: Any,
    tags: Any,
    sizes: Any,
    d: int,
    time: float,
    capacity: float,
    caps: Any,
    weights: Any,
) -> None:
    """Give a link another capacity, and all its flows other caps and weights."""
    _advance(links[d], time)
    clients = len(flows) // 2
    left = np.full(clients, -1.0)
    for client in range(clients):
        flow = d * clients + client
        if flows[flow, SIDE] != IDLE:
            left[client] = _remove(flows, links, d, flow)
    links[d, CAPACITY] = capacity
    for client in range(clients):
        row = flows[d * clients + client]
        row[CAP], row[WEIGHT], row[RATIO] = caps[client], weights[client], caps[client] / weights[client]
    for client in range(clients):
        if left[client] >= 0:
            _share(flows, links, keys, tags, sizes, d, d * clients + client, left[client])
    links[d, CHANGED] = 1.0
