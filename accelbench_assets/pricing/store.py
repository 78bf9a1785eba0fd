"""Snapshots in the lake: which days there are, and what was known on a day.

Belongs here: reading one day's snapshot without reading the others. Does not belong here: writing (``refresh``), SQL.

Every file of ``facts/price_points/date=…`` is a whole snapshot. A day may have several, since each declared price and
each refresh writes one; the greatest ``snapshot_id`` is the last word.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from accelbench_assets.lake.io import in_parallel
from accelbench_assets.lake.storage import MissingKeyError
from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.pricing.merge import newest
from accelbench_assets.pricing.points import FIELDS, LONG_AGO, UNSTATED_REGION, Group, Point

if TYPE_CHECKING:
    import pyarrow as pa

    from accelbench_assets.lake.storage import Storage

FOLDER = "facts/price_points"


def days(storage: Storage) -> dict[date, list[str]]:
    """Day -> keys of its snapshots, oldest day first."""
    found: dict[date, list[str]] = {}
    for key in storage.list(FOLDER):
        day, mark, _ = key.removeprefix(f"{FOLDER}/date=").partition("/")
        if mark and key.endswith(".parquet"):
            try:
                found.setdefault(date.fromisoformat(day), []).append(key)
            except ValueError:
                continue  # somebody else's folder
    return dict(sorted(found.items()))


def snapshots(storage: Storage, until: date) -> list[pa.Table]:
    """The snapshots of the last day up to *until* that has any, the last word last."""
    known = days(storage)
    day = max((day for day in known if day <= until), default=None)
    keys = known[day] if day is not None else []
    tables = in_parallel(lambda key: _read(storage, key), keys, storage)
    return sorted((t for t in tables if t is not None), key=lambda t: str(t.column("snapshot_id")[0]))


def latest(storage: Storage, until: date) -> list[dict[str, Any]]:
    """The rows of the last snapshot up to *until*, as the table has them; empty if there is none."""
    tables = snapshots(storage, until)
    rows: list[dict[str, Any]] = tables[-1].to_pylist() if tables else []
    return rows


def known_on(storage: Storage, until: date) -> list[Point]:
    """What was known at the end of *until*: the last snapshot up to it, and what others of its day know beyond that.

    Two processes that write at once each miss what the other was told; every answer has its own moment, so what is
    missing is found by moments the last snapshot does not have.
    """
    import pyarrow.compute as pc

    tables = snapshots(storage, until)
    if not tables:
        return []
    moments = pc.unique(tables[-1].column("fetched_at"))
    others = [t.filter(pc.invert(pc.is_in(t.column("fetched_at"), moments))) for t in tables[:-1]]
    return newest(*(points(table) for table in [*others, tables[-1]]))


def rows_of(
    storage: Storage, until: date, *, region: str, tiers: Collection[str]
) -> tuple[str, list[dict[str, Any]]] | None:
    """The last snapshot's id up to *until*, and the rows with their ids that held then of *tiers* in *region*, blanks
    and declared prices of no region among them; ``None`` if there is no snapshot.

    As the mart ``latest_prices`` has it: the prices of a provider, region, type and tier are one answer, and the one
    given last that day counts, whole.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    tables = snapshots(storage, until)
    if not tables:
        return None
    moments = pc.unique(tables[-1].column("fetched_at"))
    groups: dict[Group, tuple[tuple[datetime, int], list[dict[str, Any]]]] = {}
    for place, table in enumerate(tables):
        wanted = pc.and_(
            pc.is_in(table.column("tier"), value_set=pa.array(sorted(tiers), pa.string())),
            pc.is_in(table.column("region"), value_set=pa.array([region, UNSTATED_REGION])),
        )
        if place < len(tables) - 1:  # of earlier ones only what the last word has never heard of
            asked = table.column("fetched_at")
            heard = pc.or_(pc.is_in(asked, value_set=moments), pc.is_null(asked))
            wanted = pc.and_(wanted, pc.invert(heard))
        answers: dict[Group, list[dict[str, Any]]] = {}
        for row in table.filter(wanted).to_pylist():
            group = Group(row["provider"], row["region"], row["instance_type"], row["tier"])
            answers.setdefault(group, []).append(row)
        for group, rows in answers.items():
            at = max((row["fetched_at"] or LONG_AGO for row in rows), default=LONG_AGO), place
            if group not in groups or at >= groups[group][0]:
                groups[group] = at, rows
    snapshot_id = str(tables[-1].column("snapshot_id")[0])
    return snapshot_id, [row for _, rows in groups.values() for row in rows]


def points(table: pa.Table) -> list[Point]:
    """The points of a snapshot that somebody asked about; blanks are made anew each time."""
    import pyarrow.compute as pc

    asked = table.filter(pc.is_valid(table.column("fetched_at")))
    known = set(asked.column_names)
    columns = [asked.column(n).to_pylist() if n in known else [None] * asked.num_rows for n in FIELDS]
    return [Point(*values) for values in zip(*columns, strict=True)]


def _read(storage: Storage, key: str) -> pa.Table | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from accelbench_assets.errors import LakeError

    try:
        table = pq.ParquetFile(pa.BufferReader(storage.read(key))).read()
    except MissingKeyError:  # taken away since it was listed
        return None
    except (pa.ArrowException, OSError) as error:
        raise LakeError(f"{storage.url}/{key} cannot be read as Parquet ({error}).") from None
    for field in SCHEMAS["price_points"]:
        if field.name not in table.column_names:  # an older file
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table if table.num_rows else None
