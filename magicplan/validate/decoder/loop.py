"""Autoregressive and speculative decoding of a batch, without host synchronisation in a round.

The text, its lengths and all counters stay on the device. A round drafts, verifies in one pass of
the target and advances every sequence by what it accepted; a rejected token is a length that does
not advance. The host looks only every few rounds, to see whether all sequences have ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from magicplan.errors import UsageError
from magicplan.kernels.backend import Accepted, Backend, Noise
from magicplan.validate.decoder.drafts import (
    SHORTEST_PROMPT,
    UNLIMITED,
    Drafter,
    Proposal,
    Text,
    emitted,
    prefill,
)
from magicplan.validate.decoder.kv_cache import KVCache
from magicplan.validate.decoder.sampling import Sampling
from magicplan.validate.decoder.simulated import SimulatedLaw
from magicplan.validate.decoder.transformer import Block, Transformer

ROUNDS_A_LOOK = 8
"""Rounds between two looks of the host at what has ended."""


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
        """Counters at zero for that many sequences."""
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
        """Sets every counter to zero, in place."""
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


class Decoder:
    """A batch of sequences, a target with its cache, and perhaps a draft.

    law: decides how much is accepted in place of the verification (`simulated`, timing only).
    end_tokens: what ends a sequence.
    """

    def __init__(
        self,
        model: Transformer,
        cache: KVCache,
        backend: Backend,
        *,
        draft: Drafter | None = None,
        sampling: Sampling | None = None,
        end_tokens: Sequence[int] = (),
        law: SimulatedLaw | None = None,
    ) -> None:
        self.model, self.cache, self.backend, self.draft = model, cache, backend, draft
        self.sampling, self.law = sampling or Sampling(), law
        device, batch = model.device, cache.batch
        reach, most = (draft.reach, draft.shape.most) if draft else (0, 0)
        self.longest = cache.capacity - reach
        """Tokens a sequence may reach: a round writes what it drafts behind them."""
        self.most_new = draft.most_new if draft else UNLIMITED
        self.text = Text(
            tokens=torch.zeros(batch, cache.capacity + 2, dtype=torch.int64, device=device),
            lengths=torch.zeros(batch, dtype=torch.int32, device=device),
        )
        self.limit = torch.zeros_like(self.text.lengths)
        self.done = torch.ones(batch, dtype=torch.bool, device=device)
        request = torch.arange(batch, dtype=torch.int32, device=device)
        self.noise = Noise(seed=self.sampling.seed, request=request, step=torch.zeros_like(request))
        self.counters = Counters.zero(batch, most, device)
        self.advancing = True
        self._ends = torch.tensor(list(end_tokens), dtype=torch.int64, device=device)
        self._here = torch.zeros(1, dtype=torch.int32, device=device)
        self._none = torch.zeros(batch, dtype=torch.int32, device=device)

    # what a batch starts from

    def start(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
        """Read prompts, one a sequence, and allow each `new_tokens` more.

        Raises UsageError if a prompt is too short or has a token outside the vocabulary, or if
        they do not fit the cache.
        """
        lengths = [len(prompt) for prompt in prompts]
        if len(prompts) != self.cache.batch or min(lengths) < SHORTEST_PROMPT:
            raise UsageError(
                f"expected {self.cache.batch} prompts of at least {SHORTEST_PROMPT} tokens each, "
                f"got {len(prompts)}, the shortest of {min(lengths, default=0)}"
            )
        room = min(self.longest - max(lengths), self.most_new)
        if not 1 <= new_tokens <= room:
            raise UsageError(
                f"prompts of up to {max(lengths)} tokens and {new_tokens} new ones: this cache "
                f"takes 1 to {room} new tokens behind them"
            )
        vocab = self.model.shape.vocab
        if not all(0 <= token < vocab for prompt in prompts for token in prompt):
            raise UsageError(f"a prompt has a token outside the vocabulary of {vocab}")
        self.text.tokens.zero_()
        for row, prompt in zip(self.text.tokens, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt, dtype=torch.int64)
        counts = torch.tensor(lengths, dtype=torch.int32)
        self.text.lengths.copy_(counts - 1)
        self.limit.copy_(counts + new_tokens)
        self._reset()
        prefill(self.model, self.cache, self.text)
        if self.draft:
            self.draft.prefill(self.text)

    def fill_random(self, ctx_tokens: int, seed: int = 0) -> None:
        """A context of random tokens, keys and values, for timing.

        Raises UsageError for a context that leaves no room for a round.
        """
        if not 2 <= ctx_tokens < self.longest:
            raise UsageError(f"context {ctx_tokens}: this cache takes 2 to {self.longest - 1}")
        generator = torch.Generator(device=self.model.device)
        generator.manual_seed(seed)
        self.text.tokens.random_(0, self.model.shape.vocab, generator=generator)
        self.text.lengths.fill_(ctx_tokens)
        self.limit.fill_(min(self.longest, ctx_tokens + self.most_new))
        self._reset()
        self.cache.fill_random(generator)
        if self.draft:
            self.draft.fill_random(ctx_tokens, generator)

    def _reset(self) -> None:
        self.done.zero_()
        self.noise.step.zero_()
        self.counters.clear()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Lengths do not advance and nothing ends: every round is the same work."""
        self.advancing = False
        try:
            yield
        finally:
            self.advancing = True

    # steps; none waits for the device

    def decode_step(self) -> None:
        """Decodes one token a sequence without a draft."""
        logits = self._forward(self.text.last(), self._here, None)
        if self.sampling.greedy:
            token = self.model.choose(logits[:, -1])
        else:
            law = self.sampling.law(self.model.whole(logits[:, -1]))
            token = self.backend.sample(law, self.noise)
        self.commit(self.text.tokens[:, :0], Accepted(count=self._none, token=token), drafted=0)

    def round(self) -> None:
        """Runs one round of speculation: drafts, verifies, advances the text."""
        proposal = self.propose()
        accepted = self.verify_step(proposal)
        self.commit(self._path(proposal, accepted), accepted, drafted=self._draft.shape.drafted)

    def propose(self) -> Proposal:
        """Runs all draft passes of a round."""
        return self._draft.propose(self.text, self.noise)

    def draft_step(self) -> Tensor:
        """Runs one draft pass; its tokens are [B]."""
        return self._draft.step(self.text, self.noise)

    def verify_step(self, proposal: Proposal) -> Accepted:
        """The target's pass over the drafted tokens, acceptance, and the cache's repair."""
        shape = self._draft.shape
        tokens = torch.cat([self.text.last(), proposal.tokens], 1)
        logits = self._forward(tokens, shape.topology.depths, shape.seen)
        accepted = self._accept(proposal, tokens, logits)
        if shape.levels and accepted.nodes is not None:
            for layer in self.cache.layers:
                self.backend.compact(layer, self.text.lengths, accepted.nodes)
        self._draft.rollback(self.text, accepted)
        return accepted

    def _forward(self, tokens: Tensor, depths: Tensor, tree: Tensor | None) -> Tensor:
        block = Block(lengths=self.text.lengths, depths=depths, tree=tree)
        return self.model.forward(tokens, self.cache, block, self.backend)

    def _accept(self, proposal: Proposal, tokens: Tensor, logits: Tensor) -> Accepted:
        """tokens: [B, N] with the root; logits: [B, N, V / ranks]."""
        shape, backend = self._draft.shape, self.backend
        if self.law is not None:
            return self.law.accept(self.model.choose(logits), self.noise)
        if self.sampling.greedy:
            chosen = self.model.choose(logits)
            if shape.levels:
                return backend.accept_tree_greedy(shape.topology, tokens, chosen)
            return backend.accept_greedy(proposal.tokens, chosen)
        law = self.sampling.law(self.model.whole(logits))
        if proposal.law is not None:
            return backend.accept_sampled(proposal.tokens, proposal.law, law, self.noise)
        return backend.accept_tree_sampled(shape.topology, tokens, law, self.noise)

    def _path(self, proposal: Proposal, accepted: Accepted) -> Tensor:
        """[B, most]: the accepted tokens in order, then anything."""
        if not self._draft.shape.levels or accepted.nodes is None:
            return proposal.tokens
        return proposal.tokens.gather(1, (accepted.nodes.long() - 1).clamp(min=0))

    def commit(self, path: Tensor, accepted: Accepted, *, drafted: int) -> None:
        """Append accepted tokens and the one after them, up to an end token or the limit.

        path: [B, most accepted]; `accepted.count` of its tokens count.
        """
        lengths, count = self.text.lengths, accepted.count.long()
        tokens = emitted(path, accepted)
        step = torch.arange(tokens.shape[1], device=path.device)
        self.text.tokens.scatter_(1, lengths[:, None].long() + 1 + step, tokens)
        live = ~self.done
        self.counters.add(count, live, drafted)
        self.noise.step.add_(1)
        if not self.advancing:
            return
        taken = torch.minimum(count + 1, (self.limit - lengths - 1).long())
        ended = torch.zeros_like(self.done)
        if self._ends.numel():
            is_end = (tokens[..., None] == self._ends).any(-1) & (step < taken[:, None])
            ended = is_end.any(1)
            taken = torch.where(ended, is_end.long().argmax(1) + 1, taken)
        taken = taken * live
        self.counters.emitted.add_(taken)
        lengths.add_(taken.int())
        self.done.logical_or_(ended | (lengths + 1 >= self.limit))

    @property
    def _draft(self) -> Drafter:
        if self.draft is None:
            raise UsageError("this decoder has no draft: only decode_step is possible")
        return self.draft

    # whole generations

    def generate(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, *, speculative: bool = True
    ) -> list[list[int]]:
        """New tokens of every prompt, an end token included."""
        self.start(prompts, new_tokens)
        self.run(speculative=speculative)
        ends = (self.text.lengths + 1).tolist()
        rows = self.text.tokens.tolist()
        return [
            row[len(prompt) : end] for row, prompt, end in zip(rows, prompts, ends, strict=True)
        ]

    def run(self, *, speculative: bool = True, rounds: int | None = None) -> int:
        """Rounds until all sequences have ended, or at most `rounds`; how many there were."""
        step = self.round if speculative else self.decode_step
        done = 0
        while rounds is None or done < rounds:
            for _ in range(min(ROUNDS_A_LOOK, (rounds or done + ROUNDS_A_LOOK) - done)):
                step()
                done += 1
            if bool(self.done.all()):
                break
        return done
