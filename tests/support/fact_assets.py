"""Materialising an asset that brings facts into a lake: ``models``, ``instance_types``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg

from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.lake.lake import Lake


def materialise(
    asset: dg.AssetsDefinition, tmp_path: Path, **config: Any
) -> tuple[dict[str, Any], dg.AssetCheckEvaluation, Lake]:
    """What *asset* told with this configuration, its one check, and the lake under *tmp_path* that it wrote."""
    url = (tmp_path / "lake").as_uri()
    result = dg.materialize(
        [asset],
        resources={"accelbench": AccelBench(lake_url=url)},
        run_config={"ops": {asset.key.to_python_identifier(): {"config": config}}},
    )
    (event,) = result.get_asset_materialization_events()
    (check,) = result.get_asset_check_evaluations()
    metadata = {name: value.value for name, value in event.materialization.metadata.items()}
    return metadata, check, Lake.open(url)
