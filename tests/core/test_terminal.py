"""Nothing that others wrote steers the terminal: escape sequences and the like are shown by their numbers."""

import io
import json
import os
import sys
import warnings

import pytest
from PIL import Image

from ccmb.core.errors import CcmbError
from ccmb.core.progress import progress
from ccmb.core.terminal import VisibleStream, guarded, visible, visible_line
from tests.helpers.runs import command_line

EVIL = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\x7f\r.png"


@pytest.fixture
def command(monkeypatch, capfd):
    return command_line(monkeypatch, capfd)


def steering(text: str) -> list[str]:
    """Whatever of a text is no letter, line break or tab."""
    return [letter for letter in text if letter not in "\n\t" and not letter.isprintable()]


def test_control_characters_are_shown_by_their_numbers():
    shown = "a\\x1b]0;owned\\x07\\x1b[2J\\u009b31m\\u202egnp\\u007f\\r.png"
    assert visible(EVIL) == visible_line(EVIL) == shown
    assert visible("a\n\tb") == "a\n\tb"
    assert visible_line("a\n\tb") == "a\\n\\tb"
    assert visible("猫 é \U0001f431\u3000x") == "猫 é \U0001f431\u3000x"
    assert visible("half \udcff") == "half \\udcff"


def test_json_on_the_terminal_says_the_same_as_before():
    text = json.dumps({"name": EVIL + "\udcff"}, ensure_ascii=False)
    assert json.loads(visible(text)) == {"name": EVIL + "\udcff"}
    assert not steering(visible(text))


def test_prints_warnings_and_progress_are_guarded(monkeypatch):
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with guarded():
        print(EVIL)
        print(EVIL, file=sys.stderr)
        sys.stderr.write(warnings.formatwarning(EVIL, UserWarning, "x.py", 1))
        monkeypatch.setattr("ccmb.core.progress.SECONDS_BETWEEN_LINES", 0)
        with progress(EVIL, 2, "things") as advance:
            advance(1, EVIL + "\n")
    for text in (out.getvalue(), err.getvalue()):
        assert "\\x1b" in text
        assert not steering(text)
    assert len(err.getvalue().splitlines()) == 3, "a print, a warning and the progress"
    assert sys.stdout is out


def test_a_bar_on_a_terminal_draws_but_shows_names_by_their_numbers(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with guarded(), progress("fetch [red]\x1b]0;owned\x07", 2) as advance:
        advance(1, "\x1b]0;note\x07[/nothing]")
        print("\x1b]0;printed\x07", file=sys.stderr)
    drawn = screen.getvalue()
    assert "\x1b" in drawn
    assert "\x1b]0;" not in drawn
    assert "\x07" not in drawn


def test_the_command_line_prints_texts_as_they_are(command, tmp_path):
    assert command("presets").out.startswith("|")
    with pytest.raises(TypeError, match="not bytes"):
        VisibleStream(io.StringIO()).write(b"")


def test_letters_that_a_terminal_lacks_end_nothing():
    raw = io.BytesIO()
    stream = VisibleStream(io.TextIOWrapper(raw, "ascii", write_through=True))
    stream.write("猫\udcff\n")
    assert raw.getvalue() == b"\\u732b\\udcff\n"


def test_errors_and_lists_of_the_command_line_are_guarded(tmp_path, command):
    folder = tmp_path / "images"
    folder.mkdir()
    name = "a\x1b[31m\nred\u202e.png"
    (folder / name).write_bytes(b"no picture")
    Image.new("RGB", (4, 4)).save(folder / "ok.png")
    lines = [{"image": image, "texts": ["x"]} for image in (name, "ok.png")]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for arguments in (
        ("data", "convert", tmp_path / "pairs.jsonl", tmp_path / "out", "--images", folder),
        ("data", "convert", tmp_path / "pairs.jsonl", tmp_path / "out2", "--images", folder, "--json"),
        ("data", "verify", tmp_path / f"none{EVIL}.tar"),
        ("data", "verify", "\x1b[31mmuge", "x"),
    ):
        outcome = command(*arguments)
        assert not steering(outcome.out + outcome.err), arguments
        assert "\\x1b" in outcome.out + outcome.err or "\\u001b" in outcome.out, arguments


def test_the_same_in_a_process_of_its_own(tmp_path):
    import subprocess

    target = str(tmp_path / f"no{EVIL}.tar")
    environment = os.environ | {"FORCE_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "ccmb", "data", "verify", target], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1
    assert "\\x1b]0;owned" in done.stdout + done.stderr
    assert not steering(done.stdout + done.stderr)


def test_errors_of_the_library_itself_keep_their_words():
    with pytest.raises(CcmbError, match="\x1b"):
        raise CcmbError(EVIL)
