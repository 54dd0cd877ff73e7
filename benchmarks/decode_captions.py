"""How much faster captions are decoded with keys and values kept: beam search to a fixed length, paired.

Three contestants search the same beams and must find the same captions:
    kept      keys and values of all tokens so far and of the image
    image   those of the image alone: all tokens are computed anew for each further one
    nothing   not even those: the image is projected anew for each further token, once a beam

    python benchmarks/decode_captions.py --shape base --json results.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ccmb.r2d2.decoders.caption_decoder import CaptionState
from ccmb.r2d2.generative.captioner import CaptionerConfig, R2D2Captioner
from ccmb.tasks.captioning.decoding import Decoded, Decoding, Vocabulary, decode_captions
from paired import Contestant, claim, median_ratio, take_turns, write_report
from step_shapes import shape_config

TARGET = 3.0
VOCABULARY = Vocabulary(start=101, end=102, never=(0, 100, 103))  # of BERT's Chinese vocabulary
CLOSE = 1e-2  # of log-probabilities of thirty tokens


class NothingKept(CaptionState):
    """Captions in progress of which nothing but the tokens and the image tower's states is kept."""

    def __init__(self, model: R2D2Captioner, states_VSC: Tensor) -> None:
        super().__init__(model.decoder, (), cached=False)
        self.states_NSC = states_VSC

    def advance(self, tokens_N: Tensor) -> Tensor:
        self.seen = self.decoder.see(self.states_NSC)
        return super().advance(tokens_N)

    def choose(self, index_M: Tensor) -> None:
        super().choose(index_M)
        self.states_NSC = self.states_NSC[index_M]


def new_captioner(shape: str, device: torch.device) -> R2D2Captioner:
    """A random network whose words differ from image to image."""
    torch.manual_seed(0)
    config = shape_config(shape)
    vocabulary = config.text_config.vocab_size
    layers = CaptionerConfig(config.text_config.num_hidden_layers, VOCABULARY.start, VOCABULARY.end, VOCABULARY.never)
    model = R2D2Captioner(config, layers).eval().to(device)
    with torch.no_grad():
        model.decoder.head.bias.copy_(torch.randn(vocabulary))
    return model


def same(captions_of_one: Sequence[Sequence[Decoded]], captions_of_other: Sequence[Sequence[Decoded]]) -> bool:
    return all(
        one.tokens == other.tokens and abs(one.log_probability - other.log_probability) < CLOSE
        for captions, other_captions in zip(captions_of_one, captions_of_other, strict=True)
        for one, other in zip(captions, other_captions, strict=True)
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time beam search with and without kept keys and values.")
    parser.add_argument("--shape", choices=["test", "tiny", "base"], default="base", help="a preset's")
    parser.add_argument("--images", "--pictures", type=int, default=4)
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--length", type=int, default=30, help="tokens of every caption")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="file to write")
    return parser.parse_args(arguments)


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    device = torch.device(options.device)
    model = new_captioner(options.shape, device)
    size, count = model.config.image_size, options.images
    states_VSC = model.encode_image(torch.randn(count, 3, size, size, device=device)).states
    how = Decoding("beam", options.beams, options.beams, max_length=options.length, min_length=options.length)

    def decode(state: CaptionState) -> list[list[Decoded]]:
        return decode_captions(state, count, VOCABULARY, how)

    def timed(make: Callable[[], CaptionState]) -> Callable[[int], None]:
        def run(_: int) -> None:
            decode(make())

        return run

    states: dict[str, Callable[[], CaptionState]] = {
        "kept": lambda: CaptionState(model.decoder, model.decoder.see(states_VSC)),
        "picture": lambda: CaptionState(model.decoder, model.decoder.see(states_VSC), cached=False),
        "nothing": lambda: NothingKept(model, states_VSC),
    }
    decoded = {name: decode(make()) for name, make in states.items()}
    assert all(same(decoded["kept"], other) for other in decoded.values()), "the captions differ"
    contestants = {name: Contestant(name, timed(make)) for name, make in states.items()}
    take_turns(list(contestants.values()), options.rounds, device, warm_up=0)
    claims, results = [], {}
    for name, target in (("nothing", TARGET), ("picture", None)):
        ratio, low, high = median_ratio(contestants[name], contestants["kept"])
        results[f"{name}/kept"] = {"ratio": ratio, "interval": [low, high]}
        words = f"beams of {options.shape} to length {options.length}: {name} kept / kept"
        claims.append(claim(words, ratio, target, "x"))
    for contestant in contestants.values():
        results[contestant.name] = {"median_seconds": contestant.median, "seconds": contestant.seconds}
    settings = {name: getattr(options, name) for name in ("shape", "images", "beams", "length", "rounds")}
    write_report(options.json, claims, settings | results, device)
    return {"claims": claims, "results": results}


if __name__ == "__main__":
    main()
