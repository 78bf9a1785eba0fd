"""README and ``--help`` agree: every command line shown exists, every command is shown."""

import contextlib
import functools
import io
import re
import shlex
from pathlib import Path

import pytest

from accelbench_assets.cli import main as cli_main

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@functools.cache
def help_text(*words: str) -> str:
    """What ``accelbench WORDS --help`` shows; empty if there is no such command."""
    shown = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as environment,
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        environment.setenv("COLUMNS", "200")
        environment.setenv("NO_COLOR", "1")
        with pytest.raises(SystemExit) as end:
            cli_main.main([*words, "--help"])
    return shown.getvalue() if end.value.code == 0 else ""


def command_lines() -> list[list[str]]:
    lines = []
    for document in DOCUMENTS:
        for block in re.findall(
            r"```(?:bash|sh|console)?\n(.*?)```", document.read_text(encoding="utf-8"), re.S
        ):
            for line in block.replace("\\\n", " ").splitlines():
                found = re.search(
                    r"(?:^|\s)(?:\.venv/bin/)?accelbench\s+([a-z-].*)$", line.split(" #")[0].strip()
                )
                if found:
                    lines.append(shlex.split(found.group(1)))
    return lines


def test_readme_shows_commands() -> None:
    assert len(command_lines()) >= 8


@pytest.mark.parametrize("words", command_lines(), ids=" ".join)
def test_every_command_shown_exists_with_its_flags(words: list[str]) -> None:
    path = [words[0]]
    text = help_text(*path)
    assert text, f"accelbench {words[0]} does not exist"
    if len(words) > 1 and not words[1].startswith("-") and help_text(words[0], words[1]):
        path.append(words[1])
        text = help_text(*path)
    for flag in [w.split("=")[0] for w in words if w.startswith("-") and w != "-"]:
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", text), (
            f"accelbench {' '.join(path)} has no {flag}"
        )


def test_every_make_target_shown_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    for document in DOCUMENTS:
        for target in re.findall(
            r"`make ([a-z-]+)`|^make ([a-z-]+)", document.read_text(encoding="utf-8"), re.M
        ):
            assert (target[0] or target[1]) in targets, f"{document.name} shows make {target}"
