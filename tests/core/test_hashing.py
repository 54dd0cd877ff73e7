"""Digests are names of files, images and results that are written to disk: they must stay what they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ccmb.core.errors import CcmbError
from ccmb.core.hashing import sha256_of_bytes, sha256_of_file, sha256_of_files, sha256_of_json


def test_digests_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(bytes(range(256)) * 5000)
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of_bytes(b"abc") == sha256_of_file(tmp_path / "a") == known
    both = (tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes()
    assert sha256_of_files([tmp_path / "a", tmp_path / "b"]) == hashlib.sha256(both).hexdigest()


def test_json_values_have_one_digest_in_any_order_of_their_keys() -> None:
    digest = sha256_of_json({"b": "雪", "a": [1, 2.5, None]})
    assert digest == sha256_of_json({"a": [1, 2.5, None], "b": "雪"})
    assert digest == hashlib.sha256(rb'{"a": [1, 2.5, null], "b": "\u96ea"}').hexdigest()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CcmbError, match=f"{tmp_path / 'none'}: No such file"):
        sha256_of_file(tmp_path / "none")
