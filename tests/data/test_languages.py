"""Languages of own pairs: read, joined over files, and drawn as the recipe says."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from ccmb.core.errors import CcmbError, UsageError
from ccmb.data.languages import (
    LanguagePlan,
    by_language,
    language_weights,
    parse_languages,
    tag_of,
    weighted_order,
)
from ccmb.data.loader import choose_text
from ccmb.data.pairs import read_pairs
from ccmb.data.sample import Sample
from ccmb.tasks.common.datasets import open_training
from ccmb.training.recipe import DataRecipe
from tests.helpers.tiny import tiny_images


def write(path: Path, *lines: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    return path


@pytest.mark.parametrize(
    ("written", "tag"),
    [("ZH", "zh"), ("zh-hant-tw", "zh-Hant-TW"), ("EN-us", "en-US"), ("es-419", "es-419"), ("yue", "yue")],
)
def test_tags_are_written_as_bcp_47_does(written: str, tag: str) -> None:
    assert tag_of(written) == tag


@pytest.mark.parametrize("wrong", ["", "c", "chinese language", "zh_CN", "zh-", "1a"])
def test_what_is_no_tag_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="is no language tag"):
        tag_of(wrong)


def test_languages_of_the_command_line() -> None:
    assert parse_languages("zh=captions+mt_baidu, en") == {"zh": ("captions", "mt_baidu"), "en": ("en", "texts@en")}
    for wrong, words in (("zh,ZH", "zh comes twice"), ("zh=", "has an empty field"), ("zh=a+", "has an empty field")):
        with pytest.raises(UsageError, match=words):
            parse_languages(wrong)


def test_fields_and_texts_that_say_their_language_are_read_alike(tmp_path: Path) -> None:
    by_fields = write(tmp_path / "a.jsonl", {"image": "0", "zh": ["猫"], "en": ["a cat", "cat"]})
    by_lines = write(
        tmp_path / "b.jsonl",
        {"image": "0", "texts": "猫", "language": "zh"},
        {"image": "0", "texts": ["a cat", "cat"], "language": "EN"},
    )
    texts = [{"text": "猫", "language": "zh"}, {"text": "a cat", "language": "en"}, {"text": "cat"}]
    by_texts = write(tmp_path / "c.jsonl", {"image": "0", "texts": texts, "language": "en"})
    languages = parse_languages("zh,en")
    for path in (by_fields, by_lines, by_texts):
        fields = [field for named in languages.values() for field in named]
        (sample,) = by_language(read_pairs(path, None, fields, lenient=True), languages)
        assert sample.fields == (("猫",), ("a cat", "cat"))
    (sample,) = read_pairs(by_texts)
    assert sample.texts == ("猫", "a cat", "cat")
    silent = write(tmp_path / "d.jsonl", {"image": "0", "texts": ["猫"]})
    with pytest.raises(CcmbError, match=r'd.jsonl:1: "texts"\[0\] says no "language", and texts of en are asked for'):
        read_pairs(silent, None, ["texts@en"])


def test_files_are_joined_by_image_and_images_without_texts_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "zh.jsonl", *({"image": f"{row}", "zh": [f"图{row}"]} for row in range(3)))
    write(
        tmp_path / "de.jsonl", {"image": "2", "de": ["zwei"]}, {"image": "3", "de": ["drei"]}, {"image": "4", "x": "y"}
    )
    samples = read_pairs(tmp_path / "zh.jsonl+de.jsonl", None, ["zh", "de"])
    assert {sample.image: sample.texts for sample in samples} == {
        "0": ("图0",), "1": ("图1",), "2": ("图2", "zwei"), "3": ("drei",),
    }  # fmt: skip
    assert "1 images have no text in zh, de, and are left out" in caplog.text
    with pytest.raises(CcmbError, match="no image has a text in fr"):
        read_pairs(tmp_path / "zh.jsonl+de.jsonl", None, ["fr"])
    plain = write(tmp_path / "a+b.jsonl", {"image": "0", "texts": "x"})  # a file may be called so
    assert len(read_pairs(plain)) == 1


def test_a_temperature_evens_languages_out() -> None:
    samples = [Sample("0", (), fields=(("a",) * 9, ("b",))), Sample("1", (), fields=((), ()))]
    assert language_weights(samples, 1) == pytest.approx([0.9, 0.1])
    assert language_weights(samples, 2) == pytest.approx([0.75, 0.25])
    assert language_weights(samples, 1e9) == pytest.approx([0.5, 0.5])


def test_an_order_by_weight_begins_with_each_as_often_as_it_weighs() -> None:
    rng = random.Random(0)
    orders = [tuple(weighted_order(rng, [0.6, 0.0, 0.3, 0.1])) for _ in range(4000)]
    firsts = Counter(order[0] for order in orders)
    assert {len(order) for order in orders} == {3}
    for index, share in ((0, 0.6), (2, 0.3), (3, 0.1)):
        assert firsts[index] / 4000 == pytest.approx(share, abs=0.04)


def test_several_texts_of_an_image_are_of_different_languages() -> None:
    sample = Sample("0", ("a1", "a2", "b1", "c1"), fields=(("a1", "a2"), ("b1",), (), ("c1",)))
    for seed in range(50):
        turns = [
            choose_text(sample, random.Random(seed), None, [0.7, 0.1, 0.1, 0.1], turn, spread=True) for turn in range(4)
        ]
        assert {text[0] for text in turns[:3]} == {"a", "b", "c"}
        assert turns[3][0] == turns[0][0]
    text = choose_text(sample, random.Random(0), 1, [0.7, 0.1, 0.1, 0.1], 0, spread=True)
    assert text == "b1"


def test_a_balanced_batch_has_each_language_as_often() -> None:
    plan = LanguagePlan(3, seed=1)
    for step in range(5):
        counts = Counter(plan(step, row, turn) for row in range(12) for turn in range(2))
        assert counts == {0: 8, 1: 8, 2: 8}
        assert all(plan(step, row, 0) != plan(step, row, 1) for row in range(12))
    assert len({plan(step, 0) for step in range(30)}) == 3


def test_a_recipe_names_languages_or_fields() -> None:
    data = DataRecipe.model_validate({"folder": "x", "languages": {"ZH": ["captions", "mt"], "en": "en"}})
    assert (data.languages, data.text_fields) == ({"zh": ["captions", "mt"], "en": ["en"]}, ["captions", "mt", "en"])
    assert DataRecipe.model_validate({"folder": "x", "languages": "zh,en"}).text_fields == [
        "zh", "texts@zh", "en", "texts@en",
    ]  # fmt: skip
    wrong = {
        "either data.languages or data.fields": {"fields": ["a"]},
        "goes without data.language_temperature": {"balance_languages": True, "language_temperature": 3},
        "needs one weight for each of the 2": {"field_weights": [1.0]},
        "either data.language_temperature or data.field_weights": {"field_weights": [1, 2], "language_temperature": 2},
    }
    for words, keys in wrong.items():
        with pytest.raises(ValidationError, match=words):
            DataRecipe.model_validate({"folder": "x", "languages": "zh,en"} | keys)
    with pytest.raises(ValidationError, match="no language tag"):
        DataRecipe.model_validate({"folder": "x", "languages": "zh,chinese!"})


def test_training_data_have_a_field_for_each_language(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for row, image in enumerate(tiny_images(2)):
        image.save(tmp_path / "images" / f"{row}.png")
    write(tmp_path / "zh.jsonl", *({"image": f"{row}.png", "a": [f"图{row}"], "b": [f"画{row}"]} for row in range(2)))
    write(tmp_path / "en.jsonl", {"image": "1.png", "en": ["one"]})
    data = DataRecipe.model_validate(
        {"folder": str(tmp_path), "pairs": "zh.jsonl+en.jsonl", "images": "images",
         "languages": {"zh": ["a", "b"], "en": ["en"]}}
    )  # fmt: skip
    samples, _ = open_training(data)
    assert [sample.fields for sample in samples] == [(("图0", "画0"), ()), (("图1", "画1"), ("one",))]


def test_few_images_are_among_more(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    names = [f"{row}.png" for row in range(12)]
    for name, image in zip(names, tiny_images(12), strict=True):
        image.save(tmp_path / "images" / name)
    write(tmp_path / "pairs.jsonl", *({"image": name, "texts": ["猫"]} for name in names))
    chosen = []
    for count in (2, 5, 12, 99):
        data = DataRecipe.model_validate({"folder": str(tmp_path), "images": "images", "max_images": count})
        samples, _ = open_training(data)
        chosen.append([sample.image for sample in samples])
        assert len(samples) == min(count, 12)
        assert chosen[-1] == [name for name in names if name in chosen[-1]]
    assert set(chosen[0]) < set(chosen[1]) < set(chosen[2])
    assert chosen[1] != names[:5]
