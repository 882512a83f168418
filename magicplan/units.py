"""Quantities as people write them, and back. The only unit prefixes in the package.

Inside, everything is a plain number of bytes, seconds, FLOP or tokens. A context's `k` is 1024
tokens, as in "64k" = 65536; a `GB` is 1e9 bytes and a `GiB` 2**30.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Final, Literal

from magicplan.errors import BadQuantity

DECIMAL: Final = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
BINARY: Final = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
TOKENS: Final = {"": 1, "k": 2**10, "m": 2**20}
SECONDS: Final = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0}
MAX_COUNT: Final = 2**20
MAX_TOKENS: Final = 2**30
MAX_VALUES: Final = 4096


def parse_count(text: str, *, option: str, low: int = 1) -> int:
    """A whole number from `low` to 2**20, such as a batch."""
    return _whole(text, option, {"": 1}, low, MAX_COUNT, "a whole number")


def parse_tokens(text: str, *, option: str, low: int = 1) -> int:
    """Tokens from `low` to 2**30; "64k" is 65536."""
    return _whole(text, option, TOKENS, low, MAX_TOKENS, "tokens such as 4096 or 64k")


def parse_number(text: str, *, option: str, zero: bool = False) -> float:
    """A finite positive number, or 0 where that means something."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf or (zero and value == 0)):
        expected = "0 or a positive number" if zero else "a positive number"
        raise BadQuantity(f"{option} {text!r}: expected {expected}")
    return value


def parse_seconds(text: str, *, option: str, reasonable: float = math.inf) -> float:
    """Seconds: "500ms", "0.5s" or a bare number of them, which is questioned above `reasonable`."""
    match = re.fullmatch(r"(?P<number>\d*\.?\d+([eE]-?\d{1,3})?)\s*(?P<unit>[a-z]*)", text.strip())
    value = float(match["number"]) if match and match["unit"] in SECONDS else math.nan
    seconds = value * SECONDS[match["unit"]] if match and not math.isnan(value) else math.nan
    if not 0 < seconds < math.inf:
        raise BadQuantity(f"{option} {text!r}: expected a time such as 500ms, 0.5s, or seconds")
    if match and not match["unit"] and seconds > reasonable:
        raise BadQuantity(
            f"{option} {text}: that is {text} seconds; write {text.strip()}ms for milliseconds, or "
            f"{text.strip()}s if seconds are meant"
        )
    return seconds


def parse_grid(text: str, *, option: str, tokens: bool = False) -> list[int]:
    """A list `1,8,32`, a doubling range `1..256*2` (any factor), or both mixed by commas.

    The end of a range is included where the steps meet it. At most 4096 values.
    """
    read = parse_tokens if tokens else parse_count
    values: list[int] = []
    for part in text.split(","):
        values += _range(part, option, read) if ".." in part else [read(part, option=option)]
        if len(values) > MAX_VALUES:
            raise BadQuantity(f"{option} {text!r}: more than {MAX_VALUES} values")
    return values


def _range(text: str, option: str, read: object) -> list[int]:
    match = re.fullmatch(r"(?P<first>[^.*]+)\.\.(?P<last>[^.*]+)\*(?P<factor>\d+)", text.strip())
    if match is None or not 2 <= int(match["factor"]) <= MAX_COUNT:
        raise BadQuantity(f"{option} {text!r}: expected a range such as 1..256*2, doubling")
    first, last = (read(match[end], option=option) for end in ("first", "last"))  # type: ignore[operator]
    if last < first:
        raise BadQuantity(f"{option} {text!r}: the range ends before it begins")
    values, value = [], first
    while value <= last:
        values.append(value)
        value *= int(match["factor"])
    return values


def _whole(text: str, option: str, units: dict[str, int], low: int, high: int, wanted: str) -> int:
    match = re.fullmatch(r"(?P<number>[0-9]{1,18}(\.[0-9]{1,9})?)(?P<unit>[a-zA-Z]*)", text.strip())
    unit = match["unit"].lower() if match else None
    if match is None or unit not in units:
        raise BadQuantity(f"{option} {text!r}: expected {wanted}, from {low} to {high}")
    value = float(match["number"]) * units[unit]
    if value != int(value) or not low <= value <= high:
        raise BadQuantity(f"{option} {text!r}: expected {wanted}, from {low} to {high}")
    return int(value)


def parse_bytes(text: str, *, option: str) -> float:
    """Bytes: "80 GiB" is 80 * 2**30, "80 GB" is 80e9."""
    return _scaled(text, option, "B", "bytes such as 80 GiB or 85.9 GB")


