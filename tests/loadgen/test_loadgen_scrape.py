"""Pages read beside a load: their form on disk, their times, what is missing of them, and how the reader ends."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from loadgen import workloads
from loadgen.plan import Plan, PlanError, ScrapeTarget
from loadgen.recover import recover
from loadgen.scrape import texts
from loadgen.scrape.pages import Differ

from .conftest import ENV, Result, Truth, finish, make_plan, start_run
from .test_loadgen_workers import children, gone

Start = Callable[..., Truth]
Run = Callable[..., Result]
FAST = ("--ttft-ms", "10", "--gap-ms", "1", "--metrics-style", "vllm")


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def engine(server: Truth, replica_id: str = "a") -> ScrapeTarget:
    return ScrapeTarget("engine", replica_id, f"{server.url}/metrics")


# ------------------------------------------------------------------ the plan


def test_a_plan_keeps_its_targets_through_json(truth: Start) -> None:
    workload = workloads.custom(concurrency=1)
    targets = (ScrapeTarget("engine", "a", "http://h:1/metrics"), ScrapeTarget("neuron", "n", "http://h:2"))
    plan = make_plan("http://h:1", workload, scrape=targets)
    assert Plan.from_json(plan.to_json()) == plan
    old = json.loads(plan.to_json())
    del old["scrape"]
    assert Plan.from_json(json.dumps(old)).scrape == ()


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (ScrapeTarget("gpu", "a", "http://h/metrics"), r"scrape\[0\].kind"),
        (ScrapeTarget("engine", "", "http://h/metrics"), r"scrape\[0\].replica_id"),
        (ScrapeTarget("engine", "a", "h:1/metrics"), r"scrape\[0\].url"),
        (ScrapeTarget("engine", "a", "http://h:x/"), r"scrape\[0\].url"),
        (ScrapeTarget("engine", "a", "http://me:pw@h/"), r"scrape\[0\].url: a user name"),
    ],
)
def test_a_wrong_target_is_refused_by_its_field(target: ScrapeTarget, named: str) -> None:
    with pytest.raises(PlanError, match=named):
        make_plan("http://h:1", workloads.custom(concurrency=1), scrape=(target,)).validate()


# ------------------------------------------------------------------ the form


def random_pages(seed: int) -> Iterator[str]:
    """A page whose values move, and now and then a line that comes, goes, is renamed or is no sample at all."""
    draw = random.Random(seed)
    names = [f'm{k}{{le="{k}", text="a b"}}' for k in range(12)]
    values = [0.0] * 12
    for _ in range(200):
        values = [value + draw.choice((0, 0, 1, 2.5)) for value in values]
        kind = draw.randrange(40)
        if kind == 0:
            names.insert(draw.randrange(len(names)), f"new_{draw.random()}")
            values.append(1.0)
        elif kind == 1 and len(names) > 3:
            del names[draw.randrange(len(names))], values[-1]
        elif kind == 2:
            names[0] = f"renamed_{draw.random()}"
        rows = zip(names, values, strict=True)
        text = "# TYPE m gauge\n" + "\n".join(f"{name} {value!r}" for name, value in rows)
        yield text + draw.choice(("\n", "\n", "\n", "", "\nodd\n"))


@pytest.mark.parametrize("seed", range(8))
def test_every_page_comes_back_byte_for_byte(seed: int) -> None:
    pages, differ = list(random_pages(seed)), Differ(whole_every=10)
    kept = [json.loads(json.dumps(differ.next(page))) for page in pages]
    assert [text for _, text in texts(kept)] == pages
    whole = [one["text"] is not None for one in kept]
    assert whole[0]
    assert 20 <= sum(whole) < 150, "most are differences, and no ten in a row"
    assert all(any(whole[k : k + 10]) for k in range(len(whole) - 10))


def test_a_reading_that_failed_changes_nothing_between_two_pages() -> None:
    differ = Differ()
    kept = [differ.next("a 1\n"), {"text": None, "changed": None, "error": "gone"}, differ.next("a 2\n")]
    assert [text for _, text in texts(kept)] == ["a 1\n", "a 2\n"]


@pytest.mark.parametrize("changed", [{"7": "1"}, {"-1": "1"}])
def test_a_difference_that_fits_no_page_is_refused(changed: Mapping[str, str]) -> None:
    with pytest.raises(ValueError, match="line"):
        list(texts([{"text": "a 1\n"}, {"text": None, "changed": changed}]))
    with pytest.raises(ValueError, match="to none"):
        list(texts([{"text": None, "changed": {"0": "1"}}]))


# ------------------------------------------------------------------ the process that reads


class Reader:
    """The reading process by itself, with a job of the test's own."""

    def __init__(self, folder: Path, targets: list[tuple[str, str]], **job: Any) -> None:
        self.files = [folder / f"{n}.jsonl.gz" for n in range(len(targets))]
        document = {
            "every_s": 0.05,
            "series": True,
            "wall_offset_ns": time.time_ns() - time.perf_counter_ns(),
            "targets": [
                {"kind": kind, "replica_id": "a", "url": url, "file": str(file)}
                for (kind, url), file in zip(targets, self.files, strict=True)
            ],
            **job,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "loadgen.scrape.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENV,
        )
        self.say(json.dumps(document))
        assert self.process.stdout is not None
        self.heard = json.loads(self.process.stdout.readline())

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def end(self, word: str | None = "end") -> list[dict[str, Any]]:
        assert self.process.stdin is not None
        if word is not None:
            self.say(word)
        out, _ = self.process.communicate(timeout=15)
        found: list[dict[str, Any]] = json.loads(out)["targets"]
        return found


