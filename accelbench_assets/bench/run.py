"""The use case: one attempt at one cell, which ends in exactly one ``runs`` record whatever happens.

Belongs here: the order of an attempt (register, serve, load, verify, judge, commit or record the failure).
Does not belong here: how servers start (``launch``), how load is sent (``loadgen``), how the lake commits
(``lake``), formulas (``metrics``, ``validity``).

The record is the last write. A record that cannot be written (full disk, lost network) leaves the attempt
open: the error says so, samples and logs stay where they are, and the reaper records the attempt once the
lake can be written again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelbench_assets.bench import record as records
from accelbench_assets.bench.request import RunFailed, RunRequest, RunVoid
from accelbench_assets.bench.validity import Rules, first_void, judge, overall, required_window_s
from accelbench_assets.errors import (
    AccelBenchError,
    DeadlineExceeded,
    LakeError,
    LaunchError,
    describe_os_error,
)
from accelbench_assets.launch.base import Deadline, Endpoint, EventSink, Launcher, ServerSpec, utc_now
from accelbench_assets.launch.locks import RunLock
from accelbench_assets.scrub import looks_secret, scrub
from accelbench_assets.telemetry.sampler import Sampler
from accelbench_assets.telemetry.sources import Source, local_sources
from loadgen.plan import Plan
from loadgen.workloads import Workload

if TYPE_CHECKING:
    import pyarrow as pa

    from accelbench_assets.lake.lake import Lake

__all__ = ["RunFailed", "RunRequest", "RunVoid", "build_plan", "request_timeout_s", "run_benchmark"]

TEARDOWN_ALLOWANCE_S = 5.0
MIN_REQUEST_TIMEOUT_S = 60.0
_STATUS_CODES = ("does_not_fit", "no_capacity", "not_sold")
_LOG_LIMIT = 32 * 2**20
_TEXT_LIMIT = 2000


def run_benchmark(request: RunRequest, launcher: Launcher, lake: Lake, on_event: EventSink) -> dict[str, Any]:
    """Carry out *request* and return its ``runs`` record.

    Raises ``RunVoid`` or ``RunFailed`` (both with ``.record``) after recording; ``LakeError`` when the
    attempt could not even be registered, ``LaunchError`` (``busy``) when another process works on this run.
    ``KeyboardInterrupt`` and other non-``Exception``s are recorded as ``cancelled`` and raised again.
    """
    with RunLock(request.home, request.run_id) as lock:
        attempt = _Attempt(request, launcher, lake, on_event)
        attempt.register(lock.describe())
        try:
            return attempt.carry_out()
        except BaseException as error:
            attempt.end(error)
            raise


def request_timeout_s(workload: Workload) -> float:
    """M35: at least a minute, at least what the profile says, at least ten times the SLO's E2E."""
    e2e_ms = (workload.slo or {}).get("e2e_ms") or 0.0
    return max(MIN_REQUEST_TIMEOUT_S, workload.request_timeout_s, 10.0 * e2e_ms / 1000.0)


def build_plan(request: RunRequest, endpoint: Endpoint, deadline: Deadline) -> Plan:
    """The plan of the only shard; the generator gets what is left of the deadline less the teardown."""
    deadline.check("preparing the load")
    workload, load = request.workload, request.load
    return Plan(
        run_id=request.run_id,
        model=endpoint.model,
        replicas=endpoint.replicas,
        steps=workload.steps(),
        workload=workload.document,
        workload_id=workload.id,
        workload_hash=workload.hash,
        seed=request.seed,
        request_timeout_s=request_timeout_s(workload),
        idle_timeout_s=workload.idle_timeout_s,
        deadline_s=max(1.0, deadline.remaining() - TEARDOWN_ALLOWANCE_S),
        api_key_env=request.api_key_env,
        headers=request.headers,
        api=workload.api,
        workers=load.workers,
        dataset=load.dataset,
        search={"slo": dict(load.search_slo)} if load.search_slo else None,
        canary=load.canary,
        proxy_env=load.proxy_env,
    )


