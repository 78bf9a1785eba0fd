"""What a recommendation says of its prices: the fields of a row, the terms, the warnings, the reasons there is none.

Belongs here: words and cells about prices and about what the launcher would really start. Does not belong here: which
price counts (``pricing.offers``), what a rate costs (``sizing.money``), the other columns (``recommendation``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelbench_assets.cli.output import Column, console

if TYPE_CHECKING:
    from accelbench_assets.pricing.offers import Offer, PriceBook
    from accelbench_assets.sizing.fit import Option

PRICE_FIELDS = (
    *("price_tier", "price_payment_option", "price_offering_class", "price_region", "price_zone"),
    *("usd_per_hour_p90", "price_as_of", "price_source", "price_point_id", "missing_reason"),
)
"""What a row says of its price."""
_OF_SOME_TIERS = ("price_zone", "usd_per_hour_p90", "payment")
"""Columns of a table that only some ways of paying have."""


def price_cells(offer: Offer) -> dict[str, Any]:
    """``PRICE_FIELDS`` of an offer; null where there is no price to say it of."""
    point = offer.point
    return {
        "price_tier": point.tier if point else None,
        "price_payment_option": point.payment_option if point else None,
        "price_offering_class": point.offering_class if point else None,
        "price_region": point.region if point else None,
        "price_zone": point.zone if point else None,
        "usd_per_hour_p90": point.usd_per_hour_p90 if point else None,
        "price_as_of": offer.as_of or None,
        "price_source": offer.source or None,
        "price_point_id": offer.price_point_id,
        "missing_reason": offer.missing_reason,
    }


def packing(replicas: int) -> str | None:
    """What is to be said of an instance that holds several *replicas*; nothing of one."""
    if replicas < 2:
        return None
    return (
        f"{replicas} replicas share an instance here. `accelbench run --launcher eks` does not do that: it gives each "
        f"replica an instance of its own, which is {replicas} times the cost for the same rate."
    )


def warnings_of(option: Option, offer: Offer) -> list[str]:
    """Everything to be said of an option: its fit, its packing, its price."""
    packed = packing(option.replicas)
    return [*option.warnings, *([packed] if packed else []), *offer.warnings]


def priced_with(book: PriceBook) -> dict[str, Any]:
    """Which prices the answer rests on, for the JSON document."""
    wish = book.wish
    return {
        "tier": wish.tier,
        "region": wish.region,
        "payment_option": wish.payment,
        "as_of": wish.as_of,
        "snapshot_id": book.snapshot_id,
        "from": "packaged" if book.snapshot_id is None else "lake",
    }


def fitting(columns: tuple[Column, ...], rows: list[dict[str, Any]]) -> tuple[Column, ...]:
    """*columns* without those that only some ways of paying have, where no row has them."""
    return tuple(c for c in columns if c.name not in _OF_SOME_TIERS or any(row.get(c.name) for row in rows))


def print_warnings(rows: list[dict[str, Any]], book: PriceBook) -> None:
    """What stands beside the prices and the replicas of the rows shown, each thing once."""
    out = console()
    packed = [f"{row['replicas']} on {row['instance_type']}" for row in rows if (row["replicas"] or 1) > 1]
    if packed and rows[0]["origin"] == "estimated":
        out.print(
            f"warning: several replicas share an instance ({', '.join(packed)}); `accelbench run --launcher eks` gives "
            "each an instance of its own, which is as many times the cost for the same rate.",
            soft_wrap=True,
        )
    offers = {row["instance_type"]: book.offer(row["instance_type"]) for row in rows}
    for text in dict.fromkeys(text for offer in offers.values() for text in offer.warnings):
        out.print(f"warning: {text}", soft_wrap=True)
    without: dict[str, list[str]] = {}
    for name, offer in offers.items():
        if offer.usd_per_hour is None:
            without.setdefault(str(offer.missing_reason), []).append(name)
    for reason, names in without.items():
        out.print(f"no price, so no cost, of {', '.join(names)}: {reason}", soft_wrap=True)
