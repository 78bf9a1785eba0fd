"""One made event log, as plain values and as the frame of a step: what AT-26 puts through every formula."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from typing import Any

from accelbench_assets.bench.frame import Frame, StepWindow
from tests.unit.bench_samples import SECOND, T0, row, table


@dataclass
class Request:
    """Times are whole microseconds: *sent* after the window's start, all others after the send."""

    sent: int
    lag: int
    chunks: list[int]
    sizes: list[int]
    tail: int
    ok: bool = True
    input_tokens: int = 64
    tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = sum(self.sizes)

    @property
    def end(self) -> int:
        """End of the stream; of a failed request its last chunk."""
        return (self.chunks[-1] if self.chunks else 0) + (self.tail if self.ok else 0)


def event_log(seed: int, requests: int = 200) -> list[Request]:
    """Streams of one to four tokens a chunk, answers of one token and of one chunk, failures with and without
    a chunk, equal times, in order of the scheduled arrival.
    """
    draw = random.Random(seed)
    found, at = [], 0
    for number in range(requests):
        at += draw.randrange(1, 60_000)
        chunks = 1 if number % 23 == 7 else draw.randrange(2, 40)
        sizes = [draw.choice((1, 1, 1, 2, 4)) for _ in range(chunks)]
        if number % 41 == 5:
            chunks, sizes = 1, [1]
        stamps = [draw.randrange(40_000, 90_000)]
        for _ in range(chunks - 1):
            stamps.append(stamps[-1] + draw.choice((0, 5_000, draw.randrange(200, 30_000), 2_000_000)))
        ok = number % 17 != 3
        if not ok and number % 2:
            stamps, sizes = [], []
        found.append(
            Request(
                sent=at + (lag := draw.randrange(0, 900)),
                lag=lag,
                chunks=stamps,
                sizes=sizes,
                tail=draw.randrange(1, 400),  # genai-bench divides by a decode time of 0
                ok=ok,
                input_tokens=draw.randrange(10, 200),
            )
        )
    return found


def frame_of(log: list[Request], shuffled: int | None = None, hold_bytes: int = 1 << 30) -> Frame:
    """The same log as the frame of a step, its samples stored in order or *shuffled* by that seed; gaps
    are kept in memory up to *hold_bytes*.
    """
    phases = ("warmup", "measure", "tail")
    rows: list[dict[str, Any]] = [
        row(
            at_s=(one.sent - one.lag) / 1e6,
            seq=seq,
            lag_ms=one.lag / 1000,
            chunks_ms=tuple(at / 1000 for at in one.chunks),
            tokens=tuple(one.sizes),
            status="ok" if one.ok else "error",
            phase=phases[3 * seq // len(log)],
            tail_ms=one.tail / 1000 if one.ok and one.chunks else None,
            input_tokens=one.input_tokens if one.ok else None,
            ended_ms=one.end / 1000,
        )
        for seq, one in enumerate(log)
    ]
    if shuffled is not None:
        random.Random(shuffled).shuffle(rows)
    return Frame(table(rows), StepWindow(0, "closed", 4.0, "none", T0, T0 + SECOND, 0), hold_bytes)


def as_json(log: list[Request]) -> list[dict[str, Any]]:
    """The log for another process."""
    return [{**asdict(one), "end": one.end} for one in log]
