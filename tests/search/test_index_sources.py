"""What is counted once in an index, what is passed over, and that nothing vanishes because a disk is away."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.passed_over import Excludes, why_passed_over
from ccmb.inference.models.open_model import open_model
from ccmb.search.engine import open_engine
from ccmb.search.indexing.indexer import build_index
from ccmb.search.indexing.leaving import IndexReport, forget_sources
from ccmb.search.query import Condition, SearchQuery
from tests.helpers.runs import Command, command_line
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

Build = Callable[..., IndexReport]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def build(model: Path, tmp_path: Path) -> Build:
    def run(*named: Path | str, out: Path | None = None, **options: object) -> IndexReport:
        return build_index(named, out or tmp_path / "index", open_model(model), **options)  # type: ignore[arg-type]

    return run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_line(monkeypatch, capfd)


def draw(folder: Path, *names: str, seed: int = 0) -> Path:
    for name, image in zip(names, tiny_images(len(names), seed), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name, format="PNG")
    return folder


def held(index: Path) -> list[str]:
    """Paths of all images of an index, in order."""
    with open_engine(index) as engine:
        hits = engine.search(SearchQuery(TEXTS[0], k=1000, rank=False)).hits
        return sorted(str(hit.source / hit.name) for hit in hits)


@pytest.mark.parametrize(
    "name",
    [
        "._a.jpg", ".ipynb_checkpoints/a.jpg", ".thumbnails/a.jpg", "x/.Trash-1000/files/a.jpg", "@eaDir/a.jpg/x.jpg",
        "x/#recycle/a.jpg", "$RECYCLE.BIN/a.jpg", "__MACOSX/a.jpg", "__MACOSX/._a.jpg", "lost+found/a.jpg",
        "System Volume Information/a.jpg", "x/@Recycle/a.jpg", ".DS_Store", "LOST.DIR/1.jpg",
    ],
)  # fmt: skip
def test_what_systems_put_beside_ones_own_is_passed_over(name: str) -> None:
    assert why_passed_over(name) is not None
    assert why_passed_over("2024/recycle/@home/lost/a.jpg") is None


def test_an_index_passes_over_hidden_and_system_files_and_says_so(build: Build, tmp_path: Path) -> None:
    photos = draw(
        tmp_path / "photos", "a.png", "夏/b.png", "._a.png", ".ipynb_checkpoints/a-checkpoint.png",
        "@eaDir/a/T.png", "#recycle/c.png", "__MACOSX/._a.png", "$RECYCLE.BIN/d.png", "夏/lost+found/e.png",
    )  # fmt: skip
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name in ("a.png", "夏/b.png", "._a.png", "__MACOSX/._a.png"):
            tar.add(photos / "a.png", name)
    report = build(photos, tmp_path / "shard.tar")
    assert report.added == 4
    assert held(tmp_path / "index") == sorted(
        f"{tmp_path}/{name}" for name in ("photos/a.png", "photos/夏/b.png", "shard.tar/a.png", "shard.tar/夏/b.png")
    )
    assert report.passed_over == {"hidden": 2 + 1, "of the system": 5 + 1}
    assert "@eaDir" in report.passed_over_line
    # So do globs, but for what their user wrote out.
    report = build(f"{photos}/**/*.png", out=tmp_path / "other")
    assert (report.added, report.passed_over) == (2, {"of the system": 4})
    assert build(f"{photos}/@eaDir/**/*.png", out=tmp_path / "meant").added == 1


def test_a_folder_and_its_sub_folder_and_links_are_one(build: Build, tmp_path: Path) -> None:
    photos = draw(tmp_path / "photos", "a.png", "夏/b.png", "夏/c.png", "冬/d.png")
    (tmp_path / "link").symlink_to(photos)
    (photos / "again").symlink_to(photos / "夏")
    (photos / "冬/a too.png").symlink_to(photos / "a.png")
    all_items = sorted(f"{photos}/{name}" for name in ("a.png", "夏/b.png", "夏/c.png", "冬/d.png"))
    report = build(photos, photos / "夏", tmp_path / "link", f"{photos}/../photos/冬", photos / "a.png")
    assert report.added == 4
    assert report.passed_over == {"counted once already": 3 + 2 + 2}
    assert held(tmp_path / "index") == all_items
    assert report.duplicates == []
    # Whatever part comes first or later, nothing is indexed a second time, and what changes is noticed.
    assert build(photos / "夏").added == 0
    assert build(photos / "夏", out=tmp_path / "other").added == 2
    draw(photos, "夏/e.png", seed=5)
    report = build(photos, out=tmp_path / "other")
    assert (report.added, report.skipped_known) == (3, 2)
    (photos / "夏/b.png").unlink()
    assert build(photos, out=tmp_path / "other").removed == 1
    assert len(held(tmp_path / "other")) == 4


def test_two_links_to_one_file_elsewhere_are_two_images(build: Build, tmp_path: Path) -> None:
    blob_folder = draw(tmp_path / "blobs", "0a1b")
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "photos" / name).symlink_to(blob_folder / "0a1b")
    assert build(tmp_path / "photos").added == 2


def test_an_index_within_its_own_folder_does_not_hold_its_copies(build: Build, tmp_path: Path) -> None:
    photos = draw(tmp_path / "photos", "a.png", "b.png")
    out = photos / "index"
    assert build(photos, out=out).added == 2
    with open_engine(out) as engine:
        engine.add("c.png", draw(tmp_path / "new", "c.png", seed=7).joinpath("c.png").read_bytes())
    report = build(photos, out=out)
    assert (report.added, report.skipped_known) == (0, 2)
    assert report.passed_over == {"of an index": 1}
    assert len(held(out)) == 3
    # Nor does the index of the folder itself, or another one.
    assert build(photos, out=photos).added == 2
    assert build(photos, out=photos).added == 0
    with pytest.raises(UsageError, match="own copies"):
        build(out / "uploads", out=out)


@pytest.mark.parametrize(
    ("pattern", "name", "is_excluded"),
    [
        ("*.gif", "x/a.gif", True), ("*.gif", "a.gif.png", False), ("raw", "2019/raw/a.png", True),
        ("raw", "raw.png", False), ("2019/**/scans", "2019/a/b/scans/c.png", True), 
        ("2019/**/scans", "2019/a.png", False),
        ("2019/*.png", "2019/a.png", True), ("2019/*.png", "2019/x/a.png", False), ("photos/x", "x/a.png", True),
        ("/data/photos/x", "x/a.png", True), ("/data/photos/x", "xy/a.png", False), ("./x/", "x/a.png", True),
        ("[ab].png", "a.png", True), ("[!ab].png", "a.png", False), ("?.png", "夏.png", True),
        ("photos", "a.png", False),
        ("a(1).png", "a(1).png", True), ("*[0-9]", "x/07", True),
    ],
)  # fmt: skip
def test_patterns_exclude_what_they_say(pattern: str, name: str, is_excluded: bool) -> None:
    assert Excludes([pattern]).match(name, "/data/photos") is is_excluded


def test_what_is_excluded_leaves_the_index_and_stays_out(
    build: Build, command: Command, model: Path, tmp_path: Path
) -> None:
    photos = draw(tmp_path / "photos", "a.png", "raw/b.png", "raw/c.png", "d.gif")
    index = tmp_path / "index"
    assert build(photos).added == 4
    code, out, err = command(
        "index", photos, "--model", model, "--out", index, "--exclude", "raw", "--exclude", "*.gif"
    )
    assert code == 0
    assert "3 removed" in out
    assert "3 excluded" in err
    assert build(photos).passed_over == {"excluded": 3}  # the index remembers
    assert held(index) == [f"{photos}/a.png"]
    assert build(photos, exclude=["raw"]).added == 1
    assert build(photos, exclude=[""]).added == 2
    with pytest.raises(UsageError, match="excludes everything"):
        build(photos, exclude=["/"])


def away(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small source that is out of reach."""
    photos = tmp_path / "photos"
    if how == "missing":
        photos.rename(tmp_path / "elsewhere")
    elif how == "empty":
        photos.rename(tmp_path / "elsewhere")
        photos.mkdir()
    elif how == "only hidden":
        photos.rename(tmp_path / "elsewhere")
        draw(photos, ".not mounted.png")
    else:
        scan = os.scandir

        def refuse(path: str) -> object:
            if str(path).startswith(str(photos)):
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", refuse)
    return photos


