"""The families of tasks that are measured, in the order of the table of all (`ccmb.tasks.registry`)."""

from __future__ import annotations

from typing import Any

from ccmb.benchmark.families.captioning import CaptioningBenchmark
from ccmb.benchmark.families.classification import ClassificationBenchmark
from ccmb.benchmark.families.generation import GenerationBenchmark
from ccmb.benchmark.families.matching import MatchingBenchmark
from ccmb.benchmark.families.retrieval import RetrievalBenchmark
from ccmb.benchmark.family import BenchmarkFamily

BENCHMARKS: dict[str, BenchmarkFamily[Any, Any, Any]] = {
    family.name: family
    for family in (
        RetrievalBenchmark(),
        MatchingBenchmark(),
        ClassificationBenchmark(),
        CaptioningBenchmark(),
        GenerationBenchmark(),
    )
}
