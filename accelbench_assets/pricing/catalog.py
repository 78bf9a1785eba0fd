"""Packaged prices of providers that are not asked: a dated file of facts for each, with the source of every row.

Belongs here: reading and checking ``catalogs/<provider>.csv``. Does not belong here: the providers' own particulars
(``providers``), the AWS on-demand file (``packaged``).

``as_of`` is what the source says of its own date: a day, a month (2025-07) or a year. A price counts as known from the
first day of it, so it never looks newer than it is.
"""

from __future__ import annotations

import csv
import hashlib
import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NoReturn

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.pricing.points import UNSTATED_REGION, Point, money

FOLDER = Path(__file__).resolve().parent / "catalogs"
COLUMNS = (
    *("instance_type", "region", "usd_per_hour", "accelerator", "accelerator_count", "vcpu", "memory_gib"),
    *("as_of", "source", "missing_reason"),
)
_AS_OF = re.compile(r"(\d{4})(?:-(\d{2}))?(?:-(\d{2}))?")


class CatalogError(AccelBenchError):
    """A packaged catalog cannot be used; the text names the file, the row and the field."""


def known_from(as_of: str) -> datetime:
    """The first moment (UTC) of a day, month or year. Raises ``ValueError``."""
    found = _AS_OF.fullmatch(as_of)
    if found is None:
        raise ValueError(f"{as_of!r} is neither a day, a month nor a year")
    year, month, day = (int(part) if part else 1 for part in found.groups())
    return datetime(year, month, day, tzinfo=UTC)


def parse(provider: str, text: str, name: str) -> list[Point]:
    """The on-demand points of a catalog, in file order. Raises ``CatalogError`` naming row and field."""
    digest = hashlib.sha256(text.encode()).hexdigest()

    def refuse(row: str, field: str, problem: str) -> NoReturn:
        raise CatalogError(f"{name}, row {row}, field {field}: {problem}")

    reader = csv.DictReader(text.splitlines(), strict=True)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        refuse("1", "header", f"expected {', '.join(COLUMNS)}")
    points: dict[tuple[str, str], Point] = {}
    for number, raw in enumerate(reader, 2):
        if None in raw or None in raw.values():
            refuse(str(number), "columns", f"expected {len(COLUMNS)} of them")
        instance, region = raw["instance_type"], raw["region"] or UNSTATED_REGION
        for field in ("instance_type", "source"):
            if not raw[field]:
                refuse(instance or str(number), field, "is empty")
        try:
            at = known_from(raw["as_of"])
        except ValueError as error:
            refuse(instance, "as_of", str(error))
        usd = money(raw["usd_per_hour"]) if raw["usd_per_hour"] else None
        if raw["usd_per_hour"] and not usd:
            refuse(instance, "usd_per_hour", f"{raw['usd_per_hour']!r} is not a positive price")
        if (usd is None) != bool(raw["missing_reason"]):
            refuse(instance, "missing_reason", "give it exactly when there is no price")
        if (instance, region) in points:
            refuse(instance, "instance_type", "is given twice")
        points[instance, region] = Point(
            provider=provider,
            region=region,
            instance_type=instance,
            tier="on_demand",
            tenancy=None,
            usd_per_hour=usd,
            effective_from=at,
            fetched_at=at,
            source=f"{raw['source']} (as of {raw['as_of']})",
            source_sha256=digest,
            missing_reason=raw["missing_reason"] or None,
        )
    return list(points.values())


@cache
def catalog(provider: str) -> tuple[Point, ...]:
    """The packaged points of *provider*, read once. Raises ``CatalogError``."""
    path = FOLDER / f"{provider}.csv"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CatalogError(f"{path.name} cannot be read: {error.strerror or error}.") from None
    return tuple(parse(provider, text, path.name))
