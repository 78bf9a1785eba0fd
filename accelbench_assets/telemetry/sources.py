"""Where accelerator readings come from: a DCGM exporter, ``nvidia-smi``, a ``neuron-monitor`` beside the load.

Belongs here: fetching each within a bound of time, and finding which of them this machine has. Does not belong here:
what they print (``accelerators``), when they are read (``sampler``).

A source is read by one thread: ``read`` returns the readings of now or raises ``Unread`` with the reason, within
``timeout_s``; ``close`` ends what it started. ``name`` begins with the kind (``dcgm:``, ``nvidia-smi:``, ``neuron:``),
for two kinds may watch the same device and only one may count.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from accelbench_assets.telemetry.accelerators import (
    SMI_FIELDS,
    parse_dcgm,
    parse_neuron_monitor,
    parse_nvidia_smi,
)
from accelbench_assets.telemetry.prometheus import Reading

DCGM_PORT = 9400
_STALE_S = 2.5


class Unread(Exception):
    """A reading that could not be had; the text says why and is kept as the gap's reason."""


class Source(Protocol):
    """One door to accelerator readings."""

    name: str

    def read(self) -> list[Reading]:
        """The readings of now. Raises ``Unread``; takes bounded time."""
        ...

    def close(self) -> None:
        """End what the source started; safe to call twice."""
        ...


class DcgmExporter:
    """NVIDIA's DCGM exporter at *url* (``http://node:9400/metrics``; the path may be left out).

    It shows every device of its node: *devices* (indices or UUIDs) names those that serve, else all of them count.
    """

    def __init__(self, url: str, *, devices: Sequence[str] = (), timeout_s: float = 1.0) -> None:
        from accelbench_assets.launch.probe import Server

        parts = urlsplit(url if "//" in url else f"//{url}")
        if not parts.hostname:
            raise ValueError(
                f"{url!r} is not the address of a DCGM exporter; write http://host:{DCGM_PORT}/metrics."
            )
        netloc = f"{parts.hostname}:{parts.port or DCGM_PORT}"
        self.name = f"dcgm:{netloc}"
        self._path = parts.path if parts.path.strip("/") else "/metrics"
        self._server = Server(f"{parts.scheme or 'http'}://{netloc}")
        self._devices, self._timeout_s = tuple(devices), timeout_s

    def read(self) -> list[Reading]:
        """See :class:`Source`."""
        from accelbench_assets.launch.probe import Unreachable

        try:
            reply = self._server.request("GET", self._path, timeout_s=self._timeout_s)
            if reply.status != 200:
                raise Unread(f"{self.name} answered HTTP {reply.status}")
            return parse_dcgm(self.name, reply.text, self._devices)
        except Unreachable as error:
            raise Unread(f"{self.name}: {error}") from None
        except ValueError as error:
            raise Unread(f"{self.name}: {error}") from None

    def close(self) -> None:
        """Nothing is kept open."""


