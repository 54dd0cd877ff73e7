"""Shards and folders as other tools write them: img2dataset, open_clip, hand-made tars, Chinese-CLIP's LMDB."""

import gzip
import json

import pytest

from ccmb.benchmark.evaluation.sets import _family as family_of
from ccmb.core.errors import CcmbError, UsageError
from ccmb.core.passed_over import PassedOver
from ccmb.data.images.source import UnreadableImageError
from ccmb.data.shards.locate import Shard, find_shards
from ccmb.data.shards.read import count_samples, parse_sample, read_samples
from ccmb.data.shards.shard_set import is_shards
from ccmb.data.shards.write import decode_sample, verify_shards
from ccmb.search.indexing.image_sources import find_sources
from ccmb.tasks.common.datasets import open_held_out, open_set, open_training
from ccmb.training.recipe import DataRecipe
from tests.helpers.runs import command_line
from tests.helpers.shard_folders import open_folder, png, texts_of, write_tar
from tests.helpers.tuning import save_start

pytestmark = pytest.mark.usefixtures("lines")


def noted(key: str, caption: str) -> bytes:
    """The JSON that img2dataset writes beside image and caption."""
    return json.dumps(
        {
            "url": f"http://a.com/{key}.jpg", "caption": caption, "key": key, "status": "success",
            "error_message": None, "width": 8, "height": 8, "original_width": 9, "original_height": 9,
            "exif": "{}", "sha256": "0", "split": "whatever",
        }
    ).encode()  # fmt: skip


def samples_of(path, fields=None):
    count, damage = count_samples(str(path))
    assert damage is None
    return [parse_sample(raw, fields) for _, raw in read_samples(Shard(str(path)), range(count))]


