"""Class lists and prompt templates: what ships is whole and distinct, and what is wrong with own lists is named."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path

import pytest
from PIL import Image

from ccmb.core.errors import CcmbError, UsageError
from ccmb.data.class_names import SHIPPED, ImageClass, read_classes
from ccmb.data.image_folders import folder_names, labelled_images
from ccmb.data.images.source import ImageSource
from ccmb.tasks.classification.prompts import PLAIN_TEMPLATE, TEMPLATES, fill, read_templates

COUNTS = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
CHINESE = re.compile(r"[\u3400-\u9fff]")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_list_is_whole_and_all_its_names_are_chinese_and_distinct(name: str) -> None:
    value = json.loads((files("ccmb.data") / "classes" / f"{name}.json").read_text(encoding="utf-8"))
    assert "CCMB's own" in value["about"]
    assert list(value["classes"]) == [str(index) for index in range(COUNTS[name])]
    classes = read_classes(name)
    names = [word for one in classes for word in one.names]
    assert len(set(names)) == len(names)
    # Letters only where Chinese has no word of its own, as in T恤.
    assert all(CHINESE.search(word) and re.fullmatch(r"[\u3400-\u9fffA-Za-z]+", word) for word in names)
    english = [one.english.lower() for one in classes if one.english]
    assert len(set(english)) == COUNTS[name]


def test_imagenet_stands_in_its_usual_order_which_is_that_of_the_wordnet_ids() -> None:
    classes = read_classes("imagenet")
    ids = [one.wnid for one in classes]
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(r"n\d{8}", str(wnid)) for wnid in ids)
    known = {
        0: "tench", 1: "goldfish", 65: "sea snake", 134: "crane (bird)", 207: "golden retriever", 264: "Cardigan (dog)",
        281: "tabby", 340: "zebra", 388: "giant panda", 404: "airliner", 474: "cardigan", 517: "crane (machine)",
        609: "jeep", 701: "parachute", 817: "sports car", 920: "traffic light", 954: "banana", 963: "pizza",
        985: "daisy", 999: "toilet tissue",
    }  # fmt: skip
    assert {index: classes[index].english for index in known} == known
    assert (classes[134].name, classes[517].name) == ("鹤", "起重机")


def test_imagenet_has_the_thousand_wordnet_ids_of_ilsvrc2012() -> None:
    """The standard sorted list is `imagenet_synsets.txt` of timm (1.0.31), one id a line, here by its digest."""
    ids = [str(one.wnid) for one in read_classes("imagenet")]
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()
    assert digest == "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
    assert ids[887:900] == [
        "n04532106", "n04532670", "n04536866", "n04540053", "n04542943", "n04548280", "n04548362", "n04550184",
        "n04552348", "n04553703", "n04554684", "n04557648", "n04560804",
    ]  # fmt: skip
    assert not {"n04526964", "n04533802"} & set(ids)  # ventilator and videocassette recorder are none of the thousand


def test_names_that_mean_another_thing_are_gone() -> None:
    """By WordNet: a pug, a nudibranch (no sea hare), a small bag for carrying money, an open vessel."""
    classes = read_classes("imagenet")
    wrong = {254: "哈巴狗", 115: "海兔", 748: "手提包", 876: "圆木盆"}
    assert all(name not in classes[index].names for index, name in wrong.items())
    assert [classes[index].name for index in wrong] == ["巴哥犬", "海蛞蝓", "零钱包", "大盆"]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_stands_in_alphabetical_order(name: str) -> None:
    english = [str(one.english) for one in read_classes(name)]
    assert english == sorted(english)


def test_templates_are_many_distinct_and_chinese_with_one_place_for_the_name() -> None:
    assert len(TEMPLATES) >= 30
    assert len(set(TEMPLATES)) == len(TEMPLATES)
    for template in TEMPLATES:
        assert template.count("{}") == 1
        assert re.fullmatch(r"[\u4e00-\u9fff{}。]+", template)
        assert fill(template, "猫") == template.replace("{}", "猫")
    assert (read_templates("all"), read_templates("plain")) == (TEMPLATES, (PLAIN_TEMPLATE,))


def test_own_templates_are_one_text_or_the_lines_of_a_file(tmp_path: Path) -> None:
    assert read_templates("左边有{}。") == ("左边有{}。",)
    path = tmp_path / "templates.txt"
    path.write_text("有{}。\n\n没有\n", encoding="utf-8")
    with pytest.raises(CcmbError, match=r"templates\.txt: '没有' must have exactly one \{\}"):
        read_templates(str(path))
    path.write_text("有{}。\n\n是{}。\n", encoding="utf-8-sig")
    assert read_templates(str(path)) == ("有{}。", "是{}。")
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(CcmbError, match=r"templates\.txt: no templates"):
        read_templates(str(path))
    path.write_bytes("有{}。".encode("gb18030"))
    assert read_templates(str(path)) == ("有{}。",)
    path.write_bytes(b"{}\xff")
    with pytest.raises(CcmbError, match=r"templates\.txt:1: not UTF-8 text"):
        read_templates(str(path))
    with pytest.raises(UsageError, match="'plane': no such templates; give all, plain"):
        read_templates("plane")


@pytest.mark.parametrize("text", ["猫/猫咪,狗,汽车", " 猫/猫咪、狗;汽车 ", "猫|猫咪,狗;汽车,"])
def test_names_on_the_command_line(text: str) -> None:
    assert [one.names for one in read_classes(text)] == [("猫", "猫咪"), ("狗",), ("汽车",)]


def test_own_lists_in_every_form(tmp_path: Path) -> None:
    path, lines = tmp_path / "own.json", tmp_path / "own.txt"
    forms = [
        [["猫", "猫咪"], "狗"],
        {"cat": ["猫", "猫咪"], "dog": "狗"},
        {"classes": {"0": {"names": ["猫", "猫咪"], "english": "cat", "wnid": "n02121808"}, "1": {"names": "狗"}}},
    ]
    for form in forms:
        path.write_text(json.dumps(form, ensure_ascii=False), encoding="utf-8")
        assert [one.names for one in read_classes(path)] == [("猫", "猫咪"), ("狗",)]
    assert read_classes(path)[0] == ImageClass(("猫", "猫咪"), "cat", "n02121808")
    lines.write_text("猫/猫咪\n\n狗\n", encoding="utf-8")
    assert read_classes(lines) == [ImageClass(("猫", "猫咪")), ImageClass(("狗",))]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("3", "give a list of classes"),
        ('["猫", ""]', "class 1: needs a Chinese name"),
        ('["猫", ["狗", "猫"]]', "'猫' is a name of class 0 and of class 1; remove one"),
        ('["猫"]', "1 classes; there must be two or more"),
        ('{"cat": "猫", "dog": 7}', "class 'dog': needs a Chinese name"),
        ('{"0": {"english": "cat"}, "1": "狗"}', "class '0': needs a Chinese name"),
        ('{"0": {"names": "猫", "english": 1}, "1": "狗"}', 'class \'0\': "english" and "wnid" must be texts'),
        ("[", "not valid JSON"),
    ],
)
def test_a_faulty_list_is_named_with_its_class(value: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(value, encoding="utf-8")
    with pytest.raises(CcmbError) as error:
        read_classes(path)
    assert str(error.value).startswith(f"{path}: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'imagnet': no such class list \(did you mean 'imagenet'\?\)"):
        read_classes("imagnet")
    for name in ("none.json", "none.txt"):
        with pytest.raises(CcmbError, match=f"{name}: no such file"):
            read_classes(tmp_path / name)
    with pytest.raises(CcmbError, match="--classes: class 1 has no name"):
        read_classes("猫,/,狗")


# --- folders


def images_in(root: Path, *names: str) -> ImageSource:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)
    return ImageSource.open(root)


def test_folders_are_called_by_id_label_index_or_chinese_name(tmp_path: Path) -> None:
    names = {
        "n01440764/a.png": 0,
        "Great_White-shark/b.png": 2,
        "val/金鱼/more/c.png": 1,
        "999/d.png": 999,
        "鹤/e.png": 134,
    }
    result = labelled_images(images_in(tmp_path, *names), read_classes("imagenet"))
    assert {one.name: one.label for one in result} == names


def test_a_folder_that_names_no_class_is_named(tmp_path: Path) -> None:
    with pytest.raises(CcmbError, match="no images; there must be one folder of images a class"):
        labelled_images(images_in(tmp_path), read_classes("cifar10"))
    with pytest.raises(CcmbError, match=r"air_plan: names none of the 10 classes \(did you mean 'airplane'\?\)"):
        labelled_images(images_in(tmp_path / "one", "air_plan/a.png"), read_classes("cifar10"))
    with pytest.raises(CcmbError, match="two: names none of the 10 classes; call each folder by"):
        labelled_images(images_in(tmp_path / "two", "a.png", "cat/b.png"), read_classes("cifar10"))


def test_a_name_that_two_classes_share_stands_for_neither() -> None:
    classes = [ImageClass(("鹤",), "crane"), ImageClass(("起重机",), "Crane"), ImageClass(("二",), "0")]
    assert folder_names(classes) == {"鹤": 0, "起重机": 1, "二": 2, "0": 0, "1": 1, "2": 2}
