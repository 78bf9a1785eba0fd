"""Loopback addresses for pods and Services.

Belongs here: 127.1.B.n for pods, 127.2.B.n for Services, B reserved for this server so that several can run on one
machine. Does not belong here: who has which address.
"""

from __future__ import annotations

import os
import socket


class Addresses:
    """B is held by an abstract socket, which the kernel frees when the process ends."""

    def __init__(self) -> None:
        self._lock = socket.socket(socket.AF_UNIX)
        first = os.getpid() % 254
        for step in range(254):
            self._block = 1 + (first + step) % 254
            try:
                self._lock.bind(f"\0accelbench-emulated-cluster-{self._block}")
                break
            except OSError:
                continue
        else:
            raise RuntimeError("254 emulated clusters run on this machine: no addresses are left")
        self._pods: set[int] = set()
        self._last = 0
        self._services = 0

    def pod(self) -> str:
        """A free address; those given back longest ago come first."""
        for _ in range(253):
            self._last = self._last % 253 + 1
            if self._last not in self._pods:
                self._pods.add(self._last)
                return f"127.1.{self._block}.{self._last}"
        raise RuntimeError("253 pods run at once: no addresses are left")

    def give_back(self, address: str) -> None:
        self._pods.discard(int(address.rpartition(".")[2]))

    def service(self) -> str:
        self._services = self._services % 253 + 1
        return f"127.2.{self._block}.{self._services}"