@pytest.mark.parametrize("how", ["missing", "empty", "only hidden", "unreadable"])
def test_a_source_that_is_away_empties_no_index_however_small(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    photos, other = draw(tmp_path / "photos", "a.png"), draw(tmp_path / "other", "b.png", seed=3)
    build(photos, other)
    away(tmp_path, how, monkeypatch)
    draw(other, "c.png", seed=4)
    for named in ((), (photos,), (photos, other)):
        with pytest.raises(CcmbError, match=r"1 images stay in the index.*--gone keep.*--gone remove.*--forget"):
            build(*named)
    assert len(held(tmp_path / "index")) == 2
    report = build(gone="keep")
    assert (report.added, report.removed, report.kept_gone, len(report.away)) == (1, 0, 1, 1)
    assert len(held(tmp_path / "index")) == 3
    report = build(gone="remove")
    assert (report.removed, report.kept_gone) == (1, 0)
    assert held(tmp_path / "index") == [f"{other}/b.png", f"{other}/c.png"]
    assert build(other).removed == 0


@pytest.mark.parametrize("how", ["empty", "unreadable"])
def test_a_folder_within_that_is_away_keeps_its_images(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    photos = draw(tmp_path / "photos", "a.png", "b.png", "c.png", "nas/2024/d.png", "nas/2024/e.png", "gone/f.png")
    build(photos)
    shutil.rmtree(photos / "gone")
    if how == "empty":
        shutil.rmtree(photos / "nas/2024")
    else:
        (photos / "nas").rename(tmp_path / "nas")
        (photos / "nas").mkdir()
        scan = os.scandir

        def refuse(path: str) -> object:
            if str(path).endswith("/nas"):
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", refuse)
    report = build(photos)
    assert (report.removed, report.kept_gone) == (1, 2)
    assert len(report.away) == 1
    assert report.away[0].startswith(f"{photos}/nas: ")
    assert bool(report.unreadable) is (how == "unreadable")
    assert len(held(tmp_path / "index")) == 5
    assert build(photos, gone="remove").removed == 2


def test_a_damaged_or_missing_tar_keeps_its_images(build: Build, tmp_path: Path) -> None:
    photos = draw(tmp_path / "photos", "a.png", "b.png")
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        tar.add(photos / "a.png", "a.png")
    build(tmp_path / "p.tar")
    for spoil in (lambda: (tmp_path / "p.tar").write_bytes(b"x" * 100), lambda: (tmp_path / "p.tar").unlink()):
        spoil()
        with pytest.raises(CcmbError, match="1 images stay in the index"):
            build()
    assert build(gone="keep").kept_gone == 1
    assert len(held(tmp_path / "index")) == 1
    assert build(gone="remove").removed == 1


def test_a_source_that_is_gone_for_good_is_taken_out(build: Build, command: Command, tmp_path: Path) -> None:
    old, new = draw(tmp_path / "old", "a.png", "b.png"), draw(tmp_path / "new", "c.png", seed=2)
    index = tmp_path / "index"
    build(old, new)
    shutil.rmtree(old)
    code, out, err = command("index", "--out", index, "--forget", f"{old}/")
    assert (code, err) == (0, "")
    assert "2 removed" in out
    assert held(index) == [f"{new}/c.png"]
    assert json.loads((index / "index.json").read_text())["sources"] == [str(new)]
    assert command("index", "--out", index).code == 0  # with the model that made it
    with pytest.raises(UsageError, match=f"no source of .*it has: {new}"):
        forget_sources(index, [str(old)])
    # One that is still there can be taken out as well, and its files stay.
    assert forget_sources(index, [str(new)]) == 1
    assert (new / "c.png").exists()


def test_fields_keep_every_character_of_a_text(build: Build, tmp_path: Path) -> None:
    photos = draw(tmp_path / "photos", "a.png", "b.png")
    texts = {
        "wide": "海边　的日落", "joined": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "lines": "第一行\n第二行\r\n\t第三行",
        "soft": "a\u00adb\u200bc", "quotes": '"李"\\n\'', "separators": "a\u2028b\u0085c",
    }  # fmt: skip
    (tmp_path / "f.jsonl").write_text(json.dumps({"name": "a.png", **texts}) + "\n")
    report = build(photos, fields=tmp_path / "f.jsonl")
    assert report.fields_left_out == []
    with open_engine(tmp_path / "index") as engine:
        for name, text in texts.items():
            (hit,) = engine.search(SearchQuery(TEXTS[0], where=(Condition(name, "==", text),))).hits
            assert hit.fields[name] == text


def test_lines_of_fields_that_match_no_image_are_counted(
    build: Build, command: Command, model: Path, tmp_path: Path
) -> None:
    photos = draw(tmp_path / "photos", "夏/a.png", "e\u0301.png")
    names = ["夏\\a.png", "\u00e9.png", "a.png", "photos/夏/a.jpg", "z.png", "y.png"]
    lines = [json.dumps({"name": name, "author": "王"}) for name in names]
    (tmp_path / "f.jsonl").write_text("\n".join(lines))
    arguments = ["index", photos, "--model", model, "--out", tmp_path / "index", "--fields", tmp_path / "f.jsonl"]
    code, out, err = command(*arguments, "--json")
    assert code == 0
    assert json.loads(out)["fields_unmatched"] == names[2:]
    assert "4 names are of no image" in err
    assert "'a.png'" in err
    with open_engine(tmp_path / "index") as engine:
        assert [hit.fields["author"] for hit in engine.search(SearchQuery(TEXTS[0])).hits] == ["王", "王"]
