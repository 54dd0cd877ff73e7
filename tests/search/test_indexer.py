"""What an index is made from and kept in step with: kinds of sources, fields, copies, what is gone, and kills."""

import io
import json
import os
import random
import shutil
import sqlite3
import tarfile
from contextlib import closing, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from ccmb.core.errors import CcmbError, UsageError
from ccmb.corpus.simulation.server import serve
from ccmb.inference.models.base import IMAGE_BATCH
from ccmb.inference.models.open_model import open_model
from ccmb.search.engine import open_engine
from ccmb.search.filters import parse_condition
from ccmb.search.indexing import indexer as building
from ccmb.search.indexing.indexer import IndexReport, build_index
from ccmb.search.query import SearchQuery
from tests.helpers.disk import full_disk
from tests.helpers.exact import TINY_ERROR
from tests.helpers.killing import ccmb_killed_when
from tests.helpers.milvus_server import milvus_server
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def build(model, tmp_path):
    def run(*images, out="index", **options) -> IndexReport:
        return build_index(images, tmp_path / out, open_model(model), **options)

    return run


def draw(folder: Path, count: int, seed: int = 0, suffix: str = ".png") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index}{suffix}" for index in range(count)]
    for path, image in zip(paths, tiny_images(count, seed), strict=True):
        image.save(path)
    return paths


def fields_by_name(index: Path, *where: str, **options) -> dict[str, dict]:
    """Fields of all images that pass, by name."""
    with open_engine(index) as engine:
        query = SearchQuery(TEXTS[0], k=1000, rank=False, where=tuple(map(parse_condition, where)), **options)
        return {hit.name: dict(hit.fields) for hit in engine.search(query).hits}


def test_globs_images_shards_and_parquet_are_sources(build, tmp_path):
    draw(tmp_path / "folder/夏", 4)
    (tmp_path / "folder/夏/notes.txt").write_text("no picture")
    one = draw(tmp_path / "alone", 2, seed=1)[1]
    draw(tmp_path / "folder/夏/inner", 1, seed=6)
    for index in range(2):
        with tarfile.open(tmp_path / f"shard-{index:02d}.tar", "w") as tar:
            for path in draw(tmp_path / f"of {index}", 3, seed=2 + index):
                tar.add(path, path.name)
    data = [path.read_bytes() for path in draw(tmp_path / "rows", 5, seed=4)]
    images = [{"bytes": item, "path": "x.png"} for item in data[:4]] + [None]
    parquet.write_table(pa.table({"image": images, "n": range(5)}), tmp_path / "set.parquet", row_group_size=2)
    named = [
        f"{tmp_path}/folder/**/[0-2]*",
        f"{tmp_path}/fold*/夏/inn*",
        one,
        f"{tmp_path}/shard-{{00..01}}.tar",
        tmp_path / "set.parquet",
    ]

    report = build(*named)
    assert report.added == 3 + 1 + 1 + 6 + 4
    assert [line.rpartition(": ")[2] for line in report.unreadable] == ["the row has no image"]
    assert report.duplicates == report.near_duplicates == []
    assert build(*named).skipped_known == 15
    with open_engine(tmp_path / "index") as engine:
        hits = engine.search(SearchQuery(TEXTS[0], k=20)).hits
        assert len(hits) == 15
        assert not any(hit.missing for hit in hits)
        for hit in hits:
            assert Image.open(io.BytesIO(engine.thumbnail(hit.key))).size == engine.image(hit.key).size == (32, 32)
    inside = fields_by_name(tmp_path / "index", "folder under folder")
    assert inside.keys() == set()  # "folder" is no folder within a source
    assert fields_by_name(tmp_path / "index", f"folder under {tmp_path}/folder").keys() == {"0.png", "1.png", "2.png"}
    assert len(fields_by_name(tmp_path / "index", f"folder=={tmp_path}/shard-01.tar")) == 3


