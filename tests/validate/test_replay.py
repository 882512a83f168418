"""Published rows become predictions: what is used, what is not and why, and the account."""

from __future__ import annotations

from pathlib import Path

import pytest

from magicplan.errors import SpecError
from magicplan.validate.published import Published, read
from magicplan.validate.replay import Outcome, Summary, regrets, replay, sign_accuracy

ROWS = Path(__file__).parents[1] / "data" / "published.csv"
"""Made up, in the layout of MagicDec's tables."""


@pytest.fixture(scope="module")
def found() -> Published:
    return read([ROWS])


@pytest.fixture(scope="module")
def outcomes(found: Published) -> list[Outcome]:
    done, skipped = replay(found.cases)
    assert not skipped
    return done


def test_rows_that_cannot_be_used_say_why(found: Published) -> None:
    reasons = {s.id: s.reason for s in found.skipped}
    assert reasons == {
        "r5": "GPU 'A900' has no datasheet here",
        "r6": "accept length 4.5 is not between 1 and gamma + 1 = 4",
        "r7": "the row is theory, not measured",
    }


def test_a_row_is_asked_as_it_states(found: Published) -> None:
    case = found.cases[1]
    assert case.ask["stack"] == "magicdec"
    assert (case.ask["gpus"], case.ask["tp"], case.ask["gamma"]) == (8, 8, 3)
    assert case.ask["draft_kv"] == "streaming:512"
    alpha = float(case.ask["acceptance"])
    assert sum(alpha**k for k in range(4)) == pytest.approx(2.9, abs=1e-4)


def test_impossible_rows_are_those_below_the_floor(outcomes: list[Outcome]) -> None:
    assert [o.case.id for o in outcomes if o.impossible] == ["r4"]


def test_the_naive_roofline_stands_beside(outcomes: list[Outcome]) -> None:
    for o in outcomes:
        if o.kind == "step":
            assert o.naive < o.low <= o.predicted <= o.high
    good = [o for o in outcomes if o.kind == "step" and not o.impossible]
    summary = Summary.of(good)
    assert summary.mape < summary.naive_mape
    assert summary.naive_bias < 0


def test_signs_and_regret(outcomes: list[Outcome]) -> None:
    share, count = sign_accuracy(outcomes)
    assert count == 4
    assert share in (75.0, 100.0)
    (lost,) = regrets(outcomes).values()  # three lengths at 32k; the one at 4k is no sweep
    assert lost in (0.0, pytest.approx(100 * (1 - 1.10 / 1.25)), pytest.approx(16.0))


def test_another_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SpecError, match="none of the known layouts"):
        read([path])


SERVING = (
    "id,backend,backend_version,model_path,system,precision,input_tokens,output_tokens,batch_size,"
    "tp_size,pp_size,attention_dp_size,moe_ep_size,ttft_ms,tpot_ms\n"
)


def test_serving_rows_carry_their_neighbours_prefill(tmp_path: Path) -> None:
    path = tmp_path / "serving.csv"
    row = "s1,vllm,0.12.0,Qwen/Qwen3-32B,h100_sxm,,{},512,16,2,1,,,100,20\n"
    steps = []
    for prompt in ("128", "8192"):
        path.write_text(SERVING + row.format(prompt))
        (case,) = read([path]).cases
        assert case.prefill_tokens == 16 * int(prompt) / 512
        (outcome,), _ = replay([case])
        steps.append(outcome.predicted)
    assert steps[1] > 1.5 * steps[0]


def test_plain_rows(tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    path.write_text(
        "id,source,engine_version,gpu,n_gpu,parallelism,model,weight_dtype,kv_dtype,"
        "batch_or_concurrency,input_len,output_len,metric,value,unit,grade\n"
        "p1,s,vLLM,A100-80GB-SXM(330W),1,TP1,Llama-2-7B,bf16,bf16,4,5,~200,decode throughput,400,"
        "tok/s,A\n"
        "p2,s,vLLM,H100,1,TP1,Llama-3.1-8B,bf16,fp8,1,8K,128,median ITL,7,ms,B\n"
        "p3,s,vLLM,H100,1,TP1,Llama-3.1-8B,bf16,fp8,1,8K,128,ITL intercept,7,ms,A\n"
        "p4,s,vLLM,H100,1,TP1,Llama-3.1-8B,Q5_K,fp8,1,8K,128,median ITL,7,ms,B\n"
    )
    found = read([path])
    first, second = found.cases
    assert first.step_seconds == pytest.approx(0.01)
    assert (first.ask["gpu"], first.ask["ctx"]) == ("a100-sxm-80gb", 105)
    assert (second.ask["ctx"], second.ask["kv_dtype"]) == (8192 + 64, "fp8")
    assert [s.id for s in found.skipped] == ["p3", "p4"]
