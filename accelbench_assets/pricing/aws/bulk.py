"""The public price list files: on-demand, reserved and Savings Plans prices without an AWS account.

Belongs here: the region index, the address of a region's file, reading its CSV line by line.
Does not belong here: what an item means (``items``, ``savings``).

A region's EC2 file has several hundred megabytes, so it is streamed and never held. What is kept of it is its header
and the lines that were read, word for word, with the file's address, size and SHA-256.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from accelbench_assets.pricing.aws.download import Download, get_json
from accelbench_assets.pricing.aws.items import (
    EC2_SERVICE,
    PAYMENT,
    SAGEMAKER_SERVICE,
    read_items,
    usage_instance,
)
from accelbench_assets.pricing.aws.reading import PriceSourceError, Reading, Stamp, mapping, text
from accelbench_assets.pricing.aws.savings import add_rate
from accelbench_assets.pricing.points import AWS, SAGEMAKER, Point, utc
from accelbench_assets.pricing.raw import RawAnswer

SAVINGS_FILE = {AWS: "AWSComputeSavingsPlan", SAGEMAKER: "AWSMachineLearningSavingsPlans"}
SERVICE = {AWS: EC2_SERVICE, SAGEMAKER: SAGEMAKER_SERVICE}
# Column of the file -> attribute of the item, where it is not the attribute's own name written apart.
COLUMNS = {
    "preinstalledsw": "preInstalledSw",
    "capacitystatus": "capacitystatus",
    "marketoption": "marketoption",
    "operatingsystem": "operatingSystem",
    "tenancy": "tenancy",
    "operation": "operation",
    "locationtype": "locationType",
    "regioncode": "regionCode",
    "instancetype": "instanceType",
    "instancename": "instanceName",
    "component": "component",
    "usagetype": "usagetype",
    "licensemodel": "licenseModel",
}
PLANS = {"computesavingsplans": "compute", "ec2instancesavingsplans": "ec2_instance"}
META_LINES = 6  # the first lines describe the file, the last of them names the columns


def fetch_price_file(
    provider: str, region: str, wanted: Iterable[str], *, base_url: str, at: datetime, timeout_s: float
) -> Reading:
    """On-demand and reserved prices of the *wanted* types out of a region's file. Raises ``PriceSourceError``."""
    names = frozenset(wanted)
    service = SERVICE[provider]
    index = get_json(f"{base_url}/offers/v1.0/aws/{service}/current/region_index.json", timeout_s)
    path = text(mapping(mapping(index.get("regions")).get(region)).get("currentVersionUrl"))
    column = "instancetype" if provider == AWS else "instancename"
    rows, stamp, raw = _rows(base_url, path, region, column, names.__contains__, at, timeout_s)
    reading = read_items(items_of(rows), service=service, region=region, wanted=names, stamp=stamp)
    reading.raw.append(raw)
    return reading


def fetch_savings_file(
    provider: str, region: str, wanted: Iterable[str], *, base_url: str, at: datetime, timeout_s: float
) -> Reading:
    """Savings Plans rates of the *wanted* types out of a region's file. Raises ``PriceSourceError``."""
    names = frozenset(wanted)
    folder = f"{base_url}/savingsPlan/v1.0/aws/{SAVINGS_FILE[provider]}/current"
    regions = get_json(f"{folder}/region_index.json", timeout_s).get("regions")
    entries = [mapping(entry) for entry in (regions if isinstance(regions, list) else [])]
    path = next((text(e.get("versionUrl")) for e in entries if e.get("regionCode") == region), "")

    def fits(usage: str) -> bool:
        return usage_instance(usage, provider) in names

    rows, stamp, raw = _rows(base_url, path, region, "discountedusagetype", fits, at, timeout_s)
    reading = Reading(raw=[raw])
    prices: dict[Any, Point] = {}
    for row in rows:
        if row.get("discountedregioncode", region) not in ("", region):
            continue
        # Other systems have a suffix.
        if provider == AWS and row.get("discountedoperation") != "RunInstances":
            continue
        length = f"{row.get('leasecontractlength', '')}{row.get('leasecontractlengthunit', '')}".lower()
        add_rate(
            reading,
            prices,
            provider=provider,
            region=region,
            instance=usage_instance(row["discountedusagetype"], provider),
            years={"1year": "1y", "3year": "3y"}.get(length.removesuffix("s")),
            plan="sagemaker" if provider == SAGEMAKER else PLANS.get(_plain(row.get("productfamily", ""))),
            payment=PAYMENT.get(row.get("purchaseoption", "").lower()),
            unit=row.get("unit", ""),
            currency=row.get("currency", ""),
            rate=row.get("discountedrate"),
            sku=row.get("sku"),
            since=utc(row.get("effectivedate")),
            stamp=stamp,
        )
    reading.points = list(prices.values())
    return reading.settle()


