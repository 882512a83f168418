"""Prompt lookup: what followed the last time the text ended like this is drafted again.

No model runs. The longest match of up to `longest` tokens wins, of equals the latest; without any
the draft repeats the last token. All of it stays on the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from magicplan.errors import UsageError
from magicplan.kernels.backend import Accepted, Noise
from magicplan.validate.draft_shape import Shape
from magicplan.validate.drafts import UNLIMITED, Proposal, Text


class NgramDraft:
    """A chain copied from the text itself (prompt lookup decoding)."""

    cache_bytes = 0
    most_new = UNLIMITED

    def __init__(self, shape: Shape, *, longest: int = 3) -> None:
        """Raises UsageError for a tree, or a match of no tokens."""
        if shape.levels:
            raise UsageError("an n-gram draft is a chain: it has one continuation, no tree")
        if longest < 1:
            raise UsageError(f"n-grams of {longest} tokens: expected at least 1")
        self.shape, self.longest = shape, longest
        self.reach = shape.drafted

    def read_prompt(self, text: Text) -> None:
        """The text is all it needs."""

    def fill_random(self, ctx_tokens: int, generator: torch.Generator) -> None:
        """The text is all it needs."""

    def settle(self, text: Text, accepted: Accepted) -> None:
        """The text is all it needs."""

    def step(self, text: Text, noise: Noise) -> Tensor:
        """The whole look-up: it gives all tokens at once."""
        return self.propose(text, noise).tokens[:, 0]

    def propose(self, text: Text, noise: Noise) -> Proposal:
        """See `Draft.propose`. A match so near the end that its continuation runs out is repeated:
        it continues with itself."""
        last = text.lengths.long()[:, None]
        source = self._match(text.tokens, last)
        ahead = torch.arange(self.shape.drafted, device=last.device)
        return Proposal(tokens=text.tokens.gather(1, source + 1 + ahead % (last - source)))

    def _match(self, tokens: Tensor, last: Tensor) -> Tensor:
        """[B, 1]: the place before `last` at which the text ended most alike."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        alike = torch.ones_like(tokens, dtype=torch.bool)
        length = torch.zeros_like(tokens)
        for back in range(self.longest):
            shifted = torch.roll(tokens, back, 1)
            alike &= (shifted == tokens.gather(1, (last - back).clamp(min=0))) & (place >= back)
            length += alike
        # the longest match first, then the latest; places from `last` on are no match
        score = torch.where(place < last, length * tokens.shape[1] + place, -1)
        return score.argmax(1, keepdim=True)
