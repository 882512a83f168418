"""The decoder as steps to time: caches of one (batch, context), and a decoder for every draft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from magicplan.kernels.backend import Backend
from magicplan.validate.decoder.build import DraftPlan, build_decoder, decoder_bytes
from magicplan.validate.decoder.drafts import Drafter
from magicplan.validate.decoder.kv_cache import PAGE, KVCache
from magicplan.validate.decoder.loop import Decoder
from magicplan.validate.decoder.transformer import Transformer
from magicplan.validate.measure.clock import Step
from magicplan.validate.measure.grid import Point

Parents = tuple[int, ...]
Prompts = Callable[[int, int], list[list[int]]]
"""(batch, tokens) -> that many prompts of that many tokens."""
ROOM = 512
"""Tokens that the rounds of one point may commit before its text starts anew."""
SLACK = {"cpu": 2.0**28, "cuda": 2.0**30}
"""Bytes beside what is counted: library workspaces, graphs, the ceilings' probe."""
SPLITS = 32
"""Most parts that split-KV attention cuts a sequence into, each with a partial result."""


class DecoderBench:
    """A model with its way to draft. `rates` of a simulated law decide acceptance; None: the real
    verification does. `prompts` of real text for a checkpoint; None: random caches."""

    def __init__(
        self,
        model: Transformer,
        backend: Backend,
        plan: DraftPlan,
        *,
        small: Transformer | None = None,
        rates: Sequence[float] | None = None,
        prompts: Prompts | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.backend, self.plan, self.small = model, backend, plan, small
        self.rates, self.prompts, self.seed = rates, prompts, seed
        self.device = model.device.type

    @property
    def simulated(self) -> bool:
        """Does a law decide what is accepted, whatever the caches hold?"""
        return self.rates is not None

    def tokens(self, ctx: int, points: Sequence[Point]) -> int:
        """Tokens a sequence may reach, in whole pages, whatever is drafted behind them."""
        room = ROOM + 4 * max(p.query_tokens for p in points)
        return -(-(ctx + room) // PAGE) * PAGE

    def needed_bytes(self, batch: int, ctx: int, points: Sequence[Point]) -> float:
        """Caches, the widest pass, split-KV partials and texts; 3 % more, and slack."""
        tokens, shape = self.tokens(ctx, points), self.model.shape
        widest = max(points, key=lambda p: p.query_tokens)
        counted = decoder_bytes(
            self.model.shard,
            batch=batch,
            tokens=tokens,
            dtype=self.model.dtype,
            plan=replace(self.plan, parents=_parents(widest)),
            small=self.small.shard if self.small else None,
            device=self.model.device,
        )
        rows = batch * max(widest.query_tokens, 16)
        partials = 4.0 * rows * shape.q_heads * (shape.head_dim + 1) * SPLITS
        texts = 8.0 * batch * tokens * 2 * (len(points) + 1)
        drafts = counted["draft_kv_bytes"] * (len(points) - 1)
        return 1.03 * (sum(counted.values()) + drafts + partials + texts) + SLACK[self.device]

    def load(self, batch: int, ctx: int, points: Sequence[Point]) -> LoadedDecoder:
        """Caches of random keys and values, and room for a decoder of every point."""
        return LoadedDecoder(self, batch, ctx, self.tokens(ctx, points))


class LoadedDecoder:
    """A decoder ready to be timed (`cells.Loaded`); all draft shapes share one target cache.

    Rounds commit on a text of their own, so that other steps stay at `ctx`. Both write behind
    `ctx`: where caches decide what is accepted, rounds have to come first.
    """

    def __init__(self, bench: DecoderBench, batch: int, ctx: int, tokens: int) -> None:
        self.bench, self.batch, self.ctx, self.tokens = bench, batch, ctx, tokens
        self._decoders: dict[Parents, Decoder] = {}
        self._committing: dict[Parents, Decoder] = {}
        self._cache: KVCache | None = None
        self._text = torch.empty(0, dtype=torch.int64)
        self._told: dict[str, int] = {}

    def _decoder(self, parents: Parents) -> Decoder:
        """The decoder of steps at a fixed length; the first one fills the shared cache."""
        if parents not in self._decoders:
            bench = self.bench
            decoder = build_decoder(
                bench.model,
                bench.backend,
                batch=self.batch,
                tokens=self.tokens,
                plan=replace(bench.plan, parents=parents),
                small=bench.small,
                simulated=bench.rates,
                cache=self._cache,
            )
            if self._cache is None:
                self._fill(decoder)
            elif decoder.draft:
                self._fill_draft(decoder, decoder.draft)
            self._place(decoder)
            self._decoders[parents] = decoder
        return self._decoders[parents]

    def _committer(self, parents: Parents) -> Decoder:
        """A decoder on the same caches that advances on a text of its own."""
        if parents not in self._committing:
            still, bench = self._decoder(parents), self.bench
            decoder = Decoder(
                bench.model, still.cache, bench.backend, draft=still.draft, law=still.law
            )
            self._place(decoder)
            self._committing[parents] = decoder
        return self._committing[parents]

    def _fill(self, decoder: Decoder) -> None:
        """The text and all caches for it: real where there are prompts, else random."""
        bench, tokens = self.bench, decoder.text.tokens
        if bench.prompts:
            decoder.start(bench.prompts(self.batch, self.ctx + 1), new_tokens=1)
        else:
            decoder.fill_random(self.ctx, bench.seed)
        self._cache, self._text = decoder.cache, tokens.clone()

    def _fill_draft(self, decoder: Decoder, draft: Drafter) -> None:
        """Fills the own caches of another drafter that shares the target's cache."""
        self._place(decoder)
        if self.bench.prompts:
            draft.prefill(decoder.text)
        else:
            generator = torch.Generator(device=self.bench.model.device)
            draft.fill_random(self.ctx, generator.manual_seed(self.bench.seed))

    def _place(self, decoder: Decoder) -> None:
        """The decoder at the end of the text, nothing of it ended."""
        width = min(self._text.shape[1], decoder.text.tokens.shape[1])
        decoder.text.tokens[:, :width] = self._text[:, :width]
        decoder.text.lengths.fill_(self.ctx)
        decoder.limit.fill_(decoder.longest)
        decoder.done.zero_()

    def target(self, query_tokens: int) -> Step:
        """Decoding for one token, else the verification of a chain."""
        if query_tokens == 1:
            decoder = self._decoder(_chain(1))
            return _still(decoder, decoder.decode_step)
        return self._verifying(_chain(query_tokens - 1))

    def verify(self, point: Point) -> Step:
        """The target over the point's chain or tree, with acceptance."""
        return self._verifying(_parents(point))

    def _verifying(self, parents: Parents) -> Step:
        decoder = self._decoder(parents)
        with torch.inference_mode(), decoder.holding():
            proposal = decoder.propose()
        return _still(decoder, lambda: decoder.verify_step(proposal))

    def draft(self, point: Point) -> Step:
        """Times all draft passes of one round; nothing is committed."""
        decoder = self._decoder(_parents(point))
        return _still(decoder, decoder.propose)

    def round(self, point: Point) -> Step:
        """Times a whole round, which commits what it accepts."""
        decoder = self._committer(_parents(point))

        def step() -> None:
            with torch.inference_mode():
                decoder.round()

        return step

    def plain(self, point: Point) -> Step:
        """A decode step that commits, on the text of the point's rounds."""
        decoder = self._committer(_parents(point))

        def step() -> None:
            with torch.inference_mode():
                decoder.decode_step()

        return step

    def rewind(self, point: Point) -> int:
        """The point's text anew; how many tokens a sequence may then commit at most."""
        decoder = self._committer(_parents(point))
        decoder.text.lengths.fill_(self.ctx)
        return decoder.longest - self.ctx - 2 * point.query_tokens

    def emitted(self, point: Point) -> int:
        """Tokens committed since last asked; waits for the device, so outside what is timed."""
        decoder = self._committer(_parents(point))
        counters = decoder.counters
        total = int(counters.accepted.sum()) + int(counters.rounds.sum())
        before = self._told.get(point.id, 0)
        self._told[point.id] = total
        if int(decoder.text.lengths.max()) + 2 * point.query_tokens >= decoder.longest:
            decoder.text.lengths.fill_(self.ctx)
        return total - before


def _parents(point: Point) -> Parents:
    return point.tree.parents if point.tree else _chain(point.gamma)


def _chain(gamma: int) -> Parents:
    return tuple(range(-1, gamma))


def _still(decoder: Decoder, action: Callable[[], Any]) -> Step:
    """A step at the decoder's present length, which it leaves as it was."""

    def step() -> None:
        with torch.inference_mode(), decoder.holding():
            action()

    return step
