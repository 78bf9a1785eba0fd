"""The generator's side of the reading process: starting it before anything is sent, asking for the last readings,
taking its files over.

Belongs here: the process's life, what ``shard.json`` says of its files. Does not belong here: reading pages
(``child``), when in a run it is started and ended (``run``).

Between the first and the last readings the generator does nothing for it: no pipe is read, no file is touched.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import select
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from loadgen.output import OutputError, Sink
from loadgen.plan import Plan, ScrapeTarget

_HOME = Path(__file__).parents[2]
_EVERY_S = 1.0
_FIRST_S = 9.0  # three tries of an engine's page, and the start of the process
_LAST_S = 9.0
_LOOK_S = 0.1  # between two looks at what may end the run
_AT_ONCE_S = 3.0  # to close the files; a reading under way is not waited for longer


class Beside:
    """Reads the pages of *plan* while the run lasts. Nothing it does or fails to do raises; what went wrong is in the
    records and goes to *warn*. What *stopped* returns, once true, makes every wait short."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        wall_offset_ns: int,
        warn: Callable[[str], None],
        stopped: Callable[[], object] = lambda: None,
    ) -> None:
        series = plan.shard == 0
        targets = [(n, one) for n, one in enumerate(plan.scrape) if series or one.kind == "engine"]
        self._targets: Sequence[tuple[int, ScrapeTarget]] = targets
        self._files = [folder / f".scrape-{os.getpid()}-{n}.jsonl.gz" for n, _ in targets]
        self._warn, self._stopped, self._said = warn, stopped, b""
        self._counts: list[dict[str, Any]] = []
        self._why: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        if not targets:
            return
        job = {
            "every_s": _EVERY_S,
            "series": series,
            "wall_offset_ns": wall_offset_ns,
            "targets": [
                {"kind": one.kind, "replica_id": one.replica_id, "url": one.url, "file": str(file)}
                for (_, one), file in zip(targets, self._files, strict=True)
            ],
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "loadgen.scrape.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(_HOME)},
            )
        except OSError as error:
            self._why = f"the process that reads could not be started: {error.strerror or error}"
        else:
            self._say(json.dumps(job).encode() + b"\n")
            self._hear("read", _FIRST_S)  # what the load does to the counters begins after this

    def end(self) -> None:
        """Take the last readings, once the last request is answered; waits for them."""
        if self._process is not None:
            self._say(b"end\n")
            self._finish(_LAST_S)

    def close(self, sink: Sink) -> list[dict[str, Any]]:
        """End the process if it still runs, move its files to *sink*; the records for ``shard.json``.

        A record: ``name`` of the file (null when there is none), ``kind``, ``replica_id``, ``url``, ``readings``,
        ``gaps`` (reason → number), ``sha256``, ``bytes``.
        """
        self._finish(_AT_ONCE_S)
        records = []
        for index, (number, target) in enumerate(self._targets):
            counts = self._counts[index] if index < len(self._counts) else {"readings": None, "gaps": {}}
            record = _record(target.kind, target.replica_id, target.url, counts)
            if self._why is not None:
                record["gaps"][self._why] = 1
            self._keep(sink, self._files[index], f"scrape-{number}.jsonl.gz", record)
            records.append(record)
        return records

    def _keep(self, sink: Sink, file: Path, name: str, record: dict[str, Any]) -> None:
        try:
            data = file.read_bytes()
            sink.put(name, data)
        except FileNotFoundError:
            return
        except (OSError, OutputError) as error:
            self._warn(f"what was read of {record['replica_id']} ({record['kind']}) is lost: {error}")
            record["gaps"]["its file could not be kept"] = 1
        else:
            record |= {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        with contextlib.suppress(OSError):
            file.unlink()

    def _say(self, line: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _hear(self, event: str, within_s: float) -> dict[str, Any] | None:
        """The process's next word *event*; ``None`` when it has not come in time or the process has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        until = time.monotonic() + within_s
        descriptor, hurried = self._process.stdout.fileno(), False
        while True:
            line, found, rest = self._said.partition(b"\n")
            if found:
                self._said = rest
                document: dict[str, Any] = json.loads(line)
                if document["event"] == event:
                    return document
                continue
            if self._stopped():
                until = min(until, time.monotonic() + _AT_ONCE_S) if not hurried else until
                hurried = True
            left = until - time.monotonic()
            if left <= 0:
                return None
            if not select.select([descriptor], [], [], min(left, _LOOK_S))[0]:
                continue
            data = os.read(descriptor, 65536)
            if not data:
                return None
            self._said += data

    def _finish(self, within_s: float) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        last = self._hear("ended", within_s)
        self._process = None
        if last is not None:
            self._counts = last["targets"]
        process.kill()
        code = process.wait()
        process.stdout.close()
        if last is None:
            self._why = f"the process that reads ended early{f' (signal {-code})' if code < 0 else ''}"
            self._warn(f"pages beside the load: {self._why}")


def _record(kind: str, replica_id: str, url: str, counts: dict[str, Any]) -> dict[str, Any]:
    """An entry of ``scrapes`` without a file yet."""
    return {
        "name": None,
        "kind": kind,
        "replica_id": replica_id,
        "url": url,
        "readings": counts["readings"],
        "gaps": dict(counts["gaps"]),
        "sha256": None,
        "bytes": None,
    }


def adopt(folder: Path) -> list[dict[str, Any]]:
    """Give the files that a killed generator's readers left in *folder* their names; their entries of ``scrapes``."""
    records = []
    for file in sorted(folder.glob(".scrape-*-*.jsonl.gz")):
        identity, readings, gaps = None, 0, Counter[str]()
        for line in _lines(file):
            identity = line["kind"], line["replica_id"], line["url"]
            readings += line["error"] is None
            gaps.update([line["error"]] if line["error"] else [])
        if identity is not None:
            name = f"scrape-{file.name.split('-')[-1]}"
            file = file.replace(folder / name)
            data = file.read_bytes()
            record = _record(*identity, {"readings": readings, "gaps": gaps})
            records.append(
                record | {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            )
        else:
            file.unlink()
    return records


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """What is whole of a file whose writer may have been killed too."""
    with (
        contextlib.suppress(OSError, EOFError, ValueError, zlib.error),
        gzip.open(file, "rt", encoding="utf-8") as lines,
    ):
        for line in lines:
            yield json.loads(line)
