"""What Karpenter says of the machines it ordered for a run's pods: its NodeClaims and the events about them.

Belongs here: which claims are a pod's, reading them, and the words of a refusal. Does not belong here: what a refusal
means for the run (``diagnose``), making nodes (nobody here does: all of it is read only).

A pod's own events name its claim and no more. EC2's answer stands on the claim: as its condition ``Launched``, or, when
EC2 has none to give, as an event only, because Karpenter then deletes the claim at once. Claims belong to no namespace,
so their events lie in ``default``. Whoever may read neither, or has no Karpenter, learns what the pods' events tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.errors import KubeError
from accelbench_assets.launch.kube.look import Claim, Object, condition, event_time, moment, name_of

KEPT = 3
"""So many of a pod's latest claims are asked for."""
EVENTS_IN = "default"
_NOMINATED = re.compile(r"\bnodeclaim/([a-z0-9](?:[-a-z0-9.]*[a-z0-9])?)")
_ABOUT_CLAIM = re.compile(r"^NodeClaim \S+ event: ")
_WRAPPING = re.compile(r"\binsufficient capacity, (?=with fleet error)", re.I)
_NOT_YET = "AwaitingReconciliation"
_Answer = TypeVar("_Answer")
_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class ClaimReader:
    """Reads the claims of a run's pods; what was refused once is not asked for again."""

    cluster: Cluster
    _denied: frozenset[str] = frozenset()
    _known: tuple[Claim, ...] = ()

    def read(self, events: Sequence[Object]) -> tuple[Claim, ...]:
        """Each pod's latest claims that *events* name, oldest first, with what is known of each by now."""
        named = nominated(events)
        of_pod: dict[str, list[str]] = {}
        for pod, name in named:
            of_pod.setdefault(pod, []).append(name)
        before = {one.name: one for one in self._known}
        self._known = tuple(
            self._look(pod, name, before.get(name)) for pod, name in named if name in of_pod[pod][-KEPT:]
        )
        return self._known

    def _look(self, pod: str, name: str, before: Claim | None) -> Claim:
        found = self._allowed("claims", lambda: self.cluster.get("NodeClaim", name, retry_s=0))
        about = f"involvedObject.kind=NodeClaim,involvedObject.name={name}"
        told = self._allowed(
            "events", lambda: self.cluster.list("Event", fields=about, namespace=EVENTS_IN, retry_s=0)
        )
        launched, joined = condition(found, "Launched"), condition(found, "Registered")
        said = [words(str(e.get("message") or "")) for e in told or () if e.get("type") == "Warning"]
        if launched.get("status") in ("False", "Unknown") and launched.get("reason") != _NOT_YET:
            said.append(words(str(launched.get("message") or "")))
        at = moment(launched.get("lastTransitionTime")) if launched.get("status") == "True" else None
        known = before or Claim(name, pod)
        return Claim(
            name,
            pod,
            said=tuple(dict.fromkeys(text for text in (*known.said, *said) if text)),
            launched_at=at or known.launched_at,
            waits_for=str(joined.get("message") or "") if joined.get("status") != "True" else "",
        )

    def _allowed(self, what: str, ask: Callable[[], _Answer]) -> _Answer | None:
        """The answer; ``None`` for what may not be asked or cannot be had now: a start does not end for that."""
        if what in self._denied:
            return None
        try:
            return ask()
        except KubeError as error:
            if error.code == "api_denied":
                self._denied |= {what}
            return None


def nominated(events: Sequence[Object]) -> list[tuple[str, str]]:
    """``(pod, claim)`` of every claim that was ordered for a pod, the latest last, each once."""
    ordered = [e for e in events if e.get("reason") == "Nominated"]
    found: dict[tuple[str, str], None] = {}
    for event in sorted(ordered, key=lambda e: event_time(e) or _EARLIEST):
        if named := _NOMINATED.search(str(event.get("message") or "")):
            pair = (name_of(event.get("involvedObject")), named[1])
            found.pop(pair, None)
            found[pair] = None
    return list(found)


def words(text: str) -> str:
    """EC2's own words: Karpenter calls any failure of a fleet a lack of capacity, also an empty subnet."""
    return _WRAPPING.sub("", _ABOUT_CLAIM.sub("", text)).strip()
