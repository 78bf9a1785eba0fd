"""Pod logs.

Belongs here: the options of ``/log``, what it answers in each state of a container. Does not belong here: writing
logs (``processes``). Not emulated, and refused: ``sinceSeconds``.

A line's time stamp is the start of the container and a nanosecond for each byte before the line: it grows with the
log and stays the same at each reading, which is what readers rely on; it does not tell when the line was written.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.launch.kube.answers import ApiError, bad_request, no_such_resource, not_emulated
from tests.launch.kube.container import Container
from tests.launch.kube.kinds import Obj, name_of
from tests.launch.kube.kubelet import Kubelet
from tests.launch.kube.moments import parse

POLL_S = 0.03


@dataclass(frozen=True, slots=True)
class LogOptions:
    """As the client asks for it."""

    container: str = ""
    follow: bool = False
    previous: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    timestamps: bool = False
    since: str = ""

    @classmethod
    def read(cls, query: Mapping[str, str], pod: str) -> LogOptions:
        """Raises ``ApiError`` 422 for a negative number, 400 for what is not emulated."""
        if query.get("sinceSeconds"):
            raise not_emulated("log option sinceSeconds")
        numbers: dict[str, int | None] = {}
        for name, least in (("tailLines", 0), ("limitBytes", 1)):
            text = query.get(name)
            numbers[name] = None if text is None else int(text)
            if text is not None and int(text) < least:
                why = "must be greater than or equal to 0" if least == 0 else "must be greater than 0"
                about = f'PodLogOptions "{pod}" is invalid: {name}: Invalid value: {text}: {why}'
                raise ApiError(422, "Invalid", about)
        yes = ("true", "True", "1")
        return cls(
            query.get("container", ""), query.get("follow") in yes, query.get("previous") in yes,
            numbers["tailLines"], numbers["limitBytes"], query.get("timestamps") in yes, query.get("sinceTime", ""),
        )  # fmt: skip


def find_container(kubelet: Kubelet, pod: Obj, options: LogOptions) -> tuple[Container, int] | None:
    """The container and which of its runs; ``None`` for a pod that has no node yet (an empty log).

    Raises ``ApiError`` with the texts of a real kubelet.
    """
    spec, name = pod["spec"], name_of(pod)
    names = [one["name"] for one in spec["containers"]]
    every = [*names, *(one["name"] for one in spec.get("initContainers") or ())]
    default = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
    wanted = options.container or default or (names[0] if len(names) == 1 else "")
    if not wanted:
        raise bad_request(
            f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]"
        )
    if wanted not in every:
        raise bad_request(f"container {wanted} is not valid for pod {name}")
    node = spec.get("nodeName")
    if not node:
        return None
    run = kubelet.find(pod)
    if kubelet.machine.is_silent(node) or (run is None and not kubelet.is_known(node)):
        path = f"containerLogs/{pod['metadata']['namespace']}/{name}/{wanted}"
        text = f'Get "https://{node}:10250/{path}": dial tcp 127.0.0.1:10250: connect: connection refused'
        raise ApiError(500, None, text)
    if run is None:
        raise no_such_resource(f"pods/log {name}")
    container = next(one for one in run.all if one.name == wanted)
    if options.previous:
        if container.attempt < 1:
            raise bad_request(f'previous terminated container "{wanted}" in pod "{name}" not found')
        return container, container.attempt - 1
    if container.attempt < 0:
        reason = container.state.get("waiting", {}).get("reason", "ContainerCreating")
        if reason in ("ErrImagePull", "ImagePullBackOff"):
            reason = "trying and failing to pull image"
        raise bad_request(f'container "{wanted}" in pod "{name}" is waiting to start: {reason}')
    return container, container.attempt


class _Lines:
    """Turns the bytes of a log into what was asked for, line by line."""

    def __init__(self, began: datetime, options: LogOptions) -> None:
        self._began, self._options = began, options
        self._since = _nanoseconds(options.since) if options.since else 0
        self._offset = 0
        self._starts = self._wanted = True

    def take(self, data: bytes) -> bytes:
        """*data* must be the next bytes of the log."""
        out = []
        for line in data.splitlines(keepends=True):
            if self._starts:
                stamp = round(self._began.timestamp() * 1e6) * 1000 + self._offset
                self._wanted = stamp >= self._since
                if self._wanted and self._options.timestamps:
                    out.append(_stamp(stamp))
            if self._wanted:
                out.append(line)
            self._offset += len(line)
            self._starts = line.endswith(b"\n")
        return b"".join(out)


def _stamp(nanoseconds: int) -> bytes:
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z ".encode()


def _nanoseconds(text: str) -> int:
    """Of a time in RFC 3339 form with up to nine digits after the point. Raises ``ApiError`` 400."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", text)
    if found is None:
        raise bad_request(f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse')
    return round(parse(found[1] + found[3]).timestamp()) * 10**9 + int((found[2] or "").ljust(9, "0"))


def _tail(data: bytes, lines: int | None) -> bytes:
    if lines is None:
        return data
    return b"".join(data.splitlines(keepends=True)[-lines:]) if lines else b""


async def stream(container: Container, attempt: int, options: LogOptions) -> AsyncIterator[bytes]:
    """The log in pieces; with ``follow`` until this run of the container is over."""
    began = container.began.get(attempt, datetime.fromtimestamp(0, UTC))
    path, lines = container.log_file(attempt), _Lines(began, options)
    left, first, offset = options.limit_bytes, True, 0
    while True:
        over = container.attempt != attempt or container.is_over or container.pod.is_cut
        data = _read(path, offset)
        offset += len(data)
        shown = lines.take(data)
        if first:
            shown, first = _tail(shown, options.tail_lines), False
        if left is not None:
            shown, left = shown[:left], max(0, left - len(shown))
        if shown:
            yield shown
        if not options.follow or left == 0 or (over and not data):
            return
        await asyncio.sleep(0 if over else POLL_S)


def _read(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as log:
            log.seek(offset)
            return log.read()
    except FileNotFoundError:
        return b""  # the container could not be started
