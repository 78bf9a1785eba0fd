"""``run``: what is refused, with the flag's name and without a secret; and the plan of what is not."""

import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from accelbench_assets.cli import main as cli_main
from accelbench_assets.cli.cells import expanded
from accelbench_assets.cli.target import DEFAULT_MODEL, Target
from accelbench_assets.cli.target_endpoint import choose_served, slug
from accelbench_assets.cli.target_load import DEFAULT_WORKLOAD
from accelbench_assets.engines.weights import DEMO_MODEL
from accelbench_assets.errors import UsageError
from partitions.catalog import load_suites
from partitions.cell import BenchmarkCell

SECRET = "sk-abcdefghijklmnop"
URL = "http://127.0.0.1:9"


def call(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli_main.main(words)
    shown = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, shown.out, shown.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--launcher", "eks"], "--launcher eks: --instance local is this machine"),
        (["--launcher", "eks", "--endpoint", URL], "--launcher eks: --endpoint is a server that runs already"),
        (["--shards", "2"], "--shards: only a run on EKS"),
        (["--model-revision", "0" * 40], "--model-revision: only a run on EKS"),
        (["--allow-misfit"], "--allow-misfit: only a run on EKS"),
        (["--launcher", "nomad"], "--launcher: 'nomad' is neither local nor eks"),
        (["--instance", "g6e.xlarge"], "--instance g6e.xlarge is a rented machine, and launching those is"),
        (["--instance", "g66.xlarge"], "--instance: 'g66.xlarge' is unknown. Did you mean g6"),
        (["--instance", "local-00000000"], "--instance: local-00000000 is another machine"),
        (["--instance", "endpoint-00000000"], "--instance: a foreign server is measured with --endpoint"),
        (["--workload", "demo.cat@1"], "--workload: 'demo.cat@1' is neither a workload nor a file. Did you mean"),
        (["--workload", "demo.chat@1", "--concurrency", "2"], "--concurrency cannot be combined with --workload"),
        (["--workload", "demo.chat@1", "--isl", "2"], "--isl cannot be combined with --workload"),
        (["--concurrency", "1", "--rate", "2"], "--concurrency and --rate exclude each other"),
        (["--concurrency", "1,x"], "--concurrency: 'x' is not a whole number"),
        (["--concurrency", "0"], "--concurrency: '0'"),
        (["--concurrency", "2.5"], "--concurrency: '2.5'"),
        (["--rate", "-1"], "--rate: '-1' is not a number > 0"),
        (["--rate", "nan"], "--rate: 'nan' is not a number > 0"),
        (["--rate", "1e9"], "--rate: '1e9' is not a number > 0 and < 1,000,000"),
        (["--rate", "0.5,1,0.50"], "--rate: 0.50 is given twice"),
        (["--concurrency", "2", "--concurrency", "2"], "--concurrency: 2 is given twice"),
        (["--concurrency", "1", "--isl", "2000", "--osl", "49"], "--isl 2000 and --osl 49 make 2049 tokens"),
        (["--concurrency", "1", "--max-model-len", "383"], "the served context of 383 (--max-model-len)"),
        (["--workload", "fixed.8k1k@1", "--deadline", "86400"], "--workload fixed.8k1k@1: isl 8192 and osl 1024"),
        (["--isl", "5"], "--isl needs --concurrency C, --rate R or --find-capacity"),
        (["--concurrency", "1", "--duration", "3000"], "more than the 30"),
        (["--deadline", "5"], "--deadline: 5 s is less than the"),
        (["--usd-per-hour", "-1"], "--usd-per-hour: -1 is not a price"),
        (["--usd-per-hour", "nan"], "--usd-per-hour: nan is not a price"),
        (["--tp", "2"], "--tp 2: this machine has no accelerators"),
        (["--engine", "vlm"], "--engine: 'vlm' is unknown here. Did you mean vllm?"),
        (["--engine-version", "0.0.1"], "--engine-version: 0.0.1 was asked for"),
        (["--quantization", "fp8"], "--quantization: the files of smollm2-135m-instruct here are q4_1"),
        (["--cell", "nothing"], "--cell: 'nothing' matches no registered cell"),
        (["--cell", "a~b"], "--cell: "),
        (["--cell", "x", "--model", "y"], "--model cannot be combined with --cell"),
        (["--header", "X-A=b"], "--header only makes sense with --endpoint"),
        (["--workload", "smoke.chat@1", "--slo", "chat"], "--slo: workload smoke.chat@1 has its own objective"),
        (["--find-capacity", "--concurrency", "4"], "leave out --concurrency and --rate"),
        (["--find-capacity", "--isl", "64"], "has no objective of its own"),
        (["--find-capacity", "--slo", "fast"], "--slo: 'fast' is neither one of interactive, chat"),
        (["--find-capacity", "--slo", "ttft=-1"], "--slo: '-1' in 'ttft=-1' must be a number above 0"),
        (["--find-capacity", "--slo", "chat", "--workers", "2"], "--workers: a capacity search decides"),
        (["--concurrency", "1", "--arrival", "constant"], "--arrival says how requests of an open loop come in"),
        (["--dataset", "/nowhere.jsonl"], "--dataset: there is no file /nowhere.jsonl"),
        (["--proxy-env", "NO_SUCH_VARIABLE"], "--proxy-env: no environment variable of that name"),
        (["--api-key-env", "HOME"], "--api-key-env only makes sense with --endpoint"),
        (["--endpoint", URL, "--header", "nothing"], "--header: 'what was given' is not of the form NAME=VALUE"),
        (["--endpoint", URL, "--header", f"Authorization={SECRET}"], "--header Authorization: this looks"),
        (["--endpoint", URL, "--header", f"X-Note={SECRET}"], "--header X-Note: this looks like a secret"),
        (["--endpoint", URL, "--api-key-env", SECRET], "--api-key-env takes the name of an environment variable"),
        (["--endpoint", URL, "--api-key-env", "abcdefghijklmnop"], "--api-key-env: no environment variable"),
        (["--endpoint", f"http://me:{SECRET}@host"], "--endpoint http://host: the URL holds credentials"),
        (["--endpoint", f"http://host/?k={SECRET}"], "--endpoint http://host: give the URL without a query"),
        (["--endpoint", "ftp://host"], "--endpoint: 'ftp://host' is not http://"),
        (["--endpoint", "http://host:99999"], "--endpoint: this is not a URL"),
        (["--endpoint", URL, "--instance", "g6.xlarge"], "--instance cannot be given with --endpoint"),
        (["--endpoint", URL, "--port", "8000"], "--port cannot be given with --endpoint"),
    ],
)  # fmt: skip
def test_refusals_name_the_flag(
    words: list[str], says: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(["run", *words], capsys)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert says in err
    assert SECRET not in err
    assert "abcdefghijklmnop" not in err
    assert not (home / "lake").exists(), "a refused run leaves nothing behind"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("smolm2", "--model: 'smolm2' is unknown. Did you mean smollm2-135m-instruct?"),
        ("SmolM2", "--model: 'SmolM2' is unknown. Did you mean smollm2-135m-instruct?"),
        ("zzzz", "--model: 'zzzz' is unknown. On this machine: smollm2-135m-instruct. There are: "),
        ("llama-3.1-8b-instruct", "--model llama-3.1-8b-instruct: its weights are not on this machine"),
    ],
)
def test_a_model_that_is_not_here_is_a_failure_not_wrong_usage(
    model: str, says: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(["run", "--model", model], capsys)
    assert (code, out) == (1, "")
    assert says in err
    assert not (home / "lake").exists()


def test_more_threads_are_another_cell(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, one, _ = call(["run", "--dry-run", "--json"], capsys)
    monkeypatch.setenv("ACCELBENCH_LLAMACPP_THREADS", "2")
    _, two, _ = call(["run", "--dry-run", "--json"], capsys)
    assert json.loads(one)["cell"]["deployment"]["args"] != json.loads(two)["cell"]["deployment"]["args"]
    assert json.loads(one)["cell_id"] != json.loads(two)["cell_id"]


def plan_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code, out, err = call(["run", "--dry-run", "--json", *words], capsys)
    assert code == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_the_price_setting_is_this_machines_only(
    endpoint: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELBENCH_USD_PER_HOUR", "0.25")
    assert plan_of(capsys)["request"]["usd_per_hour"] == 0.25
    assert plan_of(capsys, "--endpoint", endpoint)["request"]["usd_per_hour"] is None
    assert plan_of(capsys, "--endpoint", endpoint, "--usd-per-hour", "3")["request"]["usd_per_hour"] == 3


def test_a_larger_context_holds_longer_requests(
    endpoint: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = ["--concurrency", "1", "--isl", "2000", "--osl", "49"]
    assert plan_of(capsys, *long, "--max-model-len", "2049")["ladder"]
    assert plan_of(capsys, *long, "--endpoint", endpoint)["ladder"]  # nobody knows its context
    code, _, err = call(["run", *long, "--endpoint", endpoint, "--max-model-len", "2048"], capsys)
    assert code == 2
    assert "--isl 2000 and --osl 49 make 2049 tokens" in err


def test_every_run_draws_its_seed_unless_one_is_given(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = {plan_of(capsys)["request"]["seed"] for _ in range(3)}
    assert len(drawn) == 3
    assert all(0 <= seed < 2**32 for seed in drawn)
    assert plan_of(capsys, "--seed", "0")["request"]["seed"] == 0


def launched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[Target, str]:
    """What would be launched by these words, and the command kept with it."""
    caught: list[tuple[Target, str]] = []

    def launch(target: Target, *, command: str, publish: bool, fmt: object) -> None:
        caught.append((target, command))

    monkeypatch.setattr("accelbench_assets.cli.launching.launch", launch)
    monkeypatch.setattr(sys, "argv", ["accelbench", *words])
    code, _, err = call(list(words), capsys)
    assert code == 0, err
    return caught[0]


def test_the_command_kept_repeats_the_run(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, command = launched(monkeypatch, capsys, "run", "--concurrency", "1")
    assert command == f"accelbench run --concurrency 1 --seed {target.request['seed']}"
    assert launched(monkeypatch, capsys, "run", "--seed", "7")[1] == "accelbench run --seed 7"
    home.parent.joinpath("accelbench.toml").write_text("llamacpp_threads = 2\n")
    monkeypatch.setenv("ACCELBENCH_DATABASE_URL", "postgresql://me:hunter22@db/x")
    _, command = launched(monkeypatch, capsys, "run", "--seed", "7")
    assert command == "ACCELBENCH_LLAMACPP_THREADS=2 accelbench run --seed 7"
    assert launched(monkeypatch, capsys, "demo")[1] == "ACCELBENCH_LLAMACPP_THREADS=2 accelbench demo"


def test_defaults_are_stated(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (DEFAULT_MODEL, DEFAULT_WORKLOAD) == (DEMO_MODEL, "demo.chat@1")
    shown = " ".join(call(["run", "--help"], capsys)[1].split())
    assert "default: smollm2-135m-instruct" in shown
    assert "default: demo.chat@1" in shown
    note = "No --model, --cell or --endpoint was given: this is model smollm2-135m-instruct"
    assert f"{note}, workload demo.chat@1." in call(["run", "--dry-run"], capsys)[2]
    assert f"{note}.\n" in call(["run", "--dry-run", "--json", "--concurrency", "1"], capsys)[2]
    assert "No --model" not in call(["run", "--dry-run", "--model", DEMO_MODEL], capsys)[2]


def test_the_launcher_setting_allows_and_never_decides(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELBENCH_LAUNCHER", "eks")
    assert plan_of(capsys)["cell"]["instance"].startswith("local-")
    assert launched(monkeypatch, capsys, "demo")[0].cell.model == DEMO_MODEL


def test_nobody_at_the_endpoint_is_a_failure_not_wrong_usage(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(["run", "--endpoint", URL], capsys)
    assert code == 1
    assert "Nobody answers at http://127.0.0.1:9" in err


def test_the_demo_is_the_cell_of_the_suite_demo(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(["run", "--dry-run", "--json"], capsys)
    assert code == 0, err
    plan = json.loads(out)
    assert [cell.key_text for cell in expanded(load_suites()["demo"])] == [plan["cell_key"]]
    assert [step["load_value"] for step in plan["ladder"]] == [1, 2, 4]
    assert plan["evidence_level"] == "demo"
    assert BenchmarkCell.from_dict(plan["request"]["cell"]).key_text == plan["cell_key"]
    assert not home.exists() or not (home / "lake").exists()


def test_load_flags_make_a_workload_of_their_own(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--dry-run", "--json", "--concurrency", "1,2", "--concurrency", "8", "--osl", "7"]
    _, out, _ = call(words, capsys)
    plan = json.loads(out)
    assert plan["workload_id"].startswith("custom.")
    assert [step["load_value"] for step in plan["ladder"]] == [1, 2, 8]
    assert plan["evidence_level"] == "demo"
    _, out, _ = call(["run", "--dry-run", "--json", "--rate", "0.5", "--duration", "120"], capsys)
    open_loop = json.loads(out)
    assert open_loop["ladder"] == [{"load_kind": "open", "load_value": 0.5, "arrival": "poisson"}]
    assert open_loop["evidence_level"] == "smoke"
    assert open_loop["cell_key"] != plan["cell_key"]


def test_a_dry_run_for_people(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(["run", "--dry-run"], capsys)
    assert code == 0
    assert "C=1, C=2, C=4; each 2 s warm-up" in out
    assert "start llamacpp" in out
    assert "nothing was started" in err


class OpenAi(BaseHTTPRequestHandler):
    """A server that lists one model and calls itself nothing."""

    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": "Acme/Big-Model..v2"}]}).encode()
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), OpenAi)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_endpoint_is_asked_for_what_the_key_needs(
    endpoint: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACME_KEY", SECRET)
    words = ["run", "--dry-run", "--json", "--endpoint", f"{endpoint}/v1/", "--api-key-env", "ACME_KEY"]
    code, out, err = call([*words, "--header", "X-Team=blue"], capsys)
    assert code == 0, err
    plan = json.loads(out)
    assert plan["cell"]["model"] == "big-model.v2"
    assert plan["cell"]["engine"] == "openai"
    assert plan["cell"]["instance"].startswith("endpoint-")
    assert plan["request"]["served_model_name"] == "Acme/Big-Model..v2"
    assert plan["request"]["endpoint_url"] == endpoint
    assert (plan["request"]["api_key_env"], plan["request"]["headers"]) == ("ACME_KEY", {"X-Team": "blue"})
    assert SECRET not in out + err
    code, _, err = call(["run", "--dry-run", "--endpoint", endpoint, "--model", "big-modell"], capsys)
    assert code == 2
    assert "--model: the endpoint does not serve 'big-modell'. Did you mean" in err
    _, out, _ = call([*words, "--engine", "vllm", "--engine-version", "0.33.0+CU"], capsys)
    assert "vllm-0.33.0+cu~" in json.loads(out)["cell_key"]


def test_served_names() -> None:
    assert choose_served(None, ["one"]) == "one"
    assert choose_served("big-model.v2", ["x", "Acme/Big-Model..v2"]) == "Acme/Big-Model..v2"
    assert choose_served("anything", []) == "anything"
    for served in ([], ["a", "b"]):
        with pytest.raises(UsageError, match="--model"):
            choose_served(None, served)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("meta/Llama-3.1 8B", "llama-3.1-8b"),
        ("/data/models/m/", "m"),
        ("a~b|c@d", "a-b-c-d"),
        ("模型", "model-"),
    ],
)
def test_slugs_fit_a_key(name: str, made: str) -> None:
    assert slug(name).startswith(made)
    assert slug(name) == slug(name)
