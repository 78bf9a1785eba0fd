"""Raw answers on disk: what comes back is what went in, memory stays, a killed generator's samples are kept."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen import workloads
from loadgen.clock import KernelClock
from loadgen.exchange import Exchange, Failure, Request
from loadgen.ledger import Ledger
from loadgen.monitor import Monitor
from loadgen.output import OutputError
from loadgen.plan import Replica
from loadgen.recover import main as recover_main
from loadgen.samples import Origin, SampleBatch
from loadgen.spool import Spool, records
from loadgen.spool_decode import BackgroundDecoder, batches

from .conftest import ENV, HANG_S, Truth, make_plan, start_run
from .test_loadgen_decode import delta, reads_of, usage_only

ORIGIN = Origin("run", 2, 1, "m", 10**15, lambda text: text.replace("s3cr3t", "****"))
REPLICA = Replica("one", "http://one")


def answered(seq: int, words: int = 3, *, sent_ns: int = 1_000, **request: Any) -> Exchange:
    reads = reads_of(
        *(delta(f"w{index} ") for index in range(words)), delta("", finish="stop"), usage_only(words)
    )
    asked = Request(seq, f"r-{seq}", b"{}", b"p%d" % seq, 8, words, **request)
    found = Exchange(asked, REPLICA, True, sent_ns=sent_ns, begun_ns=sent_ns, end_ns=sent_ns + 10**6)
    for index, read in enumerate(reads):
        found.reads.append(read)
        found.stamps.append(sent_ns + 1_000 * (index + 1))
        found.lags_ns.append(2_000)
    found.http_status = 200
    return found


def ledger(spool: Spool | None, **changes: Any) -> Ledger:
    return Ledger(ORIGIN, Monitor(), **{"measure_ns": 0, "measure_end_ns": 10**15, "spool": spool, **changes})


def settled(book: Ledger) -> list[SampleBatch]:
    found: list[SampleBatch] = []
    book.settle(found.append)
    return found


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_what_was_written_comes_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    spool = Spool.open(tmp_path_factory.mktemp("spool"), segment_bytes=400)
    spool.begin({"step": 1})
    written = []
    for seq in range(data.draw(st.integers(1, 6))):
        exchange = answered(seq, data.draw(st.integers(1, 4)), turn=data.draw(st.none() | st.integers(0, 9)))
        exchange.request.session_id = data.draw(st.none() | st.text(max_size=3))
        exchange.planned_cancel = data.draw(st.booleans())
        exchange.connect_ms = data.draw(st.none() | st.floats(0, 1e6))
        if data.draw(st.booleans()):
            exchange.failure = Failure("error", "mid_stream", data.draw(st.text(max_size=5)))
        if data.draw(st.booleans()):
            exchange.reads *= 60  # long enough to be moved out of memory before its end
            exchange.stamps *= 60
            exchange.lags_ns *= 60
            expected = b"".join(exchange.reads)
            spool.spill(exchange)
            assert len(exchange.reads) == (0 if len(exchange.stamps) >= 256 else len(exchange.stamps))
        else:
            expected = b"".join(exchange.reads)
        spool.append(exchange)
        written.append((exchange, expected))
    found = [one for path in spool.finish() for one in records(path)]
    assert [one for one in found if isinstance(one, dict)] == [{"step": 1}] * len(spool.segments)
    back = [one for one in found if isinstance(one, Exchange)]
    for (exchange, expected), again in zip(written, back, strict=True):
        assert b"".join(again.reads) == expected
        assert (again.stamps, again.lags_ns) == (exchange.stamps, exchange.lags_ns)
        assert again.request.prompt_hash == exchange.request.prompt_hash
        for name in ("session_id", "turn", "model", "seq", "request_id", "output_tokens", "cancel_after_ns"):
            assert getattr(again.request, name) == getattr(exchange.request, name)
        for name in (
            "failure",
            "replica",
            "planned_cancel",
            "connect_ms",
            "sent_ns",
            "end_ns",
            "http_status",
        ):
            assert getattr(again, name) == getattr(exchange, name)
    spool.close()
    assert list(spool.folder.iterdir()) == []


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = ledger(Spool.open(tmp_path))
    book.take(answered(0))
    book.flush()
    book.take(answered(1))
    real, left = os.write, [40]

    def full(descriptor: int, data: memoryview) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        size = real(descriptor, data[: left[0]])
        left[0] -= size
        return size

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OutputError, match="The disk is full"):
            book.flush()
        book.take(answered(2))
        assert [seq for batch in settled(book) for seq in batch.columns["seq"]] == [0, 1, 2]
    assert book.window_ok == 3


def test_the_spool_is_private_and_a_cut_record_ends_it(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    book = ledger(spool)
    for seq in range(3):
        book.take(answered(seq))
    book.flush()
    (path,) = spool.segments
    assert path.stat().st_mode & 0o777 == 0o600
    os.truncate(path, path.stat().st_size - 7)
    assert sum(isinstance(one, Exchange) for one in records(path)) == 2


def test_phases_and_counts_are_decided_when_it_is_settled(tmp_path: Path) -> None:
    book = ledger(Spool.open(tmp_path))
    late, cut, failed = answered(2, sent_ns=9_000), answered(3, sent_ns=5_000), answered(4, sent_ns=5_500)
    cut.failure, cut.planned_cancel = Failure("cancelled", None, "planned"), True
    failed.failure = Failure("error", "mid_stream", "lost with s3cr3t")
    aside = answered(5, sent_ns=5_000)
    aside.phase = "canary"
    for exchange in (answered(0, sent_ns=1_000), answered(1, sent_ns=5_000), late, cut, failed, aside):
        book.take(exchange)
    assert (book.completed, book.failed) == (5, 1)
    book.measure_ns, book.measure_end_ns = 4_000, 8_000  # the window moved
    (batch,) = settled(book)
    assert batch.columns["phase"] == ["warmup", "measure", "tail", "measure", "measure", "canary"]
    assert (book.window_sent, book.window_ok, book.window_cut, book.window_failures) == (
        3,
        1,
        1,
        {"mid_stream": 1},
    )
    assert (book.chunks, book.shared_chunks, book.lag_p99_us()) == (9, 0, 2)
    assert book.requests_by_replica == {"one": 6}
    assert book.causes() == [
        {"status": "cancelled", "error_class": None, "http_status": 200, "count": 1, "text": "planned"},
        {
            "status": "error",
            "error_class": "mid_stream",
            "http_status": 200,
            "count": 1,
            "text": "lost with ****",
        },
    ]
    assert list(tmp_path.glob(".spool-*.raw")) == []


def test_earlier_chunks_of_a_read_have_a_stamp_that_is_not_theirs() -> None:
    book, one = ledger(None), answered(0, 4)
    one.reads[1:4] = [b"".join(one.reads[1:4])]  # three of the four chunks in one read
    del one.stamps[2:4], one.lags_ns[2:4]
    book.take(one)
    (batch,) = settled(book)
    assert (book.chunks, book.shared_chunks) == (4, 2)  # the stamp belongs to the last of the three
    assert batch.columns["shared_chunks"] == [3]  # three share a stamp
    assert batch.columns["chunk_stamp"] == ["kernel"]


def test_batches_are_bounded_and_in_order(tmp_path: Path) -> None:
    book = ledger(Spool.open(tmp_path, segment_bytes=1_000_000))
    for seq in range(5_000):
        book.take(answered(seq, 1))
    found = settled(book)
    assert max(map(len, found)) <= 4_096
    assert [seq for batch in found for seq in batch.columns["seq"]] == list(range(5_000))


def test_a_background_process_decodes_full_segments_to_the_same_samples(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path, segment_bytes=20_000)
    book = ledger(spool)
    book._background = decoder = BackgroundDecoder(spool, limit_bytes=0)
    clock = KernelClock()
    clock.jumps.append((1_000, 5_000))  # reads at 4 and 5 µs (stamp + lag) lose their kernel stamps
    for seq in range(60):
        exchange = answered(seq)
        exchange.clock = clock
        book.take(exchange)
        if seq == 40:
            book.flush()
            while not decoder.decoded:
                assert decoder._process is not None
                decoder._process.wait(HANG_S)
                decoder.look(clock)
    assert decoder.decoded[0].stat().st_size == 0  # its bytes are gone from the disk
    first = SampleBatch.from_parquet(next(tmp_path.glob("*.parquet")).read_bytes())
    assert first.columns["phase"][0] == ""
    found = settled(book)
    assert [seq for batch in found for seq in batch.columns["seq"]] == list(range(60))
    rows = [batch.columns for batch in found]
    for name in rows[0]:
        values = {repr(value) for columns in rows for value in columns[name]}
        if name not in ("seq", "request_id", "prompt_hash"):
            assert len(values) == 1, name  # decoded here or there: the same
    assert {phase for columns in rows for phase in columns["phase"]} == {"measure"}
    assert {stamp for columns in rows for stamp in columns["chunk_stamp"]} == {"user"}
    assert clock.fallbacks == 60 * 2
    assert list(tmp_path.glob("*.parquet")) == []


def test_a_killed_generator_leaves_samples_that_can_be_recovered(
    truth: Callable[..., Truth], tmp_path: Path
) -> None:
    workload = workloads.custom(concurrency=4, isl=32, osl=8, duration_s=100.0, warmup_s=0.1)
    process, out = start_run(make_plan(truth("--ttft-ms", "5", "--gap-ms", "1").url, workload), tmp_path)
    recover = [sys.executable, "-m", "loadgen", "recover", "--out", str(out)]
    assert process.stdout is not None
    completed = 0
    while completed < 30:
        completed = json.loads(process.stdout.readline()).get("completed") or 0
    alive = subprocess.run(recover, capture_output=True, text=True, env=ENV, timeout=HANG_S)
    assert alive.returncode == 1
    assert "still running" in alive.stderr
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=HANG_S)
    shard = out / "shard=000"
    assert not (shard / "shard.json").exists()
    done = subprocess.run(recover, capture_output=True, text=True, env=ENV, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    record = json.loads((shard / "shard.json").read_text())
    assert (record["complete"], record["reason"]) == (False, "recovered after the generator was killed")
    rows = [
        row
        for part in record["parts"]
        for row in pq.read_table(shard / part["name"]).drop(["scheduled_at"]).drop(["sent_at"]).to_pylist()
    ]
    assert record["rows"] == len(rows) >= completed
    assert {row["status"] for row in rows} == {"ok"}
    assert {"warmup", "measure"} <= {row["phase"] for row in rows}
    assert all(len(row["chunk_offset_us"]) == 8 for row in rows if row["phase"] != "calibration")
    assert [path.name for path in shard.iterdir() if path.name.startswith(".")] == []
    again = subprocess.run(recover, capture_output=True, text=True, env=ENV, timeout=HANG_S)
    assert again.returncode == 1
    assert "nothing to recover" in again.stderr


@pytest.mark.parametrize("data", [b"", b"\x00\x01"])
def test_a_generator_killed_before_its_first_answer_leaves_nothing_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    folder = tmp_path / "shard=000"
    folder.mkdir()
    (folder / ".spool-1-000.raw").write_bytes(data)
    assert recover_main(["--out", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"There is nothing to recover in {folder}: the generator was killed before")
    assert told.count("\n") == 1
    assert not (folder / "shard.json").exists()


def test_a_segment_half_of_which_was_written_before_is_not_written_twice(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    book = ledger(spool, skip=frozenset({"r-0", "r-1"}))
    for seq in range(4):
        book.take(answered(seq))
    book.flush()
    found = [batch for path in spool.finish() for batch in batches(path, None, str, book.skip)]
    assert [seq for batch in found for seq in batch.columns["seq"]] == [2, 3]


_GROWTH = """
import sys
sys.path.insert(0, {root!r})
from tests.loadgen.test_loadgen_spool import ORIGIN, answered
from loadgen.ledger import Ledger
from loadgen.monitor import Monitor
from loadgen.spool import Spool

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

