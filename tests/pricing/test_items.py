"""Reading price lists: the published shape field by field, its neighbours, and whatever else may stand there."""

from __future__ import annotations

import copy
import csv
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelbench_assets.pricing.aws.bulk import items_of as bulk_items
from accelbench_assets.pricing.aws.items import read_items
from accelbench_assets.pricing.aws.products import VALUE_CHARS, chunks, filters, items_of
from accelbench_assets.pricing.aws.reading import PriceSourceError, Reading, Stamp
from accelbench_assets.pricing.catalog import catalog
from accelbench_assets.pricing.points import Group, Point
from tests.pricing.price_server import DOCUMENTS, document

AT = datetime(2026, 11, 22, 5, tzinfo=UTC)
STAMP = Stamp(AT, "a test", "00")
P5 = "p5.48xlarge"


def read(items: Any, service: str = "AmazonEC2", wanted: tuple[str, ...] = (P5, "g6e.xlarge")) -> Reading:
    return read_items(items, service=service, region="us-east-1", wanted=frozenset(wanted), stamp=STAMP)


def ec2_items() -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = document("ec2_products.json")["items"]
    return items


def by(reading: Reading) -> dict[tuple[str | None, ...], Point]:
    return {(p.instance_type, p.tier, p.payment_option, p.offering_class): p for p in reading.points}


def test_an_on_demand_price_field_by_field() -> None:
    point = by(read(ec2_items()))[P5, "on_demand", None, None]
    assert point == Point(
        provider="aws",
        region="us-east-1",
        instance_type=P5,
        tier="on_demand",
        zone=None,
        os="linux",
        tenancy="shared",
        usd_per_hour=Decimal("77.77"),
        sku="SYNP5ONDEMAND000",
        effective_from=datetime(2026, 11, 1, tzinfo=UTC),
        fetched_at=AT,
        source="a test",
        source_sha256="00",
    )
    assert point.effective_usd_per_hour == Decimal("77.77")


# lease, payment, class -> hourly, upfront, effective (upfront / 8,760 or 26,280 + hourly)
RESERVED = {
    ("1y", "no_upfront", "standard"): ("66.66", "0", "66.66"),
    ("1y", "partial_upfront", "standard"): ("33.33", "262800", "63.33"),
    ("1y", "all_upfront", "standard"): ("0", "525600", "60"),
    ("1y", "no_upfront", "convertible"): ("70.7", "0", "70.7"),
    ("1y", "partial_upfront", "convertible"): ("35.35", "306600", "70.35"),
    ("1y", "all_upfront", "convertible"): ("0", "613200", "70"),
    ("3y", "no_upfront", "standard"): ("44.44", "0", "44.44"),
    ("3y", "partial_upfront", "standard"): ("22.22", "525600", "42.22"),
    ("3y", "all_upfront", "standard"): ("0", "1051200", "40"),
    ("3y", "no_upfront", "convertible"): ("50.5", "0", "50.5"),
    ("3y", "partial_upfront", "convertible"): ("25.25", "657000", "50.25"),
    ("3y", "all_upfront", "convertible"): ("0", "1182600", "45"),
}


def test_the_twelve_reserved_terms() -> None:
    found = by(read(ec2_items()))
    for (lease, payment, offering), (hourly, upfront, effective) in RESERVED.items():
        point = found[P5, f"reserved_{lease}", payment, offering]
        assert (point.usd_per_hour, point.upfront_usd) == (Decimal(hourly), Decimal(upfront))
        assert point.term_hours == {"1y": 8760.0, "3y": 26280.0}[lease]
        assert point.effective_usd_per_hour == Decimal(effective)
        assert point.effective_from == datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC)
    assert sum(p.instance_type == P5 for p in found.values()) == 1 + len(RESERVED)
    assert not read(ec2_items()).unread


def test_every_neighbour_in_the_document_is_told_apart() -> None:
    """Windows, dedicated, unused reservation, installed software, local zone, capacity block at 0.00, free trial."""
    items = ec2_items()
    assert len(items) == 9
    reading = read(items, wanted=(P5,))
    assert {p.sku for p in reading.points} == {"SYNP5ONDEMAND000"}
    only_neighbours = [item for item in items if item["product"]["sku"] != "SYNP5ONDEMAND000"]
    assert read(only_neighbours, wanted=(P5,)) == Reading()


def test_other_types_and_regions_are_passed_over() -> None:
    assert read(ec2_items(), wanted=("g5.xlarge",)) == Reading()
    elsewhere = json.loads(json.dumps(ec2_items()).replace("us-east-1", "eu-west-1"))
    assert read(elsewhere) == Reading()


