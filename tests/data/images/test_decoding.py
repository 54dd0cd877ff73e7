"""One way from a file, bytes or a PIL object to upright sRGB, and what is said of files that are no images."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from ccmb.core.errors import CcmbError
from ccmb.data.images.content import HEAD_BYTES, image_format
from ccmb.data.images.decoding import decode, rgb_of
from ccmb.data.images.source import ImageSource, image_of
from ccmb.data.images.transforms import within
from ccmb.datasets.formats.by_basename import NamedImages
from ccmb.search.contact_sheet import MARGIN, SIDE, contact_sheet
from ccmb.search.indexing.image_metadata import thumbnail
from ccmb.search.query import Hit

# Columns are red, green and blue in XYZ of D50, as their specifications print them.
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
WIDE = {
    "Display P3": np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]),
    "Adobe RGB": np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]),
}
GAMMA = 2.19921875  # Adobe's; taken for both here


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def matrix_profile(matrix: np.ndarray) -> bytes:
    """An ICC profile of three primaries and a gamma, by the letter of ICC.1:2001-04."""
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + b"".join(map(fixed, (0.9642, 1.0, 0.8249))),
    }
    for name, column in zip("rgb", matrix.T, strict=True):
        tags[f"{name}XYZ".encode()] = b"XYZ \0\0\0\0" + b"".join(map(fixed, column))
        tags[f"{name}TRC".encode()] = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(GAMMA * 256)) + bytes(2)
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    return head + bytes(128 - len(head)) + table + body


def in_srgb(colour: tuple[int, int, int], matrix: np.ndarray) -> np.ndarray:
    """By hand: linear light, through XYZ, and sRGB's curve."""
    linear = np.linalg.inv(SRGB) @ matrix @ (np.array(colour) / 255) ** GAMMA
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("space", WIDE)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_colour_profiles_are_converted_to_srgb(space, kind):
    image = Image.new("RGB", (16, 16), (180, 90, 60))
    profile = matrix_profile(WIDE[space])
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(image, kind, icc_profile=profile, **options)
    expected = in_srgb(image.getpixel((0, 0)), WIDE[space])
    assert np.abs(expected - (180, 90, 60)).max() > 8, "else nothing would be tested"
    for form in (decode(data), image_of(Image.open(io.BytesIO(data))), image_of(data)):
        np.testing.assert_allclose(form.getpixel((5, 5)), expected, atol=3)
        assert form.info == {}
        assert rgb_of(form).getpixel((5, 5)) == form.getpixel((5, 5)), "nothing is converted twice"


def test_a_profile_of_srgb_leaves_every_pixel_as_it_is():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    data = saved(Image.fromarray(pixels), "PNG", icc_profile=profile)
    np.testing.assert_array_equal(np.asarray(decode(data)), pixels)


@pytest.mark.parametrize("profile", [b"nonsense", matrix_profile(WIDE["Adobe RGB"])[:200]])
def test_damaged_profiles_and_those_of_other_colours_do_not_count(profile):
    grey = Image.new("L", (4, 4), 77)
    assert decode(saved(grey, "PNG", icc_profile=profile)).getpixel((0, 0)) == (77, 77, 77)
    assert decode(saved(grey, "PNG", icc_profile=matrix_profile(SRGB))).getpixel((0, 0)) == (77, 77, 77)


def test_transparent_pixels_of_a_wide_profile_are_converted_before_they_meet_white():
    profile = matrix_profile(WIDE["Adobe RGB"])
    data = saved(Image.new("RGBA", (4, 4), (180, 90, 60, 128)), "PNG", icc_profile=profile)
    expected = (in_srgb((180, 90, 60), WIDE["Adobe RGB"]) * 128 + 255 * 127) / 255
    np.testing.assert_allclose(decode(data).getpixel((0, 0)), expected, atol=3)


