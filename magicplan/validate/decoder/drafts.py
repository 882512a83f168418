"""Drafts that run a model: the target's own weights on part of its cache, or a smaller model.

A chain is drafted token by token, a tree level by level. A draft on the target's own cache writes
where verification will write again, so it costs no memory and needs no repair. A draft with a
cache of its own lacks the last accepted token whenever all were accepted; its first pass therefore
always takes the last `again` tokens, whatever happened: no branch, no host synchronisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from magicplan.errors import UsageError
from magicplan.kernels import load
from magicplan.kernels.backend import Accepted, Backend, Noise, Window
from magicplan.validate.decoder.draft_shape import DraftShape
from magicplan.validate.decoder.kv_cache import KVCache
from magicplan.validate.decoder.sampling import Sampling
from magicplan.validate.decoder.transformer import Block, Transformer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proposal:
    """tokens: [B, drafted] int64, in the order of the shape's nodes. law: [B, drafted, V] logits
    that they were drawn from, or None where they were not drawn (greedy, n-gram, trees)."""

    tokens: Tensor
    law: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Text:
    """What is known: tokens [B, room] int64 and, of each row, how many stand in the cache.

    lengths: [B] int32. The token at `lengths` is the last committed one, which no cache holds yet;
    whatever stands behind it is scratch.
    """

    tokens: Tensor
    lengths: Tensor

    def last(self, count: int = 1) -> Tensor:
        """The last `count` committed tokens of each sequence, [B, count]."""
        back = torch.arange(1 - count, 1, device=self.tokens.device)
        return self.tokens.gather(1, self.lengths[:, None].long() + back)


UNLIMITED = 1 << 30


SHORTEST_PROMPT = 3
"""Tokens: as many as any draft with a cache of its own passes again."""


class Drafter(Protocol):
    """Proposes tokens that the target then verifies."""

    shape: DraftShape
    cache_bytes: int
    """Bytes of the drafter's own caches, without weights."""
    reach: int
    """Tokens that a round may write behind the last committed one."""
    most_new: int
    """Tokens that may be generated behind a prompt before its caches are full."""

    def prefill(self, text: Text) -> None:
        """Fill caches of its own for the `lengths` of the text; the target's is filled already."""
        ...

    def fill_random(self, ctx_tokens: int, generator: torch.Generator) -> None:
        """Fill the drafter's own caches with random keys and values of `ctx_tokens`, for timing."""
        ...

    def propose(self, text: Text, noise: Noise) -> Proposal:
        """Draft a round's tokens behind the last committed token of the text."""
        ...

    def step(self, text: Text, noise: Noise) -> Tensor:
        """One pass of the draft alone, for timing; [B] tokens."""
        ...

    def rollback(self, text: Text, accepted: Accepted) -> None:
        """Drop rejected tokens from the drafter's own caches, before the lengths advance."""
        ...


class ModelDrafter:
    """A model drafts through a view of a cache: by default the target's own (self-speculation)."""

    cache_bytes = 0
    most_new = UNLIMITED

    def __init__(
        self,
        model: Transformer,
        cache: KVCache,
        backend: Backend,
        shape: DraftShape,
        *,
        view: Window | None,
        sampling: Sampling,
    ) -> None:
        self.model, self.cache, self.backend = model, cache, backend
        self.shape, self.view, self.sampling = shape, view, sampling
        self.reach = shape.drafted

    def prefill(self, text: Text) -> None:
        """Does nothing: the target has filled the cache that drafts read."""

    def fill_random(self, ctx_tokens: int, generator: torch.Generator) -> None:
        """Does nothing: the target has filled the cache that drafts read."""

    def rollback(self, text: Text, accepted: Accepted) -> None:
        """Does nothing: verification has rewritten the cache."""

    def propose(self, text: Text, noise: Noise) -> Proposal:
        """Drafts a round's tokens (`Drafter.propose`); trees take the most probable children of
        every node."""
        return self._tree(text) if self.shape.levels else self._chain(text, noise)

    def step(self, text: Text, noise: Noise) -> Tensor:
        """Runs one draft pass (`Drafter.step`): the one that every token but the first costs."""
        logits = self._forward(text, text.last(), 0, 1)
        return self._chosen(logits[:, -1], noise, 0)[0]

    def _chain(self, text: Text, noise: Noise) -> Proposal:
        tokens: list[Tensor] = []
        laws: list[Tensor | None] = []
        logits = self._first(text)
        for node in range(self.shape.drafted):
            if node:
                logits = self._forward(text, tokens[-1][:, None], node, node + 1)[:, -1]
            token, law = self._chosen(logits, noise, node)
            tokens.append(token)
            laws.append(law)
        drawn = [law for law in laws if law is not None]
        law = torch.stack(drawn, 1) if drawn else None
        return Proposal(tokens=torch.stack(tokens, 1), law=law)

    def _tree(self, text: Text) -> Proposal:
        logits = self._first(text)[:, None]
        tokens: list[Tensor] = []
        for level in self.shape.levels:
            if tokens:
                start, end = level.start - tokens[-1].shape[1], level.start
                seen = self.shape.topology.ancestors[start:end]
                logits = self._forward(text, tokens[-1], start, end, tree=seen)
            best = self.model.whole(logits).topk(level.widest, -1).indices
            tokens.append(best[:, level.above, level.rank])
        return Proposal(tokens=torch.cat(tokens, 1))

    def _first(self, text: Text) -> Tensor:
        """[B, V / ranks]: logits behind the last committed token."""
        return self._forward(text, text.last(), 0, 1)[:, -1]

    def _forward(
        self, text: Text, tokens: Tensor, start: int, end: int, tree: Tensor | None = None
    ) -> Tensor:
        """[B, end - start, V / ranks]: logits of nodes start to end."""
        depths = self.shape.topology.depths[start:end]
        block = Block(lengths=text.lengths, depths=depths, first=start, view=self.view, tree=tree)
        return self.model.forward(tokens, self.cache, block, self.backend)

    def _chosen(self, logits: Tensor, noise: Noise, node: int) -> tuple[Tensor, Tensor | None]:
        if self.sampling.greedy:
            return self.model.choose(logits), None
        law = self.sampling.law(self.model.whole(logits))
        return self.backend.sample(law, noise, node=node), law


