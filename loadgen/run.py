"""A whole run of the generator: calibrate, hash, measure each step, write each part, and always leave ``shard.json``.

Belongs here: the order of things, what is kept when something goes wrong. Does not belong here: argument parsing
(``__main__``), several processes (``workers``), the record's fields (``run_record``), each of the parts it calls.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from loadgen.calibrate import CalibrationResult, calibrate
from loadgen.conductor import Conductor, HostConductor
from loadgen.control import Control, RunError
from loadgen.datasets.remote import Fetched, is_remote, local_path
from loadgen.monitor import Monitor
from loadgen.output import OutputError, Sink, open_sink
from loadgen.plan import Plan, PlanError, Step
from loadgen.progress import Progress
from loadgen.run_record import Totals, cause_text, client_record, shard_record, step_record
from loadgen.run_setup import anchor, in_flight_ceiling, local_folder, open_client
from loadgen.samples import Origin, SampleBatch
from loadgen.source import StepSource, hashes
from loadgen.spool import Spool
from loadgen.steps import Machinery, StepResult, StepRunner
from loadgen.timer import Timer
from loadgen.workloads import Workload, check_runnable, from_document

if TYPE_CHECKING:
    from loadgen.scrape.beside import Beside

NS = 1_000_000_000
_SPARE_S = 1.0
_CANARY_NEEDS_S = 20.0  # of the deadline


def run_plan(
    plan: Plan,
    out: str,
    progress: Progress,
    started_ns: int,
    *,
    control: Control | None = None,
    conductor: Conductor | None = None,
    fetched: Fetched | None = None,
) -> tuple[int, str | None]:
    """Run *plan* in this process and write below *out*; returns the exit code and, unless it is 0, the reason for
    people. *conductor*, *control* and *fetched* (its dataset, if that lies in S3) are a worker's.

    Raises ``PlanError`` (nothing was sent) and ``OutputError`` (nothing can be written) before the first request.
    """
    control = control or Control(plan.deadline_s, started_ns)
    control.install()
    return _Run(plan, out, progress, control, conductor, fetched).run()


class _Run:
    def __init__(
        self,
        plan: Plan,
        out: str,
        progress: Progress,
        control: Control,
        conductor: Conductor | None,
        fetched: Fetched | None,
    ) -> None:
        plan.validate()
        self.progress, self.control = progress, control
        self.workload: Workload = from_document(plan.workload)
        if plan.workload_hash != self.workload.hash:
            raise PlanError("workload_hash: it is not the hash of the plan's workload document")
        check_runnable(self.workload, dataset=plan.dataset, models=len(plan.models or (plan.model,)))
        self.given: str | None = plan.dataset  # what it is called; plan.dataset becomes where it lies
        self.fetched = fetched
        self.plan = plan = dataclasses.replace(  # how connections are made is part of a profile
            plan,
            fresh_connections=plan.fresh_connections or self.workload.fresh_connections,
            http_version=max(plan.http_version, self.workload.http_version),
        )
        self.client, self.redact = open_client(plan)
        self.sink: Sink = open_sink(out, folder := f"shard={plan.shard:03d}")
        self.start = anchor()
        self.offset_ns = self.start["wall_ns"] - self.start["mono_ns"]
        self.workers = plan.shards if conductor is not None else 1
        if conductor is None:
            waits = plan.start_at_unix is not None
            conductor = HostConductor(plan, self.offset_ns) if waits else Conductor()
        conductor.attach(self.client)
        timer = Timer()
        self.client.watch(timer.fileno(), timer.clear)
        self.made = Machinery(
            client=self.client,
            timer=timer,
            control=self.control,
            monitor=Monitor(),
            progress=progress,
            conductor=conductor,
            spool=Spool.open(local_folder(out, folder)),
            in_flight_ceiling=in_flight_ceiling(),
        )
        self.unsettled = False  # raw answers are in the spool that nobody has decoded
        self.totals = Totals()
        self.parts: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.calibration: CalibrationResult | None = None
        self.hashes: tuple[str | None, str | None] = (None, None)
        self.capacity: dict[str, Any] | None = None
        self.canary: dict[str, Any] | None = None
        self.beside: Beside | None = None
        self.scrapes: list[dict[str, Any]] = []
        self.dataset: dict[str, Any] | None = None
        self.null_server: dict[str, float | None] | None = None
        self.null_server_reason: str | None = "the run did not come to its end"

    def run(self) -> tuple[int, str | None]:
        reason: str | None = None
        code = 0
        try:
            reason = self._measure()
            code = 0 if reason is None else self.control.exit_code
        except PlanError as error:  # the user's file, which is read when the server's tokens are known
            reason, code = self.fetched.named(str(error)) if self.fetched else str(error), 2
        except (RunError, OutputError) as error:
            reason, code = self.redact(str(error)), self.control.exit_code
        except Exception as error:  # of ours, or of a server nobody foresaw: shard.json says so
            reason, code = self._unforeseen(error), self.control.exit_code
        if self.beside is not None:
            self.scrapes = self.beside.close(self.sink)
        spool = self.made.spool
        kept = self.unsettled and bool(spool.segments)
        if kept:
            self._warn(f"raw answers are left; run: python -m loadgen recover --out {spool.folder}")
        try:
            self.sink.put("shard.json", self._shard(reason).encode())
        except OutputError as error:
            reason, code = reason or str(error), code or 1
        self.client.close()
        if not kept:
            spool.close()
        if self.fetched is not None:
            self.fetched.remove()
        for cause in self.totals.causes():
            self.progress.event("cause", message=cause_text(cause), **cause)
        rows = sum(part["rows"] for part in self.parts)
        self.progress.event("done", rows=rows, complete=code == 0, message=f"{rows} samples written")
        return code, reason

    def _unforeseen(self, error: Exception) -> str:
        """One sentence for an error nobody raised for people."""
        what = " ".join(self.redact(f"{type(error).__name__}: {error}").split())[:300].rstrip(".")
        return f"An error inside the load generator ended the run: {what}."

    def _measure(self) -> str | None:
        self._find_dataset()
        if self.plan.scrape:
            from loadgen.scrape.beside import Beside

            self.beside = Beside(
                self.plan, self.made.spool.folder, self.offset_ns, self._warn, self.control.stop_reason
            )
        self.calibration = result = calibrate(self.plan, self.workload, self.client, self.control)
        if result.warning:
            self._warn(result.warning)
        self.progress.event(
            "calibrated", message=f"prompts of {result.n_words} words", n_words=result.n_words
        )
        if self.plan.shards > self.workers and self.plan.start_at_unix is None:
            self._warn("start_at_unix: shards without a common start begin when each is ready")
        stopped = self._search() if self.plan.search is not None else self._ladder()
        if stopped is not None:
            return stopped
        last = self.made.conductor.all_done(self.control)
        if self.plan.canary and self.plan.shard == 0:
            self._ask_canary()
        if self.beside is not None:
            self.beside.end()
        self._calibrate_client(last)
        return None

    def _find_dataset(self) -> None:
        """Bring the user's file to this machine, if it is not there."""
        if is_remote(self.plan.dataset):
            assert self.plan.dataset is not None
            self.fetched = self.fetched or Fetched(self.plan.dataset, self.control.stop_reason)
            self.plan = dataclasses.replace(self.plan, dataset=str(self.fetched.path))
        elif (path := local_path(self.plan.dataset)) is not None:
            self.plan = dataclasses.replace(self.plan, dataset=path)

    # ------------------------------------------------------------------ steps

    def _ladder(self) -> str | None:
        sources = [self._source(step) for step in self.plan.steps]
        self.hashes = hashes(sources)
        for index, source in enumerate(sources):
            if (stopped := self.control.stop_reason()) is not None:
                return stopped
            result = self._step(source, self.plan.steps[index], index)
            if result.stopped is not None:
                return result.stopped
        return None

    def _search(self) -> str | None:
        from loadgen.capacity import FRACTIONS, MAX_CONCURRENCY, Point, Search
        from loadgen.tally import Tally

        asked, workload = dict(self.plan.search or {}), self.workload
        search = Search(
            self.plan.steps[0],
            asked["slo"],
            arrival=asked.get("arrival") or _confirming(workload.open_arrival),
            fractions=asked.get("fractions") or workload.open_fractions or FRACTIONS,
            max_concurrency=asked.get("max_concurrency") or MAX_CONCURRENCY,
        )
        points: list[Point] = []
        sources: list[StepSource] = []
        short: str | None = None
        stopped: str | None = None
        spare_s = _SPARE_S  # what a point takes beyond its warm-up and window: tail, decoding
        while stopped is None and (step := search.next(points)) is not None:
            if (stopped := self.control.stop_reason()) is not None:
                break
            left_s = (self.control.deadline_ns - time.perf_counter_ns()) / NS
            if left_s < step.warmup_limit_s + step.window_s + spare_s:
                short = f"{left_s:.0f} s of the deadline are left, and the next point takes {step.planned_s:.0f} s"
                self._warn(f"the capacity search ended early: {short}")
                break
            sources.append(self._source(step))
            tally = Tally(step, search.slo)
            result = self._step(sources[-1], step, step.step_index, tally.add)
            now_s = (self.control.deadline_ns - time.perf_counter_ns()) / NS
            spare_s = max(spare_s, left_s - now_s - result.warmup["seconds"] - step.window_s)
            if (stopped := result.stopped) is None:
                points.append(tally.point(result, self.offset_ns))
                self.progress.event("point", **dataclasses.asdict(points[-1]), message=_describe(points[-1]))
        self.capacity = search.result(points, stopped or short)
        self.hashes = hashes(sources)
        return stopped

    def _source(self, step: Step) -> StepSource:
        assert self.calibration is not None
        source = StepSource(self.plan, self.workload, step, self.calibration)
        if (found := source.data_record()) is not None:
            self.dataset = {
                "name": self.given,
                **{name: found[name] for name in ("sha256", "rows", "left_out")},
            }
        return source

    def _step(
        self, source: StepSource, step: Step, index: int, also: Callable[[SampleBatch], None] | None = None
    ) -> StepResult:
        share = self.plan.share(step)
        runner = StepRunner(source, step, share, self.made, index=index)
        numbers = itertools.count()

        def emit(batch: SampleBatch) -> None:
            if also is not None:
                also(batch)
            if not self.parts:
                self._add_calibration(batch)
            self._write(f"part-{step.step_index:03d}-{next(numbers):03d}.parquet", batch)

        self.unsettled = True
        result = runner.run(self._origin(step.step_index), emit)
        source.forget()
        self.unsettled = False
        self.steps.append(step_record(step, share, result, self.offset_ns))
        self.totals.add(result)
        if result.error is not None:
            raise result.error
        if (late_s := self.made.conductor.late_s) > 0:
            self._warn(f"step {index}: this shard began {late_s:.3f} s late, when it was ready")
        if result.ceiling_hits:
            self._warn(
                f"step {index}: {result.ceiling_hits} requests were not sent, "
                f"{self.made.in_flight_ceiling} being in flight"
            )
        return result

    def _origin(self, step_index: int) -> Origin:
        plan = self.plan
        return Origin(plan.run_id, plan.shard, step_index, plan.model, self.offset_ns, self.redact)

    # ------------------------------------------------------------------ parts

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

    # ------------------------------------------------------------------ after the steps

    def _ask_canary(self) -> None:
        from loadgen import canary

        left_s = (self.control.deadline_ns - time.perf_counter_ns()) / NS
        if left_s < _CANARY_NEEDS_S:
            return self._warn(f"the canary prompts were left out: {left_s:.0f} s of the deadline were left")
        found = canary.ask(self.plan, self.client, self.control)
        self.canary = found.record()
        batch = SampleBatch()
        for exchange, answer in found.answers:
            batch.add(self._origin(-1), "canary", exchange, answer)
        self._write("part-canary-000.parquet", batch)
        if found.stopped is not None:
            self._warn(f"the canary prompts were cut short: {found.stopped}")
        return None

    def _calibrate_client(self, last: bool) -> None:
        from loadgen.nullserver import NullServerError, measure

        if not self.plan.null_server:
            self.null_server_reason = "it was switched off"
        elif self.plan.http_version != "1.1":
            self.null_server_reason = f"the null server does not speak HTTP/{self.plan.http_version}"
        elif not last:
            self.null_server_reason = "shard 0 measured it for all"
        else:
            users = max((step["in_flight_max"] for step in self.steps), default=1)
            try:
                self.null_server = measure(users, self.totals.measured_s, self.control)
                self.null_server_reason = None
            except NullServerError as error:
                self.null_server_reason = str(error)

    def _shard(self, reason: str | None) -> str:
        if self.client.counters.reopened:
            self.warnings.append(
                f"{self.client.counters.reopened} requests went out again: the server had closed a connection "
                "it had announced to keep"
            )
        figures = client_record(
            dataclasses.replace(self.plan, workers=self.workers),
            self.client,
            self.made.monitor,
            self.totals,
            self.null_server,
            self.null_server_reason,
        )
        record = shard_record(
            self.plan,
            reason=reason,
            parts=self.parts,
            steps=self.steps,
            hashes=self.hashes,
            anchors=(self.start, anchor()),
            client=figures,
            calibration=self.calibration,
            capacity=self.capacity,
            canary=self.canary,
            causes=self.totals.causes(),
            scrapes=self.scrapes,
            dataset=self.dataset,
            warnings=self.warnings,
        )
        return json.dumps(record, indent=1)


def _confirming(arrival: str | None) -> str:
    """The arrival law of a search's open loop: the workload's own where it is stationary."""
    law = arrival or "poisson"
    return law if law.partition(":")[0] in ("constant", "gamma") else "poisson"


def _describe(point: Any) -> str:
    load = f"C={point.load_value:g}" if point.load_kind == "closed" else f"{point.load_value:g}/s"
    verdict = "passes" if point.passed else "fails"
    return (
        f"{point.kind} {load}: {point.requests_per_s:.4g} requests/s, "
        f"{point.attainment:.1%} within the objective, {point.error_rate:.1%} errors: {verdict}"
    )
