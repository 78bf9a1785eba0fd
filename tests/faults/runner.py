"""Carries out one case of the matrix and checks what must hold after it, whatever was done to the run.

Belongs here: starting the orchestrator, doing the deed, the reaper's pass, the invariants, the next run.
Does not belong here: the cases (``cases``).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import psycopg

from accelbench_assets.bench.record import new_run_id
from accelbench_assets.budget.ledger import PostgresBudget
from accelbench_assets.lake.lake import Lake
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.naming import base_name
from accelbench_assets.launch.kube.reap import reap_cluster
from accelbench_assets.settings import load_settings
from accelbench_assets.sqlkit.publish import publish
from tests.faults.cases import Case, Fault
from tests.faults.orchestrate import carry_out
from tests.support.eks import PYTHON, EksWorld, make_cell, request_json, short_load

ENDS_S = 100.0
S3_DOWN_S = 15.0
STALE_S = 3.0


@dataclass
class Outcome:
    """One line of the matrix."""

    name: str
    status: str | None
    code: str | None
    exit_code: int
    reaped: list[str]
    left: list[str]
    seconds: float
    next_status: str = ""
    problem: str = ""


class Orchestrator:
    """The process under test, and its events as they come."""

    def __init__(self, world: EksWorld, document: str) -> None:
        path = world.folder / "request.json"
        path.write_text(document)
        self.log = world.folder / "orchestrator.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [PYTHON, "-m", "tests.faults.orchestrate", str(path)],
                env=world.environment(),
                cwd=world.folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.events: list[dict[str, Any]] = []
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.pid = int(self.wait_for(lambda e: e["kind"] == "pid")["pid"])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self._queue.put(json.loads(line))
        self._queue.put(None)

    def wait_for(self, wanted: Callable[[Mapping[str, Any]], bool], seconds: float = 60.0) -> dict[str, Any]:
        """The next event that is wanted; fails when the process ends or the time is up."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                event = self._queue.get(timeout=left)
                if event is None:
                    break
                self.events.append(event)
                if wanted(event):
                    return event
        raise AssertionError(f"the event never came; events: {self.events[-5:]}; {self.tail()}")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self, seconds: float = ENDS_S) -> int:
        """Its exit code; what is still there after *seconds* is a failure."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the orchestrator did not end in {seconds} s: {self.tail()}") from None

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


def _with_pid(faults: tuple[Fault, ...], pid: int) -> list[Fault]:
    return [{**fault, "pid": pid} if fault.get("pid") == "PID" else dict(fault) for fault in faults]


def play(world: EksWorld, case: Case) -> Outcome:
    """The case, the reaper, the checks, and a run that must succeed afterwards."""
    started = time.monotonic()
    workload = short_load(**case.more.get("load", {}))
    cell = make_cell(workload)
    run_id = new_run_id()
    lake, dsn = world.lake(), world.dsn
    assert dsn is not None
    with contextlib.ExitStack() as undo:
        if case.during and case.during[0] == "before":
            undo.enter_context(DEEDS[case.during[1]](world, run_id, None))
        document = request_json(
            cell,
            workload,
            run_id,
            shards=case.shards,
            die_at=case.die_at,
            stop_at=case.stop_at,
            deadline_s=60,
        )
        orchestrator = Orchestrator(world, document)
        undo.callback(orchestrator.process.kill)
        world.kube.set_faults([*_with_pid(case.api, orchestrator.pid), *case.pods])
        orchestrator.go()
        if case.during and case.during[0] != "before":
            phase, deed = case.during
            orchestrator.wait_for(lambda e: _is_phase(e, phase))
            undo.enter_context(DEEDS[deed](world, run_id, orchestrator))
        exit_code = orchestrator.end()
    world.kube.set_faults([])
    time.sleep(STALE_S + 2.0)  # a dead orchestrator's Lease goes stale by itself: no clock is moved
    reaped = reap(world, lake, dsn)
    record = lake.run_record(run_id)
    outcome = Outcome(
        name=case.name,
        status=record["status"] if record else None,
        code=record["failure_code"] if record else None,
        exit_code=exit_code,
        reaped=[f"{item['why']}" for item in reaped],
        left=world.left(),
        seconds=0.0,
    )
    outcome.problem = check(world, lake, dsn, case, outcome, orchestrator)
    outcome.next_status = next_run(world)
    if outcome.next_status != "succeeded":
        outcome.problem += f" the next run ended as {outcome.next_status};"
    outcome.seconds = time.monotonic() - started
    return outcome


def reap(world: EksWorld, lake: Lake, dsn: str) -> list[dict[str, Any]]:
    """One pass of the reaper, as the CronJob does it."""
    settings = load_settings()
    budget = PostgresBudget(dsn, settings.budget)
    return reap_cluster(Cluster.connect(settings.kube), lake, budget, stale_s=settings.kube.lease_stale_s)


def check(
    world: EksWorld, lake: Lake, dsn: str, case: Case, outcome: Outcome, orchestrator: Orchestrator
) -> str:
    """What is wrong after the case, empty if nothing is."""
    wrong = []
    if outcome.left:
        wrong.append(f"left in the cluster: {outcome.left}")
    if outcome.status not in case.ends:
        wrong.append(f"ended as {outcome.status} ({outcome.code}): {orchestrator.tail()[-600:]}")
    if case.code and outcome.status not in (None, "succeeded") and outcome.code not in case.code:
        wrong.append(f"failure_code {outcome.code}, wanted one of {case.code}")
    if opened := lake.open_attempts():
        wrong.append(f"attempts without a record: {[a['run_id'] for a in opened]}")
    records = {r["run_id"]: r for r in lake.run_records()}
    good = {run_id: r for run_id, r in records.items() if r["status"] == "succeeded"}
    wrong += [f"{r['run_id']} is {r['origin']}" for r in records.values() if r["origin"] != "simulated"]
    for run_id, record in good.items():
        if (rows := lake.samples(run_id).num_rows) != record["samples_rows"]:
            wrong.append(f"committed samples of {run_id} were lost: {rows} of {record['samples_rows']}")
    seen = set(lake.read_table("raw_samples").column("run_id").to_pylist())
    if not seen <= set(good):
        wrong.append(f"samples of runs that did not succeed are visible: {seen - set(good)}")
    publish(lake, dsn)
    with psycopg.connect(dsn) as connection:
        published = {row[0] for row in connection.execute("select run_id from runs")}
        steps = {row[0] for row in connection.execute("select distinct run_id from run_steps")}
        open_money = connection.execute(
            "select count(*) from budget_ledger where settled_usd is null"
        ).fetchone()
    if not published | steps <= set(good):
        wrong.append(f"published although not succeeded: {(published | steps) - set(good)}")
    if open_money is None or open_money[0]:
        wrong.append(f"{open_money} reservations were never settled")
    return "; ".join(wrong)


def next_run(world: EksWorld) -> str:
    """A run after all that, in this process; its status."""
    workload = short_load(duration_s=1.0)
    document = json.loads(request_json(make_cell(workload), workload, new_run_id(), deadline_s=60))
    try:
        return str(carry_out(document, lambda kind, message, data: None, published=False)["status"])
    except Exception as error:  # whatever it is, it is the matrix's line
        return f"{type(error).__name__}: {error}"[:300]


# -- deeds ---------------------------------------------------------------------------------------------------

Deed = Callable[[EksWorld, str, Orchestrator | None], contextlib.AbstractContextManager[None]]


def _is_phase(event: Mapping[str, Any], phase: str) -> bool:
    data = event.get("data") or {}
    if phase == "load":  # the load is really under way
        return event["kind"] == "progress"
    return event["kind"] == "phase" and data.get("phase") == phase


def _server_pod(world: EksWorld) -> dict[str, Any]:
    pods = world.kube.objects("app.kubernetes.io/component=server")
    return next(p for p in pods if p["kind"] == "Pod" and p["status"].get("phase") == "Running")


@contextlib.contextmanager
def _kill_server(world: EksWorld, run_id: str, orchestrator: Orchestrator | None) -> Iterator[None]:
    name = _server_pod(world)["metadata"]["name"]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("HOSTNAME") == name:
                process.kill()
    yield


@contextlib.contextmanager
def _lose_node(world: EksWorld, run_id: str, orchestrator: Orchestrator | None) -> Iterator[None]:
    name = _server_pod(world)["spec"]["nodeName"]
    world.kube.make_node_unready(name)
    try:
        yield
    finally:
        world.kube.make_node_ready(name)


@contextlib.contextmanager
def _delete_node(world: EksWorld, run_id: str, orchestrator: Orchestrator | None) -> Iterator[None]:
    name = _server_pod(world)["spec"]["nodeName"]
    node = next(n for n in world.kube.objects("", "Node") if n["metadata"]["name"] == name)
    world.kube.delete_node(name)
    again = {
        "name": name,
        "labels": node["metadata"]["labels"],
        "taints": node["spec"].get("taints") or [],
        "allocatable": node["status"]["allocatable"],
    }
    try:
        yield
    finally:
        world.kube.add_node(again)


@contextlib.contextmanager
def _evict_server(world: EksWorld, run_id: str, orchestrator: Orchestrator | None) -> Iterator[None]:
    world.kube.evict(_server_pod(world)["metadata"]["name"])
    yield


@contextlib.contextmanager
def _s3_down(world: EksWorld, run_id: str, orchestrator: Orchestrator | None) -> Iterator[None]:
    """It takes connections and answers nobody for a while: worse than refusing them."""
    os.kill(world.s3.pid, signal.SIGSTOP)
    back = threading.Timer(S3_DOWN_S, os.kill, (world.s3.pid, signal.SIGCONT))
    back.start()
    try:
        yield
    finally:
        back.cancel()
        os.kill(world.s3.pid, signal.SIGCONT)


@contextlib.contextmanager
def _postgres_down(world: EksWorld, run_id: str, orchestrator: Orchestrator | None) -> Iterator[None]:
    assert world.dsn is not None
    base, _, name = world.dsn.rpartition("/")
    with psycopg.connect(f"{base}/template1", autocommit=True) as admin:
        admin.execute(f"alter database {name} allow_connections false")
        admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
        try:
            yield
        finally:
            admin.execute(f"alter database {name} allow_connections true")


@contextlib.contextmanager
def _freeze(world: EksWorld, run_id: str, orchestrator: Orchestrator | None) -> Iterator[None]:
    assert orchestrator is not None
    assert world.dsn is not None
    os.kill(orchestrator.pid, signal.SIGSTOP)
    time.sleep(STALE_S + 1.0)
    reap(world, world.lake(), world.dsn)
    os.kill(orchestrator.pid, signal.SIGCONT)
    yield


@contextlib.contextmanager
def _cancel_by_lease(world: EksWorld, run_id: str, orchestrator: Orchestrator | None) -> Iterator[None]:
    cluster = Cluster.connect(load_settings().kube)
    cluster.patch(
        "Lease", base_name(run_id), {"metadata": {"annotations": {"accelbench.io/cancel": "a test"}}}
    )
    yield


DEEDS: dict[str, Deed] = {
    "kill_server": _kill_server,
    "lose_node": _lose_node,
    "delete_node": _delete_node,
    "evict_server": _evict_server,
    "s3_down": _s3_down,
    "postgres_down": _postgres_down,
    "freeze_orchestrator": _freeze,
    "cancel_by_lease": _cancel_by_lease,
}
