"""AT-8, 9, 10, 11, 12, 14, 15: what an answer says, told from how it is written.

Each runs the real generator against the real ground-truth server. The generator's figures are compared with
the server's log of the same run, at the methodology's tolerances. How near the log itself comes to the nominal times
is a matter of the machine, and of ``tests/benchmarks/test_nominal.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accelbench_assets.bench.frame import frames, step_windows
from accelbench_assets.bench.metrics import step_row
from accelbench_assets.bench.rules.answers import buffering
from loadgen import workloads
from loadgen.client import Client
from loadgen.decode import Answer, decode
from loadgen.exchange import Exchange, Request
from loadgen.plan import Plan, Replica
from tests.loadgen.against_log import (
    Entry,
    differences,
    first_token,
    gaps_ms,
    median,
    since_arrival,
    token_ms,
)
from tests.loadgen.conftest import Result, Truth, make_plan, run, truth

__all__ = ["run", "truth"]  # the fixtures, which pytest finds by these names

Start = Callable[..., Truth]
Run = Callable[..., Result]
Rows = list[tuple[dict[str, Any], dict[str, Any]]]
NS_PER_MS = 1e6


def one_step(osl: int, *, requests: int = 12) -> workloads.Workload:
    """Four users until so many requests were sent, however long they take on this machine."""
    return workloads.custom(
        concurrency=4, isl=32, osl=osl, duration_s=60.0, warmup_s=0.1, tail_s=30.0, requests=requests
    )


def plan(url: str, workload: workloads.Workload) -> Plan:
    return make_plan(url, workload)


def measured(result: Result, server: Truth) -> Rows:
    """Samples of the window with the server's line on each."""
    assert result.code == 0, result.error
    rows, log = result.measured(), server.log()
    assert len(rows) >= 4
    assert {row["status"] for row in rows} == {"ok"}
    return [(row, log[row["request_id"]]) for row in rows]


def agree(
    rows: Rows, column: str, true: Callable[[Entry], float], least_ms: float, chunk: int | None = None
) -> None:
    """Client and log within 1 ms on the median, where *chunk* has a stamp of its own; the log is never earlier than
    was asked for."""
    errors = differences(rows, column, true, chunk)
    assert abs(median(errors)) <= 1.0, sorted(errors)
    assert min(true(entry) for _, entry in rows) >= least_ms - 0.01


def test_at8_chunks_of_four_tokens_have_the_pace_of_their_tokens(truth: Start, run: Run) -> None:
    server = truth("--ttft", "50", "--gap", "10", "--tokens-per-chunk", "4")
    rows = measured(run(plan(server.url, one_step(64))), server)
    assert all(row["chunk_tokens"] == entry["sent_tokens"] == [4] * 16 for row, entry in rows)
    assert abs(median(differences(rows, "tpot_ms", token_ms, 0))) <= 0.1
    shares = [row["tpot_ms"] / token_ms(entry) for row, entry in rows]
    assert median(shares) == pytest.approx(1.0, rel=0.01)  # (N - 1) would be 0.952
    ours, true = gaps_ms(rows)  # between chunks: four times the time between tokens
    assert median([a - b for a, b in zip(ours, true, strict=True)]) == pytest.approx(0.0, abs=0.4)
    assert 3.5 < median(true) / median([token_ms(entry) for _, entry in rows]) < 4.5


def test_at9_a_role_only_chunk_is_an_event_and_no_token(truth: Start, run: Run) -> None:
    server = truth("--ttft", "200", "--gap", "30", "--chunk-layout", "role-early:5")
    rows = measured(run(plan(server.url, one_step(8))), server)
    agree(rows, "ttfe_ms", lambda entry: since_arrival(entry, entry["first_event_ns"]), 5.0)
    agree(rows, "ttft_from_send_ms", first_token, 200.0, 0)
    assert all(row["chunk_tokens"] == [1] * 8 for row, _ in rows)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "both"])
