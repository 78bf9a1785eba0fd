"""Bytes to tokens: what counts, how many, what an answer's failure is called. All counted by hand."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.decode import Answer, decode, split_tokens
from loadgen.exchange import Exchange, Failure, Request
from loadgen.plan import Replica
from loadgen.samples import Origin, SampleBatch, sample_schema

REPLICA = Replica("127.0.0.1:1", "http://127.0.0.1:1")


def exchange(
    *reads: bytes, wanted: int | None = None, stream: bool = True, gap_ns: int = 1_000_000
) -> Exchange:
    found = Exchange(Request(0, "r-0", b"{}", b"prompt", 8, wanted), REPLICA, stream, sent_ns=1_000_000_000)
    found.reads = list(reads)
    found.stamps.extend(1_000_000_000 + gap_ns * (index + 1) for index in range(len(reads)))
    return found


def http(body: bytes, status: str = "200 OK", kind: str = "text/event-stream") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        status.encode(),
        kind.encode(),
        len(body),
        body,
    )


def delta(
    content: Any = None, *, finish: str | None = None, usage: Any = None, **fields: Any
) -> dict[str, Any]:
    inner = fields if content is None else {"content": content, **fields}
    event: dict[str, Any] = {"choices": [{"index": 0, "delta": inner, "finish_reason": finish}]}
    return event if usage is None else {**event, "usage": usage}


def tokens(count: int) -> dict[str, int]:
    return {"prompt_tokens": 8, "completion_tokens": count}


def usage_only(count: int) -> dict[str, Any]:
    return {"choices": [], "usage": tokens(count)}


def sse(*events: dict[str, Any], done: bool = True, ensure_ascii: bool = True) -> list[bytes]:
    lines = [b"data: " + json.dumps(event, ensure_ascii=ensure_ascii).encode() + b"\n\n" for event in events]
    return [*lines, b"data: [DONE]\n\n"] if done else lines


def reads_of(*events: dict[str, Any], done: bool = True) -> list[bytes]:
    """A head, then one HTTP chunk and read per event."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%b\r\n" % (len(e), e) for e in sse(*events, done=done)), b"0\r\n\r\n"]


def log(answer: Answer) -> tuple[Any, ...]:
    return (
        answer.status,
        answer.error_class,
        answer.chunk_tokens,
        answer.output_tokens,
        answer.finish_reason,
        answer.token_count_source,
    )


SAID = [
    delta("", role="assistant"),
    delta("zwölf "),
    delta("line\u2028end "),
    delta("日本"),
    delta("", finish="length"),
    usage_only(3),
]
EXPECTED = ("ok", None, [1, 1, 1], 3, "length", "usage")


def variants() -> dict[str, bytes]:
    plain = b"".join(sse(*SAID, ensure_ascii=False))
    multi = b"".join(
        b"".join(b"data: " + line + b"\n" for line in json.dumps(e, indent=1).encode().split(b"\n")) + b"\n"
        for e in SAID
    )
    return {
        "plain": plain,
        "crlf": plain.replace(b"\n", b"\r\n"),
        "cr": plain.replace(b"\n", b"\r"),
        "comments": plain.replace(b"data: {", b": ping\nevent: x\nid: 7\ndata: {"),
        "no space after the colon": plain.replace(b"data: ", b"data:"),
        "multi-line data": multi + b"data: [DONE]\n\n",
        "no final blank line": plain.rstrip(b"\n"),
        "byte order mark": b"\xef\xbb\xbf" + plain,
    }


@pytest.mark.parametrize("name", list(variants()))
def test_framing_gives_the_identical_token_log(name: str) -> None:
    whole = http(variants()[name])
    assert log(decode(exchange(whole, wanted=3))) == EXPECTED
    single_bytes = decode(exchange(*(whole[i : i + 1] for i in range(len(whole))), wanted=3))
    assert log(single_bytes) == EXPECTED
    assert sorted(set(single_bytes.chunk_reads)) == single_bytes.chunk_reads  # three different moments


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(variants())), st.lists(st.integers(0, 3000), max_size=40))
def test_any_cut_gives_the_identical_token_log(name: str, at: list[int]) -> None:
    whole = http(variants()[name])
    edges = sorted({0, len(whole), *(x % len(whole) for x in at)})
    reads = [whole[a:b] for a, b in pairwise(edges)]
    assert log(decode(exchange(*reads, wanted=3))) == EXPECTED


