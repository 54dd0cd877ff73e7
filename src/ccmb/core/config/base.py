"""The base of all parts of recipes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ConfigBase(BaseModel):
    """A part of a recipe: unknown keys are errors, and so are infinite numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