def img2dataset(folder, compressed=False, count=6):
    """Two shards, each with a statistic and a table beside it."""
    folder.mkdir()
    for shard in range(2):
        files = {}
        for index in range(count // 2):
            key = f"{shard:05d}{index:04d}"
            files |= {
                f"{key}.jpg": png(index),
                f"{key}.json": noted(key, f"文{key}"),
                f"{key}.txt": f"文{key}".encode(),
            }
        path = write_tar(folder / f"{shard:05d}.tar", files)
        if compressed:
            (folder / f"{shard:05d}.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        (folder / f"{shard:05d}_stats.json").write_text("{}")
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
    return folder


@pytest.mark.parametrize("fields", [None, ["texts"], ["txt"], ["caption"]])
def test_img2dataset_gives_the_caption_alone_as_text(tmp_path, fields):
    folder = img2dataset(tmp_path / "shards")
    samples = samples_of(folder / "00000.tar", fields)
    assert [sample.texts for sample in samples] == [(f"文00000{index:04d}",) for index in range(3)]
    assert {sample.split for sample in samples} == {"train"}


@pytest.mark.parametrize("compressed", [False, True])
def test_a_folder_of_img2dataset_is_trained_on_and_verified(tmp_path, compressed):
    folder = img2dataset(tmp_path / "shards", compressed)
    assert [shard.name for shard in find_shards([str(folder)])] == [
        f"{index:05d}.tar" + (".gz" if compressed else "") for index in range(2)
    ]
    assert len(find_shards([f"{folder}/*"])) == 2
    result = verify_shards([str(folder)])
    assert (result.shards, result.samples, result.problems, result.repeated_keys) == (2, 6, [], 0)
    texts = texts_of(open_folder(folder, 3, 1, sizes=[3, 3]), 0, 2)
    assert sorted(text for batch in texts for text in batch) == sorted(
        f"文{shard:05d}{index:04d}" for shard in range(2) for index in range(3)
    )


def test_open_clips_shards_of_image_and_text_need_no_json(tmp_path):
    path = write_tar(tmp_path / "a.tgz", {"a/0.png": png(), "a/0.txt": "\ufeff一只猫\n".encode(), "a/0.cls": b"3"})
    path.write_bytes(gzip.compress(path.read_bytes()))
    [sample] = samples_of(path)
    assert (sample.texts, sample.image) == (("一只猫",), f"{path}/a/0.png")


def test_lines_of_a_text_are_texts_of_their_own_unless_the_json_has_them_as_one(tmp_path):
    lines = "一只猫\r\n\r\n一只黄猫\n".encode()
    files = {"0.png": png(), "0.txt": lines, "1.png": png(), "1.json": noted("1", "上\n下"), "1.txt": "上\n下".encode()}
    assert [sample.texts for sample in samples_of(write_tar(tmp_path / "a.tar", files))] == [
        ("一只猫", "一只黄猫"), ("上 下",),
    ]  # fmt: skip


def test_our_json_counts_before_a_text_beside_it(tmp_path):
    own = json.dumps({"image": "a.png", "title": ["题"], "texts": ["文"]}).encode()
    path = write_tar(tmp_path / "a.tar", {"0.png": png(), "0.json": own, "0.txt": b"other"})
    assert samples_of(path, ["texts"])[0].texts == ("文",)
    assert samples_of(path, ["title", "txt"])[0].fields == (("题",), ("other",))


@pytest.mark.parametrize(("text", "reason"), [(b" \n", "the text is empty"), (b"\xff\xfe0", "UTF-16")])
def test_texts_that_cannot_be_used_are_named(tmp_path, text, reason):
    path = write_tar(tmp_path / "a.tar", {"0.png": png(), "0.txt": text})
    with pytest.raises(CcmbError, match=rf"a\.tar/0\.txt:.*{reason}"):
        samples_of(path)


def test_an_image_of_an_unknown_ending_is_one_by_its_content(tmp_path):
    files = {"0.jfif": png(), "0.txt": b"x", "1.img": png(1), "1.bin": b"no picture", "1.txt": b"y"}
    path = write_tar(tmp_path / "a.tar", files)
    raws = [raw for _, raw in read_samples(Shard(str(path)), range(2))]
    assert [decode_sample(raw, None)[1].getpixel((0, 0)) for raw in raws] == [(0, 0, 0), (1, 0, 0)]


def test_the_same_key_twice_in_a_shard_is_refused_and_counted(tmp_path):
    files = [("0.png", png()), ("0.txt", b"a"), ("1.png", png(1)), ("1.txt", b"b"), ("0.png", png(2)), ("0.txt", b"c")]
    path = write_pairs_of(tmp_path / "a.tar", files)
    result = verify_shards([str(path)])
    assert result.problems == [
        f"{path}/0: the key stands in the shard before; write the files of a sample in a row, as tar --sort=name does, "
        "and give no two samples the same key"
    ]
    adjacent = write_pairs_of(tmp_path / "b.tar", [*files[:2], *files[4:]])
    assert [line.split(": ")[1] for line in verify_shards([str(adjacent)]).problems] == [
        ".png is there twice, as if two samples had this key"
    ]


def write_pairs_of(path, files):
    import io
    import tarfile

    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_the_same_key_in_several_shards_is_counted_and_names_another_image(tmp_path):
    for folder, colour in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "00000.tar", {"0.png": png(colour), "0.txt": b"x"})
    both = [str(tmp_path / "a"), str(tmp_path / "b")]
    result = verify_shards(both)
    assert (result.problems, result.repeated_keys) == ([], 1)
    first, second = (samples_of(shard.url)[0].image for shard in find_shards(both))
    assert first != second, "else they would be positives of each other"


def test_one_name_for_two_images_is_a_problem(tmp_path):
    for folder, colour in (("a", 1), ("b", 2)):
        line = json.dumps({"image": "0.png", "texts": ["x"]}).encode()
        write_tar(tmp_path / f"{folder}.tar", {"0.png": png(colour), "0.json": line})
    assert len(verify_shards([str(tmp_path)]).problems) == 1


def test_a_shard_and_its_gzipped_copy_in_a_folder_are_not_read_both(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"0.png": png(), "0.txt": b"x"})
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(CcmbError, match=r"holds a\.tar and a\.tar\.gz; remove one"):
        find_shards([str(tmp_path)])