def test_role_finish_and_usage_chunks_are_no_tokens_and_stamps_are_of_the_reads() -> None:
    answer = decode(
        exchange(*reads_of(delta("", role="assistant"), delta("a"), delta("b", finish="stop"), usage_only(2)))
    )
    assert (answer.first_event_read, answer.chunk_reads, answer.done_read) == (1, [2, 3], 5)
    role = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}]}
    null_role = decode(exchange(*reads_of(role, delta("a", finish="stop"))))
    assert null_role.chunk_reads == [2]


def test_empty_token_counts_by_growing_usage_only() -> None:
    events = [
        delta("", role="assistant", usage=tokens(0)),
        delta("", usage=tokens(1)),
        delta("a", usage=tokens(2)),
        delta("", usage=tokens(2)),
        delta("b", finish="stop", usage=tokens(3)),
        usage_only(3),
    ]
    answer = decode(exchange(*reads_of(*events)))
    assert answer.chunk_reads == [2, 3, 5]
    assert (answer.chunk_tokens, answer.token_count_source) == ([1, 1, 1], "per_chunk_usage")
    without = decode(exchange(*reads_of(delta(""), delta("a", finish="stop"))))
    assert (without.chunk_reads, without.token_count_source) == ([2], "chunks")


def test_usage_in_the_finish_chunk_makes_it_no_token() -> None:
    answer = decode(exchange(*reads_of(delta("a"), delta("b"), delta("", finish="stop", usage=tokens(2)))))
    assert (answer.chunk_tokens, answer.output_tokens) == ([1, 1], 2)


def test_per_chunk_usage_gives_tokens_of_each_chunk() -> None:
    events = [
        delta("abc", usage=tokens(3)),
        delta("d", usage=tokens(4)),
        delta("ef", finish="stop", usage=tokens(6)),
    ]
    answer = decode(exchange(*reads_of(*events, usage_only(6))))
    assert (answer.chunk_tokens, answer.token_count_source) == ([3, 1, 2], "per_chunk_usage")


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_counts_and_output_starts_later(field: str) -> None:
    answer = decode(
        exchange(*reads_of(delta(**{field: "hm"}), delta("a"), delta("b", finish="stop"), usage_only(3)))
    )
    assert (answer.chunk_reads, answer.first_output_read) == ([1, 2, 3], 2)


def test_reasoning_in_both_spellings_counts_once_and_tool_calls_count() -> None:
    both = decode(
        exchange(
            *reads_of(
                delta(reasoning="hm", reasoning_content="hm"), delta("xy", finish="stop"), usage_only(4)
            )
        )
    )
    assert both.chunk_tokens == [2, 2]
    call = {"index": 0, "function": {"name": "f", "arguments": "{}"}}
    called = decode(
        exchange(*reads_of(delta(tool_calls=[call]), delta("", finish="tool_calls"), usage_only(1)))
    )
    assert (called.status, called.chunk_tokens, called.first_output_read) == ("ok", [1], 1)


