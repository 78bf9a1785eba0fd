"""The Job controller.

Belongs here: parallelism, indexes, retries, deadlines, verdicts, time to live. Does not belong here: running pods
(``kubelet``). Not emulated: suspend, success and failure policies, back-off per index (accepted and ignored).
"""

from __future__ import annotations

import time

from tests.launch.kube.conditions import (
    is_active,
    is_finished,
    is_ready,
    is_true,
    phase,
    pods_by_owner,
    seconds_since,
    with_condition,
)
from tests.launch.kube.deletion import DeleteOptions, delete
from tests.launch.kube.events import Recorder
from tests.launch.kube.kinds import JOB, POD, Obj, controller_of, is_deleting, name_of, namespace_of, uid_of
from tests.launch.kube.moments import Pace, stamp
from tests.launch.kube.pod_maker import PodMaker
from tests.launch.kube.registry import Registry

TRACKING = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
COMPONENT = "job-controller"
RETRY_S, LONGEST_RETRY_S = 10.0, 360.0
_TEXTS = {
    "BackoffLimitExceeded": "Job has reached the specified backoff limit",
    "DeadlineExceeded": "Job was active longer than specified deadline",
    "CompletionsReached": "Reached expected number of succeeded pods",
}


def indexes_text(indexes: set[int]) -> str:
    """``{0, 1, 2, 4}`` as ``0-2,4``; two in a row as ``0,1``."""
    parts: list[str] = []
    for start in sorted(one for one in indexes if one - 1 not in indexes):
        end = start
        while end + 1 in indexes:
            end += 1
        parts.append(str(start) if end == start else f"{start}{',' if end == start + 1 else '-'}{end}")
    return ",".join(parts)


def index_of(pod: Obj) -> int:
    return int((pod["metadata"].get("annotations") or {}).get(INDEX, -1))


