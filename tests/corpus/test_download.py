"""Downloads from a simulated web: every fault ends as it must, politely, and an interrupted download goes on."""

from __future__ import annotations

import asyncio
import fcntl
import gzip
import hashlib
import json
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from ccmb.core.errors import CcmbError
from ccmb.corpus.download.index import fingerprints_of_index, read_index
from ccmb.corpus.download.parts import DownloadPart, DownloadRow, Link
from ccmb.corpus.download.resize import prepare
from ccmb.corpus.download.run import download
from ccmb.corpus.simulation.server import FAULTS, STATUSES, Faults, fault_of, serve, statistics
from ccmb.data.images.perceptual_hash import fingerprints_of_images
from ccmb.data.images.source import ImageSource
from ccmb.fetch.fetcher import Fetcher, is_transient, retry_after
from ccmb.fetch.host_limits import HostPaused, Hosts
from ccmb.fetch.opt_outs import opted_out, robots_refuse, tdm_reserved
from tests.helpers.image_web import HOST, draw_folder, index, links, network, options, results

COUNT, SEED = 120, 3
FAULTY = Faults(**dict.fromkeys(FAULTS, 0.05))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("web") / "pictures", COUNT)


@pytest.fixture
def web(folder: Path) -> Iterator[str]:
    with serve(folder) as base:
        yield base


def expected(faults: Faults) -> list[str]:
    return [STATUSES.get(fault_of(f"{row_index}.jpg", faults, SEED) or "", "ok") for row_index in range(COUNT)]


def test_every_fault_ends_as_it_must(folder: Path, tmp_path: Path) -> None:
    assert {fault_of(f"{row_index}.jpg", FAULTY, SEED) for row_index in range(COUNT)} == {*FAULTS, None}
    with serve(folder, FAULTY, SEED) as base:
        done = download(links(base, COUNT), COUNT, tmp_path / "out", options())
        requests = statistics(base)["requests"]
    rows = index(tmp_path / "out")
    assert [row["row"] for row in rows] == list(range(COUNT))
    assert [row["key"] for row in rows] == [f"key {row_index}" for row_index in range(COUNT)]
    assert [row["status"] for row in rows] == expected(FAULTY)
    assert done.statuses == Counter(expected(FAULTY))
    assert (done.rows, done.asked, done.parts) == (COUNT, COUNT, 8)
    for row_index, status in enumerate(expected(FAULTY)):  # only what may pass is tried again
        fault = fault_of(f"{row_index}.jpg", FAULTY, SEED)
        tries = {"redirect": 2, "redirect_loop": 6, "error_once": 2, "busy_once": 2}
        if fault != "reset":  # a connection that was kept open may be stale: the client itself takes a new one
            assert requests[f"{row_index}.jpg"] == (2 if is_transient(status) else tries.get(fault or "", 1)), fault


def test_what_is_stored_is_what_the_index_says(folder: Path, web: str, tmp_path: Path) -> None:
    download(links(web, 20), 20, tmp_path, options(resize={"image_size": 64, "mode": "short_side"}))
    for row in index(tmp_path):
        data = ImageSource.open(tmp_path / f"part-{row['row'] // 16:06d}.tar").raw(row["picture"])
        original = (folder / f"{row['row']}.jpg").read_bytes()
        assert row["stored_sha256"] == hashlib.sha256(data).hexdigest()
        assert row["sha256"] == hashlib.sha256(original).hexdigest()
        assert (row["bytes"], row["stored_bytes"]) == (len(original), len(data))
        assert (row["width"], row["height"], row["stored_width"], row["stored_height"]) == (128, 128, 64, 64)


def test_looks_in_the_index_are_those_of_the_files(folder: Path, tmp_path: Path) -> None:
    with serve(folder, Faults(not_found=0.3), SEED) as base:
        download(links(base, 40), 40, tmp_path, options())
    table = read_index(tmp_path, ["picture", "url", "shape", "colours"], with_image=True)
    names = [url.rsplit("/", 1)[1] for url in table["url"].to_pylist()]
    assert 0 < len(names) < 40
    expected, fingerprints = fingerprints_of_images(ImageSource.open(folder), names), fingerprints_of_index(table)
    assert fingerprints.shapes.tolist() == expected.shapes.tolist()
    assert fingerprints.colours.tolist() == expected.colours.tolist()
    tail, none = fingerprints_of_index(table.slice(5)), fingerprints_of_index(table.slice(0, 0))
    assert tail.colours.tolist() == expected.colours.tolist()[5:]
    assert len(none) == 0


