"""What faults do to API calls.

Belongs here: refusals, dropped and frozen calls, killing the caller. Does not belong here: which call is struck
(``faults``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from tests.launch.kube import answers
from tests.launch.kube.faults import ApiFault
from tests.launch.kube.kinds import Kind

_RBAC_VERBS = {"log": "get", "proxy": "get", "evict": "create"}


class Dropped(Exception):
    """The connection is to be closed without an answer."""


def peer_pid(request: web.Request) -> int | None:
    """The process on this machine at the other end of the connection."""
    peer = request.transport.get_extra_info("peername") if request.transport else None
    if not peer:
        return None
    # The kernel prints an address as a number in the machine's own byte order.
    address = int.from_bytes(socket.inet_aton(peer[0]), sys.byteorder)
    wanted = f"{address:08X}:{peer[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inode = next((row[9] for row in rows if row[1] == wanted), "0")
    if inode == "0":
        return None
    for entry in os.listdir("/proc"):  # noqa: PTH208 - many entries, and only their names matter
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{entry}/fd").iterdir():
                if os.readlink(link) == f"socket:[{inode}]":  # noqa: PTH115 - no file to resolve to
                    return int(entry)
    return None


def _kill(fault: ApiFault, request: web.Request) -> None:
    pid, tries = fault.pid, 0
    while pid is None and tries < 20:  # a look at a table that changes meanwhile may miss a row
        pid, tries = peer_pid(request), tries + 1
    if pid is None:
        raise answers.bad_request("fault kill: no process was found at the other end of the connection")
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _refusal(
    fault: ApiFault, verb: str, kind: Kind, name: str, namespace: str | None, subresource: str
) -> Exception | None:
    match fault.do:
        case "status":
            if fault.status == 429:
                return answers.too_many_requests()
            if fault.status == 409:
                return answers.conflict(kind, name)
            if fault.status == 404:
                return answers.not_found(kind, name)
            if fault.status == 410:
                return answers.expired(1, 100)
            error = answers.broken(fault.status)
            return answers.ApiError(error.code, error.reason, fault.message or error.message)
        case "drop":
            return Dropped()
        case "deny":
            return answers.denied(_RBAC_VERBS.get(verb, verb), kind, name, namespace, subresource)
        case "unauthorized":
            return answers.unauthorized()
        case "conflict":
            return answers.conflict(kind, name)
        case "quota":
            text = fault.message or (
                f"exceeded quota: accelbench, requested: count/{kind.resource}=1, used: count/{kind.resource}=8, "
                f"limited: count/{kind.resource}=8"
            )
            return answers.forbidden(kind, name, text)
    return None


async def before(
    struck: Sequence[ApiFault], request: web.Request, verb: str, kind: Kind, name: str,
    namespace: str | None, subresource: str,
) -> None:  # fmt: skip
    """Raises ``ApiError`` or ``Dropped``, or comes back late, or after the caller's death."""
    for fault in struck:
        if fault.do == "freeze":
            await asyncio.sleep(fault.seconds)
        elif fault.do == "kill_before":
            _kill(fault, request)
            raise Dropped
        elif (refusal := _refusal(fault, verb, kind, name, namespace, subresource)) is not None:
            raise refusal


async def after(struck: Sequence[ApiFault], request: web.Request) -> None:
    """Once the call is carried out and before it is answered. Raises ``Dropped``."""
    for fault in struck:
        if fault.do == "freeze_after":
            await asyncio.sleep(fault.seconds)
        if fault.do == "kill_after":
            _kill(fault, request)
            raise Dropped
        if fault.do == "drop_after":
            raise Dropped


def cut_after(struck: Sequence[ApiFault]) -> float | None:
    """After how many seconds a stream breaks off, if at all."""
    return next((fault.after_s for fault in struck if fault.do == "cut"), None)


def is_expired(struck: Sequence[ApiFault]) -> bool:
    """Whether a watch is told that its version is too old."""
    return any(fault.do == "expired" for fault in struck)
