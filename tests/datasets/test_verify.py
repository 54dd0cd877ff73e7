"""`ccmb data list`, `verify` and `convert` on the downstream data sets."""

import json

import pytest

from ccmb.data.shards.locate import find_shards
from ccmb.data.shards.read import parse_sample, read_samples
from ccmb.datasets import CARDS
from ccmb.datasets.listing import cards_page
from ccmb.datasets.problems import EXAMPLES
from ccmb.datasets.verify import verify_dataset
from tests.helpers.downstream_samples import WRITERS, jpeg, lines, packed, put
from tests.helpers.pages import read
from tests.helpers.runs import command_line
from tests.helpers.shard_folders import write_shards


@pytest.fixture
def command(monkeypatch, capfd):
    return command_line(monkeypatch, capfd)


def counts_by_kind(checked):
    return {finding.what: finding.count for finding in checked.findings}


@pytest.mark.parametrize("name", CARDS)
def test_whole_sets_have_no_findings_but_counts_and_splits(name, tmp_path):
    checked = verify_dataset(name, WRITERS[name](tmp_path))
    expected = {"other counts than published", "missing splits", "part-of-speech marks"}
    assert set(counts_by_kind(checked)) <= expected
    assert checked.is_faulty == ("other counts than published" in counts_by_kind(checked))


def test_whatever_is_wrong_is_listed_with_examples_and_fix(tmp_path, command):
    folder = WRITERS["muge"](tmp_path)
    pack = {n: packed(n) for n in range(1, 9)} | {9: packed(41), 10: packed(3)[:60], 11: b"####"}
    put(folder / "valid_imgs.tsv", b"".join(b"%d\t%s\n" % row for row in pack.items()))
    rows = [{"text_id": n, "text": f"查询{n}", "image_ids": [n]} for n in range(1, 30)]
    rows += [
        {"text_id": 31, "text": "查询1", "image_ids": [1]},
        {"text_id": 32, "text": "男孩:n 在 跑", "image_ids": [2]},
    ]
    put(folder / "valid_texts.jsonl", lines(*rows, {"text_id": 33, "text": "", "image_ids": [1]}))
    outcome = command("data", "verify", "muge", folder, "--split", "valid", "--json")
    values = json.loads(outcome.out)
    assert outcome.code == 1
    assert values["splits"] == {"val": {"pictures": 11, "texts": 13, "samples": 11}}
    findings = {finding["what"]: finding for finding in values["findings"]}
    assert {what: finding["count"] for what, finding in findings.items()} == {
        "missing pictures": 18,
        "empty texts": 1,
        "undecodable pictures": 2,
        "repeated texts of one image": 1,
        "part-of-speech marks left over": 1,
    }
    assert len(findings["missing pictures"]["examples"]) == EXAMPLES
    assert findings["missing pictures"]["examples"][0] == (
        f"{folder}/valid_texts.jsonl:12: no image 12 in {folder}/valid_imgs.tsv"
    )
    assert all(finding["mend"] for finding in findings.values())
    shown = command("data", "verify", "muge", folder)
    assert shown.code == 1
    assert "problem: images in two splits: 1\n    val: 9 is 41 of train\n    -> " in shown.out
    assert "    ... and 13 more\n" in shown.out
    assert "muge val: 11 images, 13 texts" in shown.out


def test_warnings_alone_are_no_failure(tmp_path, command):
    folder = WRITERS["iqr"](tmp_path)
    assert command("data", "verify", "iqr", folder).out.endswith("iqr val: 1 images, 1 texts\nnothing wrong\n")
    rows = [{"text": "雪山", "image_path": "3.jpg"}] * 2
    put(folder / "val" / "short_itr_val.json", lines(*rows))
    outcome = command("data", "verify", "IQR", folder)
    assert outcome.code == 0
    assert "warning: repeated texts of one image: 1" in outcome.out


def test_other_counts_than_published_are_a_problem(tmp_path):
    checked = verify_dataset("flickr30k-cna", WRITERS["flickr30k-cna"](tmp_path), "test")
    [finding] = checked.findings
    assert finding.examples == [
        "test: 1 usable images instead of 1,000",
        "test: 2 usable texts instead of 5,000",
    ]


def test_wrong_use_is_one_line_with_the_fix(tmp_path, command):
    folder = WRITERS["iqr"](tmp_path)
    for arguments, code, message in [
        (("verify", "iqrr", folder), 2, "no data set 'iqrr' (did you mean 'iqr'?)"),
        (("verify", "iqr"), 2, "verified as: ccmb data verify iqr FOLDER"),
        (("verify", "iqr", folder, "--field", "texts"), 2, "without --field"),
        (("verify", folder, "--split", "val"), 2, "go with a data set"),
        (("verify", "iqr", folder, "--split", "test"), 2, "published splits: train, val"),
        (("verify", "iqr", folder / "train", "--split", "val"), 1, "no short_itr_val.json or val/short_itr_val.json"),
        (("verify", "iqr", tmp_path / "none"), 1, "none: no such folder"),
        (("convert", f"iqr:{folder}", tmp_path / "out", "--field", "texts"), 2, "--field goes with a pairs file"),
        (("convert", f"muge:{folder}", tmp_path / "out"), 1, "MUGE needs: queries and image packs"),
        (("convert", f"mug:{folder}", tmp_path / "out"), 2, "did you mean 'muge'?"),
    ]:
        outcome = command("data", *arguments)
        assert (outcome.code, outcome.err.count("\n")) == (code, 1), outcome
        assert message in outcome.err


