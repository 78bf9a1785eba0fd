"""A launcher that serves nothing and writes good samples, and the cell and workload it is asked for."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow.parquet as pq

from accelbench_assets.launch.base import (
    AttemptHold,
    Deadline,
    Endpoint,
    EventSink,
    LoadManifest,
    ServerSpec,
)
from loadgen.plan import Plan, Replica
from loadgen.workloads import custom
from partitions.cell import BenchmarkCell, Deployment
from tests.unit.bench_samples import row, shard, table

WORKLOAD = custom(
    concurrency=[1, 2],
    isl=16,
    osl=3,
    duration_s=10,
    warmup_s=1,
    slo={"ttft_ms": 100, "tpot_ms": 20, "e2e_ms": 9000, "quantile": 0.5},
)
CELL = BenchmarkCell(
    model="tiny",
    revision="unstated",
    instance="local-0123abcd",
    engine="llamacpp",
    engine_version="1.0",
    deployment=Deployment(),
    workload=WORKLOAD.id,
)
METRICS = "# TYPE llamacpp:tokens_predicted_total counter\nllamacpp:tokens_predicted_total {}\n"


class FakeLauncher:
    """Serves nothing and writes 40 good samples a step; *fail* maps a moment to what is raised there."""

    name = "local"
    remote = False
    billed_since: float | None = None

    def __init__(
        self, fail: Mapping[str, BaseException] | None = None, *, complete: bool = True, **other: Any
    ) -> None:
        self.fail = dict(fail or {})
        self.complete, self.other = complete, other
        self.moments: list[str] = []
        self.plan: Plan | None = None

    @property
    def paid(self) -> bool:
        return bool(self.other.get("paid"))

    def attempt_facts(self) -> dict[str, Any]:
        self._at("facts")
        return {"cluster": "c1", "namespace": "n"}

    @contextmanager
    def attempt(
        self, run_id: str, cell_id: str, deadline: Deadline, on_renew: Callable[[], None]
    ) -> Iterator[AttemptHold]:
        self._at("attempt")
        on_renew()
        self.billed_since = None
        try:
            yield self
        finally:
            self.moments.append("let go")

    def check(self) -> None:
        self._at("check")

    def _at(self, moment: str) -> None:
        self.moments.append(moment)
        if moment in self.fail:
            raise self.fail[moment]

    @contextmanager
    def serve(self, spec: ServerSpec, deadline: Deadline, on_event: EventSink) -> Iterator[Endpoint]:
        self._at("serve")
        self.billed_since = time.monotonic()
        (spec.work_dir / "engine.log").write_text("loading with key sk-verysecretvalue1234\n")
        try:
            yield Endpoint(
                model="tiny",
                replicas=(Replica("127.0.0.1:1", "http://127.0.0.1:1"),),
                facts={
                    "origin": "measured",
                    "hardware": "observed",
                    "engine_args": {"threads": 1},
                    "not_a_field": 1,
                },
                read_metrics=lambda: {
                    "127.0.0.1:1": METRICS.format(250.0 if "load" in self.moments else 10.0)
                },
                check_alive=lambda: self._at("alive"),
            )
        finally:
            self.moments.append("stopped")

    def load(
        self,
        plan: Plan,
        endpoint: Endpoint,
        out: str,
        spec: ServerSpec,
        deadline: Deadline,
        on_event: EventSink,
    ) -> LoadManifest:
        self._at("load")
        self.plan = plan
        folder = Path(unquote(urlsplit(out).path)) / "shard=000"
        folder.mkdir(parents=True)
        parts, total = [], 0
        for step in plan.steps:
            rows = [
                row(at_s=0.2 * i, seq=i, step=step.step_index, run_id=plan.run_id, **self.other)
                for i in range(40)
            ]
            path = folder / f"part-{step.step_index}.parquet"
            pq.write_table(table(rows), path)
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            parts.append({"name": path.name, "rows": 40, "bytes": len(content), "sha256": digest})
            total += 40
        document = shard(
            windows_s=[10.0, 10.0], scheduled=[40, 40], run_id=plan.run_id, parts=parts, rows=total
        )
        document |= {"complete": self.complete, "reason": None if self.complete else "the server went away"}
        (folder / "shard.json").write_text(json.dumps(document))
        self._at("loaded")
        return LoadManifest((document,), 0)