def test_no_host_is_asked_more_often_than_it_may_be(web: str, tmp_path: Path) -> None:
    download(links(web, 60), 60, tmp_path / "many", options(connections_per_host=5))
    assert statistics(web)["most_at_once"] <= 5
    began = time.monotonic()
    download(links(web, 20), 20, tmp_path / "slow", options(connections_per_host=5, host_delay=0.05))
    assert time.monotonic() - began >= 19 * 0.05


def test_politeness_is_what_limits(folder: Path, tmp_path: Path) -> None:
    with serve(folder, delay=0.05) as base:
        download(links(base, 60), 60, tmp_path, options(connections_per_host=5))
        assert statistics(base)["most_at_once"] == 5


def test_a_busy_host_is_left_alone_for_as_long_as_it_asks(folder: Path, tmp_path: Path) -> None:
    with serve(folder, Faults(busy_once=1.0)) as base:
        began = time.monotonic()
        done = download(links(base, 1), 1, tmp_path / "one", options())
        assert time.monotonic() - began >= 1.0
        assert done.statuses == {"ok": 1}
        done = download(links(base, 3)[1:], 2, tmp_path / "two", options(max_host_pause=0.5, connections_per_host=1))
        assert done.statuses == {"host_paused": 2}
        assert statistics(base)["requests"] == {"0.jpg": 2, "1.jpg": 1}  # the other was never asked for


def test_pauses_hold_for_those_who_wait_already() -> None:
    async def run() -> float:
        hosts, loop = Hosts(4, 0.0, 10.0), asyncio.get_running_loop()
        hosts.pause("a", 0.5)
        began = loop.time()

        async def turn() -> float:
            async with hosts.turn("a"):
                return loop.time() - began

        waiting = [asyncio.create_task(turn()) for _ in range(3)]
        await asyncio.sleep(0.02)
        hosts.pause("a", 0.6)
        minimum = min(await asyncio.gather(*waiting))
        hosts.pause("a", 11.0)
        with pytest.raises(HostPaused):
            await turn()
        return minimum

    assert asyncio.run(run()) >= 0.62


def test_hosts_that_nobody_waits_for_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> int:
        hosts = Hosts(4, 0.001, 10.0)
        hosts.pause("paused.example", 5.0)
        async with hosts.turn("busy.example"):
            for row_index in range(3 * 100):
                async with hosts.turn(f"{row_index}.example"):
                    await asyncio.sleep(0.0001)
        assert {"paused.example", "busy.example"} <= set(hosts._hosts)
        return len(hosts._hosts)

    monkeypatch.setattr("ccmb.fetch.host_limits._KNOWN_AT_LEAST", 100)
    assert asyncio.run(run()) <= 200


def test_a_second_call_asks_for_nothing(web: str, tmp_path: Path) -> None:
    first = download(links(web, 40), 40, tmp_path, options())
    before, requests = results(tmp_path), statistics(web)["requests"]
    second = download(links(web, 40), 40, tmp_path, options())
    assert (second.asked, second.statuses) == (0, first.statuses)
    assert results(tmp_path) == before
    assert statistics(web)["requests"] == requests


def test_failures_are_tried_again_only_if_asked_and_only_if_they_may_pass(folder: Path, tmp_path: Path) -> None:
    faults = Faults(error_once=0.3, not_found=0.3)
    with serve(folder, faults, SEED) as base:
        first = download(links(base, COUNT), COUNT, tmp_path / "out", options(retries=0))
        failed = first.statuses["http_500"]
        assert failed
        assert first.statuses["http_404"]
        assert download(links(base, COUNT), COUNT, tmp_path / "out", options(retries=0)).asked == 0
        again = download(links(base, COUNT), COUNT, tmp_path / "out", options(), retry_failed=True)
        assert again.asked == failed
        assert again.statuses == {"ok": COUNT - first.statuses["http_404"], "http_404": first.statuses["http_404"]}
        # As if it had all been there the first time.
        download(links(base, COUNT), COUNT, tmp_path / "whole", options())
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_the_deadline_holds_and_the_rest_can_be_had_another_day(folder: Path, tmp_path: Path) -> None:
    with serve(folder, delay=0.1) as base:
        began = time.monotonic()
        done = download(links(base, COUNT), COUNT, tmp_path, options(deadline=1.5, connections=4))
        assert time.monotonic() - began < 60
        assert done.rows == COUNT
        assert set(done.statuses) == {"ok", "deadline"}
        more = download(links(base, COUNT), COUNT, tmp_path, options(), retry_failed=True)
        assert more.asked == done.statuses["deadline"]
        assert more.statuses == {"ok": COUNT}


