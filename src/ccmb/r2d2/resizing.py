"""Other sizes for an existing network: larger or smaller images, longer or shorter texts.

All weights are kept except the tables of positions, which are interpolated as in open_clip. Positions of the image
tower are interpolated as a grid (bicubic); that of a class token is kept. Positions of texts are interpolated along the
line (linear), and only if more are needed than there are. The cross encoders have no positions of their own and take
any number of tokens. A network needs some fine-tuning at its new size: interpolated positions are close to the learned
ones, but not the same.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ccmb.core.errors import CcmbError
from ccmb.core.files import atomic_path
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.folders.weight_sources import carried_on
from ccmb.r2d2.loading import load_model, model_folder
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.official import UNUSED_FILE
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.resized_positions import resized


def resize(
    model: R2D2Model, processor: R2D2Processor, image_size: int | None = None, max_text_tokens: int | None = None
) -> tuple[R2D2Model, R2D2Processor]:
    """Network and processor of other sizes, see `resized` and `R2D2Processor.resized`."""
    return resized(model, image_size, max_text_tokens), processor.resized(image_size, max_text_tokens)


def resize_folder(
    source: str | Path, out: str | Path, image_size: int | None = None, max_text_tokens: int | None = None
) -> R2D2Config:
    """Write a run's or folder's model at other sizes into the model folder `out`, which must not exist yet.

    Raises:
        CcmbError: the model cannot be loaded, `out` exists; see also `resized`.
    """
    if Path(out).exists():
        raise CcmbError(f"{out}: exists already; give a new folder")
    folder = model_folder(source)
    model, processor = resize(*load_model(folder), image_size, max_text_tokens)
    model.config.sources = carried_on(model.config.sources, source)
    with atomic_path(out) as new_folder:
        model.save_pretrained(new_folder)
        processor.save_pretrained(new_folder)
        if (folder / UNUSED_FILE).is_file():
            shutil.copyfile(folder / UNUSED_FILE, new_folder / UNUSED_FILE)
    return model.config
