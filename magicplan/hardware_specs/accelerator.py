"""What a machine is: an accelerator's datasheet, every number with its source. Dense peaks only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from magicplan.hardware_specs.offers import Offer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """Where a number was seen."""

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
