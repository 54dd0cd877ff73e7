"""Own pairs: what a pairs.jsonl may look like, and what is said where it is wrong."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccmb.core.errors import CcmbError
from ccmb.data.grouping import image_key
from ccmb.data.pairs import read_pairs
from ccmb.data.sample import Sample

TEXT = st.text(st.characters(codec="utf-8"), min_size=1).map(str.strip).filter(bool)
LINE = st.builds(
    dict,
    image=st.text(st.characters(codec="utf-8"), min_size=1),
    texts=st.lists(TEXT, min_size=1, max_size=4),
    split=st.sampled_from(["train", "val", "test"]),
    group=st.none() | st.text(),
    note=st.integers(),
)


def write(path, *lines):
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


@settings(max_examples=50, deadline=None)
@given(
    st.lists(LINE, min_size=1, max_size=6, unique_by=lambda line: image_key(line["image"])),
    st.booleans(),
    st.sampled_from(["\n", "\r\n\r\n"]),
)
def test_every_line_becomes_the_sample_it_describes(tmp_path_factory, lines, ascii_only, newline):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    content = newline.join(json.dumps(line, ensure_ascii=ascii_only) for line in lines)
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    expected = [
        Sample(
            image_key(line["image"]),
            tuple(line["texts"]),
            line["split"],
            line["group"],
            {"note": line["note"]},
            (tuple(line["texts"]),),
        )
        for line in lines
    ]
    assert read_pairs(path) == expected
    for split in {line["split"] for line in lines}:
        assert read_pairs(path, split) == [sample for sample in expected if sample.split == split]


def test_lines_of_one_image_are_one_sample(tmp_path):
    path = write(tmp_path / "p.jsonl", {"image": "a.jpg", "texts": "一只猫"}, {"image": "a.jpg", "texts": ["猫"]})
    assert [(s.image, s.texts) for s in read_pairs(path)] == [("a.jpg", ("一只猫", "猫"))]


def test_texts_of_several_fields_are_joined_in_order_and_stripped(tmp_path):
    path = write(
        tmp_path / "p.jsonl",
        {"image": "a", "title": " 海边 ", "captions": ["日落", "海\n"]},
        {"image": "b", "captions": ["山"]},
    )
    assert [s.texts for s in read_pairs(path, fields=["captions", "title"])] == [("日落", "海", "海边"), ("山",)]
    assert [s.fields for s in read_pairs(path, fields=["captions", "title"])] == [
        (("日落", "海"), ("海边",)), (("山",), ()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"image": "a", "texts": ["猫", "  "]}, r'"texts"\[1\] is not a text or empty'),
        ({"image": "a", "texts": ""}, r'"texts"\[0\] is not a text or empty'),
        ({"image": "a", "texts": [3]}, r'"texts"\[0\] is not a text'),
        ({"image": "a", "texts": []}, '"texts" must be a text or a list'),
        ({"image": "a", "texts": {"zh": "猫"}}, '"texts" must be a text or a list'),
        ({"image": "a", "captions": ["猫"]}, "no text field 'texts'; the line has: captions"),
        ({"texts": ["猫"]}, 'no "image"'),
        ({"image": "", "texts": ["猫"]}, 'no "image"'),
        ({"image": 7, "texts": ["猫"]}, 'no "image"'),
    ],
)
def test_a_faulty_line_is_named_with_its_number(tmp_path, line, reason):
    path = write(tmp_path / "p.jsonl", {"image": "a", "texts": ["猫"]}, line)
    with pytest.raises(CcmbError, match=rf"p\.jsonl:2: {reason}"):
        read_pairs(path)


@pytest.mark.parametrize("line", ['{"image": "a", "texts": "\\ud83d"}', '{"image": "\\udc00", "texts": "猫"}'])
def test_half_a_surrogate_pair_is_named_with_its_line(tmp_path, line):
    (tmp_path / "p.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(CcmbError, match=r"p\.jsonl:1: .* half a surrogate pair"):
        read_pairs(tmp_path / "p.jsonl")


def test_faults_in_other_splits_do_not_stand_in_the_way(tmp_path):
    path = write(tmp_path / "p.jsonl", {"image": "a", "texts": "猫"}, {"image": "b", "texts": "", "split": "val"})
    assert len(read_pairs(path, "train")) == 1


def test_a_missing_split_lists_those_there_are(tmp_path):
    path = write(tmp_path / "p.jsonl", {"image": "a", "texts": "猫"}, {"image": "b", "texts": "狗", "split": "test"})
    with pytest.raises(CcmbError, match=r"no images in split 'tset' \(did you mean 'test'\?\); it has: test, train"):
        read_pairs(path, "tset")


def test_a_file_without_lines_is_named(tmp_path):
    (tmp_path / "p.jsonl").write_text("\n\n")
    with pytest.raises(CcmbError, match=r"p\.jsonl: the file has no lines"):
        read_pairs(tmp_path / "p.jsonl", "train")
