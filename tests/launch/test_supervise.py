"""Nothing outlives its run: every way an orchestrator or its watchdogs can end, against a child that will not
die.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from accelbench_assets.launch import supervise
from accelbench_assets.launch.process import SupervisedProcess
from tests.support.waiting import until

LIMIT_S = 60.0  # of a hang; the children would live ten minutes

# Ignores SIGTERM, and so does its child, which has left the process group and the session.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(os.environ["SCRATCH"] + "/left-behind", "w").close()
if os.fork() == 0:
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    open(sys.argv[1] + ".grandchild", "w").write(str(os.getpid()))
    os.rename(sys.argv[1] + ".grandchild", sys.argv[1])
time.sleep(600)
"""

# Instead of the last line: the first process ends once the grandchild is there, the grandchild stays.
DAEMON_STAYS = """
if os.path.exists(sys.argv[1]) and open(sys.argv[1]).read() == str(os.getpid()):
    time.sleep(600)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
"""

ORCHESTRATOR = """
import json, os, sys, time
from pathlib import Path
from accelbench_assets.launch.process import SupervisedProcess
folder, how, grace_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
command = [sys.executable, "-S", str(folder / "stubborn.py"), str(folder / "grandchild")]
deadline_s = 2.0 if how == "deadline" else 300.0
with SupervisedProcess(
    command, log=folder / "child.log", env=os.environ, deadline_s=deadline_s, grace_s=grace_s,
    scratch_variable="SCRATCH",
) as process:
    while process.pid is None or not (folder / "grandchild").exists():
        time.sleep(0.01)
    pids = {"child": process.pid, "supervisor": process.supervisor_pid}
    (folder / "pids.unfinished").write_text(json.dumps(pids))
    (folder / "pids.unfinished").rename(folder / "pids")
    if how == "exception":
        raise RuntimeError("planned")
    if how != "normal":
        time.sleep(300)
"""


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> str:
    limit = time.monotonic() + LIMIT_S
    while not path.exists():
        assert process.poll() is None or path.exists(), "the orchestrator ended before its child had started"
        assert time.monotonic() < limit
        time.sleep(0.01)
    return path.read_text()


def all_gone(pids: list[int]) -> bool:
    limit = time.monotonic() + LIMIT_S
    while any(is_running(pid) for pid in pids):
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize(
    ("how", "grace_s"),
    [
        ("normal", 0.3),
        ("exception", 0.3),
        ("SIGTERM", 0.3),
        ("SIGINT", 0.3),
        ("SIGKILL", 3.0),  # the grace engines are given: the bound must hold with it
        ("SIGKILL of the supervisor", 0.3),
        ("SIGKILL of the guard", 0.3),
        ("SIGKILL of both watchdogs", 0.3),  # then only the command itself dies, by its parent-death signal
        ("SIGSTOP of the child", 0.3),
        ("deadline", 0.3),
    ],
)
def test_nothing_outlives_its_run(how: str, grace_s: float, tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    (tmp_path / "tmp").mkdir()
    orchestrator = subprocess.Popen(
        [sys.executable, "-c", ORCHESTRATOR, str(tmp_path), how, str(grace_s)],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    escaped: int | None = None
    try:
        pids = json.loads(wait_for(tmp_path / "pids", orchestrator))
        guard = psutil.Process(pids["child"]).ppid() if is_running(pids["child"]) else pids["supervisor"]
        everyone = [pids["child"], int((tmp_path / "grandchild").read_text()), pids["supervisor"], guard]
        if how in ("SIGTERM", "SIGINT", "SIGKILL"):
            assert all(is_running(pid) for pid in everyone), "they must be alive before the blow"
            orchestrator.send_signal(getattr(signal, how))
        elif how == "SIGKILL of the supervisor":
            os.kill(pids["supervisor"], signal.SIGKILL)
            everyone.remove(pids["supervisor"])
        elif how == "SIGKILL of the guard":
            os.kill(guard, signal.SIGKILL)
        elif how == "SIGKILL of both watchdogs":
            for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: neither sees the other die
                os.kill(pids["supervisor"], number)
                os.kill(guard, number)
            everyone.remove(pids["supervisor"])
            escaped = everyone.pop(1)
        elif how == "SIGSTOP of the child":
            os.kill(pids["child"], signal.SIGSTOP)
            orchestrator.kill()
        assert all_gone(everyone)
        if escaped is None:
            until(lambda: not list((tmp_path / "tmp").iterdir()), "its temporary files are removed")
        if how in ("normal", "exception", "SIGINT"):
            assert orchestrator.wait(timeout=LIMIT_S) == (
                0 if how == "normal" else -2 if how == "SIGINT" else 1
            )
    finally:
        if escaped is not None:
            os.kill(escaped, signal.SIGKILL)
        orchestrator.kill()
        orchestrator.communicate(timeout=LIMIT_S)


def run(tmp_path: Path, code: str, **options: object) -> tuple[SupervisedProcess, list[str]]:
    lines: list[str] = []
    settings = {"deadline_s": 300.0, "grace_s": 0.3, "pass_stdout": True, **options}
    with SupervisedProcess(
        [sys.executable, "-S", "-c", code],
        log=tmp_path / "x.log",
        env=os.environ,
        **settings,  # type: ignore[arg-type]
    ) as process:
        while not process.over():
            if line := process.line(0.5):
                lines.append(line)
    return process, lines


def test_output_and_exit_code_of_a_normal_end(tmp_path: Path) -> None:
    code = "import sys; print('one'); print('two', end=''); print('err', file=sys.stderr); sys.exit(7)"
    process, lines = run(tmp_path, code)
    assert lines == ["one", "two"]
    assert process.how_it_ended() == ("exited", 7)
    assert (tmp_path / "x.log").read_text() == "err\n"
    assert oct((tmp_path / "x.log").stat().st_mode & 0o777) == "0o600"


def test_deadline_is_reported_and_kept(tmp_path: Path) -> None:
    process, _ = run(tmp_path, "import time; time.sleep(600)", deadline_s=0.3, grace_s=60.0)
    assert process.how_it_ended() == ("deadline", -signal.SIGTERM)
    assert process.exit is not None
    assert 0.3 <= process.exit["seconds"] < LIMIT_S


def test_sigterm_comes_before_sigkill(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('flushed', flush=True), sys.exit(0)))\n"
        "print('up', flush=True); time.sleep(600)"
    )
    with SupervisedProcess(
        [sys.executable, "-c", code], log=tmp_path / "x.log", env=os.environ, deadline_s=300, grace_s=60,
        pass_stdout=True,
    ) as process:  # fmt: skip
        assert process.line(LIMIT_S) == "up"
    assert process.line(LIMIT_S) == "flushed"
    assert process.how_it_ended() == ("lifeline", 0)


