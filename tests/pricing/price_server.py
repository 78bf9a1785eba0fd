"""The AWS endpoints that know prices, small and real: one HTTP server on this machine that speaks their protocols.

It answers with the synthetic documents beside it, for whichever region is asked, and its price lists also sell every
other packaged type at its packaged price, as a real list would. ``refuse`` breaks single services in single regions, so
that what stands beside a failure can be seen; ``gone`` are types it no longer sells, ``changed`` is other text.
"""

import csv
import io
import json
import re
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from accelbench_assets.pricing.providers import packaged_points
from accelbench_assets.settings_groups import PricesSettings

DOCUMENTS = Path(__file__).parent / "documents"
PAGE = 20
HOME = "us-east-1"
SERVICES = ("pricing", "ec2", "savingsplans")


def text(name: str, region: str = HOME) -> str:
    return (DOCUMENTS / name).read_text(encoding="utf-8").replace(HOME, region)


def document(name: str, region: str = HOME) -> dict[str, Any]:
    found = json.loads(text(name, region))
    assert found["synthetic"] is True
    return found


LISTS = {
    "ec2": ("aws", "SYNG6EONDEMAND00", "g6e.xlarge"),
    "sagemaker": ("aws-sagemaker", "SYNMLG6EHOST0000", "ml.g6e.xlarge"),
}
"""Price list -> provider, and the product of one type that stands for those of the others."""


@cache
def sold(name: str, content: str, gone: frozenset[str]) -> str:
    """A price list with every packaged type that it lacks, at its packaged price, and without those *gone*."""
    service, _, kind = name.partition("_")
    if service not in LISTS or not kind.startswith(("products", "offer")):
        return content
    provider, sku, model = LISTS[service]
    priced = {
        p.instance_type: str(p.usd_per_hour)
        for p in packaged_points()
        if p.provider == provider and p.tier == "on_demand" and p.usd_per_hour is not None
    }
    new = {n: usd for n, usd in priced.items() if f'"{n}"' not in content and n not in gone}
    if kind.endswith(".json"):
        items = json.loads(content)["items"]
        (one,) = (json.dumps(i) for i in items if i["product"]["sku"] == sku)
        items = [i for i in items if not gone.intersection(i["product"]["attributes"].values())]
        for number, (instance, usd) in enumerate(new.items()):
            item = json.loads(one.replace(sku, f"SYN{number:013d}").replace(model, instance))
            item["terms"].pop("Reserved", None)
            (term,) = item["terms"]["OnDemand"].values()
            (dimension,) = term["priceDimensions"].values()
            dimension["pricePerUnit"]["USD"] = usd
            items.append(item)
        return json.dumps({"synthetic": True, "items": items}, indent=1)
    rows = list(csv.reader(io.StringIO(content)))
    (model_row,) = (row for row in rows if row[0] == sku and "OnDemand" in row[3:4])
    price = rows[5].index("PricePerUnit")
    kept = [row for row in rows if not gone.intersection(row)]
    for number, (instance, usd) in enumerate(new.items()):
        row = [cell.replace(sku, f"SYN{number:013d}").replace(model, instance) for cell in model_row]
        row[price] = usd
        kept.append(row)
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(kept)
    return out.getvalue()


@dataclass
class Prices:
    """The running server. ``asked`` lists (service, region) of every request."""

    asked: list[tuple[str, str]] = field(default_factory=list)
    refuse: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    regions: tuple[str, ...] = (HOME, "eu-west-1")
    cut: int | None = None
    changed: dict[str, str] = field(default_factory=dict)  # text in the documents -> text instead
    gone: set[str] = field(default_factory=set)  # instance types that the price lists lack
    url: str = ""

    def environment(self) -> dict[str, str]:
        services = {f"AWS_ENDPOINT_URL_{name.upper()}": self.url for name in SERVICES}
        return {**services, "AWS_ACCESS_KEY_ID": "synthetic", "AWS_SECRET_ACCESS_KEY": "synthetic-secret"}

    def settings(self, *regions: str, aws: str = "bulk") -> PricesSettings:
        """Settings that ask this server for *regions*."""
        return PricesSettings(aws=aws, regions=regions or (HOME,), bulk_url=self.url, timeout_s=5)

    def text(self, name: str, region: str) -> str:
        found = sold(name, text(name, region), frozenset(self.gone))
        for old, new in self.changed.items():
            found = found.replace(old, new)
        return found

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _fits(item: dict[str, Any], filters: list[dict[str, str]]) -> bool:
    attributes = item["product"]["attributes"]
    for one in filters:
        values = one["Value"].split(",") if one["Type"] == "ANY_OF" else [one["Value"]]
        if attributes.get(one["Field"]) not in values:
            return False
    return True


def _xml(tag: str, value: Any) -> str:
    if isinstance(value, dict):
        inside = "".join(_xml(name[0].lower() + name[1:], one) for name, one in value.items())
    elif isinstance(value, list):
        inside = "".join(_xml("item", one) for one in value)
    else:
        inside = str(value)
    return f"<{tag}>{inside}</{tag}>"


