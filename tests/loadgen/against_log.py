"""A row of the generator beside the ground-truth server's line on the same request, whatever else the machine does.

The server's log says when it really sent, and the kernel stamps what arrives, so neither a late server nor a late
client makes them differ. Two things remain that a busy machine does: chunks that waited for a late client come with one
read, whose stamp is that of the last of them (``own_stamp`` tells which chunks have a stamp of their own), and now and
then a process loses its core between a look at the clock and the call it stands for, which medians do not see.

Belongs here: differences between the two, in ms. Does not belong here: how large they may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

Row = dict[str, Any]
Entry = dict[str, Any]
Pairs = Sequence[tuple[Row, Entry]]
NS_PER_MS = 1e6


def median(values: Iterable[float]) -> float:
    """The lower one of an even number."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]


def since_arrival(entry: Entry, at_ns: int) -> float:
    """ms on the server's clock since the kernel had the request."""
    return float(at_ns - entry["kernel_received_ns"]) / NS_PER_MS


def first_token(entry: Entry) -> float:
    """The true TTFT from send."""
    return since_arrival(entry, entry["sends_ns"][0])


def last_token(entry: Entry) -> float:
    """The true E2E from send."""
    return since_arrival(entry, entry["sends_ns"][-1])


def token_ms(entry: Entry) -> float:
    """The true time of a token after those of the first chunk."""
    sends = entry["sends_ns"]
    return float(sends[-1] - sends[0]) / (entry["tokens"] - entry["sent_tokens"][0]) / NS_PER_MS


def own_stamp(row: Row, index: int = 0) -> bool:
    """Whether chunk *index* is the last of its read, so that the read's stamp is its own."""
    offsets = row["chunk_offset_us"]
    return bool(index + 1 == len(offsets) or offsets[index] != offsets[index + 1])


def differences(
    pairs: Pairs, column: str, true: Callable[[Entry], float], chunk: int | None = None
) -> list[float]:
    """Row minus log of every row whose *chunk* (``None``: no chunk in particular) has its own stamp."""
    return [row[column] - true(entry) for row, entry in pairs if chunk is None or own_stamp(row, chunk)]


def gaps_ms(pairs: Pairs) -> tuple[list[float], list[float]]:
    """Gaps between chunks whose stamps are both their own, by the rows and by the log."""
    ours, true = [], []
    for row, entry in pairs:
        offsets, sends = row["chunk_offset_us"], entry["sends_ns"]
        for before, after in pairwise(range(len(offsets))):
            if own_stamp(row, before) and own_stamp(row, after):
                ours.append((offsets[after] - offsets[before]) / 1000)
                true.append((sends[after] - sends[before]) / NS_PER_MS)
    return ours, true
