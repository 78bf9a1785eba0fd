"""Published measurements, and the facts of the models and accelerators they name that our catalog does not have.

Shapes are those of the models' public config.json; rates are NVIDIA's datasheet peaks without sparsity, as commonly
printed (November 2026). Catalog rows are used where there are any.
"""

import csv
from dataclasses import replace
from functools import cache
from pathlib import Path

from partitions.catalog import load_instances, load_models
from partitions.rows import AcceleratorRow, ModelRow

FOLDER = Path(__file__).parent
Row = dict[str, str]

_SHAPES = {
    # model: (parameters, layers, full attention layers, width, feed-forward, heads, kv heads, head, window, vocabulary)
    "llama-2-70b": (68976648192, 80, None, 8192, 28672, 64, 8, 128, None, 32000),
    "llama-3.1-405b": (405853388800, 126, None, 16384, 53248, 128, 8, 128, None, 128256),
    "mistral-7b-v0.2": (7241732096, 32, None, 4096, 14336, 32, 8, 128, None, 32000),
    "gemma-2b": (2506172416, 18, None, 2048, 16384, 8, 1, 256, None, 256000),
    "gemma-2-9b": (9241705984, 42, 21, 3584, 14336, 16, 8, 256, 4096, 256000),
    "gemma-2-27b": (27227128320, 46, 23, 4608, 36864, 32, 16, 128, 4096, 256000),
    "gemma-3-1b": (999885952, 26, 4, 1152, 6912, 4, 1, 256, 512, 262144),
}
_MODELS = {
    "Llama-3-8B": "llama-3.1-8b-instruct",
    "Llama-3.1-8B-Instruct": "llama-3.1-8b-instruct",
    "Llama-3-70B": "llama-3.3-70b-instruct",
    "Llama-3.1-70B": "llama-3.3-70b-instruct",
    "Llama-3.3-70B": "llama-3.3-70b-instruct",
    "Qwen2.5-72B": "qwen2.5-72b-instruct",
    "Qwen2.5-7B-Instruct": "qwen2.5-7b-instruct",
    "Qwen2-7B-Instruct": "qwen2.5-7b-instruct",
    "Qwen3-32B": "qwen3-32b",
    "Qwen3-8B": "qwen3-8b",
    "gpt-oss-120b": "gpt-oss-120b",
    "Llama-2-70b": "llama-2-70b",
    "Llama-3.1-405B": "llama-3.1-405b",
    "Llama-3.1-405B-FP8": "llama-3.1-405b",
    "Mistral-7B-Instruct-v0.2": "mistral-7b-v0.2",
    "Mistral-7B": "mistral-7b-v0.2",
    "Gemma-2B": "gemma-2b",
    "Gemma2-9B": "gemma-2-9b",
    "Gemma-2-27B": "gemma-2-27b",
    "Gemma3-1B": "gemma-3-1b",
}
_CHIPS = {
    # not rented from AWS: (memory in MiB, GB/s, dense 16-bit TFLOPS, FP8 TFLOPS, link, GB/s one way)
    "h100-nvl-94gb": (96256, 3938, 835, 1671, "NVLink4", 300),
    "NVIDIA H100 PCIe": (81920, 2039, 756, 1513, "PCIe5 x16", 64),
    "NVIDIA A100 80GB PCIe": (81920, 1935, 312, None, "PCIe4 x16", 32),
    "NVIDIA RTX A6000": (49152, 768, 154.8, None, "PCIe4 x16", 32),
    "NVIDIA RTX A5000": (24576, 768, 111.1, None, "PCIe4 x16", 32),
    "NVIDIA GeForce RTX 4090": (24576, 1008, 165.2, 330.3, "PCIe4 x16", 32),
}
_SAME_CHIP = {
    "trainium": "trainium1",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
    "NVIDIA B200": "b200",
    "NVIDIA L40S": "l40s",
}
# A row without a count names an hour's price instead; these are what one device cost there.
_USD_PER_DEVICE = {"NVIDIA H200": 3.99, "NVIDIA H100 80GB HBM3": 2.69}


def rows(name: str = "published_figures.csv") -> list[Row]:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


@cache
def model(name: str) -> ModelRow | None:
    slug = _MODELS.get(name)
    if slug is None or slug in load_models():
        return load_models().get(slug or "")
    count, layers, full, width, feed, heads, kv_heads, head, window, words = _SHAPES[slug]
    return replace(
        load_models()["llama-3.1-8b-instruct"],
        slug=slug,
        parameters=count,
        active_parameters=count,
        layers=layers,
        full_attention_layers=full,
        hidden_size=width,
        intermediate_size=feed,
        attention_heads=heads,
        kv_heads=kv_heads,
        head_dim=head,
        sliding_window=window,
        vocab_size=words,
        weight_bytes=2 * count,
    )


@cache
def chip(name: str) -> AcceleratorRow | None:
    catalog = {row.accelerator.id: row.accelerator for row in load_instances().values()}
    if (known := _SAME_CHIP.get(name, name)) in catalog:
        return catalog[known]
    if name not in _CHIPS:
        return None
    memory, bandwidth, wide, narrow, link, rate = _CHIPS[name]
    return replace(
        catalog["l40s"],
        id=name,
        name=name,
        memory_mib=memory,
        memory_bandwidth_gb_s=float(bandwidth),
        bf16_tflops=float(wide),
        fp8_tflops=narrow,
        interconnect=link,
        link_gb_s=float(rate),
    )


def devices(row: Row) -> int:
    """The count the source states, else what its hourly price buys."""
    if row.get("accelerator_count") or row.get("accelerators"):
        return int(row.get("accelerator_count") or row["accelerators"])
    price, each = row.get("usd_per_hour"), _USD_PER_DEVICE.get(row["accelerator"])
    return max(1, round(float(price) / each)) if price and each else 1


def number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
