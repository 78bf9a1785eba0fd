"""The process that reads pages: its times, what is missing of a page, and how it ends."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from loadgen.scrape import texts

from .page_reader import BUSY, MISSED, Reader, lines, ok, page, span_ns

__all__ = ["page"]  # the fixture


def test_readings_are_due_at_fixed_times_and_both_ends_are_whole(tmp_path: Path, page: Any) -> None:
    """Each takes more than half of the 50 ms: what counted from the end of the one before would show at once."""
    shown = page(*(ok(b"# TYPE a counter\na_total %d\n" % k) for k in range(1000)), wait_s=0.03)
    before_ns = time.time_ns()
    reader = Reader(tmp_path, [("engine", shown.url)])
    assert reader.heard == {"event": "read"}
    shown.wait(8)
    (counts,) = reader.end()
    rows = lines(reader.files[0])
    assert counts["readings"] == len(rows) >= 8
    assert [row["when"] for row in (rows[0], rows[-1])] == ["before", "after"]
    assert {row["when"] for row in rows[1:-1]} == {"beside"}
    assert None not in (rows[0]["text"], rows[-1]["text"])
    assert rows[1]["changed"] == {"1": "1"}
    assert [text.split()[-1] for _, text in texts(rows)] == [str(k) for k in range(len(rows))]
    assert before_ns < rows[0]["at"] < rows[-1]["at"] < time.time_ns()
    every, slack = 50_000_000, 2_000  # half a microsecond is lost at each end of a span
    first, *_, last = (span_ns(row) for row in rows[1:-1])
    for number, row in enumerate(rows[1:-1], start=1):
        assert span_ns(row)[0] >= span_ns(rows[0])[1] + number * every - slack, (
            "none before start + k x 50 ms"
        )
    turns = len(rows) - 2 + counts["gaps"].pop(MISSED, 0)
    assert counts["gaps"] == {}
    assert turns * every <= span_ns(rows[-1])[0] - span_ns(rows[0])[1] + slack, "no more than had come due"
    assert last[1] - first[0] < turns * every + slack, (
        "every time that came due was read or counted as missed"
    )


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "it answered HTTP 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\nhalf", "took longer than 2 s"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"a 1\n" * 2_000_000, "longer than 4 MiB"),
        (b"no HTTP at all\r\n\r\n", "BadStatusLine"),
    ],
)
def test_a_page_that_cannot_be_read_is_a_gap_with_its_reason(
    tmp_path: Path, page: Any, answer: bytes, reason: str
) -> None:
    reader = Reader(tmp_path, [("dcgm", page(answer).url), ("engine", page(ok(b"a 1\n")).url)])
    bad, good = reader.end()
    assert good["readings"] >= 2
    assert set(good["gaps"]) <= BUSY
    assert bad["readings"] == 0
    assert any(reason in gap for gap in bad["gaps"])
    assert all(row["error"] and row["text"] is None for row in lines(reader.files[0]))


def test_what_never_answers_is_left_alone_and_the_others_are_not(tmp_path: Path, page: Any) -> None:
    mute, good = page(b""), page(ok(b"a 1\n"))
    reader = Reader(tmp_path, [("dcgm", mute.url), ("engine", good.url)])
    mute.wait(5)
    good.wait(good.asked + 6)
    told, counts = reader.end()
    told["gaps"].pop(MISSED, None)
    assert told["readings"] == 0
    assert told["gaps"] == {
        "it could not be read: RemoteDisconnected": 5,
        "it was left alone after five tries": 1,
    }
    assert mute.asked == len(lines(reader.files[0])) == 5
    assert counts["readings"] > 5


def test_a_port_that_nobody_listens_on_is_a_gap_with_its_reason(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: refused
        reader = Reader(tmp_path, [("dcgm", f"http://127.0.0.1:{closed.getsockname()[1]}/metrics")])
        (counts,) = reader.end()
    assert counts["readings"] == 0
    assert counts["gaps"]["it could not be read: Connection refused"] >= 1


def test_a_connection_the_server_closed_is_opened_again(tmp_path: Path, page: Any) -> None:
    shown = page(b"HTTP/1.1 200 OK\r\n\r\na 1\n")  # until the end of the connection
    reader = Reader(tmp_path, [("engine", shown.url)])
    shown.wait(4)
    (counts,) = reader.end()
    assert counts["readings"] >= 4
    assert set(counts["gaps"]) <= BUSY


def test_a_full_file_slows_the_pace_down_and_never_exceeds_its_bound(tmp_path: Path, page: Any) -> None:
    shown = page(*(ok(b"name_%d 1\n" % k) for k in range(1000)))  # always another name: always a whole page
    bound = 8000
    reader = Reader(tmp_path, [("dcgm", shown.url)], every_s=0.01, max_bytes=bound)
    shown.wait(44)
    (counts,) = reader.end()
    rows = lines(reader.files[0])
    assert counts["readings"] == sum(row["error"] is None for row in rows)
    size, limit, every_ns, due_ns, paces = 0, bound // 2, 10_000_000, span_ns(rows[0])[1], set[int]()
    for row in rows[:-1]:
        if row["when"] == "beside":
            assert span_ns(row)[0] >= due_ns - 2_000, "no reading before its time"
            paces.add(every_ns)
        size += len(json.dumps(row, separators=(",", ":"))) + 1
        if size > limit:  # half of what was left is used
            every_ns, limit = 2 * every_ns, limit + (bound - limit) // 2
        due_ns += every_ns
    assert len(paces) >= 3, "the pace has halved more than once"
    assert size < bound


def test_without_a_series_there_are_only_the_two_ends(tmp_path: Path, page: Any) -> None:
    shown = page(ok(b"a 1\n"))
    reader = Reader(tmp_path, [("engine", shown.url)], series=False, every_s=0.001)
    time.sleep(0.1)  # a hundred readings' time: that none is taken cannot be waited for
    assert reader.end() == [{"readings": 2, "gaps": {}}]
    assert [row["when"] for row in lines(reader.files[0])] == ["before", "after"]
    assert shown.asked == 2


def test_the_end_of_its_parent_ends_it_at_once_with_whole_files(tmp_path: Path, page: Any) -> None:
    """At once: not when the next reading is due, which is in an hour."""
    shown = page(ok(b"a 1\n"))
    reader = Reader(tmp_path, [("engine", shown.url)], every_s=3600)
    (counts,) = reader.end(None)  # standard input is closed without a word
    assert counts["readings"] == len(lines(reader.files[0])) == shown.asked == 1
    assert [row["when"] for row in lines(reader.files[0])] == ["before"]
