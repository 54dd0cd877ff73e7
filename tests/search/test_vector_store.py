"""The vector store: exact, durable, the same on a file and behind a URI, and clear about what is wrong."""

import fcntl
import random
import sqlite3
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch.nn import functional as F

from ccmb.core.errors import CcmbError, UsageError
from ccmb.search.filters import BUILT_IN, compile_conditions, parse_condition
from ccmb.search.memory_store import MemoryStore
from ccmb.search.query import Condition
from ccmb.search.vector_store import Entry, VectorStore
from tests.helpers.exact import product_error
from tests.helpers.milvus_server import milvus_server

DIM = 8
KNOWN = {**BUILT_IN, "author": str, "price": float, "new": bool}


WITHIN = product_error(DIM)  # a cosine in float32


def unit(count: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


def entries(count: int, source: str = "/图片 a") -> list[Entry]:
    """Images with all kinds of fields; some lack some."""
    rng, result = random.Random(0), []
    for index in range(count):
        own = {"author": rng.choice(["王", '李"\\x', "A%"]), "price": index % 5 / 2, "new": index % 2}
        folder, date = rng.choice(["夏天", "夏天/海", "夏_天", "x"]), 1_700_000_000 + 86_400 * index
        result.append(
            Entry(
                source,
                f"{folder}/{index}.jpg",
                f"{index}-1",
                f"{index:032x}",
                date=rng.choice([None, date]),
                width=100 + index % 7,
                height=80,
                bytes=1000 + index,
                own={name: value for name, value in own.items() if rng.random() < 0.7},
            )
        )
    return result


@contextmanager
def opened(kind: str, location: Path, collection: str = "pictures"):
    """A store in a file, the mirror of one, or a store of the server whose URI is `place`."""
    with VectorStore(location if kind == "server" else location / "vectors.db", DIM, collection) as store:
        if kind != "mirror":
            yield store
            return
        memory_store = MemoryStore(store, location / "mirror.db")
        yield memory_store
        memory_store.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with milvus_server(tmp_path_factory.mktemp("served")) as uri:
        yield uri


@pytest.fixture(params=["file", "mirror", "server"])
def open_store(request, tmp_path):
    if request.param == "server":
        uri, collection = request.getfixturevalue("server"), f"test_{random.randrange(10**9)}"
        return lambda: opened("server", uri, collection)
    return lambda: opened(request.param, tmp_path)


def test_search_is_an_exact_cosine_search_before_and_after_flush_and_reopening(open_store):
    embed, query, all_entries = unit(200), unit(5, seed=1), entries(200)
    expected = (query @ embed.T).topk(20)

    def check(store):
        result = store.search_many(query, 20)
        for row in range(5):
            keys = [near.key for near in result[row]]
            assert keys == [all_entries[index].key for index in expected.indices[row]]
            assert torch.tensor([near.cosine for near in result[row]]).allclose(expected.values[row], atol=WITHIN)
        assert store.get(keys) == {entry.key: entry for entry in all_entries if entry.key in set(keys)}

    with open_store() as store:
        store.upsert(all_entries, embed)
        check(store)
        store.flush()
        check(store)
    with open_store() as store:
        assert len(store) == 200
        check(store)
        assert {entry.key for entry in store.of_source("/图片 a")} == {entry.key for entry in all_entries}
        assert list(store.of_source("/图片")) == []


def passes(entry: Entry, field: str, comparison: str, value) -> bool:
    """What a condition means, said plainly."""
    if comparison == "in":
        return any(passes(entry, field, "==", item) for item in value)
    if field == "date":
        if entry.date is None:
            return False
        value, known = str(value), datetime.fromtimestamp(entry.date, UTC).isoformat()[: len(str(value))]
    else:
        known = entry.columns.get(field)
    if known is None:
        return False
    if comparison == "under":
        absolute = value if value.startswith("/") else f"/图片 a/{value}"
        return known == absolute or known.startswith(f"{absolute.rstrip('/')}/")
    return {
        "==": lambda: known == value, "!=": lambda: known != value, "<": lambda: known < value,
        "<=": lambda: known <= value, ">": lambda: known > value, ">=": lambda: known >= value,
    }[comparison]()  # fmt: skip


CONDITIONS = (
    "width>=104", "width<104", "width==103", "width!=103", "width in 101,103,900", "bytes>1198", "bytes<=1001",
    "price>1", "price<=0.5", "price==1.5", "price!=2", "new=true", "new!=true", "author=王", "author!=王",
    'author="李"\\x"', "author in 王,A%", "folder under 夏天", "folder under /图片 a/夏_天", "folder under /",
    "folder under x/y", "date<2023-12", "date<=2023-12", "date==2023-11-20", "date>2024", "date>=2024-03-01",
    "date!=2023-11", "date in 2023-11-20,2024-02",
)  # fmt: skip


def test_filters_are_exact_however_narrow(open_store):
    all_entries, embed, query = entries(300), unit(300), unit(1, seed=1)
    conditions = [parse_condition(text) for text in CONDITIONS]
    with open_store() as store:
        store.upsert(all_entries, embed)
        wheres = [(one,) for one in conditions] + [(conditions[0], other) for other in conditions[7:]] + [()]
        tests = [compile_conditions(where, KNOWN, ["/图片 a"]) for where in wheres]
        results = store.search_many(query.expand(len(tests), -1), 40, tests)
        cosine = (embed @ query[0]).tolist()
        counts = []
        for where, result in zip(wheres, results, strict=True):
            passing = [
                position for position, entry in enumerate(all_entries)
                if all(passes(entry, item.field, item.comparison, item.value) for item in where)
            ]  # fmt: skip
            expected = sorted(passing, key=lambda position: -cosine[position])[:40]
            assert [near.key for near in result] == [all_entries[position].key for position in expected], where
            counts.append(len(passing))
        assert 0 in counts
        assert any(0 < count < 10 for count in counts)


def test_texts_of_any_characters_are_compared_whole(open_store):
    texts = [
        "海边　的",
        "\U0001f468\u200d\U0001f469",
        "一\n二\r\n\t三",
        "a\u00adb\u200b",
        "a\u2028b\u0085c",
        "\x1b[0m",
        "'\"\\n",
        "007",
        "7",
    ]
    all_entries = [Entry("/a", f"{index}.jpg", own={"author": text}) for index, text in enumerate(texts)]
    with open_store() as store:
        store.upsert(all_entries, unit(len(texts)))
        for entry, text in zip(all_entries, texts, strict=True):
            tests = compile_conditions([Condition("author", "==", text)], KNOWN)
            assert [near.key for near in store.search_many(unit(1, seed=1), 9, [tests])[0]] == [entry.key], repr(text)
            assert store.get([entry.key])[entry.key].own == {"author": text}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("width", "not a condition"), ("", "not a condition"), ("width>=", "not a condition"),
        ("widht>3", "did you mean 'width'"), ("width>abc", "'abc' is none"), ("width under 3", "only folders"),
        ("author>王", "compare it by"), ("date>yesterday", "not a date"), ("date==2024-13", "not a date"),
        ("date==2024-02-30", "not a date"),
    ],
)  # fmt: skip
def test_conditions_that_mean_nothing_are_bad_usage(text, words):
    with pytest.raises(UsageError, match=words) as raised:
        compile_conditions([parse_condition(text)], KNOWN, ())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("kind", "seed"), [("file", 0), ("mirror", 0), ("mirror", 1)])
