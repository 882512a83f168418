"""Prices of GPU-hours in USD: a user's own, else shipped list prices, dated and indicative."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from magicplan import hardware_specs
from magicplan.errors import FieldError, SpecError, UsageError
from magicplan.fields import Span, Table, read_toml
from magicplan.hardware_specs.accelerator import Accelerator

TABLE = "usd_per_hour"
Price = Annotated[float, Span(0, 10_000.0, above=True)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PriceUsed:
    """What one GPU-hour was taken to cost."""

    gpu: str
    usd_per_hour: float
    """NaN where no price is known."""
    note: str
    indicative: bool


def prices_for(
    gpus: Sequence[Accelerator], stated: str | Mapping[str, float] | None, *, needed: bool
) -> dict[str, PriceUsed]:
    """A price for every accelerator, NaN where none is known and none is `needed`.

    `stated` is the path of a TOML with a table `usd_per_hour`, or its content; it must then price
    every accelerator. Raises SpecError naming file, line and field, FieldError for a table and for
    prices that do not ship.
    """
    if stated is None:
        return _shipped(gpus, needed=needed)
    own = _own(stated)
    prices = {}
    for name in own.data:
        try:
            accelerator = hardware_specs.load(str(name))
        except SpecError:
            raise
        except UsageError as problem:
            own.fail(str(name), f": {problem}")
        prices[accelerator.name] = own.get(name, Price)
    for a in gpus:
        if a.name not in prices:
            missing = f": {a.name} is missing: every GPU of the plan needs a price"
            raise own.placed(FieldError(own.path, missing))
    where = own.file or "prices"
    return {
        a.name: PriceUsed(gpu=a.name, usd_per_hour=prices[a.name], note=where, indicative=False)
        for a in gpus
    }


def _own(stated: str | Mapping[str, float]) -> Table:
    """A user's own prices."""
    if not isinstance(stated, str):
        return Table(data=stated, path="prices")
    own = read_toml(Path(stated)).table(TABLE, {})
    if not own.data:
        raise SpecError(stated, f"has no table [{TABLE}] of prices such as h100-sxm = 2.5")
    return own


def _shipped(gpus: Sequence[Accelerator], *, needed: bool) -> dict[str, PriceUsed]:
    """The list prices that ship."""
    unknown = [a.name for a in gpus if a.price_usd_per_hour is None]
    if needed and unknown:
        raise FieldError(
            "prices",
            f": no price ships for {', '.join(unknown)}; state $prices, or $objective gpus",
        )
    return {
        a.name: PriceUsed(
            gpu=a.name,
            usd_per_hour=math.nan if a.price_usd_per_hour is None else a.price_usd_per_hour,
            note=a.price_note or "no price ships",
            indicative=True,
        )
        for a in gpus
    }
