"""The vector store: exact, durable, the same on a file and behind a URI, and clear about what is wrong."""

import fcntl
import random

import pytest
import torch
from torch.nn import functional as F

from ccmb.errors import CcmbError
from ccmb.search.store import Entry, VectorStore

DIM = 8


def unit(count: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


def entries(count: int, source: str = "/图片 a") -> list[Entry]:
    return [Entry(source, f"夏天/{index}.jpg", f"{index}-1") for index in range(count)]


@pytest.fixture(params=["file", "server"])
def uri(request, tmp_path):
    if request.param == "file":
        yield str(tmp_path / "vectors.db")
        return
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    server, database, port = start_server_in_thread(str(tmp_path / "served"), host="127.0.0.1", port=0)
    yield f"http://127.0.0.1:{port}"
    server.stop(grace=0)
    database.close()


def test_search_is_an_exact_cosine_search_before_and_after_flush_and_reopening(uri):
    embed, query = unit(200), unit(5, seed=1)
    expected = (query @ embed.T).topk(20)

    def check(store):
        for number in range(5):
            found = store.search(query[number], 20)
            assert [near.entry for near in found] == [entries(200)[index] for index in expected.indices[number]]
            assert torch.tensor([near.cosine for near in found]).allclose(expected.values[number], atol=1e-6)

    with VectorStore(uri, DIM) as store:
        store.upsert(entries(200), embed)
        check(store)
        store.flush()
        check(store)
    with VectorStore(uri, DIM) as store:
        assert len(store) == 200
        check(store)


@pytest.mark.parametrize("seed", [0, 1])
def test_any_sequence_of_writes_leaves_what_a_dictionary_would_hold(tmp_path, seed):
    rng, expected = random.Random(seed), {}
    store = VectorStore(tmp_path / "vectors.db", DIM)
    for step in range(25):
        action = rng.choice(["write", "write", "flush", "reopen"])
        if action == "write":
            names = rng.sample(range(30), rng.randint(0, 8))
            batch = [Entry(rng.choice("ab"), str(name), str(step)) for name in names]
            store.upsert(batch, unit(len(batch), seed=step))
            expected |= {(entry.source, entry.name): entry.stamp for entry in batch}
        elif action == "flush":
            store.flush()
        else:
            store.close()
            store = VectorStore(tmp_path / "vectors.db", DIM)
    found = store.search(unit(1)[0], 1000)
    asked = [Entry(source, str(name)) for source in "ab" for name in range(30)]
    stamps = store.stamps(asked, batch=7)
    size = len(store)
    store.close()
    assert size == len(found) == len(expected)
    assert {(near.entry.source, near.entry.name): near.entry.stamp for near in found} == expected
    assert {(e.source, e.name): stamps[e.key] for e in asked if e.key in stamps} == expected


def test_source_and_name_are_told_apart_in_the_key():
    assert len({Entry("a", "b/c").key, Entry("a/b", "c").key, Entry("ab", "/c").key}) == 3
    assert Entry("a", "b", "1").key == Entry("a", "b", "2").key


def test_a_store_held_by_another_process_is_refused_in_one_quiet_line(tmp_path, capfd):
    path = tmp_path / "vectors.db"
    VectorStore(path, DIM).close()
    with open(path / "LOCK") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process would hold it
        with pytest.raises(CcmbError, match=r"vectors\.db: in use by another process"):
            VectorStore(path, DIM)
    VectorStore(path, DIM).close()
    assert capfd.readouterr() == ("", "")


def test_a_damaged_store_is_refused_in_one_quiet_line(tmp_path, capfd):
    (tmp_path / "vectors.db").write_text("not a store")
    with pytest.raises(CcmbError, match=r"vectors\.db: the store cannot be opened") as raised:
        VectorStore(tmp_path / "vectors.db", DIM)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_a_vector_of_another_width_is_refused_in_one_quiet_line(tmp_path, capfd):
    with VectorStore(tmp_path / "vectors.db", DIM) as store:
        store.upsert(entries(3), unit(3))
        with pytest.raises(CcmbError, match=r"vectors\.db: the store failed") as raised:
            store.search(torch.ones(DIM + 1), 1)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")
