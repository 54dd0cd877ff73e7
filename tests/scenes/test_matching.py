"""Labelled pairs of synthetic scenes: true ones are of their image, false ones are of none that shows the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ccmb.core.errors import CcmbError
from ccmb.data.labelled_pairs import label_of, read_labelled_pairs
from ccmb.scenes.corpus import write_scene_corpus
from ccmb.scenes.matching import write_labelled_scenes


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_scene_corpus(folder, train=24, gallery=12, validation=6, size=32)
    return folder


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_image_has_one_true_and_one_false_text(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "labelled.jsonl"
    assert write_labelled_scenes(corpus, path) == 2 * (24 + 12 + 6)
    drawn = {str(line["image"]): line for line in lines_of(corpus / "pairs.jsonl")}
    for split, count in (("train", 24), ("test", 12), ("val", 6)):
        samples = read_labelled_pairs(path, split)
        assert [label_of(sample) for sample in samples] == [1, 0] * count
        for sample in samples:
            line = drawn[sample.image]
            minimal = line.get("minimal_pairs", [])
            assert isinstance(minimal, list)
            own = [*line["captions"], *(pair["text"] for pair in minimal)]  # type: ignore[misc]
            assert (sample.texts[0] in own) == bool(label_of(sample))
            assert sample.group == sample.image


@pytest.mark.parametrize("hard", [0.0, 0.5, 1.0])
def test_hard_texts_are_of_twins_and_as_many_as_asked_for(corpus: Path, tmp_path: Path, hard: float) -> None:
    path = tmp_path / "labelled.jsonl"
    write_labelled_scenes(corpus, path, hard)
    drawn = lines_of(corpus / "pairs.jsonl")
    swapped_id_of = {str(line["image"]): line["twin"] for line in drawn}
    swapped_id_of_caption = {
        str(caption): line["twin"]
        for line in drawn
        for caption in line["captions"]  # type: ignore[attr-defined]
    }
    false = [line for line in lines_of(path) if not line["label"]]
    for line in false:
        if line["split"] == "train" and line["falsity"] == "hard":
            assert swapped_id_of_caption[str(line["text"])] == swapped_id_of[str(line["image"])]
    share = sum(line["falsity"] == "hard" for line in false) / len(false)
    assert share == hard if hard in (0.0, 1.0) else 0.25 < share < 0.75


def test_the_arguments_alone_decide(corpus: Path, tmp_path: Path) -> None:
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_labelled_scenes(corpus, tmp_path / name, seed=seed)
        texts.append((tmp_path / name).read_text(encoding="utf-8"))
    assert texts[0] == texts[1] != texts[2]


def test_a_corpus_that_is_not_there_or_too_small_is_named(tmp_path: Path) -> None:
    with pytest.raises(CcmbError, match=r"pairs\.jsonl: no such file"):
        write_labelled_scenes(tmp_path, tmp_path / "x.jsonl")
    write_scene_corpus(tmp_path / "small", train=2, gallery=1, validation=2, size=32)
    with pytest.raises(CcmbError, match="split 'test' has one image"):
        write_labelled_scenes(tmp_path / "small", tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()
