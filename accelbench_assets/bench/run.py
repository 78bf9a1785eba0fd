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
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelbench_assets.bench import record as records
from accelbench_assets.bench.beside import Beside
from accelbench_assets.bench.ending import classify, keep_logs
from accelbench_assets.bench.paying import Purse
from accelbench_assets.bench.request import RunFailed, RunRequest, RunVoid
from accelbench_assets.bench.validity import Rules, first_void, judge, overall, required_window_s
from accelbench_assets.errors import AccelBenchError, LakeError, LaunchError
from accelbench_assets.launch.base import Deadline, Endpoint, EventSink, Launcher, ServerSpec
from accelbench_assets.launch.locks import RunLock
from accelbench_assets.scrub import looks_secret
from accelbench_assets.telemetry.sources import Source, local_sources
from loadgen.plan import Plan
from loadgen.workloads import Workload

if TYPE_CHECKING:
    import pyarrow as pa

    from accelbench_assets.budget.base import Budget
    from accelbench_assets.lake.lake import Lake

__all__ = ["RunFailed", "RunRequest", "RunVoid", "build_plan", "request_timeout_s", "run_benchmark"]

TEARDOWN_ALLOWANCE_S = 5.0
RESERVATION_TTL_S = 300.0
"""A reservation outlives a stale Lease (3 min) a little, so that money is not free before the node is."""
MIN_REQUEST_TIMEOUT_S = 60.0
_TEXT_LIMIT = 2000


def run_benchmark(
    request: RunRequest, launcher: Launcher, lake: Lake, on_event: EventSink, budget: Budget | None = None
) -> dict[str, Any]:
    """Carry out *request* and return its ``runs`` record. A launcher that costs money needs *budget*.

    Raises ``RunVoid`` or ``RunFailed`` (both with ``.record``) after recording; ``LakeError`` when the
    attempt could not even be registered, ``LaunchError`` (``busy``) when another process works on this run.
    ``KeyboardInterrupt`` and other non-``Exception``s are recorded as ``cancelled`` and raised again.
    """
    with RunLock(request.home, request.run_id) as lock:
        attempt = _Attempt(request, launcher, lake, on_event, budget)
        attempt.register(lock.describe())
        try:
            return attempt.held()
        except BaseException as error:
            attempt.end(error)
            raise


def request_timeout_s(workload: Workload) -> float:
    """M35: at least a minute, at least what the profile says, at least ten times the SLO's E2E."""
    e2e_ms = (workload.slo or {}).get("e2e_ms") or 0.0
    return max(MIN_REQUEST_TIMEOUT_S, workload.request_timeout_s, 10.0 * e2e_ms / 1000.0)


def build_plan(
    request: RunRequest, endpoint: Endpoint, deadline: Deadline, *, dataset: str | None = None
) -> Plan:
    """The plan of all shards; the generator gets what is left of the deadline less the teardown. *dataset* is where
    the generator finds the user's own requests.
    """
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
        dataset=dataset or load.dataset,
        shards=load.shards,
        scrape=endpoint.scrape,
        search={"slo": dict(load.search_slo)} if load.search_slo else None,
        canary=load.canary,
        proxy_env=load.proxy_env,
    )


