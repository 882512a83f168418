"""USD for a GPU-hour: a user's own prices, else shipped list prices, dated and indicative."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from magicplan import hardware_specs
from magicplan.errors import SpecError, UsageError
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.planning.result import PriceUsed
from magicplan.planning.toml_lines import lines_of

TABLE = "usd_per_hour"
HIGHEST = 10_000.0


def prices_for(
    gpus: list[Accelerator], stated: str | Mapping[str, float] | None, *, needed: bool
) -> dict[str, PriceUsed]:
    """A price for every accelerator, NaN where none is known and none is `needed`.

    `stated` is the path of a TOML with a table `usd_per_hour`, or its content; it must then price
    every accelerator. Raises SpecError naming file, line and field, UsageError for a table and for
    prices that do not ship.
    """
    if stated is not None:
        own = _of_file(stated) if isinstance(stated, str) else _of_table(stated)
        missing = [a.name for a in gpus if a.name not in own.usd_per_hour]
        if missing:
            raise own.error("", f"{missing[0]} is missing: every GPU of the plan needs a price")
        return {
            a.name: PriceUsed(
                gpu=a.name, usd_per_hour=own.usd_per_hour[a.name], note=own.where, indicative=False
            )
            for a in gpus
        }
    found = {a.name: _shipped(a) for a in gpus}
    unknown = [name for name, price in found.items() if math.isnan(price.usd_per_hour)]
    if needed and unknown:
        raise UsageError(
            f"no price ships for {', '.join(unknown)}: state prices, or choose objective gpus"
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prices:
    """A user's own prices, and where they stand."""

    where: str
    """A file, or the field of the plan."""
    lines: Mapping[str, int] | None = None
    """Of the file; None for a table."""
    usd_per_hour: Mapping[str, float] = field(default_factory=dict)

    def error(self, name: str, problem: str) -> UsageError:
        """What is wrong with the price of a name, or with the table where none is given."""
        if self.lines is None:
            return UsageError(f"{self.where}{'.' if name else ': '}{name}{problem}")
        label = f"{TABLE}.{name}" if name else TABLE
        line = self.lines.get(label, self.lines.get(TABLE))
        return SpecError(
            f"{self.where}, line {line}" if line else self.where, f"{TABLE}.{name}{problem}"
        )

    def with_table(self, table: Mapping[str, Any]) -> Prices:
        """Every price looked at, by exact names. Raises UsageError, SpecError."""
        found = {}
        for name, value in table.items():
            try:
                accelerator = hardware_specs.load(str(name))
            except UsageError as problem:
                raise self.error(str(name), f": {problem}") from None
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < float(value) <= HIGHEST:
                raise self.error(
                    str(name), f" is {value!r}, expected USD an hour, up to {HIGHEST:.0f}"
                )
            found[accelerator.name] = float(value)
        return replace(self, usd_per_hour=found)


def _shipped(a: Accelerator) -> PriceUsed:
    price = math.nan if a.price_usd_per_hour is None else a.price_usd_per_hour
    note = a.price_note or "no price ships"
    return PriceUsed(gpu=a.name, usd_per_hour=price, note=note, indicative=True)


def _of_file(path: str) -> Prices:
    try:
        text = Path(path).read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as problem:
        raise SpecError(path, f"cannot be read ({problem.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise SpecError(path, f"is not TOML ({problem})") from None
    table = data.get(TABLE)
    if not isinstance(table, dict) or not table:
        raise SpecError(path, f"has no table [{TABLE}] of prices such as h100-sxm = 2.5")
    return Prices(where=path, lines=lines_of(text)).with_table(table)


def _of_table(table: Mapping[str, Any]) -> Prices:
    return Prices(where="prices").with_table(table)
