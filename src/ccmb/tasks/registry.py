"""The families of tasks, by name: whoever does something for each of them asks here."""

from __future__ import annotations

from ccmb.tasks.captioning.finetune import CaptioningFamily
from ccmb.tasks.family import Family
from ccmb.tasks.generation.finetune import GenerationFamily
from ccmb.tasks.matching.finetune import MatchingFamily
from ccmb.tasks.retrieval.finetune import RetrievalFamily

FAMILIES: dict[str, Family] = {
    "retrieval": RetrievalFamily(),
    "matching": MatchingFamily(),
    "captioning": CaptioningFamily(),
    "generation": GenerationFamily(),
}
