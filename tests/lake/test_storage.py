"""The storage seam: the same promises on a folder and on a real S3 server."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from accelbench_assets.errors import LakeError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.storage import LocalStorage, MissingKeyError, open_storage


def test_what_is_written_is_read_listed_and_deleted(lake: Lake) -> None:
    storage = lake.storage
    storage.write("a/b=1/x.json", b"one")
    storage.write("a/b=1/x.json", b"two")
    storage.write("a/b=2/y.json", b"\x00\xff")
    assert storage.read("a/b=1/x.json") == b"two"
    assert storage.list("a") == ["a/b=1/x.json", "a/b=2/y.json"]
    assert storage.list("a/b=2") == ["a/b=2/y.json"]
    assert storage.list("nothing") == []
    storage.delete("a/b=1/x.json")
    storage.delete("a/b=1/x.json")
    assert not storage.exists("a/b=1/x.json")
    with pytest.raises(MissingKeyError, match=r"There is no a/b=1/x\.json"):
        storage.read("a/b=1/x.json")


def test_create_is_only_for_one(lake: Lake) -> None:
    assert lake.storage.create("runs/r.json", b"first")
    assert not lake.storage.create("runs/r.json", b"second")
    assert lake.storage.read("runs/r.json") == b"first"


def test_of_racing_creators_exactly_one_wins(lake: Lake) -> None:
    start, wins = threading.Barrier(8), []

    def race(number: int) -> None:
        start.wait()
        if lake.storage.create("runs/raced.json", b"%d" % number):
            wins.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(wins) == 1
    assert lake.storage.read("runs/raced.json") == b"%d" % wins[0]


def test_a_repeated_move_is_done_and_a_missing_source_is_said(lake: Lake) -> None:
    storage = lake.storage
    storage.write("from/x", b"data")
    storage.move("from/x", "to/deep/x")
    storage.move("from/x", "to/deep/x")
    assert storage.read("to/deep/x") == b"data"
    assert not storage.exists("from/x")
    with pytest.raises(LakeError, match="There is no from/y"):
        storage.move("from/y", "to/y")


def test_a_file_larger_than_a_piece_arrives_whole(lake: Lake, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    path = tmp_path / "big.log"
    path.write_bytes(content)
    lake.storage.put_file("logs/big", path)
    digest = hashlib.sha256()
    sizes = []
    for piece in lake.storage.chunks("logs/big"):
        digest.update(piece)
        sizes.append(len(piece))
    assert digest.digest() == hashlib.sha256(content).digest()
    assert max(sizes) < len(content)


def test_a_killed_writer_leaves_only_a_hidden_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("marts/m/part-0.parquet", b"old")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process cleans nothing up
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        storage.write("marts/m/part-0.parquet", b"new")
    assert len(list((tmp_path / "marts/m").iterdir())) == 2
    assert storage.read("marts/m/part-0.parquet") == b"old"
    assert storage.list("marts") == ["marts/m/part-0.parquet"]


@pytest.mark.parametrize("key", ["../outside", "a/../../b", "/etc/passwd"])
def test_no_name_leads_out_of_the_lake(tmp_path: Path, key: str) -> None:
    with pytest.raises(LakeError, match="not a name inside the lake"):
        LocalStorage(tmp_path).write(key, b"")


def test_create_works_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    storage = LocalStorage(tmp_path)
    assert storage.create("x", b"1")
    assert not storage.create("x", b"2")
    assert storage.read("x") == b"1"


def test_a_move_to_another_disk_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("from/x", b"data")
    replace = Path.replace

    def other_disk(self: Path, target: Path) -> Path:
        if self.name == "x":
            raise OSError(18, "Invalid cross-device link")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", other_disk)
    storage.move("from/x", "to/x")
    assert storage.list("") == ["to/x"] or storage.read("to/x") == b"data"
    assert not storage.exists("from/x")


@pytest.mark.parametrize("url", ["http://x/y", "s3://", "lake", "file://relative"])
def test_only_folders_and_buckets_are_lakes(url: str) -> None:
    with pytest.raises(LakeError):
        open_storage(url)


def test_a_folder_with_odd_characters_is_a_lake(tmp_path: Path) -> None:
    folder = tmp_path / "my lake % ü'"
    lake = Lake.open(folder.as_uri())
    lake.check_writable()
    lake.storage.write("x", b"1")
    assert (folder / "x").read_bytes() == b"1"
