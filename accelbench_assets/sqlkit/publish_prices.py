"""Prices in the published catalog: snapshots that are new, and the latest price of every offer.

Belongs here: which files of price points are sent, how the latest prices of several lakes stand together. Does not
belong here: the transaction around it (``publish``), what the latest price is (``sql/marts/latest_prices.sql``).

A file of price points is named by its content, so a file that was sent once is never opened again: publishing a day
costs the reading of that day. A lake replaces the latest prices that came from its own snapshots; where another lake's
answer to the same question (provider, region, type, tier) is newer, that one stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from accelbench_assets.errors import PublishError
from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.sqlkit.copying import read_back, verify
from accelbench_assets.sqlkit.duck import attach_files, connect, open_duckdb
from accelbench_assets.sqlkit.prices import FOLDER, LATEST, price_files

if TYPE_CHECKING:
    import pyarrow as pa

    from accelbench_assets.lake.lake import Lake

PRICE_TABLES = ("price_points", LATEST)
FILES_AT_ONCE = 16
"""Files sent and verified together: some hundred thousand rows, so that a year of them needs no year's memory."""

Copy = Callable[[Any, str, Any], int]

_TOGETHER = """
select * exclude (asked_at, answer) from (
  select *, dense_rank() over (
    partition by provider, region, instance_type, tier order by asked_at desc nulls last, snapshot_id desc
  ) as answer
  from (
    select *, max(fetched_at) over (partition by snapshot_id, provider, region, instance_type, tier) as asked_at
    from (select * from ours union all by name select * from theirs)
  )
)
where answer = 1
"""


def send_points(connection: Any, lake: Lake, copy: Copy) -> int:
    """Append the price points of files that were not sent yet; how many rows are new. ``PublishError`` if they read
    back differently.
    """
    sent = {row[0] for row in connection.execute("select file from price_snapshots")}
    fresh = [key for key in price_files(lake) if _file(key) not in sent]
    added = 0
    for start in range(0, len(fresh), FILES_AT_ONCE):
        added += _send_files(connection, lake, fresh[start : start + FILES_AT_ONCE], copy)
    return added


def _send_files(connection: Any, lake: Lake, keys: Sequence[str], copy: Copy) -> int:
    import duckdb

    schema, kept = SCHEMAS["price_points"], ("file", "snapshot_id", "rows")
    snapshots: list[tuple[str, str, int]] = []
    points: list[pa.Table] = []
    try:
        with contextlib.closing(open_duckdb()) as source:
            for place, key in enumerate(keys):
                attach_files(source, lake, f"file_{place}", schema, [key])
                rows = source.sql(f"select * from file_{place}").to_arrow_table()  # noqa: S608 - a name of ours
                points.append(rows)
                if rows.num_rows:
                    snapshots.append((_file(key), str(rows.column("snapshot_id")[0]), rows.num_rows))
    except duckdb.Error as error:
        raise PublishError(f"The lake {lake.url} could not be read: {str(error).splitlines()[0]}") from None
    fresh = _new_points(connection, points)
    copy(connection, "price_points", fresh)
    ids = sorted(set(fresh.column("snapshot_id").to_pylist()))
    stored = read_back(connection, "price_points", fresh.schema, only={"snapshot_id": ids})
    verify("price_points", fresh, _those(stored, fresh.column("price_point_id")))
    with connection.cursor() as cursor:
        cursor.executemany(f"insert into price_snapshots ({', '.join(kept)}) values (%s, %s, %s)", snapshots)  # noqa: S608
    return int(fresh.num_rows)


def _new_points(connection: Any, points: Sequence[pa.Table]) -> pa.Table:
    """The rows of *points* that are not there yet, each once."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = pa.concat_tables(points)
    ids = rows.column("price_point_id")
    snapshots = pc.unique(rows.column("snapshot_id")).to_pylist()
    there = read_back(
        connection, "price_points", rows.schema, columns=("price_point_id",), only={"snapshot_id": snapshots}
    )
    rows = rows.filter(pc.invert(pc.is_in(ids, value_set=there.column("price_point_id").combine_chunks())))
    _, first = np.unique(rows.column("price_point_id").to_numpy(zero_copy_only=False), return_index=True)
    return rows.take(pa.array(np.sort(first), pa.int64()))


def send_latest(connection: Any, lake: Lake, copy: Copy) -> int:
    """Replace the latest prices that this lake answers for; how many it has. ``PublishError`` if they read back
    differently.
    """
    import duckdb

    try:
        with connect(lake, only=(LATEST,)) as source:
            ours = source.sql(f"select * from {LATEST}").to_arrow_table()  # noqa: S608 - a name of ours
    except duckdb.Error as error:
        raise PublishError(f"The lake {lake.url} could not be read: {str(error).splitlines()[0]}") from None
    files = [_file(key) for key in price_files(lake)]
    connection.execute(
        "delete from latest_prices where snapshot_id in (select snapshot_id from price_snapshots where file = any(%s))",
        (files,),
    )
    theirs = read_back(connection, LATEST, ours.schema)
    together = _together(ours, theirs)
    connection.execute("delete from latest_prices")
    copy(connection, LATEST, together)
    verify(LATEST, together, read_back(connection, LATEST, ours.schema))
    return int(ours.num_rows)


def _together(ours: pa.Table, theirs: pa.Table) -> pa.Table:
    """The latest answers of this lake and of others; the newer one where both have one."""
    if not theirs.num_rows:
        return ours
    with contextlib.closing(open_duckdb()) as connection:
        connection.register("ours", ours)
        connection.register("theirs", theirs)
        return connection.sql(_TOGETHER).to_arrow_table().select(ours.column_names).cast(ours.schema)


def _those(rows: pa.Table, ids: pa.ChunkedArray) -> pa.Table:
    import pyarrow.compute as pc

    return rows.filter(pc.is_in(rows.column("price_point_id"), value_set=ids.combine_chunks()))


def _file(key: str) -> str:
    return key.removeprefix(f"{FOLDER}/")