def test_a_folder_that_bears_the_name_of_a_set_is_one_of_shards(tmp_path, command, monkeypatch):
    write_shards(tmp_path, 3, 3).rename(tmp_path / "muge")
    monkeypatch.chdir(tmp_path)
    assert command("data", "verify", "muge").out == "3 samples in 1 shards; no problems\n"


def test_a_folder_of_shards_under_ccmb_data_is_meant_too(tmp_path, command, monkeypatch):
    write_shards(tmp_path, 3, 3).rename(tmp_path / "muge")
    monkeypatch.setenv("CCMB_DATA", str(tmp_path))
    assert command("data", "verify", "muge").out == "3 samples in 1 shards; no problems\n"


def test_one_split_that_cannot_be_read_does_not_hide_the_others(tmp_path):
    folder = WRITERS["aic-icc"](tmp_path)
    [path] = folder.glob("*/caption_validation_annotations_*.json")
    path.write_bytes(path.read_bytes()[:-9])
    checked = verify_dataset("aic-icc", folder)
    assert list(checked.splits) == ["train"]
    assert counts_by_kind(checked) == {"splits that cannot be read": 1, "missing splits": 1}
    assert checked.is_faulty


@pytest.mark.parametrize("name", CARDS)
def test_sets_are_converted_to_shards(name, tmp_path, command):
    folder, out = WRITERS[name](tmp_path / "in"), tmp_path / "out"
    split = CARDS[name].splits[0].name
    done = command("data", "convert", f"{name}:{folder}", out, "--split", split, "--samples-per-shard", 2, "--json")
    assert done.code == 0, done
    assert command("data", "verify", out).code == 0
    read = [
        parse_sample(raw, None)
        for shard in find_shards([str(out)])
        for _, raw in read_samples(shard, range(shard.samples))
    ]
    assert len(read) == json.loads(done.out)["samples"]
    labels = [(sample.extra or {}).get("label") for sample in read]
    assert labels == {"icm": [1, 0, 1], "iqm": [1, 0, 1], "imagenet": [0, 0, 1, 1]}.get(name, [None] * len(read))


def test_what_conversion_leaves_out_is_said(tmp_path, command):
    folder = WRITERS["muge"](tmp_path)
    put(folder / "train_imgs.tsv", b"41\t%s\n42\tnothing\n" % packed(41))
    outcome = command("data", "convert", f"muge:{folder}", tmp_path / "out")
    assert outcome.code == 0
    assert "1 images could not be read" in outcome.err
    put(folder / "train_texts.jsonl", lines({"text_id": 1, "text": "猫", "image_ids": [41]}) + b"[]\n")
    outcome = command("data", "convert", f"muge:{folder}", tmp_path / "out2")
    assert "problem: unreadable lines: 1" in outcome.err
    outcome = command("data", "convert", f"muge:{folder}", tmp_path / "out3", "--split", "test")
    assert (outcome.code, "no text of split 'test' names an image" in outcome.err) == (1, True)


def test_images_elsewhere_are_named_by_an_option(tmp_path, command):
    folder = WRITERS["flickr30k-cna"](tmp_path / "set")
    (folder / "flickr30k-images").rename(tmp_path / "pictures")
    assert "nothing of the split can be used" in command("data", "verify", "flickr30k-cna", folder).err
    options = ("--images", tmp_path / "pictures", "--split", "train")
    assert command("data", "verify", "flickr30k-cna", folder, *options).code == 0
    assert command("data", "convert", f"flickr30k-cna:{folder}", tmp_path / "out", *options).code == 0


def test_the_list_has_every_card(command):
    listed = json.loads(command("data", "list", "--json").out)
    assert [card["name"] for card in listed] == list(CARDS)
    cna = next(card for card in listed if card["name"] == "flickr30k-cna")
    assert cna["splits"][2] == {"name": "test", "pictures": 1000, "texts": 5000}
    assert cna["licence"] is None
    shown = command("data", "list").out
    assert all(card.title in shown and card.download.en in shown for card in CARDS.values())


@pytest.mark.parametrize(("page", "language"), [("docs/data.md", "en"), ("docs/data.zh.md", "zh")])
def test_the_page_is_what_the_cards_say(page, language):
    text = read(page)
    assert text[text.index("\n## ") + 1 :].startswith(cards_page(language))  # what is of all sets follows


def test_images_are_told_apart_by_their_bytes():
    assert len({jpeg(index) for index in range(100)}) == 100
