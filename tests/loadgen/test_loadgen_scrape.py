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
from pathlib import Path
from typing import Any

import pytest

from loadgen import workloads
from loadgen.clock import reading
from loadgen.plan import Plan, PlanError, ScrapeTarget
from loadgen.recover import recover
from loadgen.scrape import texts
from loadgen.scrape.pages import Differ

from .conftest import ENV, HANG_S, Result, Truth, finish, make_plan, start_run
from .test_loadgen_workers import children, gone

Start = Callable[..., Truth]
Run = Callable[..., Result]
FAST = ("--ttft-ms", "10", "--gap-ms", "1", "--metrics-style", "vllm")


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=HANG_S) as answer:
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


AT_NORMAL_PRIORITY = (
    "import os\nos.nice = os.sched_setscheduler = lambda *_: 0\n"
    "from loadgen.scrape.child import main\nraise SystemExit(main())"
)


class Reader:
    """The reading process by itself, with a job of the test's own. It runs at normal priority: at the lowest, which is
    its own, another program on the machine decides when it reads."""

    def __init__(self, folder: Path, targets: list[tuple[str, str]], **job: Any) -> None:
        self.files = [folder / f"{n}.jsonl.gz" for n in range(len(targets))]
        document = {
            "every_s": 0.05,
            "series": True,
            "wall_offset_ns": reading(time.time_ns, time.perf_counter_ns)[1],
            "targets": [
                {"kind": kind, "replica_id": "a", "url": url, "file": str(file)}
                for (kind, url), file in zip(targets, self.files, strict=True)
            ],
            **job,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", AT_NORMAL_PRIORITY],
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
        out, _ = self.process.communicate(timeout=HANG_S)
        found: list[dict[str, Any]] = json.loads(out)["targets"]
        return found


class Page:
    """A server that answers each request with the next of the given raw answers (the last for ever); ``asked`` counts
    them, and can be waited for."""

    def __init__(self, *answers: bytes, wait_s: float = 0.0) -> None:
        self._answers, self._wait_s, self.asked = answers, wait_s, 0
        self._more = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/metrics"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                while True:
                    try:
                        if not connection.recv(65536):
                            break
                        time.sleep(self._wait_s)
                        answer = self._next()
                        connection.sendall(answer)
                        if b"Content-Length" not in answer:
                            break
                    except OSError:
                        break

    def _next(self) -> bytes:
        with self._more:
            answer = self._answers[min(self.asked, len(self._answers) - 1)]
            self.asked += 1
            self._more.notify_all()
        return answer

    def wait(self, asked: int) -> None:
        with self._more:
            assert self._more.wait_for(lambda: self.asked >= asked, HANG_S), "it was not asked so often"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def page() -> Iterator[Callable[..., Page]]:
    made: list[Page] = []

    def start(*answers: bytes, wait_s: float = 0.0) -> Page:
        made.append(Page(*answers, wait_s=wait_s))
        return made[-1]

    yield start
    for one in made:
        one.close()


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def until(check: Callable[[], object], within_s: float = HANG_S) -> None:
    limit = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.02)


MISSED = "a reading was still under way"
BUSY = {MISSED, "a reading took longer than 2 s"}  # what a machine too busy to read in time is told by


def span_ns(row: Mapping[str, Any]) -> tuple[int, int]:
    """When a reading began and ended; its ``at`` is the middle."""
    half = round(row["took_ms"] * 500_000)
    return row["at"] - half, row["at"] + half


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


# ------------------------------------------------------------------ beside a run


def test_a_run_is_framed_by_the_pages_before_and_after_it(truth: Start, run: Run) -> None:
    server = truth(*FAST)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/metrics"
        workload = workloads.custom(concurrency=3, isl=32, osl=4, duration_s=2.2, warmup_s=0.2)
        targets = (engine(server), ScrapeTarget("dcgm", "node", nobody))
        before = get(f"{server.url}/metrics")
        result = run(make_plan(server.url, workload, scrape=targets))
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
    read = sum(row["error"] is None for row in rows)
    assert (first["kind"], first["replica_id"], first["readings"]) == ("engine", "a", read)
    assert set(first["gaps"]) <= BUSY
    pages = [(row, text) for row, text in texts(rows)]
    assert pages[0][1] == before, "nothing was sent before it"
    assert pages[-1][1] == after, "everything was answered before it"
    assert before != after
    window = shard["steps"][0]
    assert rows[0]["at"] < window["phase_starts_ns"]["warmup"] < window["measure_end_ns"] < rows[-1]["at"], (
        "the clock is the samples' clock"
    )
    beside = [row for row in rows if row["when"] == "beside"]
    assert len(beside) >= 1
    assert len(beside) + first["gaps"].get(MISSED, 0) >= 2, "every second is read or counted as missed"
    assert second["readings"] == 0
    refused = second["gaps"].pop("it could not be read: Connection refused")
    assert refused + sum(second["gaps"].values()) >= 2
    assert shard["complete"]