def turned(orientation: int) -> tuple[Image.Image, dict[str, object]]:
    image = Image.new("RGB", (8, 4), (10, 20, 30))
    image.paste((200, 100, 50), (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image, {"exif": exif}


def deep(kind: np.dtype, white: float) -> Image.Image:
    return Image.fromarray(np.linspace(0, white, 32).reshape(4, 8).astype(kind))


FILES = {
    "turned.png": (*turned(6), "PNG"),
    "mirrored.jpg": (*turned(5), "JPEG"),
    "float.tif": (deep(np.float32, 1), {}, "TIFF"),
    "bytes as floats.tif": (deep(np.float32, 255), {}, "TIFF"),
    "whole.tif": (deep(np.int32, 65535), {}, "TIFF"),
    "short.png": (deep(np.uint16, 65535), {}, "PNG"),
    "grey and alpha.png": (Image.new("LA", (8, 4), (100, 128)), {}, "PNG"),
    "cmyk.tif": (Image.new("CMYK", (8, 4), (0, 255, 255, 0)), {}, "TIFF"),
    "lab.tif": (Image.new("LAB", (8, 4), (137, 128, 128)), {}, "TIFF"),
}
LINEAR = np.linspace(0, 255, 32).reshape(4, 8)


@pytest.mark.parametrize("name", FILES)
def test_a_path_bytes_and_a_pil_object_give_the_same_pixels(tmp_path, name):
    image, options, kind = FILES[name]
    data = saved(image, kind, **options)
    (tmp_path / name).write_bytes(data)
    by_path = np.asarray(image_of(tmp_path / name))
    np.testing.assert_array_equal(np.asarray(image_of(data)), by_path)
    np.testing.assert_array_equal(np.asarray(image_of(Image.open(tmp_path / name))), by_path)
    if not options:
        np.testing.assert_array_equal(np.asarray(image_of(image)), by_path)
        if image.mode[0] in "IF":
            np.testing.assert_allclose(by_path[:, :, 0], LINEAR, atol=1)


def test_of_a_turned_image_the_pixels_lie_as_exif_says():
    image, options = turned(6)  # to be turned by 90 degrees clockwise: what was left is up
    seen = image_of(Image.open(io.BytesIO(saved(image, "PNG", **options))))
    assert (seen.size, seen.getpixel((0, 0)), seen.getpixel((0, 7))) == ((4, 8), (200, 100, 50), (10, 20, 30))
    assert rgb_of(seen).size == (4, 8)


def test_lab_is_read_as_the_colour_it_is():
    # L* = 53.7 without a* and b* is a grey of sRGB 129, by CIE's formula and sRGB's curve
    np.testing.assert_allclose(decode(saved(FILES["lab.tif"][0], "TIFF")).getpixel((0, 0)), (129,) * 3, atol=2)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animated_image_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    data = saved(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    np.testing.assert_allclose(decode(data).getpixel((0, 0)), (250, 0, 0), atol=3)


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "AVIF"])
def test_formats_are_known_by_their_first_bytes_and_decode(kind):
    data = saved(Image.new("RGB", (9, 5), (250, 0, 0)), kind)
    assert image_format(data[:HEAD_BYTES]) == {"MPO": "JPEG"}.get(kind, kind)
    np.testing.assert_allclose(decode(data).getpixel((0, 0)), (250, 0, 0), atol=6)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<!DOCTYPE html>\n<html>404</html>", "not an image but a web page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image but an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not an image but a pointer of Git LFS; run"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "HEIC .* pip install pillow-heif"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "JXL"),
        (b"%PDF-1.7\n", "not an image but a PDF"),
    ],
    ids=["page", "svg", "lfs", "heic", "jxl", "pdf"],
)
def test_what_is_no_image_is_called_what_it_is(data, reason):
    with pytest.raises(ValueError, match=reason):
        decode(data)


def test_a_truncated_pil_object_is_one_clear_error():
    image = Image.open(io.BytesIO(saved(Image.effect_noise((64, 64), 50), "JPEG")[:900]))
    with pytest.raises(CcmbError, match=r"a PIL object of mode L: .*truncated"):
        image_of(image)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 2000)])
def test_very_thin_images_are_made_smaller_by_all_who_do(size):
    image = Image.new("RGB", size, "red")
    small = Image.open(io.BytesIO(thumbnail(image)))
    assert (max(small.size), min(small.size)) == (320, 1)
    assert min(within(image, 10).size) == 1


def test_very_thin_hits_are_drawn_on_the_contact_sheet(tmp_path):
    hits = []
    for position, size in enumerate([(1, 5000), (5000, 1)]):
        Image.new("RGB", size, "red").save(tmp_path / f"{position}.png")
        hits.append(Hit(key=str(position), source=str(tmp_path), name=f"{position}.png", score=0.5, cosine=0.5))
    contact_sheet(hits, tmp_path / "sheet.png")
    red = np.all(np.asarray(Image.open(tmp_path / "sheet.png")) == (255, 0, 0), axis=2)
    tall, wide = (red[MARGIN : MARGIN + SIDE, left : left + SIDE] for left in (MARGIN, 2 * MARGIN + SIDE))
    assert (tall.any(axis=1).sum(), tall.any(axis=0).sum()) == (SIDE, 1)
    assert (wide.any(axis=0).sum(), wide.any(axis=1).sum()) == (SIDE, 1)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1.jpg", "1.JPG"), ("1", "1.JPG"), ("2.jpg", "2.jfif"), ("2.jpeg", "2.jfif"), ("sub/3.jpg", "3"), ("3", "3"),
        ("4.jpg", "4.jpg"), ("5.jpg", None), ("6.png", None),
    ],
)  # fmt: skip
def test_files_of_data_sets_are_found_whatever_their_ending(tmp_path, written, meant):
    data = saved(Image.new("RGB", (4, 4)), "JPEG")
    for name in ("1.JPG", "2.jfif", "3", "4.jpg", "4.png", "6.gif"):
        (tmp_path / name).write_bytes(data)
    assert NamedImages(ImageSource.open(tmp_path)).resolve(written) == meant
