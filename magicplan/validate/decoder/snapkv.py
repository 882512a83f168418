"""SnapKV (arXiv 2404.14469): a draft that keeps the tokens the end of the prompt looked at.

The queries of the prompt's last tokens score all tokens before them; every KV head keeps its best
ones and that end itself. Tokens generated later are appended behind the selection, at their
original positions, with the keys and values that verification gave them (as MagicDec does).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from magicplan.errors import UsageError
from magicplan.kernels import load
from magicplan.kernels.backend import Accepted, Backend, LayerCache
from magicplan.kernels.torch_attention import gather
from magicplan.validate.decoder.draft_shape import DraftShape
from magicplan.validate.decoder.drafts import OwnCacheDrafter, Text
from magicplan.validate.decoder.kv_cache import KVCache
from magicplan.validate.decoder.sampling import Sampling
from magicplan.validate.decoder.transformer import Block, Transformer

OBSERVED = 32
"""Tokens at the prompt's end whose queries choose (the paper's observation window)."""
POOLED = 5
"""Neighbours over which scores are averaged, so that what is kept stays in context."""


def select(
    query: Tensor, cache: LayerCache, lengths: Tensor, keep: int, longest: int
) -> tuple[Tensor, Tensor]:
    """Slots that each KV head keeps, and how many of them count.

    query: [B, T, Hq, D], rotated queries of the last T tokens before `lengths` [B]. A token's score
    is the attention it gets, softmax(q k / sqrt(D)) causal within the T tokens, summed over them
    and over the query heads of the KV head, then averaged with its neighbours before the T.
    Returns slots [B, Hkv, keep + T] in rising order, those that count first, and [B] counts: where
    fewer than `keep` tokens stand before the T, all of them are kept.
    """
    batch, seen, _, dim = query.shape
    slots = torch.arange(longest, device=query.device).expand(batch, -1)
    keys = gather(cache.key, cache, slots).float()
    rows = query.float().view(batch, seen, keys.shape[2], -1, dim)
    score = torch.einsum("bthgd,bshd->bhgts", rows, keys) / math.sqrt(dim)
    start = lengths[:, None].long() - seen
    own = start + torch.arange(seen, device=query.device)
    score = score.masked_fill(slots[:, None, None, None] > own[:, None, None, :, None], -torch.inf)
    weight = score.softmax(-1).sum((2, 3))
    behind = slots[:, None] >= start[:, None]
    weight = torch.nn.functional.avg_pool1d(
        weight.masked_fill(behind, 0.0), POOLED, stride=1, padding=POOLED // 2
    )
    weight = weight.masked_fill(behind, -1.0)
    best = weight.topk(min(keep, longest), -1)
    # what does not count sorts behind everything
    chosen = torch.where(best.values < 0, longest, best.indices).sort(-1).values
    chosen = torch.nn.functional.pad(chosen, (0, keep - chosen.shape[-1]), value=longest)
    before = torch.minimum(start[:, 0], torch.tensor(keep, device=query.device))
    order = torch.arange(keep + seen, device=query.device)
    place = (order - before[:, None]).clamp(min=0, max=seen - 1)
    tail = (start + place)[:, None].expand(-1, keys.shape[2], -1)
    head = torch.nn.functional.pad(chosen, (0, seen), value=longest)
    kept = torch.where((order < before[:, None])[:, None], head, tail)
    return kept, before + seen


class SnapKVDrafter(OwnCacheDrafter):
    """Self-speculation on a selection of the target's cache, made when the prompt has been read."""

    def __init__(
        self,
        model: Transformer,
        cache: KVCache,
        backend: Backend,
        shape: DraftShape,
        *,
        budget: int,
        source: KVCache,
        sampling: Sampling,
    ) -> None:
        """`cache` has room for the budget and what is generated; `source` is the target's."""
        super().__init__(model, cache, backend, shape, view=None, sampling=sampling, again=1)
        if cache.shift is None:
            raise ValueError("a SnapKV draft's cache holds a selection: give it positions")
        self.budget, self.source, self.shift = budget, source, cache.shift
        self.most_new = cache.capacity - budget - self.reach
        if budget <= OBSERVED:
            raise UsageError(f"a SnapKV budget of {budget} tokens: expected more than {OBSERVED}")

    def prefill(self, text: Text) -> None:
        """Score with each prompt's last tokens, and copy what each KV head keeps."""
        for b, length in enumerate(text.lengths.tolist()):
            seen = min(OBSERVED, length)
            at = text.lengths[b : b + 1]
            depths = torch.arange(seen, dtype=torch.int32, device=self.model.device)
            block = Block(lengths=at - seen, depths=depths)
            tokens = text.tokens[b : b + 1, length - seen : length]
            source = self.source.sequence(b)
            keep = partial(self._keep, source, self.cache.sequence(b), at)
            self.model.hidden(tokens, source, block, load("torch"), watch=keep)
            self.shift[b] = min(self.budget, length) - length

    def fill_random(self, ctx_tokens: int, generator: torch.Generator) -> None:
        """Fills the whole budget with a random selection, for timing."""
        super().fill_random(ctx_tokens, generator)
        self.shift.fill_(min(self.budget, ctx_tokens) - ctx_tokens)

    def rollback(self, text: Text, accepted: Accepted) -> None:
        """Committed tokens as the target computed them; its cache is repaired already."""
        step = torch.arange(self.shape.most + 1, device=self.model.device)
        slots = text.lengths[:, None] + step
        for of, to in zip(self.source.layers, self.cache.layers, strict=True):
            at = _place(to, slots + self.shift[:, None])
            to.key[at], to.value[at] = gather(of.key, of, slots), gather(of.value, of, slots)

    def _keep(
        self, source: KVCache, own: KVCache, lengths: Tensor, number: int, query: Tensor
    ) -> None:
        """One layer of one sequence: what each KV head keeps, side by side from slot 0."""
        of, to = source.layers[number], own.layers[number]
        kept, _ = select(query, of, lengths, self.budget - query.shape[1], int(lengths))
        slots = torch.arange(kept.shape[2], device=kept.device)[None]
        at = _place(to, slots)
        for head in range(kept.shape[1]):
            rows = kept[:, head].clamp(max=of.capacity - 1)
            for pool, mine in ((of.key, to.key), (of.value, to.value)):
                mine[:, :, head][at] = gather(pool[:, :, head : head + 1], of, rows)[:, :, 0]


def _place(cache: LayerCache, slots: Tensor) -> tuple[Tensor, Tensor]:
    """The page and the row within it of slots [B, n]."""
    page = cache.page_table.gather(1, slots.long() // cache.page_size)
    return page.long(), slots.long() % cache.page_size