def test_sagemaker_counts_hosting_alone_and_never_an_upfront_fee() -> None:
    items = document("sagemaker_products.json")["items"]
    reading = read(items, "AmazonSageMaker", ("ml.p5.48xlarge", "ml.g6e.xlarge"))
    assert {(p.provider, p.instance_type, p.usd_per_hour) for p in reading.points} == {
        ("aws-sagemaker", "ml.p5.48xlarge", Decimal("88.08")),
        ("aws-sagemaker", "ml.g6e.xlarge", Decimal("4.44")),
    }
    (fee,) = [item for item in items if "UpfrontFee" in item["product"]["attributes"]["usagetype"]]
    assert read([fee], "AmazonSageMaker", ("ml.p5.48xlarge",)) == Reading()


def dimension(item: dict[str, Any], kind: str = "OnDemand") -> dict[str, Any]:
    term = next(iter(item["terms"][kind].values()))
    found: dict[str, Any] = next(iter(term["priceDimensions"].values()))
    return found


@pytest.mark.parametrize(
    ("price", "says"),
    [
        ({"CNY": "500.00"}, "only CNY"),
        ({}, "only nothing"),
        ({"USD": "free"}, "'free'"),
        ({"USD": "-1"}, "'-1'"),
        ({"USD": None}, "None"),
        ({"USD": "1e99"}, "'1e99'"),
        ({"USD": "NaN"}, "'NaN'"),
        ({"USD": True}, "True"),
        ([], "only nothing"),
    ],
)
def test_a_price_that_cannot_be_read_refuses_its_group_and_nothing_else(price: Any, says: str) -> None:
    items = ec2_items()
    dimension(items[0])["pricePerUnit"] = price
    reading = read(items)
    assert says in reading.unread[Group("aws", "us-east-1", P5, "on_demand")]
    found = by(reading)
    assert (P5, "on_demand", None, None) not in found
    assert found["g6e.xlarge", "on_demand", None, None].usd_per_hour == Decimal("3.33")
    assert (P5, "reserved_1y", "no_upfront", "standard") in found


def test_half_a_tier_is_no_tier() -> None:
    items = ec2_items()
    dimension(items[0], "Reserved")["pricePerUnit"] = {"USD": "?"}
    found = by(read(items))
    assert not [key for key in found if key[:2] == (P5, "reserved_1y")]
    assert len([key for key in found if key[:2] == (P5, "reserved_3y")]) == 6


@pytest.mark.parametrize(
    ("payment", "units", "says"),
    [
        ("Partial Upfront", {"Hrs": "33.33"}, "partial_upfront with 33.33"),
        ("Partial Upfront", {"Quantity": "262800"}, "partial_upfront with 262800"),
        ("No Upfront", {"Hrs": "66.66", "Quantity": "1"}, "no_upfront with 66.66"),
        ("No Upfront", {}, "no_upfront with no price"),
        ("All Upfront", {"Quantity": "525600", "Hrs": "0.01"}, "all_upfront with 525600"),
        ("All Upfront", {"Hrs": "0.0"}, "all_upfront with 0"),
        ("All Upfront", {"Upfront": "525600"}, "per Upfront"),
    ],
)
def test_a_term_must_be_paid_as_it_says(payment: str, units: dict[str, str], says: str) -> None:
    items = ec2_items()
    for term in items[0]["terms"]["Reserved"].values():
        if term["termAttributes"]["PurchaseOption"] == payment:
            term["priceDimensions"] = {
                u: {"unit": u, "pricePerUnit": {"USD": usd}} for u, usd in units.items()
            }
    unread = read(items).unread
    assert says in unread[Group("aws", "us-east-1", P5, "reserved_1y")]


def test_an_all_upfront_term_without_an_hourly_dimension_costs_nothing_an_hour() -> None:
    items = ec2_items()
    for term in items[0]["terms"]["Reserved"].values():
        if term["termAttributes"]["PurchaseOption"] == "All Upfront":
            term["priceDimensions"] = {
                k: d for k, d in term["priceDimensions"].items() if d["unit"] == "Quantity"
            }
    point = by(read(items))[P5, "reserved_1y", "all_upfront", "standard"]
    assert (point.usd_per_hour, point.effective_usd_per_hour) == (Decimal(0), Decimal(60))


def test_terms_of_an_unknown_kind_are_passed_over_and_told() -> None:
    items = ec2_items()
    term = copy.deepcopy(next(iter(items[0]["terms"]["Reserved"].values())))
    term["termAttributes"] = {
        "LeaseContractLength": "5yr",
        "PurchaseOption": "No Upfront",
        "OfferingClass": "standard",
    }
    items[0]["terms"]["Reserved"]["new"] = term
    reading = read(items)
    assert reading.odd == {"reserved term 5yr No Upfront standard"}
    assert len(reading.points) == len(read(ec2_items()).points)


