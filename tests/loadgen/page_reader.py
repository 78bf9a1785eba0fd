"""The process that reads pages beside a load by itself, raw pages for it to read, and what it wrote of them."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from loadgen.clock import reading

from ..support.sockets import accepted
from .conftest import ENV, HANG_S

MISSED = "a reading was still under way"
BUSY = {MISSED, "a reading took longer than 2 s"}  # what a machine too busy to read in time is told by
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
        for connection in accepted(self._listener):
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


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def span_ns(row: Mapping[str, Any]) -> tuple[int, int]:
    """When a reading began and ended; its ``at`` is the middle."""
    half = round(row["took_ms"] * 500_000)
    return row["at"] - half, row["at"] + half
