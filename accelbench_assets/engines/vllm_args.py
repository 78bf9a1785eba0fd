"""A deployment as arguments of vLLM's server, the same for every place vLLM runs.

Belongs here: which argument a field of ``Deployment`` becomes, and the arguments nobody may set beside it.
Does not belong here: model, host and port (each place has its own), images (``images``), processes (``vllm``).
"""

from __future__ import annotations

from accelbench_assets.errors import LaunchError
from partitions.cell import Deployment

DTYPES = {"auto": "auto", "bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

_OWN = frozenset(
    {
        *(
            "model",
            "served-model-name",
            "host",
            "port",
            "revision",
            "tokenizer-revision",
            "dtype",
            "quantization",
        ),
        *("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size", "enable-expert-parallel"),
        *(
            "kv-cache-dtype",
            "max-model-len",
            "enable-prefix-caching",
            "no-enable-prefix-caching",
            "uds",
            "config",
        ),
    }
)
"""Set by fields of the cell or by the launcher: given again in ``args``, the result would not be what its key says."""


def vllm_arguments(
    deployment: Deployment, *, auto_dtype: str = "auto", quantize_to: str | None = None
) -> list[str]:
    """Arguments of everything in *deployment* but its place.

    *auto_dtype* is what ``auto`` becomes. *quantize_to* is the method weights are quantised with while loading;
    ``None`` leaves the checkpoint as it is. Raises ``LaunchError``: ``unsupported`` for expert parallelism over fewer
    ranks than there are or for a router, ``bad_config`` for ``args`` that repeat a field.
    """
    _check(deployment)
    found = ["--dtype", auto_dtype if deployment.dtype == "auto" else DTYPES[deployment.dtype]]
    for name, count in (
        ("tensor-parallel-size", deployment.tp),
        ("pipeline-parallel-size", deployment.pp),
        ("data-parallel-size", deployment.dp),
    ):
        if count > 1:
            found += [f"--{name}", str(count)]
    if deployment.ep > 1:
        found += ["--enable-expert-parallel"]
    if quantize_to is not None:
        found += ["--quantization", quantize_to]
    if deployment.kv_cache_dtype != "auto":
        found += ["--kv-cache-dtype", deployment.kv_cache_dtype]
    if deployment.max_model_len:
        found += ["--max-model-len", str(deployment.max_model_len)]
    if deployment.prefix_caching is not None:
        found += [f"--{'' if deployment.prefix_caching else 'no-'}enable-prefix-caching"]
    for name, value in deployment.args:
        found += [f"--{name}", *([] if value in ("", "true") else [value])]
    return found


def argument_names(deployment: Deployment) -> set[str]:
    """Names of the free arguments, with dashes."""
    return {name.replace("_", "-").lower() for name, _ in deployment.args}


def _check(deployment: Deployment) -> None:
    if deployment.router != "none":
        raise LaunchError(
            f"The cell asks for the router {deployment.router}, and nothing here starts one.",
            code="unsupported",
        )
    # vLLM spreads experts over all ranks of tensor and data parallelism; there is no number to choose.
    if deployment.ep not in (1, deployment.tp * deployment.dp):
        raise LaunchError(
            f"vLLM spreads experts over all {deployment.tp * deployment.dp} ranks, and the cell says ep "
            f"{deployment.ep}.",
            code="unsupported",
            hint=f"Set ep to 1 (off) or {deployment.tp * deployment.dp}.",
        )
    if repeated := sorted(argument_names(deployment) & _OWN):
        raise LaunchError(
            f"args of the cell set --{repeated[0]}, which a field of the cell or the launcher sets.",
            code="bad_config",
            hint="Leave it out of args and use the cell's own field.",
        )
