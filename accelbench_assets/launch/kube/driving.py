"""Drives a load by an Indexed Job of generators: starts it, listens, and says how it ended.

Belongs here: the Job's life from creation to verdict, generators' progress and logs, what their end means.
Does not belong here: the objects (``launch.manifests``), what a generator does (``loadgen``), its progress lines and
exit codes (``launch.generator``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from accelbench_assets.errors import AccelBenchError, DeadlineExceeded, LaunchError
from accelbench_assets.launch.base import AttemptHold, Deadline, Endpoint, EventSink, ServerSpec
from accelbench_assets.launch.generator import relay
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.diagnose import job_verdict, starting_trouble
from accelbench_assets.launch.kube.errors import KubeError
from accelbench_assets.launch.kube.follow import LogFollower, has_started
from accelbench_assets.launch.kube.generators import (
    exit_error,
    index_of,
    is_progress,
    of_this_job,
    refuse_killed,
    says_ready,
)
from accelbench_assets.launch.kube.look import (
    Look,
    Object,
    condition,
    container_status,
    name_of,
    node_of,
    terminated,
)
from accelbench_assets.launch.kube.loss import InUse, in_use, lost
from accelbench_assets.launch.kube.naming import load_name, plan_name
from accelbench_assets.launch.kube.teardown import await_gone
from accelbench_assets.launch.kube.trouble import Trouble
from accelbench_assets.launch.kube.watcher import Watcher
from accelbench_assets.launch.manifests import GENERATOR, load_objects, owned
from accelbench_assets.scrub import scrub
from accelbench_assets.settings_groups import KubeSettings
from loadgen.plan import Plan

ALIVE_EVERY_S = 0.5
LOG_END_S = 5.0
"""Longest wait for a log's last lines after the generators have ended."""
FLUSH_S = 15.0
"""Longest wait for generators that were told to end and save what they have."""
START_S = 600.0
"""Longest time from a node for the generators to their first sign of life."""
START_ALLOWANCES_S = (15.0, 60.0, 300.0)
"""Shards on several hosts start together, this long after their Job was made; longer when not all were
calibrated in time."""
GONE_S = 60.0
"""Longest wait for all of one try to be gone before the next."""
TRY = "accelbench.io/try"
"""Annotation that tells the objects of one try from those of another, which have the same names."""
_ABOUT_SERVERS = (
    "no_capacity",
    "oom",
    "crash_loop",
    "does_not_fit",
    "bad_config",
    "not_ready",
    "unschedulable",
)


