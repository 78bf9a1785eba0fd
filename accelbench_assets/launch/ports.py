"""Loopback ports for local engines.

Belongs here: choosing free ports and refusing a taken one by name. Does not belong here: binding (the engine
does).
"""

from __future__ import annotations

import socket
from contextlib import ExitStack

from accelbench_assets.errors import LaunchError

HOST = "127.0.0.1"


def choose_ports(first: int | None, count: int) -> list[int]:
    """*count* ports on loopback: from *first* on, or any free ones.

    All are bound at the same time, so no two are equal. Raises ``LaunchError`` (``port_busy``) naming the
    port.
    """
    ports: list[int] = []
    with ExitStack() as held:
        for index in range(count):
            wanted = 0 if first is None else first + index
            bound = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                bound.bind((HOST, wanted))
            except (OSError, OverflowError):
                raise LaunchError(
                    f"Port {wanted} on {HOST} is already in use or may not be used.",
                    code="port_busy",
                    hint="Give another with --port, or none and a free one is found.",
                ) from None
            ports.append(int(bound.getsockname()[1]))
    return ports
