"""The asset ``models``: packaged by default, the hub's at the pinned commits when asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from accelbench_assets.defs.catalog import MODELS_AGREE, models
from partitions.catalog import load_models, models_file
from tests.models import documents as d
from tests.models.hub_server import Hub
from tests.support.fact_assets import materialise


def test_by_default_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    monkeypatch.setenv("ACCELBENCH_WATCH__HUB_URL", hub.url)
    metadata, check, lake = materialise(models, tmp_path)
    assert hub.asked == []
    assert metadata["packaged_as_of"] == models_file().as_of
    assert (check.check_name, check.passed) == (MODELS_AGREE, True)
    assert lake.read_table("models").num_rows == len(load_models())


def test_the_hubs_facts_replace_packaged_ones_and_failures_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    monkeypatch.setenv("ACCELBENCH_WATCH__HUB_URL", hub.url)
    row = load_models()["qwen2.5-7b-instruct"]
    hub.add(
        row.model_id,
        files={
            "config.json": {**d.QWEN25_7B, "max_position_embeddings": 131072},
            "model.safetensors.index.json": {"metadata": {"total_size": row.weight_bytes}},
        },
        commit=row.commit,
    )
    metadata, check, lake = materialise(models, tmp_path, refresh=True, only=["qwen2.5-7b-instruct", "phi-4"])
    assert metadata["asked"] == ["qwen2.5-7b-instruct"]
    assert "shows no model microsoft/phi-4" in metadata["kept_packaged"]["phi-4"]
    assert not check.passed
    (told,) = check.metadata["contradictions"].value
    assert told == (
        "qwen2.5-7b-instruct: max_position_embeddings is 131072 on the hub and 32768 in the package"
    )
    rows = {one["model_id"]: one for one in lake.read_table("models").to_pylist()}
    assert rows[row.model_id]["source"].startswith(hub.url)
    assert rows[row.model_id]["max_position_embeddings"] == 131072
    assert rows["microsoft/phi-4"]["source"] == models_file().sources["config"]
    assert len(rows) == len(load_models())
