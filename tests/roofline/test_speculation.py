"""Rounds: static batches, outputs that grow the context, and intervals that cover."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from magicplan.acceptance_specs.counts import counted
from magicplan.hardware_specs.calibration import HostFit, Residual
from magicplan.hardware_specs.transfer import ideal
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.acceptance import (
    Z80,
    Acceptance,
    Iid,
    PerPosition,
    Ranked,
    accept_length_variance,
    tokens_per_round,
)
from magicplan.roofline.acceptance_context import ContextLaw
from magicplan.roofline.deployment import Array, Deployment
from magicplan.roofline.draft_cost import draft_step
from magicplan.roofline.drafts import Draft, DraftRequest, model_draft, self_draft, streaming
from magicplan.roofline.speculation import (
    Scene,
    rounds,
    speedup_factors,
    static_efficiency,
    verify_seconds,
)
from magicplan.roofline.timing import Machine, step_cost
from magicplan.roofline.traffic import Pass, forward
from magicplan.roofline.tree_grid import Limits, tree_cells
from tests.shapes import A100, FITTED, IDEAL, LLAMA, SLIDING, fitted_calibration

SELF = self_draft(DraftRequest(target=LLAMA, view=streaming(512)))
SMALL = model_draft(DraftRequest(target=LLAMA, small=replace(SLIDING, vocab=LLAMA.vocab)))


def scene(batch: float = 8, ctx: float = 8192, machine: Machine = FITTED) -> Scene:
    one = np.array([[float(batch)]])
    return Scene(
        target=LLAMA,
        layout=Deployment(),
        machine=machine,
        batch=one,
        sequences=one,
        ctx=np.array([[ctx]]),
    )


def simulated_rounds(alpha: float, gamma: int, batch: int, output: int, trials: int) -> float:
    """Mean rounds until the slowest of a batch has emitted its output."""
    rng = np.random.default_rng(3)
    left = np.full((trials, batch), output)
    done = np.zeros(trials)
    for count in range(1, output + 1):
        accepted = (rng.random((trials, batch, gamma)) < alpha).cumprod(axis=-1).sum(axis=-1)
        left = left - accepted - 1
        done[(done == 0) & (left <= 0).all(axis=-1)] = count
        if done.all():
            break
    return float(done.mean())


@pytest.mark.parametrize(("batch", "output"), [(64, 128), (256, 512), (8, 256)])
def test_a_static_batch_lasts_as_long_as_simulated(batch: int, output: int) -> None:
    survival = Iid(alpha=0.8, origin="t").survival(4, 1.0)
    mean = float(tokens_per_round(survival)[-1])
    share = static_efficiency(mean, accept_length_variance(survival)[-1], output, float(batch))
    seen = simulated_rounds(0.8, 4, batch, output, 40)
    assert output / mean / float(share) == pytest.approx(seen, rel=0.03)
    assert float(share) < 0.96  # and it matters


def test_static_batching_takes_from_speculation_and_from_nothing_else() -> None:
    acceptance = Iid(alpha=0.8, origin="t")
    refilled = scene(batch=64)
    static = replace(refilled, static=True, output_tokens=128.0)
    grown = replace(refilled, output_tokens=128.0)
    one, other = (rounds(s, SELF, acceptance, 8) for s in (grown, static))
    np.testing.assert_allclose(other.speedup, one.speedup * other.batch_efficiency, rtol=1e-12)
    np.testing.assert_allclose(other.tokens_per_round, one.tokens_per_round)
    assert other.speedup[0, 0, 0] == 1
    assert (other.batch_efficiency[0, 0, 1:] < 1).all()
    assert (one.batch_efficiency == 1).all()
    alone = rounds(replace(static, batch=np.ones((1, 1))), SELF, acceptance, 8)
    assert (alone.batch_efficiency == 1).all()


def test_static_trees_of_one_child_a_node_are_static_chains() -> None:
    static = replace(scene(batch=64), static=True, output_tokens=128.0)
    acceptance = Ranked(probabilities=(0.8,), origin="one child a node")
    best = tree_cells(replace(static, machine=IDEAL), SMALL, acceptance, Limits(size=9, depth=9))
    chains = rounds(replace(static, machine=IDEAL), SMALL, Iid(alpha=0.8, origin="t"), 8)
    gamma = int(chains.best[0, 0])
    assert int(best.best.size[0, 0]) == gamma + 1
    assert best.best.speedup[0, 0] == pytest.approx(float(chains.speedup[0, 0, gamma]), rel=1e-9)


def step_by_step(at: Scene, draft: Draft, acceptance: Acceptance, gamma: int) -> float:
    """Speedup over a whole output: every plain step, and every round, at its own context."""
    start = float(at.ctx[0, 0] - at.output_tokens / 2)
    contexts = start + np.arange(at.output_tokens)
    each = replace(at, ctx=contexts[None, :], output_tokens=0.0)
    table = rounds(each, draft, acceptance, gamma)
    shape = (1, contexts.size, gamma + 1)
    seconds = np.broadcast_to(table.round_seconds, shape)[0]
    tokens = np.broadcast_to(table.tokens_per_round, shape)[0, :, gamma]
    place, speculating = 0.0, 0.0
    while place < contexts.size:
        here = int(place)
        speculating += seconds[here, gamma] * min(1.0, (contexts.size - place) / tokens[here])
        place += tokens[here]
    return float(seconds[:, 0].sum() / speculating)


@pytest.mark.parametrize(("start", "output"), [(300, 600), (512, 128), (2048, 8192), (32768, 1024)])
@pytest.mark.parametrize("machine", [IDEAL, FITTED], ids=["ideal", "fitted"])
@pytest.mark.parametrize("draft", [SELF, SMALL], ids=["self", "small"])
def test_a_growing_context_is_within_one_percent_of_every_step(
    start: float, output: float, machine: Machine, draft: Draft
) -> None:
    """The first two pass a self-draft's budget on the way: until then it accepts everything."""
    acceptance = ContextLaw(near=0.86, far=0.785, scale_tokens=9315, origin="t")
    acceptance = replace(acceptance, same_model=draft.same_model)
    at = replace(scene(8, start + output / 2, machine), output_tokens=float(output))
    found = float(rounds(at, draft, acceptance, 4).speedup[0, 0, 4])
    assert found == pytest.approx(step_by_step(at, draft, acceptance, 4), rel=0.01)


