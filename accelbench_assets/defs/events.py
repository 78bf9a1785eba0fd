"""Progress of a run: to the Dagster log, and as JSON lines to whoever started this process.

Belongs here: the sink handed to the domain.
Does not belong here: rendering progress (``cli``).
"""

import json
import logging
import sys
import threading
from collections.abc import Mapping
from typing import Any

from accelbench_assets.launch.base import EventSink
from accelbench_assets.scrub import scrub

_lock = threading.Lock()
_streaming = False


def stream_to_stdout() -> None:
    """From now on every event is one JSON line on stdout as well; the command line reads them."""
    global _streaming
    _streaming = True


def emit(kind: str, message: str, data: Mapping[str, Any]) -> None:
    """One JSON line on stdout, if somebody asked for them. A reader that went away is not an error here."""
    if not _streaming:
        return
    line = json.dumps({"kind": kind, "message": message, "data": data}, default=str)
    try:
        with _lock:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        pass


def sink(log: logging.Logger | Any) -> EventSink:
    """An event sink that writes phases and warnings to *log* and everything to the stream."""

    def on_event(kind: str, message: str, data: Mapping[str, Any]) -> None:
        if kind == "warning":
            log.warning(scrub(message))
        elif kind in ("phase", "log"):
            log.info(scrub(message))
        emit(kind, scrub(message), data)

    return on_event
