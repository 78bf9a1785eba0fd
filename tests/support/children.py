"""The command line's side of a child process, in a process of its own that a test can interrupt.

Belongs here: ``interrupted``. Does not belong here: the children, which each test writes itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from tests.support.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[2]


def interrupted(
    code: str,
    blows: Sequence[tuple[int, str]],
    folder: Path,
    *,
    clean_up_s: float | None = None,
    nudge_s: float | None = None,
) -> tuple[list[str], str]:
    """Run the child *code* through ``run_child`` in *folder*; send each signal of *blows* once stderr says its word.

    What ``run_child`` made of it (interrupted, kind, return code) and all that was said. The times replace those the
    child is given.
    """
    times = {"CLEAN_UP_S": clean_up_s, "NUDGE_S": nudge_s}
    given = {name: value for name, value in times.items() if value is not None}
    program = f"""
from pathlib import Path
from accelbench_assets.cli import child
from accelbench_assets.cli.progress import ProgressView
vars(child).update({given!r})
end = child.run_child(["-c", {textwrap.dedent(code)!r}], view=ProgressView([], plain=True), log=Path("child.log"))
print(end.interrupted, end.kind, end.returncode)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stderr is not None
    said = []
    for number, awaited in blows:
        for line in parent.stderr:
            said.append(line)
            if awaited in line:
                break
        parent.send_signal(number)
    out, err = parent.communicate(timeout=HANG_S)
    return out.split(), "".join(said) + err
