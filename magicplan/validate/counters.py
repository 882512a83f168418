"""What rounds yielded, counted on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counters:
    """What rounds yielded, by sequence, while it had not ended; all [B] int64 on the device.

    accepted: draft tokens accepted. tested: draft tokens of a chain that were looked at, up to and
    with the first rejected. emitted: tokens committed. rounds.
    by_count: [B, most + 1], rounds by number of tokens accepted.
    """

    rounds: Tensor
    accepted: Tensor
    tested: Tensor
    emitted: Tensor
    by_count: Tensor

    @classmethod
    def zero(cls, batch: int, most: int, device: torch.device) -> Counters:
        """Nothing counted."""
        each = [torch.zeros(batch, dtype=torch.int64, device=device) for _ in range(4)]
        by_count = torch.zeros(batch, most + 1, dtype=torch.int64, device=device)
        return cls(
            rounds=each[0], accepted=each[1], tested=each[2], emitted=each[3], by_count=by_count
        )

    def add(self, count: Tensor, live: Tensor, drafted: int) -> None:
        """One round that accepted `count` [B] of a chain of `drafted`, where `live` [B]."""
        self.rounds.add_(live)
        self.accepted.add_(count * live)
        self.tested.add_((count + 1).clamp(max=drafted) * live)
        self.by_count.scatter_add_(1, count[:, None], live[:, None].long())

    def clear(self) -> None:
        """Back to nothing, in place."""
        for values in (self.rounds, self.accepted, self.tested, self.emitted, self.by_count):
            values.zero_()

    @property
    def tokens_per_round(self) -> float:
        """Tokens that a round yields, accepted and the one after them; synchronises."""
        rounds = int(self.rounds.sum())
        return 1 + int(self.accepted.sum()) / rounds if rounds else 0.0

    @property
    def acceptance(self) -> float:
        """Share of the chain's tokens looked at that were accepted; synchronises."""
        tested = int(self.tested.sum())
        return int(self.accepted.sum()) / tested if tested else 0.0