class Jobs:
    """Level-triggered; a pod is counted once, when its tracking finalizer is taken off."""

    def __init__(self, registry: Registry, events: Recorder, pace: Pace) -> None:
        self.registry, self.events, self.pace = registry, events, pace
        self.maker = PodMaker(registry, events, COMPONENT)
        self._done: dict[str, set[int]] = {}
        self._not_before: dict[str, float] = {}

    def sync(self) -> None:
        owned = pods_by_owner(self.registry.store)
        for job in self.registry.store.all(JOB):
            if not is_deleting(job):
                self._one(job, owned.get(uid_of(job), []))
        self._release_orphans()

    def _release_orphans(self) -> None:
        for pod in self.registry.store.all(POD):
            if TRACKING not in (pod["metadata"].get("finalizers") or ()):
                continue
            owner = controller_of(pod)
            job = self.registry.store.find(JOB, namespace_of(pod), owner["name"]) if owner else None
            if job is None or owner is None or uid_of(job) != owner["uid"] or is_deleting(job):
                self._release(pod)

    def _release(self, pod: Obj) -> None:
        left = [one for one in pod["metadata"].get("finalizers") or () if one != TRACKING]
        self.registry.set_metadata(POD, pod, finalizers=left or None)

    def _one(self, job: Obj, pods: list[Obj]) -> None:
        if is_true(job, "Complete") or is_true(job, "Failed"):
            for pod in pods:
                if TRACKING in (pod["metadata"].get("finalizers") or ()):
                    self._release(pod)
            self._expire(job)
            return
        if not (job.get("status") or {}).get("startTime"):
            job = self.registry.set_status(JOB, job, startTime=stamp()) or job
        job = self._count(job, pods)
        active = [pod for pod in pods if is_active(pod)]
        ending = [pod for pod in pods if is_deleting(pod) and not is_finished(pod)]
        verdict = self._verdict(job, pods)
        if is_true(job, "FailureTarget") or is_true(job, "SuccessCriteriaMet"):
            for pod in active:
                self.maker.remove(JOB, job, pod)
            if not active and not ending:
                job = self._finish(job)
        elif verdict:
            kind = "SuccessCriteriaMet" if verdict == "CompletionsReached" else "FailureTarget"
            job = self._mark(job, kind, verdict)
        else:
            self._fill(job, active, ending)
        self._report(job)

    def _count(self, job: Obj, pods: list[Obj]) -> Obj:
        """Finished pods that were not counted yet; also those removed by force."""
        status = job.get("status") or {}
        succeeded, failed = status.get("succeeded", 0), status.get("failed", 0)
        done = self._done.setdefault(uid_of(job), set())
        for pod in pods:
            if TRACKING not in (pod["metadata"].get("finalizers") or ()):
                continue
            forced = is_deleting(pod) and pod["metadata"].get("deletionGracePeriodSeconds") == 0
            if phase(pod) == "Succeeded":
                succeeded += index_of(pod) not in done or index_of(pod) < 0
                done.add(index_of(pod))
            elif is_finished(pod) or forced:
                failed += 1
                pause = min(RETRY_S * 2 ** (failed - 1), LONGEST_RETRY_S)
                self._not_before[uid_of(job)] = time.monotonic() + self.pace(pause)
            else:
                continue
            self._release(pod)
        indexes = indexes_text(done - {-1}) or None
        counted = self.registry.set_status(
            JOB, job, succeeded=succeeded or None, failed=failed or None, completedIndexes=indexes
        )
        return counted or job

    def _verdict(self, job: Obj, pods: list[Obj]) -> str | None:
        status, spec = job.get("status") or {}, job["spec"]
        restarts = sum(
            one.get("restartCount", 0)
            for pod in pods
            if pod["spec"]["restartPolicy"] == "OnFailure" and not is_deleting(pod)
            for one in (pod.get("status") or {}).get("containerStatuses") or ()
        )
        if status.get("succeeded", 0) >= spec.get("completions", 1):
            return "CompletionsReached"
        if status.get("failed", 0) + restarts > spec["backoffLimit"]:
            return "BackoffLimitExceeded"
        deadline = spec.get("activeDeadlineSeconds")
        if deadline is not None and seconds_since(status["startTime"]) >= deadline:
            return "DeadlineExceeded"
        return None

    def _mark(self, job: Obj, kind: str, reason: str) -> Obj:
        conditions = (job.get("status") or {}).get("conditions") or []
        extra = {"lastProbeTime": stamp()}
        new = with_condition(conditions, kind, True, reason, _TEXTS[reason], extra=extra)
        return self.registry.set_status(JOB, job, conditions=new) or job

    def _finish(self, job: Obj) -> Obj:
        failure = next((one for one in job["status"]["conditions"] if one["type"] == "FailureTarget"), None)
        if failure:
            self.events.tell(JOB, job, "Warning", failure["reason"], failure["message"], COMPONENT)
            return self._mark(job, "Failed", failure["reason"])
        self.events.tell(JOB, job, "Normal", "Completed", "Job completed", COMPONENT)
        done = self._mark(job, "Complete", "CompletionsReached")
        return self.registry.set_status(JOB, done, completionTime=stamp()) or done

    def _fill(self, job: Obj, active: list[Obj], ending: list[Obj]) -> None:
        """Start what is missing, unless a pod failed a moment ago."""
        spec, succeeded = job["spec"], (job.get("status") or {}).get("succeeded", 0)
        wanted = min(spec["parallelism"], spec.get("completions", 1) - succeeded) - len(active)
        waiting = time.monotonic() < self._not_before.get(uid_of(job), 0.0)
        if wanted <= 0 or waiting or not self.maker.may_try(job):
            return
        taken = {index_of(pod) for pod in [*active, *ending]} | self._done.get(uid_of(job), set())
        free = [index for index in range(spec.get("completions", 1)) if index not in taken]
        for number in range(wanted):
            if spec["completionMode"] != "Indexed":
                refusal = self.maker.make(JOB, job, name_of(job), {"finalizers": [TRACKING]})
            elif number < len(free):
                refusal = self._make_indexed(job, free[number])
            else:
                return
            if refusal:
                return

    def _make_indexed(self, job: Obj, index: int) -> str | None:
        mark = {INDEX: str(index)}
        changes = {"labels": mark, "annotations": mark, "finalizers": [TRACKING]}
        reference = {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.labels['{INDEX}']"}}
        entry = {"name": "JOB_COMPLETION_INDEX", "valueFrom": reference}
        pod = job["spec"]["template"]["spec"]
        spec = {**pod, "hostname": pod.get("hostname") or f"{name_of(job)}-{index}"}
        for field in ("initContainers", "containers"):
            if spec.get(field):
                spec[field] = [
                    one if any(e["name"] == entry["name"] for e in one.get("env") or ())
                    else {**one, "env": [*(one.get("env") or ()), entry]}
                    for one in spec[field]
                ]  # fmt: skip
        return self.maker.make(JOB, job, f"{name_of(job)}-{index}", changes, spec)

    def _report(self, job: Obj) -> None:
        """Counts of what is there now, after this look's changes."""
        pods = pods_by_owner(self.registry.store).get(uid_of(job), [])
        active = [pod for pod in pods if is_active(pod)]
        self.registry.set_status(
            JOB,
            job,
            active=len(active) or None,
            ready=sum(map(is_ready, active)),
            terminating=sum(is_deleting(pod) and not is_finished(pod) for pod in pods),
            uncountedTerminatedPods={},
        )

    def _expire(self, job: Obj) -> None:
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        ended = next(c for c in job["status"]["conditions"] if c["type"] in ("Complete", "Failed"))
        if ttl is not None and seconds_since(ended["lastTransitionTime"]) >= ttl:
            delete(self.registry, JOB, namespace_of(job), name_of(job), DeleteOptions(policy="Foreground"))
