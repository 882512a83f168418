"""TriForce (arXiv 2404.11912): two levels of speculation in one draft.

A small model drafts for the target's own weights on a part of its cache (TriForce's retrieval is
here a window or a SnapKV selection); what those accept is the draft that the target then verifies
on all of it. Inner rounds yield different numbers of tokens in
different sequences; a fixed number of them runs, and the chain is cut at its length or padded.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from magicplan.errors import UsageError
from magicplan.kernels.backend import Accepted, Noise
from magicplan.validate.decoder.drafts import ModelDrafter, Proposal, Text, emitted
from magicplan.validate.decoder.transformer import Block

INNER_SEED = 1 << 62
"""Inner rounds draw from a key of their own: no number serves two levels."""


class TriForceDrafter:
    """`inner` drafts chains for `middle`, the target on a part of its cache, `rounds` times."""

    def __init__(self, middle: ModelDrafter, inner: ModelDrafter, *, rounds: int) -> None:
        """Raises UsageError for trees, or for no inner round."""
        if middle.shape.levels or inner.shape.levels:
            raise UsageError("TriForce drafts are chains on both levels, not trees")
        if rounds < 1:
            raise UsageError(f"{rounds} inner rounds: expected at least 1")
        self.middle, self.inner, self.rounds = middle, inner, rounds
        self.shape, beyond = middle.shape, inner.shape.drafted + 1
        self.cache_bytes = inner.cache_bytes + middle.cache_bytes
        self.reach = self.shape.drafted + beyond
        self.most_new = min(inner.most_new, middle.most_new - beyond)

    def prefill(self, text: Text) -> None:
        """Fills the caches of both levels; the target's is filled already."""
        self.middle.prefill(text)
        self.inner.prefill(text)

    def fill_random(self, ctx_tokens: int, generator: torch.Generator) -> None:
        """Caches of both levels; the target's is filled."""
        self.middle.fill_random(ctx_tokens, generator)
        self.inner.fill_random(ctx_tokens, generator)

    def rollback(self, text: Text, accepted: Accepted) -> None:
        """The small model's chain stands where it belongs."""
        self.middle.rollback(text, accepted)

    def step(self, text: Text, noise: Noise) -> Tensor:
        """One inner round: the small model's chain and its verification by the middle level."""
        return self._inner_round(text, noise)[1].token

    def propose(self, text: Text, noise: Noise) -> Proposal:
        """Drafts a round's chain (`Drafter.propose`).

        A sequence with fewer tokens than the chain is filled up with token 0, drafted with
        certainty as its law: accepted as often as the target itself would draw it.
        """
        start, width = text.lengths, self.inner.shape.drafted + 1
        at = Text(tokens=text.tokens, lengths=start.clone())
        step = torch.arange(width, device=start.device)
        laws: Tensor | None = None
        for number in range(self.rounds):
            inner = replace(
                noise, seed=noise.seed ^ INNER_SEED, step=noise.step * self.rounds + number
            )
            tokens, accepted, law = self._inner_round(at, inner)
            at.tokens.scatter_(1, at.lengths[:, None].long() + 1 + step, tokens)
            if law is not None:
                if laws is None:
                    laws = law.new_zeros(law.shape[0], self.shape.drafted + width, law.shape[2])
                place = (at.lengths - start)[:, None].long() + step
                laws.scatter_(1, place[..., None].expand_as(law), law)
            end = torch.minimum(at.lengths + accepted.count + 1, start + self.shape.drafted)
            at.lengths.copy_(end)
        return self._cut(at, start, laws)

    def _inner_round(self, at: Text, noise: Noise) -> tuple[Tensor, Accepted, Tensor | None]:
        """Tokens emitted [B, inner gamma + 1], how many count, and the laws behind each of them."""
        proposal = self.inner.propose(at, noise)
        tokens = torch.cat([at.last(), proposal.tokens], 1)
        depths = self.inner.shape.topology.depths
        middle, backend = self.middle, self.middle.backend
        block = Block(lengths=at.lengths, depths=depths, view=middle.view)
        logits = middle.model.forward(tokens, middle.cache, block, backend)
        law = None
        if proposal.law is None:
            accepted = backend.accept_greedy(proposal.tokens, middle.model.choose(logits))
        else:
            law = middle.sampling.law(middle.model.whole(logits))
            accepted = backend.accept_sampled(proposal.tokens, proposal.law, law, noise)
        return emitted(proposal.tokens, accepted), accepted, law

    def _cut(self, at: Text, start: Tensor, laws: Tensor | None) -> Proposal:
        step = torch.arange(self.shape.drafted, device=start.device)
        missing = step >= (at.lengths - start)[:, None]
        tokens = at.tokens.gather(1, start[:, None].long() + 1 + step)
        tokens = tokens.masked_fill(missing, 0)
        if laws is None:
            return Proposal(tokens=tokens)
        certain = torch.full_like(laws[0, 0], -torch.inf)
        certain[0] = 0
        cut = torch.where(missing[..., None], certain, laws[:, : self.shape.drafted])
        return Proposal(tokens=tokens, law=cut)
