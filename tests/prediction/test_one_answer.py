"""Two commands never answer one question differently: seeded workloads, each asked in four ways."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from magicplan.errors import UsageError
from magicplan.prediction.choice.contenders import settled
from magicplan.prediction.choose import choose_everywhere
from magicplan.prediction.compare_drafts import compare
from magicplan.prediction.predict import answered
from magicplan.prediction.request import Request

MODELS = ("llama-3.1-8b", "qwen3-8b", "llama-3.1-70b", "gpt-oss-120b", "gemma-3-27b", "qwen2.5-7b")
STACKS = ("vllm", "sglang", "vllm@0.19.0", "magicdec", "trtllm")


def workloads(count: int, seed: int = 16) -> Iterator[Request]:
    """Workloads as people ask them, the same for a seed."""
    draw = random.Random(seed)
    for _ in range(count):
        yield Request(
            gpu=draw.choice(("a100", "h100", "h200", "b200", "l40s")),
            model=draw.choice(MODELS),
            batch=2 ** draw.randrange(9),
            ctx=1024 * 2 ** draw.randrange(8),
            stack=draw.choice(STACKS),
            task=draw.choice((None, None, "code", "chat")),
        )


def contradictions(ask: Request) -> list[str]:
    """What `predict`, `sweep`, `drafts` and `sweep --choice` say differently of one workload."""
    alone, drafts = answered(ask), compare(ask)
    grid = answered(replace(ask, batch=[ask.batch], ctx=[ask.ctx]))
    cell = choose_everywhere(ask).cells[0]
    said = [alone.verdict.speculate, drafts.verdict.speculate, grid.verdict.speculate[0][0]]
    found = [] if len(set(said)) == 1 else [f"verdicts {said}"]
    names = {alone.verdict.draft, drafts.verdict.draft, grid.verdict.draft[0][0]}
    if len(names) > 1:
        found.append(f"drafts {names}")
    gains = alone.best.speedup > 1
    if gains and (cell.draft, round(cell.speedup, 9)) != (
        alone.best.draft,
        round(alone.best.speedup, 9),
    ):
        found.append(f"choice {cell.draft} {cell.speedup} against {alone.best.draft}")
    if not gains and cell.kind != "none":
        found.append("choice drafts where predict does not")
    return found


@pytest.mark.parametrize("ask", list(workloads(24)), ids=str)
def test_no_two_commands_disagree(ask: Request) -> None:
    assert contradictions(ask) == []


@pytest.mark.parametrize("ask", list(workloads(60, seed=3)), ids=str)
def test_the_headline_can_be_launched_and_rests_on_measured_rates(ask: Request) -> None:
    p = answered(ask)
    assert p.best.runs_on_stack
    assert p.best.exists_for_model
    verdict, low, high = p.verdict.speculate, p.best.speedup_low, p.best.speedup_high
    if p.best.gamma:
        assert verdict == ("yes" if low > 1 else "undecided")
        assert high >= 1
        assert p.best.draft in p.verdict.text
        assert ask.stack in p.verdict.text
    if verdict == "no":
        assert (p.best.gamma, p.best.speedup) == (0, 1)
    if p.alternative is not None:
        assert not p.alternative.runs_on_stack
        assert p.alternative.exists_for_model
        better = p.alternative.speedup > max(p.best.speedup, 1)
        assert ("cannot run it" in p.verdict.text) == bool(better)


def test_measured_rates_come_before_borrowed_ones() -> None:
    for ask in workloads(12, seed=7):
        plans = [plan for plan in compare(ask).plans if plan.launchable]
        gains = [plan for plan in plans if plan.measured and plan.speedup > 1]
        assert plans[: len(gains)] == gains


def test_auto_over_a_grid_takes_each_cell_s_own_draft() -> None:
    grid = answered(Request(gpu="h100", batch=[1, 64], ctx=[2048, 65536]))
    for i, batch in enumerate((1, 64)):
        for j, ctx in enumerate((2048, 65536)):
            one = answered(Request(gpu="h100", batch=batch, ctx=ctx))
            assert grid.best.draft[i, j] == one.best.draft
            assert grid.best.speedup[i, j] == pytest.approx(one.best.speedup, rel=1e-12)
    assert len(set(grid.best.draft.ravel())) > 1


def test_one_draft_is_named_for_settings_and_trees() -> None:
    ask = Request(gpu="h100", batch=[1, 8], ctx=[4096])
    assert settled(ask).draft in ("eagle3", "llama-3.2-1b")
    assert settled(Request(gpu="h100", draft="ngram")).draft == "ngram"


def test_a_view_without_a_draft_is_the_self_draft_s() -> None:
    assert Request(gpu="h100", draft_kv="snapkv:2049").draft == "self"
    assert Request(gpu="h100").draft == "auto"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gamma": 5, "max_gamma": 3}, "more than"),
        ({"draft": "none", "gamma": 4}, "drafts nothing"),
        ({"draft": "qwen2.5-0.5b"}, "vocabulary"),
        ({"stack": "trtllm", "gpu": "mi300x"}, "NVIDIA GPUs only"),
        ({"task": "foo"}, "humaneval"),
        ({"task": "foo", "draft": "none"}, "humaneval"),
        ({"acceptance": "cond:2"}, "from 0 to 1"),
    ],
)
def test_what_contradicts_itself_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        answered(Request(**({"gpu": "h100"} | options)))  # type: ignore[arg-type]
    assert said.lower() in str(refused.value).lower()
    assert "\n" not in str(refused.value)


def test_a_forced_loss_is_no_and_stays_among_the_rounds() -> None:
    p = answered(Request(gpu="h100", batch=1, ctx=4096, draft="self", gamma=5))
    assert p.verdict.speculate == "no"
    assert (p.best.gamma, p.best.draft, p.best.speedup) == (0, "none", 1)
    assert p.gammas[5].speedup_high < 1


def test_a_head_beyond_its_training_is_a_loss() -> None:
    # this head's accept length, measured by its makers: 2.3 at 2k tokens, 1.1 at 16k
    p = answered(Request(gpu="h100", model="qwen3-8b", batch=8, ctx=16384, draft="eagle3"))
    assert p.verdict.speculate == "no"


def test_the_streaming_self_draft_stays_visible() -> None:
    p = answered(Request(gpu="a100", batch=128, ctx=65536))
    assert p.deployment.gpus == 16
    assert p.alternative is not None
    assert p.alternative.draft.startswith("self ")
    assert p.alternative.speedup_low > 1
    assert "magicdec can" in p.verdict.text
