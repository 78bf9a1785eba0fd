"""The fault plan: which API calls and which pods meet which fault.

Belongs here: the plan's form, matching, counting, the seeded draw. Does not belong here: what a fault does to a
call (``api_faults``) or to a pod (``container``, ``scheduler``).

A plan is a JSON list of faults, or ``{"seed": N, "faults": [...]}``. A fault with ``pod`` meets pods, any other
meets API calls. Times are seconds and literal, never scaled.

A call is struck when everything in its ``match`` holds (``verb``, ``resource``, ``namespace``; ``name`` and
``user_agent`` as parts;
``nth``, ``call``), its ``share`` is drawn and its ``times`` are not used up. Verbs are get, list, watch, create,
update, patch, delete, deletecollection, log, proxy, evict. What is done:

- ``status`` with a code (``status``, 500 by default), ``deny``, ``unauthorized``, ``quota``, ``conflict``: refused.
- ``drop``, ``drop_after``: the connection closes before, or after, the call is carried out.
- ``freeze``, ``freeze_after``: ``seconds`` pass before it is carried out, or before it is answered.
- ``cut``: a watch or log breaks off after ``after_s``. ``expired``: a watch is told 410.
- ``kill_before``, ``kill_after``: SIGKILL for ``pid``, or for the caller, before or after the call is carried out.

A pod is struck on an occasion: its scheduling, a pull, a start of its container (``pod_faults``, ``scheduler``).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.launch.kube.answers import bad_request
from tests.launch.kube.kinds import Obj, name_of

API_FAULTS = {
    *("status", "drop", "drop_after", "freeze", "freeze_after", "cut", "expired"),
    *("kill_before", "kill_after", "deny", "unauthorized", "quota", "conflict"),
}
POD_FAULTS = {
    *("image_pull_not_found", "image_pull_network", "image_pull_denied", "missing_secret"),
    *("oom", "crash", "exit", "evict", "gated", "does_not_fit", "hang_not_ready"),
    *("slow_schedule", "unschedulable", "forbid", "quota"),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One API call as faults see it; ``verb`` is also log, proxy, evict or watch."""

    verb: str
    resource: str
    name: str = ""
    namespace: str = ""
    user_agent: str = ""


@dataclass
class ApiFault:
    """``nth`` counts matching calls, ``call`` all calls of the user agent; both from 1, both since the plan was set."""

    do: str
    match: Mapping[str, Any] = field(default_factory=dict)
    share: float | None = None
    times: int | None = None
    status: int = 500
    seconds: float = 30.0
    after_s: float = 0.2
    pid: int | None = None
    message: str = ""
    met: int = 0
    calls: int = 0
    hits: int = 0

    def fits(self, call: Call) -> bool:
        """Whether everything named in ``match`` holds, counters aside."""
        wanted = self.match
        if wanted.get("verb") not in (None, call.verb) or wanted.get("resource") not in (None, call.resource):
            return False
        if wanted.get("namespace") not in (None, call.namespace):
            return False
        return str(wanted.get("name") or "") in call.name

    def takes(self, call: Call, draw: random.Random) -> bool:
        """Count *call*, and whether the fault strikes it."""
        if str(self.match.get("user_agent") or "") not in call.user_agent:
            return False
        self.calls += 1
        if not self.fits(call):
            return False
        self.met += 1
        if self.match.get("nth") not in (None, self.met) or self.match.get("call") not in (None, self.calls):
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        if self.share is not None and draw.random() >= self.share:
            return False
        self.hits += 1
        return True


@dataclass
class PodFault:
    """``pod`` is part of an image's or a pod's name; ``times`` how often it strikes, ``None`` = always.

    ``when`` names a file: ``after_s`` counts from the moment it is there.
    """

    pod: str
    do: str
    after_s: float = 0.1
    when: str = ""
    times: int | None = None
    code: int = 1
    message: str = ""
    hits: int = 0
    struck: set[str] = field(default_factory=set)

    def fits(self, pod: Obj) -> bool:
        images = [one.get("image", "") for one in pod["spec"].get("containers") or ()]
        return any(self.pod in text for text in (name_of(pod), *images))

    def strike(self, key: str) -> bool:
        """Whether it strikes the occasion *key*; the same occasion is counted once."""
        if key not in self.struck:
            if self.times is not None and self.hits >= self.times:
                return False
            self.hits += 1
            self.struck.add(key)
        return True


class Faults:
    """The plan in force."""

    def __init__(self, plan: Any = ()) -> None:
        self.api: list[ApiFault] = []
        self.pods: list[PodFault] = []
        self._draw = random.Random(0)
        self.load(plan)

    def load(self, plan: Any) -> None:
        """Replace the plan; counters and the draw start anew. Raises ``ApiError`` 400 for an unknown fault."""
        seed, entries = (plan.get("seed", 0), plan.get("faults", ())) if isinstance(plan, dict) else (0, plan)
        api: list[ApiFault] = []
        pods: list[PodFault] = []
        for entry in entries or ():
            about_pods = "pod" in entry
            known = POD_FAULTS if about_pods else API_FAULTS
            if entry.get("do") not in known:
                raise bad_request(f"fault {entry.get('do')!r} is none of {', '.join(sorted(known))}")
            given = {key: value for key, value in entry.items() if value is not None or key == "times"}
            try:
                if about_pods:
                    pods.append(PodFault(**given))
                else:
                    api.append(ApiFault(**given))
            except TypeError as error:
                raise bad_request(f"fault {entry}: {error}") from error
        self.api, self.pods = api, pods
        self._draw = random.Random(seed)

    def strikes(self, call: Call) -> list[ApiFault]:
        """Every fault that meets this call, in the order of the plan."""
        return [fault for fault in self.api if fault.takes(call, self._draw)]

    def refuses(self, verb: str, resource: str) -> bool:
        """Whether an access review should say no; counts nothing."""
        asked = Call(verb, resource)
        return any(fault.do == "deny" and fault.fits(asked) for fault in self.api)

    def for_pod(self, pod: Obj, key: str, *kinds: str) -> PodFault | None:
        """The first fault of *kinds* that strikes *pod* on the occasion *key*."""
        for fault in self.pods:
            if fault.do in kinds and fault.fits(pod) and fault.strike(key):
                return fault
        return None

    def report(self) -> list[dict[str, Any]]:
        """How often each fault struck."""
        api = [{"do": fault.do, "match": dict(fault.match), "hits": fault.hits} for fault in self.api]
        return api + [{"do": fault.do, "pod": fault.pod, "hits": fault.hits} for fault in self.pods]
