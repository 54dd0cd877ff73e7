"""The base of all parts of recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from ccmb.core.config.retired_keys import Retired, renamed_here


class ConfigBase(BaseModel):
    """A part of a recipe: unknown keys are errors, and so are infinite numbers.

    Attributes:
        RETIRED: names that keys of this part had before, each with the name of today. They still load, so that recipes
            and run folders that have them go on, but not beside the name of today.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    RETIRED: ClassVar[Mapping[str, str | Retired]] = {}

    @model_validator(mode="before")
    @classmethod
    def _by_names_of_today(cls, values: Any) -> Any:
        return renamed_here(cls, values)[0] if isinstance(values, dict) else values