def machine_with(low: float, high: float) -> Machine:
    calibration = replace(
        fitted_calibration(), speedup_residual=Residual(low=low, high=high, basis="test")
    )
    return Machine(accelerator=A100, calibration=calibration)


@pytest.mark.parametrize(
    ("counted", "low", "high"),
    [(150, 0.999, 1.001), (10**7, 0.85, 1.12), (300, 0.93, 1.06), (300, 0.8, 1.25)],
    ids=["acceptance alone", "times alone", "both", "mostly times"],
)
@pytest.mark.parametrize("kind", ["chain", "tree"])
def test_the_interval_of_a_speedup_covers_four_times_in_five(
    kind: str, counted: int, low: float, high: float
) -> None:
    """Acceptance is known from counts, times by a factor of which 10 % lie below `low` and 10 %
    above `high`; the truth has its own alpha and its own factor."""
    rng = np.random.default_rng(11)
    truth, gamma, experiments = 0.75, 5, 600
    at = scene(8, 16384, machine_with(low, high))
    normal = rng.normal(size=experiments)
    factor = np.where(normal < 0, low ** (-normal / Z80), high ** (normal / Z80))
    seen = rng.binomial(counted, truth, experiments) / counted
    covered = 0
    for share, times in zip(seen, factor, strict=True):
        spread = Z80 * (share * (1 - share) / counted) ** 0.5
        model = Iid(alpha=share, origin="t", uncertainty=spread)
        if kind == "chain":
            table = rounds(at, SMALL, model, gamma)
            ends = table.speedup_low[0, 0, gamma], table.speedup_high[0, 0, gamma]
            real = rounds(at, SMALL, Iid(alpha=truth, origin="t"), gamma).speedup[0, 0, gamma]
        else:
            cells = tree_cells(at, SMALL, model, Limits(size=16, depth=6))
            ends = cells.interval(0, 0)
            ranks = Iid(alpha=truth, origin="t").level_ranks(5, 32, 1.0)
            emitted = cells.tree(0, 0).expected_tokens(ranks)
            real = cells.best.speedup[0, 0] * emitted / cells.best.tokens_per_round[0, 0]
        covered += ends[0] <= real * times <= ends[1]
    assert covered / experiments == pytest.approx(0.8, abs=3.2 * (0.16 / experiments) ** 0.5)


