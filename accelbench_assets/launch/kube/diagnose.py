"""Why a run's pods do not come up, or have gone down: from what was seen to a failure code with its words.

Belongs here: pure decisions over a ``Look``. Does not belong here: looking, waiting, deleting (``serving``,
``driving``), the words engines die with (``logtext``).

What is ``certain`` will not get better by waiting. What is not becomes the run's failure only when the time for it
is over. ``retryable`` says that a new pod may fare better.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from accelbench_assets.launch.kube.logtext import cause_in
from accelbench_assets.launch.kube.look import (
    Look,
    Object,
    condition,
    container_status,
    event_count,
    event_time,
    is_leaving,
    is_over,
    moment,
    name_of,
    node_of,
    status_of,
    terminated,
)
from accelbench_assets.launch.kube.loss import lost, was_evicted
from accelbench_assets.launch.kube.trouble import Trouble, how_it_ended

PULLS_BEFORE_CERTAIN = 2
RESTARTS_BEFORE_CERTAIN = 2  # the kubelet's first restart is immediate
EVICTIONS_BEFORE_CERTAIN = 3
GRACE_S = 20.0
"""What may still appear meanwhile: a Secret or ConfigMap made a little later."""
PULL_GRACE_S = 90.0
"""An image that does not come for so long does not come, even if no event says how often it was tried."""

_QUOTA_TEXT = re.compile(
    r"VcpuLimitExceeded|MaxSpotInstanceCountExceeded|InstanceLimitExceeded|more vCPU capacity than your", re.I
)
_CAPACITY_TEXT = re.compile(
    r"InsufficientInstanceCapacity|InsufficientCapacityError|UnfulfillableCapacity|InsufficientHostCapacity"
    r"|ReservationCapacityExceeded|requested instance types were unavailable during launch"
    r"|(?<![\w./-])capacity(?![\w-]| types?\b)",  # not the label karpenter.sh/capacity-type
    re.I,
)
_FINAL_PULL = re.compile(
    r"not found|manifest unknown|denied|authorization|unauthorized|\b40[13]\b|no match for platform"
    r"|invalid reference",
    re.I,
)
_PROBE_TEXT = re.compile(r"failed (startup|liveness) probe")
_HELD_HINT = "See what else runs on the accelerators of the pod's node, then run it again."
_PULLING = ("ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable")


def starting_trouble(look: Look, container: str) -> Trouble | None:
    """What keeps pods from running their *container*; the certain before the likely, ``None`` if all is well."""
    return min(_starting(look, container), key=lambda t: (not t.certain, t.retryable), default=None)


def _starting(look: Look, container: str) -> Iterator[Trouble]:
    live = [pod for pod in look.pods if not is_leaving(pod) and not was_evicted(pod)]
    if len(live) < look.wanted:
        yield from _not_created(look)
        yield from _evicted_again(look)
    for pod in live:
        if found := lost(pod, look):
            yield found
        elif not node_of(pod):
            yield from _unscheduled(pod, look)
        else:
            yield from _container_trouble(pod, look, container)


def _evicted_again(look: Look) -> Iterator[Trouble]:
    evicted = [pod for pod in look.pods if was_evicted(pod)]
    if evicted and (found := lost(evicted[-1], look)):
        often = len(evicted) >= EVICTIONS_BEFORE_CERTAIN
        yield Trouble(found.code, found.text, certain=often, retryable=not often, pod=found.pod)


def _not_created(look: Look) -> Iterator[Trouble]:
    """Refusals of pods; those of a Job show only as events, and an event stays after its cause is gone."""
    texts = []
    failure = condition(look.owner, "ReplicaFailure")
    if failure.get("status") == "True":
        texts.append(str(failure.get("message") or failure.get("reason")))
    made = _latest(look.events, "SuccessfulCreate")
    for event in look.events:
        if event.get("reason") == "FailedCreate" and (made is None or (event_time(event) or made) >= made):
            texts.append(str(event.get("message") or ""))
    for text in texts[-1:]:
        said = text.removeprefix("Error creating: ")
        if "exceeded quota" in text:
            yield Trouble("quota", f"The namespace's quota refuses the pods: {said}")
        elif re.search(r"is forbidden|is invalid|failed quota", text):
            yield Trouble("bad_config", f"The cluster refuses the pods: {said}")
        else:
            yield Trouble("bad_config", f"The pods cannot be created: {said}", certain=False, retryable=True)


def _latest(events: Iterable[Object], reason: str) -> datetime | None:
    stamps = [at for e in events if e.get("reason") == reason and (at := event_time(e))]
    return max(stamps, default=None)


def _unscheduled(pod: Object, look: Look) -> Iterator[Trouble]:
    name, scheduled = name_of(pod), condition(pod, "PodScheduled")
    claims = [claim for claim in look.claims if claim.pod == name]
    told = [str(event.get("message") or "") for event in look.events]
    told += [text for claim in claims for text in claim.said]
    said = str(scheduled.get("message") or "").strip()
    for text in (*told, said):
        if _QUOTA_TEXT.search(text):
            yield Trouble("quota", f"AWS refuses another instance: {text.strip()}", pod=name)
    if "persistentvolumeclaim" in said and "not found" in said:
        yield Trouble(
            "bad_config",
            f"Pod {name} cannot be scheduled: {said}",
            certain=_for(pod, look, GRACE_S),
            pod=name,
        )
    if claims and claims[-1].launched_at is not None:  # whatever was refused before: AWS has given one
        waits = claims[-1].waits_for or said or "no reason given"
        text = (
            f"AWS gave a machine for pod {name} ({claims[-1].name}), and it has not become its node: {waits}"
        )
        yield Trouble("unschedulable", text, certain=False, pod=name)
        return
    lacking = next((text for text in (said, *reversed(told)) if _CAPACITY_TEXT.search(text)), None)
    if lacking:
        yield Trouble(
            "no_capacity", f"AWS has no such instance now: {lacking.strip()}", certain=False, pod=name
        )
    elif scheduled.get("reason") == "SchedulingGated":
        yield Trouble("bad_config", f"Pod {name} is held back: {said}", certain=False, pod=name)
    elif scheduled.get("status") == "False":
        # Only one for whom a node was ordered lacks capacity: others may ask for what no node has. And where the
        # order was refused for another reason (rights, an empty subnet), that is not capacity either.
        ordered = any(event.get("reason") == "Nominated" for event in look.events_of(name))
        ordered = ordered and not any(claim.said for claim in claims)
        text = f"No node took pod {name}: {said or 'no reason given'}{_of_karpenter(look, name)}"
        yield Trouble("no_capacity" if ordered else "unschedulable", text, certain=False, pod=name)


def _of_karpenter(look: Look, pod: str) -> str:
    """What the one who makes nodes says of the pod, beside the scheduler."""
    for claim in reversed(look.claims):
        if claim.pod == pod and claim.said:
            return f" Karpenter: {claim.said[-1]}"
    for event in reversed(look.events_of(pod)):
        source = (event.get("source") or {}).get("component") or event.get("reportingComponent")
        if source == "karpenter" and event.get("type") == "Warning":
            return f" Karpenter: {event.get('message')}"
    return ""


def _for(pod: Object, look: Look, seconds: float) -> bool:
    """Whether the pod is that old; by its binding if it is bound."""
    at = moment(condition(pod, "PodScheduled").get("lastTransitionTime"))
    at = at or moment((pod.get("metadata") or {}).get("creationTimestamp"))
    return at is not None and look.now - at >= timedelta(seconds=seconds)


def _container_trouble(pod: Object, look: Look, container: str) -> Iterator[Trouble]:
    name, status = name_of(pod), container_status(pod, container)
    if not status or "PodInitializing" in str(status.get("state")):
        yield from _init_trouble(pod)
    waiting = (status.get("state") or {}).get("waiting") or {}
    reason, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "").strip()
    if reason in _PULLING:
        yield _pull_trouble(pod, look, message or reason)
    elif reason == "ErrImageNeverPull":
        yield Trouble("image_pull", f"Pod {name} has no image: {message}", pod=name)
    elif reason == "InvalidImageName":
        yield Trouble("bad_config", f"Pod {name} has a malformed image name: {message}", pod=name)
    elif reason in ("CreateContainerConfigError", "CreateContainerError"):
        late = _for(pod, look, GRACE_S)
        yield Trouble("bad_config", f"Pod {name} cannot be made as asked: {message}", certain=late, pod=name)
    elif reason in ("", "ContainerCreating") and not terminated(status) and not status.get("started"):
        yield from _volume_trouble(pod, look)
    if ended := terminated(status):
        for event in look.events_of(name):
            if event.get("reason") == "Killing" and _PROBE_TEXT.search(str(event.get("message"))):
                text = f"The server in pod {name} did not come up in time: {event.get('message')}."
                yield Trouble("not_ready", text, pod=name)
                return
        log = look.logs.get(name) or str(ended.get("message") or "")
        yield _ended_trouble(name, ended, int(status.get("restartCount") or 0), log)


def _init_trouble(pod: Object) -> Iterator[Trouble]:
    for status in status_of(pod).get("initContainerStatuses") or ():
        ended = terminated(status)
        if ended and ended.get("exitCode") != 0:
            again = int(status.get("restartCount") or 0)
            text = (
                f"Init container {status.get('name')} of pod {name_of(pod)} failed ({how_it_ended(ended)})."
            )
            yield Trouble(
                "bad_config", text, certain=again >= RESTARTS_BEFORE_CERTAIN or is_over(pod), pod=name_of(pod)
            )


def _pull_trouble(pod: Object, look: Look, said: str) -> Trouble:
    """A first refusal can be passing (the registry was asked too often); a second of the same kind is not."""
    name = name_of(pod)
    failed = [e for e in look.events_of(name) if "Failed to pull image" in str(e.get("message"))]
    if failed and "rpc error" not in said:  # the back-off's own text names no cause on older clusters
        said = str(failed[-1].get("message"))
    final = _FINAL_PULL.search(re.sub(r'"[^"]*"', "", said)) is not None
    tried = sum(event_count(event) for event in failed)
    certain = final and (tried >= PULLS_BEFORE_CERTAIN or _for(pod, look, PULL_GRACE_S))
    return Trouble(
        "image_pull",
        f"The image of pod {name} cannot be pulled: {said}",
        certain=certain,
        retryable=not final,
        pod=name,
    )


def _volume_trouble(pod: Object, look: Look) -> Iterator[Trouble]:
    name = name_of(pod)
    for event in reversed(look.events_of(name)):
        text = str(event.get("message") or "")
        if event.get("reason") in ("FailedMount", "FailedAttachVolume"):
            certain = "not found" in text and _for(pod, look, GRACE_S)
            yield Trouble(
                "bad_config", f"A volume of pod {name} cannot be mounted: {text}", certain=certain, pod=name
            )
            return
        if event.get("reason") == "FailedCreatePodSandBox":
            yield Trouble(
                "not_ready", f"Pod {name} cannot be started: {text}", certain=False, retryable=True, pod=name
            )
            return


def _ended_trouble(name: str, ended: Object, restarts: int, log: str) -> Trouble:
    """A container that ended before it was ready. Its log is asked first: a crash loop has a cause."""
    if ended.get("reason") == "OOMKilled":
        text = f"Pod {name} used more memory than the node or its limit has, and was killed."
        return Trouble("oom", text, pod=name)
    if ended.get("reason") in ("StartError", "ContainerCannotRun"):
        text = f"Pod {name} cannot run its command: {ended.get('message') or ended.get('reason')}"
        return Trouble("bad_config", text, pod=name)
    said = cause_in(log)
    if said and said.code == "not_ready":
        text = f"Another process held the accelerator's memory when the server in pod {name} started: {said.line}"
        often = restarts >= RESTARTS_BEFORE_CERTAIN
        return Trouble("not_ready", text, certain=often, retryable=True, hint=_HELD_HINT, pod=name)
    if said:
        return Trouble(said.code, f"The server in pod {name} gave up: {said.line}", pod=name)
    if ended.get("exitCode") == 2 and "usage:" in log:
        return Trouble("bad_config", f"The server in pod {name} refuses its arguments.", pod=name)
    again = f" and was started again {restarts} times" if restarts > 1 else ""
    text = f"The server in pod {name} ended before it was ready ({how_it_ended(ended)}){again}."
    certain = restarts >= RESTARTS_BEFORE_CERTAIN
    return Trouble("crash_loop", text, certain=certain, retryable=not certain, pod=name)


def job_verdict(job: Object | None) -> tuple[str, str, str] | None:
    """``(Complete|Failed, reason, message)`` of a Job that has ended, else ``None``.

    Other conditions (``SuccessCriteriaMet``, ``FailureTarget``, ``Suspended``) come earlier and are no verdict.
    """
    for kind in ("Complete", "Failed"):
        found = condition(job, kind)
        if found.get("status") == "True":
            return kind, str(found.get("reason") or ""), str(found.get("message") or "")
    return None
