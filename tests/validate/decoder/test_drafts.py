"""What drafts see and propose: SnapKV's choice, n-gram matches, rings, TriForce's laws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from magicplan.errors import UsageError
from magicplan.kernels.backend import LayerCache, Noise, Window, identity_pages
from magicplan.kernels.torch_attention import gather
from magicplan.validate.decoder.build import DraftPlan, build_decoder
from magicplan.validate.decoder.draft_shape import DraftShape
from magicplan.validate.decoder.drafts import NgramDrafter, Text
from magicplan.validate.decoder.kv_cache import KVCache, full_bytes, ring_bytes
from magicplan.validate.decoder.sampling import Sampling
from magicplan.validate.decoder.snapkv import OBSERVED, SnapKVDrafter, select
from tests.validate.decoder import tiny

MODEL, SMALL = tiny.model(), tiny.model(layers=2)


def noise(batch: int = 1) -> Noise:
    request = torch.arange(batch, dtype=torch.int32)
    return Noise(seed=0, request=request, step=torch.zeros_like(request))


# shapes


def test_levels_name_parents_and_ranks() -> None:
    shape = DraftShape.tree((-1, 0, 0, 1, 1, 2, 3))
    assert [(level.start, level.end, level.widest) for level in shape.levels] == [
        (1, 3, 2), (3, 6, 2), (6, 7, 1),
    ]  # fmt: skip
    assert shape.levels[1].above.tolist() == [0, 0, 1]
    assert shape.levels[1].rank.tolist() == [0, 1, 0]
    assert (shape.drafted, shape.most) == (6, 3)


@pytest.mark.parametrize(
    ("parents", "what"),
    [((-1,), "at least one node"), ((-1, 0, 1, 0), "breadth-first"), ((-1, 2, 0), "earlier node")],
)
def test_what_is_no_draft_tree_is_refused(parents: tuple[int, ...], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        DraftShape.tree(parents)
    with pytest.raises(UsageError, match="gamma 0"):
        DraftShape.chain(0)


# n-grams


def proposed(words: list[int], gamma: int = 4, longest: int = 3) -> list[int]:
    tokens = torch.tensor([[*words, 99, 98, 97, 96, 95]])
    text = Text(tokens=tokens, lengths=torch.tensor([len(words) - 1], dtype=torch.int32))
    draft = NgramDrafter(DraftShape.chain(gamma), longest=longest)
    return draft.propose(text, noise()).tokens[0].tolist()


def test_ngrams_continue_the_longest_match_and_of_equals_the_latest() -> None:
    assert proposed([1, 2, 3, 4, 5, 6, 9, 1, 2, 3]) == [4, 5, 6, 9]
    # the latest single match is 3 -> 8, but two tokens match earlier
    assert proposed([2, 3, 4, 5, 6, 7, 1, 3, 8, 2, 3]) == [4, 5, 6, 7]
    assert proposed([2, 3, 4, 0, 0, 2, 3, 7, 0, 2, 3], gamma=1) == [7]
    assert proposed([2, 3, 4, 1, 3, 8, 2, 3], longest=1) == [8, 2, 3, 8]


def test_a_match_near_the_end_repeats_itself_and_none_repeats_the_last() -> None:
    assert proposed([7, 1, 2, 1, 2]) == [1, 2, 1, 2]
    assert proposed([4, 5, 6]) == [6, 6, 6, 6]
    assert proposed([5, 5]) == [5, 5, 5, 5]


def test_an_ngram_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        NgramDrafter(DraftShape.chain(1), longest=0)


# sampling laws


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    assert kept(Sampling(temperature=1.0, top_p=0.5), logits) == [0]
    assert kept(Sampling(temperature=1.0, top_p=0.51), logits) == [0, 1]
    assert kept(Sampling(temperature=1.0, top_p=0.01), logits) == [0]
    assert kept(Sampling(temperature=1.0, top_p=1.0), logits) == [0, 1, 2, 3]
    # a lower temperature sharpens before the cut
    assert kept(Sampling(temperature=0.5, top_p=0.7), logits) == [0]


def kept(sampling: Sampling, logits: Tensor) -> list[int]:
    return sampling.law(logits)[0].isfinite().nonzero()[:, 0].tolist()


def test_temperature_divides_logits() -> None:
    logits = torch.randn(2, 3, 9)
    torch.testing.assert_close(Sampling(temperature=0.5).law(logits), 2 * logits)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": math.nan}, {"top_p": 0.0}, {"top_p": 1.1},
              {"seed": -1}],
)  # fmt: skip
def test_what_is_no_law_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Sampling(**wrong)  # type: ignore[arg-type]


# SnapKV


def slow_choice(query: Tensor, keys: Tensor, length: int, keep: int) -> list[list[int]]:
    """The definition, one number at a time. query: [T, Hq, D]; keys: [S, Hkv, D]."""
    seen, heads, dim = query.shape
    kv_heads = keys.shape[1]
    before = length - seen
    chosen = []
    for kv in range(kv_heads):
        total = torch.zeros(before)
        for t in range(seen):
            for head in range(kv * heads // kv_heads, (kv + 1) * heads // kv_heads):
                visible = keys[: before + t + 1, kv]
                weight = (visible @ query[t, head] / math.sqrt(dim)).softmax(0)
                total += weight[:before]
        pooled = [sum(total[max(0, i - 2) : i + 3].tolist()) / 5 for i in range(before)]
        best = torch.tensor(pooled).argsort(descending=True)[:keep].tolist()
        chosen.append([*sorted(best), *range(before, length)])
    return chosen


def test_snapkv_keeps_what_the_definition_keeps() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([50, 21, 13], dtype=torch.int32)
    cache = LayerCache.allocate(
        page_table=identity_pages(3, 64, 8, "cpu"), pages=24, page_size=8, kv_heads=2, head_dim=8,
        dtype=torch.float32,
    )  # fmt: skip
    cache.key.normal_()
    query = torch.randn(3, 5, 4, 8)
    kept, counts = select(query, cache, lengths, keep=12, longest=50)
    assert counts.tolist() == [17, 17, 13], "a short context is kept whole"
    for b, length in enumerate(lengths.tolist()):
        slots = torch.arange(length)
        keys = cache.key[cache.page_table[b, slots // 8].long(), slots % 8]
        expected = slow_choice(query[b], keys, length, 12)
        assert kept[b, :, : counts[b]].tolist() == expected


@pytest.mark.parametrize("parents", [(-1, 0, 1, 2), (-1, 0, 0, 1, 1, 2)])
def test_generated_tokens_stand_in_the_selection_as_the_target_computed_them(
    parents: tuple[int, ...],
) -> None:
    plan = DraftPlan(kind="snapkv", parents=parents, budget=40)
    decoder = build_decoder(MODEL, tiny.backend(), batch=2, tokens=120, plan=plan)
    prompts = tiny.prompts(80, 50)
    decoder.start(prompts, 30)
    for _ in range(6):
        decoder.round()
    draft = decoder.draft
    assert isinstance(draft, SnapKVDrafter)
    assert int(decoder.counters.accepted.sum()) > 0
    for b, length in enumerate(decoder.text.lengths.tolist()):
        slots = torch.arange(len(prompts[b]) - 1, length)[None]
        for of, to in zip(decoder.cache.layers, draft.cache.layers, strict=True):
            one = LayerCache(key=of.key, value=of.value, page_table=of.page_table[b : b + 1])
            own = LayerCache(key=to.key, value=to.value, page_table=to.page_table[b : b + 1])
            mine = gather(to.key, own, slots + int(draft.shift[b]))
            assert torch.equal(mine, gather(of.key, one, slots))


def test_a_small_snapkv_budget_is_refused() -> None:
    plan = DraftPlan(kind="snapkv", budget=OBSERVED)
    with pytest.raises(UsageError, match="expected more than"):
        build_decoder(MODEL, tiny.backend(), batch=1, tokens=64, plan=plan)


# rings


def test_a_ring_is_as_large_as_its_window_whatever_the_context() -> None:
    view = Window(sinks=4, window=60)
    sizes = set()
    for slots in (1_000, 100_000):
        ring = KVCache.ring(
            MODEL.shard, 2, slots, view=view, scratch=10, device=MODEL.device, dtype=MODEL.dtype,
            page_size=16,
        )  # fmt: skip
        assert ring.capacity >= slots
        sizes.add(ring.bytes)
    assert sizes == {ring_bytes(MODEL.shard, 2, MODEL.dtype, view=view, scratch=10, page_size=16)}
    assert sizes.pop() < full_bytes(MODEL.shard, 2, 1_000, MODEL.dtype, 16) / 5


def test_slots_that_matter_at_once_never_share_memory() -> None:
    """Sinks, window and scratch of every length are on different rows."""
    view, scratch, page = Window(sinks=5, window=30), 9, 8
    ring = KVCache.ring(
        MODEL.shard, 1, 400, view=view, scratch=scratch, device=MODEL.device, dtype=MODEL.dtype,
        page_size=page,
    )  # fmt: skip
    table = ring.layers[0].page_table[0]
    for length in range(390 - scratch):
        live = {*range(view.sinks), *range(max(0, length + 1 - view.window), length + scratch + 1)}
        rows = {(int(table[slot // page]), slot % page) for slot in live}
        assert len(rows) == len(live)


def test_a_ring_draft_proposes_what_an_unbounded_cache_would() -> None:
    """The same draft on a cache that forgets nothing: only the view decides."""
    prompts = tiny.prompts(500, 130, 30)
    plan = DraftPlan.chain(4, kind="streaming", budget=24)
    ring = build_decoder(MODEL, tiny.backend(), batch=3, tokens=600, plan=plan)
    whole = build_decoder(MODEL, tiny.backend(), batch=3, tokens=600, plan=plan)
    assert ring.draft.cache_bytes * 3 < ring.cache.bytes * 2, "the prompt is longer than the ring"  # type: ignore[union-attr]
    whole.draft.cache = KVCache.full(  # type: ignore[union-attr]
        MODEL.shard, 3, 640, device=MODEL.device, dtype=MODEL.dtype
    )
    for decoder in (ring, whole):
        decoder.start(prompts, 60)
    for _ in range(12):
        mine, other = (d.draft.propose(d.text, d.noise).tokens for d in (ring, whole))  # type: ignore[union-attr]
        assert torch.equal(mine, other)
        ring.round()
        whole.round()


# TriForce


@pytest.mark.parametrize("kind", ["self", "snapkv"])
def test_triforce_drafts_the_middle_s_own_greedy_tokens(kind: str) -> None:
    """Whatever the small model says, the chain is what the middle level alone would draft."""
    prompts = tiny.prompts(60, 33)
    plans = [
        DraftPlan.chain(6, kind="triforce", middle=kind, budget=36, inner_gamma=2, inner_rounds=6),
        DraftPlan.chain(6, kind=kind, budget=36),
    ]
    found = []
    for plan in plans:
        decoder = build_decoder(MODEL, tiny.backend(), batch=2, tokens=100, plan=plan, small=SMALL)
        decoder.start(prompts, 20)
        found.append(decoder.propose().tokens)
    assert torch.equal(*found)


def test_triforce_pads_with_certainty() -> None:
    plan = DraftPlan.chain(6, kind="triforce", budget=24, inner_gamma=1, inner_rounds=2)
    sampling = Sampling(temperature=1.0)
    decoder = build_decoder(
        MODEL, tiny.backend(), batch=2, tokens=100, plan=plan, small=SMALL, sampling=sampling
    )
    decoder.start(tiny.prompts(60, 33), 20)
    proposal = decoder.propose()
    assert proposal.law is not None
    certain = torch.zeros(tiny.VOCAB)
    certain[0] = 1
    assert torch.equal(proposal.law[:, -1].softmax(-1), certain.expand(2, -1))
    assert proposal.tokens[:, -1].tolist() == [0, 0]
    assert (proposal.law[:, 0].softmax(-1) > 0).all()


def test_triforce_without_rounds_is_refused() -> None:
    plan = DraftPlan.chain(4, kind="triforce", inner_rounds=0)
    with pytest.raises(UsageError, match="inner rounds"):
        build_decoder(MODEL, tiny.backend(), batch=1, tokens=50, plan=plan, small=SMALL)
