"""The asset graph is what ``graph.json`` says: any accidental change of it is a diff to read.

After a wanted change: ``ACCELBENCH_UPDATE_SNAPSHOT=1 pytest tests/defs/test_graph.py`` and read the diff.
"""

import json
import os
from pathlib import Path
from typing import Any

import dagster as dg

from accelbench_assets.definitions import build_defs
from partitions.cell import families

SNAPSHOT = Path(__file__).with_name("graph.json")


def graph() -> dict[str, Any]:
    definitions = build_defs()
    repository = definitions.get_repository_def()
    nodes = {}
    for node in repository.asset_graph.asset_nodes:
        spec = repository.asset_graph.get(node.key)
        automation = spec.automation_condition
        nodes[node.key.to_user_string()] = {
            "group": spec.group_name,
            "partitions": type(spec.partitions_def).__name__ if spec.partitions_def else None,
            "dynamic_name": getattr(spec.partitions_def, "name", None),
            "deps": sorted(k.to_user_string() for k in spec.parent_keys),
            "checks": sorted(k.name for k in spec.check_keys),
            "automation": automation is not None,
            "pools": sorted(spec.pools or []),
            "owners": sorted(spec.owners),
            "kinds": sorted(spec.kinds),
        }
    return {
        "assets": nodes,
        "jobs": sorted(j.name for j in repository.get_all_jobs() if not j.name.startswith("__")),
        "schedules": sorted(s.name for s in repository.schedule_defs),
        "sensors": sorted(s.name for s in repository.sensor_defs),
    }


def test_graph_is_the_snapshot() -> None:
    now = json.loads(json.dumps(graph()))
    if os.environ.get("ACCELBENCH_UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    assert now == json.loads(SNAPSHOT.read_text())


def test_every_family_has_samples_percentiles_and_a_pool() -> None:
    nodes = graph()["assets"]
    for family in families():
        suffix = family.replace("-", "_")
        samples = nodes[f"raw_samples_{suffix}"]
        assert samples["pools"] == [f"accelerator_{suffix}"]
        assert samples["automation"] is False, "automation must never spend accelerator money"
        assert nodes[f"run_percentiles_{suffix}"]["deps"] == [f"raw_samples_{suffix}"]
        assert nodes[f"run_percentiles_{suffix}"]["automation"] is True


def test_definitions_load_and_validate() -> None:
    dg.Definitions.validate_loadable(build_defs())