def counts_of(
    conditional: tuple[float, ...], drafted: Array, rng: np.random.Generator
) -> Acceptance:
    """What an experiment sees whose rounds draft to different depths: drafted [depth]."""
    draws = rng.random((int(drafted[0]), drafted.size)) < np.array(conditional)
    survived = np.cumprod(draws, axis=1)
    seen = [survived[: int(n), k].mean() for k, n in enumerate(drafted)]
    return counted(np.array(seen), drafted, "t")


@pytest.mark.parametrize(
    "conditional",
    [(0.75,) * 5, (0.9, 0.7, 0.5, 0.6, 0.8), (0.55, 0.85, 0.9, 0.9, 0.95)],
    ids=["alike", "falling", "rising"],
)
def test_the_interval_of_counts_by_position_covers_four_times_in_five(
    conditional: tuple[float, ...],
) -> None:
    """Positions are counted on the same rounds; each has its own rate. At every gamma."""
    rng, experiments, drafted = np.random.default_rng(8), 1500, np.full(5, 2000.0)
    truth = tokens_per_round(PerPosition(conditional=conditional, origin="t").survival(5, 1.0))
    covered = np.zeros(6)
    for _ in range(experiments):
        ends = counts_of(conditional, drafted, rng).interval()
        low, high = (tokens_per_round(end.survival(5, 1.0)) for end in ends)
        covered += (low <= truth) & (truth <= high)
    within = 3.2 * (0.16 / experiments) ** 0.5
    assert (covered[1:] / experiments).tolist() == pytest.approx([0.8] * 5, abs=within)


def test_a_speedup_from_counts_by_position_covers_four_times_in_five() -> None:
    rng, experiments, gamma, covered = np.random.default_rng(8), 600, 5, 0
    conditional = (0.9, 0.7, 0.5, 0.6, 0.8)
    at = scene(8, 16384, machine_with(0.9999, 1.0001))
    truth = PerPosition(conditional=conditional, origin="t")
    real = rounds(at, SMALL, truth, gamma).speedup[0, 0, gamma]
    for _ in range(experiments):
        table = rounds(at, SMALL, counts_of(conditional, np.full(5, 400.0), rng), gamma)
        ends = table.speedup_low[0, 0, gamma], table.speedup_high[0, 0, gamma]
        covered += ends[0] <= real <= ends[1]
    assert covered / experiments == pytest.approx(0.8, abs=3.2 * (0.16 / experiments) ** 0.5)


def test_counts_of_rounds_of_different_depths_cover_too() -> None:
    rng, experiments, gamma = np.random.default_rng(6), 2000, 4
    drafted = np.array([2000.0, 1000.0, 500.0, 250.0])
    conditional = (0.8, 0.7, 0.7, 0.6)
    model = PerPosition(conditional=conditional, origin="t")
    truth = tokens_per_round(model.survival(gamma, 1.0))[gamma]
    covered = 0
    for _ in range(experiments):
        ends = counts_of(conditional, drafted, rng).interval()
        low, high = (tokens_per_round(end.survival(gamma, 1.0))[gamma] for end in ends)
        covered += low <= truth <= high
    assert covered / experiments == pytest.approx(0.8, abs=3.2 * (0.16 / experiments) ** 0.5)


