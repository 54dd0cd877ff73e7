"""An index in a folder that cannot be written to is searched and served, and nothing in the folder changes."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from ccmb.core.errors import CcmbError
from ccmb.inference.models.open_model import open_model
from ccmb.search import vector_store as store
from ccmb.search.engine import open_engine
from ccmb.search.indexing.indexer import build_index
from ccmb.search.indexing.leaving import forget_sources
from ccmb.search.query import SearchQuery, SearchResult
from ccmb.serving.app import make_app
from ccmb.serving.model_worker import ModelWork
from tests.helpers.runs import command_line
from tests.helpers.serving import ADMIN, KEYS, asked, png
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

pytestmark = pytest.mark.usefixtures("lines")

COUNT = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    tiny_model().save_pretrained(root / "model")
    tiny_processor().save_pretrained(root / "model")
    (root / "photos").mkdir()
    for index, image in enumerate(tiny_images(COUNT)):
        image.save(root / f"photos/{index}.png")
    build_index([root / "photos"], root / "index", open_model(root / "model"), states_bytes=2**20)
    return root


@pytest.fixture
def index(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the index that no file may be written in."""
    index = tmp_path / "a 'copy' of 100%?#/index"
    shutil.copytree(made / "index", index)
    allowed = os.access

    def access(path: str | Path, mode: int, **options: bool) -> bool:
        return not (mode & os.W_OK and Path(path).is_relative_to(index)) and allowed(path, mode, **options)

    monkeypatch.setattr(os, "access", access)
    return index


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def scores_of(answer: SearchResult) -> list[tuple[str, float, float | None]]:
    return [(hit.key, round(hit.cosine, 5), hit.match and round(hit.match, 5)) for hit in answer.hits]


def test_an_index_on_a_read_only_mount_is_searched_without_a_trace(
    made: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_engine(made / "index") as engine:
        expected = scores_of(engine.search(SearchQuery(TEXTS[0], k=COUNT)))

    def refuse(uri: str) -> None:
        raise AssertionError("Milvus Lite would write a lock")

    monkeypatch.setattr(store, "_connect", refuse)
    before = snapshot(index)
    with open_engine(index) as engine, open_engine(index) as other:  # several at a time
        assert engine.frozen
        assert len(engine) == COUNT
        assert scores_of(engine.search(SearchQuery(TEXTS[0], k=COUNT))) == scores_of(
            other.search(SearchQuery(TEXTS[0], k=COUNT))
        )
        assert scores_of(engine.search(SearchQuery(TEXTS[0], k=COUNT))) == expected
        key = expected[0][0]
        assert engine.thumbnail(key)[:2] == b"\xff\xd8"
        assert engine.image(key).size == (32, 32)
        assert len(engine.catalogue.states_for(engine.model).keys([key])) == 1
        for change in (lambda: engine.delete([key]), lambda: engine.add("a.png", png())):
            with pytest.raises(CcmbError, match="cannot be written to; it is mounted read-only"):
                change()
    assert snapshot(index) == before


@pytest.mark.parametrize("fault", ["no mirror", "mirror behind", "log left"])
def test_a_read_only_index_that_was_not_closed_in_order_is_read_from_a_copy(
    index: Path, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if fault == "no mirror":
        (index / "mirror.db").unlink()
    elif fault == "mirror behind":
        with sqlite3.connect(index / "mirror.db") as file:
            (key,) = file.execute("SELECT key FROM entries").fetchone()
            file.execute("INSERT INTO notes VALUES (?)", (key,))
            file.execute("UPDATE entries SET width = 7 WHERE key = ?", (key,))
        file.close()
    else:
        Path(f"{index}/mirror.db-wal").write_bytes(b"left by a killed process")
    before = snapshot(index)
    with open_engine(index) as engine:
        assert engine.frozen
        hits = engine.search(SearchQuery(TEXTS[0], k=COUNT, rank=False)).hits
        assert len(hits) == COUNT
        assert {hit.fields["width"] for hit in hits} == {32}
    assert snapshot(index) == before
    assert "a copy in" in capfd.readouterr().err


def test_a_read_only_index_is_served_and_refuses_writing_by_name(index: Path) -> None:
    with open_engine(index) as engine:
        app = make_app(ModelWork(engine.model), engine, keys=KEYS)
        answer = asked(app, lambda http: http.post("/search", json={"text": TEXTS[0], "k": COUNT}), ADMIN)
        assert len(answer.json()["hits"]) == COUNT
        key = answer.json()["hits"][0]["key"]
        assert asked(app, lambda http: http.get(f"/thumbnails/{key}"), ADMIN).status_code == 200
        assert asked(app, lambda http: http.get("/about"), ADMIN).json()["can_write"] is False
        refused = asked(app, lambda http: http.delete(f"/pictures/{key}"), ADMIN)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "read_only")


def test_indexing_into_a_read_only_folder_says_so_in_one_line(
    made: Path, index: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = command_line(monkeypatch, capfd)
    before = snapshot(index)
    code, _, err = command("index", made / "photos", "--out", index)
    assert code == 1
    assert err.count("\n") == 1
    assert "cannot be written to" in err
    with pytest.raises(CcmbError, match="cannot be written to"):
        forget_sources(index, [str(made / "photos")])
    assert len(command("search", TEXTS[0], "--index", index).out.splitlines()) == 10
    assert snapshot(index) == before
