"""Where a type is offered, as the table has it: regions and zones of those asked, null where nobody was."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from accelbench_assets.instances.facts import Refreshed, instance_types_table, packaged_types
from accelbench_assets.lake.lake import Lake
from accelbench_assets.sqlkit.duck import query

AT = datetime(2026, 11, 2, 12, tzinfo=UTC)
ZONES = {"us-west-2": ("us-west-2c", "us-west-2a"), "us-east-1": ("us-east-1d",)}


def asked(zones: dict[str, tuple[str, ...]], hour: int = 12) -> Refreshed:
    """A round over two regions in which one type has *zones* and the others have none."""
    types = dict(packaged_types())
    types["g6.xlarge"] = replace(types["g6.xlarge"], zones=zones, live=True)
    return Refreshed(types, ("us-east-1", "us-west-2"), {}, AT.replace(hour=hour))


def test_zones_of_all_regions_are_sorted_and_an_empty_list_is_an_answer() -> None:
    rows = {row["instance_type"]: row for row in instance_types_table(asked(ZONES)).to_pylist()}
    assert rows["g6.xlarge"]["regions"] == ["us-east-1", "us-west-2"]
    assert rows["g6.xlarge"]["zones"] == ["us-east-1d", "us-west-2a", "us-west-2c"]
    assert (rows["g5.xlarge"]["regions"], rows["g5.xlarge"]["zones"]) == ([], [])
    table = instance_types_table(asked(ZONES))
    assert table == instance_types_table(asked(dict(reversed(ZONES.items())))), "whatever the order of asking"


def test_nobody_asked_is_null() -> None:
    for row in instance_types_table().to_pylist():
        assert (row["regions"], row["zones"]) == (None, None)


def test_a_round_of_the_day_goes_before_the_package_of_the_day(tmp_path: object) -> None:
    for order in (0, 1):
        lake = Lake.open(f"file://{tmp_path}/lake-{order}")
        tables = [instance_types_table(), instance_types_table(asked(ZONES))]
        for table in (tables, tables[::-1])[order]:
            lake.write_fact("instance_types", "2026-11-02", table)
        text = "select zones, count(*) over () as n from instance_types where instance_type = 'g6.xlarge'"
        (row,) = query(lake, text).to_pylist()
        assert row == {"zones": ["us-east-1d", "us-west-2a", "us-west-2c"], "n": 1}
        assert query(lake, "select count(*) as n from instance_types").to_pylist() == [
            {"n": tables[0].num_rows}
        ]


def test_of_two_rounds_of_a_day_the_later_one_counts(tmp_path: object) -> None:
    early, late = (
        asked({"us-east-1": (zone,)}, hour) for zone, hour in (("us-east-1f", 9), ("us-east-1a", 18))
    )
    for order in (0, 1):
        lake = Lake.open(f"file://{tmp_path}/lake-{order}")
        for one in ((early, late), (late, early))[order]:
            lake.write_fact("instance_types", "2026-11-02", instance_types_table(one))
        text = "select zones, asked_at from instance_types where instance_type = 'g6.xlarge'"
        assert query(lake, text).to_pylist() == [{"zones": ["us-east-1a"], "asked_at": AT.replace(hour=18)}]
