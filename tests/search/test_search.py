"""Indexing and two-stage search: incremental, crash-safe, equal to a plain computation, and clear about bad input."""

import fcntl
import json
import os
import shutil
import signal
import sys
import tarfile
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers.utils.logging import disable_progress_bar

from ccmb.cli import main as cli
from ccmb.core.errors import CcmbError, UsageError
from ccmb.data.images.source import load_image
from ccmb.inference.models.open_model import open_model
from ccmb.inference.models.r2d2 import R2D2Stages
from ccmb.r2d2.folders.match_temperature import store_match_temperature
from ccmb.r2d2.loading import load_model
from ccmb.search.contact_sheet import contact_sheet
from ccmb.search.engine import open_engine
from ccmb.search.index_folder import IndexRecord, open_catalogue
from ccmb.search.indexing import indexer as indexing
from ccmb.search.indexing.indexer import IndexReport, build_index
from ccmb.search.query import Hit, SearchQuery
from ccmb.search.vector_store import VectorStore
from tests.helpers.exact import TINY_ERROR
from tests.helpers.processes import run_in_a_process
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

COUNT = 40


def save_model(folder: Path, **changes) -> Path:
    tiny_model(**changes).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def build(images: Path, index: Path, model: Path) -> IndexReport:
    return build_index([images], index, open_model(model))


def search_index(index: Path, model: Path | None = None, text: str | None = None, image=None, **options) -> list[Hit]:
    """Open an index and search it once."""
    query = SearchQuery(text, load_image(image) if image else None, **options)
    with open_engine(index, model) as engine:
        return list(engine.search(query).hits)


def stored(index: Path, model: Path) -> dict[str, torch.Tensor]:
    """Every entry's name and embedding; fails on doubles."""
    record = IndexRecord.read(index)
    with VectorStore(index / record.store, record.embed_dim) as store:
        rows = [(entry.name, torch.tensor(embed)) for entry, embed in store.everything()]
    assert len(dict(rows)) == len(rows)
    with open_catalogue(index, record) as catalogue:  # the mirror holds the same
        entries = {entry.name: entry for source in record.sources for entry in catalogue.store.of_source(source)}
        assert len(entries) == len(catalogue.store) == len(rows)
        for name, embed_D in rows:
            assert torch.equal(catalogue.store.embeds([entries[name].key])[entries[name].key], embed_D)
            assert catalogue.thumbnails.get([entries[name].key])
    return dict(rows)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), match_temperature=2.0)


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("towers"), cross_layers=0)


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "图片"
    for index, image in enumerate(tiny_images(COUNT)):
        path = folder / ("夏" if index % 2 else "冬") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


@pytest.fixture(scope="module")
def shelf(tmp_path_factory, model) -> tuple[Path, Path]:
    """A tar of images and its index, for tests that only search."""
    root = tmp_path_factory.mktemp("shelf")
    with tarfile.open(root / "pictures.tar", "w") as tar:
        for index, image in enumerate(tiny_images(COUNT)):
            image.save(root / "picture.png")
            tar.add(root / "picture.png", f"{index}.png")
    report = build(root / "pictures.tar", root / "index", model)
    assert (report.added, report.unreadable) == (COUNT, [])
    return root / "pictures.tar", root / "index"


def test_indexing_again_encodes_only_what_is_new_or_changed(images, model, tmp_path):
    index = tmp_path / "index"
    assert build(images, index, model) == IndexReport(added=COUNT)
    assert build(images, index, model) == IndexReport(skipped_known=COUNT)
    before = stored(index, model)

    Image.new("RGB", (32, 32), "red").save(images / "冬/0.png")
    Image.new("RGB", (32, 32), "blue").save(images / "new.png")
    report = build_index([images, images / "../图片"], index, open_model(model))

    assert report == IndexReport(added=1, updated=1, skipped_known=COUNT - 1)
    after = stored(index, model)
    assert after.keys() == before.keys() | {"new.png"}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"冬/0.png"}


