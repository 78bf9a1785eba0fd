"""What is read from files that the real tools wrote: figures, loads, and which of them are ours."""

import json
import math
from pathlib import Path

import pytest

from accelbench_assets.importers.model import ImportedRun, Load
from accelbench_assets.importers.registry import KINDS, detect, read_file

FILES = Path(__file__).with_name("files")

# file -> kind, loads, completed, failed
READ: dict[str, tuple[str, list[Load | None], int, int | None]] = {
    "vllm_bench_chat.json": ("vllm_bench", [Load("closed", 4)], 32, 0),
    "vllm_bench_completions.json": ("vllm_bench", [Load("open", 20, "poisson")], 32, 0),
    "vllm_bench_failures.json": ("vllm_bench", [Load("closed", 4)], 34, 6),
    "guidellm_concurrent.json": ("guidellm", [Load("closed", 2), Load("closed", 4)], 24, 0),
    "guidellm_poisson.json": ("guidellm", [Load("open", 20, "poisson")], 24, 0),
    "guidellm_failures.json": ("guidellm", [Load("closed", 4)], 33, 7),
    "aiperf_concurrency.json": ("aiperf", [Load("closed", 4)], 32, 0),
    "aiperf_poisson.json": ("aiperf", [Load("open", 20, "poisson")], 32, 0),
    "aiperf_failures.json": ("aiperf", [Load("closed", 4)], 38, 2),
    "aiperf_records.jsonl": ("aiperf_records", [None], 38, 2),
    "genai_perf.json": ("genai_perf", [Load("closed", 4)], 32, None),
    "inference_perf_stage_concurrent.json": ("inference_perf", [Load("closed", 4)], 32, 0),
    "inference_perf_stage_constant.json": ("inference_perf", [Load("open", 20, "poisson")], 40, 0),
    "inference_perf_failures.json": ("inference_perf", [Load("closed", 4)], 27, 13),
    "inference_perf_summary.json": ("inference_perf", [None], 32, 0),
    "oha.json": ("oha", [None], 30, 3),
}


def only(name: str) -> ImportedRun:
    _, (run,) = read_file(FILES / name)
    return run


def test_every_file_and_every_kind_is_here() -> None:
    assert {path.name for path in FILES.iterdir()} == {*READ, "README.md"}
    assert {kind for kind, *_ in READ.values()} == {kind.name for kind in KINDS}
    assert all(path.stat().st_size < 60_000 for path in FILES.iterdir())


@pytest.mark.parametrize("name", READ)
def test_kind_load_and_counts(name: str) -> None:
    kind, loads, ok, errors = READ[name]
    assert detect(FILES / name) == kind
    source, runs = read_file(FILES / name)
    assert [run.load for run in runs] == loads
    for run in runs:
        assert (run.kind, run.ok, run.errors) == (kind, ok, errors)
        assert run.duration_s > 0.3
        assert run.rates["requests_per_s"] == pytest.approx(ok / run.duration_s, rel=0.06)
    assert len(source.sha256) == 64


@pytest.mark.parametrize("name", [n for n in READ if not n.startswith(("vllm_bench_chat", "oha"))])
def test_what_is_called_ours_is_what_the_server_did(name: str) -> None:
    """The server's truth: TTFT 50 ms, 5 ms between tokens, 16 tokens. A busy client may be late, never early."""
    for run in read_file(FILES / name)[1]:
        own = run.own
        assert 49.9 < own["ttft_from_send"].levels["p50"] < 58
        if "e2e_from_send" in own:
            assert 124.5 < own["e2e_from_send"].levels["p50"] < 135
        if "tpot" in own:
            assert own["tpot"].levels["p50"] == pytest.approx(5, abs=0.15)
        if "chunk_gap" in own:
            assert own["chunk_gap"].levels["p50"] == pytest.approx(5, abs=0.1)
        assert {figure.unit for figure in own.values()} == {"ms"}


def test_a_closed_loop_gives_latencies_from_the_arrival_too_and_an_open_one_does_not() -> None:
    assert set(only("vllm_bench_failures.json").own) >= {"ttft", "ttft_from_send", "e2e", "e2e_from_send"}
    open_loop = only("vllm_bench_completions.json").own
    assert set(open_loop) == {"ttft_from_send", "e2e_from_send", "tpot", "chunk_gap"}


def test_vllm_chat_figures_stay_under_the_tools_name() -> None:
    """Its TTFT of 4 ms is the role-only event of a server whose first token took 50."""
    run = only("vllm_bench_chat.json")
    assert run.own == {}
    printed = {figure.metric: figure for figure in run.verbatim}
    assert printed["ttft"].levels["p50"] == pytest.approx(4.0, abs=0.1)
    assert printed["tpot"].mean == pytest.approx(8.34, abs=0.01)
    assert all("role-only" in run.reasons[name] for name in ("ttft", "tpot", "itl", "e2el"))


