"""How a token is chosen: greedy, or drawn at a temperature from the most probable tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from magicplan.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Temperature 0 is greedy. `top_p`: the fewest tokens whose probabilities reach it are kept.

    Drafting, verifying and plain decoding use the same law, or speculation would not be lossless.
    Raises UsageError for values that are no law.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"temperature {self.temperature}: expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p {self.top_p}: expected more than 0, at most 1")
        if not 0 <= self.seed < 2**62:
            raise UsageError(f"seed {self.seed}: expected 0 to 2^62")

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature == 0

    def law(self, logits: Tensor) -> Tensor:
        """Logits [..., V] float32 of the law that is drawn from; -inf for what is excluded."""
        scaled = logits.float() / self.temperature
        if self.top_p == 1:
            return scaled
        ordered, place = scaled.sort(dim=-1, descending=True, stable=True)
        p = ordered.softmax(-1)
        # a token stays if those before it have not reached top_p; the first always stays
        dropped = p.cumsum(-1) - p >= self.top_p
        kept = ordered.masked_fill(dropped, -torch.inf)
        return torch.empty_like(scaled).scatter_(-1, place, kept)