def test_the_error_of_counts_is_that_of_the_accepted_length() -> None:
    model = counted(np.array([0.8, 0.6, 0.3]), np.full(3, 400.0), "t")
    survival = model.survival(3, 1.0)
    low, high = (tokens_per_round(end.survival(3, 1.0)) for end in model.interval())
    error = Z80 * np.sqrt(accept_length_variance(survival) / 400)
    np.testing.assert_allclose((high - low) / 2, error, atol=1e-12)


@pytest.mark.parametrize("machine", [FITTED, IDEAL])
def test_a_smaller_model_starts_a_round_with_two_tokens(machine: Machine) -> None:
    """Its cache lacks the last drafted token; verification writes a self-draft's own."""
    at = scene(batch=64, machine=machine)
    for draft, tokens in ((SMALL, 2.0), (SELF, 1.0)):
        first, later = (
            float(np.max(draft_step(draft, at.layout, machine, 64.0, 8192.0, width=w).seconds))
            for w in (tokens, 1.0)
        )
        drafting = rounds(at, draft, Iid(alpha=0.8, origin="t"), 4).draft_seconds.ravel()
        assert drafting == pytest.approx([0.0, *(first + k * later for k in range(4))])


@pytest.mark.parametrize("model", [LLAMA, SLIDING], ids=["full", "sliding"])
def test_a_grid_of_passes_is_each_pass_alone(model: ModelShape) -> None:
    """What no context changes is computed once for the batches and degrees that occur."""
    batch = np.array([[1.0, 1.0, 2.0], [48.0, 96.0, 96.0], [7.0, 7.0, 7.0]])
    tp = np.array([[1.0, 2.0, 2.0], [4.0, 2.0, 2.0], [1.0, 1.0, 8.0]])
    pp = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 2.0], [4.0, 4.0, 1.0]])
    ctx, query = np.array([[512.0, 8192.0, 70000.0]]), np.array([1.0, 3.0, 9.0])
    asked = replace(scene(), target=model, batch=batch, ctx=ctx, kv_passes=2.0,
                    layout=Deployment(tp=tp, pp=pp))  # fmt: skip
    found = verify_seconds(asked, query)
    for b, c, q in np.ndindex(3, 3, 3):
        work = Pass(batch=batch[b, c], ctx=ctx[0, c], query_tokens=query[q],
                    kv_passes=min(2.0, query[q]))  # fmt: skip
        ops = forward(model, Deployment(tp=tp[b, c], pp=pp[b, c]), work)
        host = asked.machine.calibration.host.pass_seconds(work.batch, work.batch * query[q])
        assert found[b, c, q] == pytest.approx(
            step_cost(ops, asked.machine, host).seconds, rel=1e-14
        )


def test_what_sweeps_disagree_on_counts_by_its_share_of_a_round() -> None:
    """Half a round in draft steps that a sweep may find 80 % longer or shorter, three tenths in
    work for each sequence that newer versions may do without."""
    exact = Residual(low=1.0, high=1.0, basis="by hand")
    host = HostFit(draft_step_spread=0.8, round_batch_spread=1.0)
    known = replace(ideal(), host=host, speedup_residual=exact)
    below, above = speedup_factors(known, (1.0, 1.0), 0.5, 0.0)
    assert (float(below), float(above)) == pytest.approx((1.4, 1 / 0.6))
    below, above = speedup_factors(known, (1.0, 1.0), 0.0, 0.3)
    assert (float(below), float(above)) == pytest.approx((1.3, 1 / 0.7))
    below, _ = speedup_factors(known, (math.exp(0.4), 1.0), 0.0, math.expm1(0.3))
    assert float(below) == pytest.approx(math.exp(0.5))
    assert [float(f) for f in speedup_factors(known, (1.0, 1.0), 0.0, 0.0)] == [1.0, 1.0]
    assert float(speedup_factors(known, (1.0, 1.0), 0.0, 2.0)[1]) == pytest.approx(10.0)
