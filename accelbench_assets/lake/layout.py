"""Where everything lies below the lake's root: the key of each file, and nothing but the key.

Belongs here: names of folders and files of the layout, as ``lake`` describes it.
Does not belong here: reading or writing them (``io``, ``commit``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from accelbench_assets.errors import LakeError
from accelbench_assets.lake.tables import JUDGEMENT_TABLES

_RUN_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{1,63}")
_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def is_run_id(text: object) -> bool:
    """Whether *text* can be (part of) a run id and of a path."""
    return isinstance(text, str) and _RUN_ID.fullmatch(text) is not None


def check_run_id(run_id: str) -> str:
    """*run_id* if it can be part of a path; ``LakeError`` otherwise."""
    if not is_run_id(run_id):
        raise LakeError(f"{run_id!r} is not a run id.")
    return run_id


def incoming_folder(run_id: str) -> str:
    """Folder of an uncommitted run's samples."""
    return f"_incoming/run_id={check_run_id(run_id)}"


def log_folder(run_id: str) -> str:
    """Folder of a run's logs."""
    return f"logs/run_id={check_run_id(run_id)}"


def run_key(run_id: str) -> str:
    """Key of the runs record. The date is the one inside the UUIDv7, so that every writer of this run's
    record, on any day, aims at the same key and create-if-absent decides between them. Other ids share
    ``1970-01-01``.
    """
    day = "1970-01-01"
    if _UUID7.fullmatch(check_run_id(run_id)):
        millis = int(run_id[:8] + run_id[9:13], 16)
        day = datetime.fromtimestamp(millis / 1000, UTC).strftime("%Y-%m-%d")
    return f"runs/date={day}/run_id={run_id}.json"


def run_folder(table: str, record: Mapping[str, Any]) -> str:
    """Folder of one run's part of *table*: ``<table>/family=/cell_id=/run_id=``."""
    from partitions.cell import CellKey

    family = CellKey.parse(record["cell_key"]).family
    return f"{table}/family={family}/cell_id={record['cell_id']}/run_id={check_run_id(record['run_id'])}"


def dated_folder(table: str) -> str:
    """Folder of a table of facts or judgements."""
    return f"{'judgements' if table in JUDGEMENT_TABLES else 'facts'}/{table}"


def cell_key(key_text: str) -> str:
    """Key of a registered cell: named after its text key, so that a lookup is one read."""
    from partitions.cell import CellKey

    key = CellKey.parse(key_text)
    return f"cells/family={key.family}/{hashlib.sha256(key.text.encode()).hexdigest()[:16]}.json"


def artefacts_key(key_text: str) -> str:
    """Key of what is known of a cell's release beyond its text key: image, commit."""
    return cell_key(key_text).replace("cells/", "cell_artefacts/", 1)
