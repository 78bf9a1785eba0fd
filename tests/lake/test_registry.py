"""The registry of cells: whatever becomes of its index, a listing holds every cell and no other."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from accelbench_assets.errors import LakeError
from accelbench_assets.lake import registry
from accelbench_assets.lake.storage import LocalStorage
from partitions.cell import BenchmarkCell, Deployment


def cells(count: int, start: int = 0) -> list[BenchmarkCell]:
    return [
        BenchmarkCell(
            "llama-3.1-8b-instruct", "0e9e39f", ("g6e.xlarge", "p5.48xlarge")[n % 2], "vllm", "0.33.0",
            Deployment(dtype="bf16", max_model_len=1000 + n, args=(("seed", "1"),)), "fixed.1k1k@1",
        )
        for n in range(start, start + count)
    ]  # fmt: skip


class Counting(LocalStorage):
    """Counts what is asked of the store."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.calls: Counter[str] = Counter()

    def read(self, key: str) -> bytes:
        self.calls["read"] += 1
        return super().read(key)

    def create(self, key: str, data: bytes) -> bool:
        self.calls["create"] += 1
        return super().create(key, data)

    def list(self, prefix: str) -> list[str]:
        self.calls["list"] += 1
        return super().list(prefix)


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "lake")


def keys_of(store: LocalStorage) -> list[str]:
    return [entry.cell_key for entry in registry.read_entries(store)]


def parts(store: LocalStorage) -> list[Path]:
    return sorted((store.root / registry.INDEX).glob("*"))


def expect(store: LocalStorage, wanted: list[BenchmarkCell]) -> None:
    assert registry.read_cells(store) == sorted(wanted, key=lambda one: one.key_text)


def test_entries_say_what_their_cells_do(store: Counting) -> None:
    known = cells(70)
    registry.put_cells(store, known)
    for source in ("index", "documents"):
        if source == "documents":
            for part in parts(store):
                part.unlink()
        by_key = {cell.key_text: cell for cell in known}
        entries = registry.read_entries(store)
        assert len(entries) == 70
        for entry in entries:
            cell = by_key[entry.cell_key]
            assert entry.cell() == cell
            assert (entry.cell_id, entry.family, entry.label) == (
                cell.cell_id,
                cell.family,
                cell.deployment.label,
            )
            assert entry.parts()["instance"] == cell.instance
            assert "deployment" not in entry.parts()


def test_one_cell_is_one_write_however_many_there_are(store: Counting) -> None:
    (first, *many, last) = cells(300)
    registry.put_cell(store, first)
    alone = store.calls.copy()
    registry.put_cells(store, many)
    keys_of(store)
    store.calls.clear()
    registry.put_cell(store, last)
    assert store.calls == alone == {"create": 1}


def test_a_listing_reads_parts_and_not_documents(store: Counting) -> None:
    for cell in cells(registry.INDEX_FROM - 1):
        registry.put_cell(store, cell)
    assert len(keys_of(store)) == registry.INDEX_FROM - 1
    assert not parts(store), "a few cells need no index"
    registry.put_cell(store, cells(1, 1000)[0])
    assert len(keys_of(store)) == registry.INDEX_FROM
    assert len(parts(store)) == 1
    store.calls.clear()
    assert len(keys_of(store)) == registry.INDEX_FROM
    assert store.calls == {"list": 1, "read": 1}


def test_cells_after_the_index_are_found(store: Counting) -> None:
    known = cells(100)
    registry.put_cells(store, known)
    more = cells(5, 100)
    for cell in more:
        registry.put_cell(store, cell)
    expect(store, [*known, *more])


def truncate(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-10])


def swap_a_digit(part: Path) -> None:
    part.write_bytes(part.read_bytes().replace(b'"max_model_len":1000', b'"max_model_len":1001', 1))


def garbage(part: Path) -> None:
    part.write_bytes(b"\x00\xff not json")


def foreign(part: Path) -> None:
    part.unlink()
    (part.parent / "part-nothing.jsonl").write_text("[]\n")