def test_every_worker_frames_its_own_requests_and_only_the_first_reads_all_the_time(
    truth: Start, run: Run
) -> None:
    server = truth(*FAST)
    workload = workloads.custom(concurrency=4, isl=32, osl=4, duration_s=1.5, warmup_s=0.1)
    targets = (ScrapeTarget("dcgm", "node", f"{server.url}/metrics"), engine(server))
    before = get(f"{server.url}/metrics")
    result = run(make_plan(server.url, workload, scrape=targets, workers=2))
    after = get(f"{server.url}/metrics")
    assert result.code == 0, result.error
    found = [json.loads((result.out / f"shard=00{k}" / "shard.json").read_text())["scrapes"] for k in (0, 1)]
    assert [[entry["name"] for entry in of_shard] for of_shard in found] == [
        ["scrape-0.jsonl.gz", "scrape-1.jsonl.gz"],
        ["scrape-1.jsonl.gz"],
    ]
    rows = [lines(result.out / f"shard=00{k}" / "scrape-1.jsonl.gz") for k in (0, 1)]
    assert [row["when"] for row in rows[1]] == ["before", "after"]
    assert len(rows[0]) >= 3, "the two ends and what lies between"
    everything = [(row["at"], text) for of_shard in rows for row, text in texts(of_shard)]
    assert min(everything)[1] == before
    assert max(everything)[1] == after


def begun(truth: Start, shown: Page, tmp_path: Path) -> tuple[subprocess.Popen[str], Path, list[int]]:
    """A long run, read twice since it began, and the processes it started."""
    workload = workloads.custom(concurrency=2, isl=32, osl=4, duration_s=200, warmup_s=0.1)
    target = ScrapeTarget("engine", "a", shown.url)
    process, out = start_run(make_plan(truth(*FAST).url, workload, scrape=(target,)), tmp_path)
    shown.wait(3)  # when the third is asked for, two are in the file
    assert process.stdout is not None
    while (json.loads(process.stdout.readline()).get("completed") or 0) < 10:
        continue  # and some answers are in the spool
    return process, out, children(process.pid)


def test_an_interrupted_run_keeps_what_was_read(truth: Start, page: Any, tmp_path: Path) -> None:
    process, out, pids = begun(truth, page(ok(b"a 1\n")), tmp_path)
    assert len(pids) == 1
    process.send_signal(signal.SIGTERM)
    result = finish(process, out)
    assert result.code == 130
    (entry,) = result.shard["scrapes"]
    rows = lines(out / "shard=000" / entry["name"])
    assert len(rows) >= entry["readings"] == sum(row["error"] is None for row in rows) >= 1
    assert rows[-1]["when"] == "beside"
    assert gone(pids)


def test_the_reader_dies_with_a_killed_generator_and_its_pages_are_recovered(
    truth: Start, page: Any, tmp_path: Path
) -> None:
    process, out, pids = begun(truth, page(ok(b"a 1\n")), tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert gone(pids)
    folder = out / "shard=000"
    recover(folder)
    (entry,) = json.loads((folder / "shard.json").read_text())["scrapes"]
    rows = lines(folder / entry["name"])
    assert (entry["kind"], entry["readings"]) == ("engine", sum(row["error"] is None for row in rows))
    assert len(rows) >= 2
    assert [path.name for path in folder.glob(".*")] == []


def test_a_reader_that_is_killed_is_a_gap_and_no_failure(truth: Start, page: Any, tmp_path: Path) -> None:
    """It is killed while it waits for its first page, so that the load has not begun."""
    workload = workloads.custom(concurrency=2, isl=32, osl=4, duration_s=60, warmup_s=0.1, requests=20)
    slow = page(ok(b"a 1\n"), wait_s=1.0)
    target = ScrapeTarget("engine", "a", slow.url)
    process, out = start_run(make_plan(truth(*FAST).url, workload, scrape=(target,)), tmp_path)
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
