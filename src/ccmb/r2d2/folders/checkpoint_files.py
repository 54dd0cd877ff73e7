"""Weight files of other programs: recognise a file, read its tensors safely, and find a network's weights in it.

A file is recognised by its first bytes, no code in it is run, and names that trainers wrap around weights are removed.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ccmb.core.errors import CcmbError, one_line

LFS = b"version https://git-lfs"
# The first bytes of files that are no weights, and what they are.
BEGINNINGS = {
    b"\x1f\x8b": "a gzip file; unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it first",
    b"Rar!": "a rar archive; unpack it first",
    b"\xfd7zXZ": "an xz file; unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd file; unpack it first",
    b"BZh": "a bzip2 file; unpack it first",
    b"\x93NUMPY": "an array of numpy; weights are wanted, a .pth or .safetensors file",
    b"\x89HDF": "an HDF5 file (Keras, TensorFlow); weights of torch are wanted",
    b"GGUF": "a GGUF file; weights of torch are wanted",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document",
}
PAGE = re.compile(rb"\s*(<!doctype|<html|<head|<\?xml|<script)", re.IGNORECASE)
# The keys under which trainers save weights: trained weights, and averages that follow them.
TRAINED = ("model", "state_dict", "model_state_dict", "module", "net", "network", "student", "weights", "params")
FOLLOWING = ("model_ema", "ema", "ema_model", "ema_state_dict", "state_dict_ema", "teacher")
# What DDP, FSDP, torch.compile and gradient checkpointing put into names, in front or in between.
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def what_file(path: Path) -> str:
    """A description of a file by its content, for a message: "a checkpoint of torch", "a web page, ..." and so on."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(1024)
    if not size:
        return "an empty file; fetch it again"
    if head.startswith(LFS):
        size_match = re.search(rb"size (\d+)", head)
        stands_for = f" that stands for {int(size_match[1]) / 1e6:,.1f} MB" if size_match else ""
        return f"a pointer of Git LFS{stands_for}, not the file; fetch it with git lfs pull"
    if PAGE.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "a web page, not the file that the address seems to name; fetch the file itself (its download link)"
    if known := next((what for begins, what in BEGINNINGS.items() if head.startswith(begins)), None):
        return known
    if _is_safetensors(head):
        return "a safetensors file"
    if head.startswith(b"PK"):
        return _of_zip(path)
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if head.startswith(b"\x80"):
        return "a pickle of torch"
    if head.lstrip()[:1] in (b"{", b"["):
        return "JSON, perhaps an error that a server gave; fetch the file again"
    return "text" if _is_text(head) else "no file of weights"


def read_file(path: str | Path) -> dict[str, Any]:
    """The content of a `.pth` or safetensors file, whatever its suffix; no code in it is run.

    Raises:
        CcmbError: the file is missing, damaged, something else, or holds more than tensors and plain values; the
            message says what it is, or which class was refused.
    """
    path = Path(path)
    if not path.is_file():
        raise CcmbError(f"{path}: no such checkpoint")
    with open(path, "rb") as file:
        head = file.read(9)
    what = what_file(path)
    try:
        if _is_safetensors(head):
            return dict(load_file(path))
        if not what.startswith(("a checkpoint", "a pickle")):
            raise CcmbError(f"{path}: not a readable checkpoint, but {what}")
        with open(path, "rb") as file:  # no path, whose suffix torch would go by
            content = torch.load(file, map_location="cpu", weights_only=True)
    except CcmbError:
        raise
    except SafetensorError as error:
        raise CcmbError(f"{path}: not a whole safetensors file, perhaps cut short ({one_line(error)})") from None
    except Exception as error:  # whatever torch and pickle make of damaged or hostile bytes
        raise CcmbError(f"{path}: {_refusal(error, path)}") from None
    if not isinstance(content, dict):
        raise CcmbError(f"{path}: holds no named tensors, but {_kind(content)}")
    return content


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file that holds nothing but tensors by their names.

    Raises:
        CcmbError: see `read_file`; or there are none.
    """
    tensors = _tensors(read_file(path))
    if not tensors:
        raise CcmbError(f"{path}: holds no named tensors")
    return tensors


def state_dicts(content: Mapping[str, Any], anchor: str) -> dict[str, dict[str, Tensor]]:
    """The weights of all networks of one kind in a checkpoint, by their locations; trained weights come first.

    A location joins the keys of dicts and the prefixes of names that trainers put around weights: `model`,
    `state_dict`, `module.` of DDP, `model.` of Lightning, `model_ema`. "" is the top.

    Args:
        anchor: the name of a tensor that every network of the kind has.
    """
    networks: dict[str, dict[str, Tensor]] = {}
    for where, tensors in _tables(content, ""):
        plain = {WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
        for name in plain:
            if name == anchor or name.endswith(f".{anchor}"):
                prefix = name.removesuffix(anchor)
                location = ".".join(part for part in (where, prefix.rstrip(".")) if part)
                networks[location] = {
                    tensor_name.removeprefix(prefix): plain[tensor_name]
                    for tensor_name in plain
                    if tensor_name.startswith(prefix)
                }
    return dict(sorted(networks.items(), key=lambda item: _preference(item[0])))


def tensor_names(content: Mapping[str, Any]) -> list[str]:
    """The names of all tensors of a checkpoint, without the prefixes of wrappers."""
    return [WRAPPERS.sub("", name) for _, tensors in _tables(content, "") for name in tensors]


def _tables(content: Any, where: str, depth: int = 3) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dict of named tensors within a checkpoint, each with the keys that lead to it."""
    tensors = _tensors(content)
    if tensors:
        yield where, tensors
    if isinstance(content, Mapping) and depth:
        for key, value in content.items():
            if isinstance(key, str) and isinstance(value, Mapping):
                yield from _tables(value, f"{where}.{key}" if where else key, depth - 1)