spool = Spool.open({folder!r})
book = Ledger(ORIGIN, Monitor(), 0, 10**15, spool)
made = answered(0, 256)
reads, stamps, lags = made.reads, made.stamps, made.lags_ns
sizes = []
for count in range(1, 4001):
    one = answered(count, 1)
    one.reads, one.stamps, one.lags_ns = [bytes(bytearray(read)) for read in reads], stamps[:], lags[:]
    book.take(one)
    book.flush()
    if count in (1000, 4000):
        sizes.append(resident())
    if count == 3500:
        spool.close()  # what comes from now on is decoded, the rest would only take the test's time
rows = []
book.settle(lambda batch: rows.append(len(batch)))
print(sizes[1] - sizes[0], resident() - sizes[0], sum(rows))
"""


def test_memory_does_not_grow_with_the_requests(tmp_path: Path) -> None:
    """3,000 requests of 256 tokens are some 200 MB of raw answers; on disk they cost no memory, and decoding them
    one batch's (16 MiB of columns, with Parquet's library left out here)."""
    code = _GROWTH.format(root=str(Path(__file__).parents[2]), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=True
    )
    taken, decoded, rows = map(int, done.stdout.split())
    assert rows == 500
    assert taken < 2 * 2**20  # 1.5 MB per 1,000 would be 4.5 MB
    assert decoded < 96 * 2**20
