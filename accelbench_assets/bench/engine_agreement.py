"""How far an engine's own counters agree with our samples: requests, tokens, mean TTFT and ITL.

Belongs here: our side of the comparison, taken over every sample of the run, and the three verdicts. Does not belong
here: reading the engine's pages and what grew between them (``engine_counters``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accelbench_assets.bench.rules.outcome import Verdict, verdict
from accelbench_assets.telemetry.names import EngineNames

TOLERANCE = 0.01  # of engines whose counters were never seen to be exact
OVERSTATED = 0.25  # we report over a quarter more output than the engine made: nothing here can be trusted
LATENCY_SHARE, LATENCY_S = 0.02, 0.001
_BATCH_ROWS = 65_536
_FINISHED = {"finished_prompt_tokens_total", "finished_generation_tokens_total", "requests_total"}


@dataclass(slots=True)
class Growth:
    """How much an engine's counters grew over the load, by canonical name.

    ``rounding`` is how far that may be off because of the digits it prints; ``not_finished`` counts requests that it
    aborted or failed.
    """

    counters: dict[str, float] = field(default_factory=dict)
    rounding: dict[str, float] = field(default_factory=dict)
    not_finished: float = 0.0

    def add(self, name: str, grown: float, rounding: float, not_finished: float) -> None:
        """Another replica's, or another part of a sum."""
        self.counters[name] = self.counters.get(name, 0.0) + grown
        self.rounding[name] = self.rounding.get(name, 0.0) + rounding
        self.not_finished += not_finished


@dataclass(frozen=True, slots=True)
class OurCounts:
    """What the samples say. Tokens are of finished requests; ``spare_*`` is how much more the unfinished may have
    cost."""

    requests: int
    unfinished: int
    prompt_tokens: int
    uncached_tokens: int
    output_tokens: int
    partial_tokens: int
    spare_prompt: float
    spare_output: float
    counts_are_stated: bool


@dataclass(frozen=True, slots=True)
class _Count:
    """One counter's growth against ours, between *low* and *high*."""

    what: str
    theirs: float
    low: float
    high: float
    rounding: float = 0.0

    @property
    def gap(self) -> float:
        """How far it lies outside, relative to ours; negative when the engine counted less."""
        below, above = self.theirs + self.rounding - self.low, self.theirs - self.rounding - self.high
        outside = min(0.0, below) + max(0.0, above)
        return outside / max(self.low, 1.0)

    @property
    def words(self) -> str:
        """The comparison for people."""
        rounded = " (rounded)" if self.rounding else ""
        if self.high > self.low:
            upper = f"{self.high:.0f}" if math.isfinite(self.high) else "more"
            return f"{self.theirs:.0f}{rounded} {self.what} against our {self.low:.0f} to {upper}"
        return f"{self.theirs:.0f}{rounded} {self.what} against our {self.low:.0f}"


def _compared(counts: Sequence[_Count]) -> str:
    """Several comparisons for people."""
    if all(count.theirs == count.low for count in counts):
        return f"{' and '.join(f'{count.theirs:.0f} {count.what}' for count in counts)}, exactly as we did"
    return " and ".join(count.words for count in counts)


def our_counts(samples: pa.Table, received: Any) -> OurCounts:
    """Our side, over every sample; *received* are the tokens each request got (``Chunks.received``)."""
    ok = _says(samples, "status", "ok")
    finished = ok | np.asarray(samples["finish_reason"].is_valid().to_numpy(), dtype=bool)
    output, prompt = _numbers(samples, "output_tokens"), _numbers(samples, "input_tokens")
    cached = np.nan_to_num(_numbers(samples, "cached_input_tokens"))
    asked_out, asked_in = (_numbers(samples, f"{kind}_tokens_requested") for kind in ("output", "input"))
    overhead = prompt - asked_in  # what the chat template adds to the length that was asked for
    most = float(np.nanmax(overhead)) if np.isfinite(overhead).any() else 0.0
    known = finished & ~np.isnan(output)
    open_output = np.where(asked_out > 0, asked_out, np.inf)[~known]
    open_prompt = np.where(asked_in > 0, asked_in + max(0.0, most), np.inf)[~known]
    guessed = _says(samples, "token_count_source", "chunks") | _says(
        samples, "token_count_source", "tokenizer"
    )
    return OurCounts(
        requests=int(finished.sum()),
        unfinished=int((~finished).sum()),
        prompt_tokens=int(np.nansum(prompt[known])),
        uncached_tokens=int(np.nansum((prompt - cached)[known])),
        output_tokens=int(np.nansum(output[known])),
        partial_tokens=int(received[~known].sum()),
        spare_prompt=float(open_prompt.sum()),
        spare_output=float(open_output.sum()),
        counts_are_stated=not bool(guessed[known].any()),
    )


def tokens_agree(engine: EngineNames, grown: Growth, ours: OurCounts, aside: str) -> Verdict:
    """Rule ``engine_counters``: prompt and output tokens, equal or (with unfinished requests) within their bound."""
    exact = engine.exact and ours.counts_are_stated
    limit = 0.0 if exact else TOLERANCE
    apart = (
        _FINISHED.issubset(grown.counters)
        and grown.counters["requests_total"] == ours.requests
        and not grown.not_finished
    )
    counts: list[_Count] = []
    for kind, candidates, spare, partial in (
        ("prompt", (ours.prompt_tokens, ours.uncached_tokens), ours.spare_prompt, 0),
        ("generation", (ours.output_tokens,), ours.spare_output, ours.partial_tokens),
    ):
        name = f"finished_{kind}_tokens_total" if apart else f"{kind}_tokens_total"
        if name in grown.counters:
            theirs = grown.counters[name]
            low = min(candidates, key=lambda tokens: abs(theirs - tokens))
            what = "prompt tokens" if kind == "prompt" else "output tokens"
            least = low + (partial if engine.counts_as_it_goes and not apart else 0)
            most = low if apart else low + spare
            counts.append(_Count(what, theirs, least, most, grown.rounding[name]))
    if not counts:
        return verdict("pass", "unknown", limit, f"{engine.title} shows no token counters here.{aside}")
    gap = max((count.gap for count in counts), key=abs)
    text = f"{engine.title} counted {_compared(counts)}"
    if ours.unfinished:
        text += f"; {ours.unfinished} unfinished requests " + ("are left out" if apart else "may count")
    overstated = -counts[-1].gap if counts[-1].what == "output tokens" else 0.0
    outcome = "void" if overstated > OVERSTATED else "warn" if abs(gap) > limit else "pass"
    return verdict(outcome, abs(gap), limit, f"{text}.{aside}")


