"""Probes of containers.

Belongs here: one look (HTTP, TCP), its failure's text, thresholds and pauses. Does not belong here: what follows
(``container``). Not emulated: exec and gRPC probes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp

from tests.launch.kube.moments import Pace

LEAST_PAUSE_S = 0.1
# Hears True or False when a threshold is reached, None for a failure below it; its answer ends the watch.
Report = Callable[[bool | None, str], Awaitable[bool]]


def port_number(port: int | str, container: Mapping[str, Any]) -> int:
    """A named port's number. Raises ``KeyError`` for an unknown name."""
    if isinstance(port, int) or str(port).isdecimal():
        return int(port)
    return int({one.get("name"): one["containerPort"] for one in container.get("ports") or ()}[port])


async def look(
    session: aiohttp.ClientSession, probe: Mapping[str, Any], container: Mapping[str, Any], ip: str
) -> str:
    """Empty when it succeeds, else the text of the failure."""
    limit = aiohttp.ClientTimeout(total=probe.get("timeoutSeconds", 1))
    if "httpGet" in probe:
        wanted = probe["httpGet"]
        host, port = wanted.get("host") or ip, port_number(wanted["port"], container)
        url = f"http://{host}:{port}{wanted.get('path') or '/'}"
        headers = {one["name"]: one["value"] for one in wanted.get("httpHeaders") or ()}
        try:
            async with session.get(url, timeout=limit, headers=headers, allow_redirects=False) as answer:
                ok = 200 <= answer.status < 400
                return "" if ok else f"HTTP probe failed with statuscode: {answer.status}"
        except TimeoutError:
            return f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)'
        except aiohttp.ClientConnectorError:
            return f'Get "{url}": dial tcp {host}:{port}: connect: connection refused'
        except aiohttp.ClientError as error:
            return f'Get "{url}": {error or "EOF"}'
    if "tcpSocket" in probe:
        port = port_number(probe["tcpSocket"]["port"], container)
        try:
            async with asyncio.timeout(probe.get("timeoutSeconds", 1)):
                _, writer = await asyncio.open_connection(probe["tcpSocket"].get("host") or ip, port)
            writer.close()
        except (OSError, TimeoutError):
            return f"dial tcp {ip}:{port}: connect: connection refused"
        return ""
    return "exec and gRPC probes are not emulated by this test server"


async def watch(
    session: aiohttp.ClientSession, probe: Mapping[str, Any], container: Mapping[str, Any], ip: str,
    pace: Pace, report: Report,
) -> None:  # fmt: skip
    """Looks until cancelled or until *report* says that it is enough."""
    pause = pace(probe["periodSeconds"], LEAST_PAUSE_S)
    await asyncio.sleep(pace(probe.get("initialDelaySeconds", 0)))
    good = bad = 0
    while True:
        text = await look(session, probe, container, ip)
        good, bad = (0, bad + 1) if text else (good + 1, 0)
        verdict: bool | None = None
        if good >= probe["successThreshold"]:
            verdict = True
        elif bad >= probe["failureThreshold"]:
            verdict = False
        if (text or verdict) and await report(verdict, text):
            return
        await asyncio.sleep(pause)
