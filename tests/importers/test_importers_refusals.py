"""Every way a file can be wrong is one sentence that names the file and the field."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accelbench_assets.importers import document
from accelbench_assets.importers.document import ImportRefused
from accelbench_assets.importers.registry import read_file

FILES = Path(__file__).with_name("files")


def refused(path: Path) -> str:
    with pytest.raises(ImportRefused) as found:
        read_file(path)
    assert found.value.exit_code == 2
    assert found.value.hint
    return found.value.message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"not json", "is not complete JSON"),
        (b"\xff\xfe\x00", "is not JSON that can be read"),
        (b"[" * 200_000, "is not JSON that can be read"),
        (b"1" * 5000, "is not JSON that can be read"),
        (b"{}", "is no result file that can be imported"),
        (b"[]", "is no result file that can be imported"),
        (b"null", "is no result file that can be imported"),
        (b'{"request_throughput": 1}', "is no result file that can be imported"),
    ],
)
def test_what_is_no_result_file(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    message = refused(path)
    assert says in message
    assert "result.json" in message


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "gone.json")
    assert "is a folder" in refused(tmp_path)
    assert "is no plain file" in refused(Path("/dev/zero"))


@pytest.mark.parametrize("name", [p.name for p in sorted(FILES.iterdir()) if p.suffix != ".md"])
def test_a_truncated_file(name: str, tmp_path: Path) -> None:
    content = (FILES / name).read_bytes().rstrip()
    path = tmp_path / name
    path.write_bytes(content[: len(content) * 2 // 3])
    assert "is not complete JSON" in refused(path)


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(document.MAX_BYTES + 1)  # sparse: takes no room
    assert "is larger than 256 MiB" in refused(path)
    monkeypatch.setattr(document, "MAX_BYTES", 2**20)
    path.write_bytes(b" " * (2**20 + 1))
    assert "is larger than 1 MiB" in refused(path)


def broken(tmp_path: Path, name: str, change: Callable[[Any], None]) -> Path:
    """A copy of a real file with *change* made to its document (or to its first record)."""
    text = (FILES / name).read_text(encoding="utf-8")
    first, _, rest = text.partition("\n") if name.endswith(".jsonl") else (text, "", "")
    document_ = json.loads(first)
    change(document_)
    path = tmp_path / name
    path.write_text(json.dumps(document_) + "\n" + rest, encoding="utf-8")
    return path


def at(*keys: Any, value: Any) -> Callable[[Any], None]:
    """Set the value under *keys*; a value of ``KeyError`` removes it."""

    def change(found: Any) -> None:
        for key in keys[:-1]:
            found = found[key]
        if value is KeyError:
            del found[keys[-1]]
        else:
            found[keys[-1]] = value

    return change


NAN = float("nan")
GUIDE = ("benchmarks", 0, "metrics")


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("vllm_bench_chat.json", at("p99_ttft_ms", value=NAN), "p99_ttft_ms is nan, which is no figure"),
        ("vllm_bench_chat.json", at("duration", value=float("inf")), "duration is inf"),
        ("vllm_bench_chat.json", at("duration", value=1e308), "duration is 1e+308"),
        ("vllm_bench_chat.json", at("duration", value=KeyError), "duration is missing"),
        ("vllm_bench_chat.json", at("completed", value=-1), "completed is -1, expected at least 0"),
        ("vllm_bench_chat.json", at("completed", value=1.5), "completed is 1.5, expected a whole number"),
        ("vllm_bench_chat.json", at("completed", value="32"), "completed is a text, expected a number"),
        ("vllm_bench_chat.json", at("completed", value=True), "completed is true or false"),
        ("vllm_bench_chat.json", at("date", value="yesterday"), "date is 'yesterday', expected YYYYMMDD"),
        ("vllm_bench_chat.json", at("max_concurrency", value=0), "max_concurrency is 0, expected at least 1"),
        ("vllm_bench_chat.json", at("model_id", value=["a"]), "model_id is a list, expected a short text"),
        ("vllm_bench_chat.json", at("p90_ttft_ms", value=1000.0), "the percentiles of ttft fall"),
        ("vllm_bench_chat.json", at("total_output_tokens", value=KeyError), "embedding benchmark"),
        ("vllm_bench_completions.json", at("request_rate", value=0), "request_rate is 0, expected at least"),
        (
            "guidellm_poisson.json",
            at("metadata", "version", value=3),
            "metadata.version is 3; reports of version 2",
        ),
        ("guidellm_poisson.json", at("benchmarks", value=[]), "benchmarks is no list with anything in it"),
        (
            "guidellm_poisson.json",
            at("benchmarks", 0, value=5),
            "benchmarks[0] is a number, expected an object",
        ),
        (
            "guidellm_poisson.json",
            at(*GUIDE, "time_to_first_token_ms", "successful", "percentiles", "p99", value=NAN),
            "benchmarks[0].metrics.time_to_first_token_ms.successful.percentiles.p99 is nan",
        ),
        (
            "guidellm_poisson.json",
            at("benchmarks", 0, "config", "strategy", "type_", value="trace"),
            "benchmarks[0].config.strategy.type_ is 'trace'",
        ),
        ("aiperf_concurrency.json", at("is_complete", value=False), "did not reach its end"),
        (
            "aiperf_concurrency.json",
            at("request_throughput", "avg", value=KeyError),
            "request_throughput.avg is missing",
        ),
        ("aiperf_concurrency.json", at("start_time", value="soon"), "start_time is 'soon', no ISO 8601 time"),
        ("aiperf_concurrency.json", at("input_config", "phases", value=[]), "input_config.phases is no list"),
        (
            "aiperf_records.jsonl",
            at("metrics", "request_latency", "value", value=NAN),
            "aiperf_records.jsonl, line 1: metrics.request_latency.value is nan",
        ),
        (
            "aiperf_records.jsonl",
            at("metrics", "inter_chunk_latency", "value", value=[1.0, None]),
            "line 1: metrics.inter_chunk_latency.value is no list of times",
        ),
        ("genai_perf.json", at("request_count", "avg", value=KeyError), "request_count.avg is missing"),
        ("inference_perf_failures.json", at("successes", "latency", value=[]), "successes.latency is a list"),
        ("inference_perf_failures.json", at("failures", "count", value=None), "failures.count is missing"),
        ("oha.json", at("statusCodeDistribution", "200", value=-3), "statusCodeDistribution.200 is -3"),
        ("oha.json", at("latencyPercentiles", "p50", value=NAN), "latencyPercentiles.p50 is nan"),
    ],
)
def test_a_field_that_is_wrong(tmp_path: Path, name: str, change: Callable[[Any], None], says: str) -> None:
    message = refused(broken(tmp_path, name, change))
    assert says in message
    assert name in message


def test_results_of_a_tool_that_writes_one(tmp_path: Path) -> None:
    path = tmp_path / "two.json"
    path.write_text((FILES / "genai_perf.json").read_text() * 2, encoding="utf-8")
    assert "two.json holds 2 results of genai-perf's" in refused(path)


def test_records_without_a_completed_request(tmp_path: Path) -> None:
    path = tmp_path / "profile_export.jsonl"
    line = {"metadata": {"benchmark_phase": "profiling"}, "metrics": {}, "error": {"code": 500}}
    path.write_text(json.dumps(line), encoding="utf-8")
    assert "none of its 1 records is a completed request" in refused(path)


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**70), 2**70) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize("name", [p.name for p in sorted(FILES.iterdir()) if p.suffix != ".md"])
@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(draw=st.data())
def test_any_change_is_taken_or_refused_and_never_a_crash(
    name: str, tmp_path: Path, draw: st.DataObject
) -> None:
    def change(found: Any) -> None:
        while True:
            keys = list(found) if isinstance(found, dict) else list(range(len(found)))
            if not keys:
                return
            key = draw.draw(st.sampled_from(keys))
            if isinstance(found[key], dict | list) and draw.draw(st.integers(0, 3)):
                found = found[key]
                continue
            found[key] = draw.draw(values)
            return

    path = broken(tmp_path, name, change)
    said = ""
    try:
        runs = read_file(path)[1]
    except ImportRefused as error:
        runs, said = [], error.message
    assert runs or name in said
