"""The packaged instance facts: totals, corrections of common mistakes, nulls where nothing is known."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from accelbench_assets.instances.facts import instance_types_table, packaged_age
from accelbench_assets.lake.tables import SCHEMAS
from partitions.catalog import instances_file, load_instances
from partitions.cell import families, family_of


def test_the_table_has_its_schema_and_one_row_a_type() -> None:
    table = instance_types_table()
    assert table.schema.equals(SCHEMAS["instance_types"], check_metadata=True)
    table.validate(full=True)
    rows = table.to_pylist()
    assert [r["instance_type"] for r in rows] == list(load_instances())
    assert {r["family"] for r in rows} == set(families()) - {"local", "endpoint"}
    for row in rows:
        assert row["family"] == family_of(row["instance_type"])
        assert row["provider"] == "aws"
        assert (
            row["accelerator_memory_mib_total"]
            == row["accelerator_memory_mib_each"] * row["accelerator_count"]
        )
        assert row["source"]
        assert row["as_of"]
        assert row["confidence"] in ("high", "medium", "low")
        assert (row["neuron_cores"] is not None) == (row["accelerator_kind"] == "neuron")


@pytest.mark.parametrize(
    ("name", "gib_total", "neuron_cores"),
    [
        ("g5.xlarge", 22.35, None),
        ("g6.48xlarge", 178.8, None),
        ("g6e.48xlarge", 357.6, None),
        ("p4d.24xlarge", 320.0, None),
        ("p5.4xlarge", 80.0, None),
        ("p5e.48xlarge", 1128.0, None),
        ("p6-b200.48xlarge", 1432.5, None),
        ("inf2.24xlarge", 192.0, 12),
        ("trn1.32xlarge", 512.0, 32),
        ("trn2.48xlarge", 1536.0, 128),  # often given as 512
    ],
)
def test_accelerator_memory(name: str, gib_total: float, neuron_cores: int | None) -> None:
    row = {r["instance_type"]: r for r in instance_types_table().to_pylist()}[name]
    assert row["accelerator_memory_mib_total"] / 1024 == pytest.approx(gib_total, rel=1e-3)
    assert row["neuron_cores"] == neuron_cores


def test_what_no_source_states_is_null() -> None:
    rows = {r["instance_type"]: r for r in instance_types_table().to_pylist()}
    assert rows["g7e.48xlarge"]["bf16_tflops_each"] is None
    assert rows["p4d.24xlarge"]["fp8_tflops_each"] is None  # no FP8 units
    assert rows["trn2.48xlarge"]["link_gb_s"] is None  # direction not stated
    assert all(r["regions"] is None for r in rows.values())


def test_ranks_of_tensor_parallelism_and_their_memory() -> None:
    rows = load_instances()
    assert (rows["p5.48xlarge"].tp_ranks, rows["p5.48xlarge"].memory_bytes_per_rank) == (8, 80 * 1024**3)
    assert (rows["inf2.48xlarge"].tp_ranks, rows["inf2.48xlarge"].memory_bytes_per_rank) == (24, 16 * 1024**3)
    assert (rows["trn2.48xlarge"].tp_ranks, rows["trn2.48xlarge"].memory_bytes_per_rank) == (64, 24 * 1024**3)
    assert rows["g5.xlarge"].accelerator_memory_mib_each == 22888


def test_compute_capabilities_are_those_of_nvidias_table() -> None:
    found = {row.accelerator.id: row.accelerator.compute_capability for row in load_instances().values()}
    assert found == {
        **{"a100-40": 8.0, "a100-80": 8.0, "a10g": 8.6, "l4": 8.9, "l40s": 8.9, "h100": 9.0, "h200": 9.0},
        **{"b200": 10.0, "b300": 10.3, "rtx-pro-6000": 12.0},
        **dict.fromkeys(("inferentia2", "trainium1", "trainium2")),
    }


def test_the_age_of_the_facts_is_known() -> None:
    day = date.fromisoformat(instances_file().as_of)
    assert packaged_age(day + timedelta(days=113)).days == 113
    assert packaged_age(day - timedelta(days=3)).days == 0
    assert packaged_age().as_of == instances_file().as_of