def test_a_glob_that_finds_nothing_and_parquet_without_images_are_said(build, tmp_path):
    parquet.write_table(pa.table({"text": ["x"]}), tmp_path / "no.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and nothing more")
    (tmp_path / "urls.txt").write_text("https://example.org/a.jpg\nftp://b\n")
    for named, words in [
        (tmp_path / "no*.jpg", "nothing is called so"),
        (tmp_path / "no.parquet", "no column of images .* it has: text"),
        (tmp_path / "damaged.parquet", "not a readable Parquet"),
        (tmp_path / "urls.txt", r"urls\.txt:2: not a URL"),
    ]:
        with pytest.raises(CcmbError, match=words):
            build(named)
        assert not (tmp_path / "index").exists()


def test_images_behind_urls_are_kept_in_the_index_and_private_addresses_refused(build, tmp_path):
    draw(tmp_path / "web", 3, suffix=".jpg")
    (tmp_path / "web/page.jpg").write_text("<html>")
    with serve(tmp_path / "web") as base:
        (tmp_path / "list.txt").write_text(f"# images\n{base}0.jpg\n\n{base}1.jpg\n{base}none.jpg\n{base}page.jpg\n")
        parquet.write_table(pa.table({"url": [f"{base}1.jpg", f"{base}2.jpg", None]}), tmp_path / "list.parquet")
        refused = build(tmp_path / "list.txt", f"{base}0.jpg")
        assert refused.added == 0
        assert all(line.endswith("refused_address") for line in refused.unreadable)
        report = build(tmp_path / "list.txt", tmp_path / "list.parquet", allow_private=["127.0.0.1"])
    assert report.added == 3
    assert sorted(line.rpartition(": ")[2] for line in report.unreadable) == ["http_404", "not an image"]
    # They are there without the network, wherever the index lies.
    (tmp_path / "index").rename(tmp_path / "moved")
    with open_engine(tmp_path / "moved") as engine:
        hits = engine.search(SearchQuery(TEXTS[0], where=(parse_condition(f"url={base}2.jpg"),))).hits
        assert len(hits) == 1
        assert hits[0].match is not None
        assert hits[0].source == tmp_path / "moved/downloads"


def test_dates_sizes_and_own_fields_filter_and_are_shown(build, tmp_path):
    paths = draw(tmp_path / "pictures", 4)
    exif = Image.Exif()
    exif[0x8769] = {0x9003: "2021:07:14 18:30:05"}
    Image.new("RGB", (64, 48), "red").save(paths[0], exif=exif)
    os.utime(paths[1], (1.6e9, 1.6e9))  # 2020-09-13
    lines = [{"name": "0.png", "author": "王", "price": 3, "new": True, "tags": ["a"], "none": None},
             {"image": str(paths[1]), "author": "李", "price": 2.5}]  # fmt: skip
    (tmp_path / "fields.jsonl").write_text("\n".join(map(json.dumps, lines)))
    index = tmp_path / "index"

    assert build(tmp_path / "pictures").added == 4  # the fields come later: nothing is encoded for them
    report = build(tmp_path / "pictures", fields=tmp_path / "fields.jsonl")
    assert (report.added, report.updated, report.skipped_known) == (0, 2, 2)
    assert report.fields_left_out == ["tags"]
    assert fields_by_name(index, "date==2021-07-14")["0.png"] == {
        "author": "王", "price": 3, "new": True, "folder": str(tmp_path / "pictures"), "date": "2021-07-14T18:30:05",
        "width": 64, "height": 48, "bytes": paths[0].stat().st_size,
    }  # fmt: skip
    assert fields_by_name(index, "date<2021", "date>=2020-09").keys() == {"1.png"}
    assert fields_by_name(index, "price>2.5").keys() == {"0.png"}
    assert fields_by_name(index, "author in 王,李", "height<48").keys() == {"1.png"}
    assert fields_by_name(index, "new=true").keys() == {"0.png"}
    # Without the file they stay; another value changes them, another type is refused.
    assert build(tmp_path / "pictures").skipped_known == 4
    assert fields_by_name(index, "author=李").keys() == {"1.png"}
    parquet.write_table(pa.table({"name": ["1.png"], "author": ["张"]}), tmp_path / "fields.parquet")
    assert build(tmp_path / "pictures", fields=tmp_path / "fields.parquet").updated == 1
    assert fields_by_name(index, "author=张").keys() == {"1.png"}
    for line, words in [('{"name": "0.png", "price": "x"}', "where other images have a number"),
                        ('{"price": 1}', "names no image"),
                        ('{"name": "0.png", "width": 1}', "cannot be the name")]:  # fmt: skip
        (tmp_path / "bad.jsonl").write_text(f"{json.dumps(lines[0])}\n{line}\n")
        with pytest.raises(CcmbError, match=rf"bad\.jsonl:2: .*{words}"):
            build(tmp_path / "pictures", fields=tmp_path / "bad.jsonl")