class NvidiaSmi:
    """``nvidia-smi``, started once a reading: it needs no exporter. *devices* (indices or UUIDs) as of the exporter."""

    def __init__(
        self, command: Sequence[str] = ("nvidia-smi",), *, devices: Sequence[str] = (), timeout_s: float = 2.0
    ) -> None:
        self.name = f"nvidia-smi:{socket.gethostname()}"
        self._command = [*command, *([f"--id={','.join(devices)}"] if devices else [])]
        self._timeout_s = timeout_s
        self._fields: tuple[str, ...] = SMI_FIELDS

    def read(self) -> list[Reading]:
        """See :class:`Source`. An older driver's name for the throttle reasons is tried once, then kept."""
        text = self._run()
        if "not a valid field" in text and "clocks_event_reasons.active" in self._fields:
            old = "clocks_throttle_reasons.active"
            self._fields = tuple(old if f == "clocks_event_reasons.active" else f for f in self._fields)
            text = self._run()
        try:
            return parse_nvidia_smi(self.name, text)
        except ValueError as error:
            raise Unread(str(error)) from None

    def _run(self) -> str:
        query = [f"--query-gpu={','.join(self._fields)}", "--format=csv,nounits"]
        try:
            done = subprocess.run(
                [*self._command, *query],
                capture_output=True,
                text=True,
                timeout=self._timeout_s,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise Unread(f"nvidia-smi took longer than {self._timeout_s:g} s") from None
        except OSError as error:
            raise Unread(f"nvidia-smi could not be started: {error.strerror}") from None
        return done.stdout

    def close(self) -> None:
        """Nothing is kept running."""


class NeuronMonitor:
    """A ``neuron-monitor`` that runs as long as the source, with a period of one second.

    Should this process be killed, the monitor ends at its next line, which it can write to nobody.
    """

    def __init__(self, command: Sequence[str] = ("neuron-monitor",)) -> None:
        self.name = f"neuron:{socket.gethostname()}"
        self._command = list(command)
        self._process: subprocess.Popen[str] | None = None
        self._pump: threading.Thread | None = None
        self._line: str | None = None
        self._ended = False
        self._fresh = threading.Event()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def read(self) -> list[Reading]:
        """The newest report, never the same twice; waits up to 2.5 s for one. See :class:`Source`."""
        if self._pump is None:
            self._start()
        if not self._fresh.wait(_STALE_S):
            raise Unread(f"neuron-monitor reported nothing for {_STALE_S:g} s")
        if self._ended:
            raise Unread("neuron-monitor has ended")
        self._fresh.clear()
        try:
            return parse_neuron_monitor(self.name, self._line or "")
        except ValueError as error:
            raise Unread(str(error)) from None

    def _start(self) -> None:
        groups = ("neuroncore_counters", "memory_used")
        config = {
            "period": "1s",
            "neuron_runtimes": [{"tag_filter": ".*", "metrics": [{"type": group} for group in groups]}],
            "system_metrics": [{"type": "neuron_hw_counters"}],
        }
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="accelbench-neuron-")
        path = Path(self._folder.name) / "monitor.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        try:
            process = subprocess.Popen(
                [*self._command, "-c", str(path)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
                text=True,
            )
        except OSError as error:
            raise Unread(f"neuron-monitor could not be started: {error.strerror}") from None
        self._process = process
        self._pump = threading.Thread(
            target=self._follow, args=(process,), name="neuron-monitor", daemon=True
        )
        self._pump.start()

    def _follow(self, process: subprocess.Popen[str]) -> None:
        """Keep its newest line, until it ends."""
        assert process.stdout is not None
        for line in process.stdout:
            self._line = line
            self._fresh.set()
        self._ended = True
        self._fresh.set()

    def close(self) -> None:
        """End the monitor, by force if it takes longer than two seconds."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(2)
            if self._pump is not None:
                self._pump.join(2)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def sources_from(specs: Sequence[str]) -> list[Source]:
    """The sources named by *specs*: ``dcgm=URL``, ``nvidia-smi``, ``neuron-monitor``. Raises ``ValueError``."""
    made: list[Source] = []
    for spec in specs:
        kind, _, value = spec.partition("=")
        if kind == "dcgm" and value:
            made.append(DcgmExporter(value))
        elif spec == "nvidia-smi":
            made.append(NvidiaSmi())
        elif spec == "neuron-monitor":
            made.append(NeuronMonitor())
        else:
            raise ValueError(
                f"{spec!r} is no source of accelerator readings; there are dcgm=URL, nvidia-smi and neuron-monitor."
            )
    return made


def local_sources() -> list[Source]:
    """What this machine has: ``neuron-monitor`` where it is installed with a Neuron device, else ``nvidia-smi`` with an
    NVIDIA device. Empty on a machine without accelerators.
    """
    neuron = shutil.which("neuron-monitor", path=f"{os.environ.get('PATH', '')}:/opt/aws/neuron/bin")
    if neuron and list(Path("/dev").glob("neuron[0-9]*")):
        return [NeuronMonitor([neuron])]
    smi = shutil.which("nvidia-smi")
    return [NvidiaSmi([smi])] if smi and list(Path("/dev").glob("nvidia[0-9]*")) else []
