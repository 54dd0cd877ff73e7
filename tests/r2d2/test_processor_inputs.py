"""The processor's call: what is given is obeyed, or refused by an error that names it."""

from __future__ import annotations

import io
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, ProcessorMixin

from ccmb.core.errors import CcmbError
from ccmb.r2d2.inputs.processor_file import PREPROCESSOR, PROCESSOR
from ccmb.r2d2.processing import R2D2Processor
from tests.helpers.tiny import TEXTS, tiny_images, tiny_processor

LONG, SHORT = "左边是绿树,右边是一座白色的房子", "灯"


def rows(inputs: Any) -> list[int]:
    return [len(row) for row in inputs["input_ids"]]


def test_max_length_is_obeyed() -> None:
    processor = tiny_processor()
    whole = processor(text=LONG)["input_ids"][0]
    cut = processor(text=LONG, max_length=6, truncation=True)["input_ids"][0]
    assert len(cut) == 6 < len(whole)
    assert cut.tolist() == [*whole[:5].tolist(), processor.tokenizer.sep_token_id]


@pytest.mark.parametrize(("padding", "length"), [("max_length", 9), (True, 3), ("longest", 3), (None, 3)])
def test_padding_is_obeyed(padding: Any, length: int) -> None:
    inputs = tiny_processor()(text=SHORT, padding=padding, max_length=9)
    assert inputs["input_ids"].shape == (1, length)
    assert inputs["attention_mask"].sum() == 3


def test_without_truncation_nothing_is_cut() -> None:
    whole = tiny_processor()(text="船" * 40, truncation=False)
    assert whole["input_ids"].shape == (1, 42)


def test_a_cut_that_nobody_asked_for_is_told_and_one_that_is_asked_for_is_not() -> None:
    with pytest.warns(UserWarning, match="1 of 2 texts have more than 24 tokens"):
        tiny_processor()(text=["船" * 40, SHORT])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_processor()(text=["船" * 40, SHORT], truncation=True)


def test_return_tensors_np_gives_arrays_of_the_same_values() -> None:
    processor, image = tiny_processor(), tiny_images(1)
    arrays, tensors = processor(image, TEXTS[:1], return_tensors="np"), processor(image, TEXTS[:1])
    for name in ("pixel_values", "input_ids", "attention_mask"):
        assert isinstance(arrays[name], np.ndarray)
        np.testing.assert_array_equal(arrays[name], tensors[name].numpy())


def test_without_tensors_texts_of_different_lengths_stay_lists() -> None:
    inputs = tiny_processor()(text=[LONG, SHORT], padding=False, return_tensors=None)
    assert isinstance(inputs["input_ids"][1], list)
    assert rows(inputs)[1] == 3 < rows(inputs)[0]
    with pytest.raises(ValueError, match="padding is off and the texts differ in length"):
        tiny_processor()(text=[LONG, SHORT], padding=False)