def test_guidellm_tpot_holds_ttft_and_is_not_ours() -> None:
    for run in read_file(FILES / "guidellm_concurrent.json")[1]:
        assert set(run.own) == {"ttft_from_send", "ttft"}
        printed = {figure.metric: figure for figure in run.verbatim}
        assert printed["time_per_output_token_ms"].levels["p50"] > 7.5  # the gaps are 5 ms
        assert "includes TTFT" in run.reasons["time_per_output_token_ms"]
        assert run.tool_version == "0.8.1"
        assert run.model == "truth"


def test_aiperf_counts_by_a_local_tokenizer_are_not_ours() -> None:
    """It saw 17 tokens where the server sent 16, so its ITL is 4.7 ms where gaps are 5."""
    local, served = only("aiperf_concurrency.json"), only("aiperf_failures.json")
    assert "tpot" not in local.own
    assert "tokenizer" in local.reasons["inter_token_latency"]
    assert local.output_tokens_mean == 16
    assert local.rates["output_tokens_per_s"] == pytest.approx(512 / local.duration_s)
    assert served.own["tpot"].levels["p50"] == pytest.approx(5.0, abs=0.15)


def test_aiperf_records_agree_with_their_summary() -> None:
    summary, records = only("aiperf_failures.json"), only("aiperf_records.jsonl")
    assert records.own["tpot"].mean == pytest.approx(summary.own["tpot"].mean)
    assert records.own["ttft_from_send"].mean == pytest.approx(summary.own["ttft_from_send"].mean)
    assert records.own["chunk_gap"].mean == pytest.approx(summary.own["chunk_gap"].mean)
    assert records.rates["output_tokens_per_s"] == pytest.approx(
        summary.rates["output_tokens_per_s"], rel=0.05
    )


def test_failures_in_records_are_infinite_and_come_last() -> None:
    figure = only("aiperf_records.jsonl").own["ttft_from_send"]
    assert figure.n == 40
    assert math.isfinite(figure.levels["p95"])  # rank 38 of 40: the last that came
    assert math.isinf(figure.levels["p99"])
    assert figure.high is None


def test_inference_perf_itl_of_zeros_is_not_ours() -> None:
    run = only("inference_perf_stage_concurrent.json")
    printed = {figure.metric: figure for figure in run.verbatim}
    assert printed["inter_token_latency"].levels["p50"] == 0.0
    assert set(run.own) == {"ttft_from_send", "ttft"}
    assert run.output_tokens_mean == 16  # as the server says, not the 17 of the tool's tokenizer


def test_oha_times_no_tokens() -> None:
    run = only("oha.json")
    assert run.own == {}
    assert set(run.rates) == {"requests_per_s"}
    assert run.output_tokens_mean is None
    printed = {figure.metric: figure for figure in run.verbatim}
    assert 50 < printed["first_byte"].levels["p50"] < 53  # seconds became ms


@pytest.mark.parametrize("name", READ)
def test_every_figure_of_the_tool_is_kept_and_every_difference_said(name: str) -> None:
    for run in read_file(FILES / name)[1]:
        assert "rates" in run.reasons
        ours = {figure.metric for figure in run.own.values()}
        for figure in run.verbatim:
            assert figure.metric in ours or figure.metric in run.reasons, figure.metric


def test_vllm_results_appended_to_one_file_are_several_runs(tmp_path: Path) -> None:
    names = ("vllm_bench_chat.json", "vllm_bench_completions.json", "vllm_bench_failures.json")
    path = tmp_path / "all.json"
    path.write_text("\n".join((FILES / name).read_text().strip() for name in names), encoding="utf-8")
    _, runs = read_file(path)
    assert [run.load for run in runs] == [Load("closed", 4), Load("open", 20, "poisson"), Load("closed", 4)]


def test_vllm_without_rate_and_cap_sends_all_at_once(tmp_path: Path) -> None:
    document = json.loads((FILES / "vllm_bench_chat.json").read_text())
    path = tmp_path / "all_at_once.json"
    for rate in ("inf", float("inf")):
        path.write_text(
            json.dumps({**document, "max_concurrency": None, "request_rate": rate}), encoding="utf-8"
        )
        assert read_file(path)[1][0].load == Load("closed", 32, "at_once")
    path.write_text(json.dumps({**document, "request_rate": 5, "burstiness": float("inf")}), encoding="utf-8")
    (run,) = read_file(path)[1]
    assert run.load == Load("open", 5, "constant")
    assert "closed where it saturates" in run.reasons["load"]