def _tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _preference(location: str) -> tuple[int, int, int, str]:
    """A sort key for locations: trained weights before their averages, then the more usual keys first."""
    parts = location.split(".") if location else []
    follows = any(part in FOLLOWING or "ema" in part.split("_") for part in parts)
    known = [TRAINED.index(part) if part in TRAINED else len(TRAINED) for part in parts]
    return follows, max(known, default=0), len(parts), location


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors do: a length of eight bytes, then JSON."""
    return len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in head)


def _of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return "a zip file or checkpoint of torch that was cut short; fetch it again"
    if any(name.endswith("/constants.pkl") for name in names):
        return "a program of TorchScript; save its state_dict() in Python and give that"
    if any(name.endswith("data.pkl") for name in names):
        return "a checkpoint of torch"
    if names and all(name.endswith(".npy") for name in names):
        return "arrays of numpy (.npz); weights of torch are wanted"
    return f"a zip archive with {names[0] if names else 'nothing in it'}; unpack it first"


def _refusal(error: Exception, path: Path) -> str:
    reason = one_line(error, 2000)
    if "weights" not in reason.lower() or isinstance(error, EOFError):  # torch's advice to run its code is not ours
        if isinstance(error, EOFError | pickle.UnpicklingError) or "truncat" in reason or "EOF" in reason:
            return f"not a readable checkpoint, perhaps cut short ({reason[:200]}); fetch it again"
        return f"not a readable checkpoint ({reason[:200]})"
    named = re.search(r"GLOBAL ([\w.]+[\w])|global ([\w.]+[\w])|<class '([\w.]+)'>|class ([\w.]+[\w])", reason)
    name = next(filter(None, named.groups()), None) if named else _first_class(path)
    return (
        "refused, for it holds more than tensors and plain values"
        + (f" ({name})" if name else "")
        + "; save the weights alone in the program that wrote it: torch.save(model.state_dict(), FILE)"
    )


def _first_class(path: Path) -> str | None:
    """The first class or function that a plain pickle names; its operations are read, not run."""
    texts: list[str] = []
    try:
        with open(path, "rb") as file:
            for operation, value, _ in pickletools.genops(file):
                if operation.name == "GLOBAL":
                    return str(value).replace(" ", ".")
                if operation.name == "STACK_GLOBAL":
                    return ".".join(texts[-2:])
                if isinstance(value, str):
                    texts.append(value)
    except Exception:  # whatever pickletools makes of bytes that are none
        return None
    return None


def _kind(content: Any) -> str:
    if isinstance(content, Tensor):
        return "one tensor"
    return f"a {type(content).__name__}" + (f" of {len(content)}" if isinstance(content, list | tuple) else "")
