"""The process that reads: at fixed times, bounded, at low priority, and never longer than its parent lives.

Belongs here: fetching a page within two seconds, the times of readings, what is a gap, the files. Does not belong here:
who starts it (``beside``), the form of a row of pages (``pages``).

One thread a target, so that a slow exporter makes no gaps in another's series. Readings are due at start + k seconds
whatever the one before took. The job is the first line of standard input; a line on standard output says that the first
readings are in. The line ``end`` asks for a last reading; the end of standard input without it, which is also what the
parent's death looks like, ends everything at once. Either way the files are complete when the process ends, and the
last line on standard output counts readings and gaps.
"""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import http.client
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from loadgen.scrape.pages import Differ

NS = 1_000_000_000
SLOW_S = 2.0
"""A reading that takes longer is a gap: nobody could say which moment it describes."""
ABSENT_AFTER = 5
"""Tries after which a target that never answered is left alone."""
MAX_BYTES = 64 * 2**20
"""Of one file before compression. When half of what was left of it is used, the pace halves."""
_PAGE_BYTES = 4 * 2**20
_NICE = 19
_FRAME_TRIES, _FRAME_PAUSE_S = 3, 0.2  # of an engine's page before and after the load: counters depend on it
_JOIN_S = _FRAME_TRIES * (SLOW_S + _FRAME_PAUSE_S) + 0.5  # longer only where a name is being looked up
_LAST_WORDS_S = 5  # between the parent's death and the end of this process, whatever it is doing
_PR_SET_PDEATHSIG = 1


class Unread(Exception):
    """A reading that could not be had; the text is the reason of a gap."""


class Target:
    """One page over one kept connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        assert parts.hostname is not None
        self._connection = kind(parts.hostname, parts.port, timeout=SLOW_S)
        path = parts.path if parts.path.strip("/") else "/metrics"
        self._path = f"{path}?{parts.query}" if parts.query else path

    def read(self) -> str:
        """The page. Raises ``Unread`` within ``SLOW_S``."""
        until = time.perf_counter() + SLOW_S
        kept = self._connection.sock is not None
        try:
            try:
                return self._get(until)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                if not kept:
                    raise
                self._connection.close()  # the server had closed a kept connection: once more on a new one
                return self._get(until)
        except Unread:
            self._connection.close()
            raise
        except TimeoutError:
            self._connection.close()
            raise Unread(f"a reading took longer than {SLOW_S:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            what = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            raise Unread(f"it could not be read: {what}") from None

    def _get(self, until: float) -> str:
        connection = self._connection
        self._limit(until)
        connection.request("GET", self._path, headers={"Accept": "text/plain"})
        self._limit(until)
        answer = connection.getresponse()
        if answer.status != 200:
            raise Unread(f"it answered HTTP {answer.status}")
        pieces, size = [], 0
        while True:
            self._limit(until)
            piece = answer.read1(65536)
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
            if size > _PAGE_BYTES:
                raise Unread(f"its page is longer than {_PAGE_BYTES // 2**20} MiB")
        if answer.length:
            raise Unread("its page was cut off")
        answer.close()  # which leaves the connection open
        return b"".join(pieces).decode("utf-8", "replace")

    def _limit(self, until: float) -> None:
        """Bound the next wait by what is left of the reading's time."""
        left = until - time.perf_counter()
        if left <= 0:
            raise TimeoutError
        self._connection.timeout = left
        if self._connection.sock is not None:
            self._connection.sock.settimeout(left)


class Follower:
    """Reads one target as *job* says and keeps what it read in its file."""

    def __init__(self, job: dict[str, Any], target: dict[str, Any], stop: threading.Event) -> None:
        self._identity = {name: target[name] for name in ("kind", "replica_id", "url")}
        self._target = Target(target["url"])
        self._offset_ns, self._series = job["wall_offset_ns"], job["series"]
        self._every_ns = int(job["every_s"] * NS)
        self._stop, self.started = stop, threading.Event()
        self.last_wanted = False  # set before the stop, by the word ``end``
        self._differ = Differ()
        self._path = Path(target["file"])
        self._file: IO[str] = sys.stderr  # until the thread opens its own
        self._size, self._bound = 0, job.get("max_bytes", MAX_BYTES)
        self._limit = self._bound // 2
        self.readings = 0
        self.gaps: Counter[str] = Counter()

    def run(self) -> None:
        """The thread's life."""
        try:
            with gzip.open(self._path, "wt", compresslevel=6, encoding="utf-8") as self._file:
                self._follow()
        except OSError as error:  # of the file
            self.gaps[f"it could not be kept: {error.strerror or error}"] += 1
        finally:
            self.started.set()

    def _follow(self) -> None:
        self._frame("before")
        self.started.set()
        tries = 1
        due = time.perf_counter_ns() + self._every_ns
        while not self._stop.wait(max(0.0, (due - time.perf_counter_ns()) / NS) if self._series else None):
            self._read("beside")
            tries += 1
            if not self.readings and tries >= ABSENT_AFTER:
                self.gaps["it was left alone after five tries"] += 1
                return
            due += self._every_ns
            while due <= time.perf_counter_ns():
                self.gaps["a reading was still under way"] += 1
                due += self._every_ns
        if self.last_wanted:
            self._frame("after")

    def _frame(self, when: str) -> None:
        for again in range(_FRAME_TRIES if self._identity["kind"] == "engine" else 1):
            if again:
                time.sleep(_FRAME_PAUSE_S)
            if self._read(when):
                return

    def _read(self, when: str) -> bool:
        began = time.perf_counter_ns()
        found: dict[str, Any] = {"text": None, "changed": None, "error": None}
        try:
            text = self._target.read()
        except Unread as unread:
            found["error"] = str(unread)
            self.gaps[str(unread)] += 1
        else:
            self.readings += 1
            found |= self._differ.next(text, whole=when != "beside")
        took = time.perf_counter_ns() - began
        head = {
            "at": began + took // 2 + self._offset_ns,
            **self._identity,
            "when": when,
            "took_ms": round(took / 1e6, 3),
        }
        line = json.dumps({**head, **found}, separators=(",", ":")) + "\n"
        self._file.write(line)
        self._size += len(line)
        if self._size > self._limit:
            self._every_ns *= 2
            self._limit += max(1, (self._bound - self._limit) // 2)
        return found["error"] is None


def main() -> int:
    """Do the job on standard input; always 0, for what could not be read is counted."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group; the parent decides
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_LAST_WORDS_S))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    with contextlib.suppress(OSError):
        os.nice(_NICE)
        batch = os.sched_param(0)  # never interrupts the generator by waking up
        os.sched_setscheduler(0, os.SCHED_BATCH, batch)
    job = json.loads(sys.stdin.readline())
    stop = threading.Event()
    followers = [Follower(job, target, stop) for target in job["targets"]]
    threads = [threading.Thread(target=one.run, daemon=True) for one in followers]
    for thread in threads:
        thread.start()
    for follower in followers:
        follower.started.wait()
    _say({"event": "read"})
    if sys.stdin.readline().strip() == "end":
        for follower in followers:
            follower.last_wanted = True
    stop.set()
    until = time.monotonic() + _JOIN_S
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    _say({"event": "ended", "targets": [{"readings": f.readings, "gaps": dict(f.gaps)} for f in followers]})
    return 0


def _say(document: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(document), flush=True)


if __name__ == "__main__":
    sys.exit(main())
