"""The cost of runs at any region, tier, payment option and date: the mart ``cost_per_token``, joined when asked for.

Belongs here: which prices the join sees. Does not belong here: formulas (``sql/marts/cost_per_token.sql``, one text
whatever the date), which prices there are (``pricing``), how they are shown (``cli``).

As of a date means: by the last snapshot of that UTC day, or of the last day before it that has one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from accelbench_assets.errors import LakeError
from accelbench_assets.sqlkit.duck import Limits, connect
from accelbench_assets.sqlkit.prices import LATEST, literal

if TYPE_CHECKING:
    import pyarrow as pa

    from accelbench_assets.lake.lake import Lake


@dataclass(frozen=True, slots=True)
class Offer:
    """Which prices to join: each ``None`` takes all there are. ``as_of`` ``None`` means the latest."""

    region: str | None = None
    tier: str | None = None
    payment_option: str | None = None
    offering_class: str | None = None
    as_of: date | None = None

    def described(self) -> str:
        """Such as ``on_demand price in us-east-1 as of 2026-11-01``."""
        words = [self.tier, self.payment_option, self.offering_class]
        text = " ".join(word for word in words if word) + " price" if any(words) else "price"
        text += f" in {self.region}" if self.region else ""
        return text + (f" as of {self.as_of.isoformat()}" if self.as_of else "")

    def rule(self, *, declared: bool = False) -> str:
        """The ``where`` clause of prices that may count; *declared* lets declared prices pass, and what is said of a
        machine that is in no region.
        """
        wanted = {
            "region": self.region,
            "tier": self.tier,
            "payment_option": self.payment_option,
            "offering_class": self.offering_class,
        }
        clauses = [f"{name} = {literal(value)}" for name, value in wanted.items() if value is not None]
        if not clauses:
            return ""
        chosen = f"where ({' and '.join(clauses)})"
        return f"{chosen} or tier = 'declared' or region = 'unstated'" if declared else chosen


def cost_rows(
    lake: Lake,
    offer: Offer | None = None,
    *,
    run_ids: Collection[str] | None = None,
    declared: bool = False,
    limits: Limits | None = None,
) -> pa.Table:
    """Rows of ``cost_per_token`` at the prices of *offer*, for *run_ids* or every run; one without a price keeps a row
    that says so. *declared* joins declared prices beside the offer's. Raises ``LakeError``.
    """
    import duckdb

    offer = offer or Offer()
    rule = offer.rule(declared=declared)
    rules = {LATEST: rule} if rule else {}
    where = "" if run_ids is None else f"where run_id in ({', '.join(map(literal, run_ids)) or 'null'})"
    gap = literal(f"no {offer.described()} is known for ")
    reason = f"case when price_point_id is null then concat({gap}, instance_type) else missing_reason end"
    if not rule and offer.as_of is None:
        reason = "missing_reason"  # nothing was left out: what the run itself says of it is the better reason
    text = f"""
select * replace ({reason} as missing_reason)
from cost_per_token {where}
order by run_id, step_index, tier nulls first, region nulls first, payment_option nulls first,
  offering_class nulls first, zone nulls first, price_point_id nulls first
"""  # noqa: S608 - values are literals
    only = ("cost_per_token",)
    with contextlib.closing(connect(lake, only=only, as_of=offer.as_of, rules=rules, limits=limits)) as db:
        try:
            return db.sql(text).to_arrow_table()
        except duckdb.Error as error:
            raise LakeError(f"The cost could not be joined: {str(error).splitlines()[0]}") from None
