"""Greedy speculation gives the greedy tokens, whatever drafts and however ragged the batch."""

from __future__ import annotations

import pytest
import torch

from magicplan import kernels
from magicplan.errors import MagicplanError, UsageError
from magicplan.validate.decoder.build import KINDS, DraftPlan, build_decoder, decoder_bytes
from magicplan.validate.decoder.draft_shape import DraftShape
from magicplan.validate.decoder.drafts import ModelDrafter
from magicplan.validate.decoder.kv_cache import KVCache
from magicplan.validate.decoder.loop import Decoder
from magicplan.validate.decoder.sampling import Sampling
from magicplan.validate.decoder.transformer import Block
from tests.validate.decoder import tiny

CHAIN = (-1, 0, 1, 2, 3)
TREES = ((-1, 0, 0, 1, 1, 2, 3, 3), (-1, 0, 0, 0))
LENGTHS = (70, 23, 41)
NEW = 30


MODEL, SMALL = tiny.model(), tiny.model(layers=2)
"""The small model is the first layers of the other: it agrees now and then."""
PROMPTS = tiny.prompts(*LENGTHS)


def decoder(plan: DraftPlan | None = None, **options: object) -> Decoder:
    settings: dict[str, object] = {"batch": 3, "tokens": 128, "small": SMALL, "page_size": 16}
    return build_decoder(MODEL, tiny.backend(), plan=plan, **(settings | options))  # type: ignore[arg-type]