def _handler(state: Prices) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, status: int, body: str, kind: str = "application/json") -> None:
            content = body.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if state.cut is None else content[: state.cut])
            self.close_connection = state.cut is not None

        def refused(self, service: str, region: str) -> bool:
            state.asked.append((service, region))
            found = state.refuse.get((service, region))
            if found is None:
                return False
            status, code = found
            if service == "ec2":
                error = f"<Code>{code}</Code><Message>told to refuse</Message>"
                self.answer(
                    status, f"<Response><Errors><Error>{error}</Error></Errors></Response>", "text/xml"
                )
            else:
                self.answer(status, json.dumps({"__type": code, "message": "told to refuse"}))
            return True

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            region = next((part for part in path.split("/") if part in state.regions), "")
            if self.refused("bulk", region):
                return
            service = next(part for part in path.split("/") if part.startswith(("Amazon", "AWS")))
            if path.endswith("region_index.json"):
                self.answer(200, json.dumps(_index(state, path, service)))
            elif region and path.endswith(".csv"):
                files = {
                    "AmazonEC2": "ec2_offer.csv",
                    "AmazonSageMaker": "sagemaker_offer.csv",
                    "AWSComputeSavingsPlan": "savings_offer.csv",
                    "AWSMachineLearningSavingsPlans": "sagemaker_savings_offer.csv",
                }
                self.answer(200, state.text(files[service], region), "text/csv")
            else:
                self.answer(404, "")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
            if self.headers.get("X-Amz-Target") == "AWSPriceListService.GetProducts":
                self.products(json.loads(body))
            elif self.path == "/DescribeSavingsPlansOfferingRates":
                self.rates(json.loads(body))
            else:
                self.ec2(dict(parse_qsl(body)))

        def products(self, request: dict[str, Any]) -> None:
            filters = request["Filters"]
            region = next(f["Value"] for f in filters if f["Field"] == "regionCode")
            if self.refused("pricing", region):
                return
            name = {"AmazonEC2": "ec2_products.json", "AmazonSageMaker": "sagemaker_products.json"}
            items = json.loads(state.text(name[request["ServiceCode"]], region))["items"]
            found = [item for item in items if _fits(item, filters)]
            start = int(request.get("NextToken", 0))
            page: dict[str, Any] = {
                "FormatVersion": "aws_v1",
                "PriceList": [json.dumps(item) for item in found[start : start + PAGE]],
            }
            if start + PAGE < len(found):
                page["NextToken"] = str(start + PAGE)
            self.answer(200, json.dumps(page))

        def rates(self, request: dict[str, Any]) -> None:
            (region,) = next(f["values"] for f in request["filters"] if f["name"] == "region")
            if self.refused("savingsplans", region):
                return
            results = json.loads(state.text("savings_rates.json", region))["searchResults"]
            found = [one for one in results if one["productType"] in request["products"]]
            start, size = int(request.get("nextToken", 0)), 5
            page: dict[str, Any] = {"searchResults": found[start : start + size]}
            if start + size < len(found):
                page["nextToken"] = str(start + size)
            self.answer(200, json.dumps(page))

        def ec2(self, request: dict[str, str]) -> None:
            scope = re.search(r"Credential=[^/]+/\d+/([^/]+)/", self.headers.get("Authorization", ""))
            region = scope.group(1) if scope else ""
            if self.refused("ec2", region):
                return
            action = request["Action"]
            if action == "DescribeSpotPriceHistory":
                now = datetime.now(UTC)
                quotes = json.loads(state.text("spot_history.json", region))["SpotPriceHistory"]
                rows = [
                    {
                        **{k: v for k, v in quote.items() if k != "daysAgo"},
                        "Timestamp": (now - timedelta(days=quote["daysAgo"])).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    }
                    for quote in quotes
                ]
                inside = _xml("spotPriceHistorySet", rows)
            else:
                offers = json.loads(state.text("capacity_blocks.json", region))["CapacityBlockOfferings"]
                wanted = (request["InstanceType"], int(request["CapacityDurationHours"]))
                rows = [o for o in offers if (o["InstanceType"], o["CapacityBlockDurationHours"]) == wanted]
                inside = _xml("capacityBlockOfferingSet", rows)
            space = "http://ec2.amazonaws.com/doc/2016-11-15/"
            self.answer(200, f'<{action}Response xmlns="{space}">{inside}</{action}Response>', "text/xml")

    return Handler


def _index(state: Prices, path: str, service: str) -> dict[str, Any]:
    """A region index: an object of regions for services, a list for Savings Plans."""
    if path.startswith("/savingsPlan"):
        urls = {r: f"/savingsPlan/v1.0/aws/{service}/20261101000000/{r}/index.json" for r in state.regions}
        return {"regions": [{"regionCode": r, "versionUrl": url} for r, url in urls.items()]}
    urls = {r: f"/offers/v1.0/aws/{service}/20261101000000/{r}/index.json" for r in state.regions}
    return {
        "formatVersion": "v1.0",
        "regions": {r: {"regionCode": r, "currentVersionUrl": url} for r, url in urls.items()},
    }
