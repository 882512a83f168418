"""`predict` end to end: hand-worked workloads, laws over grids, refusals."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import magicplan as mp
from magicplan.errors import DoesNotFit, MagicplanError, UsageError
from magicplan.prediction.result import Prediction

A100 = "a100-sxm-80gb"


def test_the_readme_workload() -> None:
    # 128 x 65,536 x 131,072 bytes are 1.0995 TB of KV: two replicas of 8 A100s hold it
    p = mp.predict(gpu="a100", batch=128, ctx=65536, stack="ideal")
    assert (p.deployment.gpus, p.deployment.tp, p.deployment.replicas) == (16, 8, 2)
    assert p.memory.weights_bytes == 2 * 8_030_261_248
    assert p.memory.kv_bytes == 64 * 65_536 * 131_072
    assert p.workload.batch_per_replica == 64
    assert p.baseline.bound == "kv"
    # a GPU reads 1/8 of 64 x 65,537 tokens' KV and of the weights at 2.039 TB/s
    floor = (64 * 65_537 * 131_072 + 2 * (8_030_261_248 - 525_336_576)) / 8 / 2.039e12
    assert p.baseline.step_seconds == pytest.approx(floor, rel=0.02)
    assert p.baseline.step_seconds > floor
    assert p.best.gamma > 0
    assert p.best.speedup > 2


def test_calibrated_steps_lie_above_the_floor_and_say_by_what() -> None:
    p = mp.predict(gpu="a100", batch=128, ctx=65536)
    assert p.deployment.calibration.startswith("a100-sxm-80gb_vllm_")
    assert p.ideal.step_seconds < p.baseline.low_seconds
    assert 1 < p.baseline.step_seconds / p.ideal.step_seconds < 2.5
    assert p.best.speedup < p.ideal.speedup
    assert any("published steps of vllm" in line for line in p.assumptions)


def test_one_a100_does_not_hold_it() -> None:
    with pytest.raises(DoesNotFit, match=r"needs .* are available; the largest batch .* is \d+"):
        mp.predict(gpu="a100", batch=128, ctx=65536, gpus=1)


def test_a_model_that_no_gpu_of_one_holds() -> None:
    with pytest.raises(DoesNotFit, match="not even one sequence"):
        mp.predict(gpu="t4", model="llama-3.1-405b", gpus=1)


def test_short_context_at_a_wide_batch_does_not_speculate() -> None:
    p = mp.predict(gpu="h200", batch=1024, ctx=1024, acceptance="0.5")
    assert p.best.gamma == 0
    assert p.best.speedup == 1
    assert p.best.draft == "none"


def test_gamma_zero_is_the_baseline_exactly() -> None:
    p = mp.predict(gpu="h100", batch=[1, 8, 64], ctx=[1024, 65536])
    assert (p.gammas[0].round_seconds == p.baseline.step_seconds).all()
    assert (p.gammas[0].tokens_per_s == p.baseline.tokens_per_s).all()
    assert (p.gammas[0].speedup == 1).all()


def test_a_budget_that_holds_the_context_drafts_at_the_price_of_a_step() -> None:
    ask: dict[str, Any] = {
        "gpu": "h100",
        "batch": 4,
        "ctx": 1024,
        "draft_kv": "streaming:1024",
        "gamma": 1,
    }
    p = mp.predict(**ask, stack="ideal")
    assert p.gammas[1].draft_seconds == pytest.approx(p.baseline.step_seconds, rel=1e-12)
    assert p.gammas[1].tokens_per_round == 2


@pytest.mark.parametrize("model", ["llama-3.1-8b", "gemma-3-27b", "deepseek-v3", "gpt-oss-120b"])
def test_a_scalar_equals_its_grid_cell(model: str) -> None:
    options: dict[str, Any] = {
        "gpu": "h200", "model": model, "acceptance": "0.8", "draft": "self",
    }  # fmt: skip
    grid = mp.predict(**options, batch=[1, 16], ctx=[2048, 16384])
    one = mp.predict(**options, batch=16, ctx=16384)
    for part in ("baseline", "best"):
        for name in ("tokens_per_s",):
            assert getattr(getattr(grid, part), name)[1, 1] == getattr(getattr(one, part), name)
    assert grid.gammas[3].round_seconds[1, 1] == one.gammas[3].round_seconds
    assert grid.deployment.gpus[1, 1] == one.deployment.gpus


def test_a_grid_cell_that_fits_nowhere_is_data() -> None:
    p = mp.predict(gpu="a100", gpus=1, batch=[1, 4096], ctx=[1024, 65536])
    assert p.memory.fits.tolist() == [[True, True], [False, False]]
    assert np.isnan(p.best.tokens_per_s[1]).all()
    document = p.to_dict()
    assert document["best"]["tokens_per_s"][1] == [None, None]


def test_kv_passes_of_one_a_token_turn_the_verdict() -> None:
    packed = mp.predict(gpu="a100", batch=64, ctx=65536, acceptance="0.7")
    unpacked = mp.predict(gpu="a100", batch=64, ctx=65536, acceptance="0.7", verify_kv_passes=17)
    assert packed.best.gamma > 0
    assert unpacked.best.gamma == 0
    assert any("verify KV passes" in line and "gamma 0" in line for line in packed.assumptions)


def test_break_evens_are_where_they_say() -> None:
    p = mp.predict(gpu="h100", batch=32, ctx=8192, acceptance="0.6", gpus=8)
    ctx = p.break_even.kv_equals_weights_ctx_tokens
    at = mp.predict(gpu="h100", batch=32, ctx=round(ctx), acceptance="0.6", gpus=8)
    assert at.baseline.kv_bytes == pytest.approx(at.baseline.weight_bytes, rel=2e-3)
    pays = p.break_even.speedup_one_ctx_tokens
    for factor, better in ((0.9, False), (1.1, True)):
        near = mp.predict(gpu="h100", batch=32, ctx=round(pays * factor), acceptance="0.6", gpus=8)
        assert (near.best.gamma > 0) is better
    alpha = p.break_even.speedup_one_acceptance
    for shift, better in ((-0.01, False), (0.01, True)):
        text = f"{alpha + shift}"
        near = mp.predict(gpu="h100", batch=32, ctx=8192, acceptance=text, gpus=8)
        assert (near.best.gamma > 0) is better


def test_a_wanted_speedup_names_the_acceptance_it_needs() -> None:
    options: dict[str, Any] = {
        "gpu": "h100", "batch": 32, "ctx": 65536, "gpus": 8, "draft": "self",
    }  # fmt: skip
    alpha = mp.predict(**options, want_speedup=1.5).break_even.wanted_speedup_acceptance
    assert mp.predict(**options, acceptance=str(alpha)).best.speedup == pytest.approx(1.5, rel=1e-6)


def test_the_json_has_the_contract_s_fields() -> None:
    document = mp.predict(gpu="a100", batch=8, ctx=4096, draft="self").to_dict()
    text = json.dumps(document, allow_nan=False)
    assert json.loads(text)["schema"] == "magicplan.prediction/1"
    wanted = {
        "accelerator": "name asked count",
        "model": "name parameters",
        "deployment": "gpus tp replicas dtype kv_dtype stack calibration",
        "workload": "batch batch_per_replica ctx_tokens output_tokens",
        "memory": "weights_bytes kv_bytes draft_bytes workspace_bytes needed_bytes_per_gpu "
        "available_bytes_per_gpu fits max_batch",
        "baseline": "step_seconds low_seconds high_seconds linear_seconds attention_seconds "
        "collective_seconds elementwise_seconds host_seconds weight_bytes kv_bytes "
        "activation_bytes flops tokens_per_s bound",
        "best": "draft gamma tokens_per_round draft_seconds verify_seconds overhead_seconds "
        "round_seconds tokens_per_s speedup speedup_low speedup_high runs_on_stack "
        "exists_for_model size",
        "verdict": "speculate draft gamma text",
        "break_even": "kv_equals_weights_ctx_tokens memory_bound_ctx_tokens compute_bound_batch "
        "speedup_one_ctx_tokens speedup_one_acceptance",
        "ideal": "step_seconds speedup",
    }
    for part, names in wanted.items():
        assert set(names.split()) <= set(document[part]), part
    assert [entry["gamma"] for entry in document["gammas"]] == list(range(17))
    assert document["best"]["gamma"] == document["gammas"][document["best"]["gamma"]]["gamma"]


def test_gamma_asked_for_is_reported_even_past_the_longest() -> None:
    p = mp.predict(gpu="a100", batch=8, ctx=4096, draft="self", gamma=20, max_gamma=20)
    assert (p.best.gamma, len(p.gammas)) == (0, 21)  # a loss: the forced round stays in gammas
    assert p.verdict.speculate == "no"


def test_no_draft_leaves_gamma_zero_alone() -> None:
    p = mp.predict(gpu="a100", batch=8, ctx=65536, draft="none")
    assert (len(p.gammas), p.best.gamma, p.best.speedup) == (1, 0, 1)


def test_a_small_model_is_held_beside_the_target() -> None:
    p = mp.predict(gpu="h100", batch=8, ctx=4096, draft="llama-3.2-1b", acceptance="0.7")
    # 1,235,814,400 parameters; its KV of 16 layers x 2 x 8 x 64 numbers in bf16
    kv = 8 * 4096 * 16 * 2 * 8 * 64 * 2
    assert p.memory.draft_bytes == pytest.approx(2 * 1_235_814_400 + kv, rel=1e-3)


def test_a_v100_computes_in_fp16_and_says_so() -> None:
    p = mp.predict(gpu="v100", batch=1, ctx=1024)
    assert p.deployment.dtype == "fp16"
    assert any("no bf16" in line for line in p.assumptions)


def test_mixture_layouts() -> None:
    p = mp.predict(
        gpu="h200", model="deepseek-v3", dtype="fp8", batch=64, ctx=4096, tp=1, attention_dp=8,
        ep=8, draft="none",
    )  # fmt: skip
    assert (p.deployment.gpus, p.deployment.ep, p.deployment.attention_dp) == (8, 8, 8)
    assert p.baseline.collective_seconds > 0
    piped = mp.predict(gpu="a100", model="llama-3.1-70b", pp=2, tp=4, batch=8, ctx=4096)
    assert (piped.deployment.gpus, piped.deployment.pp) == (8, 2)


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"gpu": "h10"}, "did you mean"),
        ({"model": "llama-3"}, "unknown model"),
        ({"batch": 0}, "batch 0"),
        ({"batch": 1.5}, "batch 1.5"),
        ({"batch": []}, "batch is empty"),
        ({"batch": "many"}, "expected a number or a list"),
        ({"ctx": float("nan")}, "ctx nan"),
        ({"ctx": -1}, "ctx -1"),
        ({"batch": 1e30}, "batch 1e+30"),
        ({"tp": 3}, "tp 3 does not split"),
        ({"tp": 0}, "tp 0"),
        ({"gpus": 3, "tp": 2}, "gpus 3 is not a multiple"),
        ({"gpus": 0}, "gpus 0"),
        ({"pp": 100}, "pp 100"),
        ({"ep": 2}, "no experts"),
        ({"attention_dp": 2}, "neither experts nor latent"),
        ({"dtype": "fp8"}, "no fp8 math"),
        ({"dtype": "bf17"}, "expected one of"),
        ({"kv_dtype": "fp4"}, "kv_dtype 'fp4'"),
        ({"stack": "vlm"}, "unknown stack"),
        ({"memory_fraction": 1.5}, "memory_fraction 1.5: expected a number from"),
        ({"max_gamma": 1000}, "max_gamma 1000: expected a whole number from"),
        ({"gamma": -1}, "gamma -1"),
        ({"verify_kv_passes": 0.5}, "verify_kv_passes 0.5: expected"),
        ({"draft": "nobody"}, "unknown draft"),
        ({"draft": "mtp"}, "no multi-token-prediction"),
        ({"draft_kv": "streaming:2"}, "sinks"),
        ({"draft_kv": "streaming"}, "expected full or one of"),
        ({"draft_kv": "quant:3"}, "quant:4 or quant:8"),
        ({"draft_dtype": "int3"}, "draft_dtype int3"),
        ({"acceptance": "1.5"}, "from 0 to 1"),
        ({"colour": "red"}, "takes no colour"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(
    options: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(UsageError) as problem:
        mp.predict(**({"gpu": A100} | options))
    assert wrong in str(problem.value)
    assert "\n" not in str(problem.value)


numbers = st.integers(1, 2**20) | st.floats() | st.integers(-3, 3)


def check(p: Prediction) -> None:
    """No NaN, no negative time, no rate above the physical one, in anything that fits."""
    for entry in p.gammas:
        for name in ("draft_seconds", "verify_seconds", "overhead_seconds"):
            assert getattr(entry, name) >= 0
        assert entry.round_seconds > 0
        assert entry.speedup_low <= entry.speedup <= entry.speedup_high
        assert 1 <= entry.tokens_per_round <= entry.gamma + 1
    assert p.best.speedup >= 1
    assert p.baseline.low_seconds <= p.baseline.step_seconds <= p.baseline.high_seconds
    json.dumps(p.to_dict(), allow_nan=False)


@settings(max_examples=150)
@given(
    gpu=st.sampled_from(["a100", "h100", "l40s", "v100", "mi300x", "tpu-v5e", "gb200", "t4"]),
    model=st.sampled_from(
        ["llama-3.1-8b", "deepseek-v3", "gemma-3-1b", "gpt-oss-20b", "qwen2.5-7b", "mixtral-8x7b"]
    ),
    batch=numbers,
    ctx=numbers,
    draft=st.sampled_from(["self", "none", "llama-3.2-1b", "eagle3", "ngram", "mtp", "triforce"]),
    draft_kv=st.none() | st.sampled_from(["full", "streaming:64", "snapkv:2049", "quant:4"]),
    dtype=st.none() | st.sampled_from(["bf16", "fp8", "int8", "int4", "fp4"]),
    kv_dtype=st.none() | st.sampled_from(["bf16", "fp8", "int4"]),
    acceptance=st.sampled_from(["auto", "0", "1", "0.8", "cond:0.9,0.1"]),
    gpus=st.sampled_from(["auto", 1, 8, 7]),
    output=st.sampled_from([0, 1, 1000]),
)
def test_any_input_is_answered_or_refused(**options: Any) -> None:
    try:
        p = mp.predict(**options)
    except MagicplanError as problem:
        message = str(problem)
    else:
        message = ""
        check(p)
    assert "\n" not in message


def test_a_hopeless_grid_is_still_an_answer() -> None:
    p = mp.predict(gpu="t4", model="llama-3.1-405b", gpus=1, batch=[1, 2], ctx=[1024])
    assert not p.memory.fits.any()
    assert p.to_dict()["baseline"]["step_seconds"] == [[None], [None]]