def test_what_is_gone_leaves_the_index_but_not_a_disk_that_is_away(build, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "_FEW_GONE", 3)
    paths = draw(tmp_path / "pictures", 12)
    build(tmp_path / "pictures")
    paths[0].unlink()
    # What a glob does not name is not gone.
    report = build(f"{tmp_path}/pictures/1*.png")
    assert (report.removed, report.kept_gone) == (1, 0)
    assert fields_by_name(tmp_path / "index").keys() == {path.name for path in paths[1:]}
    for path in paths[1:9]:
        path.unlink()
    report = build(tmp_path / "pictures")
    assert (report.removed, report.kept_gone) == (0, 8)
    assert len(fields_by_name(tmp_path / "index")) == 11
    assert build(gone="keep").kept_gone == 8  # without names, those that it was made from
    assert build(gone="remove").removed == 8
    assert fields_by_name(tmp_path / "index").keys() == {path.name for path in paths[9:]}
    with open_engine(tmp_path / "index") as engine:
        assert len(engine) == 3
        assert engine.catalogue.thumbnails.size() == sum(
            len(engine.thumbnail(hit.key)) for hit in engine.search(SearchQuery(TEXTS[0])).hits
        )


def test_touched_files_are_not_encoded_again_and_moved_tars_are_read_by_content(build, tmp_path, monkeypatch):
    paths = draw(tmp_path / "pictures", 6)
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        tar.add(paths[0], "a.png")
    build(tmp_path / "pictures", tmp_path / "p.tar")
    encoded = []
    network_encode = type(tiny_model()).encode_image
    monkeypatch.setattr(
        type(tiny_model()),
        "encode_image",
        lambda self, pixels: encoded.append(len(pixels)) or network_encode(self, pixels),
    )
    for path in paths:
        os.utime(path, (1e9, 1e9))
    with tarfile.open(tmp_path / "p.tar", "a") as tar:
        tar.add(paths[1], "b.png")
    report = build(tmp_path / "pictures", tmp_path / "p.tar")
    assert (report.added, report.updated, report.skipped_known, encoded) == (1, 0, 7, [1])
    assert build(tmp_path / "pictures", tmp_path / "p.tar").skipped_known == 8
    assert encoded == [1]


def test_copies_are_reported(build, tmp_path):
    paths = draw(tmp_path / "pictures", 5)
    shutil.copy(paths[0], tmp_path / "pictures/same.png")
    Image.open(paths[1]).resize((64, 64)).save(tmp_path / "pictures/larger.png")
    report = build(tmp_path / "pictures")
    assert report.duplicates == [[str(paths[0]), f"{tmp_path}/pictures/same.png"]]
    assert report.near_duplicates == [[str(paths[1]), f"{tmp_path}/pictures/larger.png"]]
    assert build(tmp_path / "pictures").duplicates == report.duplicates  # of those known already too