@pytest.mark.parametrize("spoil", [truncate, swap_a_digit, garbage, foreign, Path.unlink])
def test_a_spoilt_index_is_mended(store: Counting, spoil: Callable[[Path], None]) -> None:
    known = cells(100)
    registry.put_cells(store, known)
    (part,) = parts(store)
    healthy = part.read_bytes()
    spoil(part)
    expect(store, known)
    (mended,) = parts(store)
    assert mended.read_bytes() == healthy
    store.calls.clear()
    expect(store, known)
    assert store.calls["read"] == 1


def test_an_index_cannot_bring_back_a_document_that_is_gone(store: Counting) -> None:
    known = cells(100)
    registry.put_cells(store, known)
    gone = registry.read_entries(store)[0]
    (store.root / gone.at).unlink()
    assert gone.cell_key not in keys_of(store)
    assert len(keys_of(store)) == 99


def test_many_parts_become_one(store: Counting) -> None:
    known: list[BenchmarkCell] = []
    for batch in range(registry.MERGE_FROM + 1):
        more = cells(registry.INDEX_FROM, 100 * batch)
        registry.put_cells(store, more)
        known += more
    assert len(parts(store)) == registry.MERGE_FROM + 1
    expect(store, known)
    assert len(parts(store)) == 1
    expect(store, known)


def test_who_may_only_read_lists_all_the_same(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    known = cells(100)
    for cell in known:
        registry.put_cell(store, cell)

    def refuse(key: str, data: bytes) -> None:
        raise LakeError("Access denied.")

    monkeypatch.setattr(store, "write", refuse)
    expect(store, known)
    expect(store, known)
    assert not parts(store)


def test_a_part_that_vanishes_while_it_is_read(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    known = cells(100)
    registry.put_cells(store, known)
    listed = store.list(registry.FOLDER)
    for part in parts(store):
        part.unlink()
    monkeypatch.setattr(store, "list", lambda prefix: listed)
    expect(store, known)


def test_racing_writers_and_readers_lose_nothing(store: Counting) -> None:
    batches = [cells(registry.INDEX_FROM, 70 * n) for n in range(12)]
    shared = cells(20, 5000)

    def write(batch: list[BenchmarkCell]) -> None:
        registry.put_cells(store, [*batch, *shared])
        registry.put_cell(store, shared[0])

    def read(_: int) -> int:
        return len(registry.read_entries(store))

    with ThreadPoolExecutor(8) as pool:
        writing = [pool.submit(write, batch) for batch in batches]
        seen = list(pool.map(read, range(12)))
        for one in writing:
            one.result()
    wanted = [cell for batch in batches for cell in batch] + shared
    expect(store, wanted)
    assert max(seen) <= len(wanted)


def test_putting_tells_what_is_new_and_refuses_another_cell_of_a_key(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = cells(3)
    assert registry.put_cells(store, known[:2]) == known[:2]
    assert registry.put_cells(store, known) == known[2:]
    assert registry.put_cells(store, known) == []
    other = Deployment(dtype="bf16", max_model_len=77)
    digest = known[0].deployment.digest
    monkeypatch.setattr(Deployment, "digest", property(lambda self: digest))
    clash = BenchmarkCell(
        known[0].model, known[0].revision, known[0].instance, known[0].engine, known[0].engine_version, other,
        known[0].workload,
    )  # fmt: skip
    for put in (lambda: registry.put_cell(store, clash), lambda: registry.put_cells(store, [clash, clash])):
        with pytest.raises(LakeError, match="already stands for"):
            put()


@pytest.fixture
def broken(store: Counting) -> Counting:
    registry.put_cells(store, cells(3))
    (store.root / registry.read_entries(store)[1].at).write_text('{"model": "x"}')
    return store


def test_a_document_that_is_no_cell_is_named(broken: Counting) -> None:
    with pytest.raises(LakeError, match=r"cells/family=.*\.json is not a cell \(revision: is missing\)"):
        registry.read_entries(broken)
