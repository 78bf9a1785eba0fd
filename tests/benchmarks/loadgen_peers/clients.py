"""What every client is to this bench: a command for a load, and an outcome read from what it left. Ours and the
floor.

Belongs here: the load, the protocol, our own generator, the raw-socket floor.
Does not belong here: the other projects' tools (``peers``), running (``processes``).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.benchmarks.loadgen_peers.arithmetic import Outcome, Timed, percentile
from tests.benchmarks.loadgen_peers.processes import ROOT

SEED = 7
_FLOOR = Path(__file__).with_name("floor.py")


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop (``concurrency``) or an open one (``rate_per_s`` for ``requests / rate_per_s`` seconds)."""

    requests: int
    concurrency: int | None = None
    rate_per_s: float | None = None
    arrival: str = "constant"
    tokens: int = 64
    timeout_s: float = 30.0

    @property
    def seconds(self) -> float:
        """How long an open loop sends."""
        assert self.rate_per_s is not None
        return self.requests / self.rate_per_s


class Client(Protocol):
    """A load generator under test. ``processes``: it may start several (its PSS is then sampled too)."""

    name: str
    processes: bool

    def command(self, load: Load, url: str, folder: Path) -> list[str]:
        """The command for *load*; it may write files into *folder*, its working directory."""

    def environment(self) -> dict[str, str]:
        """What its environment needs beside ours."""

    def read(self, folder: Path) -> Outcome:
        """The outcome from the files in *folder*; raises ``OSError``, ``KeyError`` or ``ValueError`` without
        one."""


class Ours:
    """``python -m loadgen run`` from this checkout; every figure per request, from its samples."""

    name = "accelbench"
    processes = False

    def command(self, load: Load, url: str, folder: Path) -> list[str]:
        """No warm-up: the first wave counts, as it does for the others. Nor the load on a null server after the
        run, which is not part of what is compared."""
        command = [sys.executable, "-m", "loadgen", "run", "--url", url, "--model", "truth"]
        command += ["--out", str(folder / "out"), "--progress", "quiet", "--warmup", "0", "--no-null-server"]
        command += ["--isl", "64", "--osl", str(load.tokens), "--seed", str(SEED)]
        command += ["--request-timeout", str(load.timeout_s), "--idle-timeout", str(load.timeout_s)]
        if load.concurrency is not None:
            return [
                *command,
                *("--concurrency", str(load.concurrency)),
                *("--requests", str(load.requests)),
                *("--duration", "120"),
            ]
        return [
            *command,
            *("--rate", str(load.rate_per_s)),
            *("--arrival", load.arrival),
            *("--duration", str(load.seconds)),
        ]

    def environment(self) -> dict[str, str]:
        """The checkout, since it runs in another folder."""
        return {"PYTHONPATH": str(ROOT)}

    def read(self, folder: Path) -> Outcome:
        """Requests of the window, with stamps on the server's clock."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        shard_folder = folder / "out" / "shard=000"
        shard: dict[str, Any] = json.loads((shard_folder / "shard.json").read_text(encoding="utf-8"))
        anchor = shard["wall_anchor"][0]
        offset_ns = anchor["wall_ns"] - anchor["mono_ns"]
        outcome = Outcome(0, 0)
        requests: list[Timed] = []
        failures: dict[str, str] = {}
        columns = ["request_id", "phase", "status", "error_class", "scheduled_at", "sent_at", "tpot_ms"]
        tpot: list[float] = []
        kept = chunk_tokens = chunks = 0
        for part in shard["parts"]:
            table = pq.read_table(
                shard_folder / part["name"], columns=[*columns, "chunk_offset_us", "chunk_tokens"]
            )
            for name in ("scheduled_at", "sent_at"):
                at = table.schema.get_field_index(name)
                table = table.set_column(at, name, table[name].cast(pa.int64()))
            for row in table.to_pylist():
                if row["phase"] != "measure":
                    continue
                if row["status"] != "ok":
                    failures[row["request_id"]] = row["error_class"] or row["status"]
                    kept += bool(row["chunk_offset_us"])
                    continue
                sent = row["sent_at"] - offset_ns
                stamps = [sent + offset * 1000 for offset in row["chunk_offset_us"]]
                requests.append(Timed(row["request_id"], sent, stamps, row["scheduled_at"] - offset_ns))
                chunks += len(stamps)
                chunk_tokens += sum(row["chunk_tokens"])
                if row["tpot_ms"] is not None:
                    tpot.append(row["tpot_ms"])
        outcome.ok, outcome.failed = len(requests), len(failures)
        outcome.requests, outcome.failures = requests, failures
        outcome.extra = {
            "partial_kept": float(kept),
            "tokens_per_chunk_counted": chunk_tokens / max(1, chunks),
            **_own_percentiles(requests, tpot),
        }
        return outcome


def _own_percentiles(requests: list[Timed], tpot: list[float]) -> dict[str, float]:
    """What ours says, as the peers' tables say it."""
    figures: dict[str, float] = {}
    shown = {
        "ttft": [(one.chunks_ns[0] - one.sent_ns) / 1e6 for one in requests if one.chunks_ns],
        "e2e": [(one.chunks_ns[-1] - one.sent_ns) / 1e6 for one in requests if one.chunks_ns],
        "tpot": tpot,
        "gap": [
            (b - a) / 1e6 for one in requests for a, b in zip(one.chunks_ns, one.chunks_ns[1:], strict=False)
        ],
    }
    for name, values in shown.items():
        if values:
            figures[f"client_{name}_p50_ms"] = percentile(values, 50)
            figures[f"client_{name}_p99_ms"] = percentile(values, 99)
    waits = [
        (one.chunks_ns[0] - one.scheduled_ns) / 1e6
        for one in requests
        if one.chunks_ns and one.scheduled_ns is not None
    ]
    if waits:
        figures["client_ttft_max_ms"] = max(waits)  # from the schedule
    return figures


class Floor:
    """The raw-socket loop."""

    name = "raw-socket floor"
    processes = False

    def command(self, load: Load, url: str, folder: Path) -> list[str]:
        """Closed loops only."""
        assert load.concurrency is not None, "the floor has no open loop"
        port = url.rpartition(":")[2]
        return [
            sys.executable,
            "-I",
            str(_FLOOR),
            *("--port", port),
            *("--streams", str(load.concurrency)),
            *("--requests", str(load.requests)),
            *("--tokens", str(load.tokens)),
            *("--out", str(folder / "floor.json")),
        ]

    def environment(self) -> dict[str, str]:
        """Nothing."""
        return {}

    def read(self, folder: Path) -> Outcome:
        """Requests with a stamp a token."""
        rows = json.loads((folder / "floor.json").read_text(encoding="utf-8"))["requests"]
        requests = [Timed(ident, sent, stamps) for ident, sent, stamps in rows]
        return Outcome(len(requests), 0, requests=requests)