def test_unreadable_images_are_listed_and_the_rest_is_indexed(images, model, tmp_path):
    bad = [images / "冬/0.png", images / "夏/1.png"]
    bad[0].write_bytes(b"not an image")
    bad[1].write_bytes(bad[1].read_bytes()[:60])
    report = build(images, tmp_path / "index", model)
    assert report.added == COUNT - 2
    assert [line.split(":")[0] for line in report.unreadable] == [str(path) for path in bad]
    assert len(stored(tmp_path / "index", model)) == COUNT - 2


def test_an_image_whose_name_is_not_utf8_is_listed(images, model, tmp_path):
    shutil.copy(images / "冬/0.png", os.fsencode(images) + b"/\xff.png")
    report = build(images, tmp_path / "index", model)
    assert report.added == COUNT
    assert len(report.unreadable) == 1
    assert report.unreadable[0].encode()  # can be printed


def build_and_die(images, out, model):
    """Index a few images at a time, until they have been written to the store for the fifth time."""
    R2D2Stages.image_batch, indexing.FLUSH_EVERY = 4, 2
    upsert, written = VectorStore.upsert, []

    def kill_after_five(self, *arguments):
        upsert(self, *arguments)
        written.append(1)
        if len(written) == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    VectorStore.upsert = kill_after_five
    build(images, out, model)


def test_killed_while_indexing_the_same_call_ends_in_the_same_index(images, model, tmp_path):
    ended = run_in_a_process(build_and_die, images, tmp_path / "killed", model)
    assert ended.code == -signal.SIGKILL, ended.err
    assert build(images, tmp_path / "killed", model) == IndexReport(added=COUNT - 20, skipped_known=20)
    build(images, tmp_path / "whole", model)
    killed, uninterrupted = stored(tmp_path / "killed", model), stored(tmp_path / "whole", model)
    assert killed.keys() == uninterrupted.keys()
    assert all(torch.allclose(killed[name], uninterrupted[name], atol=TINY_ERROR) for name in uninterrupted)


@pytest.mark.parametrize("with_image", [False, True])
def test_search_equals_a_plain_two_stage_computation(shelf, model, with_image):
    depth, k, text = 15, 10, TEXTS[0]
    network, processor = load_model(model)
    image, zero = tiny_images(1, seed=9)[0], torch.tensor([0])
    with torch.no_grad():
        images = network.encode_image(processor.images(tiny_images(COUNT)))
        texts = network.encode_text(**processor.texts([text]))
        query = texts.embed[0]
        if with_image:
            query = query + network.encode_image(processor.images([image])).embed[0]
        cosine = torch.cosine_similarity(images.embed, query[None])
        match = torch.cat([network.rank(images[i : i + 1], texts, zero, zero).score for i in range(COUNT)])
    candidates = cosine.topk(depth).indices
    expected = candidates[(cosine + match)[candidates].argsort(descending=True)][:k]
    assert expected.tolist() != candidates[:k].tolist()  # the second stage changes the order here

    with open_engine(shelf[1]) as engine:
        query = SearchQuery(text, image if with_image else None, k=k, depth=depth)
        hits = engine.search(query).hits
        unranked = engine.search(replace(query, rank=False)).hits

    assert [hit.name for hit in hits] == [f"{index}.png" for index in expected]
    assert torch.tensor([hit.cosine for hit in hits]).allclose(cosine[expected], atol=TINY_ERROR)
    assert torch.tensor([hit.match for hit in hits]).allclose(match[expected], atol=TINY_ERROR)
    assert all(hit.score == pytest.approx(hit.cosine + hit.match, abs=TINY_ERROR) for hit in hits)
    assert [hit.name for hit in unranked] == [f"{index}.png" for index in candidates[:k]]
    assert all(hit.match is None and hit.score == hit.cosine for hit in unranked)


