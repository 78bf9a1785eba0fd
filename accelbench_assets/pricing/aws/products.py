"""On-demand and reserved prices by the Pricing API's GetProducts.

Belongs here: the filters of the request, its pages, the raw answer. Does not belong here: reading an item (``items``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from accelbench_assets.pricing.aws.clients import HOME_REGION, client, translated
from accelbench_assets.pricing.aws.items import (
    EC2_ATTRIBUTES,
    EC2_SERVICE,
    SAGEMAKER_ATTRIBUTES,
    SAGEMAKER_SERVICE,
    read_items,
)
from accelbench_assets.pricing.aws.reading import PriceSourceError, Reading, Stamp, mapping, text
from accelbench_assets.pricing.raw import RawAnswer

VALUE_CHARS = 1000  # the API takes 1,024 in one filter's value
PAGE = 100
NAME_FIELD = {EC2_SERVICE: "instanceType", SAGEMAKER_SERVICE: "instanceName"}


def fetch_products(
    service: str, region: str, wanted: Iterable[str], *, at: datetime, timeout_s: float
) -> Reading:
    """What the price list of *service* says of the *wanted* types in *region*, asked at *at* (UTC).

    Raises ``PriceSourceError``.
    """
    names = sorted(wanted)
    api = client("pricing", HOME_REGION, timeout_s)
    pages = []
    for some in chunks(names):
        request = {
            "ServiceCode": service,
            "FormatVersion": "aws_v1",
            "Filters": filters(service, region, some),
        }
        with translated("pricing", HOME_REGION):
            found = api.get_paginator("get_products").paginate(**request, PaginationConfig={"PageSize": PAGE})
            answers = [list(page.get("PriceList", [])) for page in found]
        pages.append({"request": request, "pages": answers})
    raw = RawAnswer(json.dumps({"operation": "GetProducts", "answers": pages}, sort_keys=True).encode())
    items = [item for answer in pages for item in items_of(answer["pages"])]
    stamp = Stamp(at, f"AWS Pricing API GetProducts {service} {region}{_version(items)}", raw.sha256)
    reading = read_items(items, service=service, region=region, wanted=frozenset(names), stamp=stamp)
    reading.raw.append(raw)
    return reading


def filters(service: str, region: str, names: Sequence[str]) -> list[dict[str, str]]:
    """The filters of one request: the region, the plain machine, any of *names*."""
    fixed = EC2_ATTRIBUTES if service == EC2_SERVICE else SAGEMAKER_ATTRIBUTES
    exact = {
        "regionCode": region,
        **{k: v for k, v in fixed.items() if k not in ("operation", "locationType")},
    }
    chosen = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in exact.items()]
    return [*chosen, {"Type": "ANY_OF", "Field": NAME_FIELD[service], "Value": ",".join(names)}]


def chunks(names: Sequence[str]) -> Iterator[list[str]]:
    """*names* in groups whose text fits one filter."""
    some: list[str] = []
    for name in names:
        if some and len(",".join((*some, name))) > VALUE_CHARS:
            yield some
            some = []
        some.append(name)
    if some:
        yield some


def items_of(pages: Iterable[Iterable[Any]]) -> Iterator[Any]:
    """The documents of a price list's pages; each comes as JSON text. Raises ``PriceSourceError``."""
    for page in pages:
        for item in page:
            if not isinstance(item, str):
                yield item
                continue
            try:
                yield json.loads(item)
            except (ValueError, RecursionError):
                raise PriceSourceError("The AWS price list holds an item that is not JSON.") from None


def _version(items: Iterable[Any]) -> str:
    found = sorted({text(mapping(item).get("version")) for item in items} - {""})
    return f", version {found[-1]}" if found else ""
