"""What vLLM makes of 16-bit weights while it loads them, and which accelerators multiply which precision.

Belongs here: the methods vLLM quantises with at load, their flags, the compute capability they need. Does not belong
here: what a chip has (``partitions``), bytes (``weights``), which precision is worth trying (``fit``), the rest of a
command line (``engines``).

Read in vLLM 0.32's source (``config/quantization.py``, ``layers/quantization/online``, ``model_loader``) and its
documentation (online quantization, INT8 W8A8, FP8 W8A8). There is no INT8 of dense layers: the two INT8 methods make
experts and leave the rest at 16 bits, and everything else (AWQ, GPTQ, INT8 W8A8, NVFP4 …) is a checkpoint made
beforehand. FP8 needs no FP8 units: without them its Marlin kernels widen the weights (compute capability 7.5 and up).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from partitions.rows import AcceleratorRow, ModelRow

BLACKWELL = 10.0
"""From here on vLLM has no INT8 products ("INT8 is not supported on compute capability >= 10.0")."""
FIRST_SHORTHANDS = (0, 29)
"""The first vLLM whose documentation was seen to have ``fp8_per_tensor``; there ``fp8`` is deprecated for loading."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method vLLM quantises 16-bit weights with. ``experts_only``: linear layers stay at 16 bits. Capabilities from
    *least* to below *below*."""

    experts_only: bool = False
    least: float = 7.5
    below: float = float("inf")


AT_LOAD_METHODS = {
    "fp8": Method(),
    "fp8_per_tensor": Method(),
    "fp8_per_block": Method(),
    "fp8_per_channel": Method(),
    "mxfp4": Method(least=8.0),
    "mxfp8": Method(least=10.0),
    "experts_int8": Method(experts_only=True, least=8.0, below=BLACKWELL),
    "int8_per_channel_weight_only": Method(experts_only=True, below=BLACKWELL),
    "nvfp4_per_token": Method(experts_only=True, least=10.0, below=11.0),
}
CHECKPOINT_METHODS = frozenset(
    {
        *("awq", "awq_marlin", "auto_awq", "gptq", "gptq_marlin", "auto_gptq", "compressed-tensors", "quark"),
        *(
            "fbgemm_fp8",
            "fp_quant",
            "modelopt",
            "modelopt_fp4",
            "modelopt_mxfp8",
            "modelopt_mixed",
            "torchao",
        ),
        *("inc", "humming", "moe_wna16", "gpt_oss_mxfp4", "deepseek_v4_fp8"),
    }
)
"""Names that vLLM takes only for a checkpoint that says the same of itself."""


def not_multiplied(precision: str, chip: AcceleratorRow) -> str | None:
    """Why vLLM does not serve weights in *precision* on the GPU *chip* at all; None if nothing is known against it."""
    found = chip.compute_capability
    if precision == "int8" and found is not None and found >= BLACKWELL:
        return f"vLLM has no INT8 on compute capability {BLACKWELL:.1f} and up, and {chip.id} has {found:.1f}: take fp8"
    return None


def not_made(method: str, model: ModelRow | None, chip: AcceleratorRow | None) -> str | None:
    """Why vLLM cannot make *method* of 16-bit weights of *model* on *chip* while loading; None if it can.

    A null *model* is one the catalog does not have: its checkpoint may already be so, which vLLM accepts.
    """
    found = AT_LOAD_METHODS.get(method)
    if found is None:
        if model is None and method in CHECKPOINT_METHODS:
            return None
        return f"vLLM makes no {method} while loading; it needs a checkpoint that is {method} already"
    if model is not None and found.experts_only and not model.experts:
        return f"{method} quantises experts only, and {model.slug} has none"
    has = chip.compute_capability if chip is not None else None
    if chip is not None and has is not None and not found.least <= has < found.below:
        return f"vLLM makes no {method} on compute capability {has:.1f} ({chip.id})"
    return None


def flag(method: str, engine_version: str) -> str:
    """The value of ``--quantization`` for *method* in vLLM *engine_version* (0.33.0, 0.24.0-neuron2.32)."""
    numbers = re.match(r"v?(\d+)\.(\d+)", engine_version)
    if method == "fp8" and numbers and (int(numbers[1]), int(numbers[2])) >= FIRST_SHORTHANDS:
        return "fp8_per_tensor"
    return method
