"""Images from folders and tars: what is read, how it looks, and what is refused with one line."""

import bz2
import gzip
import io
import os
import pickle
import random
import struct
import tarfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from ccmb.core.errors import CcmbError
from ccmb.data.images import source as images_module
from ccmb.data.images.source import ImageSource, UnreadableImageError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


RED = encoded(Image.new("RGB", (4, 3), (255, 0, 0)))
NOISE = encoded(Image.effect_noise((64, 64), 50))
BLUE = encoded(Image.new("RGB", (4, 3), (0, 0, 255)))


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def make_folder(path: Path, members: dict[str, bytes]) -> Path:
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.fixture(params=[make_folder, make_tar])
def store(request, tmp_path):
    """Makes Images of the given files, once as a folder and once as a tar."""
    return lambda members: ImageSource.open(request.param(tmp_path / "pictures", members))


def test_names_are_sorted_relative_paths_of_visible_images(store):
    visible, others = ["b.JPG", "a/c.png", "a.webp"], ["notes.txt", ".hidden.png", ".thumbnails/d.png"]
    images = store(dict.fromkeys(visible + others, RED))
    assert images.names == ["a.webp", "a/c.png", "b.JPG"]


def test_raw_and_load_give_the_named_image_in_any_order(store):
    images = store({"夏天/红.png": RED, "夏天/蓝.png": BLUE})
    assert images.raw("夏天/蓝.png") == BLUE
    assert images.load("夏天/红.png").getpixel((0, 0)) == (255, 0, 0)
    assert images.load("./夏天/蓝.png").getpixel((3, 2)) == (0, 0, 255)


def test_an_image_without_suffix_is_one_by_its_content(store):
    images = store(
        {"picture": RED, "photo.jpg!large": BLUE, "a.jfif": RED, "b.JPE": RED, "text": b"hello", "c.tmp": RED}
    )
    assert images.names == ["a.jfif", "b.JPE", "photo.jpg!large", "picture"]
    assert images.load("picture").mode == "RGB"


@pytest.mark.parametrize("name", ["", ".", "..", "../x.png", "a/../../x.png", "/etc/hostname", "a\0.png"])
def test_names_that_lead_outside_are_refused(store, name, tmp_path):
    (tmp_path / "x.png").write_bytes(RED)
    with pytest.raises(UnreadableImageError, match="not a name inside"):
        store({"a/b.png": RED}).raw(name)


def test_symbolic_links_that_lead_outside_are_followed(tmp_path):
    """As in the hub's cache, whose snapshots are links to blobs, and with DVC and git-annex."""
    blobs = make_folder(tmp_path / "blobs", {"0f3a": RED, "17bc": BLUE})
    folder = make_folder(tmp_path / "in", {"a.png": BLUE})
    (folder / "inner.png").symlink_to("a.png")
    (folder / "outer.png").symlink_to("../blobs/0f3a")
    (folder / "all").symlink_to(blobs)
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "up").symlink_to("..")
    (folder / "gone.png").symlink_to(".git/annex/objects/gone.png")
    images = ImageSource.open(folder)
    assert images.names == ["a.png", "all/0f3a", "all/17bc", "gone.png", "inner.png", "loop.png", "outer.png"]
    assert [images.raw(name) for name in ("inner.png", "outer.png", "all/17bc")] == [BLUE, RED, BLUE]
    with pytest.raises(UnreadableImageError, match=r"gone\.png: a link to .*, which is not there; git annex get"):
        images.raw("gone.png")
    with pytest.raises(UnreadableImageError, match="not a name inside"):
        images.raw("../blobs/0f3a")


def test_names_of_either_unicode_form_find_the_file(store):
    images = store({"cafe\u0301.png": RED, "\u00e9.png": BLUE})
    assert images.raw("caf\u00e9.png") == RED
    assert images.raw("e\u0301.png") == BLUE


