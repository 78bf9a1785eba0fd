"""A whole run of the generator: calibrate, hash, measure each step, write each part, and always leave
``shard.json``.

Belongs here: the order of things, the record of the shard, what is kept when something goes wrong.
Does not belong here: argument parsing (``__main__``), each of the parts it calls.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import resource
import time
from collections.abc import Callable
from typing import Any

from loadgen import __version__
from loadgen.calibrate import CalibrationResult, calibrate
from loadgen.client import Client
from loadgen.control import Control, RunError
from loadgen.monitor import Monitor
from loadgen.output import OutputError, Sink, open_sink
from loadgen.plan import Plan, PlanError
from loadgen.progress import Progress
from loadgen.samples import Origin, SampleBatch
from loadgen.source import StepSource, hashes
from loadgen.steps import StepResult, StepRunner
from loadgen.timer import Timer
from loadgen.workloads import Workload, from_document

_CEILING_MAX = 10_000
_SPARE_DESCRIPTORS = 64


def run_plan(plan: Plan, out: str, progress: Progress, started_ns: int) -> tuple[int, str | None]:
    """Run *plan* and write below *out*; returns the exit code and, unless it is 0, the reason for people.

    Raises ``PlanError`` (nothing was sent) and ``OutputError`` (nothing can be written) before the first
    request.
    """
    return _Run(plan, out, progress, started_ns).run()


class _Run:
    def __init__(self, plan: Plan, out: str, progress: Progress, started_ns: int) -> None:
        plan.validate()
        self.plan, self.progress = plan, progress
        self.workload: Workload = from_document(plan.workload)
        if plan.workload_hash != self.workload.hash:
            raise PlanError("workload_hash: it is not the hash of the plan's workload document")
        secret = _api_key(plan)
        self.redact = _redactor([secret, *plan.headers.values()])
        self.client = Client(
            plan.replicas,
            api=plan.api,
            headers={**plan.headers, **({"Authorization": f"Bearer {secret}"} if secret else {})},
            request_timeout_s=plan.request_timeout_s,
            idle_timeout_s=plan.idle_timeout_s,
        )
        self.sink: Sink = open_sink(out, f"shard={plan.shard:03d}")
        self.control = Control(plan.deadline_s, started_ns)
        self.monitor = Monitor()
        self.parts: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.calibration: CalibrationResult | None = None
        self.hashes: tuple[str | None, str | None] = (None, None)
        self.start = _anchor()

    def run(self) -> tuple[int, str | None]:
        self.control.install()
        reason: str | None = None
        code = 0
        try:
            reason = self._measure()
            code = 0 if reason is None else self.control.exit_code
        except (RunError, OutputError) as error:
            reason, code = self.redact(str(error)), self.control.exit_code
        except Exception as error:  # of ours, or of a server nobody foresaw: shard.json says so
            reason, code = self._unforeseen(error), self.control.exit_code
        try:
            self.sink.put("shard.json", self._shard(reason).encode())
        except OutputError as error:
            reason, code = reason or str(error), code or 1
        self.client.close()
        rows = sum(part["rows"] for part in self.parts)
        self.progress.event("done", rows=rows, complete=code == 0, message=f"{rows} samples written")
        return code, reason

    def _unforeseen(self, error: Exception) -> str:
        """One sentence for an error nobody raised for people."""
        what = " ".join(self.redact(f"{type(error).__name__}: {error}").split())[:300].rstrip(".")
        return f"An error inside the load generator ended the run: {what}."

    def _measure(self) -> str | None:
        plan = self.plan
        timer = Timer()
        self.client.watch(timer.fileno(), timer.clear)
        self.calibration = result = calibrate(plan, self.workload, self.client, self.control)
        if result.warning:
            self._warn(result.warning)
        self.progress.event(
            "calibrated", message=f"prompts of {result.n_words} words", n_words=result.n_words
        )
        sources = [StepSource(plan, self.workload, step, result.n_words) for step in plan.steps]
        self.hashes = hashes(sources)
        ceiling = _in_flight_ceiling()
        for index, source in enumerate(sources):
            if (stopped := self.control.stop_reason()) is not None:
                return stopped
            runner = StepRunner(
                source,
                self.client,
                timer,
                self.control,
                self.monitor,
                self.progress,
                requests=self.workload.requests,
                in_flight_ceiling=ceiling,
            )
            origin = self._origin(source.step.step_index)
            step = runner.run(origin)
            self.steps.append(self._step_record(source, step))
            if index == 0:
                self._add_calibration(step.ledger.batch)
            self._write(f"part-{source.step.step_index:03d}.parquet", step.ledger.batch)
            if step.ceiling_hits:
                self._warn(
                    f"step {index}: {step.ceiling_hits} requests were not sent, {ceiling} being in flight"
                )
            if step.stopped is not None:
                return step.stopped
        return None

    def _origin(self, step_index: int) -> Origin:
        offset = self.start["wall_ns"] - self.start["mono_ns"]
        return Origin(self.plan.run_id, self.plan.shard, step_index, self.plan.model, offset, self.redact)

    def _add_calibration(self, batch: SampleBatch) -> None:
        assert self.calibration is not None
        for exchange, answer in self.calibration.answers:
            batch.add(self._origin(-1), "calibration", exchange, answer)

    def _write(self, name: str, batch: SampleBatch) -> None:
        data = batch.to_parquet()
        self.sink.put(name, data)
        digest = hashlib.sha256(data).hexdigest()
        self.parts.append({"name": name, "rows": len(batch), "bytes": len(data), "sha256": digest})

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.progress.event("warning", message=text)

    def _step_record(self, source: StepSource, result: StepResult) -> dict[str, Any]:
        offset = self.start["wall_ns"] - self.start["mono_ns"]
        ledger, step = result.ledger, source.step
        return {
            "step_index": step.step_index,
            "load_kind": step.load_kind,
            "load_value": step.load_value,
            "arrival": step.arrival,
            "phase_starts_ns": {name: at + offset for name, at in result.starts_ns.items()},
            "measure_end_ns": result.measure_end_ns + offset,
            "requests_scheduled_in_window": result.scheduled_in_window,
            "sent": ledger.window_sent,
            "ok": ledger.window_ok,
            "failed_by_class": dict(sorted(ledger.window_failures.items())),
            "cut": ledger.window_cut,
            "unfinished": result.unfinished,
        }

    def _shard(self, reason: str | None) -> str:
        plan, end = self.plan, _anchor()
        minutes = (end["mono_ns"] - self.start["mono_ns"]) / 60e9
        drift_ns = (end["wall_ns"] - self.start["wall_ns"]) - (end["mono_ns"] - self.start["mono_ns"])
        counters = self.client.counters
        if counters.reopened:
            self.warnings.append(
                f"{counters.reopened} requests went out again: the server had closed a connection "
                "it had announced to keep"
            )
        found = self.calibration.calibration if self.calibration is not None else None
        record = {
            "format": 1,
            "run_id": plan.run_id,
            "shard": plan.shard,
            "shards": plan.shards,
            "complete": reason is None,
            "reason": reason,
            "rows": sum(part["rows"] for part in self.parts),
            "parts": self.parts,
            "loadgen_version": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "workload_id": plan.workload_id,
            "workload_hash": plan.workload_hash,
            "schedule_hash": self.hashes[0],
            "prompts_hash": self.hashes[1],
            "seed": plan.seed,
            "wall_anchor": [self.start, end],
            "drift_ms_per_min": drift_ns / 1e6 / minutes if minutes > 0 else 0.0,
            "steps": self.steps,
            "client": {
                **self.monitor.figures(),
                "connections_opened": counters.opened,
                "connections_reused": counters.reused,
                "stamp_source": self._stamp_source(),
            },
            "calibration": found
            and {
                "tokens_per_word": found.tokens_per_word,
                "template_tokens": found.template_tokens,
                "n_words": found.n_words,
                "input_tokens": found.input_tokens,
            },
            "warnings": self.warnings,
        }
        return json.dumps(record, indent=1)

    def _stamp_source(self) -> str:
        tls = any(replica.base_url.startswith("https:") for replica in self.plan.replicas)
        return "user" if tls or self.client.clock is None else "kernel"


def _anchor() -> dict[str, int]:
    """The same moment on both clocks."""
    before = time.perf_counter_ns()
    wall = time.time_ns()
    return {"wall_ns": wall, "mono_ns": (before + time.perf_counter_ns()) // 2}


def _api_key(plan: Plan) -> str | None:
    if plan.api_key_env is None:
        return None
    value = os.environ.get(plan.api_key_env, "").strip()
    if not value:
        raise PlanError(f"api_key_env: the environment variable {plan.api_key_env} is not set")
    if not value.isascii() or not value.isprintable():
        raise PlanError(f"api_key_env: the value of {plan.api_key_env} cannot be sent in a header")
    return value


def _redactor(secrets: list[str | None]) -> Callable[[str], str]:
    """A function that masks the given secrets and bearer tokens in a server's own words."""
    known = sorted({secret for secret in secrets if secret and len(secret) >= 6}, key=len, reverse=True)

    def redact(text: str) -> str:
        for secret in known:
            text = text.replace(secret, "****")
        return re.sub(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", r"\1 ****", text)

    return redact


def _in_flight_ceiling() -> int:
    """As many connections as this process may have, after asking for all it is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CEILING_MAX + _SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(_CEILING_MAX, soft - _SPARE_DESCRIPTORS) if soft != resource.RLIM_INFINITY else _CEILING_MAX