def plain(new: int = NEW, **options: object) -> list[list[int]]:
    return decoder(None, **options).generate(PROMPTS, new, speculative=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parents", [(-1, 0), CHAIN, *TREES])
def test_greedy_speculation_is_greedy_decoding(kind: str, parents: tuple[int, ...]) -> None:
    plan = DraftPlan(kind=kind, parents=parents, budget=36, inner_gamma=2, inner_budget=16)
    if kind in ("ngram", "triforce") and not plan.is_chain:
        with pytest.raises(UsageError, match="chain"):
            decoder(plan)
        return
    speculative = decoder(plan)
    assert speculative.generate(PROMPTS, NEW) == plain()
    assert int(speculative.counters.accepted.sum()) > 0, "nothing was ever accepted"
    assert len(set(speculative.counters.rounds.tolist())) > 1, "the batch was not ragged"


@pytest.mark.parametrize("kind", ["self", "streaming", "model", "ngram", "triforce"])
def test_the_shortest_prompts_work(kind: str) -> None:
    prompts = tiny.prompts(3, 4, 3)
    rows = decoder(None).generate(prompts, 12, speculative=False)
    plan = DraftPlan.chain(3, kind=kind, budget=8, inner_gamma=2)
    assert decoder(plan).generate(prompts, 12) == rows


def test_a_sequence_does_not_depend_on_its_batch() -> None:
    for prompt, together in zip(PROMPTS, plain(), strict=True):
        alone = decoder(None, batch=1).generate([prompt], NEW, speculative=False)
        assert alone == [together]


@pytest.mark.parametrize("parents", [CHAIN, TREES[0]])
@pytest.mark.parametrize("kind", ["self", "streaming"])
def test_an_end_token_inside_an_accepted_path_ends_the_sequence(
    kind: str, parents: tuple[int, ...]
) -> None:
    rows = plain()
    # a token that one sequence reaches early and another late or never
    for end in (rows[0][5], rows[1][9], rows[2][13]):
        expected = [row[: row.index(end) + 1] if end in row else row for row in rows]
        plan = DraftPlan(kind=kind, parents=parents, budget=36)
        speculative = decoder(plan, end_tokens=[end])
        assert speculative.generate(PROMPTS, NEW) == expected
        assert decoder(None, end_tokens=[end]).generate(
            PROMPTS, NEW, speculative=False
        ) == expected  # fmt: skip
        emitted = speculative.counters.emitted.tolist()
        assert emitted == [len(row) for row in expected]


@pytest.mark.parametrize("new", range(1, 9))
def test_a_limit_inside_an_accepted_path_is_kept(new: int) -> None:
    """Deeper drafts than the tokens left, for every remainder; pages end inside a round."""
    plan = DraftPlan(parents=TREES[0], budget=70)
    assert decoder(plan, page_size=4).generate(PROMPTS, new) == plain(new)


@pytest.mark.parametrize("page", [1, 3, 64])
@pytest.mark.parametrize("kind", ["self", "streaming", "snapkv"])
def test_pages_do_not_matter(kind: str, page: int) -> None:
    plan = DraftPlan(kind=kind, parents=TREES[0], budget=36)
    assert decoder(plan, page_size=page).generate(PROMPTS, NEW) == plain()


@pytest.mark.parametrize("parents", [CHAIN, TREES[0]])
def test_a_draft_that_sees_what_the_target_sees_is_always_right(parents: tuple[int, ...]) -> None:
    for kind in ("self", "streaming", "snapkv"):
        same = decoder(DraftPlan(kind=kind, parents=parents, budget=120))
        same.generate(PROMPTS, NEW)
        counters = same.counters
        assert int(counters.accepted.sum()) == same.draft.shape.most * int(counters.rounds.sum())  # type: ignore[union-attr]


@pytest.mark.parametrize("middle", ["self", "snapkv"])
def test_triforce_with_perfect_levels_accepts_all(middle: str) -> None:
    plan = DraftPlan.chain(6, kind="triforce", middle=middle, budget=120, inner_gamma=2)
    perfect = decoder(plan, small=MODEL)
    assert perfect.generate(PROMPTS, NEW) == plain()
    assert perfect.counters.tokens_per_round == 7


def test_triforce_on_a_selection_is_exact() -> None:
    plan = DraftPlan.chain(5, kind="triforce", middle="snapkv", budget=40, inner_gamma=2)
    assert decoder(plan).generate(PROMPTS, NEW) == plain()


def test_counters_add_up() -> None:
    chain = decoder(DraftPlan.chain(4, budget=36))
    rows = chain.generate(PROMPTS, NEW)
    counters = chain.counters
    assert counters.by_count.sum(1).tolist() == counters.rounds.tolist()
    by_count = counters.by_count @ torch.arange(5)
    assert by_count.tolist() == counters.accepted.tolist()
    assert counters.emitted.tolist() == [len(row) for row in rows] == [NEW] * 3
    # the last round may be cut by the limit, so a little more was accepted than emitted
    more = counters.accepted + counters.rounds - counters.emitted
    assert ((more >= 0) & (more <= 4)).all()
    assert 0 < counters.acceptance < 1
    full = counters.by_count[:, 4]
    assert counters.tested.tolist() == (counters.accepted + counters.rounds - full).tolist()


def test_holding_repeats_the_same_round() -> None:
    held = decoder(DraftPlan(parents=TREES[0], budget=36))
    held.fill_random(60, seed=3)
    before = held.text.lengths.clone()
    with held.holding():
        held.run(rounds=5)
        held.run(rounds=3, speculative=False)
    assert torch.equal(held.text.lengths, before)
    assert held.counters.rounds.tolist() == [8] * 3
    held.round()
    assert (held.text.lengths > before).all()


@pytest.mark.parametrize("kind", KINDS)
def test_random_fill_runs_every_draft(kind: str) -> None:
    filled = decoder(DraftPlan.chain(3, kind=kind, budget=36))
    filled.fill_random(90, seed=1)
    filled.round()
    assert filled.draft_step().shape == (3,)
    assert (filled.text.lengths > 90).all()


def node_logits(tree: tuple[int, ...], tokens: list[int]) -> torch.Tensor:
    """One verification pass over a tree behind a prompt."""
    one = decoder(None, batch=1, tokens=100)
    one.start([PROMPTS[1]], 10)
    shape = DraftShape.tree(tree)
    block = Block(lengths=one.text.lengths, depths=shape.topology.depths, tree=shape.seen)
    root = [PROMPTS[1][-1], *tokens]
    return MODEL.forward(torch.tensor([root]), one.cache, block, tiny.backend())[0]


@pytest.mark.parametrize("tree", TREES)
def test_a_node_sees_its_path_and_nothing_else(tree: tuple[int, ...]) -> None:
    tokens = [7 * node % tiny.VOCAB for node in range(1, len(tree))]
    logits = node_logits(tree, tokens)
    for node in range(len(tree)):
        path: list[int] = []
        at = node
        while at > 0:
            path.insert(0, tokens[at - 1])
            at = tree[at]
        expected = full_logits([*PROMPTS[1], *path])[-1]
        torch.testing.assert_close(logits[node], expected, atol=2e-5, rtol=0)


def full_logits(tokens: list[int]) -> torch.Tensor:
    """Logits of a plain pass over a whole text, [tokens, V]."""
    cache = KVCache.full(
        MODEL.shard, 1, len(tokens), device=MODEL.device, dtype=MODEL.dtype, page_size=8
    )
    depths = torch.arange(len(tokens), dtype=torch.int32)
    block = Block(lengths=torch.zeros(1, dtype=torch.int32), depths=depths)
    return MODEL.forward(torch.tensor([tokens]), cache, block, tiny.backend())[0]


@pytest.mark.parametrize("kind", ["self", "streaming", "model"])
@pytest.mark.parametrize("parents", [CHAIN, TREES[0]])
def test_the_cache_is_that_of_a_fresh_prefill(kind: str, parents: tuple[int, ...]) -> None:
    """After ragged rounds, K and V of every committed token are those of reading the text anew."""
    used = decoder(DraftPlan(kind=kind, parents=parents, budget=36), page_size=8)
    rows = used.generate(PROMPTS, NEW)
    fresh = decoder(None, page_size=8)
    texts = [prompt + row for prompt, row in zip(PROMPTS, rows, strict=True)]
    fresh.start(texts, 1)
    assert torch.equal(used.text.lengths, fresh.text.lengths)
    for mine, anew in zip(used.cache.layers, fresh.cache.layers, strict=True):
        for b, length in enumerate(used.text.lengths.tolist()):
            page = torch.arange(length) // 8
            for pools in ((mine.key, anew.key), (mine.value, anew.value)):
                rows_of = [
                    pool[layer.page_table[b, page].long(), torch.arange(length) % 8]
                    for pool, layer in zip(pools, (mine, anew), strict=True)
                ]
                torch.testing.assert_close(rows_of[0], rows_of[1], atol=2e-5, rtol=0)


def test_sampling_is_reproducible_and_its_seed_matters() -> None:
    plan = DraftPlan.chain(3, budget=36)
    runs = [
        decoder(plan, sampling=Sampling(temperature=1.0, seed=seed)).generate(PROMPTS, 20)
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("plan", [DraftPlan.chain(3, budget=36), DraftPlan(parents=TREES[0])])
def test_a_low_temperature_agrees_with_greedy(plan: DraftPlan) -> None:
    cold = decoder(plan, sampling=Sampling(temperature=1e-4))
    assert cold.generate(PROMPTS, NEW) == plain()


def test_bytes_are_known_before_anything_is_built() -> None:
    plans = [DraftPlan(kind=kind, parents=CHAIN, budget=36) for kind in KINDS]
    for plan in [*plans, DraftPlan(kind="triforce", middle="snapkv", budget=60)]:
        built = decoder(plan)
        known = decoder_bytes(
            MODEL.shard, batch=3, tokens=128, dtype=MODEL.dtype, plan=plan, small=SMALL.shard,
            page_size=16,
        )  # fmt: skip
        assert known["kv_bytes"] == built.cache.bytes
        assert known["draft_kv_bytes"] == built.draft.cache_bytes  # type: ignore[union-attr]


def test_what_cannot_run_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 3 tokens each, got 3, the shortest of 2"):
        decoder().generate([[1, 2], [1, 2, 3], [1, 2, 3]], 3)
    with pytest.raises(UsageError, match="outside the vocabulary of 61"):
        decoder().generate([[1, 2, 61], [1, 2, 3], [1, 2, 3]], 3)
    with pytest.raises(UsageError, match="new tokens behind"):
        decoder().generate(PROMPTS, 100)
    with pytest.raises(UsageError, match="no draft"):
        decoder().generate(PROMPTS, 3)
    with pytest.raises(UsageError, match="needs a draft model"):
        decoder(DraftPlan(kind="model"), small=None)
    with pytest.raises(UsageError, match="shares its target's tokens"):
        decoder(DraftPlan(kind="model"), small=tiny.model(vocab=7))
    with pytest.raises(UsageError, match="expected one of self"):
        DraftPlan(kind="eagle")
    with pytest.raises(UsageError, match="expected self or snapkv"):
        DraftPlan(middle="model")
    with pytest.raises(UsageError, match="cannot hold 4 sinks"):
        DraftPlan(budget=4)
    with pytest.raises(UsageError, match="context 5000"):
        decoder().fill_random(5000)


def test_a_custom_draft_fits_in() -> None:
    """A draft is anything with `propose`; a wrong one costs rounds, never tokens."""

    class Wrong(ModelDrafter):
        def _first(self, text):  # type: ignore[no-untyped-def]
            return -super()._first(text)

    cache = KVCache.full(MODEL.shard, 3, 140, device=MODEL.device, dtype=MODEL.dtype, page_size=16)
    draft = Wrong(MODEL, cache, tiny.backend(), DraftShape.chain(3), view=None, sampling=Sampling())
    wrong = Decoder(MODEL, cache, tiny.backend(), draft=draft)
    assert wrong.generate(PROMPTS, NEW) == plain()
    assert int(wrong.counters.accepted.sum()) == 0


@pytest.mark.parametrize("name", ["native", "triton"])
@pytest.mark.parametrize("plan", [DraftPlan.chain(3, budget=20), DraftPlan(parents=TREES[0])])
def test_every_backend_of_this_machine_decodes_alike(name: str, plan: DraftPlan) -> None:
    """Whole decoders; Triton's interpreter is slow, so a few tokens of it."""
    try:
        backend = kernels.load(name)
    except MagicplanError as reason:
        pytest.skip(str(reason))
    new = 24 if name == "native" else 5
    target = tiny.model(head_dim=64, layers=1, attention_scale=4.0)
    prompts = tiny.prompts(40, 25)
    rows = [
        build_decoder(target, of, batch=2, tokens=80, plan=p).generate(
            prompts, new, speculative=p is not None
        )
        for of, p in ((tiny.backend(), None), (backend, None), (backend, plan))
    ]
    assert rows[0] == rows[1] == rows[2]
