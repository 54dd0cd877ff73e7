"""Shards on disk: written the same every time, read back whole, and checked."""

import io
import json
import pickle
import tarfile

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ccmb.core.errors import CcmbError, UsageError
from ccmb.data.images.source import ImageSource
from ccmb.data.shards.locate import Shard, find_shards, read_manifest
from ccmb.data.shards.read import count_samples, parse_sample, read_samples
from ccmb.data.shards.write import convert_pairs, verify_shards
from tests.helpers.runs import command_line
from tests.helpers.shard_folders import SIZE, png, write_pairs, write_shards, write_tar

TEXT = b'{"texts": "x"}'


@pytest.fixture
def command(monkeypatch, capfd):
    return command_line(monkeypatch, capfd)


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_same_pairs_give_the_same_bytes(tmp_path, monkeypatch):
    first = write_shards(tmp_path / "a", 11, 4)
    monkeypatch.setattr("time.time", lambda: 10**9)
    second = write_shards(tmp_path / "b", 11, 4)
    assert files_of(first) == files_of(second)
    assert list(files_of(first)) == [*(f"shard-{index:06d}.tar" for index in range(3)), "shards.jsonl"]


@settings(max_examples=20)
@given(
    samples=st.lists(
        st.tuples(st.lists(st.text('猫狗 a\\"\n', min_size=1).filter(str.strip), min_size=1), st.none() | st.text()),
        min_size=1,
        max_size=7,
    ),
    per_shard=st.integers(1, 4),
)
def test_what_is_written_is_read_back(tmp_path_factory, samples, per_shard):
    folder = tmp_path_factory.mktemp("round")
    write_pairs(folder, len(samples))
    lines = [
        {"image": f"{index}.png", "texts": texts, "title": "题", "group": group}
        for index, (texts, group) in enumerate(samples)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    images = ImageSource.open(folder / "images")
    done = convert_pairs(folder / "pairs.jsonl", images, folder / "out", "train", ["title", "texts"], per_shard)
    assert (done.samples, done.shards) == (len(samples), -(-len(samples) // per_shard))
    read = []
    for shard in find_shards([str(folder / "out")]):
        raws = [raw for _, raw in read_samples(shard, range(shard.samples))]
        assert [raw.image for raw in raws] == [png(len(read) + position) for position in range(len(raws))]
        read += [parse_sample(raw, ["title", "texts"]) for raw in raws]
    assert [(sample.fields[1], sample.group) for sample in read] == [
        (tuple(text.strip() for text in texts), group) for texts, group in samples
    ]
    assert [(sample.image, sample.fields[0]) for sample in read] == [
        (f"{index}.png", ("题",)) for index in range(len(samples))
    ]
    assert verify_shards([str(folder / "out")]).problems == []


def test_webdataset_itself_reads_them(tmp_path):
    folder = write_shards(tmp_path, 5, 3)
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    read = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["json"]["texts"] for sample in read] == [[f"样本{index}"] for index in range(5)]
    assert [sample["png"] for sample in read] == [png(index) for index in range(5)]


def test_larger_images_are_made_smaller_and_smaller_ones_are_left(tmp_path):
    write_pairs(tmp_path, 2)
    Image.new("RGB", (40, 20)).save(tmp_path / "images" / "0.png")
    convert_pairs(
        tmp_path / "pairs.jsonl", ImageSource.open(tmp_path / "images"), tmp_path / "out", None, ["texts"], 9, 10
    )
    [shard] = find_shards([str(tmp_path / "out")])
    raws = [raw for _, raw in read_samples(shard, range(2))]
    assert [raw.suffix for raw in raws] == [".jpg", ".png"]
    assert [Image.open(io.BytesIO(raw.image)).size for raw in raws] == [(20, 10), (SIZE, SIZE)]


def test_unreadable_images_are_left_out_and_named(tmp_path):
    write_pairs(tmp_path, 3)
    (tmp_path / "images" / "1.png").write_bytes(b"nothing")
    images = ImageSource.open(tmp_path / "images")
    done = convert_pairs(tmp_path / "pairs.jsonl", images, tmp_path / "out", None, ["texts"], 9)
    assert done.samples == 2
    assert [line.split(": ")[0] for line in done.unreadable] == [str(tmp_path / "images" / "1.png")]


def test_a_folder_of_shards_is_not_written_over(tmp_path):
    folder = write_shards(tmp_path, 3, 2)
    pairs = tmp_path / "pairs"
    with pytest.raises(CcmbError, match=r"shards: this folder holds shards already"):
        convert_pairs(pairs / "pairs.jsonl", ImageSource.open(pairs / "images"), folder, None, ["texts"], 9)


def test_verify_lists_whatever_is_wrong(tmp_path):
    folder = write_shards(tmp_path, 12, 2)
    changed, cut, gone = (folder / f"shard-{index:06d}.tar" for index in (0, 1, 2))
    data = bytearray(changed.read_bytes())
    data[data.index(b"PNG")] ^= 0xFF
    changed.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[:3000])
    gone.unlink()
    write_tar(folder / "shard-000003.tar", {"0.png": png(), "1.json": TEXT})
    write_tar(folder / "more.tar", {})
    result = verify_shards([str(folder)])
    problems = [line.removeprefix(f"{folder}/") for line in result.problems]
    assert result.shards == 6
    for problem in (
        "shard-000000.tar: not the file of the manifest: another checksum",
        "shard-000000.tar/000000000.png: not an image",
        "shard-000001.tar: not the file of the manifest: another checksum (3,000 bytes instead of 10,240)",
        "shard-000001.tar: unexpected end of data after 2 samples; the others are lost",
        "shard-000002.tar: no such file",
        "shard-000003.tar/0: no text",
        "shard-000003.tar/1: no image",
        "more.tar: not in shards.jsonl",
    ):
        assert any(line.startswith(problem) for line in problems), (problem, problems)
    assert not any("shard-000004" in line or "shard-000005" in line for line in problems)


def test_nothing_of_a_hostile_tar_is_unpacked_or_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("bomb").touch, ())

    files = {"../../x.png": png(), "../../x.json": TEXT, "a.pyd": pickle.dumps(Bomb()), "a.png": png(), "a.json": TEXT}
    path = write_tar(tmp_path / "a.tar", files)
    with tarfile.open(path, "a") as tar:
        for kind, name in ((tarfile.SYMTYPE, "l.png"), (tarfile.CHRTYPE, "d.png"), (tarfile.DIRTYPE, "e.png")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    result = verify_shards([str(path)])
    assert (result.samples, result.problems) == (2, [])
    assert sorted(inside.name for inside in tmp_path.iterdir()) == ["a.tar"]


def test_sizes_that_a_header_claims_are_not_believed(tmp_path, monkeypatch):
    monkeypatch.setattr("ccmb.data.shards.read.MAX_BYTES", 100)
    path = write_tar(tmp_path / "a.tar", {"0.png": b"x" * 101, "0.json": TEXT, "1.png": png()[:90], "1.json": TEXT})
    assert "more than the 100 allowed" in verify_shards([str(path)]).problems[0]
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 2**32
    (tmp_path / "b.tar").write_bytes(long.tobuf() + b"x" * 1024)
    assert count_samples(str(tmp_path / "b.tar"))[0] == 0
    assert "a header is damaged" in verify_shards([str(tmp_path / "b.tar")]).problems[0]


@pytest.mark.parametrize("name", ["../a.tar", "/a.tar", "", ".", "..", "x/a.tar", 7, None])
def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path, name):
    line = json.dumps({"name": name, "samples": 3})
    (tmp_path / "shards.jsonl").write_text(json.dumps({"name": "a.tar", "samples": 3}) + "\n" + line)
    with pytest.raises(CcmbError, match=r"shards\.jsonl:2: not a shard's name, samples"):
        read_manifest(str(tmp_path))


