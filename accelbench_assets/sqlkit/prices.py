"""Price points by the million: which snapshots have to be read.

Belongs here: choosing files of ``facts/price_points`` by day. Does not belong here: what the latest price is
(``sql/marts/latest_prices.sql``), fetching prices and what a snapshot holds (``pricing``), attaching tables (``duck``).

Every snapshot is whole: what was known on its day, carried on from earlier days where nobody could be asked anew. So
the prices of a date are in the files of the last day up to it, however long the history is, and one more day costs the
reading of that day.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

from accelbench_assets.lake.layout import dated_folder

if TYPE_CHECKING:
    from accelbench_assets.lake.lake import Lake

LATEST = "latest_prices"
FOLDER = dated_folder("price_points")


def price_files(lake: Lake) -> list[str]:
    """Keys of every snapshot, by day."""
    return [key for key in lake.storage.list(FOLDER) if key.endswith(".parquet") and _day(key)]


def files_of(lake: Lake, until: date | None = None) -> list[str]:
    """Keys of the snapshots of the last day up to *until* (default: of all) that has any; empty if there is none."""
    last = "9999-12-31" if until is None else until.isoformat()
    known = [key for key in price_files(lake) if _day(key) <= last]
    day = max(map(_day, known), default="")
    return [key for key in known if _day(key) == day]


def _day(key: str) -> str:
    """The ISO day of a snapshot's folder; empty for a folder of somebody else."""
    name = key.removeprefix(f"{FOLDER}/date=").split("/", 1)[0]
    try:
        return date.fromisoformat(name).isoformat()
    except ValueError:
        return ""


def literal(value: Any) -> str:
    """*value* as text of SQL: nothing that a user types can end it."""
    return "'" + str(value).replace("'", "''") + "'"
