"""Logs of the simulated search engine become pairs: what was planted is found, and the result is always the same."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

from ccmb.core.errors import CcmbError, UsageError
from ccmb.corpus.base.daft_engine import ROWS_PER_BUCKET, hashed, run_in_process, use_runner
from ccmb.corpus.base.funnel import Funnel, read_funnel
from ccmb.corpus.base.recipe import CorpusRecipe
from ccmb.corpus.base.sampling import subset
from ccmb.corpus.clicks.rates import rate
from ccmb.corpus.inputs.tables import Inputs
from ccmb.corpus.pairs.build import COLUMNS, FUNNEL, PAIRS, Build, build_pairs
from ccmb.corpus.simulation.logs import simulate
from ccmb.corpus.simulation.pages import SimulatedWeb
from ccmb.corpus.texts.normalize import clean

WEB = SimulatedWeb(images=250, impressions=150_000, draw=False)
Row = dict[str, Any]


def inputs_of(web: Path) -> Inputs:
    return Inputs(impressions=[str(web / "impressions")], pages=[str(web / "pages.jsonl")])


def rows(folder: Path) -> list[Row]:
    table_rows: list[Row] = parquet.read_table(folder).to_pylist()
    return table_rows


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    simulate(folder, WEB)
    return folder


@pytest.fixture(scope="module")
def built(web: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Funnel]:
    out = tmp_path_factory.mktemp("built")
    return out, run_in_process(build_pairs, inputs_of(web), CorpusRecipe(), out)


@pytest.fixture(scope="module")
def truth(web: Path) -> list[Row]:
    table_rows: list[Row] = parquet.read_table(web / "truth.parquet").to_pylist()
    return table_rows


def kept_texts(built: tuple[Path, Funnel]) -> set[tuple[str, str]]:
    return {(row["image_url"], row["text"]) for row in rows(built[0] / PAIRS)}


def url_and_text(row: Row) -> tuple[str, str]:
    return row["image_url"], clean(row["text"], simplified=True)


def test_planted_wrong_pairs_and_spam_are_removed_and_good_pairs_kept(
    built: tuple[Path, Funnel], truth: list[Row]
) -> None:
    kept_set = kept_texts(built)
    kept: dict[str, list[bool]] = defaultdict(list)
    for row in truth:
        kept[row["kind"] if row["field"] == "query" else f"page {row['kind']}"].append(url_and_text(row) in kept_set)
    assert len(kept["wrong"]) > 200
    assert np.mean(kept["wrong"]) <= 0.05
    assert len(kept["page spam"]) > 100
    assert np.mean(kept["page spam"]) <= 0.01
    assert np.mean(kept["good"]) >= 0.9


def test_planted_duplicates_are_removed_and_one_of_each_is_kept(built: tuple[Path, Funnel], truth: list[Row]) -> None:
    listed = [(row["image_url"], row["text"]) for row in rows(built[0] / PAIRS)]
    kept_set = set(listed)
    assert len(listed) == len(kept_set)
    copies: dict[int, set[tuple[str, str]]] = defaultdict(set)
    for row in truth:
        if row["field"] != "query" and row["kind"] != "spam":
            copies[row["origin"]].add(url_and_text(row))
    near = copies.values()
    planted = sum(len(texts) - 1 for texts in near)
    left = sum(max(0, len(texts & kept_set) - 1) for texts in near)
    lost = [not texts & kept_set for texts in near]
    assert planted > 150
    assert left <= 0.1 * planted
    assert np.mean(lost) <= 0.1


def pairs_with_statistics(web: Path, out: Path) -> list[Row]:
    """Every pair of the log with its evidence and its text; one process may build more than once."""
    use_runner()
    build_pairs(inputs_of(web), CorpusRecipe(), out)  # is done already
    build = Build(inputs_of(web), CorpusRecipe(), out, ROWS_PER_BUCKET)
    assert build.log is not None
    texts = build.log.read().select("query", "image_url").distinct().with_column("pair", hashed("query", "image_url"))
    pairs: list[Row] = texts.join(build.table("evidence").read(), on="pair").to_pylist()
    return pairs


def test_corrected_bounds_beat_raw_rates_at_equal_yield(
    web: Path, built: tuple[Path, Funnel], truth: list[Row]
) -> None:
    good = {(row["image_url"], row["text"]) for row in truth if row["field"] == "query" and row["kind"] == "good"}
    pairs = run_in_process(pairs_with_statistics, web, built[0])
    right = np.array([(row["image_url"], row["query"]) in good for row in pairs])
    views, clicks, bound = (np.array([row[name] for row in pairs], float) for name in ("views", "clicks", "bound"))
    size = int(sum(row["reason"] is None for row in pairs))
    assert 0.8 * right.sum() < size < 1.2 * right.sum()

    def precision(scores: np.ndarray) -> float:
        return float(right[np.argsort(-scores, kind="stable")[:size]].mean())

    assert precision(bound) > precision(rate(clicks, views)) + 0.01
    assert precision(bound) > 0.95


def test_examination_is_estimated_from_the_log(web: Path, built: tuple[Path, Funnel]) -> None:
    planted = json.loads((web / "truth.json").read_text())["examination"]
    estimated = json.loads((built[0] / "steps" / "examination" / "_done.json").read_text())
    assert len(estimated) == 50
    np.testing.assert_allclose(estimated[:10], planted[:10], rtol=0.25)
    assert np.corrcoef(np.log(estimated[:20]), np.log(planted))[0, 1] > 0.98


def test_the_funnel_accounts_for_every_row(web: Path, built: tuple[Path, Funnel]) -> None:
    out, funnel = built
    assert read_funnel(out / FUNNEL) == funnel
    impressions = sum(parquet.read_metadata(file).num_rows for file in (web / "impressions").iterdir())
    assert funnel["impressions"].rows == impressions
    assert funnel["clicks"].kept == sum(row["field"] == "query" for row in rows(out / "steps" / "texts" / "bucket=0"))
    assert funnel["exact duplicates"].rows == funnel["texts"].kept
    assert funnel["pairs"].kept == len(rows(out / PAIRS))
    bots = json.loads((web / "truth.json").read_text())["bots"]
    log = parquet.read_table(web / "impressions", columns=["visitor"]).column("visitor").to_pylist()
    dropped = funnel["impressions"].dropped
    by_bots = dropped["too many impressions of a visitor"] + dropped["too many clicks of a visitor"]
    assert by_bots == pytest.approx(sum(visitor in set(bots) for visitor in log), rel=0.02)


def test_the_pairs_do_not_depend_on_buckets_or_files(web: Path, built: tuple[Path, Funnel], tmp_path: Path) -> None:
    moved = tmp_path / "web"
    (moved / "impressions").mkdir(parents=True)
    table = parquet.read_table(web / "impressions")
    parts = [table.slice(at, 40_000) for at in range(0, table.num_rows, 40_000)]
    for index, part in enumerate(reversed(parts)):
        parquet.write_table(part, moved / "impressions" / f"{index}.parquet")
    shutil.copy(web / "pages.jsonl", moved / "pages.jsonl")
    funnel = run_in_process(build_pairs, inputs_of(moved), CorpusRecipe(), tmp_path / "out", None, 50_000)
    assert len(list((tmp_path / "out" / PAIRS).glob("*.parquet"))) > 2
    assert funnel == built[1]
    assert parquet.read_table(tmp_path / "out" / PAIRS).equals(parquet.read_table(built[0] / PAIRS))


def test_a_build_that_broke_off_goes_on_to_the_same_bytes(
    web: Path, built: tuple[Path, Funnel], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(built[0], out)
    for step in ("candidates", "near", "judged"):
        shutil.rmtree(out / "steps" / step)
    shutil.rmtree(out / PAIRS)
    (out / "steps" / ".near.0123abcd.tmp").mkdir()
    views = (out / "steps" / "views" / "_done.json").stat().st_mtime_ns
    assert run_in_process(build_pairs, inputs_of(web), CorpusRecipe(), out) == built[1]
    assert (out / "steps" / "views" / "_done.json").stat().st_mtime_ns == views
    assert not list((out / "steps").glob(".near*"))
    part = Path(PAIRS) / "part-00000.parquet"
    assert (out / part).read_bytes() == (built[0] / part).read_bytes()


def test_a_folder_of_another_build_is_not_touched(web: Path, built: tuple[Path, Funnel]) -> None:
    other = CorpusRecipe.model_validate({"clicks": {"min_ctr": 0.5}})
    with pytest.raises(CcmbError, match="holds steps of other inputs or another recipe"):
        run_in_process(build_pairs, inputs_of(web), other, built[0])


def write_lines(path: Path, lines: list[Row]) -> str:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return str(path)


PLACES = ["海边", "山上", "街角", "林中", "湖畔", "桥下", "田野", "雪原", "港口", "屋顶", "花园", "车站"]
THINGS = ["白色灯塔", "古老寺庙", "红色邮筒", "木制小屋", "黑色天鹅", "石头拱门"]


def build_of_lists(folder: Path, links: list[Row], recipe: Row, test_texts: list[str]) -> tuple[list[Row], Funnel]:
    inputs = Inputs(links=[write_lines(folder / "links.jsonl", links)])
    if test_texts:
        (folder / "test.txt").write_text("\n".join(test_texts), encoding="utf-8")
        inputs = inputs.model_copy(update={"test_texts": [str(folder / "test.txt")]})
    funnel = run_in_process(build_pairs, inputs, CorpusRecipe.model_validate(recipe), folder / "out")
    return rows(folder / "out" / PAIRS), funnel


def test_filters_of_the_whole_corpus(tmp_path: Path) -> None:
    def link(index: int, text: str, **more: Any) -> Row:
        return {"url": f"http://a.com/{index}.jpg", "caption": text, **more}

    links = [link(index, f"{town}的{THINGS[index % 6]}旁是{PLACES[-index - 1]}") for index, town in enumerate(PLACES)]
    links += [link(100 + index, f"第{index}款新品连衣裙正面展示图") for index in range(8)]
    links += [link(200 + index, "好看的图片") for index in range(9)]
    links += [link(300, "一条小狗在沙发上睡觉的样子"), link(301, "一条小狗在沙发上睡觉的样子啊")]
    links += [link(400, "测试集里的一句很长的描述文字"), link(401, "测试集里的一句很长的描述文字呀")]
    links += [link(500, "分数很低的一张风景照片", score=0.1), link(501, "分数很高的城市夜景照片", score=0.9)]
    recipe = {"text": {"max_texts_per_template": 5}, "pairs": {"max_images_per_text": 4, "min_score": 0.2}}
    kept_rows, funnel = build_of_lists(tmp_path, links, recipe, ["测试集里的一句很长的描述文字", "海边"])
    assert funnel["texts"].rows == len(links)
    dropped = funnel["pairs"].dropped
    assert dropped["repeated template"] == 8
    assert dropped["too many images of the text"] == 5
    assert dropped["test text"] == 2
    assert dropped["score too low"] == 1
    texts = [row["text"] for row in kept_rows]
    assert len([text for text in texts if text.startswith("一条小狗")]) == 1
    assert texts.count("好看的图片") == 4
    assert all(f"{town}的{THINGS[index % 6]}旁是{PLACES[-index - 1]}" in texts for index, town in enumerate(PLACES))
    assert tuple(kept_rows[0]) == COLUMNS
    assert all(row["image_key"] and row["domain"] == "a.com" for row in kept_rows)


def test_no_domain_has_too_much(tmp_path: Path) -> None:
    links = [
        {
            "url": f"http://{'big' if index % 4 else 'small'}.com/{index}.jpg",
            "caption": f"{town}{thing}与{other}合影",
        }
        for index, (town, thing, other) in enumerate(
            (town, thing, other) for town in PLACES for thing in THINGS for other in THINGS
        )
    ]
    recipe = {"pairs": {"max_domain_share": 0.25}, "dedup": {"corpus_threshold": None}}
    kept_rows, funnel = build_of_lists(tmp_path, links, recipe, [])
    from_big = sum(row["domain"] == "big.com" for row in kept_rows)
    assert from_big == pytest.approx(len(links) / 4, rel=0.25)
    assert funnel["pairs"].dropped == {"too much of a domain": len(links) * 3 // 4 - from_big}


def test_pages_without_a_log_bring_their_own_queries(tmp_path: Path) -> None:
    page = {"Url": "http://www.p.cn/1", "Title": "夕阳下的帆船和海鸥", "Content": "短", "ImageUrl": "http://a/1.jpg"}
    pages = [page | {"ImageKey": "k1", "ImageQuery": "帆船"}, {"ImageUrl": "http://a/2.jpg"}, {"Title": "无图"}]
    inputs = Inputs(pages=[write_lines(tmp_path / "pages.jsonl", pages)])
    funnel = run_in_process(build_pairs, inputs, CorpusRecipe(), tmp_path / "out")
    assert funnel["texts"].dropped == {"damaged": 1, "no text": 1, "too few characters": 1}
    pairs = [(row["image_key"], row["domain"], row["field"], row["text"]) for row in rows(tmp_path / "out" / PAIRS)]
    assert pairs == [("k1", "p.cn", "query", "帆船"), ("k1", "p.cn", "title", "夕阳下的帆船和海鸥")]


def places_of_known_keys() -> list[float]:
    import daft

    from ccmb.corpus.base.sampling import with_sample_positions

    use_runner()
    positions = with_sample_positions(daft.from_pydict({"image_key": ["", "a"]}), 0).to_pydict()["place"]
    return [float(value) for value in positions]


def shares(folder: Path) -> dict[float, set[str]]:
    import daft

    use_runner()
    pairs = daft.read_parquet(str(folder / PAIRS / "*.parquet"))
    return {share: set(subset(pairs, share).to_pydict()["image_key"]) for share in (0.1, 0.5, 1.0)}


def test_subsets_are_nested_and_of_the_asked_size(built: tuple[Path, Funnel]) -> None:
    keys = run_in_process(shares, built[0])
    images = {row["image_key"] for row in rows(built[0] / PAIRS)}
    assert keys[0.1] < keys[0.5] < keys[1.0] == images
    assert len(keys[0.1]) == pytest.approx(0.1 * len(images), abs=4 * (0.09 * len(images)) ** 0.5)
    assert len(keys[0.5]) == pytest.approx(0.5 * len(images), abs=4 * (0.25 * len(images)) ** 0.5)


def test_places_are_those_of_the_published_hash() -> None:
    # XXH3 (64 bits) of "" and "a", from its specification.
    expected = [0x2D06800538D394C2 / 2**64, 0xE6C632B61E964E1F / 2**64]
    assert run_in_process(places_of_known_keys) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_impossible_subsets_are_refused(share: float) -> None:
    with pytest.raises(UsageError, match="subset"):
        subset(None, share)  # type: ignore[arg-type]


def test_counts_that_do_not_add_up_are_an_error() -> None:
    with pytest.raises(CcmbError, match="given 5 pairs and accounts for 4"):
        Funnel().add("x", "pairs", {None: 1, "bad": 3}, 5)


def test_the_same_seed_writes_the_same_web(web: Path, tmp_path: Path) -> None:
    small = WEB.model_copy(update={"images": 4, "impressions": 100, "draw": True, "size": 32})
    for name, settings in (("a", small), ("b", small), ("c", small.model_copy(update={"seed": 1}))):
        simulate(tmp_path / name, settings)
    files = {
        name: {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in "abc"
    }
    assert files["a"] == files["b"]
    assert files["a"] != files["c"]
    about = json.loads((tmp_path / "a" / "truth.json").read_text())
    urls = {json.loads(line)["ImageUrl"] for line in (tmp_path / "a" / "pages.jsonl").read_text().splitlines()}
    drawn = {f"{small.base_url}/pictures/{path.name}" for path in (tmp_path / "a" / "pictures").iterdir()}
    assert drawn == urls - set(about["dead_links"])
