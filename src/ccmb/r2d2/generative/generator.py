"""R2D2Generator: an R2D2 with a denoiser that generates images from texts.

The denoiser is a UNet of diffusers. Its cross-attention reads all token states of R2D2's text tower through one linear
layer. It generates either pixels, folded into blocks so that there is less to compute, or the latents of a published
pipeline, whose text encoder the tower then replaces. The R2D2 itself is kept unchanged beside it, so that its match
score can choose among several images.

Shapes: B images, S their side in pixels, C x H x W the generated latent, T text tokens, W the text tower's width, X
the width of cross-attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ccmb.core.choices import Solver
from ccmb.core.errors import CcmbError, UsageError, one_line
from ccmb.core.files import read_json, write_json
from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.folders.weight_sources import joined, source_of
from ccmb.r2d2.folders.weights import check_finite
from ccmb.r2d2.generative.diffusion import DiffusionProcess, diffusion_process_of
from ccmb.r2d2.loading import load_model, model_folder
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor
from ccmb.r2d2.towers.two_towers import TowerOutput

CONFIG, WEIGHTS = "generator.json", "generator.safetensors"  # beside the R2D2's own files
OWN = ("painter.", "autoencoder.")  # prefixes of the tensors that a plain R2D2 does not have


@dataclass(frozen=True, slots=True)
class GeneratorConfig:
    """The shape of a generator beside that of its R2D2.

    Attributes:
        side: of the images, in pixels.
        unet: configuration of diffusers' UNet2DConditionModel; a new one has two input channels more than outputs.
        fold: side of the blocks of pixels that become channels; 1 with an autoencoder.
        autoencoder: configuration of diffusers' AutoencoderKL; without one pixels are generated.
        scheduler: configuration of a published pipeline's scheduler; without one flow matching is used.
    """

    side: int
    unet: dict[str, Any]
    fold: int = 1
    autoencoder: dict[str, Any] | None = None
    scheduler: dict[str, Any] | None = None


class Denoiser(nn.Module):
    """The UNet with its text conditioning.

    A new UNet, of our own shape, has two inputs more than a published one: the mean of the text in all its layers, and
    the position of each block of pixels, since convolutions alone hardly know left from right.

    Attributes:
        read: projects token states to the width of cross-attention.
        nothing: (X,) the null embedding, which is read in place of a dropped text; its name is that of stored weights.
    """

    def __init__(self, unet: Any, text_width: int) -> None:
        super().__init__()
        self.unet = unet
        self.read = nn.Linear(text_width, unet.config.cross_attention_dim)
        self.nothing = nn.Parameter(torch.zeros(unet.config.cross_attention_dim))
        self.is_new = unet.config.in_channels == unet.config.out_channels + 2

    def forward(
        self, noisy_BCHW: Tensor, time_B: Tensor, texts: TowerOutput, drop_condition_B: Tensor | None = None
    ) -> Tensor:
        """The UNet's prediction for noisy images.

        Args:
            drop_condition_B: True where the null embedding is read in place of the text.
        """
        states_BTX, mask_BT = self.read(texts.states), texts.mask
        if mask_BT is None:
            mask_BT = states_BTX.new_ones(states_BTX.shape[:2])
        if drop_condition_B is not None:
            states_BTX = torch.where(drop_condition_B[:, None, None], self.nothing, states_BTX)
        inputs: dict[str, Any] = {"encoder_hidden_states": states_BTX, "encoder_attention_mask": mask_BT}
        if self.is_new:
            weights_BT = mask_BT.to(states_BTX.dtype) / mask_BT.sum(1, keepdim=True)
            inputs["class_labels"] = (states_BTX * weights_BT[:, :, None]).sum(1)
            noisy_BCHW = torch.cat([noisy_BCHW, _places(noisy_BCHW)], 1)
        return self.unet(noisy_BCHW, time_B, **inputs).sample


def _places(like_BCHW: Tensor) -> Tensor:
    """(B, 2, H, W) row and column of each block, from -1 to 1."""
    rows, columns = (torch.linspace(-1, 1, size).to(like_BCHW) for size in like_BCHW.shape[2:])
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(len(like_BCHW), -1, -1, -1)


class R2D2Generator(R2D2Model):
    """An R2D2 with a denoiser (`painter`) and, for a published pipeline, its autoencoder."""

    resizable = False

    def __init__(self, config: R2D2Config, shape: GeneratorConfig) -> None:
        super().__init__(config)
        unet, autoencoder = diffusers_classes()
        self.shape = shape
        try:
            self.painter = Denoiser(unet.from_config(shape.unet), config.text_config.hidden_size)
            self.autoencoder: Any = None
            if shape.autoencoder is not None:
                self.autoencoder = autoencoder.from_config(shape.autoencoder).requires_grad_(False)
        except Exception as error:  # whatever diffusers makes of a wrong configuration
            raise UsageError(f"generation: not the shape of a generator ({one_line(error)})") from None

    @property
    def process(self) -> DiffusionProcess:
        return diffusion_process_of(self.shape.scheduler)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the generated latent."""
        side = self.shape.side // self.shape.fold
        if self.autoencoder is not None:
            side = self.shape.side // _scale(self.autoencoder.config)
        return int(self.shape.unet["out_channels"]), side, side

    @torch.no_grad()
    def to_latent(self, pixels_B3SS: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1] as latents (B, C, H, W)."""
        if self.autoencoder is None:
            return F.pixel_unshuffle(pixels_B3SS, self.shape.fold)
        config: Any = self.autoencoder.config
        latent = self.autoencoder.encode(pixels_B3SS).latent_dist.sample()
        return (latent - (config.shift_factor or 0.0)) * config.scaling_factor

    @torch.no_grad()
    def to_pixels(self, latent_BCHW: Tensor) -> Tensor:
        """Latents (B, C, H, W) as images (B, 3, S, S) in [-1, 1]."""
        if self.autoencoder is None:
            return F.pixel_shuffle(latent_BCHW, self.shape.fold).clamp(-1, 1)
        config: Any = self.autoencoder.config
        return self.autoencoder.decode(latent_BCHW / config.scaling_factor + (config.shift_factor or 0.0)).sample.clamp(
            -1, 1
        )

    @torch.no_grad()
    def sample_images(
        self, texts: TowerOutput, noise_BCHW: Tensor, steps: int, guidance: float, solver: Solver = "euler"
    ) -> Tensor:
        """Generate images (B, 3, S, S) in [-1, 1] for encoded texts.

        Args:
            noise_BCHW: the starting noise.
            guidance: how far to go from the prediction without the text to the one with it: 1 is the latter, larger
                values go beyond (classifier-free guidance; Ho and Salimans 2022, arXiv 2207.12598).
        """
        drop_condition_2B = torch.arange(2 * len(noise_BCHW), device=noise_BCHW.device) >= len(noise_BCHW)
        twice = TowerOutput.cat([texts, texts])

        def predict(x_BCHW: Tensor, time_B: Tensor) -> Tensor:
            if guidance == 1:
                return self.painter(x_BCHW, time_B, texts)
            both = self.painter(x_BCHW.repeat(2, 1, 1, 1), time_B.repeat(2), twice, drop_condition_2B)
            with_text, without_text = both.chunk(2)
            prediction = without_text.lerp(with_text, guidance)
            # Guidance may leave the range of pixels.
            return prediction.clamp(-1, 1) if self.autoencoder is None else prediction

        return self.to_pixels(self.process.sample(predict, noise_BCHW, steps, solver))

    @classmethod
    def from_r2d2(cls, model: R2D2Model, shape: GeneratorConfig) -> R2D2Generator:
        """A generator with a new denoiser, from torch's global generator."""
        made = cls(model.config, shape)
        made.load_state_dict(model.state_dict(), strict=False)
        return made.train(model.training)

    @classmethod
    def from_pipeline(cls, model: R2D2Model, name: str, side: int | None = None) -> R2D2Generator:
        """A generator that starts with the UNet and autoencoder of a published pipeline of diffusers.

        Args:
            name: folder or hub id.
            side: of the images, in pixels; by default the pipeline's own.

        Raises:
            UsageError: `side` does not suit the pipeline, or diffusers is not installed.
            CcmbError: it is not a pipeline of a UNet, an autoencoder and a scheduler, or a file is missing or damaged.
        """
        unet, autoencoder, scheduler = _open_pipeline(name)
        scale = _scale(autoencoder.config)
        side = side or int(unet.config.sample_size) * scale
        multiple = scale * 2 ** (len(unet.config.block_out_channels) - 1)
        if side % multiple:
            raise UsageError(f"generation.image_size={side}: images of {name} have a multiple of {multiple} pixels")
        shape = GeneratorConfig(side, dict(unet.config), 1, dict(autoencoder.config), scheduler)
        made = cls.from_r2d2(model, shape)
        assert made.autoencoder is not None
        made.painter.unet.load_state_dict(unet.state_dict())
        made.autoencoder.load_state_dict(autoencoder.state_dict())
        made.config.sources = joined(model.config.sources, [source_of("generator", name)])
        return made

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, state_dict: dict[str, Tensor] | None = None, **kwargs: Any
    ) -> None:
        """Write a whole R2D2 model folder, with the generator in two further files."""
        state = self.state_dict() if state_dict is None else state_dict
        own = {name: tensor.contiguous() for name, tensor in state.items() if name.startswith(OWN)}
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(own, folder / WEIGHTS)
        write_json(folder / CONFIG, asdict(self.shape))
        super().save_pretrained(folder, state_dict={n: t for n, t in state.items() if n not in own}, **kwargs)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Read a model folder that `save_pretrained` wrote; see `load_generator`, which reads the processor too."""
        return load_generator(*args, **kwargs)[0]


def pipeline_side(name: str) -> int:
    """Side in pixels of the images of a published pipeline; see `R2D2Generator.from_pipeline`."""
    unet, autoencoder, _ = _open_pipeline(name)
    return int(unet.config.sample_size) * _scale(autoencoder.config)


def generator_processor(processor: R2D2Processor, side: int) -> R2D2Processor:
    """The processor of a generator's images and texts: pixels in [-1, 1] at the generator's side."""
    half = (0.5,) * 3
    return R2D2Processor(
        processor.tokenizer, side, processor.max_text_tokens, half, half, text_prefix=processor.text_prefix
    )


def has_generator(name: str | Path) -> bool:
    """Whether a run, model folder or hub id has a generator.

    Raises:
        CcmbError: there is no such model.
    """
    return (model_folder(name) / CONFIG).is_file()


def read_shape(name: str | Path) -> GeneratorConfig:
    """The shape of a model folder's generator.

    Raises:
        CcmbError: it has none, or its file is damaged.
    """
    if not has_generator(name):
        raise CcmbError(
            f"{name}: this model paints no images yet; make one that does: ccmb finetune generation --model {name}"
        )
    path = model_folder(name) / CONFIG
    try:
        return GeneratorConfig(**read_json(path))
    except TypeError:
        raise CcmbError(f"{path}: not the shape of a generator; save it anew") from None


def load_generator(name: str | Path, changes: Mapping[str, Any] | None = None) -> tuple[R2D2Generator, R2D2Processor]:
    """Generator (in evaluation mode, float32) and processor of a run folder, model folder or hub id.

    Args:
        changes: see `load_model`.

    Raises:
        CcmbError: the model has no generator, or something is missing or damaged; the message names the file.
    """
    shape = read_shape(name)
    folder, (model, processor) = model_folder(name), load_model(name, changes=changes)
    try:
        state = model.state_dict() | load_file(folder / WEIGHTS)
        generator = R2D2Generator(model.config, shape)
        generator.load_state_dict(state)
    except OSError as error:
        raise CcmbError(f"{folder / WEIGHTS}: {error.strerror or one_line(error)}") from None
    except UsageError:
        raise
    except Exception as error:  # whatever torch and safetensors make of a damaged file
        raise CcmbError(f"{folder / WEIGHTS}: the generator cannot be loaded ({one_line(error)})") from None
    check_finite(folder / WEIGHTS, generator.state_dict().items())
    return generator.eval(), processor


def diffusers_classes() -> tuple[Any, Any]:
    """UNet2DConditionModel and AutoencoderKL.

    Raises:
        UsageError: diffusers is not installed.
    """
    try:
        from diffusers import AutoencoderKL, UNet2DConditionModel
    except ImportError:
        raise UsageError("painting images needs diffusers; install it with pip install 'ccmb[generate]'") from None
    return UNet2DConditionModel, AutoencoderKL


def _open_pipeline(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """UNet, autoencoder and configuration of the scheduler."""
    unet, autoencoder = diffusers_classes()
    from diffusers import DDIMScheduler  # any of them reads the configuration of all

    try:
        return (
            unet.from_pretrained(name, subfolder="unet", use_safetensors=True),
            autoencoder.from_pretrained(name, subfolder="vae", use_safetensors=True),
            dict(DDIMScheduler.load_config(name, subfolder="scheduler")),
        )
    except Exception as error:  # whatever diffusers makes of a folder that is none, or of a damaged file
        raise CcmbError(
            f"{name}: not a pipeline of diffusers with unet, vae and scheduler in safetensors ({one_line(error)})"
        ) from None


def _scale(config: Any) -> int:
    """The number of pixels along the side of one cell of the latent."""
    return int(2 ** (len(config["block_out_channels"]) - 1))
