"""What an engine's last lines say of the end of its container, and what of them is shown."""

from __future__ import annotations

import pytest

from accelbench_assets.launch.kube.logtext import cause_in
from tests.launch.pod_cases import NAME, diagnose, ended, pod, verdict

LOGS = [
    (
        "does_not_fit",
        "(EngineCore pid=15) ERROR 10-25 13:08:43 [core.py:708] ValueError: No available memory for the cache blocks. "
        "Try increasing `gpu_memory_utilization` when initializing the engine.",
    ),
    (
        "does_not_fit",
        "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens that can be stored "
        "in KV cache (93760). Try increasing `gpu_memory_utilization`",
    ),
    (
        "does_not_fit",
        "ValueError: To serve at least one request with the model's max seq len (131072), (16.00 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (4.21 GiB).",
    ),
    ("does_not_fit", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 22.00 MiB."),
    ("does_not_fit", 'RuntimeError: nrt_tensor_allocate status=4 message="Allocation Failure"'),
    ("does_not_fit", "2024-Jul-30 ERROR NRT:nrt_infodump   Failure: NRT_RESOURCE in nrt_load()"),
    ("gated_model", "OSError: You are trying to access a gated repo.\nMake sure to have access to it"),
    ("gated_model", "Access to model meta-llama/Llama-3.1-8B is restricted. You must have access to it"),
    (
        "gated_model",
        "huggingface_hub.errors.HfHubHTTPError: 401 Client Error: Unauthorized for url: https://x",
    ),
    ("gated_model", "HTTPError: 403 Client Error: Forbidden for url: https://huggingface.co/x/y/config.json"),
    ("gated_model", "403 Client Error. (Request ID: 1)\n\nCannot access content at: https://hf.co/x/y."),
    (
        "model_not_found",
        "401 Client Error.\n\nRepository Not Found for url: https://hub.example/api/models/x.",
    ),
    (
        "model_not_found",
        "OSError: x/y is not a local folder and is not a valid model identifier listed on 'https://x'",
    ),
    ("bad_config", "api_server.py: error: unrecognized arguments: --no-such-flag"),
    ("bad_config", "pydantic_core.ValidationError: 1 validation error for ModelConfig"),
]


@pytest.mark.parametrize(("code", "log"), LOGS)
def test_the_log_names_the_cause_before_any_restart(code: str, log: str) -> None:
    noise = (
        "INFO 11-01 starting\n{}\nRuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    found = diagnose(pod(ended(1)), logs={NAME: noise.format(log)})
    assert verdict(found) == (code, True)
    assert not found.text.startswith("(EngineCore")


@pytest.mark.parametrize(
    "log",
    [
        "HTTPError: 403 Client Error: Forbidden for url: https://weights.s3.us-east-1.amazonaws.com/a",
        "HTTPError: 401 Client Error: Unauthorized for url: https://proxy.example/a\nsee https://huggingface.co/docs",
        "HTTPError: 403 Client Error: Forbidden",
    ],
)
def test_a_refusal_of_somebody_else_than_the_hub_is_no_gated_model(log: str) -> None:
    assert verdict(diagnose(pod(ended(1)), logs={NAME: log})) == ("crash_loop", False)
    assert verdict(diagnose(pod(ended(1), restarts=2), logs={NAME: log})) == ("crash_loop", True)


def test_memory_somebody_else_holds_says_nothing_of_the_models_size() -> None:
    log = (
        "ValueError: Free memory on device cuda:0 (3.25/23.43 GiB) on startup is less than desired GPU memory "
        "utilization (0.96, 22.49 GiB)."
    )
    for restarts, certain in ((0, False), (2, True)):
        found = diagnose(pod(ended(1), restarts=restarts), logs={NAME: log})
        assert (found.code, found.certain, found.retryable) == ("not_ready", certain, True)
        assert "Another process held" in found.text
        assert "3.25/23.43 GiB" in found.text


def test_ordinary_lines_are_no_cause() -> None:
    for line in (
        "INFO 11-01 Available KV cache memory: 18.78 GiB",
        "WARNING CUDA memory is getting low",
        "INFO GET /v1/models 404 Not Found",
        "RuntimeError: Engine core initialization failed. See root cause above.",
    ):
        assert cause_in(line) is None


def test_the_error_carries_the_last_lines_and_no_secret() -> None:
    trouble = diagnose(pod(ended(1), restarts=2))
    error = trouble.error("one\ntwo\nthree\nHF_TOKEN=hf_abcdefghijklmnop\nlast\n")
    assert error.code == "crash_loop"
    assert "three | " in error.hint
    assert "last" in error.hint
    assert "one" not in error.hint
    assert "hf_abcdefghijklmnop" not in str(error)
