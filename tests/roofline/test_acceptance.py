"""Acceptance models: laws, published numbers, exact conversions, intervals, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magicplan.acceptance_specs.text import parse
from magicplan.errors import UsageError
from magicplan.roofline.acceptance import (
    Z80,
    Acceptance,
    Beta,
    Iid,
    Mixture,
    PerPosition,
    Ranked,
    accept_length_variance,
    alpha_from_tokens_per_round,
    geometric_sum,
    tokens_per_round,
)
from magicplan.roofline.acceptance_context import AtBudget, ContextLaw

rates = st.floats(0, 1)
some = st.lists(rates, min_size=1, max_size=6).map(tuple)
simple: st.SearchStrategy[Acceptance] = st.one_of(
    st.builds(Iid, alpha=rates, origin=st.just("test"), uncertainty=st.floats(0, 0.3)),
    st.builds(PerPosition, conditional=some, origin=st.just("test")),
    st.builds(Beta, a=st.floats(0.1, 20), b=st.floats(0.1, 20), origin=st.just("test")),
    st.builds(
        ContextLaw, near=rates, far=rates, scale_tokens=st.floats(1, 1e6), origin=st.just("test")
    ),
)
models: st.SearchStrategy[Acceptance] = st.one_of(
    simple,
    st.builds(
        lambda a, b: Mixture(weights=(0.25, 0.75), parts=(a, b), origin="test"), simple, simple
    ),
    st.builds(
        lambda a: AtBudget(
            base=a, measured_budget=512.0, rise=0.1, fall=0.8, origin="test", uncertainty=0.05
        ),
        simple,
    ),
)


@given(model=models, ctx=st.floats(1, 1e6), depth=st.integers(1, 16), budget=st.floats(16, 1e5))
def test_survival_falls_and_a_round_emits_one_to_gamma_plus_one(
    model: Acceptance, ctx: float, depth: int, budget: float
) -> None:
    for entry in (model, *model.interval()):
        survival = entry.survival(depth, ctx, budget)
        assert survival.shape == (depth,)
        assert ((survival >= 0) & (survival <= 1)).all()
        assert (np.diff(survival) <= 1e-15).all()
        emitted = tokens_per_round(survival)
        assert (emitted >= 1).all()
        assert (emitted <= np.arange(1, depth + 2)).all()
        assert (accept_length_variance(survival) >= 0).all()


@given(model=models, ctx=st.floats(1, 1e6), width=st.integers(1, 32))
def test_ranks_are_probabilities_that_do_not_increase(
    model: Acceptance, ctx: float, width: int
) -> None:
    for entry in (model, *model.interval()):
        ranks = entry.ranks(width, ctx)
        assert ranks.shape == (width,)
        assert (ranks >= -1e-15).all()
        assert ranks.sum() <= 1 + 1e-9
        assert (np.diff(ranks) <= 1e-12).all()


@given(model=models, ctx=st.floats(1, 1e6), levels=st.integers(1, 6))
def test_first_ranks_down_the_levels_are_the_chain(
    model: Acceptance, ctx: float, levels: int
) -> None:
    for entry in (model, *model.interval(), model.of_self_draft()):
        ranks = entry.level_ranks(levels, 8, ctx, 600.0)
        assert ranks.shape == (levels, 8)
        assert (ranks.sum(axis=-1) <= 1 + 1e-9).all()
        chain = np.cumprod(ranks[:, 0])
        np.testing.assert_allclose(chain, entry.survival(levels, ctx, 600.0), atol=1e-9)
        shares = [share for share, _ in entry.classes]
        assert sum(shares) == pytest.approx(1)
        parts = [part.survival(levels, ctx, 600.0) for _, part in entry.classes]
        mixed = np.average(parts, axis=0, weights=shares)
        np.testing.assert_allclose(mixed, entry.survival(levels, ctx, 600.0), atol=1e-9)


@given(model=models, ctx=st.floats(1, 1e6))
def test_a_self_draft_that_keeps_everything_accepts_everything(
    model: Acceptance, ctx: float
) -> None:
    same = model.of_self_draft()
    for entry in (same, *same.interval()):
        assert (entry.survival(4, ctx, ctx) == 1).all()
        assert (entry.survival(4, ctx, None) == 1).all()
    assert (model.survival(4, ctx, ctx) <= 1).all()


@given(model=models, ctx=st.floats(1, 1e6), gamma=st.integers(1, 12))
def test_the_interval_contains_the_estimate(model: Acceptance, ctx: float, gamma: int) -> None:
    low, high = (tokens_per_round(end.survival(gamma, ctx)) for end in model.interval())
    middle = tokens_per_round(model.survival(gamma, ctx))
    assert (low <= middle + 1e-12).all()
    assert (middle <= high + 1e-12).all()


@given(values=some)
def test_marginal_and_conditional_are_exact_inverses(values: tuple[float, ...]) -> None:
    marginal = tuple(np.cumprod(values).tolist())
    back = PerPosition.from_marginal(marginal, origin="test").survival(len(values), 1.0)
    np.testing.assert_allclose(back, marginal, atol=1e-15)


@given(alpha=rates, gamma=st.integers(1, 32))
def test_iid_is_the_geometric_sum_and_back(alpha: float, gamma: int) -> None:
    emitted = tokens_per_round(Iid(alpha=alpha, origin="t").survival(gamma, 1.0))[-1]
    assert emitted == pytest.approx(sum(alpha**k for k in range(gamma + 1)))
    depth = np.asarray(float(gamma))
    assert geometric_sum(np.asarray(alpha), depth) == pytest.approx(emitted)
    found = alpha_from_tokens_per_round(depth, np.asarray(emitted))
    assert geometric_sum(found, depth) == pytest.approx(emitted)


def test_an_unreachable_length_has_no_alpha() -> None:
    gamma = np.array([1.0, 1.0, 1.0])
    found = alpha_from_tokens_per_round(gamma, np.array([2.1, 0.9, 1.5]))
    assert np.isnan(found[0])
    assert found[1:].tolist() == pytest.approx([0.0, 0.5])


def test_beta_explains_ngram_drafting_where_iid_does_not() -> None:
    # vLLM pull request 24344 prints marginals .81 .74 .70 .68 .66 and 4.59 tokens a round
    beta = Beta.from_two_marginals(0.81, 0.74, origin="vLLM 24344")
    assert [beta.a, beta.b] == pytest.approx([0.68, 0.16], abs=0.01)
    assert beta.survival(5, 1.0)[2:].tolist() == pytest.approx([0.70, 0.67, 0.65], abs=0.006)
    assert tokens_per_round(beta.survival(5, 1.0))[-1] == pytest.approx(4.57, abs=0.01)
    iid = tokens_per_round(Iid(alpha=0.81, origin="t").survival(5, 1.0))[-1]
    assert iid == pytest.approx(3.78, abs=0.01)


def test_eagle_conditionals() -> None:
    # EAGLE-1, LLaMA2-Chat 7B: .76 .69 .67 .68 .68 give 3.04 tokens a chain of 5
    model = PerPosition(conditional=(0.76, 0.69, 0.67, 0.68, 0.68), origin="EAGLE")
    assert tokens_per_round(model.survival(5, 1.0))[-1] == pytest.approx(3.04, abs=0.005)


@given(a=st.floats(0.1, 20), b=st.floats(0.1, 20))
def test_rounds_that_differ_survive_longer_than_their_mean(a: float, b: float) -> None:
    survival = Beta(a=a, b=b, origin="t").survival(8, 1.0)
    assert (survival >= (a / (a + b)) ** np.arange(1, 9) - 1e-12).all()


def test_a_budget_scales_rejection() -> None:
    model = AtBudget(
        base=Iid(alpha=0.8, origin="t"), measured_budget=512, rise=0.5, fall=1.0, origin="t"
    )
    assert model.survival(1, 1e5, 512)[0] == pytest.approx(0.8)
    assert model.survival(1, 1e5, 2048)[0] == pytest.approx(1 - 0.2 / 2)
    assert model.survival(1, 1e5, 256)[0] == pytest.approx(1 - 0.2 * 2)


def test_ranks_of_a_mixture_and_of_a_shifted_vector() -> None:
    first = Ranked(probabilities=(0.6, 0.2), origin="t", uncertainty=0.1)
    mixed = Mixture(weights=(0.5, 0.5), parts=(first, Iid(alpha=0.0, origin="t")), origin="t")
    assert mixed.ranks(3, 1.0).tolist() == pytest.approx([0.3, 0.1, 0.0])
    low, high = first.interval()
    assert low.ranks(3, 1.0).tolist() == pytest.approx([0.5, 0.25, 0.0])
    assert high.ranks(3, 1.0).tolist() == pytest.approx([0.7, 0.15, 0.0])


def test_the_interval_of_counts_covers_four_times_in_five() -> None:
    # 2,000 experiments of 400 rounds each: coverage within three standard errors of 80 %
    rng = np.random.default_rng(7)
    truth, rounds, experiments = 0.7, 400, 2000
    seen = rng.binomial(rounds, truth, experiments) / rounds
    covered = 0
    for share in seen:
        model = Iid(
            alpha=share, origin="t", uncertainty=Z80 * (share * (1 - share) / rounds) ** 0.5
        )
        low, high = (end.survival(1, 1.0)[0] for end in model.interval())
        covered += low <= truth <= high
    assert covered / experiments == pytest.approx(0.8, abs=3 * (0.16 / experiments) ** 0.5)


@pytest.mark.parametrize(
    "text",
    ["1.2", "-0.1", "nan", "inf", "", "x", "cond:", "cond:0.8,1.2", "marg:0.6,0.8", "marg:",
     "marg:0.8,nan", "beta:1", "beta:0,1", "beta:1,nan", "0.8,0.7", "law:0.8", "cond:0.8,,0.7",
     "mix:", "mix:0.5*0.9", "mix:0.5*0.9+0.6*0.8", "mix:nan*0.9+0.5*0.8", "mix:0.5*0.9+0.5*1.2",
     "mix:1.5*0.9+-0.5*0.8", "mix:0.5*0.9,0.5*0.8", "mix:1*mix:1*0.5", "law:0.9,0.8,0",
     "law:0.9,0.8,nan", "law:1.9,0.8,10", "law:0.9,0.8,10,512", "law:0.9,0.8,10,0,0.1",
     "law:0.9,0.8,10,512,-1", "0.8+-2", "0.8+-", "0.8+-0.1,0.2",
     "+-0.1", "0.8+-nan", "law:0.9,0.8,10,512,nan"],
)  # fmt: skip
def test_what_is_no_acceptance_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as problem:
        parse(text)
    assert "\n" not in str(problem.value)


def test_what_is_one_is_read() -> None:
    assert parse("0.8").survival(2, 1.0).tolist() == pytest.approx([0.8, 0.64])
    assert parse("cond:0.8,0.5").survival(3, 1.0).tolist() == pytest.approx([0.8, 0.4, 0.2])
    assert parse("marg:0.8,0.4").survival(3, 1.0).tolist() == pytest.approx([0.8, 0.4, 0.2])
    assert parse("beta:4,1").survival(1, 1.0).tolist() == pytest.approx([0.8])
    mixed = parse("mix:0.75*0.8+0.25*cond:0.4,0")
    assert mixed.survival(2, 1.0).tolist() == pytest.approx([0.7, 0.75 * 0.64])
    assert [share for share, _ in mixed.classes] == [0.75, 0.25]
    for text in ("0.8+-0.05", "mix:0.5*0.9+0.5*0.7+-0.05", "cond:0.8,0.8+-0.05"):
        low, high = (end.survival(1, 1.0)[0] for end in parse(text).interval())
        assert [low, high] == pytest.approx([0.75, 0.85])
    law = parse("law:0.9,0.7,1000")
    assert law.survival(1, np.array([1000.0, 1e9])).ravel().tolist() == pytest.approx([0.8, 0.7])
    held = parse("law:0.8,0.8,1,512,0.5")
    assert held.survival(1, 1e5, 2048)[0] == pytest.approx(0.9)


def test_mixtures_that_are_none() -> None:
    part = Iid(alpha=0.5, origin="t")
    with pytest.raises(UsageError, match="sum to 1"):
        Mixture(weights=(0.5, 0.6), parts=(part, part), origin="t")
    with pytest.raises(UsageError, match="as many"):
        Mixture(weights=(1.0,), parts=(part, part), origin="t")
    with pytest.raises(UsageError, match="at most 1"):
        Ranked(probabilities=(0.6, 0.6), origin="t")
    assert part.interval() == (part, part)