def test_at10_reasoning_counts_as_tokens_once_and_not_as_output(truth: Start, run: Run, field: str) -> None:
    server = truth("--ttft", "50", "--gap", "10", "--reasoning", f"{field}:10:500")
    rows = measured(run(plan(server.url, one_step(20))), server)
    agree(rows, "ttft_from_send_ms", first_token, 50.0, 0)
    agree(rows, "ttfo_ms", lambda entry: since_arrival(entry, entry["sends_ns"][10]), 500.0, 10)
    for row, _ in rows:
        assert row["chunk_tokens"] == [1] * 20
        assert (row["output_tokens"], row["reasoning_tokens"]) == (20, 10)
        assert row["token_count_source"] == "usage"


def test_at11_usage_that_comes_late_is_no_part_of_the_latency(truth: Start, run: Run) -> None:
    server = truth("--ttft", "20", "--gap", "5", "--usage", "late:500")
    rows = measured(run(plan(server.url, one_step(16))), server)
    # Else it shared a read with the last token.
    rows = [(row, entry) for row, entry in rows if row["tail_ms"] > 0]
    agree(
        rows,
        "tail_ms",
        lambda entry: (entry["last_send_ns"] - entry["sends_ns"][-1]) / NS_PER_MS,
        400.0,  # due 500 ms after the last token was, which itself may have been late
    )
    agree(rows, "e2e_from_send_ms", lambda entry: since_arrival(entry, entry["sends_ns"][-1]), 20 + 15 * 5.0)
    assert {(row["output_tokens"], row["token_count_source"]) for row, _ in rows} == {(16, "usage")}


@pytest.mark.parametrize(
    ("usage", "source", "counted"), [("never", "chunks", None), ("every", "per_chunk_usage", 16)]
)
def test_at11_usage_never_and_in_every_chunk(
    truth: Start, run: Run, usage: str, source: str, counted: int | None
) -> None:
    server = truth("--ttft", "20", "--gap", "5", "--usage", usage)
    result = run(plan(server.url, one_step(16)))
    rows = measured(result, server)
    assert {(row["token_count_source"], row["output_tokens"]) for row, _ in rows} == {(source, counted)}
    assert all(row["chunk_tokens"] == entry["sent_tokens"] == [1] * 16 for row, entry in rows)
    agree(rows, "e2e_from_send_ms", lambda entry: since_arrival(entry, entry["sends_ns"][-1]), 20 + 15 * 5.0)
    assert any("prompt_tokens" in text for text in result.shard["warnings"]) == (usage == "never")


@pytest.mark.parametrize("layout", ["role-first", "role-with-token"])
def test_at12_an_empty_chunk_is_a_token_if_the_usage_grew_and_nobody_spoke(
    truth: Start, run: Run, layout: str
) -> None:
    server = truth("--gap", "30", "--usage", "every", "--empty-token", "3", "--chunk-layout", layout)
    rows = measured(run(plan(server.url, one_step(8))), server)
    for row, entry in rows:
        assert row["chunk_tokens"] == entry["sent_tokens"] == [1] * 8
        assert row["output_tokens"] == 8
    # The role's "" with usage 0 came before or with it.
    agree(rows, "ttft_from_send_ms", first_token, 50.0, 0)


def test_at12_an_empty_first_token_is_the_first_token(truth: Start, run: Run) -> None:
    server = truth("--gap", "30", "--usage", "every", "--empty-token", "0")
    rows = measured(run(plan(server.url, one_step(4))), server)
    agree(rows, "ttft_from_send_ms", first_token, 50.0, 0)
    assert all(row["chunk_tokens"] == [1] * 4 for row, _ in rows)