@pytest.fixture
def page() -> Iterator[Callable[..., str]]:
    """Servers that answer each request with the next of the given raw answers (the last for ever)."""
    listeners: list[socket.socket] = []

    def serve(listener: socket.socket, answers: list[bytes], wait_s: float) -> None:
        number = 0
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while True:
                    try:
                        if not connection.recv(65536):
                            break
                        time.sleep(wait_s)
                        answer = answers[min(number, len(answers) - 1)]
                        number += 1
                        connection.sendall(answer)
                        if b"Content-Length" not in answer:
                            break
                    except OSError:
                        break

    def start(*answers: bytes, wait_s: float = 0.0) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=serve, args=(listener, list(answers), wait_s), daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def until(check: Callable[[], object], within_s: float = 10.0) -> None:
    limit = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.02)


def test_readings_are_due_at_fixed_times_and_both_ends_are_whole(tmp_path: Path, page: Any) -> None:
    url = page(*(ok(b"# TYPE a counter\na_total %d\n" % k) for k in range(1000)))
    before_ns = time.time_ns()
    reader = Reader(tmp_path, [("engine", url)])
    assert reader.heard == {"event": "read"}
    time.sleep(0.5)
    (counts,) = reader.end()
    rows = lines(reader.files[0])
    assert counts["readings"] == len(rows)
    assert [row["when"] for row in (rows[0], rows[-1])] == ["before", "after"]
    assert {row["when"] for row in rows[1:-1]} == {"beside"}
    assert None not in (rows[0]["text"], rows[-1]["text"])
    assert rows[1]["changed"] == {"1": "1"}
    assert [text.split()[-1] for _, text in texts(rows)] == [str(k) for k in range(len(rows))]
    assert before_ns < rows[0]["at"] < rows[-1]["at"] < time.time_ns()
    late = [(row["at"] - rows[0]["at"]) % 50_000_000 for row in rows[1:-1]]
    early = sorted(min(one, 50_000_000 - one) for one in late)
    assert early[len(early) // 2] < 15_000_000, "start + k x 50 ms, whatever the one before took"


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
    reader = Reader(tmp_path, [("dcgm", page(answer)), ("engine", page(ok(b"a 1\n")))])
    bad, good = reader.end()
    assert good == {"readings": 2, "gaps": {}} or good["readings"] > 2
    assert bad["readings"] == 0
    assert any(reason in gap for gap in bad["gaps"])
    assert all(row["error"] and row["text"] is None for row in lines(reader.files[0]))


def test_what_never_answers_is_left_alone_and_the_others_are_not(tmp_path: Path, page: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: refused
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/metrics"
        reader = Reader(tmp_path, [("dcgm", nobody), ("engine", page(ok(b"a 1\n")))])
        time.sleep(0.8)
        bad, good = reader.end()
    assert bad["readings"] == 0
    assert bad["gaps"] == {
        "it could not be read: Connection refused": 5,
        "it was left alone after five tries": 1,
    }
    assert len(lines(reader.files[0])) == 5
    assert good["readings"] > 5


def test_a_connection_the_server_closed_is_opened_again(tmp_path: Path, page: Any) -> None:
    url = page(b"HTTP/1.1 200 OK\r\n\r\na 1\n")  # until the end of the connection
    reader = Reader(tmp_path, [("engine", url)])
    time.sleep(0.3)
    (counts,) = reader.end()
    assert counts["readings"] >= 3
    assert "it could not be read" not in str(counts["gaps"])


def test_a_full_file_slows_the_pace_down_and_never_exceeds_its_bound(tmp_path: Path, page: Any) -> None:
    url = page(*(ok(b"name_%d 1\n" % k) for k in range(1000)))  # always another name: always a whole page
    reader = Reader(tmp_path, [("dcgm", url)], every_s=0.01, max_bytes=8000)
    time.sleep(1.2)
    (counts,) = reader.end()
    rows = lines(reader.files[0])
    steps = [b["at"] - a["at"] for a, b in pairwise(rows[1:-1])]
    assert steps[-1] > 3 * min(steps), "the pace has halved more than once"
    assert sum(len(json.dumps(row)) for row in rows[:-1]) < 9500
    assert counts["readings"] == len(rows)


def test_without_a_series_there_are_only_the_two_ends(tmp_path: Path, page: Any) -> None:
    reader = Reader(tmp_path, [("engine", page(ok(b"a 1\n")))], series=False)
    time.sleep(0.3)
    assert reader.end() == [{"readings": 2, "gaps": {}}]
    assert [row["when"] for row in lines(reader.files[0])] == ["before", "after"]


def test_the_end_of_its_parent_ends_it_at_once_with_whole_files(tmp_path: Path, page: Any) -> None:
    reader = Reader(tmp_path, [("engine", page(ok(b"a 1\n")))])
    began = time.monotonic()
    (counts,) = reader.end(None)  # standard input is closed without a word
    assert time.monotonic() - began < 2
    assert counts["readings"] == len(lines(reader.files[0]))
    assert "after" not in {row["when"] for row in lines(reader.files[0])}


# ------------------------------------------------------------------ beside a run


def test_a_run_is_framed_by_the_pages_before_and_after_it(truth: Start, run: Run) -> None:
    server = truth(*FAST)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/metrics"
        workload = workloads.custom(concurrency=3, isl=32, osl=4, duration_s=2.2, warmup_s=0.2)
        targets = (engine(server), ScrapeTarget("dcgm", "node", nobody))
        before = get(f"{server.url}/metrics")
        result = run(make_plan(server.url, workload, scrape=targets, null_server=False))
        after = get(f"{server.url}/metrics")
    assert result.code == 0, result.error
    shard = result.shard
    first, second = shard["scrapes"]
    folder = result.out / "shard=000"
    assert sorted(path.name for path in folder.iterdir()) == [
        "part-000-000.parquet",
        "scrape-0.jsonl.gz",
        "scrape-1.jsonl.gz",
        "shard.json",
    ]
    rows = lines(folder / first["name"])
    assert (first["kind"], first["replica_id"], first["readings"], first["gaps"]) == (
        "engine",
        "a",
        len(rows),
        {},
    )
    pages = [(row, text) for row, text in texts(rows)]
    assert pages[0][1] == before, "nothing was sent before it"
    assert pages[-1][1] == after, "everything was answered before it"
    assert before != after
    window = shard["steps"][0]
    inside = [
        row
        for row in rows
        if window["phase_starts_ns"]["warmup"] < row["at"] < window["phase_starts_ns"]["end"]
    ]
    assert len(inside) >= 2, "the clock is the samples' clock, and it is read all the time"
    assert second["readings"] == 0
    assert second["gaps"]["it could not be read: Connection refused"] >= 2
    assert shard["complete"]


def test_every_worker_frames_its_own_requests_and_only_the_first_reads_all_the_time(
    truth: Start, run: Run
) -> None:
    server = truth(*FAST)
    workload = workloads.custom(concurrency=4, isl=32, osl=4, duration_s=1.5, warmup_s=0.1)
    targets = (ScrapeTarget("dcgm", "node", f"{server.url}/metrics"), engine(server))
    before = get(f"{server.url}/metrics")
    result = run(make_plan(server.url, workload, scrape=targets, workers=2, null_server=False))
    after = get(f"{server.url}/metrics")
    assert result.code == 0, result.error
    found = [json.loads((result.out / f"shard=00{k}" / "shard.json").read_text())["scrapes"] for k in (0, 1)]
    assert [[entry["name"] for entry in of_shard] for of_shard in found] == [
        ["scrape-0.jsonl.gz", "scrape-1.jsonl.gz"],
        ["scrape-1.jsonl.gz"],
    ]
    rows = [lines(result.out / f"shard=00{k}" / "scrape-1.jsonl.gz") for k in (0, 1)]
    assert [row["when"] for row in rows[1]] == ["before", "after"]
    assert len(rows[0]) > 3
    everything = [(row["at"], text) for of_shard in rows for row, text in texts(of_shard)]
    assert min(everything)[1] == before
    assert max(everything)[1] == after


def begun(truth: Start, tmp_path: Path) -> tuple[subprocess.Popen[str], Path, list[int]]:
    """A long run with a target, in its window, and the processes it started."""
    server = truth(*FAST)
    workload = workloads.custom(concurrency=2, isl=32, osl=4, duration_s=30, warmup_s=0.1)
    process, out = start_run(
        make_plan(server.url, workload, scrape=(engine(server),), null_server=False), tmp_path
    )
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and event["phase"] == "measure" and event["elapsed_s"] > 1:
            break
    return process, out, children(process.pid)


def test_an_interrupted_run_keeps_what_was_read(truth: Start, tmp_path: Path) -> None:
    process, out, pids = begun(truth, tmp_path)
    assert len(pids) == 1
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    result = finish(process, out)
    assert time.monotonic() - began < 8
    assert result.code == 130
    (entry,) = result.shard["scrapes"]
    rows = lines(out / "shard=000" / entry["name"])
    assert entry["readings"] == len(rows) >= 2
    assert rows[-1]["when"] == "beside"
    assert gone(pids)


def test_the_reader_dies_with_a_killed_generator_and_its_pages_are_recovered(
    truth: Start, tmp_path: Path
) -> None:
    process, out, pids = begun(truth, tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert gone(pids)
    folder = out / "shard=000"
    recover(folder)
    (entry,) = json.loads((folder / "shard.json").read_text())["scrapes"]
    rows = lines(folder / entry["name"])
    assert (entry["kind"], entry["readings"], entry["gaps"]) == ("engine", len(rows), {})
    assert len(rows) >= 2
    assert [path.name for path in folder.glob(".*")] == []


def test_a_reader_that_is_killed_is_a_gap_and_no_failure(truth: Start, tmp_path: Path) -> None:
    server = truth(*FAST)
    workload = workloads.custom(concurrency=2, isl=32, osl=4, duration_s=1.5, warmup_s=0.1)
    process, out = start_run(
        make_plan(server.url, workload, scrape=(engine(server),), null_server=False), tmp_path
    )
    until(lambda: children(process.pid) and any(out.glob("shard=000/.scrape-*")))
    os.kill(children(process.pid)[0], signal.SIGKILL)
    result = finish(process, out)
    assert result.code == 0, result.error
    (entry,) = result.shard["scrapes"]
    assert (entry["readings"], list(entry["gaps"])) == (
        None,
        ["the process that reads ended early (signal 9)"],
    )
    assert any("ended early" in warning for warning in result.shard["warnings"])