def test_shards_are_found_by_folder_glob_and_braces(tmp_path, monkeypatch):
    folder = write_shards(tmp_path, 10, 2)
    (folder / "stray.tar").write_bytes(b"")
    all_items = [Shard(f"{folder}/shard-{index:06d}.tar", 2) for index in range(5)]

    def shards_of(*sources):
        return [Shard(shard.url, shard.samples) for shard in find_shards(sources)]

    assert shards_of(str(folder)) == all_items
    assert shards_of(f"{folder}/shard-*.tar") == all_items
    assert shards_of(f"{folder}/shard-{{000003..000001}}.tar") == all_items[3:0:-1]
    assert shards_of(f"{folder}/shard-000001.tar", str(folder)) == [all_items[1], all_items[0], *all_items[2:]]
    assert shards_of(str(folder / "stray.tar")) == [Shard(f"{folder}/stray.tar")]
    monkeypatch.setenv("CCMB_DATA", str(tmp_path))
    assert shards_of("shards") == all_items
    (folder / "shards.jsonl").unlink()
    assert [shard.name for shard in shards_of("shards")][-2:] == ["shard-000004.tar", "stray.tar"]


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("none-*.tar", CcmbError, r"none-\*\.tar: no shards"),
        ("a-{000..1.tar", UsageError, "the braces do not close"),
        ("nothing://x/a.tar", UsageError, "nothing://x/a.tar: .*nothing"),
        ("pipe:cat a.tar", CcmbError, "no such"),
        (".", CcmbError, r"\.: no shards \(no shards\.jsonl and no \*\.tar in it\)"),
    ],
)
def test_sources_without_shards_are_named(tmp_path, monkeypatch, source, kind, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message):
        count_samples(find_shards([source])[0].url)


def test_samples_are_counted_by_their_headers(tmp_path):
    folder = write_shards(tmp_path, 5, 5)
    path = folder / "shard-000000.tar"
    assert count_samples(str(path)) == (5, None)
    path.write_bytes(path.read_bytes()[: 512 * 4 * 3 + 512])
    count, damage = count_samples(str(path))
    assert count == 4
    assert damage.startswith(f"{path}: ")


def test_the_command_line_converts_and_verifies(tmp_path, command):
    pairs = write_pairs(tmp_path, 6, split="train")
    out = tmp_path / "out"
    done = command("data", "convert", pairs, out, "--images", tmp_path / "images", "--samples-per-shard", 4, "--json")
    assert done.code == 0
    assert json.loads(done.out) == {"shards": 2, "samples": 6, "unreadable": []}
    assert command("data", "verify", out).out == "6 samples in 2 shards; no problems\n"
    write_tar(out / "shard-000001.tar", {})
    result = command("data", "verify", out, "--json")
    assert result.code == 1
    assert len(json.loads(result.out)["problems"]) == 2
    again = command("data", "convert", pairs, out, "--images", tmp_path / "images")
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert "choose another one" in again.err
    missing = command("data", "verify", tmp_path / "none")
    assert missing.code == 1
    assert "no such file" in missing.out
