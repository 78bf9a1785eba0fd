"""HTTP/1.1 framing: where an answer ends and which bytes are its body, however it is cut into reads."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.http1 import Framer, FramingError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    return HEAD + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n" + trailers + b"\r\n"


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(x % (len(data) + 1) for x in at)})
    return [data[a:b] for a, b in pairwise(edges)]


def feed(reads: list[bytes]) -> tuple[Framer, int | None]:
    framer, done_at = Framer(collect=True), None
    for index, read in enumerate(reads):
        if framer.feed(read) and done_at is None:
            done_at = index
    return framer, done_at


@settings(deadline=None)
@given(
    st.lists(
        st.binary(min_size=1, max_size=40) | st.just(b"data: 0\r\n\r\n") | st.just(b"\r\n0\r\n\r\n"),
        max_size=6,
    ),
    st.lists(st.integers(0, 2000), max_size=30),
    st.sampled_from([b"", b"X-Trailer: 1\r\n", b"A: 1\r\nB: 2\r\n"]),
)
def test_chunked_body_is_the_same_however_it_is_cut(
    pieces: list[bytes], at: list[int], trailers: bytes
) -> None:
    reads = cut(chunked(*pieces, trailers=trailers), at)
    framer, done_at = feed(reads)
    assert b"".join(text for _, text in framer.body) == b"".join(pieces)
    assert done_at == len(reads) - 1  # not before the last byte
    assert (framer.status, framer.surplus, framer.keep_alive) == (200, 0, True)


@pytest.mark.parametrize("reads", [[b"GET / HTTP/1.1\r\n\r\n"], [b"\x16\x03\x01"], [b"HTTP/1.1 two\r\n\r\n"]])
def test_what_is_not_http_is_refused(reads: list[bytes]) -> None:
    with pytest.raises(FramingError):
        feed(reads)


def test_bad_chunk_size_is_refused() -> None:
    with pytest.raises(FramingError, match="hexadecimal"):
        feed([HEAD + b"xyz\r\nabc\r\n"])


def test_content_length_surplus_and_connection_close() -> None:
    framer, _ = feed([b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbo", b"dyEXTRA"])
    assert framer.body == [(0, b"bo"), (1, b"dy")]
    assert (framer.done, framer.surplus, framer.keep_alive) == (True, 5, False)


def test_body_until_close_is_complete_at_the_end_of_the_connection_only() -> None:
    framer, done_at = feed([b"HTTP/1.1 200 OK\r\n\r\nabc", b"def"])
    assert done_at is None
    assert framer.eof()
    assert b"".join(text for _, text in framer.body) == b"abcdef"
    truncated, _ = feed([chunked(b"abc")[:-5]])
    assert not truncated.eof()


def test_interim_answers_are_skipped() -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"
    for reads in ([data], [data[i : i + 1] for i in range(len(data))]):
        framer, done_at = feed(reads)
        assert (framer.status, done_at) == (204, len(reads) - 1)
