"""How tasks of ours are called in mteb."""

from __future__ import annotations

from ccmb.inference.two_stage import Direction

MAIN_SCORE = "hit_rate_at_1"
WAYS: dict[Direction, str] = {"text_to_image": "T2I", "image_to_text": "I2T"}


def task_name(set_name: str, direction: Direction) -> str:
    """The name of a set's task, such as Flickr30kCNT2IRetrieval."""
    words = [word for word in set_name.replace("_", "-").split("-") if word]
    return "".join(word[:1].upper() + word[1:] for word in words) + WAYS[direction] + "Retrieval"
