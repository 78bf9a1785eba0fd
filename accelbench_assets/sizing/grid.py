"""Estimates of all registered cells of a lake: what is read for them, and which rows are new.

Belongs here: prices and offerings of one region as quotes, the rows whose inputs changed, writing them. Does not belong
here: a row itself (``cells``), what attempts say of a cell (``sql/marts/coverage.sql``).

An instance type is not sold in a region only where a source says so: EC2 was asked there and did not list it, or the
region's price list was read, has it under no tier, and it is not of a kind that is sold by the block.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from accelbench_assets.lake.io import table_from_rows
from accelbench_assets.lake.registry import read_entries
from accelbench_assets.pricing.aws.blocks import sold_by_block
from accelbench_assets.sizing.cells import CellSizer, Quote
from accelbench_assets.sizing.measured import calibration_of, read_steps

if TYPE_CHECKING:
    import pyarrow as pa

    from accelbench_assets.lake.lake import Lake

TABLE = "cell_estimates"
ABSENT = ("not sold", "not on the on-demand price list")
ELSEWHERE = "sold as"


@dataclass(frozen=True, slots=True)
class Grid:
    """Estimates of a lake's cells. ``fresh`` are rows whose inputs changed since they were written, or that never were;
    ``states`` counts all cells by state.
    """

    fresh: pa.Table
    states: Mapping[str, int]

    @property
    def cells(self) -> int:
        """Cells that have a row."""
        return sum(self.states.values())


def look(lake: Lake, region: str, at: datetime) -> Grid:
    """The estimates of every registered cell on a rented instance, for *region*, new ones dated *at*.

    Raises ``LakeError`` when the lake cannot be read.
    """
    entries = [entry for entry in read_entries(lake.storage) if CellSizer.concerns(entry.family)]
    if not entries:
        return Grid(table_from_rows(TABLE, []), {})
    known = _known(lake)
    sizer = CellSizer(region, quotes(lake, region), calibration_of(read_steps(lake)))
    fresh, states = [], Counter[str]()
    for entry in entries:
        inputs, state = known.get(entry.cell_id, ("", ""))
        if inputs != sizer.inputs_sha256(entry.cell_id, entry.document):
            fresh.append(sizer.row(entry.cell(), at))
            state = fresh[-1]["state"]
        states[state] += 1
    return Grid(table_from_rows(TABLE, fresh), dict(sorted(states.items())))


def store(lake: Lake, grid: Grid, at: datetime) -> str:
    """Append the fresh rows of *grid*; nothing is written where there are none. Returns where they lie."""
    if not grid.fresh.num_rows:
        return lake.uri("facts", TABLE)
    return lake.write_fact(TABLE, at.date().isoformat(), grid.fresh)


def _known(lake: Lake) -> dict[str, tuple[str, str]]:
    """Cell id -> (hash of the inputs, state) of its newest row."""
    from accelbench_assets.sqlkit.duck import query

    rows = query(lake, "select cell_id, inputs_sha256, state from cell_estimates").to_pylist()
    return {row["cell_id"]: (row["inputs_sha256"], row["state"]) for row in rows}


def quotes(lake: Lake, region: str) -> dict[str, Quote]:
    """What the lake's sources say of each instance type in *region*, on demand."""
    offered = _offered(lake, region)
    prices: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in _prices(lake, region):
        prices[row["instance_type"]].append(row)
    return {name: _quote(name, region, prices[name], offered.get(name)) for name in {**prices, **offered}}


def _quote(name: str, region: str, rows: Iterable[Mapping[str, Any]], offered: str | bool | None) -> Quote:
    """*offered*: true as EC2 lists it here, a sentence as it does not, null as nobody asked."""
    rows = list(rows)
    demand = next((row for row in rows if row["tier"] == "on_demand"), None)
    usd = None if demand is None else demand["instance_hourly_usd"]
    reason = None
    if usd is None:
        said = None if demand is None else demand["missing_reason"]
        reason = said or f"no on-demand price of {name} in {region} is known"
    if isinstance(offered, str):
        return Quote(usd, reason, offered)
    listed = any(row["instance_hourly_usd"] is not None for row in rows)
    asked = demand is not None and demand["fetched_at"] is not None
    absent = reason is not None and any(word in reason for word in ABSENT) and ELSEWHERE not in reason
    if offered or listed or not asked or not absent or sold_by_block(name):
        return Quote(usd, reason)
    return Quote(usd, reason, f"not sold in {region}: {reason}, nor under any other tier")


def _prices(lake: Lake, region: str) -> list[dict[str, Any]]:
    from accelbench_assets.sqlkit.duck import query
    from accelbench_assets.sqlkit.prices import literal

    text = (
        "select instance_type, tier, instance_hourly_usd, missing_reason, fetched_at from latest_prices "  # noqa: S608
        f"where provider = 'aws' and region = {literal(region)} and coalesce(os, 'linux') = 'linux' "
        "and coalesce(tenancy, 'shared') = 'shared'"
    )
    rows: list[dict[str, Any]] = query(lake, text).to_pylist()
    return rows


def _offered(lake: Lake, region: str) -> dict[str, str | bool]:
    """Instance type -> true where EC2 lists it in *region*, the sentence where it was asked there and does not."""
    listed: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    asked: dict[str, set[str]] = defaultdict(set)
    table = lake.read_table("instance_types").select(["instance_type", "regions", "as_of"])
    for row in table.to_pylist():
        if row["regions"] is not None:  # null: a packaged row, nobody asked
            listed[row["instance_type"]][row["as_of"] or ""] |= set(row["regions"])
            asked[row["as_of"] or ""] |= set(row["regions"])
    everywhere = set().union(*asked.values())
    found: dict[str, str | bool] = {}
    for name, days in listed.items():
        for day in sorted(days, reverse=True):  # the newest round that asked this region decides
            # A type that EC2 has nowhere keeps the day of its packaged facts, so its round is not known by its day.
            if region not in (asked[day] if days[day] else everywhere):
                continue
            where = ", ".join(sorted(days[day])) or "in none of the regions asked"
            told = f"lists {name} in {where} (asked {day})" if days[day] else f"has {name} {where}"
            found[name] = True if region in days[day] else f"not sold in {region}: EC2 {told}"
            break
    return found
