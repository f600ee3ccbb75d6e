"""Stages, and the dotted keys that they and `--set` change a config with."""

import tomllib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import Field, JsonValue, model_validator

from trainer.config import Section
from trainer.errors import ConfigError

FIXED = ("run_dir", "seed", "num_steps", "model", "engine", "stages", "validation", "checkpoint", "reward")
"""The same for the whole run, as what follows them below."""
FIXED_BELOW = ("data.sources", "sampling.max_prompt_tokens")
"""Read when the run is opened."""


class Stage(Section):
    """From a step or an era on, part of the config is another."""

    name: str
    """Goes to the ledger."""
    from_step: Annotated[int, Field(ge=1)] | None = None
    """The first step it holds for."""
    with_reset: bool = False
    """A reset of cause `stage` comes before that step."""
    from_era: Annotated[int, Field(ge=1)] | None = None
    """Or: it holds from the start of this era, whenever its reset comes."""
    set: dict[str, JsonValue]
    """Dotted keys and their values, as in `--set`."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.from_step is None) == (self.from_era is None):
            raise ValueError("give either `from_step` or `from_era`")
        if self.with_reset and self.from_step is None:
            raise ValueError("`with_reset` needs `from_step`")
        for key in self.set:
            # A whole table would take what is fixed in it along.
            if key in ("data", "sampling") or is_below(key, (*FIXED, *FIXED_BELOW)):
                raise ValueError(f"a stage cannot set {key}")
        return self

    def has_begun(self, step: int, era: int) -> bool:
        return step >= self.from_step if self.from_step is not None else era >= (self.from_era or 0)


def is_below(key: str, tops: Iterable[str]) -> bool:
    """Whether a dotted key is one of `tops` or lies in one of them."""
    return any(key == top or key.startswith(f"{top}.") for top in tops)


def with_settings(source: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `source` with dotted keys set; missing tables are made."""
    merged = dict(source)
    for dotted, value in settings.items():
        key, _, rest = dotted.partition(".")
        below = merged.get(key)
        if rest:
            merged[key] = with_settings(below if isinstance(below, Mapping) else {}, {rest: value})
        else:
            merged[key] = value
    return merged


def parse_setting(text: str) -> tuple[str, JsonValue]:
    """`loss.kl_coef=1e-3` -> ("loss.kl_coef", 0.001). Values are TOML; what is not TOML is taken as a string."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {text}: expected key=value")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value
