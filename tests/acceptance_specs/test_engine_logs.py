"""Acceptance out of engines' logs, `/metrics`, benchmark results and histograms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from magicplan.acceptance_specs.files import import_measured, parse_acceptance
from magicplan.errors import SpecError, UsageError
from magicplan.roofline.acceptance import Acceptance


def read(tmp_path: Path, text: str) -> Acceptance:
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")
    return import_measured(path)


def survival(model: Acceptance, depth: int) -> list[float]:
    return [float(value) for value in model.survival(depth, 1.0)]


def vllm(rates: str, drafted: int, depth: str = "") -> str:
    return (
        f"INFO 03-04 [metrics.py:100] SpecDecoding metrics: Mean acceptance length: 2.00, {depth}"
        f"Accepted: 7 tokens, Drafted: {drafted} tokens, Per-position acceptance rate: {rates}, "
        "Avg Draft acceptance rate: 60.0%\n"
    )


def sglang(requests: int, length: float, rate: float) -> str:
    return (
        f"[2026-03-04 TP0] Decode batch, #running-req: {requests}, #token: 90, accept len: "
        f"{length:.2f}, accept rate: {rate:.2f}, cuda graph: True\n"
    )


def test_a_position_is_averaged_over_the_lines_that_drafted_it(tmp_path: Path) -> None:
    """300 tokens at three positions are 100 rounds, 50 at one are 50."""
    text = vllm("0.900, 0.600, 0.300", 300, "Current speculative depth: 3, ") + vllm("0.600", 50)
    model = read(tmp_path, text)
    assert survival(model, 3) == pytest.approx([(90 + 30) / 150, 0.6, 0.3])
    assert model.measured == 3
    assert model.uncertainty > 0


def test_a_line_without_rates_drafted_nothing(tmp_path: Path) -> None:
    idle = vllm("", 0).replace("2.00", "nan")
    assert survival(read(tmp_path, idle + vllm("0.800, 0.500", 40)), 2) == pytest.approx([0.8, 0.5])
    with pytest.raises(SpecError, match="drafted nothing"):
        read(tmp_path, idle)


def test_sglang_lines_weigh_what_their_requests_weigh(tmp_path: Path) -> None:
    """Accept lengths 1.6 of one request and 2.8 of 31, at three drafted tokens."""
    model = read(tmp_path, sglang(1, 1.6, 0.2) + sglang(31, 2.8, 0.6))
    assert 1 + sum(survival(model, 3)) == pytest.approx((1.6 + 31 * 2.8) / 32, abs=1e-6)
    assert 0 < model.uncertainty < 0.1


def test_a_line_that_accepted_nothing_is_a_measurement(tmp_path: Path) -> None:
    model = read(tmp_path, sglang(4, 1.0, 0.0) + sglang(4, 2.5, 0.5))
    assert 1 + sum(survival(model, 3)) == pytest.approx(1.75, abs=1e-6)
    alone = read(tmp_path, sglang(4, 1.0, 0.0))
    assert survival(alone, 2) == [0.0, 0.0]


def test_no_draft_length_beyond_the_measured_one_is_chosen(tmp_path: Path) -> None:
    assert read(tmp_path, sglang(8, 2.0, 1.0)).measured == 1


def test_idle_sglang_lines_say_nothing(tmp_path: Path) -> None:
    model = read(tmp_path, sglang(0, 1.0, 0.0) + sglang(2, 2.2, 0.4))
    assert 1 + sum(survival(model, 3)) == pytest.approx(2.2, abs=1e-6)


@pytest.mark.parametrize(("length", "rate"), [(0.5, 0.2), (2.0, 1.5), (1.0, 0.5), (2.0, 0.0)])
def test_sglang_lines_that_cannot_be(tmp_path: Path, length: float, rate: float) -> None:
    with pytest.raises(SpecError, match="cannot be"):
        read(tmp_path, sglang(1, length, rate))


def test_sglang_gauges(tmp_path: Path) -> None:
    text = (
        'sglang:spec_accept_length{model_name="m"} 2.8\n'
        'sglang:spec_accept_rate{model_name="m"} 0.6\n'
        'sglang:num_running_reqs{model_name="m"} 3\n'
    )
    model = read(tmp_path, text)
    assert 1 + sum(survival(model, 3)) == pytest.approx(2.8, abs=1e-6)
    assert model.measured == 3


def test_llama_cpp(tmp_path: Path) -> None:
    line = "draft acceptance rate = 0.60000 (   60 accepted /   100 generated)\n"
    floor = read(tmp_path, line)
    assert survival(floor, 1) == pytest.approx([0.6])
    assert "a floor" in floor.origin
    counters = (
        "statistics ngram_mod: #calls = 81, #gen drafts = 10, #acc drafts = 10, "
        "#gen tokens = {}, #acc tokens = {}, dur(b,g,a) = 0.1, 0.3, 0.0 ms\n"
    )
    text = line + counters.format(20, 9) + counters.format(40, 24)
    model = read(tmp_path, text)
    assert sum(survival(model, 4)) == pytest.approx(2.4)  # of mean drafts of 4, 60 %
    assert model.measured == 4


def test_a_result_of_vllm_bench_serve(tmp_path: Path) -> None:
    document = {
        "spec_decode_acceptance_length": 2.2,
        "spec_decode_num_drafts": 400,
        "spec_decode_per_position_acceptance_rates": [0.7, 0.5],
    }
    model = read(tmp_path, json.dumps(document))
    assert survival(model, 2) == pytest.approx([0.7, 0.5])
    with pytest.raises(SpecError, match="rounds above 0"):
        read(tmp_path, json.dumps(document | {"spec_decode_num_drafts": 0}))


@pytest.mark.parametrize(
    "histogram", [[20, 10, 30, 40], {"0": 20, "1": 10, "2": 30, "3": 40}], ids=["dense", "sparse"]
)
@pytest.mark.parametrize("name", ["acceptance_histogram", "spec_correct_drafts_histogram"])
def test_histograms_of_accepted_drafts(tmp_path: Path, histogram: object, name: str) -> None:
    """100 rounds: 80 accepted one or more, 70 two or more, 40 three."""
    document = {"metrics": {"speculative_decoding": {name: histogram}}}
    model = read(tmp_path, json.dumps(document))
    assert survival(model, 3) == pytest.approx([0.8, 0.7, 0.4])
    assert model.measured == 3
    twice = read(tmp_path, f"{json.dumps(document)}\n{json.dumps(document)}\n")
    assert survival(twice, 3) == pytest.approx([0.8, 0.7, 0.4])
    assert twice.uncertainty == pytest.approx(model.uncertainty / 2**0.5)


@pytest.mark.parametrize("histogram", [[5], "x", {"a": 1}, [1, -1], [1, True], {"9999": 1}])
def test_histograms_that_are_none(tmp_path: Path, histogram: object) -> None:
    with pytest.raises(SpecError, match="histogram"):
        read(tmp_path, json.dumps({"acceptance_histogram": histogram}))


def test_a_length_without_its_draft_length_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"len:2\.4@K"):
        read(tmp_path, json.dumps({"accept_length": 2.4}))


def test_mean_accept_lengths_as_text() -> None:
    with_bonus, without = (parse_acceptance(t) for t in ("len:3.2@5", "accepted:2.2@5"))
    for model in (with_bonus, without):
        assert 1 + sum(survival(model, 5)) == pytest.approx(3.2, abs=1e-6)
        assert model.measured == 5
    assert "bonus token included" in with_bonus.origin
    several = parse_acceptance("len:1.8@1,2.4@2,2.8@4")
    assert survival(several, 4) == pytest.approx([0.8, 0.6, 0.2, 0.2])
    assert parse_acceptance("len:3.2@5+-0.03").uncertainty == 0.03


@pytest.mark.parametrize("text", ["len:3.2", "len:7@5", "len:0.5@2", "len:x@2", "len:2@0", "len:"])
def test_lengths_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match=r"accept|drafted tokens"):
        parse_acceptance(text)


def test_a_path_alone_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_text(sglang(1, 2.2, 0.4), encoding="utf-8")
    assert 1 + sum(survival(parse_acceptance(str(path)), 3)) == pytest.approx(2.2, abs=1e-6)
