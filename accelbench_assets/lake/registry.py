"""The registry of cells: one document a cell, and an index beside the documents so that thousands are listed at once.

Belongs here: registering cells, listing them, and keeping the index.
Does not belong here: which cells there should be (``partitions``), what became of them (``runs``).

``cells/family=…/<16 hex of the key>.json``, written create-if-absent and never changed, is the registry. A part of the
index, ``cells/_index/part-<16 hex of its content>.jsonl``, holds many of these documents, one a line. It is a copy and
never the truth: a listing asks the store for the names of all documents and reads those that no part holds, so a
missing, broken or outdated index costs time and nothing else. Whoever lists finds what is not indexed and indexes it
when it has become many; adding a cell therefore writes one document, however many there are. Parts are named after
their content and only ever replaced by one that holds the same lines and more, so writers need not know of each other.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from accelbench_assets.errors import LakeError
from accelbench_assets.lake import io, layout
from accelbench_assets.lake.storage import MissingKeyError, Storage
from partitions.cell import BenchmarkCell, CellError

FOLDER = "cells"
INDEX = f"{FOLDER}/_index"
INDEX_FROM = 64
"""So many documents that no part holds are read one by one; more are put into a part."""
MERGE_FROM = 16
"""So many parts are made into one."""


@dataclass(frozen=True, slots=True)
class CellEntry:
    """A registered cell as a listing needs it: its key in parts, its id, and the document it is made from."""

    at: str
    """Name of its document in the lake."""
    cell_key: str
    cell_id: str
    family: str
    label: str
    digest: str
    document: Mapping[str, Any]
    """As ``BenchmarkCell.to_dict``; a deployment may lack the fields that have their default."""

    @classmethod
    def of(cls, at: str, cell: BenchmarkCell) -> CellEntry:
        """The entry of *cell*, whose document is *at*."""
        key = cell.key
        document = {**cell.to_dict(), "deployment": cell.deployment.canonical()}
        return cls(at, key.text, cell.cell_id, key.family, key.label, key.digest, document)

    def cell(self) -> BenchmarkCell:
        """The cell itself, checked."""
        return BenchmarkCell.from_dict(self.document)

    def parts(self) -> dict[str, Any]:
        """The fields of the cell's key, its family, and the key and id themselves."""
        fields = {name: value for name, value in self.document.items() if name != "deployment"}
        own = {"cell_id": self.cell_id, "cell_key": self.cell_key, "family": self.family}
        return {**fields, **own, "label": self.label, "digest": self.digest}


def put_cell(storage: Storage, cell: BenchmarkCell) -> None:
    """Register *cell*: one write. Again is harmless; ``LakeError`` if its key already stands for another cell."""
    at = layout.cell_key(cell.key_text)
    if not storage.create(at, io.dump_json(cell.to_dict())):
        _same(cell.cell_id, _read_document(storage, at).cell_id, cell.key_text)


def put_cells(storage: Storage, cells: Collection[BenchmarkCell]) -> list[BenchmarkCell]:
    """Register many cells; those that were not there yet. ``LakeError`` as :func:`put_cell`.

    Those already registered cost no write, and many new ones are indexed at once.
    """
    known = {entry.cell_key: entry.cell_id for entry in read_entries(storage)} if len(cells) > 1 else {}
    new: dict[str, BenchmarkCell] = {}
    for cell in cells:
        key = cell.key_text
        if key in known:
            _same(cell.cell_id, known[key], key)
        else:
            new[key] = cell
    for _ in io.in_parallel(lambda one: put_cell(storage, one), new.values(), storage):
        pass
    if len(new) >= INDEX_FROM:
        _write_part(storage, [CellEntry.of(layout.cell_key(key), cell) for key, cell in new.items()])
    return list(new.values())


def _same(wanted: str, known: str, key: str) -> None:
    if known != wanted:
        raise LakeError(f"The cell key {key} already stands for cell {known}.")


def read_entries(storage: Storage) -> list[CellEntry]:
    """Every registered cell, by key. ``LakeError`` names a document that is no cell."""
    keys = storage.list(FOLDER)
    documents = {key for key in keys if key.endswith(".json") and not key.startswith(f"{INDEX}/")}
    parts = [key for key in keys if key.startswith(f"{INDEX}/part-")]
    found: dict[str, CellEntry] = {}
    useless = []
    for part, entries in zip(
        parts, io.in_parallel(lambda k: _read_part(storage, k), parts, storage), strict=True
    ):
        before = len(found)
        found.update((entry.at, entry) for entry in entries if entry.at in documents)
        if len(found) == before:
            useless.append(part)
    unindexed = sorted(documents - found.keys())
    for entry in io.in_parallel(lambda k: _read_document(storage, k), unindexed, storage):
        found[entry.at] = entry
    with contextlib.suppress(LakeError):  # who may only read a lake can list it all the same
        if len(parts) > MERGE_FROM or useless:
            kept = _write_part(storage, found.values()) if len(found) >= INDEX_FROM else None
            for part in parts:
                if part != kept:
                    storage.delete(part)
        elif len(unindexed) >= INDEX_FROM:
            _write_part(storage, [found[key] for key in unindexed])
    return sorted(found.values(), key=lambda entry: entry.cell_key)


def read_cells(storage: Storage) -> list[BenchmarkCell]:
    """Every registered cell, checked, by key."""
    return [entry.cell() for entry in read_entries(storage)]


def _read_document(storage: Storage, at: str) -> CellEntry:
    document = io.read_json(storage, at)
    try:
        return CellEntry.of(at, BenchmarkCell.from_dict(document))
    except CellError as error:
        raise LakeError(f"{storage.url}/{at} is not a cell ({error}).") from None


def _write_part(storage: Storage, entries: Iterable[CellEntry]) -> str:
    import orjson

    lines = []
    for entry in sorted(entries, key=lambda one: one.cell_key):
        own = (entry.at, entry.cell_key, entry.cell_id, entry.family, entry.label, entry.digest)
        lines.append(orjson.dumps([*own, entry.document]))
    content = b"\n".join([*lines, b""])
    part = _part_name(content)
    storage.write(part, content)  # over one of this name that was cut short
    return part


def _part_name(content: bytes) -> str:
    return f"{INDEX}/part-{hashlib.sha256(content).hexdigest()[:16]}.jsonl"


def _read_part(storage: Storage, part: str) -> list[CellEntry]:
    """The lines of a part; none of one that went away, was cut short or was changed."""
    import orjson

    try:
        content = storage.read(part)
    except MissingKeyError:
        return []  # just merged into another: what it held is read from its documents, this once
    if _part_name(content) != part:
        return []
    return [CellEntry(*orjson.loads(line)) for line in content.splitlines()]
