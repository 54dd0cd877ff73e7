"""Short vectors in front of whole ones: what a plain shortlist gives, whatever was written, moved or left out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ccmb.core.errors import UsageError
from ccmb.search import coarse
from ccmb.search.frozen import FrozenMemoryStore
from ccmb.search.index_folder import IndexRecord, open_catalogue
from ccmb.search.memory_store import MemoryStore
from ccmb.search.query import NumberTest, Test
from ccmb.search.vector_store import Entry, VectorStore
from tests.helpers.exact import product_error
from tests.helpers.runs import command_line
from tests.helpers.tiny import TEXTS, tiny_images
from tests.helpers.two_towers import save_r2d2

DIM, SHORT, COUNT, K = 8, 3, 60, 2
WITHIN = product_error(DIM)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "MIN_SHORTLIST", 1)
    monkeypatch.setattr(coarse, "SHORTLIST", 3)


def unit(count: int, seed: int) -> Tensor:
    return normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


def entries(count: int) -> list[Entry]:
    return [
        Entry("/a", f"{row}.jpg", f"{row}-1", f"{row:032x}", width=row % 3, height=1, bytes=1) for row in range(count)
    ]


def plain(embed: Tensor, query: Tensor, allowed: list[int]) -> list[tuple[int, float]]:
    """The best K of the 3 K nearest by the first numbers."""
    short = normalize(embed[:, :SHORT], dim=1) @ normalize(query[:SHORT], dim=0)
    chosen = sorted(allowed, key=lambda row: -float(short[row]))[: 3 * K]
    return sorted(((row, float(embed[row] @ query)) for row in chosen), key=lambda pair: -pair[1])[:K]


def check(store: MemoryStore, embed: Tensor, allowed: list[int], tests: tuple[Test, ...] = ()) -> int:
    """Every query's answer is the plain one; how many differ from a scan of whole vectors."""
    queries, keys, differs = unit(5, 9), [entry.key for entry in entries(COUNT)], 0
    for at_once in (queries, *queries.split(1)):
        results = store.search_many(at_once, K, [tests] * len(at_once))
        for query, neighbours in zip(at_once, results, strict=True):
            expected = plain(embed, query, allowed)
            assert [near.key for near in neighbours] == [keys[row] for row, _ in expected]
            cosines = torch.tensor([near.cosine for near in neighbours])
            torch.testing.assert_close(cosines, torch.tensor([value for _, value in expected]), rtol=0, atol=WITHIN)
            whole = sorted(allowed, key=lambda row: -float(embed[row] @ query))[:K]
            differs += whole != [row for row, _ in expected]
    return differs


def test_the_best_of_the_shortlist_are_ordered_by_whole_vectors(tmp_path: Path) -> None:
    embed = unit(COUNT, 1)
    with VectorStore(tmp_path / "vectors.db", DIM) as store:
        memory = MemoryStore(store, tmp_path / "mirror.db", SHORT)
        memory.upsert(entries(COUNT), embed)
        assert check(memory, embed, list(range(COUNT))) > 0
        wide = [row for row in range(COUNT) if row % 3 >= 1]
        check(memory, embed, wide, (NumberTest("width", ((1.0, math.inf),)),))
        memory.delete([entry.key for entry in entries(COUNT)[:7]])
        embed[20:25] = unit(5, 4)
        memory.upsert(entries(COUNT)[20:25], embed[20:25])
        check(memory, embed, list(range(7, COUNT)))
        memory.close()
        again = MemoryStore(store, tmp_path / "mirror.db", SHORT)
        check(again, embed, list(range(7, COUNT)))
        again.flush()
        again.close()
    frozen = FrozenMemoryStore(tmp_path / "mirror.db", DIM, SHORT)
    check(frozen, embed, list(range(7, COUNT)))
    frozen.close()


def test_a_small_index_is_scanned_whole(tmp_path: Path) -> None:
    embed = unit(20, 1)
    with VectorStore(tmp_path / "vectors.db", DIM) as store:
        memory = MemoryStore(store, tmp_path / "mirror.db", SHORT)
        memory.upsert(entries(20), embed)
        for query in unit(5, 9):
            (neighbours,) = memory.search_many(query[None], K)
            assert [near.key for near in neighbours] == [
                entries(20)[row].key for row in (embed @ query).topk(K).indices
            ]
        memory.close()


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with VectorStore(tmp_path / "vectors.db", DIM) as store:
        for dim in (DIM, DIM + 1):
            with pytest.raises(UsageError, match=rf"--coarse-dim is {dim}; give a number below {DIM}"):
                MemoryStore(store, tmp_path / "mirror.db", dim)
    record = IndexRecord(form=2, model="x", fingerprint="y", embed_dim=DIM, store="http://127.0.0.1:1")
    with (
        pytest.raises(UsageError, match=r"--coarse-dim is of an index in memory; http://127\.0\.0\.1:1 scans"),
        open_catalogue(tmp_path, record, coarse_dim=SHORT),
    ):
        pass


def test_the_command_takes_it_or_names_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command, photos, index = command_line(monkeypatch, capfd), tmp_path / "photos", tmp_path / "index"
    photos.mkdir()
    for row, image in enumerate(tiny_images(4)):
        image.save(photos / f"{row}.png")
    assert command("index", photos, "--model", save_r2d2(tmp_path / "r2d2"), "--out", index).code == 0
    search = "search", TEXTS[0], "--index", index, "--json"
    whole, short = command(*search), command(*search, "--coarse-dim", 8)
    assert (whole.code, short.code) == (0, 0)
    assert short.out == whole.out
    wrong = command(*search, "--coarse-dim", 16)
    assert (wrong.code, "--coarse-dim is 16; give a number below 16" in wrong.err) == (2, True)