def test_links_within_a_tar_are_read_as_the_files_they_name(tmp_path):
    path = make_tar(tmp_path / "p.tar", {"a/b.png": RED})
    with tarfile.open(path, "a") as tar:
        for kind, name, to in (
            (tarfile.LNKTYPE, "hard.png", "a/b.png"),
            (tarfile.SYMTYPE, "a/soft.png", "b.png"),
            (tarfile.SYMTYPE, "again.png", "a/soft.png"),
            (tarfile.SYMTYPE, "out.png", "../../etc/passwd"),
            (tarfile.SYMTYPE, "round.png", "round.png"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, to
            tar.addfile(info)
    images = ImageSource.open(path)
    assert images.names == ["a/b.png", "a/soft.png", "again.png", "hard.png"]
    assert {images.raw(name) for name in images.names} == {RED}


def test_links_and_sparse_files_of_a_tar_are_not_images(tmp_path):
    path = tmp_path / "p.tar"
    with tarfile.open(path, "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo(f"{kind!r}.png")
            info.type, info.linkname = kind, "/etc/hostname"
            tar.addfile(info)
    assert ImageSource.open(path).names == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (RED[:40], "not an image, or damaged"),
        (NOISE[:2000], "damaged"),
        (encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")[:900], "damaged .*truncated"),
    ],
    ids=["empty", "text", "postscript", "no header", "no end", "half"],
)
def test_unreadable_images_say_file_and_reason_in_one_line(store, data, reason):
    with pytest.raises(UnreadableImageError, match=rf"pictures/坏.png: {reason}") as caught:
        store({"坏.png": data}).load("坏.png")
    assert "\n" not in str(caught.value)


def test_a_missing_image_is_named(store):
    with pytest.raises(UnreadableImageError, match=r"pictures/b\.png: no such image"):
        store({"a.png": RED}).load("b.png")


def test_messages_stay_one_line_of_unicode_whatever_the_name(store):
    with pytest.raises(UnreadableImageError) as caught:
        store({"a.png": RED}).load("b\nc\udcff.png")
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_too_many_pixels_are_refused_before_decoding(store, side):
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = RED[:12] + header + struct.pack(">I", zlib.crc32(header)) + RED[33:]
    with pytest.raises(UnreadableImageError, match="80,000,000 pixels"):
        store({"bomb.png": bomb}).load("bomb.png")


def test_too_many_bytes_are_refused(store, monkeypatch):
    images = store({"a.png": RED})
    monkeypatch.setattr(images_module, "MAX_BYTES", len(RED))
    assert images.raw("a.png") == RED
    monkeypatch.setattr(images_module, "MAX_BYTES", len(RED) - 1)
    with pytest.raises(UnreadableImageError, match="bytes are more than"):
        images.raw("a.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_image_without_permission_is_unreadable(tmp_path):
    folder = make_folder(tmp_path / "p", {"a.png": RED})
    (folder / "a.png").chmod(0)
    with pytest.raises(UnreadableImageError, match="Permission denied"):
        ImageSource.open(folder).load("a.png")


def test_exif_orientation_is_applied_and_damaged_exif_is_passed_over(store):
    image = Image.new("RGB", (8, 4), "white")
    exif = Image.Exif()
    exif[0x0112] = 6
    images = store(
        {
            "turned.jpg": encoded(image, "JPEG", exif=exif),
            "broken.jpg": encoded(image, "JPEG", exif=b"Exif\0\0 nonsense"),
        }
    )
    assert images.load("turned.jpg").size == (4, 8)
    assert images.load("broken.jpg").size == (8, 4)


def test_every_mode_becomes_rgb(store):
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    deep = Image.fromarray(np.full((4, 4), 0x8080, dtype=np.uint16))
    real = Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32))
    cases = {
        "alpha.png": (encoded(half), (255, 127, 127)),
        "palette.png": (encoded(palette), (10, 200, 30)),
        "transparent.png": (encoded(palette, transparency=1), (255, 255, 255)),
        "grey.png": (encoded(Image.new("L", (4, 4), 77)), (77, 77, 77)),
        "bits.png": (encoded(Image.new("1", (4, 4), 1)), (255, 255, 255)),
        "deep.png": (encoded(deep), (128, 128, 128)),
        "real.tif": (encoded(real, "TIFF"), (128, 128, 128)),
        "cmyk.jpg": (encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
    }
    images = store({name: data for name, (data, _) in cases.items()})
    for name, (_, expected) in cases.items():
        image = images.load(name)
        assert image.mode == "RGB", name
        np.testing.assert_allclose(image.getpixel((0, 0)), expected, atol=2, err_msg=name)


def test_pickled_and_forked_copies_read_the_same(store):
    members = {f"{n:02}.png": encoded(Image.new("RGB", (2, 2), (n, n, n))) for n in range(20)}
    images = store(members)
    assert pickle.loads(pickle.dumps(images)).raw("03.png") == members["03.png"]

    class Values:
        def __len__(self) -> int:
            return len(members)

        def __getitem__(self, index: int) -> int:
            return images.load(f"{index:02}.png").getpixel((0, 0))[0]

    assert [int(v) for batch in DataLoader(Values(), 4, num_workers=2) for v in batch] == list(range(20))


def test_a_missing_place_is_one_clear_error(tmp_path):
    with pytest.raises(CcmbError, match=r"nowhere: no such folder or tar"):
        ImageSource.open(tmp_path / "nowhere")


def test_a_gzipped_tar_is_read_and_others_are_refused_with_the_fix(tmp_path):
    plain = make_tar(tmp_path / "p.tar", {"a.png": RED, "b": BLUE})
    path = tmp_path / "p.tar.gz"
    path.write_bytes(gzip.compress(plain.read_bytes()))
    images = ImageSource.open(path)
    assert (images.names, images.raw("b")) == (["a.png", "b"], BLUE)
    with pytest.raises(UnreadableImageError, match=r"p\.tar\.gz/c\.png: no such image"):
        images.raw("c.png")
    path.write_bytes(gzip.compress(plain.read_bytes())[:-20])
    with pytest.raises(CcmbError, match=r"p\.tar\.gz: not a whole gzip"):
        ImageSource.open(path)
    path.write_bytes(bz2.compress(plain.read_bytes()))
    with pytest.raises(CcmbError, match="compressed; decompress it first"):
        ImageSource.open(path)


def test_a_tar_cut_anywhere_before_its_end_marker_is_refused(tmp_path):
    whole = make_tar(tmp_path / "p.tar", {"a.png": RED, "b.png": BLUE}).read_bytes()
    path = tmp_path / "cut.tar"
    for length in [0, 1, 511, 512, 700, 1024, 1100, 1536, 2000, 2048]:
        path.write_bytes(whole[:length])
        with pytest.raises(CcmbError, match=r"cut\.tar: not a readable tar"):
            ImageSource.open(path)


def test_a_tar_cut_after_it_was_opened_gives_an_unreadable_image(tmp_path):
    path = make_tar(tmp_path / "p.tar", {"a.png": RED})
    images = ImageSource.open(path)
    path.write_bytes(path.read_bytes()[:530])
    with pytest.raises(UnreadableImageError, match="cut short"):
        images.raw("a.png")


def test_of_equal_names_in_a_tar_the_last_counts(tmp_path):
    path = make_tar(tmp_path / "p.tar", {"a.png": RED, "./a.png": BLUE})
    assert ImageSource.open(path).raw("a.png") == BLUE
    assert ImageSource.open(path).repeated == 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_random_damage_is_an_error_of_ours_or_harmless(tmp_path_factory, seed):
    rng = random.Random(seed)
    folder = tmp_path_factory.mktemp("damage")
    members = {"a.png": RED, "b.jpg": encoded(Image.new("RGB", (9, 9)), "JPEG")}
    data = bytearray(make_tar(folder / "p.tar", members).read_bytes())
    for _ in range(rng.randint(1, 30)):
        data[rng.randrange(2600)] = rng.randrange(256)
    (folder / "p.tar").write_bytes(data)
    with suppress(CcmbError):
        images = ImageSource.open(folder / "p.tar")
        for name in images.names:
            with suppress(UnreadableImageError):
                assert images.load(name).mode == "RGB"
