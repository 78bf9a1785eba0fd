"""Reading a container's log, once or as it grows, through every state in which there is none.

Belongs here: which refusals mean "not yet", lines out of a byte stream, taking a broken stream up where it broke.
Does not belong here: what the lines say (``logtext``, ``follow``).

The API waits for nothing: a container being created is refused with 400, an unscheduled pod answers with nothing at
all, and a stream that went dead is silent for ever. The official client's own text of a log is the ``repr`` of bytes.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accelbench_assets.launch.kube.calls import Answer, NoAnswer, Query
from accelbench_assets.launch.kube.errors import KubeError, read_status, refusal

if TYPE_CHECKING:
    from accelbench_assets.launch.kube.client import Cluster

MAX_LINE = 64 * 1024
SILENT_S = 30.0
"""A stream without a byte for this long is taken for dead and opened anew; nothing is lost by it."""
_PAUSE_S = 0.5
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d)) ?")
_GONE = b"unable to retrieve container logs for "


def read(
    cluster: Cluster, pod: str, container: str, tail_lines: int | None, previous: bool, limit_bytes: int
) -> str:
    """See ``Cluster.log``."""
    query = [("container", container), ("limitBytes", str(limit_bytes))]
    if tail_lines is not None:
        query.append(("tailLines", str(tail_lines)))
    if previous:
        query.append(("previous", "true"))
    path, doing = cluster.path_of("Pod", pod, "log"), f"reading the log of pod {pod}"
    answer = cluster.calls.send(
        "GET", path, doing, query=query, accept="*/*", expect=(400, 404, 500), retry_s=None
    )
    if answer.status == 500 and not _node_is_silent(answer):
        answer = cluster.calls.send("GET", path, doing, query=query, accept="*/*", expect=(400, 404))
    if answer.status == 400 and not _no_log(answer):
        raise refusal(400, answer.body, doing)
    if not answer.ok or answer.body.startswith(_GONE):
        return ""
    return answer.body.decode("utf-8", "replace")


def _message(answer: Answer) -> str:
    return str(read_status(answer.body).get("message") or "")


def _node_is_silent(answer: Answer) -> bool:
    return "/containerLogs/" in _message(answer)


def _no_log(answer: Answer) -> bool:
    return "is waiting to start" in _message(answer) or "previous terminated container" in _message(answer)


@dataclass(slots=True)
class _Place:
    """How far a log was read: the last line's time stamp and how many lines carried it.

    Where time stamps are refused (stand-ins of kubelets have none), lines are counted from the start.
    """

    stamps: bool = True
    stamp: bytes = b""
    same: int = 0
    skip: int = 0
    _passing: bool = False  # the line of which pieces are coming was read before

    def reopen(self) -> Query:
        """The options by which the log is asked for from here on."""
        self.skip = self.same
        if not self.stamps:
            return []
        return [("timestamps", "true"), *([("sinceTime", self.stamp.decode())] if self.stamp else [])]

    def take(self, piece: bytes, starts: bool) -> bytes | None:
        """The piece without its line's stamp; ``None`` for what was read before."""
        if not starts:
            return None if self._passing else piece
        found = _STAMP.match(piece) if self.stamps else None
        stamp = found[1] if found is not None else self.stamp
        self._passing = stamp < self.stamp or (stamp == self.stamp and self.skip > 0)
        if self._passing:
            self.skip -= stamp == self.stamp
            return None
        if stamp == self.stamp:
            self.same += 1
        else:
            self.stamp, self.same, self.skip = stamp, 1, 0
        return piece if found is None else piece[found.end() :]