def test_completions_and_whole_answers() -> None:
    said = [
        {"choices": [{"text": "a ", "finish_reason": None}]},
        {"choices": [{"text": "b", "finish_reason": "length"}]},
    ]
    assert decode(exchange(*reads_of(*said, usage_only(2)))).chunk_tokens == [1, 1]
    body = {"choices": [{"message": {"content": "a b"}, "finish_reason": "stop"}], "usage": tokens(2)}
    whole = http(json.dumps(body).encode(), kind="application/json")
    answer = decode(exchange(whole[:60], whole[60:], stream=False, wanted=2))
    assert (answer.status, answer.chunk_reads, answer.chunk_tokens, answer.input_tokens) == (
        "ok",
        [1],
        [2],
        8,
    )


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        (
            reads_of(delta("a"), {"error": {"message": "boom", "code": 500}}),
            ("error", "mid_stream", "error event: boom"),
        ),
        ([http(b"data: {oops\n\ndata: [DONE]\n\n")], ("error", "malformed", "malformed event: ")),
        (reads_of(delta("a"), done=False), ("incomplete", "mid_stream", "the stream ended without")),
        (
            reads_of(delta("", role="assistant"), delta("", finish="stop")),
            ("error", "empty", "the answer holds no token"),
        ),
        (
            [http(b'{"error":{"message":"no"}}', "500 X", "application/json")],
            ("error", "5xx", "HTTP 500: no"),
        ),
        (
            [http(b'{"detail":"slow down"}', "429 X", "application/json")],
            ("error", "429", "HTTP 429: slow down"),
        ),
        (
            [http(b"<html>not here</html>", "404 X", "text/html")],
            ("error", "4xx", "HTTP 404: <html>not here"),
        ),
        ([http(b"", "301 X")], ("error", "malformed", "HTTP 301")),
        (
            reads_of(delta("a", finish="stop"), usage_only(1)),
            ("incomplete", "wrong_length", "1 tokens came of 9"),
        ),
    ],
)
def test_failures_have_their_class(reads: list[bytes], expected: tuple[str, str, str]) -> None:
    answer = decode(exchange(*reads, wanted=9 if expected[1] == "wrong_length" else None))
    assert (answer.status, answer.error_class) == expected[:2]
    assert (answer.error_text or "").startswith(expected[2])


def test_partial_answer_keeps_its_tokens_beside_the_failure() -> None:
    cut = exchange(*reads_of(delta("a"), delta("b"))[:3])
    cut.failure = Failure("error", "mid_stream", "connection lost")
    answer = decode(cut)
    assert (answer.status, answer.error_class, answer.chunk_tokens) == ("error", "mid_stream", [1, 1])


@settings(deadline=None)
@given(st.integers(0, 500), st.lists(st.integers(0, 50), max_size=40))
def test_split_is_exact_in_sum_and_fair(total: int, sizes: list[int]) -> None:
    shares = split_tokens(total, sizes)
    assert len(shares) == len(sizes)
    assert sum(shares) == (total if sizes else 0)
    assert all(share >= (1 if total >= len(sizes) else 0) for share in shares)


def test_split_of_equal_chunks_is_equal() -> None:
    assert split_tokens(64, [20] * 16) == [4] * 16


def row_of(found: Exchange) -> dict[str, Any]:
    batch = SampleBatch()
    origin = Origin("run", 0, 0, "m", 0, lambda text: text.replace("s3cr3t-key", "****"))
    batch.add(origin, "measure", found, decode(found))
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(batch.to_parquet()))
    assert table.schema.equals(sample_schema(), check_metadata=False)
    assert table.schema.metadata[b"schema_version"] == b"2"
    return table.drop_columns(["scheduled_at", "sent_at"]).to_pylist()[0]


@pytest.mark.parametrize(
    ("count", "kept"),
    [
        (2, 2),
        (2.0, 2),
        *((odd, None) for odd in ("2", -3, 2**31, 2**70, 1e300, 2.5, True, [2], {"n": 2})),
    ],
)
def test_a_token_count_is_a_whole_number_or_unknown(count: object, kept: int | None) -> None:
    details = {
        "prompt_tokens_details": {"cached_tokens": count},
        "completion_tokens_details": {"reasoning_tokens": count},
    }
    usage = {"prompt_tokens": count, "completion_tokens": count, **details}
    row = row_of(
        exchange(*reads_of(delta("a"), delta("b", finish="stop"), {"choices": None, "usage": usage}))
    )
    names = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")
    assert [row[name] for name in names] == [kept] * 4
    assert (row["status"], row["chunk_tokens"], row["finish_reason"]) == ("ok", [1, 1], "stop")


@pytest.mark.parametrize("reason", [1, True, ["stop"], {"a": 1}])
def test_a_finish_reason_that_is_no_text_is_left_out(reason: Any) -> None:
    row = row_of(exchange(*reads_of(delta("a"), delta("b", finish=reason), usage_only(2))))
    assert (row["status"], row["finish_reason"], row["output_tokens"]) == ("ok", None, 2)


