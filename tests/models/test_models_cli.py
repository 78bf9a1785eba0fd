"""``accelbench models``: what a person and a program see, offline and from a hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from accelbench_assets.cli import state
from accelbench_assets.cli.models import app
from accelbench_assets.errors import AccelBenchError, UsageError
from accelbench_assets.models.facts import packaged_age
from partitions.catalog import load_models
from tests.models import documents as d
from tests.models import hybrids
from tests.models.hub_server import COMMIT, Hub

Capture = pytest.CaptureFixture[str]
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    monkeypatch.setenv("ACCELBENCH_HOME", str(tmp_path))
    monkeypatch.setenv("ACCELBENCH_WATCH__HUB_URL", hub.url)
    monkeypatch.chdir(tmp_path)
    state.reset()


def run(*words: str) -> None:
    typer.main.get_command(app).main(list(words), standalone_mode=False)


def test_list_is_offline_and_says_how_old_it_is(capsys: Capture, hub: Hub) -> None:
    run("list")
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == len(load_models()) + 2
    assert len(load_models()) >= 30
    assert f"{len(load_models())} packaged models, {packaged_age()}." in err
    run("list", "GEMMA-3", "--json")
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["slug"] for row in rows} == {"gemma-3-27b-it", "gemma-3-12b-it", "gemma-3-1b-it"}
    assert hub.asked == []


@pytest.mark.parametrize("name", ["gpt-oss-120b", "openai/GPT-OSS-120b"])
def test_show_is_offline_by_either_name(name: str, capsys: Capture, hub: Hub) -> None:
    run("show", name)
    out, err = capsys.readouterr()
    assert "36: 18 full, 18 window of 128" in out
    assert "36,864 bytes at 16 bits" in out
    assert f"Packaged {packaged_age()}; --refresh asks the hub." in err
    assert hub.asked == []


def test_show_for_a_program_has_the_same_keys_offline_and_from_the_hub(capsys: Capture, hub: Hub) -> None:
    hub.add(
        LLAMA,
        files={
            "config.json": d.LLAMA_8B,
            "model.safetensors.index.json": {"metadata": {"total_size": 16060522496}},
        },
        commit=load_models()["llama-3.1-8b-instruct"].commit,
        gated=False,
        tags=("license:llama3.1",),
    )
    run("show", LLAMA, "--json")
    packaged = json.loads(capsys.readouterr().out)
    run("show", LLAMA, "--json", "--refresh")
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert set(packaged) == set(found)
    assert (packaged["origin"], found["origin"], found["age_days"]) == ("package", "hub", 0)
    assert found["contradictions"] == [{"field": "gated", "live": False, "packaged": True}]
    assert found["kv_bytes_per_token"] == packaged["kv_bytes_per_token"]
    assert err == ""


def test_a_model_that_is_not_packaged_is_asked_for_when_told_to(capsys: Capture, hub: Hub) -> None:
    hub.add("org/Hybrid-Model", files={"config.json": hybrids.JAMBA, "pytorch_model.bin": b"x"})
    with pytest.raises(UsageError) as caught:
        run("show", "org/Hybrid-Model")
    assert "`accelbench models show org/Hybrid-Model --refresh` asks the hub." in (caught.value.hint or "")
    run("show", "org/Hybrid-Model", "--refresh")
    out, _ = capsys.readouterr()
    assert f"org/Hybrid-Model at {COMMIT}" in out
    assert "32: 4 full, 28 state of fixed size" in out
    assert "weights:      not known" in out
    assert "JambaForCausalLM is not known here" in out
    assert "name a repository with safetensors" in out


def test_another_revision_does_not_contradict(capsys: Capture, hub: Hub) -> None:
    hub.add(LLAMA, files={"config.json": {**d.LLAMA_8B, "num_key_value_heads": 4}, "x.bin": b""}, gated=False)
    run("show", LLAMA, "--refresh", "--revision", "main", "--json")
    document = json.loads(capsys.readouterr().out)
    assert (document["kv_heads"], document["contradictions"]) == (4, [])


def test_refusals(hub: Hub) -> None:
    with pytest.raises(UsageError, match="Did you mean gpt-oss-20b or gpt-oss-120b"):
        run("show", "gpt-oss")
    with pytest.raises(UsageError, match="--revision is of the hub"):
        run("show", LLAMA, "--revision", "main")
    with pytest.raises(AccelBenchError, match="shows no model org/absent"):
        run("show", "org/absent", "--refresh")
    hub.add(LLAMA, files={"config.json": d.LLAMA_8B}, gated="manual")
    with pytest.raises(AccelBenchError) as caught:
        run("show", LLAMA, "--refresh", "--revision", "main")
    assert "set HF_TOKEN" in (caught.value.hint or "")