def test_several_queries_at_once_are_answered_as_each_alone(shelf):
    image = tiny_images(1, seed=9)[0]
    with open_engine(shelf[1]) as engine:
        key = engine.search(SearchQuery(TEXTS[1])).hits[0].key
        queries = [
            SearchQuery(TEXTS[0], k=5, depth=15),
            SearchQuery(image=image, k=3),
            SearchQuery(TEXTS[3] * 2, image, depth=20),
            SearchQuery(TEXTS[0], k=4, rank=False),
            SearchQuery(like=key, k=6),
            SearchQuery(TEXTS[1], k=COUNT, min_probability=0.5),
        ]
        together = engine.search_many(queries)
        alone = [engine.search(query) for query in queries]
        assert engine.search_many([]) == []
    for one, other in zip(together, alone, strict=True):
        assert [hit.key for hit in one.hits] == [hit.key for hit in other.hits]
        assert (one.candidates, one.ranked, one.more) == (other.candidates, other.ranked, other.more)
        for hit, same in zip(one.hits, other.hits, strict=True):
            assert hit.score == pytest.approx(same.score, abs=TINY_ERROR)
    assert key not in {hit.key for hit in together[4].hits}  # what an image is like is not the image itself


def test_pages_are_cut_from_one_order(shelf):
    one_page = search_index(shelf[1], text=TEXTS[0], k=COUNT, depth=12)
    with open_engine(shelf[1]) as engine:
        pages = [
            engine.search(SearchQuery(TEXTS[0], k=8, offset=offset, depth=12)) for offset in range(0, COUNT + 8, 8)
        ]
    assert [page.more for page in pages] == [True] * 4 + [False] * 2
    assert [len(page.hits) for page in pages] == [8] * 5 + [0]
    paged = [hit.key for page in pages for hit in page.hits]
    assert len(set(paged)) == COUNT
    assert [hit.match is None for page in pages for hit in page.hits] == [False] * 12 + [True] * (COUNT - 12)
    assert {hit.key for hit in one_page} == set(paged)


def test_at_least_k_candidates_are_ranked_however_small_the_depth(shelf):
    hits = search_index(shelf[1], text=TEXTS[1], k=6, depth=1)
    assert len(hits) == 6
    assert all(hit.match is not None for hit in hits)


