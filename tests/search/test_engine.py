"""The engine beyond a plain query: budgets, pages, copies, filters, states that are kept, writes while it runs."""

import io
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ccmb.core.errors import CcmbError, UsageError
from ccmb.inference import stages
from ccmb.inference.models.open_model import open_model
from ccmb.search.blob_store import BlobStore
from ccmb.search.engine import open_engine
from ccmb.search.filters import parse_condition
from ccmb.search.indexing.indexer import build_index
from ccmb.search.memory_store import MemoryStore
from ccmb.search.query import SearchQuery
from ccmb.search.state_cache import StateCache
from ccmb.search.vector_store import MAX_RESULTS, Entry, VectorStore
from tests.helpers.disk import full_disk
from tests.helpers.exact import TINY_ERROR
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

COUNT = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder of images, a model and an index with all token states."""
    root = tmp_path_factory.mktemp("made")
    tiny_model().save_pretrained(root / "model")
    tiny_processor().save_pretrained(root / "model")
    (root / "pictures").mkdir()
    for index, image in enumerate(tiny_images(COUNT)):
        image.save(root / f"pictures/{index}.png")
    build(root, "index", states_bytes=2**20)
    return root


def build(root: Path, out: str, **options) -> None:
    build_index([root / "pictures"], root / out, open_model(root / "model"), **options)


@pytest.fixture
def engine(made):
    with open_engine(made / "index") as engine:
        yield engine


@pytest.fixture
def own(made, tmp_path):
    """An index of its own for a test that changes it."""
    shutil.copytree(made / "index", tmp_path / "index")
    with open_engine(tmp_path / "index") as engine:
        yield engine


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_a_budget_ends_the_second_stage_and_the_answer_says_so(engine, monkeypatch):
    now, real = [0.0], stages.rank_pairs

    def slow(model, images, texts, image_N, text_N):
        now[0] += len(image_N)  # a second a pair
        return real(model, images, texts, image_N, text_N)

    monkeypatch.setattr(stages, "rank_pairs", slow)
    engine.stages.last.clock = lambda: now[0]
    unlimited = engine.search(SearchQuery(TEXTS[0], k=COUNT, depth=COUNT))
    assert (unlimited.ranked, unlimited.partial) == (COUNT, False)
    by_cosine = [hit.key for hit in engine.search(SearchQuery(TEXTS[0], k=COUNT, rank=False)).hits]

    started = now[0]
    answer = engine.search(SearchQuery(TEXTS[0], k=COUNT, depth=COUNT, budget=15))
    assert now[0] - started <= 15
    assert answer.partial
    assert 10 <= answer.ranked < 15
    ranked = [hit for hit in answer.hits if hit.match is not None]
    assert {hit.key for hit in ranked} == set(by_cosine[: answer.ranked])  # the best by cosine come first
    assert [hit.score for hit in ranked] == sorted((hit.score for hit in ranked), reverse=True)
    assert [hit.key for hit in answer.hits[answer.ranked :]] == by_cosine[answer.ranked :]
    # Several queries share the time; one without a budget is ranked whole.
    started = now[0]
    several = engine.search_many([SearchQuery(text, k=5, depth=COUNT, budget=12) for text in TEXTS[:3]])
    assert now[0] - started <= 12
    assert all(answer.partial and answer.ranked >= 1 for answer in several)
    enough = engine.search(SearchQuery(TEXTS[0], k=COUNT, depth=COUNT, budget=1000))
    assert (enough.partial, [hit.key for hit in enough.hits]) == (False, [hit.key for hit in unlimited.hits])


def test_pages_never_share_a_hit_even_where_a_budget_cuts_them(own, monkeypatch):
    query, rounds = SearchQuery(TEXTS[2], k=7, depth=12, budget=5.0), iter([3, 9, 12, 12, 12, 12])
    # By the clock each page would have time for another number of candidates.
    monkeypatch.setattr(type(own.stages.last), "_share", lambda self, work, works: next(rounds) if not work.done else 0)
    pages = [own.search(replace(query, offset=offset)) for offset in range(0, COUNT + 7, 7)]
    keys = [hit.key for page in pages for hit in page.hits]
    assert len(keys) == len(set(keys)) == COUNT
    assert [page.more for page in pages] == [True] * 4 + [False] * 2
    gone = keys[8]
    assert own.delete([gone]) == 1
    later = own.search(replace(query, offset=7)).hits
    assert gone not in {hit.key for hit in later}


def test_near_duplicates_are_one_hit_and_do_not_use_up_a_page(own):
    rng, image = random.Random(0), tiny_images(COUNT)[3]
    copies = set()
    for _ in range(20):
        noise = np.asarray(image.resize((64, 64)), dtype=int) + np.array([rng.randrange(3)] * 3)
        copies.add(own.add("copy.png", png(Image.fromarray(noise.clip(0, 255).astype(np.uint8)))))
    query = SearchQuery(image=image, k=5)
    plain, collapsed = own.search(query), own.search(replace(query, collapse=True))
    assert all(hit.key in copies or hit.name == "3.png" for hit in plain.hits)
    assert len(collapsed.hits) == 5
    first, *remaining = collapsed.hits
    original = next(hit.key for hit in own.search(replace(query, k=50)).hits if hit.name == "3.png")
    assert {first.key, *first.copies} == copies | {original}
    assert not copies & {hit.key for hit in remaining}
    assert all(not hit.copies for hit in remaining)


def test_filters_come_before_the_depth_and_unknown_fields_are_bad_usage(engine):
    sizes = {hit.key: hit.fields["bytes"] for hit in engine.search(SearchQuery(TEXTS[0], k=COUNT)).hits}
    max_bytes = sorted(sizes.values())[2]
    answer = engine.search(SearchQuery(TEXTS[0], k=COUNT, depth=3, where=(parse_condition(f"bytes<={max_bytes}"),)))
    assert {hit.key for hit in answer.hits} == {key for key, size in sizes.items() if size <= max_bytes}
    assert not answer.more
    with pytest.raises(UsageError, match=r"widht: .* \(did you mean 'width'\?\)"):
        engine.search(SearchQuery(TEXTS[0], where=(parse_condition("widht>1"),)))


def test_filters_that_are_compiled_already_are_not_compiled_again(engine, monkeypatch):
    where = (parse_condition("width>=1"), parse_condition("bytes>1"))
    expected = engine.search(SearchQuery(TEXTS[0], k=COUNT, where=where))
    tests = engine.compile_where(where)
    monkeypatch.setattr("ccmb.search.engine.compile_conditions", None)
    result = engine.search(SearchQuery(TEXTS[0], k=COUNT, where=where, tests=tests))
    assert [hit.key for hit in result.hits] == [hit.key for hit in expected.hits] != []
    for query in (SearchQuery(TEXTS[0], k=0), SearchQuery(TEXTS[0], offset=-1), SearchQuery(TEXTS[0], budget=0.0)):
        with pytest.raises(UsageError, match="give"):
            engine.search(query)
    with pytest.raises(CcmbError, match="no such image"):
        engine.search(SearchQuery(like="nothing"))


def test_images_are_added_and_taken_out_while_it_runs(own, tmp_path):
    image = tiny_images(1, seed=5)[0]
    key = own.add("../../x y/猫咪.png", png(image), {"author": "王", "new": True})
    assert len(own) == COUNT + 1
    assert own.fields_known()["author"] is str
    (hit,) = own.search(SearchQuery(image=image, k=1, where=(parse_condition("author=王"),))).hits
    assert (hit.key, hit.fields["author"], hit.fields["new"]) == (key, "王", True)
    assert hit.source == tmp_path / "index/uploads"
    assert hit.name.startswith("猫咪-")
    assert own.image(key).size == Image.open(io.BytesIO(own.thumbnail(key))).size == (32, 32)
    assert own.search(SearchQuery(TEXTS[0], k=COUNT + 1)).ranked == COUNT + 1
    held = own.stages.last.states.bytes
    assert own.delete([key, "no such key"]) == 1
    assert len(own) == COUNT
    assert own.stages.last.states.bytes == held * COUNT // (COUNT + 1)  # those of what is gone take no room
    assert list((tmp_path / "index/uploads").iterdir()) == []
    for lost in (own.image, own.thumbnail, own.fields):
        with pytest.raises(CcmbError, match="no such image"):
            lost(key)
    for data, fields in [
        (b"no picture", {}),
        *((png(image), item) for item in ({"author": 3}, {"width": 3}, {"a": [1]})),
    ]:
        with pytest.raises(UsageError):
            own.add("x.png", data, fields)
    assert len(own) == COUNT


def test_what_was_added_is_there_after_the_process_was_killed(own, tmp_path):
    key = own.add("猫.png", png(tiny_images(1, seed=5)[0]))
    shutil.copytree(tmp_path / "index", tmp_path / "killed")  # as a kill would leave it
    with open_engine(tmp_path / "killed") as engine:
        assert len(engine) == COUNT + 1
        assert engine.image(key).size == (32, 32)


def test_kept_states_give_the_same_scores_without_encoding(made, engine, monkeypatch):
    build(made, "plain")
    with open_engine(made / "plain", states_bytes=0) as plain:
        expected = {hit.key: hit.match for hit in plain.search(SearchQuery(TEXTS[0], k=COUNT)).hits}
    monkeypatch.setattr(type(engine.model), "encode_prepared", None)  # none is called
    result = {hit.key: hit.match for hit in engine.search(SearchQuery(TEXTS[0], k=COUNT)).hits}
    assert result == pytest.approx(expected, abs=2e-3)


def test_a_changed_or_lost_image_is_not_ranked_by_what_was_kept(made, tmp_path):
    for name in ("pictures", "model"):
        shutil.copytree(made / name, tmp_path / name)
    build(tmp_path, "index", states_bytes=2**20)
    with open_engine(tmp_path / "index") as engine:
        before = {hit.name: hit.match for hit in engine.search(SearchQuery(TEXTS[0], k=COUNT)).hits}
        tiny_images(1, seed=9)[0].save(tmp_path / "pictures/0.png")
        (tmp_path / "pictures/1.png").unlink()
        after = {hit.name: hit for hit in engine.search(SearchQuery(TEXTS[0], k=COUNT)).hits}
    assert after["0.png"].match != pytest.approx(before["0.png"], abs=1e-4)
    assert after["1.png"].missing
    assert all(
        after[name].match == pytest.approx(before[name], abs=TINY_ERROR) for name in before.keys() - {"0.png", "1.png"}
    )


def test_states_in_memory_are_bounded_and_the_latest_stay(tmp_path):
    cache = StateCache(BlobStore(tmp_path / "states.db"), 8, max_bytes=3 * 5 * 8 * 2)
    entries, batch = [Entry("/a", str(index), "s", "d") for index in range(6)], torch.randn(6, 5, 8)
    for entry, states in zip(entries, batch, strict=True):
        cache.put(entry, states)
        cache.get(entries[:1])
    assert cache.bytes == cache.max_bytes
    assert cache.has(entries) == [True, False, False, False, True, True]
    assert torch.allclose(cache.get(entries[4:5])[entries[4].key].float(), batch[4], atol=1e-2)
    assert cache.has([replace(entries[0], stamp="other")]) == [False]


def test_after_a_full_disk_the_running_index_takes_images_again(own):
    data = png(tiny_images(1, seed=6)[0])
    with full_disk(2_000), pytest.raises(CcmbError) as raised:
        own.add("a.png", data)
    assert "\n" not in str(raised.value)
    key = own.add("b.png", data)
    assert [hit.key for hit in own.search(SearchQuery(image=tiny_images(1, seed=6)[0], k=1)).hits] == [key]
    assert len(own.catalogue.store.store) == len(own) == COUNT + 1


def test_a_local_index_gives_hits_beyond_what_a_server_does(tmp_path):
    class Written:
        """A store of which the mirror has all."""

        dim, count = 4, 0

        def upsert(self, entries, embed_BD):
            self.count += len(entries)

        def everything(self):
            return iter(())

        def __len__(self):
            return self.count

    memory_store = MemoryStore(Written(), tmp_path / "mirror.db")
    count = MAX_RESULTS + 16
    memory_store.upsert([Entry("/a", str(index)) for index in range(count)], torch.eye(4)[torch.arange(count) % 4])
    (nears,) = memory_store.search_many(torch.eye(4)[:1], count)
    assert len({near.key for near in nears}) == count
    memory_store.close()


def test_hits_beyond_the_limit_of_a_server_are_refused_by_name(engine, tmp_path, monkeypatch):
    with VectorStore(tmp_path / "vectors.db", 4) as store, pytest.raises(UsageError, match="16,385 hits are more"):
        store.search_many(torch.eye(4)[:1], MAX_RESULTS + 1)
    monkeypatch.setattr(engine.catalogue.store, "max_results", 6, raising=False)
    for query in (
        SearchQuery(TEXTS[0], k=7),
        SearchQuery(TEXTS[0], k=2, offset=5, rank=False),
        SearchQuery(TEXTS[0], k=2, depth=7),
    ):
        with pytest.raises(UsageError, match="a Milvus server gives the best 6"):
            engine.search(query)
    unlimited = engine.search(SearchQuery(TEXTS[0], k=6, rank=False))
    assert (len(unlimited.hits), unlimited.more, unlimited.cut) == (6, False, True)
    part = engine.search(SearchQuery(TEXTS[0], k=3, rank=False))
    assert (len(part.hits), part.more, part.cut) == (3, True, False)
    few = engine.search(SearchQuery(TEXTS[0], k=6, rank=False, where=(parse_condition("folder under /nowhere"),)))
    assert (len(few.hits), few.cut) == (0, False)
