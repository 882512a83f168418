"""USD for a GPU-hour: a user's own prices, else shipped list prices, dated and indicative."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magicplan import hardware_specs
from magicplan.errors import SpecError, UsageError
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.planning.plan_result import PriceUsed

TABLE = "usd_per_hour"
HIGHEST = 10_000.0


def prices_for(
    gpus: list[Accelerator], stated: str | Mapping[str, float] | None, *, needed: bool
) -> dict[str, PriceUsed]:
    """A price for every accelerator, NaN where none is known and none is `needed`.

    `stated` is the path of a TOML with a table `usd_per_hour`, or its content; it must then price
    every accelerator. Raises SpecError naming file and field, UsageError where a price is missing.
    """
    if stated is not None:
        where = str(stated) if isinstance(stated, str) else "prices"
        own = _stated(where, stated)
        missing = [a.name for a in gpus if a.name not in own]
        if missing:
            raise SpecError(
                where, f"{TABLE}.{missing[0]} is missing: every GPU of the plan needs a price"
            )
        return {
            a.name: PriceUsed(gpu=a.name, usd_per_hour=own[a.name], note=where, indicative=False)
            for a in gpus
        }
    found = {a.name: _shipped(a) for a in gpus}
    unknown = [name for name, price in found.items() if math.isnan(price.usd_per_hour)]
    if needed and unknown:
        raise UsageError(
            f"no price ships for {', '.join(unknown)}: state prices, or choose objective gpus"
        )
    return found


def _shipped(a: Accelerator) -> PriceUsed:
    price = math.nan if a.price_usd_per_hour is None else a.price_usd_per_hour
    note = a.price_note or "no price ships"
    return PriceUsed(gpu=a.name, usd_per_hour=price, note=note, indicative=True)


def _stated(where: str, stated: str | Mapping[str, float]) -> dict[str, float]:
    table = _read(stated) if isinstance(stated, str) else stated
    found = {}
    for name, value in table.items():
        try:
            accelerator = hardware_specs.load(str(name))
        except UsageError as problem:
            raise SpecError(where, f"{TABLE}.{name}: {problem}") from None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < float(value) <= HIGHEST:
            raise SpecError(
                where, f"{TABLE}.{name} is {value!r}, expected USD an hour, up to {HIGHEST:.0f}"
            )
        found[accelerator.name] = float(value)
    return found


def _read(path: str) -> Mapping[str, Any]:
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        raise SpecError(path, f"cannot be read ({problem.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise SpecError(path, f"is not TOML ({problem})") from None
    table = data.get(TABLE)
    if not isinstance(table, dict) or not table:
        raise SpecError(path, f"has no table [{TABLE}] of prices such as h100-sxm = 2.5")
    return table
