"""Where weights come from: entries without local paths, carried from folder to folder, and what cards say of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from transformers import AutoModel

from ccmb.core.errors import CcmbError, UsageError
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.folders.export_manifest import ExportRecord
from ccmb.r2d2.folders.source_card import front_matter, section
from ccmb.r2d2.folders.weight_sources import Source, combined_license, public_name, source_of, with_licenses
from ccmb.r2d2.loading import load_model
from ccmb.r2d2.official import convert_from_official
from ccmb.r2d2.onnx.export import export_model
from ccmb.r2d2.pretrained.towers import from_chinese_clip, from_towers
from ccmb.r2d2.resizing import resize_folder
from ccmb.tasks.finetuning.interpolate import mix
from ccmb.tasks.pretraining.run import save_model
from tests.helpers.official_states import WORDS, official_state
from tests.helpers.sources import SMALL, save_chinese_clip, save_clip, save_text_tower
from tests.helpers.tiny import tiny_model, tiny_processor

MIT: Source = {"part": "image_tower", "name": "one", "license": "MIT", "sha256": "0" * 64}
APACHE: Source = {"part": "text_tower", "name": "somebody/two", "license": "apache-2.0", "revision": "1" * 40}
UNKNOWN = MIT | {"name": "three", "license": "unknown"}


def save(folder: Path, *sources: Source) -> Path:
    model = tiny_model()
    model.config.sources = list(sources)
    save_model(folder, model, tiny_processor())
    return folder


def sources_in(folder: Path) -> list[Source]:
    return R2D2Config.from_pretrained(folder).sources


def cached_on_the_hub(folder: Path, hub: Path, commit: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Move a folder into a local cache of the hub, and return its id."""
    repository = hub / "models--somebody--it"
    (repository / "snapshots").mkdir(parents=True)
    folder.rename(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return "somebody/it"


def test_towers_are_named_without_their_path_and_with_the_licence_of_their_card(tmp_path: Path) -> None:
    vision, text = save_clip(tmp_path / "a-clip"), save_text_tower(tmp_path / "a-bert")
    (vision / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A card\n")
    model, processor = from_towers(vision, text, **SMALL)
    digest = {path: hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest() for path in (vision, text)}
    expected = [
        {"part": "image_tower", "name": "a-clip", "license": "apache-2.0", "sha256": digest[vision]},
        {"part": "text_tower", "name": "a-bert", "license": "unknown", "sha256": digest[text]},
    ]
    assert model.config.sources == expected
    save_model(tmp_path / "r2d2", model, processor)
    for path in (tmp_path / "r2d2").glob("*.json"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8"), path
    AutoModel.from_pretrained(tmp_path / "r2d2").save_pretrained(tmp_path / "again")
    assert sources_in(tmp_path / "again") == expected
    with pytest.raises(UsageError, match="sources is no field of R2D2Config that can be given here"):
        from_towers(vision, text, sources=[], **SMALL)


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ("---\nlicense: [mit, gpl-3.0]\n---\n", "mit AND gpl-3.0"),
        ("---\nlicense: other\nlicense_name: a-name\n---\n", "a-name"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: 'a | b\n\n # c'\n---\n", "unknown"),
        ("---\nlicense: [\n---\n", "unknown"),
        ("---\n- a list\n---\n", "unknown"),
        ("# Without a front matter", "unknown"),
        ("\udcff", "unknown"),
    ],
)
def test_a_card_that_says_no_licence_leaves_it_unknown(card: str, license: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card, encoding="utf-8", errors="surrogateescape")
    assert source_of("model", tmp_path) == {"part": "model", "name": tmp_path.name, "license": license}


def test_a_whole_model_from_chinese_clip_or_an_official_checkpoint(tmp_path: Path) -> None:
    chinese_clip = save_chinese_clip(tmp_path / "cn-clip")
    source = from_chinese_clip(chinese_clip, cross_layers=0)[0].config.sources
    assert [(entry["part"], entry["name"]) for entry in source] == [("model", "cn-clip")]
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    checkpoint = tmp_path / "official.pth"
    torch.save(official_state(), checkpoint)
    convert_from_official(checkpoint, tmp_path / "converted", tmp_path / "vocab.txt")
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert sources_in(tmp_path / "converted") == [
        {"part": "model", "name": "official.pth", "license": "unknown", "sha256": digest}
    ]


def test_a_hub_model_has_its_id_and_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = save_text_tower(tmp_path / "bert")
    (text / "README.md").write_text("---\nlicense: mit\n---\n")
    name = cached_on_the_hub(text, tmp_path / "hub", "2" * 40, monkeypatch)
    expected = {"part": "text_tower", "name": name, "license": "mit", "revision": "2" * 40}
    assert source_of("text_tower", name) == expected
    cached = tmp_path / "hub" / "models--somebody--it" / "snapshots" / ("2" * 40)
    assert source_of("text_tower", cached) == expected


def test_an_r2d2_of_the_hub_is_a_source_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = cached_on_the_hub(save(tmp_path / "r2d2", MIT), tmp_path / "hub", "3" * 40, monkeypatch)
    resize_folder(name, tmp_path / "larger", image_size=48)
    its = {"part": "model", "name": name, "license": "unknown", "revision": "3" * 40}
    assert sources_in(tmp_path / "larger") == [MIT, its]


def test_resizing_keeps_sources_and_mixing_joins_them(tmp_path: Path) -> None:
    one, other = save(tmp_path / "one", MIT, UNKNOWN), save(tmp_path / "other", MIT, APACHE)
    resize_folder(one, tmp_path / "larger", image_size=48)
    assert sources_in(tmp_path / "larger") == [MIT, UNKNOWN]
    mix(one, other, 0.5, tmp_path / "mixed")
    assert sources_in(tmp_path / "mixed") == [MIT, UNKNOWN, APACHE]


def test_an_export_names_no_local_path(tmp_path: Path) -> None:
    folder = save(tmp_path / "run" / "model", MIT)
    export_model(folder, tmp_path / "export", "fp32")
    assert ExportRecord.read(tmp_path / "export").source == "run"
    assert sources_in(tmp_path / "export") == [MIT]
    for path in (tmp_path / "export").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path


def test_a_new_network_has_no_sources(tmp_path: Path) -> None:
    assert sources_in(save(tmp_path / "new")) == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("one", "give part, name, license"),
        ({"part": "model", "name": "one"}, "give part, name, license"),
        (MIT | {"path": "x"}, "give part, name, license"),
        (MIT | {"part": "head"}, "part is one of image_tower, text_tower"),
        (MIT | {"license": None}, "all are texts"),
        (MIT | {"name": "/home/me/one"}, "is a path"),
        (MIT | {"name": "C:\\me\\one"}, "is a path"),
    ],
)
def test_a_wrong_entry_is_refused(entry: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        R2D2Config(sources=[entry])
    path = save(tmp_path / "folder", MIT) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sources": [entry]}))
    with pytest.raises(CcmbError, match=r"config\.json"):
        load_model(tmp_path / "folder")


def test_the_name_of_a_run_is_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "mine" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("runs/mine", "runs/mine/model", tmp_path / "runs" / "mine" / "model"):
        assert public_name(name) == "mine"
    assert public_name("somebody/it") == "somebody/it"
    assert public_name(tmp_path / "gone") == "gone"


def test_licences_are_corrected_by_part() -> None:
    given = {"image": "ISC", "text": None, "model": None}
    assert with_licenses([UNKNOWN, APACHE], given) == [UNKNOWN | {"license": "ISC"}, APACHE]
    assert UNKNOWN["license"] == "unknown"  # not in place
    with pytest.raises(UsageError, match=r"model\.licenses\.model=MIT would do nothing \(the start has image_tower\)"):
        with_licenses([MIT], {"model": "MIT"})


@pytest.mark.parametrize(
    ("sources", "license", "card"),
    [
        ([], None, None),
        ([MIT], "MIT", {"license": "mit"}),
        ([MIT, MIT | {"license": "mit"}], "mit", {"license": "mit"}),
        ([MIT, APACHE], "other", {"license": "other", "license_name": "mit-and-apache-2.0"}),
        ([MIT, UNKNOWN], "other", {"license": "other", "license_name": "mit-and-unknown"}),
        ([UNKNOWN], "unknown", {"license": "unknown"}),
        (
            [MIT | {"license": "LicenseRef-X (own)"}],
            "LicenseRef-X (own)",
            {"license": "other", "license_name": "licenseref-x-own"},
        ),
    ],
)
def test_a_card_has_the_licence_that_all_sources_have(
    sources: list[Source], license: str | None, card: dict[str, str] | None
) -> None:
    assert combined_license(sources) == license
    values = yaml.safe_load(front_matter(sources)) or {}
    bases = values.pop("base_model", [])
    assert values == (card or {})
    assert bases == (["somebody/two"] if APACHE in sources else [])  # the others lead nowhere
    text = section(sources)
    assert all(f"| {entry['name']} | {entry['license']} |" in text for entry in sources)
    assert ("check each" in text) == (license in ("other", "unknown"))
