"""``loadgen truth`` as a command: flags, help, what stops it from starting, and its end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loadgen.conftest import ENV, HANG_S
from tests.loadgen.truth_client import FAST, Start, chat


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--ttft", "slow"],
            "argument --ttft/--ttft-ms: 'slow': a law is a number or one of const:VALUE, exp:MEAN",
        ),
        (["--gap", "-1"], "--gap"),
        (["--usage", "lately:5"], "'lately:5' is not final, every, never or late:MS"),
        (["--chunk-layout", "role-early"], "'role-early' is not plain, role-first"),
        (
            ["--faults", "404:0.1"],
            "a fault is one of 500, 429, reset, hang, stall, error_event, malformed, short",
        ),
        (["--faults", "500:0.9,reset:0.9"], "the shares exceed 1"),
        (["--reasoning", "thoughts:4"], "is not FIELD:K or FIELD:K:MS"),
        (["--prefix-cache", "0"], "is not WORDS or WORDS:BLOCK, both at least 1"),
        (["--freeze", "1:-1"], "is not START:SECONDS, neither negative"),
        (["--framing", "morse"], "invalid choice: 'morse'"),
        (["--port", "70000"], "'70000' is not a port, 0 to 65535"),
        (["--tokens-per-chunk", "0"], "'0' is not a whole number of at least 1"),
        (["--header", "Bad Name=1"], "is not NAME=VALUE in ASCII"),
        (["--null", "--gap-ms=3"], "--null sends without pacing; leave out --gap-ms"),
        (
            ["--framing", "split", "--events-per-write", "2"],
            "--framing split writes less than an event at a time",
        ),
        (["--slot", "3"], "unrecognized arguments: --slot 3"),
    ],
)
def test_wrong_flags_are_refused_in_one_sentence(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from loadgen.truth.server import main

    with pytest.raises(SystemExit) as stopped:
        main(flags)
    out, error = capsys.readouterr()
    assert (stopped.value.code, out, error.count("\n")) == (2, "", 1)
    assert error.startswith("error: ")
    assert says in error


def test_a_port_in_use_and_a_log_that_cannot_be_written_end_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from loadgen.truth.server import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: the ground-truth server cannot listen on 127.0.0.1:{port}: ")
    assert main(["--log", str(tmp_path / "none" / "x.jsonl")]) == 1
    assert "x.jsonl cannot be written: No such file or directory" in capsys.readouterr().err


def test_help_names_every_flag_and_law() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadgen", "truth", "--help"],
        env=ENV,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0
    from loadgen.truth.options import parser

    for action in parser()._actions:
        assert action.help, action.dest
        assert all(flag in done.stdout for flag in action.option_strings)
    assert "lognorm:MEDIAN:SIGMA" in done.stdout


def test_an_interrupt_ends_it_as_a_termination_does(truth: Start) -> None:
    server = truth(*FAST)
    chat(server, max_tokens=2)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(HANG_S) == 0
    assert [line.get("request_id") for line in map(json.loads, server.log_path.read_text().splitlines())] == [
        "r",
        None,
    ]
