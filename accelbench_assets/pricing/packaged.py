"""The packaged on-demand prices: a dated file of facts, each with its source.

Belongs here: reading and checking ``on_demand.csv``. An empty price is a fact too and needs its reason. Does
not belong here: price points and declared prices (``snapshot``), live price lists.
"""

from __future__ import annotations

import csv
import hashlib
import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import NoReturn

from accelbench_assets.errors import AccelBenchError

FILE = Path(__file__).resolve().parent / "on_demand.csv"
COLUMNS = ("instance_type", "region", "usd_per_hour", "as_of", "source", "missing_reason")
_TYPE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9-]+")


class PriceFileError(AccelBenchError):
    """The packaged prices cannot be used; the text names the file, the row and the field."""


@dataclass(frozen=True, slots=True)
class OnDemandPrice:
    """One instance type in a region on a day: USD per hour (Linux, shared tenancy), or why there is none."""

    instance_type: str
    region: str
    usd_per_hour: Decimal | None
    as_of: date
    source: str
    missing_reason: str | None


def _refuse(row: str, field: str, problem: str) -> NoReturn:
    raise PriceFileError(f"{FILE.name}, row {row}, field {field}: {problem}")


def _price(raw: dict[str, str]) -> OnDemandPrice:
    name = raw["instance_type"]
    if not _TYPE.fullmatch(name):
        _refuse(name, "instance_type", "is not the name of an EC2 instance type")
    for field in ("region", "source"):
        if not raw[field]:
            _refuse(name, field, "is empty")
    try:
        as_of = date.fromisoformat(raw["as_of"])
    except ValueError:
        _refuse(name, "as_of", f"{raw['as_of']!r} is not a day such as 2026-07-20")
    usd = None
    if raw["usd_per_hour"]:
        try:
            usd = Decimal(raw["usd_per_hour"])
        except InvalidOperation:
            usd = Decimal("NaN")
        if not usd.is_finite() or usd <= 0:
            _refuse(name, "usd_per_hour", f"{raw['usd_per_hour']!r} is not a positive decimal")
    if (usd is None) != bool(raw["missing_reason"]):
        _refuse(name, "missing_reason", "give it exactly when there is no price")
    return OnDemandPrice(name, raw["region"], usd, as_of, raw["source"], raw["missing_reason"] or None)


def parse(text: str) -> dict[str, OnDemandPrice]:
    """Instance type -> price, in file order. Raises ``PriceFileError`` naming row and field."""
    reader = csv.DictReader(text.splitlines(), strict=True)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        _refuse("1", "header", f"expected {', '.join(COLUMNS)}")
    prices: dict[str, OnDemandPrice] = {}
    for number, raw in enumerate(reader, 2):
        if None in raw or None in raw.values():
            _refuse(str(number), "columns", f"expected {len(COLUMNS)} of them")
        price = _price(raw)
        if price.instance_type in prices:
            _refuse(price.instance_type, "instance_type", "is given twice")
        prices[price.instance_type] = price
    return prices


@cache
def on_demand() -> dict[str, OnDemandPrice]:
    """The packaged prices, read once."""
    return parse(FILE.read_text(encoding="utf-8"))


@cache
def file_sha256() -> str:
    """SHA-256 of the packaged file, in hex."""
    return hashlib.sha256(FILE.read_bytes()).hexdigest()