@dataclasses.dataclass(slots=True)
class Drive:
    """One load: what it needs, and how far it is."""

    cluster: Cluster
    kube: KubeSettings
    spec: ServerSpec
    anchor: Object
    hold: AttemptHold
    endpoint: Endpoint
    deadline: Deadline
    on_event: EventSink
    expires_at: datetime
    env: Mapping[str, str]
    start_allowances_s: tuple[float, ...] = START_ALLOWANCES_S
    _ready: set[int] = dataclasses.field(default_factory=set)

    def to_the_end(self, plan: Plan, out: str) -> None:
        """From the Job's creation to its success. Raises ``LaunchError``, ``DeadlineExceeded``."""
        self.deadline.check("starting the load generator")
        try:
            for number, allowance in enumerate(self.start_allowances_s):
                if number:
                    self.on_event(
                        "warning", "Not all load generators were there in time; they start anew.", {}
                    )
                    self._await_cleared()
                if not (late := self._try(plan, out, allowance)):
                    return
            names = ", ".join(str(shard) for shard in late)
            raise LaunchError(
                f"Load generators did not come together: shard {names} was not calibrated within {allowance:.0f} s.",
                code="loadgen_failed",
                hint="Look at its log and its node: the generators' logs are kept with the run.",
            )
        except LaunchError as error:
            if error.code not in ("lease_lost", "node_lost"):  # others remove it; a lost node saves nothing
                self._remove()
            raise
        except AccelBenchError:
            self._remove()
            raise

    def _try(self, plan: Plan, out: str, allowance: float) -> list[int]:
        """Drive to the end; shards for which the others would not have waited, if so: it should be tried again."""
        start: float | None = None
        if plan.shards > 1:
            start = self.cluster.server_time().timestamp() + allowance
            plan = dataclasses.replace(plan, start_at_unix=start)
        follower = LogFollower(self.cluster, self.spec.work_dir, GENERATOR, GENERATOR, listen=is_progress)
        try:
            self._ready.clear()
            self._create(plan, out)
            return self._watch(plan, follower, start, min(2.0, 0.25 * allowance))
        finally:
            follower.close()
            self._relay(follower)

    def _create(self, plan: Plan, out: str) -> None:
        zone = self.endpoint.facts.get("zone")
        manifests = load_objects(
            self.spec,
            self.kube,
            plan,
            out,
            zone=zone if zone and "," not in zone else None,
            deadline_s=math.ceil(self.deadline.remaining()),
            expires_at=self.expires_at,
            env=self.env,
        )
        path = self.spec.work_dir / "plan.json"
        path.write_text(plan.to_json(), encoding="utf-8")
        mark = uuid.uuid4().hex
        for manifest in manifests:
            ours = owned(manifest, self.anchor)
            ours["metadata"]["annotations"] = {**ours["metadata"]["annotations"], TRY: mark}
            made = self.cluster.create(ours)  # one of this run that was there is returned as well
            if (made["metadata"].get("annotations") or {}).get(TRY) != mark:
                raise LaunchError(
                    f"{ours['kind']} {name_of(ours)} of an earlier try is still there.", code="loadgen_failed"
                )

    def _watch(self, plan: Plan, follower: LogFollower, start: float | None, margin_s: float) -> list[int]:
        job = ("Job", load_name(self.spec.run_id))
        watcher = Watcher(
            self.cluster,
            self.spec.run_id,
            "load",
            job,
            GENERATOR,
            plan.shards,
            self.kube.poll_s,
            follower.path,
        )
        began = next_check = time.monotonic()
        ran: dict[str, InUse] = {}
        while True:
            self.hold.check()
            self.deadline.check("driving the load")
            try:
                if time.monotonic() >= next_check:
                    self.endpoint.check_alive()
                    next_check = time.monotonic() + max(ALIVE_EVERY_S, self.kube.poll_s)
                look = of_this_job(watcher.look())
                follower.see(look.pods)
                self._relay(follower)
                ran |= in_use([pod for pod in look.pods if has_started(pod, GENERATOR)], GENERATOR)
                verdict = job_verdict(look.owner)
                if verdict is not None and verdict[0] == "Complete":
                    follower.drain(LOG_END_S)
                    refuse_killed(look)
                    return []
                self._judge(look, verdict, ran, follower, began)
                if start is not None and self.cluster.server_time().timestamp() > start - margin_s:
                    if late := self._late(look, plan.shards):
                        return late
                    start = None  # all are there
            except KubeError as error:
                # The generators measure on without us; how long is for the Lease and the deadline to say. check_alive,
                # which meets the same, tells of it.
                if error.code != "api_unavailable":
                    raise
            time.sleep(self.kube.poll_s)

    def _late(self, look: Look, shards: int) -> list[int]:
        """Shards that have not said that they are calibrated, neither while followed nor in their whole log."""
        late = []
        for shard in sorted(set(range(shards)) - self._ready):
            pods = [pod for pod in look.pods if index_of(pod) == shard and has_started(pod, GENERATOR)]
            logs = [self.cluster.log(name_of(pod), GENERATOR) for pod in pods]
            if not any(says_ready(line) for log in logs for line in log.splitlines()):
                late.append(shard)
        return late

    def _relay(self, follower: LogFollower) -> None:
        for index, line in follower.lines():
            if says_ready(line):
                self._ready.add(index)
            relay(line, self._of_shard(index))

    def _of_shard(self, index: int) -> EventSink:
        def tell(kind: str, message: str, data: Mapping[str, object]) -> None:
            self.on_event(kind, message, {**data, "shard": index})

        return tell

    def _judge(
        self,
        look: Look,
        verdict: tuple[str, str, str] | None,
        ran: Mapping[str, InUse],
        follower: LogFollower,
        began: float,
    ) -> None:
        """Raise what ended the load, if anything did: a lost node, a generator's failure, the Job's own."""
        present = {name_of(pod) for pod in look.pods}
        doom = condition(look.owner, "FailureTarget")  # comes first; then the pods go; then the verdict comes
        self._refuse_late(doom, verdict)
        for pod in look.pods:
            if found := lost(pod, look):
                raise self._blamed(found.error())
            ended = terminated(container_status(pod, GENERATOR))
            if ended and (ended.get("exitCode") != 0 or ended.get("reason") == "OOMKilled"):
                follower.drain(LOG_END_S)
                log = follower.path(name_of(pod)) or follower.file(0)
                self._read_again(name_of(pod), log)
                # Kubernetes ends the pods of a late Job a moment before it says so.
                job = self.cluster.get("Job", load_name(self.spec.run_id))
                self._refuse_late(condition(job, "FailureTarget"), job_verdict(job))
                raise self._blamed(exit_error(pod, ended, log, self.deadline))
        if look.owner is None:
            text = "The load generators' Job is gone: somebody deleted it."
            raise self._blamed(LaunchError(text, code="evicted"))
        if (gone := sorted(set(ran) - present)) and not doom:
            found = Trouble("evicted", f"Load generator {gone[0]} is gone: its pod was deleted.")
            raise self._blamed(found.error())
        if verdict is not None:
            text = f"The load generators' Job failed ({verdict[1]}): {verdict[2]}"
            raise self._blamed(LaunchError(text, code="loadgen_failed"))
        trouble = starting_trouble(look, GENERATOR)
        waiting = len(look.pods) < look.wanted or not all(node_of(pod) for pod in look.pods)
        seconds = time.monotonic() - began
        stuck = len(ran) < look.wanted and seconds > self.kube.provisioning_s + min(
            START_S, self.kube.start_s
        )
        late = stuck or (waiting and seconds > self.kube.provisioning_s)
        if trouble is not None and (trouble.certain or late):
            error = trouble.error(look.logs.get(trouble.pod, ""))
            if error.code in _ABOUT_SERVERS:  # such codes are read as results of the cell, which it is not
                error.code = "loadgen_failed"
            raise error
        if late:
            text = f"Not all load generators were started within {seconds:.0f} s, and nothing says why."
            raise LaunchError(text, code="loadgen_failed", hint="Look at their NodePool.")

    def _refuse_late(self, doom: Object, verdict: tuple[str, str, str] | None) -> None:
        """Raise ``DeadlineExceeded`` when that is what the Job failed of."""
        if doom.get("reason") == "DeadlineExceeded" or (verdict and verdict[1] == "DeadlineExceeded"):
            raise DeadlineExceeded(
                f"The run's deadline of {self.deadline.total_s:.0f} s passed while load was driven."
            )

    def _read_again(self, pod: str, log: Path) -> None:
        """The whole log at once, where following it brought nothing: the stream may have broken at the end."""
        if log.is_file() and log.read_text(encoding="utf-8").strip():
            return
        with contextlib.suppress(AccelBenchError):
            said = scrub(self.cluster.log(pod, GENERATOR, tail_lines=100)).splitlines()
            if kept := [line for line in said if not is_progress(line)]:
                log.write_text("\n".join(kept) + "\n", encoding="utf-8")

    def _blamed(self, error: AccelBenchError) -> AccelBenchError:
        """*error*, unless the run was cancelled, or a server is what really failed."""
        self.hold.check()
        self.endpoint.check_alive()
        return error

    def _await_cleared(self) -> None:
        """Remove one try wholly, so that nothing of it can be taken for the next. Raises ``LaunchError``."""
        limit = time.monotonic() + GONE_S
        self._remove()
        while left := self._left():
            self.hold.check()
            self.deadline.check("starting the load generators anew")
            if time.monotonic() >= limit:
                text = f"An earlier try of the load generators is not gone after {GONE_S:.0f} s: {', '.join(left)}."
                raise LaunchError(text, code="loadgen_failed")
            time.sleep(self.kube.poll_s)
            if not all(name.startswith("pod ") for name in left):  # pods take their time, nothing else does
                self._remove()

    def _left(self) -> list[str]:
        """What is left of a try: pods, Job, plan; what cannot be asked counts as left."""
        run_id = self.spec.run_id
        left = [f"pod {name}" for name in await_gone(self.cluster, run_id, "load", 0.0)]
        for kind, name in (("Job", load_name(run_id)), ("ConfigMap", plan_name(run_id))):
            try:
                found = self.cluster.get(kind, name)
            except KubeError as error:
                if error.code != "api_unavailable":
                    raise
                found = {}
            if found is not None:
                left.append(f"{kind} {name}")
        return left

    def _remove(self) -> None:
        """End the generators and give them time to save what they have measured."""
        run_id = self.spec.run_id
        with contextlib.suppress(AccelBenchError):  # leaving tries once more, and the cause is known already
            self.cluster.delete("Job", load_name(run_id), retry_s=FLUSH_S)
            await_gone(self.cluster, run_id, "load", FLUSH_S)
            self.cluster.delete("ConfigMap", plan_name(run_id), retry_s=FLUSH_S)
