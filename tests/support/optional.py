"""Parts that no lock file brings: a test that needs one names it, and fails where the part is there but broken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from accelbench_assets.engines.weights import DEMO_MODEL

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("ACCELBENCH_HOME", ROOT / ".accelbench"))
MODELS = HOME / "models"
VLLM_PYTHON = Path(os.environ.get("ACCELBENCH_VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))


def missing(part: str) -> str:
    """The reason to skip for want of *part*."""
    return f"optional part missing: {part}"


needs_vllm = pytest.mark.skipif(
    not VLLM_PYTHON.exists(), reason=missing("vLLM's own environment (`make demo-vllm` makes it)")
)
needs_vllm_and_model = pytest.mark.skipif(
    not (VLLM_PYTHON.exists() and (MODELS / DEMO_MODEL).is_dir()),
    reason=missing("vLLM's own environment and its model (`make demo-vllm` makes both)"),
)
