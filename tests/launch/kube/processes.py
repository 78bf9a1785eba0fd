"""Local processes that stand for containers.

Belongs here: starting one so that it cannot outlive this server, waiting for its end, ending all of its session.
Does not belong here: what runs and why (``container``).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelbench_assets.launch.supervise import PR_SET_PDEATHSIG, descendants

_LIBC = ctypes.CDLL(None)


def _die_with_server() -> None:
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _session(leader: int) -> list[int]:
    """Processes of the session, wherever they hang in the tree."""
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - many entries, and only their names matter
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != b"Z":
                found.append(int(entry))
    return found


class Process:
    """A started command in a session of its own; ``code`` is ``None`` while it runs, 128 + n for a signal."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], folder: Path, log: Path) -> None:
        """Raises ``OSError`` when the program cannot be started."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            self._child = subprocess.Popen(
                argv,
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_server,
            )
        self.pid = self._child.pid
        self.code: int | None = None
        self._ended = asyncio.Event()
        self._fd = os.pidfd_open(self.pid)
        asyncio.get_running_loop().add_reader(self._fd, self._on_end)

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        code = self._child.wait()
        self._sweep()
        self.code = code if code >= 0 else 128 - code
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.code is not None
        return self.code

    def terminate(self) -> None:
        """SIGTERM to the first process, as a container gets it."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to it and to everything below it or in its session."""
        below = descendants(self.pid) if self.code is None else []
        self._signal(signal.SIGKILL)
        self._sweep(below)

    def _signal(self, number: int) -> None:
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _sweep(self, also: Sequence[int] = ()) -> None:
        for pid in {*also, *_session(self.pid)} - {self.pid}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
