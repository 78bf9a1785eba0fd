"""Runs one command so that it cannot outlive its run: ``supervise.py --deadline-s N --grace-s G --log FILE
[--remove DIR] -- CMD…``.

Belongs here: the watchdog process; standard library only, no import of ours, so that it starts in tens of
milliseconds (it is run by path, with ``python -I -S``). Does not belong here: the orchestrator's side
(``process``).

Two processes watch, because either may be killed. The *supervisor* (started by the orchestrator) waits on its
stdin, the lifeline: end of file means that the orchestrator is gone or wants an end. It forks the *guard*,
which starts the command in a session of its own, with a parent-death signal, and waits on a pipe from the
supervisor. Both are child subreapers: whatever the command forks, in any group or session, stays below them
and is killed at the end. If the supervisor is killed, the guard sees end of file; if the guard is killed, the
supervisor inherits the tree. Whichever is left removes the folder that was made for what the command leaves behind.

Stdout: one JSON line ``{"event":"supervisor_started","pid":…}`` and, when all is over, one
``{"event":"supervisor_exit","reason":"exited|lifeline|deadline|signal|guard_died|not_started","returncode":…,"seconds":…}``
(negative return code = signal). Exit status: that of the command, 128 + signal for a signal.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
NOT_STARTED = 127
POLL_S = 0.5  # how often the parent's identity is looked at besides the lifeline
LEFTOVER_GRACE_S = 1.0  # for helpers of a command that ended by itself


def prctl(option: int, value: int) -> None:
    """``prctl(2)`` on Linux; nothing elsewhere, where only the lifeline and the process group remain."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def descendants(root: int) -> list[int]:
    """Process ids below *root* that are not zombies; empty where there is no ``/proc``."""
    children: dict[int, list[int]] = {}
    zombies: set[int] = set()
    try:
        entries = os.listdir("/proc")  # noqa: PTH208 - pathlib is slower to import and to walk
    except OSError:
        return []
    for entry in entries:
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as stat:
                state, parent = stat.read().rpartition(b")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # ended meanwhile
        children.setdefault(int(parent), []).append(int(entry))
        if state in (b"Z", b"X"):
            zombies.add(int(entry))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return [pid for pid in found if pid not in zombies]


class Watch:
    """Waits for one child, the lifeline, signals and the deadline; then leaves nothing running."""

    def __init__(self, lifeline: int, deadline_s: float | None) -> None:
        self.lifeline = lifeline
        self.started = time.monotonic()
        self.deadline = None if deadline_s is None else self.started + deadline_s
        self.parent = os.getppid()
        self.asked_to_stop = False
        self.status: int | None = None
        self._wake, wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(wake_end, False)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler is needed for the wake-up
        prctl(PR_SET_CHILD_SUBREAPER, 1)

    def _ask(self, *_: object) -> None:
        self.asked_to_stop = True

    def _reap(self, pid: int) -> None:
        while True:
            try:
                ended, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if ended == 0:
                return
            if ended == pid:
                self.status = status

    def _sleep(self, seconds: float, *, lifeline: bool) -> bytes | None:
        """Until something happens; what the lifeline said (``b""`` is its end), ``None`` if nothing."""
        fds = [self._wake, self.lifeline] if lifeline else [self._wake]
        ready, _, _ = select.select(fds, [], [], max(0.0, seconds))
        if self._wake in ready:
            os.read(self._wake, 4096)
        return os.read(self.lifeline, 4096) if self.lifeline in ready else None

    def until_over(self, pid: int, *, words_stop: bool) -> str:
        """The reason to end; a word on the lifeline counts as a signal if *words_stop*, else is ignored."""
        while True:
            self._reap(pid)
            if self.status is not None:
                return "exited"
            if self.asked_to_stop:
                return "signal"
            if os.getppid() != self.parent:
                return "lifeline"
            left = POLL_S if self.deadline is None else min(POLL_S, self.deadline - time.monotonic())
            if left <= 0:
                return "deadline"
            said = self._sleep(left, lifeline=True)
            if said == b"":
                return "lifeline"
            if said and words_stop:
                return "signal"

    def wait_gone(self, pid: int, seconds: float) -> bool:
        """Whether *pid* and everything below this process ended within *seconds*."""
        limit = time.monotonic() + seconds
        while True:
            self._reap(pid)
            if self.status is not None and not descendants(os.getpid()):
                return True
            if time.monotonic() >= limit:
                return False
            self._sleep(min(0.05, limit - time.monotonic()), lifeline=False)

    def kill_rest(self, pid: int) -> None:
        """SIGKILL everything below this process until nothing is left (a process may fork while being
        killed).
        """
        while True:
            for victim in descendants(os.getpid()):
                signal_quietly(os.kill, victim, signal.SIGKILL)
            if self.wait_gone(pid, 0.1) or not descendants(os.getpid()):
                return


def signal_quietly(send: object, target: int, number: int) -> None:
    """``os.kill`` or ``os.killpg`` where the target may have gone."""
    try:
        send(target, number)  # type: ignore[operator]
    except (ProcessLookupError, PermissionError):
        return


def say(document: dict[str, object]) -> None:
    """One JSON line on stdout; the orchestrator may be gone. The leading newline ends a line the command left
    open.
    """
    try:
        os.write(1, b"\n" + json.dumps(document).encode() + b"\n")
    except OSError:
        return


def remove(folder: str | None) -> None:
    """The folder of what the command leaves behind, all processes having ended."""
    if folder is not None:
        import shutil  # slow to import, and the start must not wait for it

        shutil.rmtree(folder, ignore_errors=True)


def exit_code(status: int | None) -> int:
    """Python's return code (negative = signal) of a wait status; SIGKILL if it is not known."""
    return -signal.SIGKILL if status is None else os.waitstatus_to_exitcode(status)


def guard(options: argparse.Namespace, lifeline: int) -> int:
    """Start and watch the command; its exit status as a shell would show it."""
    watch = Watch(lifeline, options.deadline_s)
    me = os.getpid()

    def die_with_guard() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != me:  # the guard went before the call above
            os._exit(NOT_STARTED)

    log = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(
            options.command,
            stdin=subprocess.DEVNULL,
            stdout=None if options.pass_stdout else log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_guard,
        )
    except OSError as error:
        os.write(log, f"cannot start {options.command[0]}: {error.strerror}\n".encode())
        say({"event": "supervisor_exit", "reason": "not_started", "returncode": NOT_STARTED, "seconds": 0.0})
        return NOT_STARTED
    say({"event": "supervisor_started", "pid": child.pid})
    reason = watch.until_over(child.pid, words_stop=True)
    signal_quietly(os.killpg, child.pid, signal.SIGTERM)
    grace_s = LEFTOVER_GRACE_S if reason == "exited" else options.grace_s
    if not watch.wait_gone(child.pid, grace_s):
        watch.kill_rest(child.pid)
    code = exit_code(watch.status)
    child.returncode = code  # reaped above; Popen must not look for it
    seconds = round(time.monotonic() - watch.started, 3)
    say({"event": "supervisor_exit", "reason": reason, "returncode": code, "seconds": seconds})
    return code if code >= 0 else 128 - code


def supervise(options: argparse.Namespace) -> int:
    """Fork the guard, hold its lifeline, and clean up after it should it be killed."""
    hear, speak = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(speak)
        code = guard(options, hear)
        remove(options.remove)  # this process may be the only one left
        os._exit(code)
    os.close(hear)
    watch = Watch(0, None)
    reason = watch.until_over(pid, words_stop=False)
    if reason == "signal":
        os.write(speak, b"s")
    os.close(speak)
    if not watch.wait_gone(pid, options.grace_s + 2.0 if watch.status is None else 0.0):
        watch.kill_rest(pid)
    remove(options.remove)
    if watch.status is None or os.WIFSIGNALED(watch.status):
        say(
            {
                "event": "supervisor_exit",
                "reason": "guard_died",
                "returncode": -signal.SIGKILL,
                "seconds": None,
            }
        )
        return 128 + signal.SIGKILL
    return os.waitstatus_to_exitcode(watch.status)


def main(arguments: list[str]) -> int:
    """Parse and run; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="supervise", description="Run a command that cannot outlive its run."
    )
    parser.add_argument(
        "--deadline-s", type=float, default=None, help="seconds after which the command is ended"
    )
    parser.add_argument("--grace-s", type=float, default=3.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--log", required=True, help="file that takes the command's output")
    parser.add_argument(
        "--pass-stdout", action="store_true", help="leave stdout to the reader of the supervisor's"
    )
    parser.add_argument("--remove", default=None, help="folder that is removed when all has ended")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    options.command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not options.command:
        parser.error("the command is missing")
    if not Path(options.log).parent.is_dir():
        parser.error(f"the folder of {options.log} does not exist")
    return supervise(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
