"""One key of a config at a time, with a sentence about what was wrong with it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from magicplan.errors import SpecError

LARGEST = 2**31


@cache
def class_defaults() -> dict[str, dict[str, Any]]:
    """What the configuration classes of transformers fill in, by model_type.

    Written by scripts/class_defaults.py from the library itself; config files leave such keys out,
    most of all in a `text_config`.
    """
    path = Path(__file__).parent / "class_defaults.json"
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


class Reader:
    """A config with its name. A key may have several spellings, of which the first one present
    counts; what no spelling says is what the class of `model_type` says, then the default.

    `whole_model` is False for a part of a file that its class completes, as a `text_config`; a
    whole model must say its sizes itself.
    """

    def __init__(self, config: Mapping[str, Any], where: str, *, whole_model: bool = True) -> None:
        self.config, self.where, self.whole_model = config, where, whole_model
        kind = config.get("model_type")
        known = class_defaults().get(kind, {}) if isinstance(kind, str) else {}
        self.defaults: Mapping[str, Any] = known

    def raw(self, *keys: str) -> Any:
        """The value of the first spelling that the config or else its class has; None if none,
        or where the config says null."""
        own = self._own(keys)
        if own is not None or any(key in self.config for key in keys):
            return own
        return next((self.defaults[key] for key in keys if key in self.defaults), None)

    def whole(self, *keys: str, default: int | None = None, low: int = 1) -> int:
        """A whole number of at least `low`; without a default a whole model has to say it."""
        required = default is None and self.whole_model
        value = self._own(keys) if required else self.raw(*keys)
        value = default if value is None else value
        if isinstance(value, float) and math.isfinite(value) and value == int(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value < LARGEST:
            raise SpecError(
                self.where,
                f"{self._said(keys)} is {show(value)}, expected a whole number from {low}",
            )
        return value

    def flag(self, *keys: str, default: bool = False) -> bool:
        """True or false."""
        value = self.raw(*keys)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise SpecError(
                self.where, f"{self._said(keys)} is {show(value)}, expected true or false"
            )
        return value

    def text(self, *keys: str, default: str = "") -> str:
        """A text."""
        value = self.raw(*keys)
        value = default if value is None else value
        if not isinstance(value, str):
            raise SpecError(self.where, f"{self._said(keys)} is {show(value)}, expected a text")
        return value

    def part(self, key: str) -> Mapping[str, Any]:
        """A nested object, empty where absent."""
        value = self.config.get(key)
        value = {} if value is None else value
        if not isinstance(value, Mapping):
            raise SpecError(self.where, f"{key} is {show(value)}, expected an object")
        return value

    def each(self, key: str, length: int | None = None) -> list[Any] | None:
        """A list, one entry a layer where a `length` is given; None where absent."""
        value = self.config.get(key)
        if value is None:
            return None
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise SpecError(self.where, f"{key} is {show(value)}, expected a list")
        if length is not None and len(value) < length:
            raise SpecError(self.where, f"{key} is no list of {length} layers")
        return list(value[:length])

    def wholes(self, key: str, length: int | None = None) -> list[int] | None:
        """A list of whole numbers, see `each`."""
        found = self.each(key, length)
        wrong = [v for v in found or () if isinstance(v, bool) or not isinstance(v, int)]
        if wrong or any(v >= LARGEST for v in found or ()):
            raise SpecError(self.where, f"{key} holds {show(wrong)}, expected whole numbers")
        return found

    def refuse(self, key: str, what: str) -> SpecError:
        """An error for what a key asks for and the planner does not model."""
        return SpecError(self.where, f"{key} asks for {what}, which is not modelled")

    def _own(self, keys: tuple[str, ...]) -> Any:
        return next((self.config[key] for key in keys if self.config.get(key) is not None), None)

    def _said(self, keys: tuple[str, ...]) -> str:
        stated = (key for key in keys if self.config.get(key) is not None)
        return next(stated, next((key for key in keys if key in self.defaults), keys[0]))


def show(value: object) -> str:
    """A value as an error prints it."""
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