def items_of(rows: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Lines of a price file, one a price, as the items that GetProducts gives: a product with all its terms."""
    items: dict[str, dict[str, Any]] = {}
    for row in rows:
        sku, code = row.get("sku", ""), row.get("offertermcode", "")
        item = items.get(sku)
        if item is None:
            attributes = {name: row[column] for column, name in COLUMNS.items() if row.get(column)}
            product = {"sku": sku, "productFamily": row.get("productfamily", ""), "attributes": attributes}
            item = items[sku] = {"product": product, "terms": {"OnDemand": {}, "Reserved": {}}}
        term = (
            item["terms"]
            .setdefault(row.get("termtype", ""), {})
            .setdefault(
                f"{sku}.{code}",
                {
                    "effectiveDate": row.get("effectivedate", ""),
                    "priceDimensions": {},
                    "termAttributes": {
                        "LeaseContractLength": row.get("leasecontractlength", ""),
                        "PurchaseOption": row.get("purchaseoption", ""),
                        "OfferingClass": row.get("offeringclass", ""),
                    },
                },
            )
        )
        rate = row.get("ratecode") or str(len(term["priceDimensions"]))
        term["priceDimensions"][rate] = {
            "unit": row.get("unit", ""),
            "pricePerUnit": {row.get("currency", ""): row.get("priceperunit", "")},
        }
    return list(items.values())


def _rows(
    base_url: str,
    path: str,
    region: str,
    column: str,
    fits: Callable[[str], bool],
    at: datetime,
    timeout_s: float,
) -> tuple[list[dict[str, str]], Stamp, RawAnswer]:
    """The lines of a region's file whose *column* fits, by names of columns in small letters without blanks."""
    if not path:
        raise PriceSourceError(f"The public price list has no file for the region {region}.")
    url = f"{base_url}{path.removesuffix('.json')}.csv" if path.startswith("/") else path
    kept: list[str] = []
    rows: list[dict[str, str]] = []
    digest = hashlib.sha256()
    with Download(url, timeout_s) as file:
        lines = _hashed(file, digest)
        head = [line for _, line in zip(range(META_LINES), lines, strict=False)]
        names = [_plain(name) for name in next(csv.reader(head[-1:]), [])]
        if column not in names:
            raise PriceSourceError(f"The file {url} is no price list: it has no column {column}.")
        kept += head
        place = names.index(column)
        for line in lines:
            fields = next(csv.reader([line]), [])
            if place < len(fields) and fits(fields[place]):
                kept.append(line)
                rows.append(dict(zip(names, fields, strict=False)))
    about = {"url": url, "bytes": file.received, "sha256": digest.hexdigest(), "lines_kept": len(rows)}
    content = io.StringIO()
    content.write(f"# excerpt of {json.dumps(about, sort_keys=True)}\n")
    content.writelines(kept)
    raw = RawAnswer(content.getvalue().encode(), "csv")
    return rows, Stamp(at, f"AWS public price list {url}", raw.sha256), raw


def _hashed(file: Iterable[bytes], digest: Any) -> Iterator[str]:
    for line in file:
        digest.update(line)
        yield line.decode("utf-8", "replace")


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
