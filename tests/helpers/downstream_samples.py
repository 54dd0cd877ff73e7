"""Small data sets in the published layouts, written byte for byte, each with images that differ."""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from PIL import Image


@cache
def jpeg(colour: int) -> bytes:
    """An image whose colour tells it from others."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (colour * 40 % 256, colour * 97 % 256, 255 - colour * 13 % 256)).save(file, "JPEG")
    return file.getvalue()


def packed(colour: int, url_safe: bool = False) -> bytes:
    """The image in base64."""
    return (base64.urlsafe_b64encode if url_safe else base64.b64encode)(jpeg(colour))


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def lines(*values: object, end: str = "\n") -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + end for value in values).encode()


def write_matching(folder: Path, stem: str = "long_itm", name: str = "ICM") -> Path:
    """ICM or IQM, with the pack of images beside the folder of the set."""
    pack = folder / "IQR_IQM_ICR_ICM_images"
    for number in (1, 2, 3):
        put(pack / f"{number}.jpg", jpeg(number))
    train = [
        {"text": "一只橘猫趴在窗台上晒太阳", "image_path": "IQR_IQM_ICR_ICM_images/1.jpg", "label": 1},
        {"text": "海边的日落", "image_path": "IQR_IQM_ICR_ICM_images/1.jpg", "label": 0},
        {"text": "红色跑车", "image_path": "2.jpg", "label": 1},
    ]
    put(folder / name / "train" / f"{stem}_train.json", lines(*train))
    val = [{"text": "雪山", "image_path": "3.jpg", "label": 0}, {"text": "湖面", "image_path": "3.jpg", "label": 1}]
    put(folder / name / "val" / f"{stem}_val.json", lines(*val))
    return folder / name


def write_zero_retrieval(folder: Path, stem: str = "short_itr", name: str = "IQR") -> Path:
    """ICR or IQR: two queries of one image among them."""
    pack = folder / "IQR_IQM_ICR_ICM_images"
    for number in (1, 2, 3):
        put(pack / f"{number}.jpg", jpeg(number))
    train = [
        {"text": "橘猫", "image_path": "IQR_IQM_ICR_ICM_images/1.jpg"},
        {"text": "窗台上的猫", "image_path": "1.jpg"},
        {"text": "红色跑车", "image_path": "2.jpg"},
    ]
    put(folder / name / "train" / f"{stem}_train.json", lines(*train))
    put(folder / name / "val" / f"{stem}_val.json", lines({"text": "雪山", "image_path": "3.jpg"}))
    return folder / name


def write_cna(folder: Path) -> Path:
    put(folder / "train" / "flickr30k_cna_train.txt", "11.jpg#0\t两个男孩在踢球\n11.jpg#1\t草地上的孩子\n".encode())
    put(folder / "val" / "flickr30k_cna_val.txt", "12.jpg#0\t一条狗\n".encode())
    put(folder / "test" / "flickr30k_cna_test.txt", "13.jpg#0\t雪地里的人\n13.jpg#1\t滑雪者\n".encode())
    for number in (11, 12, 13):
        put(folder / "flickr30k-images" / f"{number}.jpg", jpeg(number))
    return folder


def write_flickr_cn(folder: Path) -> Path:
    """Flickr30k-CN: a caption file for each split; that of the training split is cut into marked words."""
    train = "21.jpg#zhb#0 两个:m 男孩:n 踢:v 球:n\n21.jpg#zhb#1 草地:n 上:f 的:uj 孩子:n\n"
    put(folder / "zhbbosontrain" / "seg.flickr30kzhbbosontrain.caption.txt", train.encode())
    put(folder / "zhbbosonval" / "seg.flickr30kzhbbosonval.caption.txt", "22.jpg#zhb#0 一:m 条:q 狗:n\n".encode())
    put(folder / "zhmbosontest" / "flickr30kzhmbosontest.caption.txt", "23.jpg#zhm#0 滑雪的人\n".encode())
    for number in (21, 22, 23):
        put(folder / "images" / f"{number}.jpg", jpeg(number))
    return folder


def write_coco_cn(folder: Path) -> Path:
    """COCO-CN: caption files over all splits, lists of images without suffix."""
    written = "\n".join(
        ["COCO_train2014_000000000031#zhc#0\t一盘水果", "COCO_val2014_000000000032#zhc#0\t一列火车",
         "COCO_val2014_000000000033#zhc#0\t两只斑马", "COCO_val2014_000000000033#zhc#1\t草原上的斑马"]
    )  # fmt: skip
    put(folder / "imageid.human-written-caption.txt", written.encode())
    put(folder / "imageid.human-written-caption.bosonseg.txt", written.replace("一盘", "一:m 盘:q ").encode())
    put(folder / "imageid.manually-translated-caption.txt", "COCO_val2014_000000000033#zhm#0\t斑马\n".encode())
    put(folder / "coco-cn_train.txt", b"COCO_train2014_000000000031\n")
    put(folder / "coco-cn_val.txt", b"COCO_val2014_000000000032\n")
    put(folder / "coco-cn_test.txt", b"COCO_val2014_000000000033\n")
    for number, kind in ((31, "train"), (32, "val"), (33, "val")):
        put(folder / "images" / f"{kind}2014" / f"COCO_{kind}2014_0000000000{number}.jpg", jpeg(number))
    return folder


def write_muge(folder: Path) -> Path:
    """MUGE: several images of one query, several queries of one image, both forms of file names and keys."""
    for split, first in (("train", 41), ("valid", 45)):
        pack = b"".join(b"%d\t%s\n" % (n, packed(n, url_safe=n % 2 == 0)) for n in range(first, first + 3))
        put(folder / f"{split}_imgs.tsv", pack)
        texts = [
            {"text_id": first * 10, "text": "胖妹妹夏装", "image_ids": [first, first + 1]},
            {"text_id": first * 10 + 1, "text": "纯棉四件套", "image_ids": [first + 1]},
        ]
        put(folder / f"{split}_texts.jsonl", lines(*texts))
    put(folder / "MR_test_imgs.tsv", b"49\t%s\n" % packed(49))
    put(folder / "MR_test_queries.jsonl", lines({"query_id": 490, "query_text": "皮鞋 男"}))
    return folder


def write_aic(folder: Path) -> Path:
    for split, number in (("train", 51), ("validation", 53)):
        inner = folder / f"ai_challenger_caption_{split}_20170902"
        entries = [
            {"url": "http://x/y.jpg", "image_id": f"{n}.jpg", "caption": [f"第{n}张图第{k}句" for k in range(5)]}
            for n in (number, number + 1)
        ]
        put(inner / f"caption_{split}_annotations_20170902.json", json.dumps(entries).encode())
        for n in (number, number + 1):
            put(inner / f"caption_{split}_images_20170902" / f"{n}.jpg", jpeg(n))
    return folder


def write_ecommerce(folder: Path) -> Path:
    for split, number in (("train", 61), ("val", 63)):
        put(folder / f"T2I_{split}.img.tsv", b"".join(b"%d\t%s\n" % (n, packed(n)) for n in (number, number + 1)))
        text = "".join(f"{n}\t商品{n} 连衣裙\n" for n in (number, number + 1))
        put(folder / f"T2I_{split}.text.tsv", text.encode())
    put(folder / "T2I_test.text.tsv", "65\t男士皮鞋\n".encode())
    return folder


def write_imagenet(folder: Path) -> Path:
    for split, number in (("train", 71), ("val", 75)):
        for offset, name in enumerate(("n01440764", "n01443537")):
            put(folder / split / name / f"{name}_{number}.JPEG", jpeg(number + offset))
            put(folder / split / name / f"{name}_{number + 2}.JPEG", jpeg(number + offset + 2))
    put(folder / "classes.txt", "n01440764\t丁鲷\nn01443537\t金鱼\t鲫鱼\n".encode())
    put(folder / "templates.txt", "{}的照片。\n一张{}的照片。\n".encode())
    return folder


def write_flickr8k(folder: Path) -> Path:
    rows = [
        {"image": "81.jpg", "split": "train", "captions": ["一只狗", "跑步的狗"], "mt_baidu": ["一条狗在跑"]},
        {"image": "82.jpg", "split": "val", "captions": ["海边的人"], "mt_baidu": ["人在海边"]},
    ]
    put(folder / "captions.jsonl", lines(*rows))
    for number in (81, 82):
        put(folder / "images" / f"{number}.jpg", jpeg(number))
    return folder


def write_xm3600(folder: Path) -> Path:
    """XM3600: an object of captions for each language, of which one has two."""
    captions = [
        {"image/key": f"00{n}", "image/locale": "zh", "zh": {"caption": [f"第{n}张", f"图{n}"]},
         "en": {"caption": [f"number {n}"], "caption/tokenized": [f"number {n}"]}, "fil": {"caption": [f"bilang {n}"]}}
        for n in (61, 62)
    ]  # fmt: skip
    put(folder / "captions.jsonl", lines(*captions))
    for n in (61, 62):
        put(folder / "images" / f"00{n}.jpg", jpeg(n))
    return folder


def write_line_files(folder: Path, names: str, files: dict[str, tuple[str, str]]) -> Path:
    """XTD10, XTD200 and Flickr30k-200: names of images, and texts beside them, line by line."""
    images = [f"COCO_train2014_0000000000{n}.jpg" for n in (63, 64)]
    put(folder / names, "".join(f"{name}\n" for name in images).encode())
    for path, texts in files.items():
        put(folder / path, "".join(f"{text}\n" for text in texts).encode())
    for name, n in zip(images, (63, 64), strict=True):
        put(folder / "images" / name, jpeg(n))
    return folder


def write_xtd10(folder: Path) -> Path:
    files = {"test_1kcaptions_zh.txt": ("猫", "狗"), "test_1kcaptions_jp.txt": ("ネコ", "イヌ")}
    return write_line_files(folder, "test_image_names.txt", files)


def write_flores(folder: Path) -> Path:
    files = {"zho_Hans.txt": ("猫", "狗"), "eng_captions.txt": ("cat", "dog"), "fra_Latn.txt": ("chat", "chien")}
    return write_line_files(folder, "image_names.txt", files)


def write_xflickrco(folder: Path) -> Path:
    """xFlickr&CO: photographs of Flickr30k and of MS-COCO, and Chinese translated into English."""
    named = (("1007129816.jpg", 65), ("COCO_val2014_000000000066.jpg", 66))
    for language, file, words in (("zh", "test", "图"), ("de", "test", "Bild"), ("zh", "test_gmt", "picture")):
        rows = [{"sentences": [f"{words} {n}"], "id": n, "img_path": name} for name, n in named]
        put(folder / "annotations" / language / f"{file}.jsonl", lines(*rows))
    for name, n in named:
        put(folder / "images" / name, jpeg(n))
    return folder


def write_multi30k(folder: Path) -> Path:
    """Multi30k: translations, packed or not, and five independent descriptions of the split test_2016 alone."""
    for split, ids in (("train", (71, 72)), ("val", (73,)), ("test_2016_flickr", (74,))):
        put(folder / f"data/task1/image_splits/{split}.txt", "".join(f"10000000{n}.jpg\n" for n in ids).encode())
        for language in ("en", "de"):
            text = "".join(f"{language} {n}\n" for n in ids).encode()
            put(folder / f"data/task1/raw/{split}.{language}.gz", gzip.compress(text, mtime=0))
        put(folder / f"data/task1/raw/{split}.fr", "".join(f"fr {n}\n" for n in ids).encode())
        for n in ids:
            put(folder / "images" / f"10000000{n}.jpg", jpeg(n))
    put(folder / "data/task2/image_splits/test_2016_images.txt", b"1000000074.jpg#7\n")
    for number in range(1, 6):
        put(folder / f"data/task2/raw/test_2016.{number}.de", f"eigen {number}\n".encode())
    return folder


def write_wit(folder: Path) -> Path:
    """WIT: images by their number in it, or by their URLs."""
    for split, first in (("val", 81), ("test", 83)):
        for language in ("en", "ja"):
            base = {"caption_reference_description": f"Luis ({language})", "page_url": "https://x/y"}
            rows = [
                base | {"language": language, "image_url": f"https://x/a/{first}.jpg", "wit_ix": f"wit-{first}"},
                base | {"language": language, "image_url": f"http://x/b/%E5%9B%BE%20{first + 1}.jpg?w=3"},
            ]
            put(folder / f"{split}_{language}.jsonl", lines(*rows))
        put(folder / "images" / f"wit-{first}.jpg", jpeg(first))
        put(folder / "images" / f"图 {first + 1}.jpg", jpeg(first + 1))
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "flickr30k-cn": write_flickr_cn,
    "coco-cn": write_coco_cn,
    "aic-icc": write_aic,
    "muge": write_muge,
    "flickr30k-cna": write_cna,
    "icr": lambda folder: write_zero_retrieval(folder, "long_itr", "ICR"),
    "iqr": write_zero_retrieval,
    "icm": write_matching,
    "iqm": lambda folder: write_matching(folder, "short_itm", "IQM"),
    "ecommerce-t2i": write_ecommerce,
    "imagenet": write_imagenet,
    "flickr8k-cn": write_flickr8k,
    "xm3600": write_xm3600,
    "xtd10": write_xtd10,
    "xtd200": write_flores,
    "flickr30k-200": write_flores,
    "xflickrco": write_xflickrco,
    "multi30k": write_multi30k,
    "wit": write_wit,
}
