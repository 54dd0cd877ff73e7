"""CCMB: Chinese image-text work in one package. The public names load on first use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ccmb.inference.pipeline import Pipeline
    from ccmb.objectives.model_loss import model_loss
    from ccmb.r2d2.configuration import R2D2Config
    from ccmb.r2d2.generative.captioner import R2D2Captioner
    from ccmb.r2d2.modeling import R2D2Model
    from ccmb.r2d2.processing import R2D2Processor

__version__ = "0.1.0"
__all__ = ["Pipeline", "R2D2Captioner", "R2D2Config", "R2D2Model", "R2D2Processor", "__version__", "model_loss"]

_PLACES = {
    "R2D2Captioner": "generative.captioner",
    "R2D2Config": "configuration",
    "R2D2Model": "modeling",
    "R2D2Processor": "processing",
}
# What builds on the network, not it on them.
_ABOVE = {"Pipeline": "ccmb.inference.pipeline", "model_loss": "ccmb.objectives.model_loss"}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        from importlib import import_module

        modules = {place: import_module(f"ccmb.r2d2.{place}") for place in _PLACES.values()}
        return getattr(modules[_PLACES[name]], name)
    if name in _ABOVE:
        from importlib import import_module

        return getattr(import_module(_ABOVE[name]), name)
    raise AttributeError(f"module 'ccmb' has no attribute '{name}'")


# AutoConfig, AutoModel and AutoProcessor know R2D2 once `ccmb.r2d2` is imported, or a name is taken from `ccmb`.
# A plain `import ccmb` waits for no transformers; where that is there already, it may as well know at once.
if "transformers" in sys.modules:
    import ccmb.r2d2  # noqa: F401
