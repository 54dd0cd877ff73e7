"""The downstream data sets, read in their published layouts, with the odd cases that published files have."""

import gzip
import json
import pickle
import subprocess
import sys

import pytest

from ccmb.core.errors import CcmbError, UsageError
from ccmb.data.images.source import UnreadableImageError
from ccmb.datasets import CARDS, DatasetQuery, open_dataset
from ccmb.datasets.formats.flickr30k_coco import without_marks
from ccmb.datasets.problems import (
    BAD_LINE,
    BAD_TEMPLATE,
    EMPTY_TEXT,
    JOINED_TEXT,
    NO_CLASS,
    NO_IMAGE,
    REPEATED_ID,
    TWO_IMAGES,
)
from tests.helpers.downstream_samples import WRITERS, jpeg, lines, packed, put

BOM = b"\xef\xbb\xbf"
# Those of which the sample has such a split, with its images and texts.
SPLITS = {
    "flickr30k-cn": {"train": (1, 2), "val": (1, 1), "test": (1, 1)},
    "coco-cn": {"train": (1, 1), "val": (1, 1), "test": (1, 2)},
    "aic-icc": {"train": (2, 10), "val": (2, 10)},
    "muge": {"train": (3, 2), "val": (3, 2), "test": (1, 1)},
    "flickr30k-cna": {"train": (1, 2), "val": (1, 1), "test": (1, 2)},
    "icr": {"train": (2, 3), "val": (1, 1)},
    "iqr": {"train": (2, 3), "val": (1, 1)},
    "icm": {"train": (2, 0), "val": (1, 0)},
    "iqm": {"train": (2, 0), "val": (1, 0)},
    "ecommerce-t2i": {"train": (2, 2), "val": (2, 2), "test": (0, 1)},
    "imagenet": {"train": (4, 0), "val": (4, 0)},
    "flickr8k-cn": {"train": (1, 2), "val": (1, 1)},
    "xm3600": {"test": (2, 4)},
    "xtd10": {"test": (2, 2)},
    "xtd200": {"test": (2, 2)},
    "flickr30k-200": {"test": (2, 2)},
    "xflickrco": {"test": (2, 2)},
    "multi30k": {"train": (2, 2), "val": (1, 1), "test_2016_flickr": (1, 1)},
    "wit": {"val": (2, 2), "test": (2, 2)},
}


def texts(dataset):
    return {sample.image: list(sample.texts) for sample in dataset.samples}


@pytest.mark.parametrize("name", CARDS)
def test_every_split_is_read_with_images_that_open(name, tmp_path):
    folder = WRITERS[name](tmp_path)
    for split, (images, queries) in SPLITS[name].items():
        dataset = open_dataset(name, folder, split)
        assert (len(dataset.gallery), len(dataset.queries)) == (images, queries)
        assert dataset.skipped.count() == dataset.skipped.count(JOINED_TEXT)
        assert {dataset.images.load(image).size for image in dataset.gallery} <= {(4, 4)}
        assert set(dataset.gallery) <= set(dataset.images.names)
        assert all(image in dataset.gallery for query in dataset.queries for image in query.images)
        assert all(len(sample.fields) == len(dataset.fields) for sample in dataset.samples)
        assert {sample.split for sample in dataset.samples} <= {split}
        copy = pickle.loads(pickle.dumps(dataset.images))
        assert [copy.raw(image) for image in dataset.gallery] == [dataset.images.raw(i) for i in dataset.gallery]


@pytest.mark.parametrize("name", CARDS)
def test_a_folder_without_the_files_says_what_is_needed(name, tmp_path):
    split = next(iter(SPLITS[name]))
    with pytest.raises(CcmbError, match=r"no .*; .* needs: "):
        open_dataset(name, tmp_path, split)
    with pytest.raises(CcmbError, match=r"none: no such folder"):
        open_dataset(name, tmp_path / "none", split)


def test_unknown_names_splits_and_images_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"no data set 'mugee' \(did you mean 'muge'\?\)"):
        open_dataset("mugee", tmp_path, "train")
    with pytest.raises(UsageError, match="ICR has no split 'test'; published splits: train, val"):
        open_dataset("icr", tmp_path, "test")
    with pytest.raises(CcmbError, match="elsewhere: no such folder, tar or pack"):
        open_dataset("icr", WRITERS["icr"](tmp_path), "val", tmp_path / "elsewhere")


