"""What a launcher knows for the ``runs`` record, by its field names.

Belongs here: the fields of target, model, engine and times with their defaults, and the scrubbed environment.
Does not belong here: identity, load, outcome, provenance and cost of a run (``bench``).

Times are ISO-8601 UTC texts; ``None`` means not measured or not known, 0 means zero.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from accelbench_assets.launch.base import ServerSpec
from accelbench_assets.scrub import looks_secret, scrub, scrub_env

# Inherited variables that change how an engine computes; the rest of the environment is nobody's business.
_TELLING_PREFIXES = (
    "CUDA_", "GGML_", "GOMP_", "HF_", "KMP_", "LD_PRELOAD", "LLAMA_", "MALLOC_", "MKL_", "NCCL_", "NEURON_",
    "OMP_", "OPENBLAS_", "SGLANG_", "TORCH", "VLLM_",
)  # fmt: skip
_URL_NAME = re.compile(r"(DATABASE_URL|_DSN)$", re.I)
_URL_WITH_CREDENTIALS = re.compile(r"://[^/\s:@]*:[^\s@]+@")  # a password may hold a slash
_FOLDER_SUFFIXES = ("_CACHE", "_DIR", "_HOME", "_PATH", "_ROOT")


def iso(moment: datetime) -> str:
    """ISO-8601 with microseconds and offset."""
    return moment.isoformat(timespec="microseconds")


def without_secrets(environ: Mapping[str, str], keep: tuple[str, ...] = ()) -> dict[str, str]:
    """An environment for a child without secret-looking variables but those named or prefixed in *keep*.

    Secret is what its name says, and every URL of a database or with a password in it.
    """
    return {k: v for k, v in environ.items() if k.startswith(keep) or not _holds_secret(k, v)}


def _holds_secret(name: str, value: str) -> bool:
    return bool(looks_secret(name) or _URL_NAME.search(name) or _URL_WITH_CREDENTIALS.search(value))


def telling_env(added: Mapping[str, str]) -> dict[str, str]:
    """The part of the environment that belongs in the record: what was *added*, and telling inherited
    variables.

    Where folders lie says nothing about a result and is left out.
    """
    inherited = {k: v for k, v in os.environ.items() if k.startswith(_TELLING_PREFIXES)}
    return scrub_env({k: v for k, v in {**inherited, **added}.items() if not k.endswith(_FOLDER_SUFFIXES)})


def clean_args(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """*arguments* with texts scrubbed."""
    return {k: scrub(v) if isinstance(v, str) else v for k, v in sorted(arguments.items())}


def base_facts(spec: ServerSpec, launcher: str) -> dict[str, Any]:
    """Every field a launcher is responsible for: from the cell where the cell says it, else ``None``."""
    cell, deployment = spec.cell, spec.cell.deployment
    unknown = """
        region zone accelerator_kind accelerator_name accelerators_used node_name capacity_type
        host_fingerprint weights_sha256 image_digest driver_version runtime_version neuron_sdk_version
        spec_decoding provisioned_at image_pulled_at weights_loaded_at ready_at first_probe_at
        torn_down_at provision_s image_pull_s weights_s compile_s ready_s
    """
    return {
        **dict.fromkeys(unknown.split()),
        "launcher": launcher,
        "instance_type": cell.instance,
        "instance_count": 1,
        "model_id": spec.model_id,
        "model_revision": cell.revision,
        "quantization": deployment.quantization,
        "weight_dtype": deployment.dtype,
        "kv_cache_dtype": deployment.kv_cache_dtype,
        "max_model_len": deployment.max_model_len,
        "engine": cell.engine,
        "engine_version": cell.engine_version,
        "engine_args": dict(deployment.args),
        "env": {},
        "tp": deployment.tp,
        "pp": deployment.pp,
        "dp": deployment.dp,
        "ep": deployment.ep,
        "replicas": deployment.replicas,
        "router": deployment.router,
        "prefix_caching": deployment.prefix_caching,
    }