def test_hits_under_the_least_probability_are_left_out(shelf, model, tmp_path):
    everything = search_index(shelf[1], text=TEXTS[0], k=COUNT)
    min_probability = sorted(hit.probability for hit in everything)[COUNT // 2]
    result = search_index(shelf[1], text=TEXTS[0], k=COUNT, min_probability=min_probability - TINY_ERROR)
    assert [hit.name for hit in result] == [
        hit.name for hit in everything if hit.probability >= min_probability - TINY_ERROR
    ]
    assert len(result) == COUNT - COUNT // 2
    # Those that are left out make room for more of the depth.
    few = search_index(shelf[1], text=TEXTS[0], k=5, min_probability=min_probability - TINY_ERROR)
    assert [hit.name for hit in few] == [hit.name for hit in result[:5]]
    assert search_index(shelf[1], text=TEXTS[0], min_probability=1.0) == []
    # A temperature written since indexing counts, and the weights are still those of the index.
    warmer = shutil.copytree(model, tmp_path / "warmer")
    store_match_temperature(warmer, 4.0)
    assert [hit.name for hit in search_index(shelf[1], warmer, TEXTS[0], k=COUNT)] == [hit.name for hit in everything]
    distances = [abs(hit.probability - 0.5) for hit in search_index(shelf[1], warmer, TEXTS[0], k=COUNT)]
    assert max(distances) < max(abs(hit.match - 0.5) for hit in everything) / 2


def test_a_model_that_is_not_calibrated_gives_no_probability(shelf, model, tmp_path):
    plain = shutil.copytree(model, tmp_path / "plain")
    store_match_temperature(plain, 1.0)
    hits = search_index(shelf[1], plain, TEXTS[0], k=COUNT)
    assert [hit.probability for hit in hits] == [None] * COUNT
    assert [hit.match for hit in hits] == [hit.match for hit in search_index(shelf[1], text=TEXTS[0], k=COUNT)]
    with pytest.raises(UsageError, match="min_probability: a least probability needs a calibrated model"):
        search_index(shelf[1], plain, TEXTS[0], min_probability=0.0)


def test_a_lost_image_has_no_probability_and_is_left_out(images, model, tmp_path):
    build(images, tmp_path / "index", model)
    (images / "冬/0.png").unlink()
    result = search_index(tmp_path / "index", text=TEXTS[0], k=COUNT, min_probability=0)
    assert len(result) == COUNT - 1
    assert not any(hit.missing for hit in result)


def test_a_least_probability_without_second_stage_or_outside_its_range_is_bad_usage(shelf, images, towers, tmp_path):
    (tmp_path / "query.png").write_bytes((images / "冬/0.png").read_bytes())
    for arguments in ({"image": tmp_path / "query.png"}, {"text": TEXTS[0], "rank": False}):
        with pytest.raises(UsageError, match="least probability needs"):
            search_index(shelf[1], **arguments, min_probability=0.5)
    build(images, tmp_path / "index", towers)
    with pytest.raises(UsageError, match="least probability needs"):
        search_index(tmp_path / "index", text=TEXTS[0], min_probability=0.5)
    for min_probability in (-0.1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="give a number between 0 and 1"):
            search_index(shelf[1], text=TEXTS[0], min_probability=min_probability)


def test_an_image_finds_itself_first_by_cosine_alone(shelf, tmp_path):
    tiny_images(COUNT)[7].save(tmp_path / "query.png")
    hits = search_index(shelf[1], image=tmp_path / "query.png", k=3)
    assert hits[0].name == "7.png"
    assert hits[0].cosine == pytest.approx(1, abs=TINY_ERROR)
    assert all(hit.match is None for hit in hits)


def test_a_model_of_towers_alone_searches_by_cosine(images, towers, tmp_path):
    build(images, tmp_path / "index", towers)
    hits = search_index(tmp_path / "index", text=TEXTS[0], k=5)
    assert len(hits) == 5
    assert [hit.match for hit in hits] == [None] * 5
    assert [hit.cosine for hit in hits] == sorted((hit.cosine for hit in hits), reverse=True)


def test_images_gone_since_indexing_keep_their_cosine_and_are_marked(images, model, tmp_path):
    index = tmp_path / "index"
    build(images, index, model)
    before = {hit.name: hit for hit in search_index(index, text=TEXTS[0], k=COUNT)}
    (images / "冬/0.png").unlink()
    (images / "夏/1.png").write_bytes(b"damaged")
    result = search_index(index, text=TEXTS[0], k=COUNT)
    assert [hit.missing for hit in result] == [False] * (COUNT - 2) + [True] * 2  # they come last
    hits = {hit.name: hit for hit in result}
    assert {name for name, hit in hits.items() if hit.missing} == {"冬/0.png", "夏/1.png"}
    for name, hit in hits.items():
        assert hit.cosine == pytest.approx(before[name].cosine, abs=TINY_ERROR)
        assert hit.match == (None if hit.missing else pytest.approx(before[name].match, abs=TINY_ERROR))

    shutil.rmtree(images)
    assert all(hit.missing for hit in search_index(index, text=TEXTS[0], k=COUNT))


def test_nothing_or_an_empty_text_to_search_for_is_bad_usage(shelf):
    for text in ("", " \n　"):
        with pytest.raises(UsageError, match="empty"):
            search_index(shelf[1], text=text)
    with pytest.raises(UsageError, match="give a text"):
        search_index(shelf[1])


def test_an_empty_folder_makes_an_empty_index_that_finds_nothing(model, tmp_path):
    (tmp_path / "empty").mkdir()
    assert build(tmp_path / "empty", tmp_path / "index", model) == IndexReport()
    assert search_index(tmp_path / "index", text=TEXTS[0]) == []


def test_another_model_is_refused_for_adding_and_for_searching(shelf, model, towers, tmp_path):
    with pytest.raises(CcmbError, match=r"made with the model .*; .* has other weights"):
        search_index(shelf[1], towers, text=TEXTS[0])
    with pytest.raises(CcmbError, match=r"made with the model .*; .* has other weights"):
        build(shelf[0], shelf[1], towers)
    shutil.copytree(model, tmp_path / "copy")  # the same weights elsewhere will do
    assert search_index(shelf[1], tmp_path / "copy", text=TEXTS[0])


def test_a_model_trained_on_since_indexing_is_refused(images, tmp_path):
    folder = save_model(tmp_path / "model")
    build(images, tmp_path / "index", folder)
    save_model(folder, seed=1)
    with pytest.raises(CcmbError, match="has been trained on since"):
        search_index(tmp_path / "index", text=TEXTS[0])


def remove_model(index: Path) -> str:
    record = json.loads((index / "index.json").read_text())
    record["model"] = str(index / "no model")
    (index / "index.json").write_text(json.dumps(record))
    return "say where it is with --model"


def remove_store(index: Path) -> str:
    shutil.rmtree(index / "vectors.db")
    return r"vectors\.db: missing; index the images again"


def remove_record(index: Path) -> str:
    (index / "index.json").unlink()
    return r"no index here \(index\.json is missing\)"


def damage_record(index: Path) -> str:
    (index / "index.json").write_text('{"form": 2, "model": "m", "fingerprint": "f", "embed_dim": 0}')
    return r"index\.json: embed_dim: "


def remove_index(index: Path) -> str:
    shutil.rmtree(index)
    return "no index here"


@pytest.mark.parametrize("damage", [remove_model, remove_store, remove_record, damage_record, remove_index])
def test_what_is_missing_from_an_index_is_said_in_one_line(shelf, tmp_path, damage):
    index = shutil.copytree(shelf[1], tmp_path / "index")
    expected = damage(index)
    with pytest.raises(CcmbError, match=expected) as raised:
        search_index(index, text=TEXTS[0])
    assert "\n" not in str(raised.value)


def test_vectors_of_an_unknown_model_are_not_added_to(shelf, model, tmp_path):
    index = shutil.copytree(shelf[1], tmp_path / "index")
    (index / "index.json").unlink()
    with pytest.raises(CcmbError, match=r"has vectors\.db but no index\.json"):
        build(shelf[0], index, model)


def run(capfd, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line."""
    sys.argv = ["ccmb", *map(str, arguments)]
    with pytest.raises(SystemExit) as exit:
        cli.main()
    out, err = capfd.readouterr()
    return int(exit.value.code or 0), out, err


@pytest.fixture
def command(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", [])
    disable_progress_bar()  # as the environment of a fresh process does
    return lambda *arguments: run(capfd, *arguments)


def test_the_commands_index_and_search_from_start_to_end(command, images, model, tmp_path):
    index, sheet_file = tmp_path / "index", tmp_path / "sheet.png"
    (images / "bad.png").write_bytes(b"")
    code, out, err = command("index", images, "--model", model, "--out", index)
    assert code == 0
    assert f"{COUNT} images added" in out
    assert "1 images could not be read" in err
    assert "bad.png" in err

    code, out, err = command("search", TEXTS[0], "--index", index, "-k", 4, "--sheet", sheet_file, "--json")
    assert (code, err) == (0, "")
    hits = json.loads(out)
    assert len(hits) == 4
    assert set(hits[0]) == {field.name for field in fields(Hit)} - {"first_stage_rank"} | {"place"}
    assert Image.open(sheet_file).format == "PNG"

    min_probability = sorted(hit["probability"] for hit in hits)[2]
    code, out, _ = command("search", TEXTS[0], "--index", index, "-k", 4, "--min-probability", min_probability)
    assert code == 0
    assert len(out.splitlines()) >= 2
    assert all(
        float(line.split("probability ")[1].split()[0]) >= round(min_probability, 3) for line in out.splitlines()
    )
    assert command("search", TEXTS[0], "--index", index, "--min-probability", 1) == (0, "no match\n", "")
    assert command("search", TEXTS[0], "--index", index, "--min-probability", 1, "--json") == (0, "[]\n", "")
    plain = shutil.copytree(model, tmp_path / "plain")
    store_match_temperature(plain, 1.0)
    search = ["search", TEXTS[0], "--index", index, "--model", plain]
    code, out, err = command(*search)
    assert (code, err, "  match " in out, "probability" in out) == (0, "", True, False)
    code, out, err = command(*search, "--min-probability", 0)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "min_probability: a least probability needs a calibrated model: run ccmb calibrate" in err

    code, out, _ = command("search", "--picture", images / "夏/1.png", "--index", index)
    assert code == 0
    assert out.splitlines()[0].endswith("夏/1.png")


def test_the_commands_say_what_is_wrong_in_one_line(command, shelf, model, tmp_path):
    none, image = tmp_path / "none", tmp_path / "picture.png"
    tiny_images(1)[0].save(image)
    for code, words, arguments in [
        (2, "empty", ["search", "", "--index", shelf[1]]),
        (2, "give a text", ["search", "--index", shelf[1]]),
        (2, "needs the second stage", ["search", "船", "--index", none, "--no-rank", "--min-probability", 0.5]),
        (2, "needs the second stage", ["search", "--picture", image, "--index", shelf[1], "--min-probability", 0.5]),
        (1, "none: no index here", ["search", "船", "--index", none]),
        (1, "none: no such model folder", ["search", "船", "--index", shelf[1], "--model", none]),
        (1, "none", ["search", "--picture", none, "--index", shelf[1]]),
        (1, "none: no such model folder", ["index", shelf[0], "--model", none, "--out", none]),
        (1, "none: no such folder", ["index", none, "--model", model, "--out", tmp_path / "index"]),
        (1, "is a file; an index is a folder", ["index", shelf[0], "--model", model, "--out", shelf[0]]),
    ]:
        result, out, err = command(*arguments)
        assert (result, out, err.count("\n")) == (code, "", 1), err
        assert err.startswith("ccmb: ")
        assert words in err
        assert not none.exists()
        assert not (tmp_path / "index").exists()


def test_the_contact_sheet_shows_the_hits_and_a_grey_square_for_a_lost_one(tmp_path):
    Image.new("RGB", (40, 20), "red").save(tmp_path / "红.png")
    hits = [
        Hit(key="a", name="红.png", source=tmp_path, cosine=0.5, score=1.4, match=0.9),
        Hit(key="b", name="gone.png", source=tmp_path, cosine=0.4, score=0.4, missing=True),
    ]
    contact_sheet(hits, tmp_path / "sheets/sheet.png")
    contact_image = Image.open(tmp_path / "sheets/sheet.png")
    colours = [contact_image.getpixel((8 + 96 + position * 200, 8 + 96)) for position in range(2)]
    assert colours == [(255, 0, 0), (0xDD, 0xDD, 0xDD)]


def test_an_index_is_locked_just_as_long_as_it_is_open(shelf):
    with open(shelf[1] / "vectors.db/LOCK") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as another process would hold it
        with pytest.raises(CcmbError, match="in use by another process"):
            search_index(shelf[1], text=TEXTS[0])
    assert search_index(shelf[1], text=TEXTS[0])
