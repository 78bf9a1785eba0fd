"""What a server says of its own speed in headers, beside what we measured.

Belongs here: medians of ``X-TTFT-MS`` and ``X-Tokens-Per-Second`` next to ours, and the stated price. Does not belong
here: reading headers (``loadgen``). For show only: a header is sent before the answer ends, so it can at best be the
server's own view of its first token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from accelbench_assets.bench.frame import Frame
from accelbench_assets.bench.rules.outcome import Rules, verdict


def reported_headers(frame: Frame) -> dict[str, dict[str, float | int | None]]:
    """``{header: {count, median_server, median_ours, ratio}}`` over the step's completed requests that carry it.

    Ours for ``ttft_ms`` is TTFT from the send, for ``tokens_per_s`` output tokens over E2E from the send (the server
    knows neither schedule nor network); ``usd_per_1k_tokens`` has no measured counterpart. *ratio* is theirs to ours.
    """
    life_s = frame.numbers("e2e_from_send_ms") / 1000.0
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(life_s > 0, frame.numbers("output_tokens") / life_s, np.nan)
    ours = {"ttft_ms": frame.numbers("ttft_from_send_ms"), "tokens_per_s": rate, "usd_per_1k_tokens": None}
    found: dict[str, dict[str, float | int | None]] = {}
    for name, measured in ours.items():
        stated = frame.numbers(f"server_{name}")
        has = frame.arrived & frame.ok & ~np.isnan(stated)
        if measured is not None:
            has &= ~np.isnan(measured)
        if has.any():
            theirs = float(np.median(stated[has]))
            mine = None if measured is None else float(np.median(measured[has]))
            found[name] = {
                "count": int(has.sum()),
                "median_server": theirs,
                "median_ours": mine,
                "ratio": theirs / mine if mine else None,
            }
    return found


def describe_headers(headers: dict[str, dict[str, Any]]) -> str:
    """One sentence for people; empty when no header came."""
    said = {
        "ttft_ms": ("TTFT", "ms"),
        "tokens_per_s": ("speed", "tokens/s"),
        "usd_per_1k_tokens": ("price", "USD"),
    }
    parts = []
    for name, row in headers.items():
        what, unit = said[name]
        against = f" against our {row['median_ours']:.4g}" if row["median_ours"] is not None else ""
        parts.append(f"{what} {row['median_server']:.4g} {unit}{against}")
    return f"The server's own headers say {', '.join(parts)} (medians)." if parts else ""


def header_rule(frames: Sequence[Frame]) -> Rules:
    """What the server said of itself in the last step that has such headers, as a rule that always passes; none
    without headers."""
    for frame in reversed(frames):
        if text := describe_headers(reported_headers(frame)):
            return {"server_headers": verdict("pass", None, None, text)}
    return {}