@pytest.mark.parametrize(("events", "gap", "tokens", "verdict"), [(10, 5, 64, "warn"), (1, 60, 16, "pass")])
def test_at14_a_buffering_transport_is_told(
    truth: Start, run: Run, events: int, gap: int, tokens: int, verdict: str
) -> None:
    """Without buffering, 60 ms lie between tokens: a client that is held up for less shares no read."""
    server = truth("--ttft", "50", "--gap", str(gap), "--events-per-write", str(events))
    result = run(plan(server.url, one_step(tokens, requests=8)))
    parts = [pq.read_table(result.out / "shard=000" / part["name"]) for part in result.shard["parts"]]
    (frame,) = frames(pa.concat_tables(parts), step_windows([result.shard]))
    assert step_row(frame)["ok"] > 0
    found = buffering(frame)
    assert found["verdict"] == verdict, found
    assert ("transport-buffered" in found["text"]) == (verdict == "warn")
    rows = measured(result, server)
    agree(rows, "ttft_from_send_ms", first_token, 50.0, 0)
    if events > 1:
        assert all(entry["sent_tokens"] == [1, 10, 10, 10, 10, 10, 10, 3] for _, entry in rows)


FRAMINGS = ["whole", "bytewise", "crlf", "comments", "multiline", "split", "no-final-blank"]


def fetch(url: str) -> tuple[Exchange, Answer]:
    """One chat answer of 24 tokens through the generator's own client and decoder."""
    replica = Replica("truth", url)
    client = Client((replica,), api="chat", headers={}, request_timeout_s=30.0, idle_timeout_s=30.0)
    body = (
        b'{"model":"truth","messages":[{"role":"user","content":"one two"}],"stream":true,"max_tokens":24,'
        b'"ignore_eos":true,"stream_options":{"include_usage":true}}'
    )
    exchange = Exchange(Request(0, "r-0", body, b"one two", 6, 24), replica, stream=True)
    try:
        client.submit(exchange)
        while not client.done:
            client.poll(1.0)
    finally:
        client.close()
    return exchange, decode(exchange, text=True)


@pytest.mark.parametrize("usage", ["final", "every"])
def test_at15_every_framing_gives_the_same_tokens(truth: Start, tmp_path: Path, usage: str) -> None:
    found: dict[str, tuple[Exchange, Answer]] = {}
    for framing in FRAMINGS:
        server = truth(
            "--ttft", "5", "--gap", "2", "--text", "unicode", "--framing", framing, "--usage", usage
        )
        found[framing] = fetch(server.url)
        assert server.log()["r-0"]["sent_tokens"] == [1] * 24
    _, plain = found["whole"]
    assert plain.status == "ok", plain.error_text
    assert (plain.output_tokens, plain.chunk_tokens, plain.finish_reason) == (24, [1] * 24, "length")
    assert len(plain.text) == 24 * 5
    assert {"\u2028", "\u2029", "\u0085", "😀", "手"} <= set(plain.text)
    for framing, (_, answer) in found.items():
        assert answer.status == "ok", (framing, answer.error_text)
        assert answer.chunk_tokens == plain.chunk_tokens, framing
        assert answer.text == plain.text, framing
        assert (answer.output_tokens, answer.input_tokens) == (24, 6), framing
        assert answer.finish_reason == "length", framing
        assert answer.token_count_source == plain.token_count_source, framing


def test_at15_the_bytes_really_came_cut(truth: Start) -> None:
    """The check above means something only if reads end within characters and within chunks."""

    def whole(data: bytes) -> bool:
        try:
            data.decode()
        except UnicodeDecodeError:
            return False
        return True

    def until(framing: str, seen: Callable[[list[bytes]], bool]) -> None:
        """A client that is held up gets the pieces in one read: as many answers as it takes."""
        url, reads = truth("--ttft", "5", "--gap", "10", "--framing", framing).url, list[bytes]()
        for _ in range(50):
            reads += fetch(url)[0].reads
            if seen(reads):
                return
        pytest.fail(f"{len(reads)} reads of 50 answers, and none was cut")

    until("split", lambda reads: sum(not whole(data) for data in reads) >= 4)
    until("split", lambda reads: any(not data.endswith(b"\n") and whole(data) for data in reads))
    until("bytewise", lambda reads: sum(not data.endswith(b"\n") for data in reads) > 25)
