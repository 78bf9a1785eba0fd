"""The command line starts fast, says what there is, and refuses what there is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from accelbench_assets.cli import main as cli_main

HEAVY = (
    "dagster",
    "duckdb",
    "pyarrow",
    "numpy",
    "pydantic_settings",
    "pydantic",
    "scipy",
    "boto3",
    "psycopg",
    "rich",
)
COMMANDS = (
    *("demo", "run", "runs", "show", "logs", "cancel", "reap", "query", "compare", "sql"),
    *("cells", "config", "ui", "doctor", "recommend", "models", "instances", "prices"),
)


def call(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "accelbench_assets.cli", *words],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "ACCELBENCH_HOME": str(cwd / "home"), "COLUMNS": "100"},
        check=False,
    )


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from accelbench_assets.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        f"print(sorted(m for m in {HEAVY!r} if m in sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=180, cwd=tmp_path, check=False
    )
    assert done.stderr.strip() == "[]"
    for name in COMMANDS:
        assert f"  {name} " in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["cells", "list"], "cells"),
        (["--home", "run", "--lake=x", "-q", "runs", "--help"], "runs"),
        (["--help", "runs"], None),
        (["--version"], None),
        ([], None),
    ],
)
def test_only_the_command_that_is_named_is_built(words: list[str], name: str | None) -> None:
    assert cli_main._command_of(words) == name
    assert cli_main._with_only("rum") is cli_main.app
    lean = cli_main._with_only(name)
    built = len(lean.registered_commands) + len(lean.registered_groups)
    groups = len(cli_main.app.registered_groups)
    assert built == (1 if name else len(cli_main.COMMANDS) + 1 + groups)  # import has a name of its own


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli_main.main([name, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert f"Usage: accelbench {name}" in shown
    if name not in ("ui", "cells", "models", "instances", "prices"):
        assert "--json" in shown
        assert "--format" in shown


def test_version_and_no_arguments(tmp_path: Path) -> None:
    assert call("--version", cwd=tmp_path).stdout.startswith("accelbench ")
    bare = call(cwd=tmp_path)
    assert bare.returncode == 0
    assert "Usage: accelbench" in bare.stdout


@pytest.mark.parametrize(
    "words", [["rum"], ["run", "--modle", "x"], ["runs", "--limit", "0"], ["show"], ["-x"]]
)
def test_wrong_usage_is_exit_2_on_stderr(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli_main.main(words)
    shown = capsys.readouterr()
    assert end.value.code == 2
    assert shown.out == ""
    assert shown.err.startswith("error: ")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "accelbench_assets.cli", "cells", "list", "--json"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=180,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "ACCELBENCH_HOME": str(tmp_path / "home")},
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unexpected_error_is_one_sentence_and_a_scrubbed_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("token=hf_abcdefghijklmnop went missing")

    monkeypatch.setattr("accelbench_assets.lake.lake.Lake.run_records", broken)
    with pytest.raises(SystemExit) as end:
        cli_main.main(["runs"])
    shown = capsys.readouterr()
    assert end.value.code == 1
    assert "Traceback" not in shown.err
    assert "unexpected ZeroDivisionError" in shown.err
    (written,) = (home / "logs").glob("error-*.log")
    text = written.read_text()
    assert "Traceback" in text
    assert "hf_abc" not in text + shown.err
    assert written.stat().st_mode & 0o077 == 0
    with pytest.raises(SystemExit):
        cli_main.main(["runs", "--debug"])
    assert "Traceback" in capsys.readouterr().err


def test_config_tells_where_each_setting_comes_from(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    Path("accelbench.toml").write_text('region = "eu-west-1"\n[kube]\nnamespace = "bench"\n')
    monkeypatch.setenv("ACCELBENCH_BUDGET__MAX_RUNS", "3")
    monkeypatch.setenv("ACCELBENCH_KUBE__ENGINE_IMAGES__VLLM", "vllm:{version}")
    monkeypatch.setenv("ACCELBENCH_POOLS", '{"limits": {"g6e": 2}}')
    monkeypatch.setenv("ACCELBENCH_DATABASE_URL", "postgresql://me:hunter22@db.example:5432/x")
    with pytest.raises(SystemExit):
        cli_main.main(["--lake", str(home / "other"), "config", "--json"])
    shown = capsys.readouterr().out
    rows = {row["setting"]: row for row in json.loads(shown)["rows"]}
    assert "hunter22" not in shown
    assert rows["region"] == {"setting": "region", "value": "eu-west-1", "source": "accelbench.toml"}
    assert rows["lake"]["source"] == "flag --lake"
    assert rows["home"]["source"] == "environment ACCELBENCH_HOME"
    assert rows["launcher"]["source"] == "default"
    assert rows["kube.namespace"] == {
        "setting": "kube.namespace",
        "value": "bench",
        "source": "accelbench.toml",
    }
    assert rows["budget.max_runs"]["source"] == "environment ACCELBENCH_BUDGET__MAX_RUNS"
    assert rows["kube.engine_images"]["source"] == "environment ACCELBENCH_KUBE__ENGINE_IMAGES__VLLM"
    assert rows["pools.limits"]["source"] == "environment ACCELBENCH_POOLS"
    assert rows["kube.poll_s"]["source"] == "default"
    assert rows["database_url"]["value"] == "postgresql://db.example:5432/x"


def test_config_keeps_every_source_on_a_narrow_terminal(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("ACCELBENCH_HOME", str(home / ("long" * 20)))
    with pytest.raises(SystemExit):
        cli_main.main(["config"])
    shown = capsys.readouterr()
    assert "  ACCELBENCH_HOME" in shown.out
    assert shown.out.count("default") >= 5
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "No room" not in shown.err


def test_doctor_knows_the_local_path_and_shows_no_secret(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAABCDEFGHIJKLMNOP")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verysecretvalue")
    with pytest.raises(SystemExit) as end:
        cli_main.main(["doctor", "--json"])
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    checks = {row["check"]: row for row in document["checks"]}
    assert end.value.code == (0 if document["ok"] else 1)
    assert checks["lake writable"]["state"] == "ok"
    assert checks["AWS credentials"]["state"] == "ok"
    assert "AKIA" not in shown.out + shown.err
    assert "verysecretvalue" not in shown.out + shown.err


def test_doctor_fails_when_the_lake_cannot_be_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.parent.joinpath("file").write_text("")
    with pytest.raises(SystemExit) as end:
        cli_main.main(["--lake", str(home.parent / "file" / "lake"), "doctor"])
    assert end.value.code == 1
    assert "local path does not work" in capsys.readouterr().err
