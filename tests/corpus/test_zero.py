"""A corpus from links to shards: what is in it, how it goes on, what is refused, and what verify finds."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from ccmb.benchmark.corpus_scorer import ModelScorer
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.files import read_json, write_json
from ccmb.corpus.analysis.reader import indexed_images
from ccmb.corpus.analysis.statistics import random_images, statistics
from ccmb.corpus.analysis.subset import sample_corpus
from ccmb.corpus.analysis.verify import verify_corpus
from ccmb.corpus.assembly.build import Extras, build_corpus
from ccmb.corpus.assembly.decontamination import open_test_sets
from ccmb.corpus.assembly.deduplicate_images import EXACT, NEAR
from ccmb.corpus.assembly.held_out import HeldOutImages
from ccmb.corpus.assembly.recipe import ZeroRecipe
from ccmb.corpus.base.funnel import read_funnel
from ccmb.corpus.base.recipe import CorpusRecipe
from ccmb.corpus.base.steps import digest_of
from ccmb.corpus.download.run import DownloadOptions
from ccmb.corpus.simulation.server import Faults, serve
from ccmb.data.images.source import ImageSource
from ccmb.data.shards.write import verify_shards
from ccmb.datasets import open_dataset
from tests.helpers.corpus_web import draw_web, files_of, links_of, recipe
from tests.helpers.downstream_samples import write_flickr8k
from tests.helpers.exact import TINY_ERROR
from tests.helpers.old_names import by_old_names
from tests.helpers.tiny import tiny_images, tiny_model, tiny_processor

COUNT = 40
FAULTS = Faults(not_found=0.1, error_once=0.1, html=0.05, damaged=0.05)
SEED = 6  # with which the copies and what they are copies of have no fault


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_web(tmp_path_factory.mktemp("web") / "web", COUNT)


@pytest.fixture(scope="module")
def base(web: Path) -> Iterator[str]:
    with serve(web, FAULTS, seed=SEED) as base:
        links_of(web, base)
        yield base


@pytest.fixture(scope="module")
def built(web: Path, base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "out"
    build_corpus(links_of(web, base), recipe(), out)
    return out


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


def index(out: Path, kind: str) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob(f"index/{kind}-*.parquet")) for row in parquet.read_table(path).to_pylist()]


def test_every_link_and_every_pair_has_one_row(built: Path) -> None:
    images, pairs = index(built, "pictures"), index(built, "pairs")
    assert [row["row"] for row in images] == list(range(COUNT))
    kept = parquet.read_table(built / "work" / "pairs" / "pairs.parquet").to_pylist()
    assert sorted(pair["text"] for pair in pairs) == sorted(pair["text"] for pair in kept)
    statuses = {row["status"] for row in images}
    assert {"ok", EXACT, NEAR, "http_404", "not_an_image", "undecodable"} >= statuses > {"ok", EXACT, NEAR}
    funnel = read_funnel(built / "funnel.json")
    assert funnel["pictures"].rows == COUNT
    assert funnel["pairs with pictures"].rows == len(pairs)
    assert funnel["pictures"].kept == sum(row["status"] == "ok" for row in images)
    assert sum(step.rows == 0 for step in funnel.steps) == 0


def test_shards_hold_what_the_index_says(built: Path) -> None:
    samples_found = verify_shards([str(built / "shards")], ["caption"])
    assert samples_found.problems == []
    assert samples_found.samples == sum(row["status"] == "ok" for row in index(built, "pictures"))
    assert samples_found.shards == -(-samples_found.samples // 10)
    tar = ImageSource.open(built / "shards" / "shard-000001.tar")
    for image in (entry for entry in indexed_images(built) if entry.row["shard"] == "shard-000001.tar"):
        data = tar.raw(f"{image.row['sample']}.jpg")
        assert hashlib.sha256(data).hexdigest() == image.row["stored_sha256"]
        assert image.texts["caption"]


def test_a_copy_goes_and_its_texts_stay(built: Path) -> None:
    images = {row["row"]: row for row in index(built, "pictures")}
    copies = [row for row in images.values() if row["status"] in (EXACT, NEAR)]
    assert len(copies) == 2
    for copied in copies:
        leader = images[copied["copy_of"]]
        assert leader["status"] == "ok"
        assert leader["width"] >= copied["width"]
        moved = [pair for pair in index(built, "pairs") if pair["from_row"] == copied["row"]]
        assert moved
        assert all(pair["row"] == leader["row"] and pair["reason"] is None for pair in moved)


def test_texts_of_copies_go_where_the_recipe_says_so(web: Path, base: str, built: Path, tmp_path: Path) -> None:
    apart = recipe(image_dedup={"max_hamming_distance": 6, "max_color_difference": 12, "merge_texts": False})
    build_corpus(links_of(web, base), apart, tmp_path / "out")
    reasons = [pair["reason"] for pair in index(tmp_path / "out", "pairs")]
    moved = [pair for pair in index(built, "pairs") if pair["row"] != pair["from_row"]]
    assert reasons.count("copy of another picture") == len(moved) > 0


def test_a_whole_corpus_is_left_as_it_is(web: Path, base: str, copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.glob("shards/*")}
    files = files_of(copy)
    build_corpus(links_of(web, base), recipe(), copy)
    assert files_of(copy) == files
    assert {path: path.stat().st_mtime_ns for path in copy.glob("shards/*")} == before


@pytest.mark.parametrize(
    "gone",
    [
        ["manifest.json"],
        ["manifest.json", "shards/shard-000001.tar", "index/pairs-000000.parquet"],
        ["manifest.json", "index", "shards", "work/judged/part-000001.parquet"],
        ["manifest.json", "shards", "work/verdicts.parquet", "work/judged", "work/downloads"],
        ["shards/shard-000000.tar"],
    ],
)
def test_what_is_missing_is_made_again_as_the_same_bytes(
    web: Path, base: str, built: Path, copy: Path, gone: list[str]
) -> None:
    for name in gone:
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    build_corpus(links_of(web, base), recipe(), copy)
    assert files_of(copy) == files_of(built)


@pytest.mark.slow
def test_links_that_failed_are_fetched_another_day(web: Path, tmp_path: Path) -> None:
    def built(out: Path, faults: Faults, port: int = 0, retry: bool = False) -> int:
        with serve(web, faults, seed=1, port=port) as base:
            build_corpus(links_of(web, base), recipe(), out, Extras(retry_failed=retry))
        return int(base.rstrip("/").rpartition(":")[2])

    port = built(tmp_path / "late", Faults(error_always=0.4))
    statuses = [row["status"] for row in index(tmp_path / "late", "pictures")]
    assert statuses.count("http_500") > 8
    built(tmp_path / "late", Faults(), port)
    assert [row["status"] for row in index(tmp_path / "late", "pictures")] == statuses
    built(tmp_path / "late", Faults(), port, retry=True)
    assert "http_500" not in [row["status"] for row in index(tmp_path / "late", "pictures")]
    built(tmp_path / "at once", Faults(), port)
    assert files_of(tmp_path / "late") == files_of(tmp_path / "at once")


def test_images_of_a_test_set_are_kept_out(web: Path, base: str, built: Path, tmp_path: Path) -> None:
    known = [row for row in index(built, "pictures") if row["status"] == "ok"][:3]
    folder = tmp_path / "test"
    folder.mkdir()
    for row in known:  # in another size and quality
        name = row["url"].rpartition("/")[2]
        with Image.open(web / "pictures" / name) as image:
            image.resize((112, 112)).save(folder / name, quality=70)
    extras = Extras(test_images=[HeldOutImages("test", ImageSource.open(folder))])
    build_corpus(links_of(web, base), recipe(), tmp_path / "out", extras)
    statuses_found = {row["row"] for row in index(tmp_path / "out", "pictures") if row["status"] == "test_picture"}
    assert statuses_found >= {row["row"] for row in known}
    reasons = {pair["reason"] for pair in index(tmp_path / "out", "pairs") if pair["row"] in statuses_found}
    assert reasons == {"test picture"}


class Judge:
    """A model whose cosine of any image and a text is decided by the text alone."""

    name, fingerprint = "judge", "0123"

    def encode_images(self, images: list[Image.Image]) -> np.ndarray:
        assert all(image.mode == "RGB" for image in images)
        return np.tile(np.array([1, 0], np.float32), (len(images), 1))

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        cosines = np.array([self.cosine(text) for text in texts], np.float32)
        return np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)

    @staticmethod
    def cosine(text: str) -> float:
        return len(text) % 10 / 10


def test_pairs_with_a_low_cosine_are_dropped(web: Path, base: str, tmp_path: Path) -> None:
    extras, out = Extras(scorer=Judge()), tmp_path / "out"
    build_corpus(links_of(web, base), recipe(score={"min_score": 0.45, "batch_size": 3}), out, extras)
    judged = [pair for pair in index(out, "pairs") if pair["model_score"] is not None]
    assert [pair["model_score"] for pair in judged] == pytest.approx([Judge.cosine(pair["text"]) for pair in judged])
    assert {pair["reason"] for pair in judged if pair["model_score"] < 0.45} == {"model score too low"}
    assert {pair["reason"] for pair in judged if pair["model_score"] > 0.45} == {None}
    without = [row for row in index(out, "pictures") if row["status"] == "no_text"]
    assert without
    assert all(row["shard"] is None for row in without)
    assert verify_corpus(out).problems == []
    assert statistics(out)["model_scores"]["count"][-6:] != [0] * 6


def test_another_recipe_or_a_second_process_is_refused(web: Path, base: str, copy: Path) -> None:
    with pytest.raises(CcmbError, match=r"another recipe.shards.samples_per_shard \(10, now 11\)"):
        build_corpus(links_of(web, base), recipe(shards={"samples_per_shard": 11}), copy)
    with open(copy / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CcmbError, match="another process builds"):
            build_corpus(links_of(web, base), recipe(), copy)


def test_a_corpus_that_an_older_version_began_goes_on(web: Path, base: str, copy: Path) -> None:
    pairs, downloads = copy / "work" / "pairs" / "steps" / "build.json", copy / "work" / "downloads" / "download.json"
    whole, steps = files_of(copy), sorted(copy.rglob("_done.json"))
    times = [path.stat().st_mtime_ns for path in steps]
    for path, kind in ((copy / "work" / "corpus.json", ZeroRecipe), (pairs, CorpusRecipe)):
        record = read_json(path)
        record["recipe"] = by_old_names(kind, record["recipe"])
        if "digest" in record:
            record["digest"] = digest_of({key: value for key, value in record.items() if key != "digest"})
        write_json(path, record)
    write_json(downloads, by_old_names(DownloadOptions, read_json(downloads)))
    assert "copies" in read_json(copy / "work" / "corpus.json")["recipe"]
    assert "form" in read_json(downloads)
    (copy / "manifest.json").unlink()
    build_corpus(links_of(web, base), recipe(), copy)
    assert files_of(copy) == whole
    assert [path.stat().st_mtime_ns for path in steps] == times
    other = recipe(image_dedup={"max_hamming_distance": 6, "max_color_difference": 11})
    with pytest.raises(CcmbError, match=r"another recipe.image_dedup.max_color_difference \(12, now 11\)"):
        build_corpus(links_of(web, base), other, copy)


def test_nothing_left_is_one_line(web: Path, tmp_path: Path) -> None:
    with (
        serve(web, Faults(not_found=1.0)) as base,
        pytest.raises(CcmbError, match=r"no image is left of 40 links .40 http_404"),
    ):
        build_corpus(links_of(web, base), recipe(), tmp_path / "out")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


# Which row comes first depends on the server's port, and it need not be one that stays.
def drop_row(path: Path) -> None:
    table = parquet.read_table(path)
    first = table["status"].to_pylist().index("ok")
    parquet.write_table(pa.concat_tables([table.slice(0, first), table.slice(first + 1)]), path)


def change_text(path: Path) -> None:
    rows = parquet.read_table(path)
    texts = rows["text"].to_pylist()
    texts[rows["reason"].to_pylist().index(None)] = "别的文字"
    parquet.write_table(rows.set_column(rows.schema.get_field_index("text"), "text", pa.array(texts)), path)


def damage_image(out: Path) -> None:
    path = out / "shards" / "shard-000000.tar"
    first = next(indexed_images(out)).row
    image = ImageSource.open(path).raw(f"{first['sample']}.jpg")
    flip(path, path.read_bytes().index(image) + len(image) // 2)


@pytest.mark.parametrize(
    ("damage", "file", "what"),
    [
        (lambda out: (out / "shards/shard-000001.tar").unlink(), "shards/shard-000001.tar", "no such file"),
        (damage_image, "shards/shard-000000.tar", "another image than the index's"),
        (lambda out: flip(out / "shards/shard-000000.tar", 0), "shards/shard-000000.tar", "checksum"),
        (lambda out: drop_row(out / "index/pictures-000000.parquet"), "index", "in the index"),
        (lambda out: change_text(out / "index/pairs-000000.parquet"), "shards/shard-000000.tar", "other texts"),
        (lambda out: (out / "shards/more.tar").write_bytes(b""), "shards/more.tar", "not in the manifest"),
        (lambda out: (out / "README.md").write_text("x"), "README.md", "1 bytes instead of"),
    ],
)
def test_verify_finds_what_is_damaged(copy: Path, damage: Callable[[Path], object], file: str, what: str) -> None:
    assert verify_corpus(copy).problems == []
    damage(copy)
    problems = verify_corpus(copy).problems
    assert any(problem.file == file and what in problem.what for problem in problems), problems
    assert all(problem.fix for problem in problems)


def test_what_verify_says_fixes(web: Path, base: str, built: Path, copy: Path) -> None:
    damage_image(copy)
    for file in {problem.file for problem in verify_corpus(copy).problems}:
        (copy / file).unlink()
    build_corpus(links_of(web, base), recipe(), copy)
    assert files_of(copy) == files_of(built)


def test_subsets_are_corpora_and_nested(built: Path, tmp_path: Path) -> None:
    keys = {}
    for share in (1.0, 0.6, 0.3):
        sample_corpus(built, share, tmp_path / str(share))
        assert verify_corpus(tmp_path / str(share)).problems == []
        keys[share] = {row["key"] for row in index(tmp_path / str(share), "pictures")}
    assert keys[0.3] < keys[0.6] < keys[1.0] == {image.row["key"] for image in indexed_images(built)}
    again = sample_corpus(tmp_path / "0.6", 0.3, tmp_path / "again")
    assert files_of(tmp_path / "again").keys() == files_of(tmp_path / "0.3").keys()
    assert {row["key"] for row in index(tmp_path / "again", "pictures")} == keys[0.3]
    assert again["share"] == 0.3
    with pytest.raises(UsageError, match=r"at most 0\.3"):
        sample_corpus(tmp_path / "0.3", 0.6, tmp_path / "no")
    with pytest.raises(CcmbError, match="holds a corpus already"):
        sample_corpus(built, 0.3, tmp_path / "0.3")


def test_metrics_are_those_of_the_index(built: Path) -> None:
    metrics, pairs = statistics(built), [pair for pair in index(built, "pairs") if pair["reason"] is None]
    assert metrics["pairs"] == len(pairs) == sum(metrics["characters"]["caption"]["count"])
    assert sum(metrics["short_sides"]["count"]) == metrics["pictures"] == sum(metrics["texts_per_picture"]["count"])
    assert sum(metrics["statuses"].values()) == COUNT
    assert metrics["domains"] == {"127.0.0.1": len(pairs)}
    chosen = [image.row["place"] for image in random_images(built, 5)]
    assert chosen == sorted(row["place"] for row in index(built, "pictures") if row["shard"])[:5]


def test_the_manifest_lists_every_file_with_its_checksum(built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text())
    listed = {entry["name"]: entry["sha256"] for entry in manifest["files"]}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files_of(built).items()}
    assert listed == {name: digest for name, digest in digests.items() if name != "manifest.json"}
    assert "work" not in {name.split(os.sep)[0] for name in listed}


def test_held_out_splits_of_a_downstream_set_are_kept_out(tmp_path: Path) -> None:
    write_flickr8k(tmp_path / "flickr8k-cn")
    images, [texts] = open_test_sets([f"flickr8k-cn:{tmp_path / 'flickr8k-cn'}"], tmp_path / "work")
    dataset = open_dataset("flickr8k-cn", tmp_path / "flickr8k-cn", "val")
    assert "flickr8k-cn val" in [held_out.name for held_out in images]
    assert set(images[0].names or []) == {sample.image for sample in dataset.samples}
    lines = Path(texts).read_text(encoding="utf-8").splitlines()
    assert set(lines) >= {text for sample in dataset.samples for text in sample.texts}
    with pytest.raises(UsageError, match="write NAME:FOLDER"):
        open_test_sets(["flickr8k-cn"], tmp_path)


def test_a_model_of_the_benchmark_scores(tmp_path: Path) -> None:
    model, processor = tiny_model(), tiny_processor()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    scorer, images, texts = ModelScorer(str(tmp_path / "model")), tiny_images(3), ["一只猫", "红色的船"]
    assert len(scorer.fingerprint) == 64
    images_ID, texts_TD = scorer.encode_images(list(images)), scorer.encode_texts(texts)
    with torch.inference_mode():
        expected = model.eval().encode_image(processor.images(list(images))).embed
    np.testing.assert_allclose(images_ID, expected.numpy(), atol=TINY_ERROR)
    np.testing.assert_allclose(np.linalg.norm(texts_TD, axis=1), 1, atol=TINY_ERROR)
