"""What a GPU-hour is offered for, and the one basis on which shipped prices rest.

A price is the median of on-demand offers, the newest of every provider. Offers of other kinds (rent
for years, what an owner pays, the floor of a marketplace) are shown and never mixed with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from magicplan.fields import Span, Table

BASIS = "on demand"
KINDS = (
    BASIS,
    "on-demand survey",
    "marketplace floor",
    "3-year rent",
    "owner's cost, hyperscaler",
    "owner's cost, neocloud",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Offer:
    """One price of a GPU-hour in USD, or the range of a survey."""

    kind: str
    """One of `KINDS`."""
    provider: str
    seen: str
    """ISO date, or its year and month."""
    usd_per_hour: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        """The offer in words."""
        usd = (
            f"{self.usd_per_hour:.2f}"
            if self.usd_per_hour
            else f"{self.low:.2f} to {self.high:.2f}"
        )
        return f"{usd} {self.kind} ({self.provider}, {self.seen})"


def price_of(offers: Iterable[Offer]) -> tuple[float | None, str]:
    """The price of a GPU-hour and what it rests on; None and "" where nobody offers on demand."""
    counted = [o for o in offers if o.kind == BASIS and o.usd_per_hour]
    if not counted:
        return None, ""
    usd = sorted(float(o.usd_per_hour or 0) for o in counted)
    who = ", ".join(f"{o.provider} {o.usd_per_hour:.2f} on {o.seen}" for o in counted)
    if len(counted) == 1:
        return usd[0], f"one on-demand offer: {who}"
    # by hand: importing statistics would cost every start some 15 ms
    median = (usd[(len(usd) - 1) // 2] + usd[len(usd) // 2]) / 2
    spread = f"{usd[0]:.2f} to {usd[-1]:.2f}"
    return median, f"median of {len(usd)} on-demand offers, {spread}: {who}"


Usd = Annotated[float, Span(0, 10_000, above=True)]


def offer_from(table: Table) -> Offer:
    """An offer from its table in an accelerator's file. Raises SpecError with file and field."""
    table.only(("kind", "provider", "seen", "usd_per_hour", "low", "high"))
    found = Offer(
        kind=table.get("kind", Annotated[str, KINDS]),
        provider=table.get("provider", str),
        seen=table.get("seen", str),
        usd_per_hour=table.get("usd_per_hour", Usd, None),
        low=table.get("low", Usd, None),
        high=table.get("high", Usd, None),
    )
    ranged = found.low is not None and found.high is not None and found.low <= found.high
    if found.usd_per_hour is None and not ranged:
        table.fail("usd_per_hour", "is missing; state it, or low and a high that is no lower")
    return found
