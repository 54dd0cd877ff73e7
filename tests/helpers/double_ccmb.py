"""`ccmb` whose networks are float64, for what torchrun starts; see `exact`."""

from __future__ import annotations

import torch

from ccmb.cli import main as cli

if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    cli.main()
