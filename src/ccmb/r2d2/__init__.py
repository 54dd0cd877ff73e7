"""The network. To import it is to let transformers' AutoConfig, AutoModel and AutoProcessor know R2D2."""

from ccmb.r2d2.configuration import R2D2Config
from ccmb.r2d2.modeling import R2D2Model
from ccmb.r2d2.processing import R2D2Processor

__all__ = ["R2D2Config", "R2D2Model", "R2D2Processor"]
