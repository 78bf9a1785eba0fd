"""What the faults of pods look like from inside a container.

Belongs here: which faults strike when, last words as the real programs print them. Does not belong here: matching
(``faults``), the container's states (``container``).
"""

from __future__ import annotations

import shlex
from typing import Any

from tests.launch.kube.faults import PodFault
from tests.launch.kube.kinds import Obj

PULLS = ("image_pull_not_found", "image_pull_network", "image_pull_denied")
RUNS = ("oom", "crash", "exit", "evict", "gated", "does_not_fit", "hang_not_ready")

_CRASH = """Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
_TOO_BIG = """ERROR [core.py:708] EngineCore failed to start.
ERROR [core.py:708] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.50 GiB. GPU 0 has a total \
capacity of 44.39 GiB of which 1.21 GiB is free. Including non-PyTorch memory, this process has 43.17 GiB memory in use.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
_GATED = """huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-0-0)

Cannot access gated repo for url https://huggingface.co/org/model/resolve/main/config.json.
Access to model org/model is restricted. You must have access to it and be authenticated to access it. Please log in.
OSError: You are trying to access a gated repo.
Make sure to have access to it at https://huggingface.co/org/model.
"""


def replacement(fault: PodFault | None, argv: list[str]) -> list[str]:
    """The command to run in place of *argv*: for servers that never come up."""
    if fault is None:
        return argv
    if fault.do == "hang_not_ready":
        return ["/bin/sleep", "86400"]
    text = {"gated": _GATED, "does_not_fit": _TOO_BIG}.get(fault.do)
    if text is None:
        return argv
    words = f"sleep {fault.after_s}; printf %s {shlex.quote(fault.message or text)} >&2; exit {fault.code}"
    return ["/bin/sh", "-c", words]


def last_words(fault: PodFault) -> str:
    """What a crashing program writes before its end; nothing when it is killed or simply exits."""
    return fault.message or (_CRASH if fault.do == "crash" else "")


def secret_of(container: Obj) -> str:
    """The Secret to miss: the first one the container names."""
    entries: list[dict[str, Any]] = [entry.get("valueFrom") or {} for entry in container.get("env") or ()]
    named = [entry["secretKeyRef"]["name"] for entry in entries if entry.get("secretKeyRef")]
    named += [one["secretRef"]["name"] for one in container.get("envFrom") or () if one.get("secretRef")]
    return str(named[0]) if named else "absent"


def eviction_text(pod: Obj) -> str:
    """The kubelet's, for node pressure."""
    name = pod["spec"]["containers"][0]["name"]
    return (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51Mi. "
        f"Container {name} was using 9Gi, request is 0, has larger consumption of memory. "
    )
