"""Messages are records of the logger `ccmb`; the command line shows them as lines."""

from __future__ import annotations

import logging

import pytest
import torch

from ccmb.core.device import cpu_threads
from ccmb.core.logs import BARE, lines_on_stderr, shown_as_lines

LOG = logging.getLogger("ccmb.some.module")


def test_the_command_line_shows_each_message_as_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with lines_on_stderr():
        assert shown_as_lines()
        with lines_on_stderr():  # once all the same
            LOG.warning("%d samples left out", 3)
        LOG.info("a.jsonl: 50% read", extra=BARE)
    assert not shown_as_lines()
    assert capsys.readouterr() == ("", "ccmb: 3 samples left out\na.jsonl: 50% read\n")


def test_who_uses_the_library_can_silence_or_redirect(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    LOG.warning("seen")
    logging.getLogger("ccmb").setLevel(logging.ERROR)
    try:
        LOG.warning("silenced")
    finally:
        logging.getLogger("ccmb").setLevel(logging.NOTSET)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("ccmb.some.module", "seen")]
    assert capsys.readouterr().err == ""


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
