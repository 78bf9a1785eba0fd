"""llama.cpp on this machine's processor, from the ``xllamacpp`` wheel: the engine of the demo.

Belongs here: how a deployment becomes its arguments, and what its ``/props`` and ``/v1/models`` say.
Does not belong here: the server process (``llamacpp_server``), finding GGUF files (``weights``).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelbench_assets.engines import llamacpp_server
from accelbench_assets.engines.base import EngineInstall, check_install, refuse_parallelism
from accelbench_assets.engines.weights import Weights, gguf_weights
from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.base import ServerSpec
from accelbench_assets.launch.probe import Server

PACKAGE = "xllamacpp"
DEFAULT_CONTEXT = 2048
# Arguments a cell may set beyond its named fields, and the flag of the server program each becomes.
ARGUMENTS = ("parallel", "threads", "batch-size", "ubatch-size", "flash-attn")
_KV_TYPES = {"auto": "f16", "fp16": "f16", "fp32": "f32"}


class LlamaCpp:
    """Engine ``llamacpp``; see the protocol for the meaning of each member."""

    name = "llamacpp"
    origin = "measured"
    health_path = "/health"
    metrics_path = "/metrics"
    fact_args: Mapping[str, str] = {
        "max_model_len": "ctx-per-slot",
        "kv_cache_dtype": "cache-type",
        "prefix_caching": "prefix-caching",
    }
    start_timeout_s = 180.0
    scratch_variable: str | None = None

    def installed_version(self, home: Path) -> str:
        """The version of the wheel: the server itself only says ``b0-unknown``."""
        if importlib.util.find_spec(PACKAGE) is None:
            raise LaunchError(
                "The engine llama.cpp is missing: package xllamacpp is not installed.",
                code="missing_part",
                hint="Run `make install`, or pip install 'accelbench[local]'.",
            )
        return importlib.metadata.version(PACKAGE).lower()

    def weights(self, model: str, home: Path) -> Weights:
        """The GGUF file of *model*."""
        return gguf_weights(model, home)

    def find(self, spec: ServerSpec, home: Path | None = None) -> EngineInstall:
        """Wheel and weights for *spec*; ``unsupported`` for arguments this server does not know."""
        home = home or spec.work_dir
        version = self.installed_version(home)
        weights = self.weights(spec.cell.model, home)
        deployment = spec.cell.deployment
        refuse_parallelism("llama.cpp", deployment)
        kv_type = _KV_TYPES.get(deployment.kv_cache_dtype, deployment.kv_cache_dtype)
        bad = [f"argument {name}" for name, _ in deployment.args if name.replace("_", "-") not in ARGUMENTS]
        bad += [f"kv_cache_dtype {kv_type}"] if kv_type not in llamacpp_server.KV_TYPES else []
        bad += [f"dtype {deployment.dtype}"] if deployment.dtype not in ("auto", weights.dtype) else []
        if bad:
            raise LaunchError(
                f"llama.cpp here does not support {bad[0]} for {weights.path.name}.",
                code="unsupported",
                hint=f"Its further arguments are: {', '.join(ARGUMENTS)}.",
            )
        return check_install(spec, EngineInstall(self.name, version, Path(sys.executable), weights))

    def command(self, install: EngineInstall, spec: ServerSpec, host: str, port: int) -> list[str]:
        """The server program by path, so that it needs nothing of ours on its import path."""
        deployment = spec.cell.deployment
        settings: dict[str, str] = {
            "threads": "1",  # two on busy cores collapse: llama.cpp spins at its barriers
            "ctx-per-slot": str(deployment.max_model_len or DEFAULT_CONTEXT),
            "cache-type": _KV_TYPES.get(deployment.kv_cache_dtype, deployment.kv_cache_dtype),
            "prefix-caching": "off" if deployment.prefix_caching is False else "on",
            **{name.replace("_", "-"): value for name, value in deployment.args},
        }
        program = [str(install.interpreter), "-P", str(llamacpp_server.__file__)]
        program += [
            "--model",
            str(install.weights.path),
            "--alias",
            spec.served_model_name or spec.cell.model,
        ]
        program += ["--host", host, "--port", str(port)]
        return program + [word for name, value in settings.items() for word in (f"--{name}", value)]

    def env(self, spec: ServerSpec, home: Path) -> dict[str, str]:
        """Nothing: the program takes all it needs as arguments."""
        return {}

    def version(self, server: Server, install: EngineInstall) -> str:
        """The version of the wheel; see :meth:`installed_version`."""
        return install.version

    def effective_args(self, server: Server, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Slots, context of one slot, file type and sampling defaults from ``/props``; sizes from
        ``/v1/models``.
        """
        found = dict(arguments)
        props = server.get_json("/props")
        if isinstance(props, dict):
            generation = props.get("default_generation_settings") or {}
            found |= {
                "parallel": props.get("total_slots"),
                "ctx-per-slot": generation.get("n_ctx"),
                "model_ftype": props.get("model_ftype"),
                "build_info": props.get("build_info"),
            }
        listed = server.get_json("/v1/models")
        if isinstance(listed, dict) and listed.get("data"):
            meta = listed["data"][0].get("meta") or {}
            found |= {k: meta[k] for k in ("n_params", "n_ctx_train", "size", "n_vocab") if k in meta}
        found["model"] = Path(str(found.get("model", ""))).name  # where it lies says nothing about a result
        return found

    def startup_durations(self, log: str) -> dict[str, float]:
        """Empty: the log gives no durations; the launcher's own clock on ``/health`` is used."""
        return {}
