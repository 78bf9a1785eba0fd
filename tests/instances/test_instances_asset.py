"""The asset ``instance_types``: cheap and packaged by default, merged with EC2 when asked, and what its check says."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from accelbench_assets.defs.catalog import INSTANCES_AGREE, instance_types
from accelbench_assets.instances import facts
from partitions.catalog import instances_file, load_instances
from tests.support.fact_assets import materialise


@pytest.mark.usefixtures("no_credentials")
def test_without_credentials_the_packaged_facts_with_their_age(tmp_path: Path) -> None:
    metadata, check, lake = materialise(instance_types, tmp_path)
    assert metadata["packaged_as_of"] == instances_file().as_of
    assert metadata["packaged_age_days"] == facts.packaged_age().days > 0
    assert metadata["asked"] == []
    assert check.check_name == INSTANCES_AGREE
    assert check.passed
    assert check.metadata["asked"].value is False
    assert lake.read_table("instance_types").num_rows == len(load_instances())


@pytest.mark.usefixtures("no_credentials")
def test_asked_for_without_credentials_the_packaged_facts_stand_and_the_check_says_why(
    tmp_path: Path,
) -> None:
    _, check, lake = materialise(instance_types, tmp_path, refresh=True, regions=["us-east-1"])
    assert not check.passed
    assert "there are no AWS credentials" in str(check.metadata["failed"].value)
    assert lake.read_table("instance_types").num_rows == len(load_instances())


def test_refreshed_from_ec2_the_check_names_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ec2_url: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", ec2_url)
    metadata, check, lake = materialise(instance_types, tmp_path, refresh=True, regions=["us-east-1"])
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN
    told = check.metadata["contradictions"].value
    assert any("trn2.48xlarge" in one and "524288" in one and "98304" in one for one in told)
    assert metadata["asked"] == ["us-east-1"]
    assert "us-east-1a" in metadata["zones"]["g6e.xlarge"]["us-east-1"]
    rows = {row["instance_type"]: row for row in lake.read_table("instance_types").to_pylist()}
    assert rows["trn2.48xlarge"]["accelerator_memory_mib_total"] == 1536 * 1024
    assert rows["g6e.xlarge"]["regions"] == ["us-east-1"]
    assert "trn2.3xlarge" in rows
