"""Snapshots in the lake: which days there are, and what was known on a day.

Belongs here: reading one day's snapshot without reading the others. Does not belong here: writing (``refresh``), SQL.

Every file of ``facts/price_points/date=…`` is a whole snapshot. A day may have several, since each declared price and
each refresh writes one; the greatest ``snapshot_id`` is the last word on all that its writer had heard of.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from accelbench_assets.lake.io import in_parallel
from accelbench_assets.lake.layout import dated_folder
from accelbench_assets.lake.storage import MissingKeyError
from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.pricing.points import FIELDS, UNSTATED_REGION, Group, Key, Point

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

    from accelbench_assets.lake.storage import Storage

FOLDER = dated_folder("price_points")


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


def together(tables: Sequence[pa.Table], only: pc.Expression | None = None) -> pa.Table:
    """The rows (those that *only* picks, by group) that count of a day's snapshots, the last word last: its own, and
    what the others know beyond that.

    Two processes that write at once each miss what the other was told; every answer has its own moment, so what is
    missing is found by moments the last snapshot does not have. The prices of a provider, region, type and tier are one
    answer, and the one given last counts, whole: the rule of the mart ``latest_prices``.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    *others, last = tables
    asked = pc.field("fetched_at")
    unheard = asked.is_valid() & ~asked.isin(pc.unique(last.column("fetched_at")))
    if only is not None:
        unheard, last = unheard & only, last.filter(only)
    parts = [part for part in (table.filter(unheard) for table in others) if part.num_rows]
    if not parts:
        return last
    parts.append(last)
    table = pa.concat_tables(parts, promote_options="permissive")  # an older one has another order
    place = pa.concat_arrays([pa.repeat(n, part.num_rows) for n, part in enumerate(parts)])
    group = pc.binary_join_element_wise(*(table.column(name) for name in Group._fields), "\n")
    answers = pa.table({"group": group, "asked": table.column("fetched_at"), "place": place})
    # What nobody was asked comes last.
    by_age = answers.sort_by([("asked", "descending"), ("place", "descending")])
    given_last = by_age.group_by("group", use_threads=False).aggregate([("place", "first")])
    counts = given_last.column("place_first").take(pc.index_in(group, value_set=given_last.column("group")))
    return _ordered(table.filter(pc.equal(counts, place)))


def latest(storage: Storage, until: date) -> list[dict[str, Any]]:
    """The rows that held at the end of *until*, blanks among them, as the table has them; empty if there are none."""
    tables = snapshots(storage, until)
    rows: list[dict[str, Any]] = together(tables).to_pylist() if tables else []
    return rows


def known_on(storage: Storage, until: date) -> list[Point]:
    """What somebody was told by the end of *until*."""
    tables = snapshots(storage, until)
    return points(together(tables)) if tables else []


def rows_of(
    storage: Storage, until: date, *, region: str, tiers: Collection[str]
) -> tuple[str, list[dict[str, Any]]] | None:
    """The last snapshot's id up to *until*, and the rows with their ids that held then of *tiers* in *region*, blanks
    and declared prices of no region among them; ``None`` if there is no snapshot.
    """
    import pyarrow.compute as pc

    tables = snapshots(storage, until)
    if not tables:
        return None
    wanted = pc.field("tier").isin(sorted(tiers)) & pc.field("region").isin([region, UNSTATED_REGION])
    return str(tables[-1].column("snapshot_id")[0]), together(tables, wanted).to_pylist()


def points(table: pa.Table) -> list[Point]:
    """The points of a snapshot that somebody asked about; blanks are made anew each time."""
    import pyarrow.compute as pc

    asked = table.filter(pc.is_valid(table.column("fetched_at")))
    known = set(asked.column_names)
    columns = [asked.column(n).to_pylist() if n in known else [None] * asked.num_rows for n in FIELDS]
    return [Point(*values) for values in zip(*columns, strict=True)]


def _ordered(table: pa.Table) -> pa.Table:
    """In the order that a snapshot is written in (``merge.settled``)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = pa.table({name: pc.fill_null(table.column(name), "") for name in Key._fields})
    return table.take(pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in Key._fields]))


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