def test_a_command_that_cannot_start_says_so(tmp_path: Path) -> None:
    with SupervisedProcess(
        ["/no/such/program"], log=tmp_path / "x.log", env=os.environ, deadline_s=30
    ) as process:
        assert process.how_it_ended() == ("not_started", 127)
    assert "cannot start /no/such/program: No such file or directory" in (tmp_path / "x.log").read_text()


def test_helpers_left_behind_are_collected(tmp_path: Path) -> None:
    """A command that ends by itself and leaves a process in another session."""
    leaving = STUBBORN.replace("time.sleep(600)", DAEMON_STAYS)
    (tmp_path / "leaving.py").write_text(leaving)
    target = tmp_path / "grandchild"
    leave = str(tmp_path / "leaving.py")
    code = f"import runpy, sys; sys.argv = ['x', {str(target)!r}]; runpy.run_path({leave!r})"
    process, _ = run(tmp_path, code, scratch_variable="SCRATCH")
    assert process.how_it_ended() == ("exited", 0)
    assert not is_running(int(target.read_text()))


def test_what_a_command_leaves_goes_from_where_the_user_wants_it(tmp_path: Path) -> None:
    """The user's own choice of the folder stays: a unix socket's path may have to be short."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "of the user").touch()
    code = "import os, time; print(os.environ['SCRATCH'], flush=True); open(os.environ['SCRATCH'] + '/x', 'w').close()"
    with SupervisedProcess(
        [sys.executable, "-S", "-c", code],
        log=tmp_path / "x.log",
        env={**os.environ, "SCRATCH": str(tmp_path / "mine")},
        deadline_s=LIMIT_S,
        pass_stdout=True,
        scratch_variable="SCRATCH",
    ) as process:
        said = process.line(LIMIT_S)
        process.how_it_ended()
    assert said is not None
    assert Path(said).parent == tmp_path / "mine"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["of the user"]


def test_the_supervisor_needs_the_standard_library_alone(tmp_path: Path) -> None:
    """By path, without ``site``: nothing of ours and nothing installed is imported (its speed is a benchmark)."""
    listing = (
        "import runpy, sys; sys.argv = ['supervise', *sys.argv[1:]]\n"
        f"try:\n    runpy.run_path({str(supervise.__file__)!r}, run_name='__main__')\n"
        "finally:\n    print([name.partition('.')[0] for name in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-I", "-S", "-c", listing, f"--log={tmp_path / 'x'}", "--", "/bin/true"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # Its stdin, the lifeline, stays open meanwhile.
        output, listed = process.stdout.read(), process.stderr.read()
        assert process.wait(LIMIT_S) == 0, listed
    said = [json.loads(line) for line in output.split("\n") if line]
    assert [one["event"] for one in said] == ["supervisor_started", "supervisor_exit"]
    loaded = set(ast.literal_eval(listed.strip().splitlines()[-1])) - {"__main__"}
    assert loaded <= set(sys.stdlib_module_names), loaded - set(sys.stdlib_module_names)


def test_usage_errors(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", str(supervise.__file__), "--log", str(tmp_path / "x")]
    done = subprocess.run([*command, "--"], capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2
    assert "command is missing" in done.stderr
