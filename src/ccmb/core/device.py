"""The device, the precision and the state of a network while it infers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ccmb.core.errors import CcmbError


class Evaluable(Protocol):
    """A module, or any object that can switch between training and evaluation like one."""

    training: bool

    def eval(self) -> Any: ...

    def train(self, mode: bool = True) -> Any: ...


def choose_device(name: str, option: str = "training.device") -> torch.device:
    """The device of a name. `auto` is the first GPU if there is one, else the CPU.

    Args:
        option: the user's name of the option, for the message.

    Raises:
        CcmbError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise CcmbError(f"{option}={name}: not a device; use auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise CcmbError(f"{option}={name}: not a device; use auto, cpu or cuda")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise CcmbError(f"{option}={name}: this machine has {gpus} usable GPUs; use cpu or auto")
    return device


def visible_devices(device: str) -> str:
    """The value of CUDA_VISIBLE_DEVICES with which a process sees this one device alone: no GPU for the CPU."""
    if device == "cpu":
        return ""
    index, visible = torch.device(device).index or 0, os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[index] if visible else str(index)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Within the context, torch computes with so many threads on the CPU; as before if `count` is None."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def precision(device: torch.device, name: str) -> Iterator[None]:
    """Compute in a precision (auto, bf16 or fp32), with the attention that is fastest for short sequences.

    bf16 is computed by autocast. On CPUs the backward pass of the fused attention in bf16 is several times slower than
    two matrix products, at the lengths of small images and Chinese captions. In fp32 it is not. If the processor must
    emulate bf16, it is ten times slower than fp32.
    """
    bf16 = computes_bf16(device, name)
    attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" and bf16 else nullcontext()
    with attention, torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        yield


def computes_bf16(device: torch.device, name: str) -> bool:
    """Whether a precision (auto, bf16 or fp32) means bf16 on a device."""
    return native_bf16(device) if name == "auto" else name == "bf16"


def native_bf16(device: torch.device) -> bool:
    """Whether the processor computes bf16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older releases
    return bool(capabilities.get("avx512_bf16", False))


@contextmanager
def inference(module: Evaluable) -> Iterator[None]:
    """Switch a module to evaluation without gradients, and back at the end."""
    before = module.training
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        module.train(before)