def follow(cluster: Cluster, pod: str, container: str, stop: threading.Event) -> Iterator[str]:
    """See ``Cluster.follow_log``."""
    path, doing = cluster.path_of("Pod", pod, "log"), f"following the log of pod {pod}"
    place, run, read_whole = _Place(), None, False
    heard = time.monotonic()
    while not stop.is_set():
        state = _look(cluster, pod, container)
        if state is None or (state.ended and read_whole):
            return
        if run is not None and state.run not in (None, run):
            return  # another start of the container: a log of its own
        run, read_whole = state.run or run, False
        query = [("container", container), ("follow", "true"), *place.reopen()]
        try:
            stream = cluster.calls.open("GET", path, query=query, accept="*/*", read_s=SILENT_S)
        except NoAnswer:
            stream = None
        if isinstance(stream, Answer):
            if stream.status == 404 and not _comes_later(stream):
                return
            if not _comes_later(stream) and stream.status == 400 and place.stamps:
                place.stamps = False
                continue
            if not _comes_later(stream):
                raise refusal(stream.status, stream.body, doing)
            if state.ended:
                return  # over without a log
            if stream.status == 400:  # it is only not started yet
                heard = time.monotonic()
        elif stream is not None:
            pieces = _Pieces(stream, stop)
            for piece, starts in pieces:
                text = place.take(piece, starts)
                if text is not None:
                    yield text.decode("utf-8", "replace")
            read_whole = pieces.clean
            heard = time.monotonic()  # it was opened: silence is no fault, there may be nothing to say
        if time.monotonic() - heard > cluster.calls.retry_s:
            return
        stop.wait(_PAUSE_S)


def _look(cluster: Cluster, pod: str, container: str) -> _State | None:
    """The container's state; ``None`` when its pod is gone or the API does not answer."""
    try:
        found = cluster.get("Pod", pod)
    except KubeError as error:
        if error.code in ("api_unavailable", "no_cluster"):
            return None
        raise
    return None if found is None else _state(found, container)


def _comes_later(answer: Answer) -> bool:
    if answer.status == 400:
        return _no_log(answer)
    if answer.status == 404:  # bound, but its kubelet has not heard of it
        return "could not find the requested resource" in _message(answer)
    return answer.status in (401, 429) or answer.status >= 500


@dataclass(frozen=True, slots=True)
class _State:
    ended: bool
    run: str | None


def _state(pod: dict[str, Any], container: str) -> _State:
    """Whether the container is over, and which start of it this is."""
    status = pod.get("status") or {}
    for one in status.get("containerStatuses") or ():
        if one.get("name") == container:
            state = one.get("state") or {}
            started = bool(one.get("restartCount")) or "waiting" not in state
            ended = "terminated" in state or ("waiting" in state and started)
            return _State(ended, str(one.get("restartCount") or 0) if started else None)
    return _State(status.get("phase") in ("Succeeded", "Failed"), None)


def _cut_line(line: bytes, starts: bool) -> Iterator[tuple[bytes, bool]]:
    yield line[:MAX_LINE], starts
    for at in range(MAX_LINE, len(line), MAX_LINE):
        yield line[at : at + MAX_LINE], False


class _Pieces:
    """Lines of a stream as (bytes, whether a line starts here). ``clean``: it ended as it should, or was stopped."""

    def __init__(self, stream: Any, stop: threading.Event) -> None:
        self._stream = stream
        self._stop = stop
        self.clean = False

    def __iter__(self) -> Iterator[tuple[bytes, bool]]:
        from urllib3.exceptions import HTTPError

        done = threading.Event()
        threading.Thread(target=self._cut, args=(done,), name="kube-log-stop", daemon=True).start()
        rest, starts = b"", True
        try:
            while piece := self._stream.read1(65536):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield from _cut_line(line.removesuffix(b"\r"), starts)
                    starts = True
                while len(rest) > MAX_LINE:
                    yield rest[:MAX_LINE], starts
                    rest, starts = rest[MAX_LINE:], False
            self.clean = True
        except (HTTPError, OSError, http.client.HTTPException, ValueError, AttributeError):
            self.clean = self._stop.is_set()
        finally:
            done.set()
            self._stream.close()
        if rest and self.clean:
            yield rest, starts

    def _cut(self, done: threading.Event) -> None:
        """End a read that waits, once the stop is asked for: nothing else wakes it."""
        while not done.wait(0.2):
            if self._stop.is_set():
                if (shutdown := getattr(self._stream, "shutdown", None)) is not None:
                    try:
                        shutdown()
                    except (OSError, ValueError, RuntimeError):
                        return  # it ended by itself
                return