@pytest.mark.parametrize(
    "event", [delta(7), {"choices": "ab"}, {"choices": [None]}, {"choices": [{"delta": 3}]}]
)
def test_an_odd_event_makes_its_row_malformed(event: dict[str, Any]) -> None:
    row = row_of(exchange(*reads_of(delta("a"), event, delta("b", finish="stop"), usage_only(2))))
    assert (row["status"], row["error_class"]) == ("error", "malformed")


def test_an_answer_nobody_foresaw_makes_its_row_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    odd_status = exchange(b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n")  # digits to str.isdigit, not to int
    assert (row_of(odd_status)["status"], row_of(odd_status)["error_class"]) == ("error", "malformed")

    def overwhelmed(_: object) -> Any:
        raise RecursionError("too deep")

    monkeypatch.setattr("loadgen.decode.events", overwhelmed)
    found = exchange(*reads_of(delta("a", finish="stop")))
    row = row_of(found)
    assert (row["error_class"], row["error_text"]) == (
        "malformed",
        "malformed answer: RecursionError: too deep",
    )
    found.failure = Failure("cancelled", None, "cut: the end")
    assert (row_of(found)["status"], row_of(found)["error_text"]) == ("cancelled", "cut: the end")


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150)
@given(st.data(), st.booleans())
def test_whatever_a_server_writes_there_is_a_row(data: st.DataObject, stream: bool) -> None:
    def odd(usual: Any) -> Any:
        return data.draw(ANYTHING) if data.draw(st.integers(0, 3)) == 0 else usual

    details = odd({"cached_tokens": odd(1)})
    usage = odd({"prompt_tokens": odd(8), "completion_tokens": odd(2), "prompt_tokens_details": details})
    inner = odd({"content": odd("a"), "reasoning": odd(None), "tool_calls": odd(None)})
    choice = odd({("delta" if stream else "message"): inner, "finish_reason": odd("stop")})
    document = odd({"choices": odd([choice]), "usage": usage, "error": odd(None)})
    if stream:
        found = exchange(*reads_of(delta("x"), document, delta("y", finish="stop"), usage_only(3)))
    else:
        found = exchange(http(json.dumps(document).encode(), kind="application/json"), stream=False)
    row = row_of(found)
    assert row["status"] in ("ok", "error", "incomplete")
    assert len(row["chunk_tokens"]) == len(row["chunk_offset_us"])


def test_durations_of_a_row_by_hand() -> None:
    found = exchange(
        *reads_of(
            delta("", role="assistant"), delta("ab"), delta("cd"), delta("ef", finish="stop"), usage_only(6)
        )
    )
    found.scheduled_ns = found.sent_ns - 5_000_000  # reads at 1, 2, 3 … ms; tokens in reads 2, 3, 4
    row = row_of(found)
    assert (row["ttfe_ms"], row["ttft_from_send_ms"], row["ttft_ms"]) == (2.0, 3.0, 8.0)
    assert (row["e2e_from_send_ms"], row["e2e_ms"], row["send_lag_ms"], row["tail_ms"]) == (
        5.0,
        10.0,
        5.0,
        2.0,
    )
    assert row["tpot_ms"] == pytest.approx(2.0 / 4)  # 2 ms for the 4 tokens after the first chunk's 2
    assert (row["chunk_offset_us"], row["chunk_tokens"]) == ([3000, 4000, 5000], [2, 2, 2])
    assert (row["chunk_stamp"], row["shared_chunks"], row["client_lag_p99_us"]) == ("user", 0, None)


def test_chunks_in_one_read_are_flagged_as_shared_and_server_headers_are_kept() -> None:
    body = b"".join(sse(delta("a"), delta("b", finish="stop"), usage_only(2)))
    whole = http(body).replace(b"Content-Type", b"X-TTFT-MS: 12.5\r\nContent-Type", 1)
    row = row_of(exchange(whole))
    assert (row["chunk_stamp"], row["shared_chunks"], row["tpot_ms"]) == ("shared", 2, 0.0)
    assert row["server_ttft_ms"] == 12.5


def test_error_text_is_short_and_scrubbed() -> None:
    body = json.dumps({"error": {"message": "key s3cr3t-key is wrong " + "x" * 300}}).encode()
    row = row_of(exchange(http(body, "401 X", "application/json")))
    assert "s3cr3t-key" not in row["error_text"]
    assert len(row["error_text"]) == 200