def test_bodies_never_outnumber_the_connections(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[int] = []
    fetch, done = Fetcher.fetch, Fetcher.done

    async def counted(self: Fetcher, url: str) -> object:
        fetched = await fetch(self, url)
        waiting.append((waiting[-1] if waiting else 0) + 1)
        return fetched

    def counted_done(self: Fetcher, fetched: object) -> None:
        waiting.append(waiting[-1] - 1)
        done(self, fetched)  # type: ignore[arg-type]

    monkeypatch.setattr(Fetcher, "fetch", counted)
    monkeypatch.setattr(Fetcher, "done", counted_done)
    monkeypatch.setattr("ccmb.corpus.download.run.prepare", _slowly)
    with serve(folder) as base:
        download(links(base, 40), 40, tmp_path, options(connections=3, decode_threads=1))
    assert max(waiting) == 3
    assert waiting[-1] == 0


def _slowly(*arguments: object) -> object:
    time.sleep(0.01)
    return prepare(*arguments)  # type: ignore[arg-type]


def test_other_links_and_other_settings_are_refused(web: str, tmp_path: Path) -> None:
    download(links(web, 40), 40, tmp_path, options())
    with pytest.raises(CcmbError, match=r"part-000000\.parquet: belongs to other links"):
        download(links(web, 40)[::-1], 40, tmp_path, options())
    with pytest.raises(CcmbError, match=r"part-000002\..*: belongs to a longer list of links"):
        download(links(web, 32), 32, tmp_path, options())
    with pytest.raises(CcmbError, match=r"another resize\.image_size \(256, now 64\)"):
        download(links(web, 40), 40, tmp_path, options(resize={"image_size": 64}))
    with pytest.raises(CcmbError, match=r"another rows_per_part \(16, now 8\)"):
        download(links(web, 40), 40, tmp_path, options(rows_per_part=8))


def test_one_process_at_a_time(web: str, tmp_path: Path) -> None:
    with open(tmp_path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CcmbError, match="another process downloads into this folder"):
            download(links(web, 4), 4, tmp_path, options())


def test_links_of_any_text_are_stored(tmp_path: Path) -> None:
    odd = [Link("一\n\ud800", "http://a\ud800.cn/\n"), Link("", "")]
    done = download(odd, 2, tmp_path, options())
    assert done.statuses == {"bad_url": 2}
    assert [row["key"] for row in index(tmp_path)] == ["一\n?", ""]


@given(st.integers(0, 10**6), st.binary(max_size=40))
def test_rows_cut_off_anywhere_are_done_again(
    tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes
) -> None:
    folder = tmp_path_factory.mktemp("part")
    part_links = [Link(str(row_index), f"http://a.cn/{row_index}") for row_index in range(4)]
    part = DownloadPart(folder, 0, 0, part_links)
    part.open()
    ends = [part.rows_file.stat().st_size]
    for row_index in range(4):
        image = bytes([10, row_index] * 20)
        row = DownloadRow(
            row_index, str(row_index), "http://a.cn/", "ok", image=f"{row_index}.jpg", stored_bytes=len(image)
        )
        part.add(row, image, 0.5, 1)
        ends.append(part.rows_file.stat().st_size)
    part.close()
    whole = part.rows_file.read_bytes()
    left = whole[: ends[0] + cut % (len(whole) + 1 - ends[0])] + garbage
    part.rows_file.write_bytes(left)
    again = DownloadPart(folder, 0, 0, part_links)
    again.open()
    again.close()
    kept = sum(left.startswith(whole[:end]) for end in ends[1:])
    assert again.missing == list(range(kept, 4))
    assert again.rows_file.read_bytes() == whole[: ends[kept]]


def test_a_tar_of_images_is_an_ordinary_one(web: str, tmp_path: Path) -> None:
    download(links(web, 4), 4, tmp_path, options())
    with tarfile.open(tmp_path / "part-000000.tar") as tar:
        names = tar.getnames()
        assert all((member.mtime, member.uid, member.uname) == (0, 0, "") for member in tar)
    assert names == [f"{row_index:09d}.jpg" for row_index in range(4)]
    assert json.loads((tmp_path / "download.json").read_text())["rows_per_part"] == 16


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ([], False), (["all"], False), (["noai"], True), (["nofollow, NoImageAI"], True), (["noindex"], True),
        (["none"], True), (["noml"], True), (["ccmb: noai"], True), (["CCMB: noimageindex"], True),
        (["otherbot: noai, noimageai"], False), (["otherbot: noai", "noindex"], True),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST"], False),
        (["googlebot: noindex, unavailable_after: 25 Jun 2030 15:00:00 PST"], False),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noimageai"], True),
        (["unavailable_after: Wednesday, 25-Jun-30 15:00:00 GMT, NOAI "], True),
        (["otherbot: unavailable_after: Wednesday, 25-Jun-30 15:00:00 GMT, noindex"], False),
        (["googlebot: nofollow, ccmb: noai"], True), (["ccmb: nofollow, otherbot: noai"], False),
        (["googlebot: max-snippet: 5, noai"], False), (["max-image-preview:large, max-snippet:-1, noml"], True),
        (["*: noai"], True), (["ccmb/1.0 : noindex"], True), (["noai; noimageai"], True), (["", " , :noai"], True),
        (["my bot: noai", "nofollow"], False), (["noarchive"], False), (["noaim, xnoai"], False),
    ],
)  # fmt: skip
def test_robots_headers_of_several_directives_agents_and_dates(headers: list[str], refused: bool) -> None:
    assert robots_refuse(headers, "ccmb") is refused


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ([], False),
        (["1"], True),
        ([" 1 "], True),
        (["0"], False),
        (["0", "1"], True),
        (["0, 1"], True),
        (["10"], False),
    ],
)
def test_a_reservation_of_text_and_data_mining(values: list[str], refused: bool) -> None:
    assert tdm_reserved(values) is refused
    headers = CIMultiDict(
        [*(("tdm-reservation", value) for value in values), ("tdm-policy", "https://a.cn/policy.json")]
    )
    assert opted_out(CIMultiDictProxy(headers), "ccmb") is refused


