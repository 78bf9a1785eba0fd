"""What a source answered, word for word, kept beside the prices that were read out of it.

Belongs here: the bytes with their SHA-256, and where they lie in the lake.
Does not belong here: reading prices out of them (``aws``), asking for them.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from accelbench_assets.lake.storage import MissingKeyError

if TYPE_CHECKING:
    from accelbench_assets.lake.storage import Storage

FOLDER = "facts_raw/price_points"


@dataclass(frozen=True)
class RawAnswer:
    """The bytes of an answer; ``kind`` is their format (json, csv)."""

    content: bytes
    kind: str = "json"
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", hashlib.sha256(self.content).hexdigest())


def key_of(day: str, sha256: str, kind: str) -> str:
    """Key of a kept answer of an ISO *day*."""
    return f"{FOLDER}/date={day}/{sha256}.{kind}.gz"


def keep(storage: Storage, day: str, answers: Iterable[RawAnswer], known: Iterable[str] = ()) -> list[str]:
    """Keep *answers*, compressed, and return the new keys. Those whose SHA-256 is *known* lie there from before."""
    written, seen = [], set(known)
    for answer in answers:
        if answer.sha256 in seen:
            continue
        seen.add(answer.sha256)
        key = key_of(day, answer.sha256, answer.kind)
        if storage.create(key, gzip.compress(answer.content, mtime=0)):
            written.append(key)
    return written


def read(storage: Storage, sha256: str) -> bytes:
    """The kept answer with this SHA-256, whichever day it was kept. ``MissingKeyError`` if there is none."""
    for key in reversed(storage.list(FOLDER)):
        if key.rsplit("/", 1)[-1].startswith(sha256):
            return gzip.decompress(storage.read(key))
    raise MissingKeyError(f"No answer with the SHA-256 {sha256} is kept in the lake {storage.url}.")
