"""What a checkpoint's weights are quantised to, by its ``quantization_config``.

Belongs here: the formats' own words turned into one scheme, bits and group. Does not belong here: how many bytes that
makes (the checkpoint says it), which engine can load it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from accelbench_assets.models.fields import Fields

NONE = "none"
_BY_METHOD = {
    "fp8": ("fp8", 8),
    "fbgemm_fp8": ("fp8", 8),
    "deepspeedfp": ("fp8", 8),
    "mxfp4": ("mxfp4", 4),
    "mxfp8": ("mxfp8", 8),
    "nvfp4": ("nvfp4", 4),
    "eetq": ("int8", 8),
    "bitnet": ("ternary", 2),
}
_BITS_OF = {"int": "int", "float": "fp", "fp": "fp"}
_ALGORITHMS = {
    **{"FP8": ("fp8", 8), "NVFP4": ("nvfp4", 4), "W4A16_AWQ": ("awq", 4), "W4A8_AWQ": ("awq", 4)},
    **{"FP8_PB_WO": ("fp8", 8), "FP8_PER_CHANNEL_PER_TOKEN": ("fp8", 8), "INT8_SQ": ("int8", 8)},
    **{"MXFP8": ("mxfp8", 8), "W8A8_SQ_PER_CHANNEL": ("int8", 8), "NVFP4_AWQ": ("nvfp4", 4)},
}


@dataclass(frozen=True, slots=True)
class Quantization:
    """``scheme`` is the word of a deployment (``none``, ``fp8``, ``awq``, ``gptq``, ``int8``, ``mxfp4`` …), ``method``
    the library's name for its format; ``bits`` a weight, ``group`` weights a scale, both null where not said.
    """

    scheme: str
    method: str | None = None
    bits: int | None = None
    group: int | None = None

    def __str__(self) -> str:
        details = [f"{self.bits} bits" if self.bits else "", f"groups of {self.group}" if self.group else ""]
        said = ", ".join(one for one in (self.method if self.method != self.scheme else "", *details) if one)
        return f"{self.scheme} ({said})" if said else self.scheme


def read_quantization(outer: Fields, text: Fields) -> Quantization:
    """The quantisation of the document; scheme ``none`` where it states none, the method's own name where unknown."""
    found = next(
        (
            level.values[name]
            for level in (outer, text)
            for name in ("quantization_config", "compression_config")
            if isinstance(level.values.get(name), Mapping) and level.values[name]
        ),
        None,
    )
    if found is None:
        return Quantization(NONE)
    fields = Fields(found, None, outer.notes)
    method = (fields.text("quant_method") or fields.text("quant_type") or "").lower().replace("-", "_")
    if not method and found.get("quant_algo"):
        method = "modelopt"
    bits = fields.count("bits", "w_bit", "weight_bits")
    group = fields.count("group_size", "q_group_size")
    if method in ("awq", "gptq", "gptq_marlin", "awq_marlin"):
        return Quantization(method.removesuffix("_marlin"), method, bits or 4, group or 128)
    if method in ("compressed_tensors", "sparseml"):
        return _compressed(fields)
    if method == "modelopt":
        return _modelopt(fields)
    if method == "bitsandbytes":
        return _bitsandbytes(fields)
    if method in ("auto_round", "intel/auto_round", "hqq", "quanto", "torchao"):
        return Quantization(f"int{bits}" if bits else method, method, bits, group)
    if method in _BY_METHOD:
        scheme, known = _BY_METHOD[method]
        return Quantization(scheme, method, known, group or _block(fields))
    name = method[:40] or "unknown"
    outer.note(f"the quantisation {name!r} is not known here: bits are what the checkpoint's size says")
    return Quantization(name, name, bits, group)


def _block(fields: Fields) -> int | None:
    """The width of square blocks that share a scale, if that is how it is scaled."""
    size = fields.numbers("weight_block_size")
    return size[0] or None if size else None


def _compressed(fields: Fields) -> Quantization:
    groups = fields.values.get("config_groups")
    schemes = set()
    bits = group = None
    for one in groups.values() if isinstance(groups, Mapping) else ():
        weights = Fields(one, None, fields.notes).inner("weights") if isinstance(one, Mapping) else None
        if weights is None or (bits_here := weights.count("num_bits")) is None:
            continue
        kind = _BITS_OF.get(weights.text("type") or "", "int")
        bits, group = bits_here, weights.count("group_size")
        packed = fields.text("format") or ""
        schemes.add("nvfp4" if "nvfp4" in packed else "mxfp4" if "mxfp4" in packed else f"{kind}{bits_here}")
    if len(schemes) != 1:
        fields.note(f"compressed-tensors with {len(schemes)} kinds of weights: the size says what they weigh")
        return Quantization("mixed" if schemes else "compressed_tensors", "compressed-tensors")
    return Quantization(schemes.pop(), "compressed-tensors", bits, group)


def _modelopt(fields: Fields) -> Quantization:
    algorithm = (fields.text("quant_algo") or fields.inner("quantization").text("quant_algo") or "").upper()
    if algorithm in _ALGORITHMS:
        scheme, bits = _ALGORITHMS[algorithm]
        return Quantization(scheme, "modelopt", bits, fields.count("group_size"))
    fields.note(f"the ModelOpt algorithm {algorithm[:40] or '(none)'!r} is not known here")
    return Quantization(algorithm[:40].lower() or "modelopt", "modelopt")


def _bitsandbytes(fields: Fields) -> Quantization:
    if fields.flag("load_in_8bit"):
        return Quantization("int8", "bitsandbytes", 8)
    kind = fields.text("bnb_4bit_quant_type") or "fp4"
    return Quantization(kind if kind in ("nf4", "fp4") else "int4", "bitsandbytes", 4, 64)
