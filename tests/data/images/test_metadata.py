"""Metadata leaves stored images, and nothing of the image does."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from ccmb.corpus.download.filters import ImageFilters
from ccmb.corpus.download.resize import StoredForm, prepare
from ccmb.data.images.decoding import decode
from ccmb.data.images.metadata import without_metadata
from ccmb.data.images.source import ImageSource
from ccmb.data.shards.locate import find_shards
from ccmb.data.shards.read import read_samples
from ccmb.data.shards.write import convert_pairs
from tests.helpers.shard_folders import write_pairs

PLACE = "N 48 51 29"
OWNER = "Somebody"
# Smooth, so that little is lost where it is written anew, and unlike itself however it is turned.
_Y, _X = np.mgrid[:24, :16]
IMAGE = Image.fromarray(np.stack([_X * 15, _Y * 10, (_X + _Y) * 3], axis=-1).astype(np.uint8))


def exif(orientation: int = 1) -> Image.Exif:
    values = Image.Exif()
    values[0x0112], values[0x013B] = orientation, OWNER
    values.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.0), 29: PLACE})
    return values


def written(kind: str, orientation: int = 1, **options: object) -> bytes:
    file = io.BytesIO()
    IMAGE.save(file, kind, exif=exif(orientation), **options)
    return file.getvalue()


def jpeg(orientation: int = 1, **options: object) -> bytes:
    """With EXIF, XMP, IPTC, a comment, a profile, and after the end what phones append."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = written("JPEG", orientation, comment=PLACE, icc_profile=profile, xmp=f"<x>{PLACE}</x>".encode(), **options)
    iptc = b"Photoshop 3.0\0" + PLACE.encode()
    return data[:2] + b"\xff\xed" + (len(iptc) + 2).to_bytes(2, "big") + iptc + data[2:] + written("JPEG")


def png() -> bytes:
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("Comment", PLACE, zip=True)
    texts.add_text("Location", PLACE)
    return written("PNG", pnginfo=texts)


FORMS = {
    "jpeg": jpeg(),
    "progressive": jpeg(progressive=True),
    "restarts": jpeg(restart_marker_blocks=1),
    "png": png(),
    "webp": written("WEBP", lossless=True, xmp=PLACE.encode()),
    "mpo": written("MPO", save_all=True, append_images=[IMAGE]),
}


@pytest.mark.parametrize("name", FORMS)
def test_metadata_is_taken_out_without_a_loss(name):
    before = FORMS[name]
    after = without_metadata(before)
    assert after is not None
    for word in (PLACE, OWNER, "Exif", "exif", "EXIF", "XMP ", "Photoshop", "zTXt", "iTXt", "MPF"):
        assert word.encode() not in after, word
    was, becomes = (Image.open(io.BytesIO(data)) for data in (before, after))
    np.testing.assert_array_equal(np.asarray(becomes), np.asarray(was))
    assert len(becomes.getexif()) == 0
    assert becomes.info.get("icc_profile") == was.info.get("icc_profile")
    assert without_metadata(after) == after


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_what_holds_no_metadata_keeps_every_byte(kind):
    file = io.BytesIO()
    IMAGE.save(file, kind)
    assert without_metadata(file.getvalue()) == file.getvalue()


@pytest.mark.parametrize("length", range(3, 400, 7))
def test_a_cut_file_is_no_error(length):
    assert without_metadata(jpeg()[:length]) is None or length > 20


def stored(tmp_path, data, **options):
    pairs = write_pairs(tmp_path, 1)
    (tmp_path / "images" / "0.png").write_bytes(data)  # the name is no proof of the format
    convert_pairs(pairs, ImageSource.open(tmp_path / "images"), tmp_path / "out", None, ["texts"], 9, **options)
    [(_, raw)] = read_samples(find_shards([str(tmp_path / "out")])[0], [0])
    return raw


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_shards_hold_no_place_and_show_each_image_upright(tmp_path, kind, orientation):
    data = written(kind, orientation)
    raw = stored(tmp_path, data)
    assert PLACE.encode() not in raw.image
    assert OWNER.encode() not in raw.image
    plain = Image.open(io.BytesIO(raw.image))
    assert plain.getexif().get(0x0112, 1) == 1
    upright = np.asarray(decode(data), dtype=np.int16)
    loss = np.abs(np.asarray(plain.convert("RGB"), dtype=np.int16) - upright)
    written_anew = kind == "AVIF" or (orientation > 1 and kind in ("JPEG", "WEBP"))
    assert loss.mean() < 3 if written_anew else loss.max() == 0
    endings = {"JPEG": ".jpg", "WEBP": ".webp" if orientation == 1 else ".jpg", "AVIF": ".jpg"}
    assert raw.suffix == endings.get(kind, ".png")


def test_metadata_is_kept_where_that_is_asked_for(tmp_path):
    assert stored(tmp_path, jpeg(6), keep_metadata=True).image == jpeg(6)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_corpus_stores_small_jpegs_without_metadata_and_upright(orientation):
    data, filters = jpeg(orientation), ImageFilters(min_short_side=0, max_aspect_ratio=1000, min_gray_std=0)
    prepared = prepare(data, StoredForm(), filters)
    assert prepared.status == "ok"
    assert PLACE.encode() not in prepared.image
    plain = Image.open(io.BytesIO(prepared.image))
    loss = np.abs(np.asarray(plain, dtype=np.int16) - np.asarray(decode(data), dtype=np.int16))
    assert loss.max() == 0 if orientation == 1 else loss.mean() < 5
    assert prepare(data, StoredForm(keep_metadata=True), filters).image == data
