"""The user's own data: requests in JSONL (``requests``) and arrival traces (``traces``).

Belongs here: opening such a file and checking it line by line, in memory that holds a few numbers a line
and never the text. Does not belong here: which row a request gets (``contents``), when (``schedule``).
Only what the user keeps in S3 is fetched (``remote``); nothing of these files is packaged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING

from loadgen.plan import PlanError

if TYPE_CHECKING:
    from loadgen.datasets.requests import RequestFile
    from loadgen.datasets.traces import Trace

SHOWN = 10


@dataclass(slots=True)
class Faults:
    """What is wrong with a file: the first ten lines in words, and how many there are."""

    path: Path
    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, line: int, text: str) -> None:
        """Note a fault of *line* (from 1)."""
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(f"line {line}: {text}")

    def check(self) -> None:
        """Raise ``PlanError`` if anything was noted."""
        if self.count:
            more = f"; and {self.count - len(self.shown)} more" if self.count > len(self.shown) else ""
            lines = "line" if self.count == 1 else "lines"
            raise PlanError(
                f"dataset {self.path}: {self.count} {lines} cannot be used: {'; '.join(self.shown)}{more}"
            )


def open_requests(path: str, low: int = 0, high: int = 1_000_000) -> RequestFile:
    """The user's requests; prompts outside *low* to *high* estimated tokens are left out. Raises ``PlanError``
    with the faults by line; see ``requests.read``."""
    return _requests(Path(path), _version(path), low, high)


def open_trace(path: str, kind: str | None = None) -> Trace:
    """The user's trace, of *kind* (azure, mooncake, burstgpt) or recognised. Raises ``PlanError`` with the
    faults by line; see ``traces.read``."""
    return _trace(Path(path), _version(path), kind)


def _version(path: str) -> tuple[int, int]:
    """What tells an edited file from the one read before."""
    try:
        facts = Path(path).stat()
    except OSError as error:
        raise PlanError(f"dataset {path}: {(error.strerror or str(error)).lower()}") from None
    if not S_ISREG(facts.st_mode):
        raise PlanError(f"dataset {path}: not a file")
    return facts.st_mtime_ns, facts.st_size


@lru_cache(maxsize=2)  # every step of a run uses the same file
def _requests(path: Path, version: tuple[int, int], low: int, high: int) -> RequestFile:
    from loadgen.datasets.requests import read

    return read(path, low, high)


@lru_cache(maxsize=2)
def _trace(path: Path, version: tuple[int, int], kind: str | None) -> Trace:
    from loadgen.datasets.traces import read

    return read(path, kind)
