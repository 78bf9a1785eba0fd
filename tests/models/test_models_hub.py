"""The hub asked by the real client library: facts, and one sentence for each way it refuses. No token ever shows."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from accelbench_assets.models.config import ModelConfigError
from accelbench_assets.models.hub_errors import HubError
from accelbench_assets.models.live import LiveModel, contradictions, look_up, refresh, slug_of
from partitions.catalog import load_models
from tests.models import documents as d
from tests.models import hybrids
from tests.models.hub_server import COMMIT, Hub, Running, header_of

CANARY = "hf_CANARYcanaryCANARYcanary0123456789"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
INDEX = "model.safetensors.index.json"


def index(total: int | None) -> dict[str, Any]:
    metadata = {} if total is None else {"metadata": {"total_size": total}}
    return {**metadata, "weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}}


def llama(hub: Hub, **values: Any) -> None:
    files = {"config.json": d.LLAMA_8B, INDEX: index(16_060_522_496), "README.md": b"# synthetic"}
    hub.add(LLAMA, **{"files": files, "tags": ("license:llama3.1",), "gated": "manual", **values})


def ask(hub: Hub, model: str = LLAMA, **options: Any) -> LiveModel:
    return look_up(model, hub_url=hub.url, timeout_s=5, **options)


def refused(hub: Hub, model: str = LLAMA, **options: Any) -> HubError:
    with pytest.raises(HubError) as caught:
        ask(hub, model, **options)
    error = caught.value
    assert model in str(error) or error.code == "setting"
    assert error.hint
    assert CANARY not in str(error)
    return error


def test_a_model_of_the_hub_in_the_columns_of_the_table(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    hub.members.add(CANARY)
    llama(hub)
    found = ask(hub)
    record = found.record()
    assert record["revision"] == COMMIT
    assert (record["gated"], record["license"]) == (True, "llama3.1")
    assert (record["parameters"], record["active_parameters"]) == (8_030_261_248, 8_030_261_248)
    assert record["weight_bytes"] == 16_060_522_496
    assert (record["attention_kind"], record["kv_bytes_per_token"]) == ("gqa", 131072)
    assert record["source"] == f"{hub.url} at the commit: config.json, weights by index"
    assert found.notes == ()
    assert contradictions(found, load_models()["llama-3.1-8b-instruct"]) == []
    assert all(f"/{COMMIT}/" in path for path, _ in hub.asked if "/resolve/" in path)


def test_a_revision_is_asked_for_by_name(hub: Hub) -> None:
    llama(hub, gated=False)
    assert ask(hub, revision=COMMIT).documents.commit == COMMIT
    assert f"/revision/{COMMIT}" in hub.asked[0][0]
    error = refused(hub, revision="v9")
    assert error.code == "revision"
    assert "'v9'" in error.message


def test_one_file_is_weighed_by_its_header(hub: Hub) -> None:
    many = {f"model.layers.{i}.weight": ("BF16", [1024, 64], 131072) for i in range(5000)}
    hub.add("org/small", files={"config.json": d.LLAMA_8B, "model.safetensors": header_of(many)})
    assert len(header_of(many)) > 256 * 1024  # so that the header is asked for a second time, whole
    weights = ask(hub, "org/small").documents.weights
    assert (weights.bytes, weights.how) == (5000 * 131072, "header")
    assert (weights.parameters, weights.dtype) == (5000 * 65536, "bf16")
    assert next(r["Range"] for p, r in hub.asked if p.endswith("/model.safetensors")) == "bytes=0-262143"


def test_a_server_without_ranges_is_read_only_as_far_as_needed(hub: Hub) -> None:
    hub.ranges = False
    content = header_of({"w": ("F16", [2, 2], 8)}) + bytes(3_000_000)
    hub.add("org/small", files={"config.json": d.LLAMA_8B, "model.safetensors": content})
    assert ask(hub, "org/small").documents.weights.bytes == 8


def test_packed_weights_are_weighed_but_not_counted(hub: Hub) -> None:
    tensors = {"q": ("I32", [512, 64], 131072), "scales": ("F16", [4, 64], 512)}
    hub.add("org/awq", files={"config.json": d.LLAMA_8B, "model.safetensors": header_of(tensors)})
    weights = ask(hub, "org/awq").documents.weights
    assert (weights.bytes, weights.parameters) == (131584, None)


@pytest.mark.parametrize(
    ("values", "size", "how"),
    [
        (
            {"files": {"config.json": d.LLAMA_8B, INDEX: index(None), "model-1.safetensors": b"x" * 40}},
            40,
            "file",
        ),
        (
            {
                "files": {"config.json": d.LLAMA_8B, "model.safetensors": b"\xff" * 64},
                "sizes": {"model.safetensors": 5000},
            },
            5000,
            "file",
        ),
        (
            {
                "files": {"config.json": d.LLAMA_8B, INDEX: index(None)},
                "safetensors": {"BF16": 1000, "F32": 10},
            },
            2040,
            "parameters",
        ),
    ],
)
def test_without_a_total_the_next_best_source_is_taken_and_named(
    hub: Hub, values: dict[str, Any], size: int, how: str
) -> None:
    hub.add("org/model", **values)
    found = ask(hub, "org/model")
    assert (found.documents.weights.bytes, found.documents.weights.how) == (size, how)
    assert found.notes


def test_a_repository_without_safetensors_says_what_to_do(hub: Hub) -> None:
    hub.add("org/old", files={"config.json": d.LLAMA_8B, "pytorch_model.bin": b"x"})
    found = ask(hub, "org/old")
    assert found.record()["weight_bytes"] is None
    (note,) = found.notes
    assert "only .bin files" in note
    assert "name a repository with safetensors, or convert the checkpoint" in note
    with pytest.raises(Exception, match="no weight_bytes"):
        found.row()


def test_an_unknown_architecture_has_the_checkpoints_count_and_says_so(hub: Hub) -> None:
    document = {
        **d.UNKNOWN,
        "layer_types": ["full_attention"] * 8,
        "num_experts": 4,
        "num_experts_per_tok": 1,
    }
    document["moe_intermediate_size"] = 100
    counts = {"F16": 50_000_000}
    hub.add("org/odd", files={"config.json": document, INDEX: index(100_000_000)}, safetensors=counts)
    found = ask(hub, "org/odd")
    assert found.parameters == 50_000_000
    assert found.active_parameters == 50_000_000 - 8 * 3 * (3 * 1024 * 100)
    assert any("SyntheticForCausalLM is not known here" in note for note in found.notes)
    assert found.row().slug == "odd"


def test_a_hybrid_is_shown_but_not_sized(hub: Hub) -> None:
    hub.add("org/hybrid", files={"config.json": hybrids.JAMBA, INDEX: index(103_000_000_000)})
    found = ask(hub, "org/hybrid")
    assert found.record()["kv_bytes_per_token"] == 16384
    with pytest.raises(Exception, match="4 full, 28 state of fixed size"):
        found.row()


def test_a_row_for_sizing(hub: Hub) -> None:
    hub.add("openai/gpt-oss-20b", files={"config.json": d.GPT_OSS, INDEX: index(13_761_264_768)})
    row = ask(hub, "openai/gpt-oss-20b").row()
    packaged = load_models()["gpt-oss-20b"]
    for name in (
        "layers",
        "full_attention_layers",
        "kv_heads",
        "head_dim",
        "intermediate_size",
        "weight_bytes",
    ):
        assert getattr(row, name) == getattr(packaged, name), name
    assert row.kv_bytes(10_000) == packaged.kv_bytes(10_000)
    assert (row.revision, row.commit) == (COMMIT[:7], COMMIT)
    assert (row.dtype, row.note) == ("bf16", "no type is stated: 16 bits are assumed")


def test_parts_that_are_not_served_are_said(hub: Hub) -> None:
    doubled = {"BF16": 8_030_261_248 + 525_336_576}
    llama(hub, gated=False, safetensors=doubled)
    (note,) = ask(hub).notes
    assert "8,555,597,824 parameters and 8,030,261,248 are served" in note


def test_a_gated_model_without_a_token(hub: Hub) -> None:
    llama(hub)
    error = refused(hub)
    assert error.code == "gated"
    assert error.message == f"{LLAMA} is gated: its files open only to accounts that accepted its licence."
    assert error.hint == f"Accept its licence at {hub.url}/{LLAMA}, make a read token there and set HF_TOKEN."


def test_a_gated_model_with_the_token_of_a_stranger(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", CANARY)
    hub.strangers.add(CANARY)
    llama(hub)
    error = refused(hub)
    assert error.code == "gated"
    assert "the token in HUGGING_FACE_HUB_TOKEN has no access" in (error.hint or "")


def test_a_missing_model_and_a_private_one_look_alike(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/private", files={"config.json": d.LLAMA_8B}, private=True)
    for name in ("org/absent", "org/private"):
        error = refused(hub, name)
        assert (error.code, error.message) == ("missing", f"The hub at {hub.url} shows no model {name}.")
        assert "needs HF_TOKEN" in (error.hint or "")
    monkeypatch.setenv("HF_TOKEN", CANARY)
    hub.members.add(CANARY)
    assert ask(hub, "org/private").documents.gated is False
    assert "the token in HF_TOKEN may not see it" in (refused(hub, "org/absent").hint or "")


def test_a_wrong_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    llama(hub, gated=False)
    with pytest.raises(HubError) as caught:
        ask(hub)
    error = caught.value
    assert error.code == "token"
    assert error.message == f"The hub at {hub.url} does not accept the token in HF_TOKEN."
    assert "unset HF_TOKEN for public models" in (error.hint or "")
    assert CANARY not in str(error)


def test_no_network_a_silent_hub_and_a_slow_one(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with Running() as gone:
        address = gone.url
    with pytest.raises(HubError, match="does not answer for org/model") as caught:
        look_up("org/model", hub_url=address, timeout_s=2)
    assert caught.value.code == "network"
    assert "accelbench models list" in (caught.value.hint or "")
    llama(hub, gated=False)
    hub.silent_s = 1.0
    with pytest.raises(HubError, match="does not answer"):
        look_up(LLAMA, hub_url=hub.url, timeout_s=0.2)
    hub.silent_s, hub.drip_s = 0.0, 0.02
    hub.repositories[LLAMA].files["config.json"] = b" " * 100_000
    monkeypatch.setattr("accelbench_assets.models.hub._WHOLE", 1)
    with pytest.raises(HubError, match="did not come to its end"):
        look_up(LLAMA, hub_url=hub.url, timeout_s=0.5)


def test_offline_mode_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    error = refused(hub)
    assert "HF_HUB_OFFLINE is set" in error.message
    assert hub.asked == []


@pytest.mark.parametrize(
    ("status", "code"), [(429, "refused"), (500, "refused"), (503, "refused"), (403, "token")]
)
def test_a_hub_in_trouble(hub: Hub, status: int, code: str) -> None:
    hub.status = status
    error = refused(hub)
    assert error.code == code
    assert str(status) in error.message


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"model-q4.gguf": b"GGUF"}, "GGUF files"),
        ({"adapter_config.json": {}, "adapter_model.safetensors": b""}, "an adapter"),
        ({"params.json": {}, "consolidated.safetensors": b""}, "format of their own|format of its own"),
        ({"README.md": b"#"}, "whole model"),
    ],
)
def test_a_repository_without_a_configuration(hub: Hub, files: dict[str, Any], says: str) -> None:
    hub.add("org/other", files=files)
    error = refused(hub, "org/other")
    assert error.code == "no_config"
    assert error.message == "The repository org/other has no config.json."
    assert any(one in (error.hint or "") for one in says.split("|"))


@pytest.mark.parametrize("body", [b"{not json", b"[1]", b"\xff\xfe", b"[" * 200_000])
def test_a_configuration_that_is_none(hub: Hub, body: bytes) -> None:
    hub.add("org/broken", files={"config.json": body})
    error = refused(hub, "org/broken")
    assert error.code == "bad_config"
    assert "config.json of org/broken at commit 0123456 is not a JSON object." in error.message


def test_a_configuration_that_says_too_little_or_has_no_end(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/pipeline", files={"config.json": {"model_type": "synthetic"}})
    with pytest.raises(ModelConfigError, match="org/pipeline does not state"):
        ask(hub, "org/pipeline")
    monkeypatch.setattr("accelbench_assets.models.hub.MOST_CONFIG_BYTES", 1000)
    hub.add("org/endless", files={"config.json": b" " * 5000})
    assert "more than 1,000 bytes" in refused(hub, "org/endless").message


def test_a_wrong_name_and_a_disabled_model_and_a_wrong_setting(hub: Hub) -> None:
    for name in ("a/b/c", "org/--x", "../etc", ""):
        with pytest.raises(HubError) as caught:
            ask(hub, name)
        assert caught.value.code == "missing", name
        assert "ORGANISATION/NAME" in (caught.value.hint or "")
    hub.add("org/gone", files={"config.json": d.LLAMA_8B}, disabled=True)
    assert "has disabled org/gone" in refused(hub, "org/gone").message
    with pytest.raises(HubError, match=r"watch\.hub_url") as caught:
        look_up("org/model", hub_url=f"https://user:{CANARY}@hub.invalid")
    assert CANARY not in str(caught.value)


def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    hub.members.add(CANARY)
    llama(hub)
    with Running() as elsewhere, caplog.at_level(logging.DEBUG):
        elsewhere.add(LLAMA, files=hub.repositories[LLAMA].files)
        hub.redirect_to = elsewhere.url
        found = ask(hub)
        assert found.record()["weight_bytes"] == 16_060_522_496
        assert elsewhere.asked
        assert all(CANARY not in str(headers) for _, headers in elsewhere.asked)
    assert any(f"Bearer {CANARY}" in headers.values() for _, headers in hub.asked)
    assert CANARY not in repr(found)
    assert CANARY not in str(found.record())
    assert CANARY not in caplog.text
    assert not any(CANARY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_token_stored_on_this_machine_is_not_used(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "token").write_text(CANARY)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    llama(hub, gated=False)
    ask(hub)
    assert all("Authorization" not in headers for _, headers in hub.asked)


def test_what_the_hub_says_otherwise_is_named_with_both_figures(hub: Hub) -> None:
    changed = {**d.LLAMA_8B, "num_key_value_heads": 4, "max_position_embeddings": 8192}
    hub.add(LLAMA, files={"config.json": changed, INDEX: index(20_000_000_000)}, tags=("license:other",))
    hub.repositories[LLAMA].card = {"license": "other", "license_name": "llama3.1"}
    found = contradictions(ask(hub), load_models()["llama-3.1-8b-instruct"])
    by_field = {one.field: (one.live, one.packaged) for one in found}
    assert by_field["kv_heads"] == (4, 8)
    assert by_field["max_position_embeddings"] == (8192, 131072)
    assert by_field["weight_bytes"] == (20_000_000_000, 16_060_522_496)
    assert by_field["gated"] == (False, True)
    assert "license" not in by_field
    assert str(found[0]).startswith("llama-3.1-8b-instruct: ")
    assert "on the hub and" in str(found[0])


def test_a_round_keeps_packaged_facts_where_the_hub_fails(hub: Hub) -> None:
    rows = load_models()
    chosen = [
        rows[name] for name in ("smollm2-135m-instruct", "llama-3.1-8b-instruct", "phi-4", "gpt-oss-20b")
    ]
    llama(hub, gated=False, commit=rows["llama-3.1-8b-instruct"].commit)
    hub.add(
        "openai/gpt-oss-20b",
        files={"config.json": d.GPT_OSS, INDEX: index(13_761_264_768)},
        commit=rows["gpt-oss-20b"].commit,
    )
    done = refresh(chosen, hub_url=hub.url, timeout_s=5)
    assert list(done.models) == ["llama-3.1-8b-instruct", "gpt-oss-20b"]
    assert set(done.failed) == {"smollm2-135m-instruct", "phi-4"}
    assert "shows no model microsoft/phi-4" in done.failed["phi-4"]
    # Of the public copy here: the packaged row says gated.
    assert [(one.subject, one.field) for one in done.contradictions] == [("llama-3.1-8b-instruct", "gated")]


def test_a_round_stops_asking_a_hub_that_does_not_answer() -> None:
    with Running() as gone:
        address = gone.url
    rows = [row for row in load_models().values() if row.commit][:5]
    done = refresh(rows, hub_url=address, timeout_s=1)
    assert done.models == {}
    assert len(done.failed) == 5
    assert sum(text.startswith("not asked") for text in done.failed.values()) == 4


def test_slugs() -> None:
    assert slug_of("Qwen/Qwen3-30B-A3B_Instruct 2507") == "qwen3-30b-a3b-instruct-2507"
    assert slug_of("///") == "model"
