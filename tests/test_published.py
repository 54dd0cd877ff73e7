"""What was published: figures as printed, what does not fit flagged, and every known trap on its rows."""

from __future__ import annotations

import re

import pytest

from ccmb.benchmark.leaderboard import SETS
from ccmb.benchmark.published import DIFFERS, Published, PublishedRow, published


def test_a_mean_recall_that_does_not_fit_its_recalls_is_flagged_and_never_changed() -> None:
    checked = 0
    for row in published().rows:
        if row.mean_recall is not None and row.recomputed is not None:
            checked += 1
            assert (abs(row.recomputed - row.mean_recall) > 0.15) == (DIFFERS in row.notes), row
        else:
            assert DIFFERS not in row.notes
    assert checked > 60
    wrong = PublishedRow(
        model="x", set="muge", variant="validation", setting="zero-shot", sources=["qa-clip-repository"],
        text_to_image={"R@1": 50.0, "R@5": 60.0, "R@10": 70.0}, mean_recall=60.2,
    )  # fmt: skip
    assert (wrong.differs, wrong.mean_recall) == (True, 60.2)
    assert not wrong.model_copy(update={"mean_recall": 60.1}).differs


def find(model: str, set_name: str, variant: str = "", setting: str = "zero-shot") -> PublishedRow:
    [row] = [
        row
        for row in published().rows
        if (row.model, row.set, row.setting) == (model, set_name, setting) and variant in row.variant
    ]
    return row


def test_figures_are_those_of_their_sources() -> None:
    row = find("R2D2 ViT-L/14, 250M", "flickr30k-cn")
    assert row.image_to_text == {"R@1": 77.6, "R@5": 96.7, "R@10": 98.9}
    assert row.text_to_image == {"R@1": 60.9, "R@5": 86.8, "R@10": 92.7}
    assert row.mean_recall == 85.6
    row = find("R2D2 ViT-L/14", "coco-cn", setting="fine-tuned")
    assert (row.image_to_text, row.mean_recall) == ({"R@1": 79.3, "R@5": 97.1, "R@10": 98.7}, 91.6)
    assert find("CN-CLIP H/14", "muge", setting="fine-tuned").text_to_image == {"R@1": 68.9, "R@5": 88.7, "R@10": 93.1}
    assert find("FG-CLIP 2 So/16", "docci-cn").text_to_image == {"R@1": 84.0}
    assert find("M2-Encoder 10B", "coco-cn").image_to_text == {"R@1": 80.9}
    assert find("AltCLIP ViT-L", "imagenet").figures == {"top1": 59.6}
    assert find("M2-Encoder 10B", "imagenet").figures == {"top1": 80.7}
    counts = {name: sum(row.set == name for row in published().rows) for name in SETS}
    few = {"flickr30k-cna": 11, "lit-cn": 11, "dci-cn": 11, "docci-cn": 11, "aic-icc": 4, "imagenet": 13}
    none = dict.fromkeys(("icr", "iqr", "icm", "iqm", "ecommerce-t2i"), 0)
    assert counts == few | none | {"flickr30k-cn": 32, "coco-cn": 38, "muge": 16}


def test_rows_of_classification_carry_the_trap_of_other_class_names_and_what_is_inferred() -> None:
    for row in published().rows:
        assert (row.family == "classification") == (row.set == "imagenet") == ("class-names-differ" in row.notes)
    assert "r2d2-imagenet-inferred" in find("R2D2 ViT-L/14", "imagenet").notes
    assert "cn-clip-prints-two" in find("CN-CLIP B/16", "imagenet").notes
    unsure = [row for row in published().rows if row.setting == "unstated"]
    assert {row.model for row in unsure} == {"Wukong", "WenLan 2.0"}
    assert all("setting-not-said" in row.notes for row in unsure)


def test_a_row_without_a_figure_of_its_family_is_refused() -> None:
    read = published()
    row = find("AltCLIP ViT-L", "imagenet")
    for figures in ({}, {"auc": 50.0}):
        with pytest.raises(ValueError, match="no figures, or others than of classification"):
            Published(sources=read.sources, notes=read.notes, rows=[row.model_copy(update={"figures": figures})])


def test_the_seven_traps_stand_on_the_rows_they_concern() -> None:
    swapped = [find("R2D2 ViT-L/14, 250M", "coco-cn"), find("Wukong ViT-L/14", "coco-cn")]
    assert all("altclip-swaps-directions" in row.notes for row in swapped)
    assert {"m2-encoder-swaps-directions"} < set(find("CN-CLIP B/16", "coco-cn", "written").notes)
    assert {"m2-encoder-other-variant"} < set(find("AltCLIP ViT-L", "coco-cn").notes)
    assert "qa-clip-mislabels" in find("QA-CLIP L/14", "flickr30k-cn").notes
    for row in published().rows:
        r2d2, clip = row.model.startswith("R2D2"), row.model.startswith("CN-CLIP")
        assert ("coco-cn-variants" in row.notes) == (row.set == "coco-cn")
        assert ("r2d2-chosen-on-test" in row.notes) == (r2d2 and row.setting == "fine-tuned")
        zero_shot = clip and row.setting == "zero-shot"
        assert ("translated-coco-in-pre-training" in row.notes) == (zero_shot and row.set == "coco-cn")
        assert ("context-length-52" in row.notes) == (zero_shot and row.set == "flickr30k-cn")


def test_every_note_and_source_is_used_in_plain_words_without_links() -> None:
    read = published()
    assert {note for row in read.rows for note in row.notes} | {DIFFERS} == set(read.notes)
    assert {source for row in read.rows for source in row.sources} == set(read.sources)
    words = [*read.sources.values(), *(text for note in read.notes.values() for text in (note.zh, note.en))]
    assert not any("http" in text or re.search(r"\bS\d+\b", text) for text in words)
