"""Simulated acceptance: the draft and the verification run, a given law says how much is accepted.

For timing only: it says nothing about any model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from magicplan.errors import UsageError
from magicplan.kernels.backend import Accepted, Backend, Noise
from magicplan.validate.decoder.draft_shape import DraftShape

NODE = 65535
"""The noise's node of the draw, beyond every draft's."""


class SimulatedLaw:
    """Accepts a random path of the shape with given rates.

    rates: probability that the k-th child drawn is accepted, given that its parent was, by rank;
    one number is a chain's rate. Ranks sum to at most 1. One draw a round: the node the path ends
    at, whose probability is that of reaching it and accepting none of its children.
    """

    def __init__(
        self,
        shape: DraftShape,
        rates: Sequence[float],
        backend: Backend,
        device: torch.device | str,
    ) -> None:
        if not rates or not all(0 <= rate <= 1 for rate in rates) or math.fsum(rates) > 1 + 1e-9:
            raise UsageError("acceptance rates are probabilities that sum to at most 1")
        self.label = f"simulated:{','.join(f'{rate:g}' for rate in rates)}"
        self.backend = backend
        paths, ends = _paths(shape.parents, rates)
        self.tokens_per_round = 1 + math.fsum(
            p * len(path) for p, path in zip(ends, paths, strict=True)
        )
        padded = [path + [-1] * (shape.most - len(path)) for path in paths]
        self._paths = torch.tensor(padded, dtype=torch.int32, device=device)
        self._counts = torch.tensor([len(p) for p in paths], dtype=torch.int32, device=device)
        self._law = torch.tensor(ends, dtype=torch.float32, device=device).log()

    def accept(self, chosen: Tensor, noise: Noise) -> Accepted:
        """A drawn path, and behind it the target's own choice. chosen: [B, N] int64."""
        law = self._law.expand(chosen.shape[0], -1)
        node = self.backend.sample(law, noise, node=NODE)
        token = chosen.gather(1, node[:, None])[:, 0]
        return Accepted(count=self._counts[node], token=token, nodes=self._paths[node])


def _paths(parents: Sequence[int], rates: Sequence[float]) -> tuple[list[list[int]], list[float]]:
    """Path to every node, and the probability that acceptance ends there."""
    paths: list[list[int]] = [[]]
    reached, children = [1.0], [0] * len(parents)
    for node, parent in enumerate(parents[1:], 1):
        rank = children[parent]
        children[parent] += 1
        rate = rates[rank] if rank < len(rates) else 0.0
        paths.append([*paths[parent], node])
        reached.append(reached[parent] * rate)
    accepted = [math.fsum(rates[:count]) for count in children]
    return paths, [r * max(0.0, 1 - a) for r, a in zip(reached, accepted, strict=True)]
