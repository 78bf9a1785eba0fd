"""The shortcuts of the hot path and of the decoder change nothing but the time they take."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen import decode as decoder
from loadgen.decode import decode
from loadgen.http1 import WHOLE_CHUNKS, Framer
from loadgen.sse import _events, events

from .test_loadgen_decode import delta, exchange, reads_of, tokens, usage_only
from .test_loadgen_framing import HEAD

TEXTS = st.sampled_from(
    ["a", " the", "", 'q"', "back\\slash", "tab\t", "zwölf", "日本", "\u2028", '","x":"', "}"]
)


def compact(event: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(TEXTS, st.sampled_from(["plain", "role", "reasoning", "usage", "finish", "ids"]))))
def test_chunks_alike_are_told_as_if_each_were_parsed(parts: list[tuple[str, str]]) -> None:
    said: list[dict[str, Any]] = []
    for index, (text, kind) in enumerate(parts):
        more: dict[str, Any] = {"role": {"role": "assistant"}, "reasoning": {"reasoning": text}}.get(kind, {})
        event = delta(text, finish="stop" if kind == "finish" else None, **more)
        if kind == "usage":
            event["usage"] = tokens(index + 1)
        if kind == "ids":
            event["choices"][0]["token_ids"] = [index]
        said.append(event)
    for write in (compact, lambda event: b"data: " + json.dumps(event).encode() + b"\n\n"):
        found = exchange(
            HEAD, *(chunk(write(event)) for event in said), chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        )
        quick = decode(found, text=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decoder, "_around", lambda data, event: None)
            assert decode(found, text=True) == quick
        assert quick.text == "".join(text for text, _ in parts)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.sampled_from([b"data: x\n\n", b"data: y\r\n\r\n", b":c\n", b"\n", b"data: z\n", b"\xef\xbb\xbf"])
    ),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_events_are_the_same_piece_by_piece_and_line_by_line(lines: list[bytes], at: list[int]) -> None:
    whole = b"".join(lines)
    edges = sorted({0, len(whole), *(x % (len(whole) + 1) for x in at)})
    body = [(index, whole[a:b]) for index, (a, b) in enumerate(pairwise(edges))]
    assert list(events(body)) == list(_events(body, True))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.binary(min_size=1, max_size=9), max_size=8), st.lists(st.integers(0, 300), max_size=6))
def test_a_read_that_is_one_whole_chunk_needs_no_feeding(pieces: list[bytes], at: list[int]) -> None:
    """The client's own shortcut, beside a framer that sees everything, on reads cut anywhere and at chunks."""
    stream = [HEAD, *map(chunk, pieces), b"0\r\n\r\n"]
    whole = b"".join(stream)
    bounds = {sum(map(len, stream[:index])) for index in range(len(stream) + 1)}
    edges = sorted({*bounds, *(x % (len(whole) + 1) for x in at)})
    quick, slow = Framer(), Framer(collect=True)
    for a, b in pairwise(edges):
        read = whole[a:b]
        skipped = quick.at_chunk and WHOLE_CHUNKS.get(read[: read.find(b"\r\n")]) == len(read)
        ended = False if skipped else quick.feed(read)
        assert ended == slow.feed(read)
    assert slow.done
    assert b"".join(text for _, text in slow.body) == b"".join(pieces)


def test_tokens_listed_in_each_chunk_count_as_such() -> None:
    listed = [
        {**delta("ab"), "choices": [{"index": 0, "delta": {"content": "ab"}, "token_ids": [1, 2]}]},
        {**delta(""), "choices": [{"index": 0, "delta": {"content": ""}, "token_ids": [3]}]},
        {"choices": [{"index": 0, "delta": {"content": "c"}, "logprobs": {"content": [{}, {}, {}]}}]},
    ]
    seen = decode(
        exchange(*reads_of(delta("", role="assistant"), *listed, delta("", finish="stop"), usage_only(6)))
    )
    assert (seen.chunk_tokens, seen.token_count_source, seen.output_tokens) == ([2, 1, 3], "token_ids", 6)
    other = decode(exchange(*reads_of(*listed, delta("", finish="stop"), usage_only(9))))
    assert (sum(other.chunk_tokens), other.token_count_source) == (9, "usage")  # the server's own total wins
    completion = {
        "choices": [{"index": 0, "text": "ab", "logprobs": {"tokens": ["a", "b"]}, "finish_reason": "stop"}]
    }
    assert decode(exchange(*reads_of(completion))).chunk_tokens == [2]


def test_a_plain_answer_that_lasts_until_the_close_is_whole() -> None:
    document = {
        "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}],
        "usage": tokens(2),
    }
    read = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + json.dumps(document).encode()
    assert decode(exchange(read, stream=False, wanted=2)).status == "ok"