class _Attempt:
    """State of one attempt between its registration and its record."""

    def __init__(self, request: RunRequest, launcher: Launcher, lake: Lake, on_event: EventSink) -> None:
        self.request, self.launcher, self.lake, self.on_event = request, launcher, lake, on_event
        self.record = records.new_attempt(request)
        self.deadline = Deadline.after(request.deadline_s)
        self.started = time.monotonic()
        self.load_s = 0.0
        self.work_dir = request.home / "work" / request.run_id
        key = os.environ.get(request.api_key_env or "", "")
        named = [value for name, value in request.headers.items() if looks_secret(name.replace("-", "_"))]
        proxy = os.environ.get(request.load.proxy_env or "", "")
        self.secrets = [value for value in (key, proxy, *named) if value]

    def register(self, lock: Mapping[str, Any]) -> None:
        """Announce the attempt; one that the caller announced for this run_id already is taken over."""
        try:
            self.lake.begin_attempt({**self.record, **lock})
        except LakeError:
            if all(a["run_id"] != self.request.run_id for a in self.lake.open_attempts()):
                raise

    def carry_out(self) -> dict[str, Any]:
        """From registration to a committed record."""
        run_id, say = self.request.run_id, self.on_event
        self.lake.check_writable()
        self.work_dir.mkdir(parents=True, exist_ok=True)
        spec = self._spec()
        say("phase", f"starting {self.request.cell.engine}", {"phase": "serve", "run_id": run_id})
        with self.launcher.serve(spec, self.deadline, say) as endpoint:
            records.add_facts(self.record, endpoint.facts)
            self.record["origin"] = endpoint.facts[
                "origin"
            ]  # never assumed: a launcher that does not say it fails
            before = self._read_metrics(endpoint, "before")
            self.sampler = Sampler(
                endpoint.read_metrics, self.request.cell.engine, run_id, extra=self._sources()
            )
            plan = build_plan(self.request, endpoint, self.deadline)
            if self.request.workload.ignore_eos and not endpoint.supports_ignore_eos:
                say("warning", "This server does not honour ignore_eos; answers may be too short.", {})
            say("phase", "measuring", {"phase": "load", "steps": len(plan.steps)})
            began = time.monotonic()
            self.record["load_started_at"] = records.timestamp()
            try:
                with self.sampler:
                    self.launcher.load(
                        plan, endpoint, self.lake.incoming_uri(run_id), spec, self.deadline, say
                    )
            finally:
                self.load_s = time.monotonic() - began
                self.record["load_finished_at"] = records.timestamp()
            endpoint.check_alive()
            after = self._read_metrics(endpoint, "after")
            records.add_facts(self.record, endpoint.facts)
        self._torn_down()
        say("phase", "checking the samples", {"phase": "verify"})
        shards = self.lake.verify_shards(run_id, plan.shard_count)
        records.add_shards(self.record, shards)
        if self.request.load.search_slo is not None:
            self.record["ladder"] = records.searched_ladder(self.request, shards)
        rules = self._judge(self.lake.read_incoming(run_id), shards, before, after)
        self.record["validity"] = records.json_safe(rules)
        if (rule := first_void(rules)) is not None:
            raise RunVoid(f"The run is void by rule {rule}: {rules[rule]['text']}", self.record)
        return self._commit(shards, [*before, *self.sampler.rows, *after])

    def _spec(self) -> ServerSpec:
        request = self.request
        return ServerSpec(
            run_id=request.run_id,
            cell=request.cell,
            model_id=request.model_id,
            work_dir=self.work_dir,
            endpoint_url=request.endpoint_url,
            api_key_env=request.api_key_env,
            headers=request.headers,
            served_model_name=request.served_model_name,
            port=request.port,
        )

    def _read_metrics(self, endpoint: Endpoint, moment: str) -> list[dict[str, Any]]:
        from accelbench_assets.bench.engine_counters import metric_rows

        at: datetime = utc_now()
        try:
            texts = endpoint.read_metrics()
        except (AccelBenchError, OSError) as error:
            self.on_event("warning", f"The engine's metrics could not be read {moment} the load: {error}", {})
            return []
        for index, text in enumerate(texts.values()):
            (self.work_dir / f"metrics-{moment}-{index}.prom").write_text(text, encoding="utf-8")
        return metric_rows(self.request.run_id, at, texts)

    def _judge(
        self,
        samples: pa.Table,
        shards: Sequence[Mapping[str, Any]],
        before: list[dict[str, Any]],
        after: list[dict[str, Any]],
    ) -> Rules:
        from accelbench_assets.bench.engine_counters import reconcile
        from accelbench_assets.bench.summary import evaluate
        from accelbench_assets.telemetry.headers import header_rule
        from accelbench_assets.telemetry.reduce import SideChannels
        from accelbench_assets.telemetry.rules import side_rules

        request, workload = self.request, self.request.workload
        side = SideChannels(self.sampler.rows, self.sampler.accelerator_rows)
        frames, steps = evaluate(samples, shards, self.record, side)
        rules = judge(
            frames,
            steps,
            shards,
            evidence_level=request.evidence_level,
            planned_steps=len(self.record["ladder"]),
            fixed_output_length=workload.ignore_eos,
            window_required_s=required_window_s(request.evidence_level, workload.id, workload.window_s),
            cache_share=workload.cache_share,
            router=request.cell.deployment.router,
            canary_reference=self._canary_reference(),
        )
        hardware = [side.hardware(f.window.start_ns, f.window.end_ns) for f in frames]
        seen, gaps = self.sampler.readings, self.sampler.gaps
        rules |= reconcile(before, after, samples) | side_rules(steps, hardware, readings=seen, gaps=gaps)
        return rules | header_rule(frames)

    def _sources(self) -> Sequence[Source]:
        """What watches accelerators: this machine's own when the server runs on it."""
        return local_sources() if self.request.launcher_name == "local" else ()

    def _canary_reference(self) -> Mapping[str, Any] | None:
        """The canaries of the first succeeded run of the same model revision that was asked the same (M17).

        Where the revision is not known, only the same server's own runs can be one.
        """
        found = self.record["canary"]
        if found is None:
            return None
        same = ["model_id", "model_revision", "origin"]
        same += ["instance_type"] if self.record["model_revision"] == "unstated" else []
        earlier = [
            run["canary"]
            for run in self.lake.run_records(status="succeeded")
            if (run.get("canary") or {}).get("set") == found["set"]
            and all(run[name] == self.record[name] for name in same)
        ]
        return earlier[-1] if earlier else None  # newest first

    def _commit(self, shards: Sequence[Mapping[str, Any]], metrics: list[dict[str, Any]]) -> dict[str, Any]:
        import pyarrow as pa

        from accelbench_assets.lake.tables import SCHEMAS

        self.on_event("phase", "committing", {"phase": "commit", "verdict": overall(self.record["validity"])})
        self.record["status"] = "succeeded"
        self._close_accounts()
        self._keep_logs()
        for name, rows in (
            ("engine_metrics", metrics),
            ("accelerator_metrics", self.sampler.accelerator_rows),
        ):
            if rows:
                table = pa.Table.from_pylist(rows, schema=SCHEMAS[name])
                self.lake.write_run_table(name, self.record, table)
        try:
            self.lake.commit(self.record, shards)
        except LakeError:
            if not self._stands():
                raise
        self._clean_up()
        return self.lake.run_record(self.request.run_id) or self.record

    def _stands(self) -> bool:
        """Whether the record was written although the reply to the write was lost."""
        found = self.lake.run_record(self.request.run_id)
        return found is not None and found["status"] == "succeeded"

    def end(self, error: BaseException) -> None:
        """Record *error* as the attempt's end; raise it as ``RunFailed`` if it is an ordinary failure."""
        status, code, text = self._classify(error)
        self.record |= {"status": status, "failure_code": code, "failure_text": text[:_TEXT_LIMIT]}
        if self.record["torn_down_at"] is None:
            self._torn_down()
        self._close_accounts()
        self._keep_logs()
        unrecorded = ""
        try:
            self.lake.finish(self.record)
            self._clean_up()
        except LakeError as lost:
            unrecorded = (
                f" Its record could not be written: {lost.message} What was measured is kept in"
                f" {self.lake.incoming_uri(self.request.run_id)}, logs in {self.work_dir};"
                " `accelbench reap` records the attempt once the lake can be written again."
            )
            self.on_event("warning", f"Run {self.request.run_id} ended as {status}.{unrecorded}", {})
        if isinstance(error, RunVoid):
            raise RunVoid(text + unrecorded, self.record) from None
        if isinstance(error, Exception):
            hint = error.hint if isinstance(error, AccelBenchError) else None
            failed = RunFailed(text + unrecorded, self.record, hint=hint)
            failed.exit_code = getattr(error, "exit_code", 1)
            raise failed from error

    def _classify(self, error: BaseException) -> tuple[str, str, str]:
        """``(status, failure_code, failure_text)`` of the record."""
        if isinstance(error, RunVoid):
            return "void", first_void(self.record["validity"]) or "void", scrub(error.message, self.secrets)
        if isinstance(error, LaunchError):
            text = scrub(error.message, self.secrets)
            if error.code == "deadline":
                return "timed_out", "deadline", text
            return (error.code if error.code in _STATUS_CODES else "failed"), error.code, text
        if isinstance(error, AccelBenchError):
            status, code = (
                ("timed_out", "deadline") if isinstance(error, DeadlineExceeded) else ("failed", "error")
            )
            code = "lake" if isinstance(error, LakeError) else code
            return status, code, scrub(error.message, self.secrets)
        if isinstance(error, OSError):
            code = "disk_full" if error.errno == errno.ENOSPC else "os_error"
            return (
                "failed",
                code,
                scrub(describe_os_error(error, "working in", str(self.work_dir)), self.secrets),
            )
        if isinstance(error, Exception):
            text = f"An error inside AccelBench ended the run: {type(error).__name__}: {error}"
            return "failed", "internal", scrub(text, self.secrets)
        return "cancelled", "interrupted", "The run was cancelled before it was complete."

    def _torn_down(self) -> None:
        self.record["torn_down_at"] = records.timestamp()

    def _close_accounts(self) -> None:
        seconds = time.monotonic() - self.started
        self.record["overhead_s"] = seconds - self.load_s
        records.add_cost(self.record, self.request.usd_per_hour, seconds)
        self.record = records.clean(self.record, self.secrets)

    def _keep_logs(self) -> None:
        """Put every file of the run's folder into the lake, scrubbed; failing to is only a warning."""
        if not self.work_dir.is_dir():
            return
        for path in sorted(p for p in self.work_dir.rglob("*") if p.is_file() and not p.is_symlink()):
            try:
                _scrub_file(path, self.secrets)
                name = "-".join(path.relative_to(self.work_dir).parts)
                self.lake.put_log(self.request.run_id, name, path)
            except (AccelBenchError, OSError) as error:
                self.on_event("warning", f"Log {path.name} could not be kept in the lake: {error}", {})

    def _clean_up(self) -> None:
        with contextlib.suppress(OSError):
            shutil.rmtree(self.work_dir)


def _scrub_file(path: Path, secrets: Sequence[str]) -> None:
    """Rewrite *path* as scrubbed UTF-8 text, the last 32 MiB of it."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_LIMIT))
        text = file.read().decode("utf-8", "replace")
    path.write_text(scrub(text, secrets), encoding="utf-8")
