"""The command ``python -m loadgen truth``.

Belongs here: starting and ending the process, what it prints. Does not belong here: serving (``loop``), flags
(``options``).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from typing import BinaryIO

from loadgen.truth.loop import TruthServer
from loadgen.truth.options import read


def main(argv: Sequence[str]) -> int:
    """``python -m loadgen truth``; prints one JSON line with the port and URL once it listens."""
    behaviour, place = read(argv)
    log: BinaryIO | None = None
    try:
        log = open(place.log, "wb", buffering=0) if place.log else None  # noqa: SIM115 - open for the server's life
    except OSError as error:
        print(f"error: --log {place.log} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # A connection each; shells allow 1,024 by default.
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    shown = f"[{place.host}]" if ":" in place.host else place.host
    try:
        server = TruthServer(behaviour, place.host, place.port, log)
    except OSError as error:
        why = f"{error.strerror or error}"
        print(f"error: the ground-truth server cannot listen on {shown}:{place.port}: {why}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    if place.exit_with_parent:
        threading.Thread(target=_watch_parent, daemon=True).start()
    print(
        json.dumps({"event": "listening", "port": server.port, "url": f"http://{shown}:{server.port}"}),
        flush=True,
    )
    server.run()
    return 0


def _watch_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
