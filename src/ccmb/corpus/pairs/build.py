"""From logs, pages and link lists to `pairs.parquet`: all steps in order, and what each of them dropped.

out/pairs.parquet/part-00000.parquet ..   a row for each pair, sorted by image, with click statistics and place
out/funnel.json                           rows of each step, kept and dropped by reason
out/steps/                                results of the steps; may be removed when the build is done
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import daft
from daft import DataFrame, DataType, col
from daft import functions as F

from ccmb.core.config.retired_keys import renamed_recipe
from ccmb.core.progress import Advance, progress
from ccmb.corpus.base.daft_engine import (
    ROWS_PER_BUCKET,
    Table,
    buckets_for,
    counts_by,
    each_bucket,
    hashed,
    use_runner,
    write_in_order,
)
from ccmb.corpus.base.funnel import Funnel
from ccmb.corpus.base.recipe import CorpusRecipe, FieldName
from ccmb.corpus.base.sampling import with_sample_positions
from ccmb.corpus.base.steps import Steps, digest_of
from ccmb.corpus.clicks import aggregate as clicks
from ccmb.corpus.inputs.records import IMPRESSIONS, LINKS, PAGES
from ccmb.corpus.inputs.tables import Inputs, InputTable, read_test_texts
from ccmb.corpus.pairs import filters as pair_filters
from ccmb.corpus.pairs.candidates import write_candidates, write_texts
from ccmb.corpus.texts import near_duplicates as text_dedup
from ccmb.corpus.texts.filters import read_words

LOG_STEPS, STEPS = 7, 21
TABLES_OF_A_BAND = 4  # two texts that share a band have two signatures
PAIRS, FUNNEL = "pairs.parquet", "funnel.json"
COLUMNS = (
    "image_key", "image_url", "page_url", "domain", "field", "text", "views", "clicks", "bound", "score", "place",
)  # fmt: skip
UNSEEN = "no kept query of its image"


def build_pairs(
    inputs: Inputs,
    recipe: CorpusRecipe,
    out: Path,
    ray: str | None = None,
    rows_per_bucket: int = ROWS_PER_BUCKET,
) -> Funnel:
    """Write the pairs and the funnel into `out`. An interrupted build goes on after its last finished step.

    End the process by `daft_engine.leave`, or call this through `daft_engine.run_in_process`.

    Args:
        ray: address of an existing Ray cluster, which sees all files under the same paths; None: this machine.
        rows_per_bucket: how many rows of the log are in memory at a time. A cluster spills, so take many there.

    Raises:
        CcmbError: an input cannot be read, or `out` holds another build.
    """
    use_runner(ray)
    with progress("corpus", STEPS if inputs.impressions else STEPS - LOG_STEPS, "steps") as advance:
        return Build(inputs, recipe, out, rows_per_bucket, advance).run()


class Build:
    """One build: its inputs, its steps and its funnel."""

    def __init__(
        self, inputs: Inputs, recipe: CorpusRecipe, out: Path, rows_per_bucket: int, advance: Advance | None = None
    ) -> None:
        self.recipe, self.out, self.rows_per_bucket = recipe, out, rows_per_bucket
        exclude = inputs.exclude
        self.log = InputTable(IMPRESSIONS, inputs.impressions, exclude) if inputs.impressions else None
        self.pages = InputTable(PAGES, inputs.pages, exclude) if inputs.pages else None
        self.links = InputTable(LINKS, inputs.links, exclude) if inputs.links else None
        self.test_texts = read_test_texts(inputs.test_texts, exclude)
        tables = [table for table in (self.log, self.pages, self.links) if table is not None]
        sizes = {table.kind.name: table.sizes() for table in tables}
        listed = recipe.text.sensitive_words
        words = digest_of([*self.test_texts, "", *(read_words(listed) if listed is not None else [])])
        about = {"files": sizes, "words": words, "recipe": recipe.model_dump(mode="json"), "rows": rows_per_bucket}
        self.steps = Steps(out / "steps", about, advance, partial(renamed_recipe, CorpusRecipe))
        self.buckets = buckets_for(max(table.rows() for table in tables), rows_per_bucket)
        self.funnel = Funnel()
        for table in tables:
            if table.passed_over:
                counts: dict[str | None, int] = {None: len(table.files)}
                counts.update(table.passed_over.counts)
                self.funnel.add(f"files of {table.kind.name}", "files", counts)

    def run(self) -> Funnel:
        if self.log is not None:
            self._clicks(self.log)
        self._texts()
        self._corpus()
        self._pairs()
        self.funnel.write(self.out / FUNNEL)
        return self.funnel

    def table(self, name: str) -> Table:
        return self.steps.table(name, self.buckets)

    def _clicks(self, log: InputTable) -> None:
        recipe, run, table, buckets = self.recipe.clicks, self.steps.run, self.table, self.buckets

        def write_impressions(to: Path) -> None:
            for part in log.parts(self.rows_per_bucket):
                clicks.write_impressions(part, recipe.position.max_position, to, buckets)

        def pair_texts(to: Path) -> None:
            for part in log.parts(self.rows_per_bucket):
                clicks.write_pair_texts(part, table("evidence"), to, buckets)

        run("views", write_impressions)
        dropped = run("counts", lambda to: clicks.write_counts(table("views"), recipe.visitors, to, buckets))
        run("positions", lambda to: clicks.write_positions(table("counts"), to))
        examination = run("examination", lambda to: clicks.estimate_examination(table("positions"), recipe))
        run("evidence", lambda to: clicks.write_click_statistics(table("positions"), examination, recipe, to))
        run("pair_texts", pair_texts)
        run("queries", lambda to: clicks.write_queries(table("pair_texts"), table("evidence"), to))
        seen = sum(impressions for _, impressions in counts_by(table("positions").read(), "position", "views").values())
        self.funnel.add("impressions", "impressions", {None: seen, **dropped}, table("views").rows())
        self.funnel.add("clicks", "pairs", reasons(table("evidence")))

    def _texts(self) -> None:
        """Filter the candidates of all sources one by one, then merge equal texts of an image."""

        def work(to: Path) -> None:
            for records, fields in self._records():
                write_candidates(records, fields, self.recipe.text, to, self.buckets)

        self.steps.run("candidates", work)
        again = self.steps.run("texts", lambda to: write_texts(self.table("candidates"), to))
        filtered = reasons(self.table("candidates"))
        self.funnel.add("texts", "texts", filtered)
        self.funnel.add("exact duplicates", "texts", {None: self.table("texts").rows(), **again}, filtered.get(None, 0))

    def _records(self) -> list[tuple[DataFrame, list[FieldName]]]:
        """The records of each source with `reason`, and the fields whose texts they hold."""
        sources: list[tuple[DataFrame, list[FieldName]]] = []
        if self.log is not None:
            queries = self.table("queries").read()
            sources.append((queries.with_column("reason", _nothing()), ["query"]))
        if self.pages is not None:
            pages, fields = self.pages.read(), ["title", "content"]
            reason = F.when(col("damaged"), clicks.DAMAGED)
            if self.log is not None:
                shown = self.table("queries").read().groupby("image").agg(col("views").max().alias("shown"))
                pages = pages.with_column("image", hashed("image_url")).join(shown, on="image", how="left")
                reason = reason.when(F.is_null(col("shown")), UNSEEN)
            else:
                fields = ["query", *fields]
            sources.append((pages.with_column("reason", reason.otherwise(None)), fields))  # type: ignore[arg-type]
        if self.links is not None:
            links = self.links.read()
            reason = F.when(col("damaged"), clicks.DAMAGED)
            sources.append((links.with_column("reason", reason.otherwise(None)), ["caption"]))
        return sources

    def _corpus(self) -> None:
        """Filter texts by what else the corpus holds. The buckets are smaller: each text has many bands and hashes."""
        recipe, run, dedup = self.recipe, self.steps.run, self.recipe.dedup
        texts = self.table("texts")
        buckets = buckets_for(texts.rows() * dedup.bands * TABLES_OF_A_BAND, self.rows_per_bucket)

        def table(name: str) -> Table:
            return self.steps.table(name, buckets)

        maximum = recipe.text.max_texts_per_template or 2**62
        run("by_text", lambda to: pair_filters.write_by_text(texts, to, buckets))
        run("by_template", lambda to: pair_filters.write_by_template(table("by_text"), to, buckets))
        run("templates", lambda to: pair_filters.write_templates(table("by_template"), maximum, to))
        signatures, bands = table("signatures"), table("bands")
        run("signatures", lambda to: text_dedup.write_signatures(table("by_text"), dedup, to))
        run("bands", lambda to: text_dedup.write_bands(signatures, dedup, to, buckets))
        run("compared", lambda to: text_dedup.write_compared(bands, to, buckets))
        run("half_signed", lambda to: text_dedup.write_half_signed(table("compared"), signatures, to, buckets))
        half_signed = table("half_signed")
        run(
            "near",
            lambda to: text_dedup.write_near_duplicates(half_signed, signatures, dedup.corpus_threshold, to, buckets),
        )
        tests = self.test_texts
        run(
            "tests",
            lambda to: text_dedup.write_test_duplicates(
                tests, signatures, bands=bands, text=recipe.text, recipe=dedup, folder=to, buckets=buckets
            ),
        )
        tables = table("by_text"), table("near"), table("tests"), self.steps.table("templates")
        run("verdicts", lambda to: pair_filters.write_drop_reasons(*tables, recipe, to, self.buckets))
        run("judged", lambda to: pair_filters.write_filtered(texts, self.table("verdicts"), recipe, to))

    def _pairs(self) -> None:
        filtered, share = self.table("judged"), self.recipe.pairs.max_domain_share
        shares = pair_filters.kept_shares(pair_filters.count_domains(filtered), share) if share is not None else {}
        counted = self.steps.run("pairs", lambda to: self._write_pairs(filtered, shares, to), self.out / PAIRS)
        counts = {reason or None: count for reason, count in counted.items()}
        self.funnel.add("pairs", "pairs", counts, self.table("texts").rows())

    def _write_pairs(self, filtered: Table, shares: Mapping[str | None, float], to: Path) -> dict[str, int]:
        """Write the kept pairs of each bucket as one sorted file, and return the counts by reason ("" for kept)."""
        counts: dict[str, int] = {}
        for bucket, frame in each_bucket(filtered):
            frame = pair_filters.cap_domains(frame, shares).collect()
            for reason, (count,) in counts_by(frame, "reason").items():
                counts[reason or ""] = counts.get(reason or "", 0) + count
            kept = with_sample_positions(frame.where(F.is_null(col("reason"))), self.recipe.seed)
            kept = kept.sort(["image", "rank", "text"]).select(*COLUMNS)
            write_in_order(kept, to / f"part-{bucket:05d}.parquet")
        return counts


def _nothing() -> daft.Expression:
    return daft.lit(None).cast(DataType.string())


def reasons(table: Table) -> dict[str | None, int]:
    """The number of rows by drop reason; None: kept."""
    counts: dict[Any, tuple[int, ...]] = counts_by(table.read(), "reason")
    return {reason: count for reason, (count,) in counts.items()}