def parse_rate(text: str, *, option: str) -> float:
    """Bytes a second: "2.04 TB/s" is 2.04e12."""
    return _scaled(text, option, "B/s", "a rate such as 2.04 TB/s")


def _scaled(text: str, option: str, unit: str, wanted: str) -> float:
    number, prefix = r"(?P<number>\d+(\.\d+)?([eE]\d{1,3})?)", r"(?P<prefix>[kMGTP]?|[KMGTP]i)"
    match = re.fullmatch(rf"{number}\s*{prefix}{unit}", text.strip())
    value = float(match["number"]) * (DECIMAL | BINARY)[match["prefix"]] if match else math.nan
    if not 0 < value < math.inf:
        raise BadQuantity(f"{option} {text!r}: expected {wanted}")
    return value


def human_count(value: float) -> str:
    """Three figures and a decimal prefix: 1234567 -> "1.23M"."""
    return _prefixed(value, "", ("", "k", "M", "B", "T"), 1e3)


def human_bytes(value: float) -> str:
    """Three figures, decimal: 16.06e9 -> "16.1 GB"."""
    return _prefixed(value, " ", ("B", "kB", "MB", "GB", "TB", "PB"), 1e3)


def human_gib(value: float) -> str:
    """Binary gigabytes: 2**36 -> "64.0 GiB"."""
    return f"{value / 2**30:.1f} GiB"


def human_rate(value: float) -> str:
    """Three figures a second: 2.039e12 -> "2.04 TB/s"."""
    return human_bytes(value) + "/s"


def human_flops(value: float) -> str:
    """Three figures a second: 9.89e14 -> "989 TFLOP/s"."""
    units = ("FLOP/s", "kFLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s", "PFLOP/s")
    return _prefixed(value, " ", units, 1e3)


def human_seconds(value: float) -> str:
    """Three figures: 0.00736 -> "7.36 ms"."""
    if value == 0:
        return "0"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if round(value / scale, 3) >= 1:
            return f"{_three(value / scale)} {unit}"
    return f"{_three(value / 1e-9)} ns"


def human_tokens(value: int) -> str:
    """Tokens in k where they are whole: 65536 -> "64k", 1000 -> "1000"."""
    if value and value % 2**20 == 0:
        return f"{value // 2**20}m"
    return f"{value // 2**10}k" if value and value % 2**10 == 0 else str(value)


def _prefixed(value: float, gap: str, units: tuple[str, ...], step: float) -> str:
    index = 0
    while float(f"{value:.3g}") >= step and index < len(units) - 1:
        value, index = value / step, index + 1
    return f"{_three(value)}{gap}{units[index]}".rstrip()


def _three(value: float) -> str:
    """Three significant figures without an exponent, no zeros behind a whole small count."""
    if value == int(value) and value < 1000:
        return str(int(value))
    rounded = float(f"{value:.3g}")
    return f"{rounded:.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


Unit = Literal["seconds", "bytes", "tokens", "count", "ratio", "percent", "share", "usd", "flops"]
"""What a number shown to people is: seconds, a ratio ("1.50x"), a share (0.5 is "50%"), ..."""


def show(value: float | str | None, unit: Unit = "count") -> str:
    """A value as text with its unit; a dash where there is none."""
    if value is None or isinstance(value, str):
        return value or "–"
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    if value < 0 and unit not in ("percent", "share"):
        return "-" + show(-value, unit)
    return _WRITERS[unit](value)


def between(low: float | None, high: float | None, unit: Unit) -> str:
    """ "low to high" in a unit; "over low" where there is no end, nothing where none is known."""
    if low is None:
        return ""
    if high is None:
        return f"over {show(low, unit)}"
    first, last = show(low, unit), show(high, unit)
    number, _, name = first.rpartition(" ")  # a unit that both have stands once
    return f"{number if number and last.endswith(f' {name}') else first} to {last}"


def human_usd(value: float) -> str:
    """Dollars: 0.0123 -> "$0.0123", 1.5 -> "$1.50", 1234.5 -> "$1,234"."""
    if 0 < value < 0.1:
        return f"${value:.3g}"
    return f"${value:,.0f}" if value >= 100 else f"${value:.2f}"


def _show_tokens(value: float) -> str:
    return human_tokens(int(value)) if value == int(value) else human_count(value)


_WRITERS: dict[Unit, Callable[[float], str]] = {
    "seconds": human_seconds,
    "bytes": human_bytes,
    "tokens": _show_tokens,
    "count": human_count,
    "ratio": lambda value: f"{value:.2f}x",
    "percent": lambda value: f"{value:.1f} %",
    "share": lambda value: f"{value:.0%}",
    "usd": human_usd,
    "flops": human_flops,
}