def test_two_products_with_different_prices_are_not_chosen_between() -> None:
    twin = copy.deepcopy(ec2_items()[0])
    twin["product"]["sku"] = "SYNTWIN"
    assert len(read([*ec2_items(), twin]).points) == len(
        read(ec2_items()).points
    )  # the same price: no question
    dimension(twin)["pricePerUnit"]["USD"] = "78.87"
    reading = read([*ec2_items(), twin])
    assert "SYNTWIN" in reading.unread[Group("aws", "us-east-1", P5, "on_demand")]
    assert (P5, "on_demand", None, None) not in by(reading)


def test_an_item_that_is_no_json_is_an_error_of_the_source() -> None:
    with pytest.raises(PriceSourceError, match="not JSON"):
        list(items_of([["{"]]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def paths(value: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [so_far] if so_far else []
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        found += paths(child, (*so_far, key))
    return found


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_no_missing_or_odd_field_breaks_the_reading_or_makes_a_price(data: st.DataObject) -> None:
    """One field anywhere is taken away or replaced: no error, and every point is one of the document's or has its price
    from the changed place.
    """
    items = ec2_items()[:2]
    untouched = {p.key: p for p in read(items).points}
    path = data.draw(st.sampled_from(paths(items)))
    parent: Any = items
    for step in path[:-1]:
        parent = parent[step]
    new: Any = None
    if data.draw(st.booleans()):
        del parent[path[-1]]
    else:
        new = parent[path[-1]] = data.draw(JSON)
    for point in read(items).points:
        before = untouched.get(point.key)
        assert point.effective_usd_per_hour is not None
        if before is None or (point.usd_per_hour, point.upfront_usd) != (
            before.usd_per_hour,
            before.upfront_usd,
        ):
            assert "pricePerUnit" in path or "termAttributes" in path or "priceDimensions" in path, (
                path,
                new,
            )


@given(st.lists(JSON, max_size=4))
@settings(deadline=None)
def test_anything_can_stand_in_a_list(items: list[Any]) -> None:
    assert read(items).points == []


def test_filters_name_the_plain_machine_and_fit_the_api() -> None:
    names = [f"p{n}-verylongfamilyname.{n}xlarge" for n in range(100)]
    groups = list(chunks(names))
    assert [name for group in groups for name in group] == names
    assert len(groups) > 1
    for group in groups:
        found = {f["Field"]: f for f in filters("AmazonEC2", "eu-west-1", group)}
        assert len(found["instanceType"]["Value"]) <= VALUE_CHARS
        assert found["instanceType"]["Type"] == "ANY_OF"
        assert found["regionCode"]["Value"] == "eu-west-1"
        assert found["marketoption"] == {"Type": "TERM_MATCH", "Field": "marketoption", "Value": "OnDemand"}
        assert {"operatingSystem", "tenancy", "capacitystatus", "preInstalledSw"} <= set(found)
    assert {f["Field"] for f in filters("AmazonSageMaker", "eu-west-1", ["ml.x"])} == {
        "regionCode",
        "component",
        "instanceName",
    }


# Attributes of products that stand beside the plain hour in the same list, each with a price of 0 or another.
NEIGHBOURS: dict[str, dict[str, str | None]] = {
    "a reservation in use": {
        "capacitystatus": "AllocatedCapacityReservation",
        "usagetype": f"Reservation:{P5}",
    },
    "a reservation in use, by status": {"capacitystatus": "AllocatedCapacityReservation"},
    "a reservation unused": {"capacitystatus": "UnusedCapacityReservation", "usagetype": f"UnusedBox:{P5}"},
    "a reservation unused, by status": {"capacitystatus": "UnusedCapacityReservation"},
    "a reservation unused, by usage": {"usagetype": f"USE1-UnusedBox:{P5}"},
    "no word on reservations": {"capacitystatus": None},
    "a dedicated machine": {"tenancy": "Dedicated", "usagetype": f"DedicatedUsage:{P5}"},
    "a dedicated machine, by usage": {"usagetype": f"DedicatedUsage:{P5}"},
    "a host": {"tenancy": "Host", "usagetype": f"HostBoxUsage:{P5}"},
    "no word on tenancy": {"tenancy": None},
    "installed software": {"preInstalledSw": "SQL Std", "operation": "RunInstances:0004"},
    "installed software, by name": {"preInstalledSw": "SQL Web"},
    "no word on software": {"preInstalledSw": None},
    "a licence brought along": {"licenseModel": "Bring your own license"},
    "Windows with a licence brought along": {"operatingSystem": "Windows", "operation": "RunInstances:0800"},
    "another system by its operation": {"operation": "RunInstances:0010"},
    "no word on the operation": {"operation": None},
    "a capacity block": {"marketoption": "CapacityBlock", "operation": "RunInstances:CB"},
    "a capacity block without market": {"marketoption": None, "operation": "RunInstances:CB"},
    "a local zone": {"locationType": "AWS Local Zone"},
}


@pytest.mark.parametrize("usd", ["0.0000000000", "1.2300000000"])
@pytest.mark.parametrize("name", list(NEIGHBOURS))
def test_a_neighbour_is_never_the_price(name: str, usd: str) -> None:
    neighbour = copy.deepcopy(ec2_items()[0])
    neighbour["product"]["sku"] = "SYNNEIGHBOUR"
    dimension(neighbour)["pricePerUnit"]["USD"] = usd
    attributes = neighbour["product"]["attributes"]
    for field, value in NEIGHBOURS[name].items():
        attributes.pop(field, None)
        if value is not None:
            attributes[field] = value
    assert read([neighbour]) == Reading()
    beside = read([neighbour, *ec2_items()])
    assert by(beside) == by(read(ec2_items()))
    assert not beside.unread


@pytest.mark.parametrize(
    "column", ["CapacityStatus", "usageType", "Pre Installed S/W", "License Model", "Tenancy"]
)
def test_neighbours_are_told_apart_in_the_public_file_too(column: str) -> None:
    """Every column that tells them apart is read: with one of another kind there is no price."""
    odd = {
        "CapacityStatus": "AllocatedCapacityReservation",
        "usageType": f"UnusedBox:{P5}",
        "Pre Installed S/W": "SQL Ent",
        "License Model": "Bring your own license",
        "Tenancy": "Dedicated",
    }
    table = list(csv.reader((DOCUMENTS / "ec2_offer.csv").read_text(encoding="utf-8").splitlines()))
    names = table[5]
    plain = ["".join(c for c in name.lower() if c.isalnum()) for name in names]
    lines = [dict(zip(plain, row, strict=True)) for row in table[6:] if row[0] == "SYNP5ONDEMAND000"]
    assert len(read(bulk_items(lines)).points) == 13
    for line in lines:
        line["".join(c for c in column.lower() if c.isalnum())] = odd[column]
    assert read(bulk_items(lines)) == Reading()


def test_a_price_that_is_announced_for_later_is_none_yet() -> None:
    items = ec2_items()
    ((key, term),) = items[0]["terms"]["OnDemand"].items()
    later = {**copy.deepcopy(term), "effectiveDate": "2027-06-01T00:00:00Z"}
    next(iter(later["priceDimensions"].values()))["pricePerUnit"]["USD"] = "44.40"
    items[0]["terms"]["OnDemand"] = {"later": later, key: term}
    reading = read(items)
    assert by(reading)[P5, "on_demand", None, None].usd_per_hour == Decimal("77.77")
    assert not reading.unread
    assert reading.odd == {"on-demand price of p5.48xlarge that holds only later"}
    items[0]["terms"]["OnDemand"] = {"later": later}
    for reserved in items[0]["terms"]["Reserved"].values():
        reserved["effectiveDate"] = "2027-06-01T00:00:00Z"
    assert not [p for p in read(items).points if p.instance_type == P5]


@pytest.mark.parametrize("units", [{"Hrs": "33.33", "Quantity": "0"}, {"Hrs": "0.0", "Quantity": "262800"}])
def test_what_is_paid_in_part_upfront_is_paid_twice(units: dict[str, str]) -> None:
    items = ec2_items()
    for term in items[0]["terms"]["Reserved"].values():
        if term["termAttributes"]["PurchaseOption"] == "Partial Upfront":
            term["priceDimensions"] = {
                u: {"unit": u, "pricePerUnit": {"USD": usd}} for u, usd in units.items()
            }
    assert "partial_upfront with" in read(items).unread[Group("aws", "us-east-1", P5, "reserved_1y")]


def test_sagemaker_prices_have_the_key_of_the_packaged_ones() -> None:
    """Else the asked price would never be compared with the packaged one: no jump, no loss would be seen."""
    reading = read(document("sagemaker_products.json")["items"], "AmazonSageMaker", ("ml.p5.48xlarge",))
    reading.add_missing(
        [Group("aws-sagemaker", "us-east-1", "ml.x", "on_demand")], {"on_demand": "none"}, STAMP
    )
    packaged = {p.key._replace(instance_type="") for p in catalog("aws-sagemaker")}
    assert {p.key._replace(instance_type="") for p in reading.points} == packaged