def test_any_sequence_of_writes_leaves_what_a_dictionary_would_hold(tmp_path, kind, seed):
    rng, expected = random.Random(seed), {}
    context = opened(kind, tmp_path)
    store = context.__enter__()
    for step in range(25):
        action = rng.choice(["write", "write", "delete", "flush", "reopen"])
        if action == "write":
            batch = [
                Entry(rng.choice("ab"), str(name), str(step), width=name)
                for name in rng.sample(range(30), rng.randint(0, 8))
            ]
            embed = unit(len(batch), seed=step)
            store.upsert(batch, embed)
            expected |= {entry.key: (entry, item) for entry, item in zip(batch, embed, strict=True)}
        elif action == "delete":
            keys = [*rng.sample(sorted(expected), min(len(expected), rng.randint(0, 5))), "no such key"]
            assert store.delete(keys) == len(keys) - 1
            for key in keys[:-1]:
                del expected[key]
        elif action == "flush":
            store.flush()
        else:
            context.__exit__(None, None, None)
            context = opened(kind, tmp_path)
            store = context.__enter__()
    result = store.search_many(unit(1), 1000)[0]
    narrow = store.search_many(unit(1), 1000, [compile_conditions([parse_condition("width<3")], KNOWN, ())])[0]
    held, embeds, size = store.get([*expected, "none"]), store.embeds([*expected, "none"]), len(store)
    context.__exit__(None, None, None)
    assert size == len(result) == len(expected)
    assert held == {key: entry for key, (entry, _) in expected.items()}
    assert all(torch.equal(embeds[key], embed) for key, (_, embed) in expected.items())
    for near in result:
        assert near.cosine == pytest.approx(float(expected[near.key][1] @ unit(1)[0]), abs=WITHIN)
    assert {near.key for near in narrow} == {key for key, (entry, _) in expected.items() if entry.width < 3}


