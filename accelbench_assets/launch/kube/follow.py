"""Logs of a run's pods as they come, into files and to whoever listens; a pod's log goes with the pod.

Belongs here: one thread a container run, the files, the queue of lines. Does not belong here: reading a log over the
network (``podlog``), what lines say (``launch.generator``, ``logtext``).
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.look import Object, container_status, name_of, status_of
from accelbench_assets.scrub import scrub

INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
_RESTARTED = "--- the container was started again ---\n"


class LogFollower:
    """Follows container *container* of every pod it is shown, into ``<prefix>-<i>.log`` below *folder*.

    *i* is the pod's completion index, else counts pods as they come. With *listen*, lines for which it returns true
    go to :meth:`lines` instead of the file.
    """

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        prefix: str,
        container: str,
        *,
        secrets: Iterable[str] = (),
        listen: Callable[[str], bool] = lambda line: False,
    ) -> None:
        self._cluster, self._folder, self._prefix, self._container = cluster, folder, prefix, container
        self._secrets, self._listen = tuple(secrets), listen
        self._stop = threading.Event()
        self._lines: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._threads: dict[tuple[str, int], threading.Thread] = {}
        self._index: dict[str, int] = {}

    def see(self, pods: Iterable[Object]) -> None:
        """Follow the containers of *pods* that have started and are not followed yet."""
        for pod in pods:
            status = container_status(pod, self._container)
            state, run = status.get("state") or {}, int(status.get("restartCount") or 0)
            name = name_of(pod)
            if not run and not (state.get("running") or state.get("terminated")):
                continue
            if (name, run) in self._threads or self._stop.is_set():
                continue
            labels = (pod.get("metadata") or {}).get("labels") or {}
            index = self._index.setdefault(name, int(labels.get(INDEX_LABEL) or len(self._index)))
            again = any(followed == name for followed, _ in self._threads)
            thread = threading.Thread(
                target=self._follow, args=(name, index, again), name=f"log-{name}", daemon=True
            )
            self._threads[name, run] = thread
            thread.start()

    def path(self, pod: str) -> Path | None:
        """The file of a pod's log; ``None`` for one that was never followed."""
        index = self._index.get(pod)
        return None if index is None else self.file(index)

    def file(self, index: int) -> Path:
        """The file of the *index*-th log."""
        return self._folder / f"{self._prefix}-{index}.log"

    def lines(self) -> Iterator[tuple[int, str]]:
        """Listened-to lines with their index that have come since the last call; never waits."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._lines.get_nowait()

    def drain(self, wait_s: float) -> None:
        """Wait until what is followed has come to its end, at most *wait_s*: the containers are over."""
        limit = time.monotonic() + wait_s
        for thread in list(self._threads.values()):
            thread.join(max(0.0, limit - time.monotonic()))

    def close(self, wait_s: float = 2.0) -> None:
        """Stop following; threads that do not end within *wait_s* end by themselves."""
        self._stop.set()
        self.drain(wait_s)

    def _follow(self, pod: str, index: int, again: bool) -> None:
        try:
            with self.file(index).open("a", encoding="utf-8") as log:
                if again:
                    log.write(_RESTARTED)
                for line in self._cluster.follow_log(pod, self._container, stop=self._stop):
                    clean = scrub(line, self._secrets)
                    if self._listen(clean):
                        self._lines.put((index, clean))
                        continue
                    log.write(clean + "\n")
                    log.flush()
        except (AccelBenchError, OSError) as error:  # a log less is no reason to end a run
            with contextlib.suppress(OSError):
                self.file(index).open("a", encoding="utf-8").write(f"--- the log ends here: {error} ---\n")


def has_started(pod: Object, container: str) -> bool:
    """Whether the container runs or has run."""
    status = container_status(pod, container)
    state = status.get("state") or {}
    return bool(status.get("restartCount") or state.get("running") or state.get("terminated")) or (
        status_of(pod).get("phase") in ("Succeeded", "Failed")
    )