def test_a_cut_gzip_and_other_compressions_are_said(tmp_path):
    path = write_tar(tmp_path / "a.tar", {f"{n}.{end}": png(n) for n in range(9) for end in ("png", "txt")})
    whole = gzip.compress(path.read_bytes())
    path.write_bytes(whole[: len(whole) * 2 // 3])
    count, damage = count_samples(str(path))
    assert 0 < count < 9
    assert "others are lost" in damage
    path.write_bytes(b"BZh91AY")
    with pytest.raises(CcmbError, match="compressed by bzip2; shards are read plain or gzipped"):
        count_samples(str(path))


@pytest.mark.parametrize("compressed", [False, True])
def test_shards_are_a_set_to_tune_and_to_measure_on(tmp_path, compressed):
    folder = img2dataset(tmp_path / "shards", compressed)
    data = DataRecipe(shards=[str(folder)])
    for samples, images in (
        open_training(data),
        (lambda item: (item.samples, item.images))(open_set(f"mine={folder}")),
    ):
        assert [sample.texts for sample in samples] == [
            (f"文{shard:05d}{index:04d}",) for shard in range(2) for index in range(3)
        ]
        assert [images.load(sample.image).getpixel((0, 0))[0] for sample in samples] == [0, 1, 2, 0, 1, 2]
        assert all(sample.image in images for sample in samples)
        with pytest.raises(UnreadableImageError, match="no such image"):
            images.raw("/etc/passwd")
    assert family_of("mine", folder, None) == "retrieval"
    with pytest.raises(CcmbError, match="shards have no splits"):
        open_held_out(data, "val")


def test_however_the_path_of_a_shard_is_written_its_images_are_found(tmp_path, monkeypatch):
    img2dataset(tmp_path / "shards")
    monkeypatch.chdir(tmp_path)
    for data in ("shards", "./shards", "../" + tmp_path.name + "/shards//00000.tar"):
        result = open_set(f"mine={data}")
        assert result.images.load(result.samples[2].image).getpixel((0, 0)) == (2, 0, 0)


def test_samples_of_a_set_that_cannot_be_used_are_said(tmp_path, capsys):
    line = json.dumps({"image": "a.png", "texts": ["x"]}).encode()
    files = {
        "0.png": png(),
        "0.txt": b"a",
        "1.png": png(1),
        "2.png": png(),
        "2.json": line,
        "3.png": png(1),
        "3.json": line,
    }
    path = write_tar(tmp_path / "a.tar", files)
    result = open_set(f"mine={path}")
    assert [sample.texts for sample in result.samples] == [("a",), ("x",)]
    assert f"2 samples left out, the first: {path}/1: no text" in capsys.readouterr().err


def test_a_folder_with_pairs_beside_a_tar_is_no_folder_of_shards(tmp_path):
    write_tar(tmp_path / "images.tar", {"0.png": png()})
    assert not is_shards(tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_evaluate_reads_shards(tmp_path, monkeypatch, capfd, compressed):
    command, start = command_line(monkeypatch, capfd), save_start(tmp_path / "start")
    folder = img2dataset(tmp_path / "shards", compressed)
    for data in (folder, next(folder.glob("*.tar*"))):
        outcome = command("evaluate", "--model", start, "--data", data, "--json", tmp_path / "report.json")
        assert outcome.code == 0, outcome.err
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["retrieval"]["gallery"] == (6 if data == folder else 3)


def test_chinese_clips_lmdb_is_named_with_what_to_do(tmp_path):
    for name in ("imgs", "pairs"):
        (tmp_path / "lmdb" / "train" / name).mkdir(parents=True)
        (tmp_path / "lmdb" / "train" / name / "data.mdb").write_bytes(bytes(64))
    lmdb = tmp_path / "lmdb" / "train"
    for read in (
        lambda: find_shards([str(lmdb)]),
        lambda: open_set(f"mine={lmdb}"),
        lambda: open_set(f"muge={lmdb}", "val"),
        lambda: open_training(DataRecipe(folder=str(tmp_path / "lmdb"))),
        lambda: find_sources([lmdb], PassedOver()),
    ):
        with pytest.raises(CcmbError, match=r"an LMDB, as Chinese-CLIP packs .*train_imgs\.tsv") as caught:
            read()
        assert not isinstance(caught.value, UsageError)