@pytest.mark.parametrize("harm", ["kill before the store", "kill after the store", "lose", "damage", "fall behind"])
def test_a_mirror_is_brought_up_to_what_the_store_holds(tmp_path, monkeypatch, harm):
    old, new = entries(20), [Entry("/new", str(index)) for index in range(5)]
    with opened("mirror", tmp_path) as memory_store:
        memory_store.upsert(old, unit(20))
        dies = {
            "kill before the store": (memory_store.store, "upsert"),
            "kill after the store": (memory_store, "_write"),
        }.get(harm)
        if dies:
            monkeypatch.setattr(*dies, Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                memory_store.upsert(new + old[:3], unit(8, seed=1))
            monkeypatch.undo()
    path = tmp_path / "mirror.db"
    if harm == "lose":
        path.unlink()
    elif harm == "damage":
        path.write_bytes(b"not a database" * 1000)
    elif harm == "fall behind":
        with opened("file", tmp_path) as store:
            store.upsert(new, unit(5, seed=1))
    with opened("mirror", tmp_path) as memory_store, sqlite3.connect(path) as file:
        reported = {entry.key: embed for entry, embed in memory_store.store.everything()}
        result = {near.key: near.cosine for near in memory_store.search_many(unit(1), 100)[0]}
        assert result.keys() == reported.keys() == memory_store.get(list(reported)).keys()
        assert len(reported) == (25 if harm in ("kill after the store", "fall behind") else 20)
        for key, embed in reported.items():
            assert result[key] == pytest.approx(float(torch.tensor(embed) @ unit(1)[0]), abs=WITHIN)
        assert file.execute("SELECT count(*) FROM notes").fetchone() == (0,)


def test_a_server_that_goes_away_is_said_in_one_line_and_works_again_once_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr("ccmb.search.vector_store.SECONDS", 2.0)
    with milvus_server(tmp_path / "served") as uri:
        store = VectorStore(uri, DIM, "mine")
        store.upsert(entries(20), unit(20))
    for action in (
        lambda: store.search_many(unit(1), 3),
        lambda: store.upsert(entries(3), unit(3)),
        lambda: len(store),
    ):
        with pytest.raises(CcmbError, match=rf"{uri}: the store") as raised:
            action()
        assert "\n" not in str(raised.value)
    with pytest.raises(CcmbError, match=rf"{uri}: the store .*unavailable"):
        VectorStore(uri, DIM, "mine")
    with milvus_server(tmp_path / "served", port=int(uri.rpartition(":")[2])):
        assert len(until_it_works(lambda: store.search_many(unit(1), 30)[0])) == 20
        store.close()


def until_it_works(action, seconds: float = 20.0):
    """The client waits a moment before it tries to connect again."""
    end = time.monotonic() + seconds
    while True:
        try:
            return action()
        except CcmbError:
            assert time.monotonic() < end
            time.sleep(0.2)


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
            store.search_many(torch.ones(1, DIM + 1), 1)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_what_was_added_while_computing_can_be_replaced_and_deleted_after(open_store):
    with open_store() as store:
        result = entries(100)
        store.upsert(result[:3], unit(3))
        with torch.inference_mode():  # as an engine adds, which encodes the image
            store.upsert(result[3:], unit(97, 1))
        assert store.delete([item.key for item in result[1:5]]) == 4
        store.upsert(result[:1], unit(1, 2))
        [[first]] = store.search_many(unit(1, 2), 1)
        assert (first.key, len(store)) == (result[0].key, 96)
