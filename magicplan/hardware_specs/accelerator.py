"""What a machine is: an accelerator's datasheet, every number with its source. Dense peaks only."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

from magicplan.errors import SpecError
from magicplan.fields import Span, Table, refuse
from magicplan.hardware_specs.offers import Offer, offer_from, price_of

DTYPES = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4")
RIDGE = (10.0, 1000.0)
"""FLOP a byte at 16 bits of every accelerator on the market, with room; outside it a unit is
wrong."""
CPU_RIDGE = (0.001, 1000.0)
"""FLOP a byte of a processor measured as a device, whose 16-bit math may be emulated."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """The page that states a number of a datasheet, and the day on which it was read."""

    title: str
    url: str
    seen: str
    """ISO date."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Accelerator:
    """One accelerator variant. SI units; `None` means not known; a missing dtype is a missing key.

    `provisional` names the fields that nobody has re-read at their source.
    """

    name: str
    title: str
    vendor: str
    architecture: str
    driver_names: tuple[str, ...]
    """Exact product strings as the driver reports them."""
    form_factors: tuple[str, ...] = ()
    """Words for its board and link, such as sxm5, pcie, nvl, oam."""
    aliases: tuple[str, ...] = ()
    """Further names that tools and clouds print for it, which no rule gives."""
    memory_bytes: float
    """Usable bytes as the driver reports them."""
    memory_bytes_per_s: float
    memory_type: str
    dense_flops_per_s: Mapping[str, float]
    """Peak rate without sparsity by dtype: fp32, tf32, fp16, bf16, fp8, int8, fp4."""
    units: int
    """Streaming multiprocessors, or the vendor's counterpart `unit_kind`."""
    unit_kind: str
    l2_bytes: float | None
    link_type: str
    link_bytes_per_s: float | None
    """All fast links of one device, one direction."""
    link_peer_bytes_per_s: float | None
    """One pair of peers, one direction."""
    link_domain: int
    """Devices that the fast link reaches; 1 for none."""
    pcie_bytes_per_s: float | None
    node_size: int
    """Accelerators in one host, at most."""
    tdp_watts: float | None
    price_usd_per_hour: float | None
    """Indicative: the median of on-demand offers, or what a user's own file states."""
    price_note: str
    """What the price rests on, with range and dates."""
    provisional: tuple[str, ...]
    sources: tuple[Source, ...]
    notes: str
    offers: tuple[Offer, ...] = ()

    @property
    def math_dtype(self) -> str:
        """The 16-bit format its matrix units run: bf16, or fp16 where the part has no bf16."""
        return "bf16" if "bf16" in self.dense_flops_per_s else "fp16"

    def ridge_flops_per_byte(self, dtype: str) -> float:
        """Arithmetic intensity at which compute and memory take equally long."""
        return self.dense_flops_per_s[dtype] / self.memory_bytes_per_s


KNOWN = (
    "name", "title", "vendor", "architecture", "driver_names", "units", "unit_kind", "memory_type",
    "memory_bytes", "memory_bytes_per_s", "l2_bytes", "pcie_bytes_per_s", "node_size", "tdp_watts",
    "price_usd_per_hour", "price_note", "provisional", "notes", "dense_flops_per_s", "link",
    "sources", "form_factors", "aliases", "offers",
)  # fmt: skip
"""Fields of an accelerator's file."""
LINK = ("type", "domain", "bytes_per_s", "peer_bytes_per_s")
Positive = Annotated[float, Span(0, 1e30, above=True)]
"""A physical quantity in SI units; nothing of a device is near 1e30."""
Count = Annotated[int, Span(1, 1_000_000)]


def accelerator_from(table: Table) -> Accelerator:
    """An accelerator from the table of its file. Raises SpecError with the file and the field."""
    table.only(KNOWN)
    link, peaks = table.table("link", {}), table.table("dense_flops_per_s")
    link.only(LINK)
    peaks.only(DTYPES)
    name = table.get("name", str)
    offers = tuple(offer_from(entry) for entry in table.tables("offers"))
    price, basis = price_of(offers)
    found = Accelerator(
        name=name,
        title=table.get("title", str, name),
        vendor=table.get("vendor", str, "unknown"),
        architecture=table.get("architecture", str, "unknown"),
        driver_names=_texts(table, "driver_names"),
        form_factors=_texts(table, "form_factors"),
        aliases=_texts(table, "aliases"),
        memory_bytes=table.get("memory_bytes", Positive),
        memory_bytes_per_s=table.get("memory_bytes_per_s", Positive),
        memory_type=table.get("memory_type", str, "unknown"),
        dense_flops_per_s=MappingProxyType({d: peaks.get(d, Positive) for d in peaks.data}),
        units=table.get("units", Count),
        unit_kind=table.get("unit_kind", str, "SM"),
        l2_bytes=table.get("l2_bytes", Positive, None),
        link_type=link.get("type", str, "none"),
        link_bytes_per_s=link.get("bytes_per_s", Positive, None),
        link_peer_bytes_per_s=link.get("peer_bytes_per_s", Positive, None),
        link_domain=link.get("domain", Count, 1),
        pcie_bytes_per_s=table.get("pcie_bytes_per_s", Positive, None),
        node_size=table.get("node_size", Count, 8),
        tdp_watts=table.get("tdp_watts", Positive, None),
        price_usd_per_hour=table.get("price_usd_per_hour", Positive, price),
        price_note=table.get("price_note", str, basis),
        offers=offers,
        provisional=_texts(table, "provisional"),
        sources=tuple(_source(entry) for entry in table.tables("sources")),
        notes=table.get("notes", str, ""),
    )
    _check_ridge(table, found)
    return found


def _texts(table: Table, key: str) -> tuple[str, ...]:
    found: tuple[str, ...] = table.get(key, tuple[str, ...], ()) if table.data.get(key) else ()
    return found


def _check_ridge(table: Table, a: Accelerator) -> None:
    """Refuse a ridge that no accelerator has: it betrays a sparse peak or a slipped unit."""
    if not {"bf16", "fp16"} & set(a.dense_flops_per_s):
        table.fail("dense_flops_per_s", "needs bf16 or fp16")
    ridge = a.ridge_flops_per_byte(a.math_dtype)
    low, high = CPU_RIDGE if a.architecture == "cpu" else RIDGE
    if not low <= ridge <= high:
        raise SpecError(
            table.file,
            f"{a.math_dtype} peak over memory_bytes_per_s is {ridge:.3g} FLOP a byte, expected "
            f"{low:g} to {high:g}: check units, and that the peak is dense",
        )


def _date(name: str, value: Any) -> str:
    if not isinstance(value, datetime.date):
        refuse(name, value, "a date such as 2026-11-23")
    return value.isoformat()


def _source(entry: Table) -> Source:
    entry.only(("title", "url", "seen"))
    return Source(
        title=entry.get("title", str),
        url=entry.get("url", str, ""),
        seen=entry.get("seen", Annotated[str, _date]),
    )
