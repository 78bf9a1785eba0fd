"""Running a child as an ordinary user, for tests that are run by root."""

from __future__ import annotations

import os
import pwd


def as_user(name: str) -> tuple[str, ...]:
    """Command prefix: become *name*, who may enter the folder this checkout lies in, but write only where they may.

    Empty when the tests are not run by root: they are run by an ordinary user already.
    """
    if os.geteuid() != 0:
        return ()
    uid, reads = str(pwd.getpwnam(name).pw_uid), "+dac_read_search"
    return (
        "setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--inh-caps", reads, "--ambient-caps", reads,
        "--securebits", "+no_setuid_fixup",  # else access(2) would not know of the capability
        "--",
    )  # fmt: skip
