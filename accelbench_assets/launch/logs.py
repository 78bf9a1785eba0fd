"""Logs of engines and generators: their last lines for an error message, and their cleaning before they are
kept.

Belongs here: reading the end of a log and removing secrets from a log file.
Does not belong here: what counts as a secret (``accelbench_assets.scrub``), where logs are kept (``lake``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from accelbench_assets.scrub import scrub

_TAIL_BYTES = 64 * 1024
_CHUNK_LINES = 5000


def tail(path: Path, lines: int = 12, *, secrets: Iterable[str] = ()) -> str:
    """The last non-empty *lines* of a log, scrubbed; empty if there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = log.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    kept = [line.rstrip() for line in scrub(text, secrets).splitlines() if line.strip()]
    return "\n".join(kept[-lines:])


def scrub_file(path: Path, *, secrets: Iterable[str] = ()) -> None:
    """Rewrite a finished text file without secrets; a file that holds none, or is not there, is left as it
    is.
    """
    if not path.is_file():
        return
    clean = path.with_name(path.name + ".clean")
    secrets, changed = tuple(secrets), False
    with path.open(encoding="utf-8", errors="replace") as source, clean.open("w", encoding="utf-8") as target:
        while chunk := "".join(line for _, line in zip(range(_CHUNK_LINES), source, strict=False)):
            scrubbed = scrub(chunk, secrets)
            changed = changed or scrubbed != chunk
            target.write(scrubbed)
    if changed:
        clean.replace(path)
    else:
        clean.unlink()
