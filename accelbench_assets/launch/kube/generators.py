"""Pods of load generators: which are of this Job, what they print, how they ended.

Belongs here: reading them. Does not belong here: the Job's life (``driving``), a generator's exit codes and messages
(``launch.generator``).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from accelbench_assets.errors import AccelBenchError, LaunchError
from accelbench_assets.launch.base import Deadline
from accelbench_assets.launch.generator import failure, progress
from accelbench_assets.launch.kube.follow import INDEX_LABEL
from accelbench_assets.launch.kube.look import Look, Object, container_status, name_of, terminated, uid_of
from accelbench_assets.launch.manifests import GENERATOR
from accelbench_assets.scrub import scrub

_READY = ("calibrated", "step_start", "progress", "step_end", "point", "done")


def of_this_job(look: Look) -> Look:
    """Without pods of a Job that was removed because its shards did not come together."""
    if not (job := uid_of(look.owner)):
        return look
    owners = [(pod, (pod.get("metadata") or {}).get("ownerReferences") or ()) for pod in look.pods]
    mine = [pod for pod, references in owners if any(r.get("uid") == job for r in references)]
    return dataclasses.replace(look, pods=mine)


def index_of(pod: Object) -> int | None:
    """Which shard a pod is."""
    index = str(((pod.get("metadata") or {}).get("labels") or {}).get(INDEX_LABEL) or "")
    return int(index) if index.isdigit() else None


def is_progress(line: str) -> bool:
    """Whether a line of output is a progress document; others are for the log."""
    return progress(line) is not None


def says_ready(line: str) -> bool:
    """Whether a line shows that its shard is past its preparations: calibrated, or already at a step."""
    document = progress(line)
    return document is not None and document["event"] in _READY


def exit_error(pod: Object, ended: Object, log: Path, deadline: Deadline) -> AccelBenchError:
    """The error of a generator that ended as *ended* says and left *log*.

    Where the log could not be followed, the container's own last words take its place.
    """
    name, code = name_of(pod), int(ended.get("exitCode") or 0)
    if ended.get("reason") == "OOMKilled":
        text = f"Load generator {name} used more memory than its limit and was killed."
        return LaunchError(text, code="loadgen_failed")
    words = scrub(str(ended.get("message") or "")).splitlines()
    said = [line for line in words if line and not is_progress(line)]
    if said and (not log.is_file() or not log.read_text(encoding="utf-8").strip()):
        log.write_text("\n".join(said) + "\n", encoding="utf-8")
    return failure(128 - code if 128 < code < 160 else code, log, deadline, ())


def refuse_killed(look: Look) -> None:
    """Raise ``LaunchError``: a Job counts a generator whose child was killed for memory as a success."""
    for pod in look.pods:
        if terminated(container_status(pod, GENERATOR)).get("reason") == "OOMKilled":
            text = f"A process of load generator {name_of(pod)} was killed for lack of memory."
            raise LaunchError(text, code="loadgen_failed")