def test_the_package_needs_no_torch():
    code = "import sys, ccmb.datasets, ccmb.datasets.verify; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


FIELDS = {
    "xm3600": ("zh", "en", "fil"),
    "xtd10": ("zh", "ja"),
    "xtd200": ("en", "fra-Latn", "zho-Hans"),
    "xflickrco": ("zh", "de", "zh>en"),
    "wit": ("en", "ja"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_languages_are_fields_and_the_queries_are_of_the_first(name, tmp_path):
    dataset = open_dataset(name, WRITERS[name](tmp_path), "test")
    assert dataset.fields == FIELDS[name]
    first = [text for sample in dataset.samples for text in sample.fields[0]]
    assert [query.text for query in dataset.queries] == first
    assert all(sample.texts == sum(sample.fields, ()) for sample in dataset.samples)


def test_multi30k_has_translations_and_five_descriptions_of_its_own(tmp_path):
    dataset = open_dataset("multi30k", WRITERS["multi30k"](tmp_path), "test_2016_flickr")
    assert dataset.fields == ("en", "de", "de_5", "fr")
    assert dataset.samples[0].fields == (("en 74",), ("de 74",), tuple(f"eigen {n}" for n in range(1, 6)), ("fr 74",))


def test_files_beside_each_other_must_be_as_long(tmp_path):
    folder = WRITERS["xtd10"](tmp_path)
    put(folder / "test_1kcaptions_zh.txt", "猫\n".encode())
    with pytest.raises(CcmbError, match=r"zh.txt: 1 lines beside 2 of .*names.txt; download both again"):
        open_dataset("xtd10", folder, "test")
    folder = WRITERS["multi30k"](tmp_path / "multi30k")
    put(folder / "data/task1/raw/val.de.gz", gzip.compress(b"x\n")[:-6])
    with pytest.raises(CcmbError, match=r"val.de.gz"):
        open_dataset("multi30k", folder, "val")


def test_faulty_captions_of_many_languages_are_counted(tmp_path):
    folder = WRITERS["xm3600"](tmp_path)
    rows = [
        {"image/key": "0061", "zh": {"caption": ["好", "", 3]}, "en": {"caption": "one"}, "x": {"caption": ["?"]}},
        {"zh": {"caption": ["没有图"]}},
        {"image/key": "0099", "zh": {"caption": ["图不在", "也不在"]}},
    ]
    put(folder / "captions.jsonl", lines(*rows) + b"[1]\n")
    dataset = open_dataset("xm3600", folder, "test")
    assert [(sample.image, sample.texts) for sample in dataset.samples] == [("0061.jpg", ("好",))]
    assert {kind.what: dataset.skipped.count(kind) for kind in (NO_IMAGE, EMPTY_TEXT, BAD_LINE)} == {
        "missing pictures": 1, "empty texts": 1, "unreadable lines": 5,
    }  # fmt: skip


def test_matching_gives_labelled_pairs(tmp_path):
    dataset = open_dataset("ICM", WRITERS["icm"](tmp_path), "train")
    assert [(s.image, s.texts, s.extra["label"]) for s in dataset.samples] == [
        ("1.jpg", ("一只橘猫趴在窗台上晒太阳",), 1), ("1.jpg", ("海边的日落",), 0), ("2.jpg", ("红色跑车",), 1),
    ]  # fmt: skip


def test_faulty_records_of_the_four_sets_are_counted(tmp_path):
    folder = WRITERS["icm"](tmp_path)
    rows = [
        {"text": "好", "image_path": "1.jpg", "label": "1"},
        {"text": "图片不在包里", "image_path": "9.jpg", "label": 1},
        {"text": "标签不对", "image_path": "1.jpg", "label": 2},
        {"text": "标签不对", "image_path": "1.jpg", "label": True},
        {"text": " ", "image_path": "1.jpg", "label": 1},
        {"text": 7, "image_path": "1.jpg", "label": 1},
        {"text": "没有图", "label": 1},
        [1],
    ]
    put(folder / "val" / "long_itm_val.json", BOM + lines(*rows, end="\r\n\r\n") + b'{"text": "\xff"}\r\n{"tex')
    dataset = open_dataset("icm", folder, "val")
    assert [(s.texts, s.extra["label"]) for s in dataset.samples] == [(("好",), 1)]
    assert {kind.what: dataset.skipped.count(kind) for kind in (NO_IMAGE, EMPTY_TEXT, BAD_LINE)} == {
        "missing pictures": 1, "empty texts": 1, "unreadable lines": 7,
    }  # fmt: skip
    assert dataset.skipped.findings[NO_IMAGE].examples == [
        f"{folder}/val/long_itm_val.json:3: no image 9.jpg in {tmp_path}/IQR_IQM_ICR_ICM_images"
    ]


def test_the_pack_of_the_four_sets_may_be_base64(tmp_path):
    folder = WRITERS["iqr"](tmp_path)
    put(tmp_path / "packs" / "part1.tsv", b"1\t%s\n" % packed(1))
    put(tmp_path / "packs" / "part2.tsv", b"2.jpg\t%s\n" % packed(2))
    dataset = open_dataset("iqr", folder, "train", tmp_path / "packs")
    assert (len(dataset.queries), dataset.skipped.count()) == (3, 0)
    assert [dataset.images.raw(name) for name in dataset.gallery] == [jpeg(1), jpeg(2)]
    assert dataset.gallery == ["1", "2.jpg"]


def test_texts_of_one_image_are_one_sample_and_a_query_each(tmp_path):
    dataset = open_dataset("iqr", WRITERS["iqr"](tmp_path), "train")
    assert texts(dataset) == {"1.jpg": ["橘猫", "窗台上的猫"], "2.jpg": ["红色跑车"]}
    assert [(query.text, query.images) for query in dataset.queries][:2] == [
        ("橘猫", ("1.jpg",)),
        ("窗台上的猫", ("1.jpg",)),
    ]


def test_a_file_with_nothing_usable_is_one_error_with_the_first_fault(tmp_path):
    folder = WRITERS["iqr"](tmp_path)
    path = put(folder / "val" / "short_itr_val.json", b"\xff\xff")
    with pytest.raises(CcmbError, match=r"nothing of the split can be used \(1 faults, the first: .*:1: not UTF-8"):
        open_dataset("iqr", folder, "val")
    path.write_bytes(b"")
    with pytest.raises(CcmbError, match="its files are empty; download them again"):
        open_dataset("iqr", folder, "val")


def test_caption_lines_with_and_without_tags(tmp_path):
    assert texts(open_dataset("flickr30k-cna", WRITERS["flickr30k-cna"](tmp_path / "a"), "test")) == {
        "13.jpg": ["雪地里的人", "滑雪者"]
    }
    segmented = open_dataset("flickr30k-cn", WRITERS["flickr30k-cn"](tmp_path / "b"), "train")
    assert texts(segmented) == {"21.jpg": ["两个男孩踢球", "草地上的孩子"]}
    assert segmented.skipped.findings[JOINED_TEXT].level == "warning"
    coco = open_dataset("coco-cn", WRITERS["coco-cn"](tmp_path / "c"), "test")
    assert texts(coco) == {"COCO_val2014_000000000033.jpg": ["两只斑马", "草原上的斑马"]}
    assert [query.id for query in coco.queries] == [f"COCO_val2014_000000000033#zhc#{n}" for n in (0, 1)]


def test_odd_caption_files(tmp_path):
    folder = WRITERS["flickr30k-cna"](tmp_path)
    put(folder / "flickr30k-images" / "more" / "12.jpg", jpeg(1))
    rows = ["12.jpg#0\t  一条狗 ", "12#1\t没有后缀", "99.jpg#0\t缺图", "12.jpg#0\t编号重复", "12.jpg#2\t"]
    rows += ["没有编号", "12.jpg#x\t坏"]
    put(folder / "val" / "flickr30k_cna_val.txt", BOM + "\r\n".join(rows).encode())
    dataset = open_dataset("flickr30k-cna", folder, "val")
    assert texts(dataset) == {"12.jpg": ["一条狗", "没有后缀"]}
    counts = {kind: dataset.skipped.count(kind) for kind in (NO_IMAGE, REPEATED_ID, EMPTY_TEXT, BAD_LINE)}
    assert list(counts.values()) == [1, 1, 1, 2]
    assert dataset.skipped.count(TWO_IMAGES) == 2


def test_part_of_speech_marks_of_every_scheme_are_taken_off():
    for text, joined in (
        ("两个:m 男孩:n iPad:nx", "两个男孩iPad"),
        ("男孩/n 跑/v", "男孩跑"),
        ("苹果:n 梨:n 等:udeng", "苹果梨等"),
        ("红色:n 的:ude1 小船:n", "红色的小船"),
        ("人:N 跑:VV 。:PU", "人跑。"),
        ("时间:n 12:30:t ::wm 开始:v", "时间12:30:开始"),
        ("一个:m 男孩:n 在:p 跑步", "一个男孩在跑步"),
        ("一个:m 男孩:n 跑:v 人:名词", "一个男孩跑人"),
    ):
        assert without_marks(text) == joined
    assert without_marks("猫:n 狗", cut=True) == "猫狗"
    assert without_marks("猫:n", cut=True) == "猫"


def test_colons_of_captions_that_are_not_cut_stay():
    for text in (
        "男孩:n 跑", "时间:下午", "时间12:30", "a:b", "标题 a:b c:d", "and/or", "比分 3:2", "他说:ok", "型号:a", "",
        "开放时间 9:00 到 17:30", "时间:am 地点:bj", "比例 1:2 的模型", "http://a.b/c 的截图",
    ):  # fmt: skip
        assert without_marks(text) is None, text
    for text in ("a:b", "时间12:30", "没有 切分 的 文字", "比分 3:2"):
        assert without_marks(text, cut=True) is None, text


def test_odd_marks_are_taken_off_and_where_most_captions_are_cut_single_words_too(tmp_path):
    folder = WRITERS["flickr30k-cna"](tmp_path)
    rows = ["13.jpg#0\t苹果:n 等:udeng", "13.jpg#1\t人:N", "13.jpg#2\t红色:n 的:ude1 小船", "13.jpg#3\t时间12:30"]
    more = ["13.jpg#4\t男孩:n 跑:v", "13.jpg#5\ta:b"]
    put(folder / "test" / "flickr30k_cna_test.txt", "\n".join(rows + more).encode())
    dataset = open_dataset("flickr30k-cna", folder, "test")
    assert texts(dataset) == {"13.jpg": ["苹果等", "人:N", "红色:n 的:ude1 小船", "时间12:30", "男孩跑", "a:b"]}
    rows += ["13.jpg#4\t男孩:n 跑:v", "13.jpg#5\t草地:n 上:f", "13.jpg#6\t一:m 只:q 猫:n"]
    put(folder / "test" / "flickr30k_cna_test.txt", "\n".join(rows).encode())
    dataset = open_dataset("flickr30k-cna", folder, "test")
    assert texts(dataset) == {"13.jpg": ["苹果等", "人", "红色的小船", "时间12:30", "男孩跑", "草地上", "一只猫"]}
    assert dataset.skipped.count(JOINED_TEXT) == 6


def test_several_caption_files_or_none_are_named(tmp_path):
    folder = WRITERS["coco-cn"](tmp_path)
    put(folder / "other_test.txt", b"x\n")
    with pytest.raises(CcmbError, match=r"which of these is meant: coco-cn_test\.txt, other_test\.txt"):
        open_dataset("coco-cn", folder, "test")
    (folder / "coco-cn_val.txt").unlink()
    with pytest.raises(CcmbError, match=r"no caption file of 'val' and no list \*val\.txt"):
        open_dataset("coco-cn", folder, "val")


@pytest.mark.parametrize("name", ["flickr30k-cn", "coco-cn"])
def test_the_two_are_also_read_when_packed_like_muge(name, tmp_path):
    dataset = open_dataset(name, WRITERS["muge"](tmp_path), "train")
    assert (dataset.card.name, len(dataset.queries)) == (name, 2)


def test_a_query_has_all_its_images_and_an_image_all_its_queries(tmp_path):
    folder = WRITERS["muge"](tmp_path)
    dataset = open_dataset("muge", folder, "valid")
    assert dataset.split == "val"
    assert dataset.queries == [
        DatasetQuery("450", "胖妹妹夏装", ("45", "46")),
        DatasetQuery("451", "纯棉四件套", ("46",)),
    ]
    assert texts(dataset) == {"45": ["胖妹妹夏装"], "46": ["胖妹妹夏装", "纯棉四件套"]}
    assert dataset.gallery == ["45", "46", "47"]
    assert dataset.images.raw("46") == jpeg(46)  # of the url-safe alphabet
    test = open_dataset("muge", folder, "test")
    assert (test.queries, test.samples, test.gallery) == ([DatasetQuery("490", "皮鞋 男", ())], [], ["49"])


def test_odd_packs_and_queries(tmp_path):
    folder = WRITERS["muge"](tmp_path)
    odd = [
        BOM + b"1\t" + packed(1),
        b"2\t" + packed(2, url_safe=True).rstrip(b"="),
        b"1\t" + packed(3),
        b"no tab",
        b"",
        b"4\t",
        b"../5\t" + packed(5),
        b"\xff\t" + packed(5),
        b"x" * 2000 + b"\t" + packed(5),
        b"6\t!!!!",
        b"7\t" + packed(7)[:50],
    ]
    pack = put(folder / "train_imgs.tsv", b"\r\n".join(odd))
    rows = [
        {"text_id": 1, "text": "红", "image_ids": [1, "2", 1]},
        {"text_id": 1, "text": "编号重复", "image_ids": [1]},
        {"text_id": 2, "text": "一张缺图", "image_ids": [2, 99]},
        {"text_id": 3, "text": "全缺", "image_ids": [99]},
        {"text_id": 4, "text": "坏", "image_ids": "1"},
        {"text_id": None, "text": "坏", "image_ids": [1]},
        {"text_id": 5, "text": "", "image_ids": [1]},
    ]
    put(folder / "train_texts.jsonl", BOM + lines(*rows, end="\r\n"))
    dataset = open_dataset("muge", folder, "train")
    assert dataset.queries == [DatasetQuery("1", "红", ("1", "2")), DatasetQuery("2", "一张缺图", ("2",))]
    assert dataset.images.names == ["1", "2", "6", "7"]
    assert [dataset.images.raw(name) for name in ("1", "2")] == [jpeg(1), jpeg(2)]
    for name, reason in (("6", "not base64"), ("7", "not base64|damaged|not an image"), ("4", "no such image")):
        with pytest.raises(UnreadableImageError, match=rf"train_imgs\.tsv/{name}: .*({reason})"):
            dataset.images.load(name)
    skipped = dataset.skipped
    assert [skipped.count(kind) for kind in (REPEATED_ID, NO_IMAGE, EMPTY_TEXT, BAD_LINE)] == [2, 2, 1, 7]
    assert f"{pack}:4: no tab between id and image" in skipped.findings[BAD_LINE].examples


def test_sizes_are_bounded(tmp_path, monkeypatch):
    folder = WRITERS["muge"](tmp_path)
    monkeypatch.setattr("ccmb.datasets.formats.tsv_packs.MAX_BYTES", len(packed(41)))
    monkeypatch.setattr("ccmb.datasets.formats.tsv_packs._BLOCK", 64)  # lines longer than a block are read in parts
    monkeypatch.setattr("ccmb.datasets.formats.lenient_lines.MAX_LINE", 90)
    put(folder / "train_imgs.tsv", b"1\t%s\r\n2\t%sAAAA\n3\t%s" % (packed(41), packed(41), packed(41)))
    text = [{"text_id": n, "text": "长" * 30 if n == 2 else "短", "image_ids": [1]} for n in (1, 2, 3)]
    put(folder / "train_texts.jsonl", lines(*text))
    dataset = open_dataset("muge", folder, "train")
    assert [query.id for query in dataset.queries] == ["1", "3"]
    assert dataset.images.names == ["1", "3"]
    assert dataset.images.raw("1") == dataset.images.raw("3") == jpeg(41)
    assert ["bytes are more than" in line or "more than the 90 bytes" in line
            for line in dataset.skipped.findings[BAD_LINE].examples] == [True, True]  # fmt: skip
    annotations = WRITERS["aic-icc"](tmp_path / "aic")
    monkeypatch.setattr("ccmb.datasets.formats.lenient_lines.MAX_JSON_FILE", 20)
    with pytest.raises(CcmbError, match="bytes are more than the 20 allowed"):
        open_dataset("aic-icc", annotations, "train")


def test_captions_of_aic(tmp_path):
    folder = WRITERS["aic-icc"](tmp_path)
    [path] = folder.glob("*/caption_validation_annotations_*.json")
    entries = json.loads(path.read_bytes())
    entries[0]["caption"][1] = "  "
    entries += [entries[0], {"image_id": 3}, 7, {"image_id": "缺.jpg", "caption": ["缺图"]}]
    path.write_bytes(BOM + json.dumps(entries, ensure_ascii=False).encode())
    dataset = open_dataset("aic-icc", folder, "validation")
    assert [len(sample.texts) for sample in dataset.samples] == [4, 5]
    kinds = (EMPTY_TEXT, REPEATED_ID, BAD_LINE, NO_IMAGE)
    assert [dataset.skipped.count(kind) for kind in kinds] == [1, 1, 2, 1]
    path.write_bytes(b'{"image_id": 1}')
    with pytest.raises(CcmbError, match="expected a JSON list, found dict"):
        open_dataset("aic-icc", folder, "val")
    path.write_bytes(b"[{")
    with pytest.raises(CcmbError, match="not valid JSON"):
        open_dataset("aic-icc", folder, "val")


def test_texts_of_ecommerce(tmp_path):
    folder = WRITERS["ecommerce-t2i"](tmp_path)
    rows = "61\t红色\t连衣裙\r\n62\t\r\n99\t缺图\r\n没有编号\r\n61\t重复\r\n"
    put(folder / "T2I_train.text.tsv", BOM + rows.encode())
    dataset = open_dataset("ecommerce-t2i", folder, "train")
    assert texts(dataset) == {"61": ["红色\t连衣裙"]}
    kinds = (EMPTY_TEXT, NO_IMAGE, BAD_LINE, REPEATED_ID)
    assert [dataset.skipped.count(kind) for kind in kinds] == [1, 1, 1, 1]
    assert open_dataset("ecommerce-t2i", folder, "test").queries == [DatasetQuery("65", "男士皮鞋", ())]


def test_classes_have_numbers_names_and_templates(tmp_path):
    folder = WRITERS["imagenet"](tmp_path)
    put(folder / "val" / "n99999999" / "a.JPEG", jpeg(3))
    put(folder / "templates.txt", BOM + "{}的照片。\r\n没有名字\r\n{}{}\r\n".encode())
    dataset = open_dataset("imagenet", folder, "val")
    assert dataset.classes == [("丁鲷",), ("金鱼", "鲫鱼")]
    assert dataset.templates == ("{}的照片。",)
    assert [(s.image, s.texts, s.extra["label"]) for s in dataset.samples][1:3] == [
        ("n01440764/n01440764_77.JPEG", ("丁鲷",), 0),
        ("n01443537/n01443537_75.JPEG", ("金鱼", "鲫鱼"), 1),
    ]
    assert [dataset.skipped.count(kind) for kind in (NO_CLASS, BAD_TEMPLATE)] == [1, 2]
    put(folder / "classes.txt", "丁鲷\n金鱼\n鲨鱼\n".encode())
    assert open_dataset("imagenet", folder, "val").classes == [("丁鲷",), ("金鱼",), ("鲨鱼",)]
    (folder / "templates.txt").unlink()
    put(folder / "classes.txt", "丁鲷\n金鱼\n".encode())
    with pytest.raises(CcmbError, match="2 names for 3 folders of images; write FOLDER<TAB>name"):
        open_dataset("imagenet", folder, "val")
    assert open_dataset("imagenet", folder, "train").templates == ("{}",)


def test_class_folders_may_lie_at_the_top(tmp_path):
    folder = WRITERS["imagenet"](tmp_path)
    put(folder / "val" / "classes.txt", (folder / "classes.txt").read_bytes())
    assert len(open_dataset("imagenet", folder / "val", "val").samples) == 4
    with pytest.raises(CcmbError, match="no folder 'train' in it"):
        open_dataset("imagenet", folder / "val", "train")


def test_both_fields_of_flickr8k(tmp_path):
    folder = WRITERS["flickr8k-cn"](tmp_path)
    with open(folder / "captions.jsonl", "ab") as file:
        file.write(
            lines({"image": "81.jpg", "captions": ["重复"]}, {"image": "9.jpg", "captions": ["缺"]}, {"image": 3})
        )
    dataset = open_dataset("flickr8k-cn", folder, "train")
    assert dataset.fields == ("captions", "mt_baidu")
    assert [sample.fields for sample in dataset.samples] == [(("一只狗", "跑步的狗", "重复"), ("一条狗在跑",))]
    assert [(query.id, query.text) for query in dataset.queries] == [
        ("81.jpg#0", "一只狗"), ("81.jpg#1", "跑步的狗"), ("81.jpg#2", "重复"),
    ]  # fmt: skip
    assert [dataset.skipped.count(kind) for kind in (REPEATED_ID, NO_IMAGE, BAD_LINE)] == [0, 1, 1]
    with pytest.raises(CcmbError, match="no lines of split 'test'"):
        open_dataset("flickr8k-cn", folder, "test")