def test_options_in_groups_are_obeyed_as_transformers_gives_them() -> None:
    inputs = tiny_processor()(
        text=[LONG, SHORT],
        text_kwargs={"padding": "max_length", "truncation": "longest_first", "max_length": 7},
        images_kwargs={},
        audio_kwargs={"padding": True},
        videos_kwargs={},
        common_kwargs={"return_tensors": "np"},
    )
    assert isinstance(inputs["input_ids"], np.ndarray)
    assert inputs["input_ids"].shape == (2, 7)
    with pytest.raises(ValueError, match="padding is given twice, as 'max_length' and as False"):
        tiny_processor()(text=SHORT, padding=False, text_kwargs={"padding": "max_length"})


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"image": "a.jpg"}, r"'image' \(did you mean 'images'\?\)"),
        ({"texts": ["船"]}, r"'texts' \(did you mean 'text'\?\)"),
        ({"videos": []}, "'videos'"),
        ({"text_kwargs": {"pading": True}}, r"'pading' \(did you mean 'padding'\?\)"),
        ({"images_kwargs": {"size": 224}}, "'size'"),
        ({"text_kwargs": True}, "bool: groups of options such as text_kwargs are dicts"),
        ({"max_length": "8"}, "max_length is '8'"),
        ({"max_length": True}, "max_length is True"),
    ],
)
def test_unknown_keywords_are_refused_by_name(options: dict[str, Any], names: str) -> None:
    with pytest.raises(TypeError, match=names):
        tiny_processor()(text=options.pop("text", "船"), **options)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"padding": "longst"}, "padding is 'longst'; give one of True, 'longest', 'max_length', False"),
        ({"truncation": "only_second"}, "truncation is 'only_second'"),
        ({"return_tensors": "tf"}, "return_tensors is 'tf'; give one of None, 'pt', 'np'"),
        ({"max_length": 25}, "max_length is 25; give 3 to 24"),
        ({"max_length": 0}, "max_length is 0"),
        ({"return_token_type_ids": True}, "return_token_type_ids=True"),
        ({"do_rescale": False}, "do_rescale=False"),
    ],
)
def test_values_that_cannot_be_obeyed_are_refused_by_name(options: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        tiny_processor()(text="船", **options)


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (3, "images is of type int; give PIL images, paths"),
        ({"bytes": b"", "path": None}, "images is of type dict"),
        ({"a.jpg"}, "images is of type set"),
        ([None], r"images\[0\] is of type NoneType"),
        ([Image.new("RGB", (4, 4)), 2.5], r"images\[1\] is of type float"),
        ([[Image.new("RGB", (4, 4))]], r"images\[0\] is of type list; .* one or a flat list"),
        (io.BytesIO(), "images is of type BytesIO"),
        (iter([Image.new("RGB", (4, 4))]), "images is of type list_iterator"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_images_that_are_none_are_one_type_error(images: Any, names: str) -> None:
    for call in (tiny_processor(), tiny_processor().images, tiny_processor().image_processor):
        with pytest.raises(TypeError, match=names):
            call(images)


@pytest.mark.parametrize(
    ("images", "names"),
    [
        ([], "images is empty; give PIL images"),
        (np.zeros((0, 4, 4, 3), np.uint8), "images is empty"),
        (np.zeros((2, 2, 5), np.uint8), "shape .* is not an image"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "uint8, or floats in"),
        ("https://example.org/a.jpg", "an address is not fetched"),
        (b"no image", "the bytes of an image: not a"),
    ],
)
def test_images_that_cannot_be_used_are_one_value_error(images: Any, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        tiny_processor()(images)


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (3, "text is of type int; give a str or a list of str"),
        (b"\xe8\x88\xb9", "text is of type bytes"),
        ({"text": "船"}, "text is of type dict"),
        (["船", None], r"text\[1\] is of type NoneType"),
        (["船", 3], r"text\[1\] is of type int"),
        ([["船"], ["猫"]], r"text\[0\] is of type list"),
        (Path("a.txt"), "text is of type PosixPath"),
    ],
)
def test_texts_that_are_none_are_one_type_error(texts: Any, names: str) -> None:
    for call in (lambda: tiny_processor()(text=texts), lambda: tiny_processor().texts(texts)):
        with pytest.raises(TypeError, match=names):
            call()


def test_texts_that_cannot_be_used_and_nothing_at_all_are_one_value_error() -> None:
    processor = tiny_processor()
    with pytest.raises(ValueError, match="text is empty"):
        processor(text=[])
    with pytest.raises(ValueError, match=r"text\[1\]: character 1 is half of one"):
        processor(text=["船", "船\ud83d"])
    with pytest.raises(ValueError, match="neither images nor text are given"):
        processor()


def test_odd_inputs_are_errors_of_the_command_line_too() -> None:
    with pytest.raises(CcmbError):
        tiny_processor()(images=[None])


def test_every_form_of_one_image_gives_the_same_pixels(tmp_path: Path) -> None:
    processor, image = tiny_processor(), tiny_images(1)[0]
    image.save(tmp_path / "a.png")
    array = np.asarray(image)
    expected = processor.images([image])
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    forms: list[Any] = [
        image, [image], (image,), str(tmp_path / "a.png"), tmp_path / "a.png", (tmp_path / "a.png").read_bytes(),
        array, array[None], array / 255, tensor, tensor[None], tensor.float() / 255,
    ]  # fmt: skip
    for form in forms:
        assert torch.equal(processor(form)["pixel_values"], expected), type(form)
        assert torch.equal(processor.image_processor(form)["pixel_values"], expected)


def test_texts_may_be_a_tuple_or_an_array() -> None:
    processor = tiny_processor()
    expected = processor(text=[LONG, SHORT])["input_ids"]
    for form in ((LONG, SHORT), np.array([LONG, SHORT]), np.array([LONG, SHORT], dtype=object)):
        assert torch.equal(processor(text=form)["input_ids"], expected)


def test_a_shorter_length_that_is_set_on_the_tokenizer_is_obeyed(tmp_path: Path) -> None:
    tiny_processor().save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path, model_max_length=7)
    assert rows(processor(text=LONG, truncation=True)) == [7]
    processor.tokenizer.model_max_length = 5
    assert rows(processor(text=LONG, truncation=True)) == [5]


def test_the_processor_is_one_of_transformers(tmp_path: Path) -> None:
    processor = tiny_processor()
    assert isinstance(processor, ProcessorMixin)
    assert processor.get_attributes() == ["image_processor", "tokenizer"]
    assert set(processor.model_input_names) >= {"pixel_values", "input_ids", "attention_mask"}
    assert json.dumps("image_mean") in repr(processor)
    processor.save_pretrained(tmp_path)
    opened = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(opened, R2D2Processor)
    ids = processor(text=LONG)["input_ids"][0]
    assert opened.decode(ids, skip_special_tokens=True).replace(" ", "") == LONG
    again = pickle.loads(pickle.dumps(opened))
    assert torch.equal(again(tiny_images(2))["pixel_values"], processor(tiny_images(2))["pixel_values"])


def test_a_folder_in_the_form_of_transformers_own_processors_opens(tmp_path: Path) -> None:
    processor = tiny_processor()
    processor.save_pretrained(tmp_path)
    values = json.loads((tmp_path / PREPROCESSOR).read_text())
    (tmp_path / PREPROCESSOR).unlink()
    length = values.pop("max_text_tokens")
    whole = {"processor_class": "R2D2Processor", "max_text_tokens": length, "image_processor": values}
    (tmp_path / PROCESSOR).write_text(json.dumps(whole))
    for opened in (R2D2Processor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert opened.to_dict() == processor.to_dict()


def test_unknown_keywords_of_opening_are_refused_by_name(tmp_path: Path) -> None:
    tiny_processor().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"'max_text_token' \(did you mean 'max_text_tokens'\?\)"):
        R2D2Processor.from_pretrained(tmp_path, max_text_token=12)
