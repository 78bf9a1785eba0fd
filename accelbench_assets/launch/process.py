"""The orchestrator's side of the supervisor: start a command that dies with us, follow it, stop it.

Belongs here: ``SupervisedProcess``. Does not belong here: the watchdog itself (``supervise``, which imports
nothing of ours), what the commands mean (``local``, ``generator``).
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from accelbench_assets.launch import supervise

STOP_MARGIN_S = 4.0  # beyond the grace: the supervisor's own limits are 2 s beyond it


class SupervisedProcess:
    """*command* under the supervisor; leaving the ``with`` block leaves nothing of it running.

    *log* takes stderr, and stdout too unless *pass_stdout*, which hands the lines of stdout to :meth:`line`. With
    *scratch_variable*, that environment variable names a folder of the command's own, which the supervisor removes,
    whoever of us is killed. That is not in the run's folder: unix sockets go there, whose paths may have 107 bytes.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str],
        deadline_s: float | None,
        grace_s: float = 3.0,
        pass_stdout: bool = False,
        scratch_variable: str | None = None,
    ) -> None:
        self.log = log
        self.grace_s = grace_s
        self.exit: dict[str, Any] | None = None
        """The supervisor's last word (``reason``, ``returncode``, ``seconds``), once it has spoken."""
        self.pid: int | None = None
        """Process id of the command, once it has started."""
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        options = [f"--grace-s={grace_s}", f"--log={log}"]
        options += [] if deadline_s is None else [f"--deadline-s={deadline_s}"]
        options += ["--pass-stdout"] if pass_stdout else []
        self._scratch: str | None = None
        if scratch_variable is not None:
            chosen = env.get(scratch_variable)  # by the user, to whom a short path may matter
            base = chosen if chosen and Path(chosen).is_dir() else None
            self._scratch = tempfile.mkdtemp(prefix="ab-", dir=base)
            options.append(f"--remove={self._scratch}")
            env = {**env, scratch_variable: self._scratch}
        try:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-I", "-S", str(supervise.__file__), *options, "--", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(env),
                start_new_session=True,  # a Ctrl-C in the terminal is ours to handle
            )
        except BaseException:
            self._remove_scratch()
            raise
        self._reader = threading.Thread(target=self._read, name="supervisor-output", daemon=True)
        self._reader.start()

    @property
    def supervisor_pid(self) -> int:
        """Process id of the supervisor."""
        return self._supervisor.pid

    def _read(self) -> None:
        assert self._supervisor.stdout is not None
        for raw in self._supervisor.stdout:
            line = raw.decode("utf-8", errors="replace").strip()
            if not line:
                continue
            if line.startswith('{"event": "supervisor_'):
                said = json.loads(line)
                if said["event"] == "supervisor_exit":
                    self.exit = said
                    break  # its last word: all below it has ended
                self.pid = said["pid"]
            else:
                self._lines.put(line)
        self._lines.put(None)

    def line(self, timeout_s: float) -> str | None:
        """The next line of stdout, ``None`` if none came in time or none will come; see :meth:`over`."""
        with contextlib.suppress(queue.Empty):
            return self._lines.get(timeout=timeout_s)
        return None

    def over(self) -> bool:
        """Whether the command and everything below it has ended."""
        return self._supervisor.poll() is not None and not self._reader.is_alive() and self._lines.empty()

    def running(self) -> bool:
        """Whether the command is still watched (it may be about to be found dead)."""
        return self._supervisor.poll() is None and self.exit is None

    def how_it_ended(self) -> tuple[str, int]:
        """Reason and return code (negative = signal), after it has ended."""
        self._reader.join(timeout=STOP_MARGIN_S)
        if self.exit is not None:
            return str(self.exit["reason"]), int(self.exit["returncode"])
        return "supervisor_died", self._supervisor.wait(timeout=STOP_MARGIN_S)

    def stop(self) -> None:
        """End the command (SIGTERM, grace, SIGKILL) and wait until it is gone; harmless the second time."""
        assert self._supervisor.stdin is not None
        with contextlib.suppress(OSError):
            self._supervisor.stdin.close()
        try:
            self._supervisor.wait(timeout=self.grace_s + STOP_MARGIN_S)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()  # its guard sees that and ends the command
            self._supervisor.wait(timeout=STOP_MARGIN_S)
        self._reader.join(timeout=self.grace_s + STOP_MARGIN_S)
        self._remove_scratch()  # the supervisor may have died before it could

    def _remove_scratch(self) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