class _Attempt:
    """State of one attempt between its registration and its record."""

    def __init__(
        self,
        request: RunRequest,
        launcher: Launcher,
        lake: Lake,
        on_event: EventSink,
        budget: Budget | None,
    ) -> None:
        self.purse = Purse(request, launcher, budget, on_event)
        self.ended = False
        self.unusable: AccelBenchError | None = None
        self.request, self.launcher, self.lake, self.on_event = request, launcher, lake, on_event
        self.record = records.new_attempt(request)
        self.deadline = Deadline.after(request.deadline_s)
        self.started = time.monotonic()
        self.serve_s = self.load_s = 0.0
        self.work_dir = request.home / "work" / request.run_id
        key = os.environ.get(request.api_key_env or "", "")
        named = [value for name, value in request.headers.items() if looks_secret(name.replace("-", "_"))]
        proxy = os.environ.get(request.load.proxy_env or "", "")
        self.secrets = [value for value in (key, proxy, *named) if value]

    def register(self, lock: Mapping[str, Any]) -> None:
        """Announce the attempt; one that the caller announced for this run_id already is taken over.

        The announcement says how others can tell its death; a launcher that cannot say it cannot launch either.
        """
        facts: Mapping[str, Any] = {}
        try:
            # A run that waited long in a queue is old by its request; the reaper goes by its registration.
            facts = {"registered_at": records.timestamp(), **self.launcher.attempt_facts()}
        except AccelBenchError as error:
            self.unusable = error
        try:
            self.lake.begin_attempt({**self.record, **lock, **facts})
        except LakeError:
            if all(a["run_id"] != self.request.run_id for a in self.lake.open_attempts()):
                raise
            if facts:
                self.lake.amend_attempt(self.request.run_id, facts)

    def held(self) -> dict[str, Any]:
        """The whole attempt, with its money reserved and its sign of life kept up until its record is written."""
        if self.unusable is not None:
            raise self.unusable
        self.lake.check_writable()  # before money is spent
        request = self.request
        with (
            self.purse.reserved(RESERVATION_TTL_S),
            self.launcher.attempt(
                request.run_id, request.cell.cell_id, self.deadline, self.purse.renew
            ) as self.hold,
        ):
            self.purse.hold = self.hold
            try:
                return self.carry_out()
            except BaseException as error:
                self.end(error)
                raise

    def carry_out(self) -> dict[str, Any]:
        """From registration to a committed record."""
        run_id, say = self.request.run_id, self.on_event
        self.work_dir.mkdir(parents=True, exist_ok=True)
        spec = self._spec()
        say("phase", f"starting {self.request.cell.engine}", {"phase": "serve", "run_id": run_id})
        asked = time.monotonic()
        with self.launcher.serve(spec, self.deadline, say) as endpoint:
            self.serve_s = time.monotonic() - asked
            records.add_facts(self.record, endpoint.facts)
            # Never assumed: a launcher that does not say it fails.
            self.record["origin"] = endpoint.facts["origin"]
            engine = self.request.cell.engine
            beside = Beside(endpoint, run_id, engine, self.work_dir, say, self._sources())
            plan = build_plan(self.request, endpoint, self.deadline, dataset=self._dataset())
            if self.request.workload.ignore_eos and not endpoint.supports_ignore_eos:
                say("warning", "This server does not honour ignore_eos; answers may be too short.", {})
            say("phase", "measuring", {"phase": "load", "steps": len(plan.steps)})
            began = time.monotonic()
            self.record["load_started_at"] = records.timestamp()
            try:
                with beside:
                    self.launcher.load(
                        plan, endpoint, self.lake.incoming_uri(run_id), spec, self.deadline, say
                    )
            finally:
                self.load_s = time.monotonic() - began
                self.record["load_finished_at"] = records.timestamp()
            endpoint.check_alive()
            if not endpoint.scrape:
                beside.collect(self.lake)
            records.add_facts(self.record, endpoint.facts)
        if not self.launcher.remote:
            self._torn_down()
        say("phase", "checking the samples", {"phase": "verify"})
        shards = self.lake.verify_shards(run_id, plan.shard_count)
        if endpoint.scrape:
            beside.collect(self.lake, shards)
        records.add_shards(self.record, shards)
        if self.request.load.search_slo is not None:
            self.record["ladder"] = records.searched_ladder(self.request, shards)
        rules = self._judge(self.lake.read_incoming(run_id), shards, beside)
        self.record["validity"] = records.json_safe(rules)
        if (rule := first_void(rules)) is not None:
            raise RunVoid(f"The run is void by rule {rule}: {rules[rule]['text']}", self.record)
        self._refuse_cancelled()
        return self._commit(shards, beside)

    def _refuse_cancelled(self) -> None:
        """The last moment to hear of a cancel. A lost sign of life costs nothing now: whoever took the run for dead has
        written its record, and the commit finds that.
        """
        try:
            self.hold.check()
        except LaunchError as error:
            if error.code == "cancelled":
                raise

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
            shards=request.load.shards,
            engine_image=request.engine_image,
            model_commit=request.model_commit,
        )

    def _dataset(self) -> str | None:
        """The user's own requests, brought where the generator can read them."""
        given = self.request.load.dataset
        if given is None or not self.launcher.remote or "://" in given:
            return given
        path = Path(given)
        return self.lake.put_incoming(self.request.run_id, f"dataset-{path.name}", path)

    def _judge(
        self,
        samples: pa.Table,
        shards: Sequence[Mapping[str, Any]],
        beside: Beside,
    ) -> Rules:
        from accelbench_assets.bench.engine_counters import reconcile
        from accelbench_assets.bench.rules.launching import launch_rules
        from accelbench_assets.bench.summary import evaluate
        from accelbench_assets.telemetry.headers import header_rule
        from accelbench_assets.telemetry.reduce import SideChannels
        from accelbench_assets.telemetry.rules import side_rules

        request, workload = self.request, self.request.workload
        side = SideChannels(beside.rows, beside.accelerator_rows)
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
        seen, gaps = beside.readings, beside.gaps
        rules |= reconcile(beside.before, beside.after, samples)
        rules |= side_rules(steps, hardware, readings=seen, gaps=gaps) | header_rule(frames)
        if self.launcher.remote:
            rules |= launch_rules(self.record, samples, accelerator_rows=len(beside.accelerator_rows))
        return rules

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

    def _commit(self, shards: Sequence[Mapping[str, Any]], beside: Beside) -> dict[str, Any]:
        import pyarrow as pa

        from accelbench_assets.lake.tables import SCHEMAS

        self.on_event("phase", "committing", {"phase": "commit", "verdict": overall(self.record["validity"])})
        self.record["status"] = "succeeded"
        self._close_accounts()
        keep_logs(self.lake, self.request.run_id, self.work_dir, self.secrets, self.on_event)
        for name, rows in (
            ("engine_metrics", [*beside.before, *beside.rows, *beside.after]),
            ("accelerator_metrics", beside.accelerator_rows),
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
        """Record *error* as the attempt's end, once; raise it as ``RunFailed`` if it is an ordinary failure."""
        if self.ended:
            return
        self.ended = True
        if self.launcher.remote and self.purse.is_of_another(error):
            raise error  # and so is the record
        status, code, text = classify(error, self.record["validity"], self.work_dir, self.secrets)
        self.record |= {"status": status, "failure_code": code, "failure_text": text[:_TEXT_LIMIT]}
        if self.record["torn_down_at"] is None and not self.launcher.remote:
            self._torn_down()  # of machines elsewhere only their launcher knows
        self._close_accounts()
        keep_logs(self.lake, self.request.run_id, self.work_dir, self.secrets, self.on_event)
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

    def _torn_down(self) -> None:
        self.record["torn_down_at"] = records.timestamp()

    def _close_accounts(self) -> None:
        seconds = time.monotonic() - self.started
        self.record["overhead_s"] = seconds - self.load_s - self.serve_s
        if self.launcher.paid:
            self.purse.add_up()
            records.add_spent(self.record, self.purse.spent_usd)
        else:
            records.add_cost(self.record, self.request.usd_per_hour, seconds)
        self.record = records.clean(self.record, self.secrets)

    def _clean_up(self) -> None:
        with contextlib.suppress(OSError):
            shutil.rmtree(self.work_dir)
