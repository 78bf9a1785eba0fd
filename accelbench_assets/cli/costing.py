"""Which price stands behind the cost that ``show``, ``run`` and ``compare`` give a run: one offer, or why none.

Belongs here: choosing that one offer, reading its rows, saying where there is a price if there is none here.
Does not belong here: formulas (``sql/marts/cost_per_token.sql``), costs at any other price (``cost``), other results
(``results``).

The offer is a declared price, else on demand in the region of the settings. A price of another region or tier is never
taken instead; that there is one is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from accelbench_assets.cli.state import STATE

if TYPE_CHECKING:
    from accelbench_assets.lake.lake import Lake

NOT_HERE = 3
Row = Mapping[str, Any]


def offers_here(tier: str = "on_demand", region: str | None = None) -> dict[str, str]:
    """The rule by which a connection sees only the prices that may be chosen: thousands of others are not even read."""
    from accelbench_assets.sqlkit.costs import Offer
    from accelbench_assets.sqlkit.prices import LATEST

    return {LATEST: Offer(region=region or STATE.settings.region, tier=tier).rule(declared=True)}


def _far(row: Row) -> int:
    """How far a price is from what somebody here would pay first."""
    if row.get("tier") == "declared":
        return 0
    if row.get("tier") != "on_demand":
        return NOT_HERE
    return {STATE.settings.region: 1, "unstated": 2}.get(str(row.get("region")), NOT_HERE)


def one_offer(cost: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows of *cost* at the offer that counts, by step; without a price, those that say why."""
    rows = list(cost)
    near = [row for row in rows if row.get("instance_hourly_usd") is not None and _far(row) < NOT_HERE]
    if not near:
        left = [row for row in rows if row.get("instance_hourly_usd") is None]
        if not left:
            return []
        near = left
    first = min(
        near, key=lambda r: (_far(r), r.get("instance_hourly_usd") or 0, str(r.get("price_point_id")))
    )
    same = [row for row in near if _identity(row) == _identity(first)]
    return sorted(map(dict, same), key=lambda row: int(row["step_index"]))


def _identity(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("price_point_id", "tier", "region"))


def read_cost(lake: Lake, found: Iterable[Row], run_id: str) -> list[dict[str, Any]]:
    """The chosen rows of *found* (rows of ``cost_per_token`` of one run); each names the command that has the others.

    One without a price says where there is one.
    """
    chosen = one_offer(found)
    command = f"accelbench cost {run_id}"
    unpriced = bool(chosen) and all(row["instance_hourly_usd"] is None for row in chosen)
    other = _elsewhere(lake, str(chosen[0]["instance_type"]), command) if unpriced else None
    for row in chosen:
        row["other_prices"] = f"{command} --tier any --region any"
        if other is not None:
            said = row["missing_reason"] if row["tier"] is not None else None
            here = f"no on_demand price in {STATE.settings.region} is known for {row['instance_type']}"
            row["missing_reason"] = f"{said or here}; {other}"
    return chosen


def _elsewhere(lake: Lake, instance_type: str, command: str) -> str | None:
    """Where the type has a price, nearest first: on demand in other regions, other tiers here, then anything."""
    from accelbench_assets.cli.results import rows
    from accelbench_assets.sqlkit.duck import connect

    here = STATE.settings.region
    with connect(lake, only=("latest_prices",)) as db:
        found = rows(
            db,
            "select distinct tier, region from latest_prices where instance_type = ? "
            "and instance_hourly_usd is not null order by tier, region",
            [instance_type],
        )
    regions = [str(row["region"]) for row in found if row["tier"] == "on_demand"]
    tiers = [str(row["tier"]) for row in found if row["region"] == here]
    if tiers:
        return f"there is a price of tier {_some(tiers)} (`{command} --tier {tiers[0]}`)"
    if regions:
        return f"there is an on-demand price in {_some(regions)} (`{command} --region {regions[0]}`)"
    if found:
        return f"there are prices of other tiers in other regions (`{command} --tier any --region any`)"
    return None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
