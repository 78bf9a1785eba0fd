"""The child process: its events, its end, interrupts, and that it never outlives the command line."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from accelbench_assets.cli import state
from accelbench_assets.cli.child import ChildEnd, run_child
from accelbench_assets.cli.progress import ProgressView
from tests.support import children
from tests.support.waiting import until

EMIT = """import json, sys
def emit(k, m="", **d):
    print(json.dumps(dict(kind=k, message=m, data=d)), flush=True)
"""


@pytest.fixture(autouse=True)
def _fresh_state() -> None:
    state.reset()


def child(code: str, tmp_path: Path) -> ChildEnd:
    view = ProgressView(["C=1", "C=2"], plain=True)
    return run_child(["-c", EMIT + textwrap.dedent(code)], view=view, log=tmp_path / "logs" / "child.log")


def test_a_result_with_noise_around_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    end = child(
        """
        emit('phase', 'starting llamacpp')
        print('a library says hello'); print('[1, 2]'); print('{"kind": 3}')
        emit('progress', '', event='step_end', step_index=1, phase='tail', elapsed_s=9.0, planned_s=9.0,
             completed=12, failed=1, output_tokens=99)
        emit('warning', 'mind the gap')
        emit('result', 'done', run_id='r1', status='succeeded')
        """,
        tmp_path,
    )
    assert end.failure("The run") is None
    assert (end.kind, end.data["run_id"], end.returncode, end.interrupted) == ("result", "r1", 0, False)
    said = capsys.readouterr()
    assert said.out == ""
    assert "starting llamacpp" in said.err
    assert "step 2/2 C=2 tail  9/9 s · 12 requests, 1 failed" in said.err
    assert "warning: mind the gap" in said.err
    assert "hello" not in said.err


def test_quiet_silences_progress_but_not_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state.set_quiet(True)
    child("emit('phase', 'starting'); emit('warning', 'careful'); emit('result')", tmp_path)
    assert capsys.readouterr().err == "warning: careful\n"


def test_an_error_line_becomes_the_error(tmp_path: Path) -> None:
    end = child(
        "emit('error', 'x', message='The port is busy.', hint='Use another.', exit_code=2); sys.exit(2)",
        tmp_path,
    )
    failure = end.failure("The run")
    assert failure is not None
    assert (failure.message, failure.hint, failure.exit_code) == ("The port is busy.", "Use another.", 2)


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("sys.exit(3)", "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
        ("pass", "exit code 0"),
    ],
)
def test_a_child_that_dies_without_a_result(code: str, how: str, tmp_path: Path) -> None:
    end = child(f"sys.stderr.write('password=hunter22 is wrong\\n'); sys.stderr.flush()\n{code}", tmp_path)
    failure = end.failure("The run")
    assert failure is not None
    assert how in failure.message
    assert "is wrong" in failure.message
    assert "hunter22" not in failure.message
    assert failure.hint == f"Its log: {tmp_path / 'logs' / 'child.log'}"
    assert (tmp_path / "logs" / "child.log").stat().st_mode & 0o077 == 0


def test_a_grandchild_that_keeps_the_pipe_does_not_hold_us_up(tmp_path: Path) -> None:
    code = """
        import subprocess
        held = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
        emit('result', pid=held.pid)
    """
    began = time.monotonic()
    end = child(code, tmp_path)
    os.kill(end.data["pid"], signal.SIGKILL)
    assert end.kind == "result"
    assert time.monotonic() - began < 120


CLEANS_UP = """
    import signal, time
    try:
        emit('phase', 'ready')
        time.sleep(600)
    except KeyboardInterrupt:
        emit('error', 'Interrupted.', message='Interrupted.', exit_code=130)
        sys.exit(130)
"""
IGNORES = """
    import signal, time
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    emit('phase', 'ready')
    time.sleep(600)
"""


def interrupted(code: str, signals: list[int], tmp_path: Path) -> tuple[list[str], str]:
    """The child gets *signals*, one after the other, once it is ready."""
    blows = list(zip(signals, ("ready", "interrupted"), strict=False))
    return children.interrupted(EMIT + textwrap.dedent(code), blows, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_interrupt_lets_the_child_clean_up(number: int, tmp_path: Path) -> None:
    end, said = interrupted(CLEANS_UP, [number], tmp_path)
    assert end == ["True", "error", "130"]
    assert "interrupted: stopping the engine" in said


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ([{"phase": "load"}], "interrupted: stopping the engine and writing the record"),
        ([{"phase": "load"}, {"phase": "commit"}], "interrupted: the run is being committed"),
        ([{"phase": "commit"}, {}], "interrupted: the run is kept; catalog and page are not up to date"),
    ],
)
def test_an_interrupt_says_what_it_does_at_this_point(
    before: list[dict[str, str]], says: str, tmp_path: Path
) -> None:
    told = "".join(f"    emit('phase', 'at it', **{data!r})\n" for data in before)
    ready = "        emit('phase', 'ready')\n"
    last = "        emit('progress', 'ready', event='step_end')\n"
    assert CLEANS_UP.count(ready) == 1
    code = CLEANS_UP.replace(ready, told.replace("    emit", "        emit") + last)
    _, said = interrupted(code, [signal.SIGINT], tmp_path)
    assert says in said


def test_the_second_interrupt_kills(tmp_path: Path) -> None:
    end, _ = interrupted(IGNORES, [signal.SIGINT, signal.SIGINT], tmp_path)
    assert end == ["True", "None", "-9"]


def test_the_child_sees_the_end_of_its_lifeline_when_we_are_killed(tmp_path: Path) -> None:
    code = """
        emit('phase', 'ready')
        sys.stdin.read()
        open('cancelled', 'w').close()
    """
    interrupted(code, [signal.SIGKILL], tmp_path)
    until((tmp_path / "cancelled").exists, "the child notices")


def test_a_lock_is_held_until_the_last_of_both_is_gone(tmp_path: Path, home: Path) -> None:
    from accelbench_assets.cli.launching import attempt_lock
    from accelbench_assets.launch.locks import is_alive

    code = "import sys; sys.stdin.read()"
    with attempt_lock(home, "r1") as (descriptor, attempt):
        held = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, pass_fds=[descriptor])
        assert is_alive(attempt)
        os.close(os.dup(descriptor))
        json.dumps(attempt)
        # As when this process is killed: its descriptor goes, the file and the child's descriptor stay.
        os.close(descriptor)
        assert is_alive(attempt)
        held.communicate(timeout=120)
        assert not is_alive(attempt)
        os.open(os.devnull, os.O_RDONLY)  # takes the number that leaving the lock will close
    assert not Path(attempt["lock"]).exists()


def test_events_on_a_terminal_and_from_another_thread(tmp_path: Path) -> None:
    view = ProgressView(["C=1"], plain=False)
    with view:
        worker = threading.Thread(target=view.notice, args=("measuring",))
        worker.start()
        worker.join()
        for tokens in (0, 100, 50):
            view.event(
                "progress", "", {"step_index": 0, "elapsed_s": 1, "planned_s": 2, "output_tokens": tokens}
            )
        view.event("progress", "calibrating", {})
        view.event("something new", "x", {})