def test_an_index_on_a_server_is_the_same_by_one_uri(build, tmp_path):
    paths = draw(tmp_path / "pictures", 8)
    build(tmp_path / "pictures", out="file")
    with milvus_server(tmp_path / "served") as uri:
        assert build(tmp_path / "pictures", out="served-index", store=uri).added == 8
        assert not (tmp_path / "served-index/vectors.db").exists()
        build(tmp_path / "pictures", out="other", store=uri)  # two indexes do not get in each other's way
        paths[0].unlink()
        assert build(out="served-index").removed == 1
        assert build(out="file").removed == 1
        with pytest.raises(UsageError, match="index into a new folder to use"):
            build(out="file", store=uri)
        hits_by_run = []
        for out in ("file", "served-index"):
            with open_engine(tmp_path / out) as engine:
                query = SearchQuery(TEXTS[0], where=(parse_condition("bytes>100"),))
                hits_by_run.append([(hit.key, round(hit.score, 5)) for hit in engine.search(query).hits])
                added = engine.add("猫.png", paths[1].read_bytes(), {"author": "王"})
                assert engine.delete([added]) == 1
        assert hits_by_run[0] == hits_by_run[1]
        assert len(fields_by_name(tmp_path / "other")) == 8
    with pytest.raises(CcmbError, match="unavailable"):
        fields_by_name(tmp_path / "served-index")


def test_a_full_disk_stops_the_indexing_and_the_same_call_goes_on(build, tmp_path):
    draw(tmp_path / "pictures", 60)
    report = build(tmp_path / "pictures", out="whole")
    assert report.added == 60
    for size in (2_000, 30_000, 60_000):
        with full_disk(size), pytest.raises(CcmbError) as raised:
            build(tmp_path / "pictures")
        assert "\n" not in str(raised.value)
        assert str(tmp_path / "index") in str(raised.value)
    report = build(tmp_path / "pictures")
    assert report.added + report.skipped_known == 60
    assert fields_by_name(tmp_path / "index") == fields_by_name(tmp_path / "whole")


def index_in_a_child(folder: Path, model: Path, out: Path, kill_at: int | None = None, further: float = 0.0) -> int:
    """See `ccmb_killed_when`; it is killed when the index holds so many thumbnails, which come just before vectors."""
    words = ["index", folder, "--model", model, "--out", out]
    return ccmb_killed_when(words, None if kill_at is None else lambda: thumbnails_of(out) >= kill_at, further)


def thumbnails_of(out: Path) -> int:
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{out}/thumbnails.db?mode=ro", uri=True)) as file:
        return int(file.execute("SELECT count(*) FROM blobs").fetchone()[0])
    return 0


@pytest.mark.slow
def test_killed_at_ten_moments_an_index_ends_as_never_stopped(model, tmp_path):
    draw(tmp_path / "pictures", 600)
    assert index_in_a_child(tmp_path / "pictures", model, tmp_path / "whole") == 0
    rng, sizes, out = random.Random(0), [0], tmp_path / "killed"
    for trial in range(10):
        assert index_in_a_child(tmp_path / "pictures", model, out, 1 + 55 * trial, rng.random() * 0.05) < 0
        with open_engine(out) as engine:
            sizes.append(len(engine))
        assert sizes[-1] >= max(sizes[-2], thumbnails_of(out) - IMAGE_BATCH)  # nothing is lost
    assert len(set(sizes)) >= 3  # the moments are spread over the work
    assert index_in_a_child(tmp_path / "pictures", model, out) == 0
    with open_engine(tmp_path / "whole") as one, open_engine(out) as other:
        keys = {entry.key for entry in one.catalogue.store.of_source(str(tmp_path / "pictures"))}
        assert len(keys) == len(one) == len(other) == 600
        own, reference = one.catalogue.store.embeds(list(keys)), other.catalogue.store.embeds(list(keys))
        assert all(torch.allclose(own[key], reference[key], atol=TINY_ERROR) for key in keys)
        assert len(one.catalogue.thumbnails.get(list(keys))) == len(other.catalogue.thumbnails.get(list(keys))) == 600