def requests_agree(engine: EngineNames, grown: Growth, ours: OurCounts, aside: str) -> Verdict:
    """Rule ``engine_requests``: requests the engine finished, ours and those we gave up on at most."""
    if "requests_total" not in grown.counters:
        return verdict("pass", "unknown", 0, f"{engine.title} does not count requests.{aside}")
    theirs = grown.counters["requests_total"]
    count = _Count("finished requests", theirs, ours.requests, ours.requests + ours.unfinished)
    limit = 0.0 if engine.exact else TOLERANCE
    text = f"{engine.title} counted {_compared([count])}"
    text += f"; {ours.unfinished} more never finished here" if ours.unfinished else ""
    return verdict("warn" if abs(count.gap) > limit else "pass", abs(count.gap), limit, f"{text}.{aside}")


def latency_agrees(engine: EngineNames, grown: Growth, samples: pa.Table, chunks: Chunks) -> Verdict:
    """Mean TTFT (from the send) and ITL against the engine's own, within 2 % or 1 ms; the value is a share of that.

    ITL is per token or per chunk, whichever of the two the engine counts: its number of intervals tells. The
    engine's clock starts behind its HTTP front end and stops before it, so a front end that is short of processor shows
    here as TTFT that only clients see.
    """
    parts: list[str] = []
    shares: list[float] = []
    for what, kind, candidates in (
        ("TTFT", "ttft", [_our_ttft(samples)]),
        ("ITL", "itl", chunks.itl),
    ):
        count, total = (grown.counters.get(f"{kind}_seconds_{part}", 0.0) for part in ("count", "sum"))
        ours_s, ours_n = min(candidates, key=lambda found: abs(found[1] - count))
        if count <= 0 or ours_n <= 0:
            continue
        theirs_s = total / count
        shares.append(abs(ours_s - theirs_s) / max(LATENCY_S, LATENCY_SHARE * theirs_s))
        parts.append(f"{what} {ours_s * 1e3:.2f} ms of {ours_n} against {theirs_s * 1e3:.2f} of {count:.0f}")
    if not parts:
        return verdict("pass", "unknown", 1.0, f"{engine.title} shows no latencies of its own here.")
    text = f"Our mean {', '.join(parts)} by {engine.title}'s own clock"
    if max(shares) <= 1:
        return verdict("pass", max(shares), 1.0, f"{text}.")
    return verdict("warn", max(shares), 1.0, f"{text}: more than 2 % and 1 ms apart.")


def _our_ttft(samples: pa.Table) -> tuple[float, int]:
    """Mean seconds and number of TTFTs from the send, of every request that got a token."""
    values = _numbers(samples, "ttft_from_send_ms")
    values = values[~np.isnan(values)]
    return (float(values.mean()) / 1e3, values.size) if values.size else (0.0, 0)


@dataclass(frozen=True, slots=True)
class Chunks:
    """Token chunks of all requests: tokens received by request, seconds from first to last, and how many gaps."""

    received: Any
    spent_s: float
    token_gaps: int
    chunk_gaps: int

    @property
    def itl(self) -> list[tuple[float, int]]:
        """Mean seconds and number of the gaps between tokens, and of those between chunks."""
        return [(self.spent_s / n if n else 0.0, n) for n in (self.token_gaps, self.chunk_gaps)]


def chunks_of(samples: pa.Table) -> Chunks:
    """Batch by batch: the lists of a long run are far larger than all other columns together."""
    received: list[Any] = []
    spent_us = token_gaps = chunk_gaps = 0
    for batch in samples.select(["chunk_offset_us", "chunk_tokens"]).to_batches(max_chunksize=_BATCH_ROWS):
        stamps, tokens = (column.flatten().to_numpy() for column in batch.columns)
        sizes = pc.fill_null(pc.list_value_length(batch.column(1)), 0).to_numpy().astype(np.int64)
        ends = np.cumsum(sizes)
        running = np.concatenate(([0], np.cumsum(tokens, dtype=np.int64)))
        received.append(running[ends] - running[ends - sizes])
        several = sizes > 1
        first, last = (ends - sizes)[several], ends[several] - 1
        token_gaps += int((received[-1][several] - tokens[first]).sum())
        chunk_gaps += int((sizes[several] - 1).sum())
        spent_us += int((stamps[last].astype(np.int64) - stamps[first]).sum())
    whole = np.concatenate(received) if received else np.zeros(0, dtype=np.int64)
    return Chunks(whole, spent_us / 1e6, token_gaps, chunk_gaps)


def _numbers(samples: pa.Table, name: str) -> Any:
    column = samples[name].combine_chunks().cast(pa.float64())
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def _says(samples: pa.Table, name: str, word: str) -> Any:
    matches = pc.fill_null(pc.equal(samples[name].cast(pa.string()), word), False)
    return np.asarray(matches.to_numpy(), dtype=bool)