def test_robots_headers_can_be_disregarded(folder: Path, tmp_path: Path) -> None:
    with serve(folder, Faults(opted_out=1.0)) as base:
        done = download(links(base, 4), 4, tmp_path, options(obey_robots=False))
    assert done.statuses == {"ok": 4}


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after("7") == 7.0
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert 80 < (retry_after(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 90))) or 0) <= 90
    assert retry_after("soon") is None
    assert retry_after("") is None


def fetched_from(answers: dict[str, bytes], **changes: object) -> dict[str, tuple[str, bytes]]:
    """What a fetcher makes of bytes that a server answers word for word, by path."""

    async def run() -> dict[str, tuple[str, bytes]]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(answers[head.split()[1].decode().lstrip("/")])
            writer.close()

        server = await asyncio.start_server(answer, HOST, 0)
        base = f"http://{HOST}:{server.sockets[0].getsockname()[1]}/"
        async with Fetcher(network(retries=0, **changes)) as fetcher:
            fetched = {name: await fetcher.fetch(base + name) for name in answers}
        server.close()
        return {name: (one.status, one.body) for name, one in fetched.items()}

    return asyncio.run(run())


def test_a_body_that_unpacks_without_end_is_too_large() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
    fetched = fetched_from({
        "small": head + gzip.compress(b"picture"), "bomb": head + gzip.compress(bytes(10**8)), "broken": head + b"x",
    })  # fmt: skip
    assert fetched == {"small": ("ok", b"picture"), "bomb": ("too_large", b""), "broken": ("truncated", b"")}


OK, FOUND, END = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 302 Found\r\n", b"\r\n\r\n"
ODD_ANSWERS = {
    "nothing": (b"", "connection"),
    "no-http": (b"220 smtp ready" + END, "bad_answer"),
    "empty": (OK + b"Content-Length: 0" + END, "empty"),
    "negative": (OK + b"Content-Length: -7" + END, "bad_answer"),
    "enormous": (OK + b"Content-Length: 99999999999" + END, "too_large"),
    "no-chunk": (OK + b"Transfer-Encoding: chunked" + END + b"zz", "bad_answer"),
    "long-head": (OK + b"X: " + b"A" * 10**6 + END, "bad_answer"),
    "no-status": (b"HTTP/1.1 999 no" + END, "http_999"),
    "nowhere": (FOUND + END, "bad_redirect"),
    "no-url": (FOUND + b"Location: http://[" + END, "bad_redirect"),
    "file": (FOUND + b"Location: file:///etc/passwd" + END, "bad_redirect"),
    "password": (FOUND + b"Location: http://a:b@c.cn/" + END, "bad_redirect"),
}


def test_servers_may_answer_anything() -> None:
    fetched = fetched_from({name: answer for name, (answer, _) in ODD_ANSWERS.items()})
    assert fetched == {name: (status, b"") for name, (_, status) in ODD_ANSWERS.items()}


def test_full_disk_is_one_line(web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ccmb.corpus.download.parts._write_tar", full)
    with pytest.raises(CcmbError, match=r"part-000000\.tar: could not be written \(.*No space left"):
        download(links(web, 4), 4, tmp_path, options())
    monkeypatch.undo()
    done = download(links(web, 4), 4, tmp_path, options())
    assert (done.asked, done.statuses) == (0, {"ok": 4})
