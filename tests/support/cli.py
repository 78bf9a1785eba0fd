"""Runs the real command line in a home of its own and looks for what it left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.support.waiting import HANG_S


class Cli:
    """The ``accelbench`` of this checkout, with ACCELBENCH_HOME in *home* and nothing else from outside."""

    def __init__(self, home: Path, extra: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home.parent),
            "ACCELBENCH_HOME": str(home),
            "COLUMNS": "160",
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
            **(extra or {}),
        }

    def start(self, *words: str, **popen: Any) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "accelbench_assets.cli", *words],
            env=self.env,
            cwd=self.home.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **popen,
        )

    def run(
        self, *words: str, timeout: float = 600, expect: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; *expect* is the exit code it must have."""
        process = self.start(*words)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(
                f"{words} did not end in {timeout} s\n{out[-2000:]}\n{err[-4000:]}"
            ) from None
        if expect is not None:
            assert process.returncode == expect, (
                f"{words}: exit {process.returncode}\n{out[-3000:]}\n{err[-5000:]}"
            )
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def json(self, *words: str, **kwargs: Any) -> Any:
        """Run a command with ``--json`` and read its document."""
        return json.loads(self.run(*words, "--json", **kwargs).stdout)

    def sql(self, query: str) -> list[dict[str, Any]]:
        """Rows of a query over the lake."""
        document = self.json("sql", query)
        rows = document["rows"] if isinstance(document, dict) else document
        assert isinstance(rows, list)
        return rows

    def processes(self) -> list[psutil.Process]:
        """Every living process that was started with this home in its environment."""
        mine = []
        for process in psutil.process_iter():
            try:
                if (
                    process.pid != os.getpid()
                    and process.status() != psutil.STATUS_ZOMBIE
                    and process.environ().get("ACCELBENCH_HOME") == str(self.home)
                ):
                    mine.append(process)
            except psutil.Error:
                continue
        return mine

    def wait_until_nothing_runs(self, seconds: float = HANG_S) -> None:
        """Fail if a process of this home is still alive after *seconds*."""
        end = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.1)
        assert not left, f"still running after {seconds} s: {[p.cmdline() for p in left]}"