class OwnCacheDrafter(ModelDrafter):
    """A draft with its own ring: a smaller model, or MagicDec's separate StreamingLLM cache.

    Keys keep their original positions, and the window slides as the text grows; MagicDec's own
    window only grows during a run.
    """

    def __init__(
        self,
        model: Transformer,
        cache: KVCache,
        backend: Backend,
        shape: DraftShape,
        *,
        view: Window | None,
        sampling: Sampling,
        again: int = 2,
    ) -> None:
        """again: tokens of a round's first pass: one more than the cache may lack."""
        super().__init__(model, cache, backend, shape, view=view, sampling=sampling)
        self.cache_bytes, self.again = cache.bytes, again
        self._again = torch.arange(again, dtype=torch.int32, device=model.device)

    def prefill(self, text: Text) -> None:
        """A forward pass of the draft over the prompt, which sees through the same view."""
        prefill(self.model, self.cache, text, self.view)

    def fill_random(self, ctx_tokens: int, generator: torch.Generator) -> None:
        """Fills the ring buffer with random keys and values, for timing."""
        self.cache.fill_random(generator)

    def rollback(self, text: Text, accepted: Accepted) -> None:
        """Accepted nodes of a tree move to consecutive slots; a chain's stand there already."""
        if self.shape.levels and accepted.nodes is not None:
            shift = self.cache.shift
            lengths = text.lengths if shift is None else text.lengths + shift
            for layer in self.cache.layers:
                self.backend.compact(layer, lengths, accepted.nodes)

    def _first(self, text: Text) -> Tensor:
        block = Block(lengths=text.lengths + 1 - self.again, depths=self._again, view=self.view)
        tokens = text.last(self.again)
        return self.model.forward(tokens, self.cache, block, self.backend)[:, -1]


def emitted(path: Tensor, accepted: Accepted) -> Tensor:
    """[B, path + 1]: the accepted tokens of a path [B, path], the token behind, then anything."""
    step = torch.arange(path.shape[1] + 1, device=path.device)
    behind = step == accepted.count[:, None]
    return torch.where(behind, accepted.token[:, None], torch.nn.functional.pad(path, (0, 1)))


PROMPT_CHUNK = 128
"""Tokens of a prompt that pass at once; a ring has room for as many beyond its window."""


def prefill(model: Transformer, cache: KVCache, text: Text, view: Window | None = None) -> None:
    """Fill a cache for the first `lengths` tokens of each text, one text after the other.

    Always by the torch backend: reading a prompt is not what is measured. Synchronises.
    """
    backend = load("torch")
    for b, length in enumerate(text.lengths.tolist()):
        one = cache.sequence(b)
        for start in range(0, length, PROMPT_CHUNK):
            tokens = text.tokens[b : b + 1, start : min(start + PROMPT_CHUNK, length)]
            depths = torch.arange(tokens.shape[1], dtype=torch.int32, device=model.device)
            at = torch.full_like(text.lengths[:1], start)
            model.hidden(tokens, one, Block(lengths=at, depths=depths, view=view), backend)


class NgramDrafter:
    """A chain copied from the text itself (prompt lookup decoding)."""

    cache_bytes = 0
    most_new = UNLIMITED

    def __init__(self, shape: DraftShape, *, longest: int = 3) -> None:
        """Raises UsageError for a tree, or a match of no tokens."""
        if shape.levels:
            raise UsageError("an n-gram draft is a chain: it has one continuation, no tree")
        if longest < 1:
            raise UsageError(f"n-grams of {longest} tokens: expected at least 1")
        self.shape, self.longest = shape, longest
        self.reach = shape.drafted

    def prefill(self, text: Text) -> None:
        """Does nothing: n-gram look-up needs the text alone."""

    def fill_random(self, ctx_tokens: int, generator: torch.Generator) -> None:
        """Does nothing: n-gram look-up needs the text alone."""

    def rollback(self, text: Text, accepted: Accepted) -> None:
        """Does nothing: n-gram look-up needs the text alone."""

    def step(self, text: Text, noise: Noise) -> Tensor:
        """The whole look-up: it gives all tokens at once."""
        return self.propose(text, noise).tokens[:, 0]

    def propose(self, text: Text, noise: Noise) -> Proposal:
        """Drafts what followed the longest match (`Drafter.propose`). A match so near the end that
        its continuation runs out continues with itself."""
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
