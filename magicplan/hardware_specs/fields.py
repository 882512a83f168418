"""From a TOML table to an `Accelerator`: every field checked, none guessed, none ignored."""

from __future__ import annotations

import datetime
import math
from types import MappingProxyType
from typing import Any

from magicplan.errors import SpecError
from magicplan.hardware_specs.accelerator import Accelerator, Source
from magicplan.hardware_specs.offers import KINDS, Offer, price_of

DTYPES = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4")
RIDGE = (10.0, 1000.0)
"""FLOP per byte at 16 bits of every part on the market, with room; outside it a unit is wrong."""
CPU_RIDGE = (0.1, 1000.0)
"""The same of a processor measured as a device, whose 16-bit math may be emulated."""
KNOWN = frozenset(
    [
        "name",
        "title",
        "vendor",
        "architecture",
        "driver_names",
        "form_factors",
        "aliases",
        "units",
        "unit_kind",
        "memory_type",
        "memory_bytes",
        "memory_bytes_per_s",
        "l2_bytes",
        "pcie_bytes_per_s",
        "node_size",
        "tdp_watts",
        "price_usd_per_hour",
        "price_note",
        "provisional",
        "notes",
        "dense_flops_per_s",
        "link",
        "sources",
        "offers",
    ]
)
LINK = frozenset({"type", "domain", "bytes_per_s", "peer_bytes_per_s"})


def accelerator_from(data: dict[str, Any], *, where: str) -> Accelerator:
    """Raises SpecError naming the file, the field and what was expected."""
    _only(where, data, KNOWN)
    link = _table(where, data, "link", default={})
    _only(where, link, LINK, prefix="link.")
    offers = _offers(where, data)
    price, basis = price_of(offers)
    peaks = _table(where, data, "dense_flops_per_s")
    _only(where, peaks, frozenset(DTYPES), prefix="dense_flops_per_s.")
    found = Accelerator(
        name=_text(where, data, "name"),
        title=_text(where, data, "title", default=str(data["name"])),
        vendor=_text(where, data, "vendor", default="unknown"),
        architecture=_text(where, data, "architecture", default="unknown"),
        driver_names=_texts(where, data, "driver_names"),
        form_factors=_texts(where, data, "form_factors"),
        aliases=_texts(where, data, "aliases"),
        memory_bytes=_positive(where, data, "memory_bytes"),
        memory_bytes_per_s=_positive(where, data, "memory_bytes_per_s"),
        memory_type=_text(where, data, "memory_type", default="unknown"),
        dense_flops_per_s=MappingProxyType({d: _positive(where, peaks, d) for d in peaks}),
        units=_whole(where, data, "units"),
        unit_kind=_text(where, data, "unit_kind", default="SM"),
        l2_bytes=_maybe(where, data, "l2_bytes"),
        link_type=_text(where, link, "type", default="none"),
        link_bytes_per_s=_maybe(where, link, "bytes_per_s"),
        link_peer_bytes_per_s=_maybe(where, link, "peer_bytes_per_s"),
        link_domain=_whole(where, link, "domain", default=1),
        pcie_bytes_per_s=_maybe(where, data, "pcie_bytes_per_s"),
        node_size=_whole(where, data, "node_size", default=8),
        tdp_watts=_maybe(where, data, "tdp_watts"),
        price_usd_per_hour=_maybe(where, data, "price_usd_per_hour") or price,
        price_note=_text(where, data, "price_note", default=basis),
        offers=offers,
        provisional=_texts(where, data, "provisional"),
        sources=_sources(where, data),
        notes=_text(where, data, "notes", default=""),
    )
    _check_ridge(where, found)
    return found


def _check_ridge(where: str, a: Accelerator) -> None:
    """A ridge that no part has betrays a sparse peak or a slipped unit."""
    if not {"bf16", "fp16"} & set(a.dense_flops_per_s):
        raise SpecError(where, "dense_flops_per_s needs bf16 or fp16")
    ridge = a.ridge_flops_per_byte(a.math_dtype)
    low, high = CPU_RIDGE if a.architecture == "cpu" else RIDGE
    if not low <= ridge <= high:
        raise SpecError(
            where,
            f"{a.math_dtype} peak over memory_bytes_per_s is {ridge:.3g} FLOP a byte, expected "
            f"{low:g} to {high:g}: check units, and that the peak is dense",
        )


def _only(where: str, data: dict[str, Any], known: frozenset[str], prefix: str = "") -> None:
    for key in data:
        if key not in known:
            raise SpecError(
                where, f"unknown field {prefix}{key}; known: {', '.join(sorted(known))}"
            )


def _table(where: str, data: dict[str, Any], key: str, default: Any = None) -> dict[str, Any]:
    value = data.get(key, default)
    if not isinstance(value, dict):
        raise SpecError(where, f"{key} is missing or no table")
    return value


def _text(where: str, data: dict[str, Any], key: str, default: str | None = None) -> str:
    value = data.get(key, default)
    if not isinstance(value, str):
        raise SpecError(where, f"{key} is {value!r}, expected a text")
    return value


def _texts(where: str, data: dict[str, Any], key: str) -> tuple[str, ...]:
    value = data.get(key, [])
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise SpecError(where, f"{key} is {value!r}, expected a list of texts")
    return tuple(value)


def _positive(where: str, data: dict[str, Any], key: str) -> float:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise SpecError(where, f"{key} is {value!r}, expected a positive number in SI units")
    return float(value)


def _maybe(where: str, data: dict[str, Any], key: str) -> float | None:
    return _positive(where, data, key) if key in data else None


def _whole(where: str, data: dict[str, Any], key: str, default: int | None = None) -> int:
    value = data.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise SpecError(where, f"{key} is {value!r}, expected a whole number of 1 or more")
    return value


def _tables(where: str, data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = data.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SpecError(where, f"{key} is no list of tables")
    return entries


def _sources(where: str, data: dict[str, Any]) -> tuple[Source, ...]:
    return tuple(_source(where, entry) for entry in _tables(where, data, "sources"))


def _source(where: str, entry: dict[str, Any]) -> Source:
    _only(where, entry, frozenset({"title", "url", "seen"}), prefix="sources.")
    seen = entry.get("seen")
    if not isinstance(seen, datetime.date):
        raise SpecError(where, f"sources.seen is {seen!r}, expected a date such as 2026-11-23")
    title, url = _text(where, entry, "title"), _text(where, entry, "url", default="")
    return Source(title=title, url=url, seen=seen.isoformat())


OFFER = frozenset({"kind", "provider", "seen", "usd_per_hour", "low", "high"})


def _offers(where: str, data: dict[str, Any]) -> tuple[Offer, ...]:
    return tuple(_offer(where, entry) for entry in _tables(where, data, "offers"))


def _offer(where: str, entry: dict[str, Any]) -> Offer:
    _only(where, entry, OFFER, prefix="offers.")
    kind = _text(where, entry, "kind")
    if kind not in KINDS:
        raise SpecError(where, f"offers.kind is {kind!r}, expected one of {'; '.join(KINDS)}")
    usd, low, high = (_maybe(where, entry, key) for key in ("usd_per_hour", "low", "high"))
    if usd is None and (low is None or high is None or high < low):
        raise SpecError(where, "offers needs usd_per_hour, or low and a high that is no lower")
    provider, seen = _text(where, entry, "provider"), _text(where, entry, "seen")
    return Offer(kind=kind, provider=provider, seen=seen, usd_per_hour=usd, low=low, high=high)
