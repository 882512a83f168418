"""Lengths, traces, traffic: distributions keep their percentiles, bad files are named by line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magicplan.errors import SpecError, UsageError
from magicplan.fields import made
from magicplan.planning.question import question_of
from magicplan.planning.request import request_from
from magicplan.serving.lengths import independent, quantiles
from magicplan.serving.load import Load, Traffic
from magicplan.serving.load import load_of as load_of_traffic
from magicplan.serving.traces import read_trace


def load_of(**traffic: Any) -> Load:
    return load_of_traffic(made(Traffic, traffic))


SHARE = (np.arange(512) + 0.5) / 512


def test_a_number_is_every_length() -> None:
    assert (quantiles("8k", SHARE, "prompt") == 8192).all()
    assert (quantiles(300, SHARE, "prompt") == 300).all()


def test_distributions_have_the_percentiles_they_state() -> None:
    values = quantiles("lognormal:1000,5000", SHARE, "prompt")
    assert np.percentile(values, 50) == pytest.approx(1000, rel=0.01)
    assert np.percentile(values, 95) == pytest.approx(5000, rel=0.03)
    stated = quantiles({"p50": 800, "p95": 4000, "p5": 100}, SHARE, "prompt")
    for share, tokens in ((5, 100), (50, 800), (95, 4000)):
        assert np.percentile(stated, share) == pytest.approx(tokens, rel=0.03)
    assert stated.max() > 4000, "a tail goes on"
    even = quantiles("uniform:100,300", SHARE, "prompt")
    assert (even.min(), even.max(), even.mean()) == (100, 300, pytest.approx(200, abs=0.5))


def test_prompts_and_outputs_are_paired_without_correlation() -> None:
    lengths = independent("uniform:100,1000", "uniform:10,500")
    assert abs(np.corrcoef(lengths.prompt, lengths.output)[0, 1]) < 0.05


@pytest.mark.parametrize(
    "spec",
    ["uniform:9,3", "lognormal:5", "normal:1,2", "x", 0, -4, 1e12, True, {"p50": 9, "p95": 3}, {},
     {"median": 4}],
)  # fmt: skip
def test_bad_lengths_name_their_field(spec: Any) -> None:
    with pytest.raises(UsageError, match="output"):
        quantiles(spec, SHARE, "output")


def test_contexts_in_flight_are_length_biased() -> None:
    """Half of the requests decode 99 steps, half 999: of ten caught, nine are long ones."""
    load = load_of(requests_per_s=1, prompt=1000, output={"p50": 100, "p51": 1000})
    ctx = load.contexts()
    mean = 0.09 * (1000 + 49.5) + 0.91 * (1000 + 499.5)
    assert ctx.mean() == pytest.approx(mean, rel=0.01)
    assert (np.diff(ctx) > 0).all()


def test_groups_keep_every_request_and_every_token() -> None:
    load = load_of(requests_per_s=1, prompt="lognormal:500,4000", output=20)
    groups = load.groups
    assert groups.share.sum() == pytest.approx(1)
    assert (groups.new * groups.share).sum() == pytest.approx(load.lengths.prompt.mean())
    assert (np.diff(groups.new) > 0).all()


def test_prefixes_are_not_computed_again() -> None:
    shared = load_of(
        requests_per_s=1, prompt=1000, output=20, prefix_hit_rate=0.5, shared_prefix_tokens=700
    )
    assert (shared.cached == 700).all()
    everything = load_of(requests_per_s=1, prompt=1000, output=20, prefix_hit_rate=1.0)
    assert (everything.cached == 999).all()


def test_peak_and_growth_multiply_and_a_day_has_86400_seconds() -> None:
    load = load_of(tokens_per_day=86_400_000, output=500, peak_factor=2, growth=0.5)
    assert load.requests_per_s == pytest.approx(2 * 2 * 1.5)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({}, "exactly one"),
        ({"requests_per_s": 1, "users": 3}, "exactly one"),
        ({"requests_per_s": 1, "think_seconds": 3}, "think_seconds"),
        ({"requests_per_s": float("nan")}, "requests_per_s"),
        ({"requests_per_s": 1, "output": 1}, "output"),
        ({"requests_per_s": 1, "prefix_hit_rate": 1.5}, "prefix_hit_rate"),
        ({"requests_per_s": 1, "peak_factor": 0.5}, "peak_factor"),
        ({"requests_per_s": 1, "prompt": 100, "shared_prefix_tokens": 200}, "shared_prefix"),
        ({"trace": "x.csv", "prompt": 5}, "contradict"),
    ],
)
def test_contradictory_traffic_is_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        load_of(**options)


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def trace_of(path: Path, rows: list[str], header: str = AZURE) -> Path:
    path.write_text(header + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_the_azure_layout(tmp_path: Path) -> None:
    rows = [f"2023-11-16 18:15:{s:02d}.1234567,{100 + s},{10 + s}" for s in range(60)]
    trace = read_trace(trace_of(tmp_path / "a.csv", rows))
    assert trace.requests == 60
    assert trace.requests_per_s == pytest.approx(1.0)
    assert trace.arrival_cv2 == pytest.approx(0.0, abs=1e-6)
    assert trace.lengths.prompt.mean() == pytest.approx(129.5)
    assert (trace.lengths.output == trace.lengths.prompt - 90).all()


def test_plain_names_and_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.exponential(0.5, 4000))
    rows = [f"{t:.6f},50,7" for t in times]
    header = "arrival_seconds,prompt_tokens,output_tokens\n"
    trace = read_trace(trace_of(tmp_path / "b.csv", rows, header))
    assert trace.requests_per_s == pytest.approx(2.0, rel=0.05)
    assert trace.arrival_cv2 == pytest.approx(1.0, rel=0.1)
    assert 1 < trace.peak_factor < 1.5


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["1,10,5", "0.5,10,5"], ["line 3", "TIMESTAMP"]),
        (["1,10,5", "2,-3,5"], ["line 3", "ContextTokens"]),
        (["1,10,5", "2,9e99,5"], ["line 3", "ContextTokens"]),
        (["1,10,5", "2,10,"], ["line 3", "GeneratedTokens"]),
        (["1,10,5", "soon,10,5"], ["line 3", "TIMESTAMP"]),
        ([*(f"{i},10,5" for i in range(99)), "9000,10,5"], ["line 101", "without an arrival"]),
        (
            [*(f"{i},10,5" for i in range(20)), *(f"{90_000 + i},10,5" for i in range(20))],
            ["line 22", "TIMESTAMP", "without an arrival"],
        ),
        (
            ["", *(f"{i + 90_000 * (i // 14)},10,5" for i in range(40))],
            ["line 17", "without an arrival"],
        ),
        (["1,10,5", "", "2,-3,5"], ["line 4", "ContextTokens"]),
        (["1,10,5", "2023-11-16 18:15:02,10,5"], ["line 3", "dates without a zone among seconds"]),
        (
            ["2023-11-16 18:15:02,10,5", "2023-11-16 18:15:03+01:00,10,5"],
            ["line 3", "dates with a zone among dates without"],
        ),
        (["1,10,1", "2,10,1"], ["GeneratedTokens", "nothing decodes"]),
        (["1717171717000,10,5", "1717171718000,10,5"], ["line 2", "TIMESTAMP", "milliseconds"]),
        (["1,10,5"], ["1 arrivals"]),
        (["1,10,5", "1,10,5"], ["one instant"]),
    ],
)  # fmt: skip
def test_bad_traces_name_file_line_and_field(
    tmp_path: Path, rows: list[str], words: list[str]
) -> None:
    path = trace_of(tmp_path / "bad.csv", rows)
    with pytest.raises(SpecError) as problem:
        read_trace(path)
    for word in ["bad.csv", *words]:
        assert word in str(problem.value)


def test_a_trace_without_its_columns_says_which_it_knows(tmp_path: Path) -> None:
    path = trace_of(tmp_path / "c.csv", ["1,2"], "when,tokens\n")
    with pytest.raises(SpecError, match=r"line 1.*timestamp"):
        read_trace(path)
    with pytest.raises(SpecError, match="cannot be read"):
        read_trace(tmp_path / "none.csv")


def test_random_and_bursty_traffic_has_no_holes(tmp_path: Path) -> None:
    """Gaps of a slow Poisson process exceed a minute, and whole minutes pass between batches."""
    rng = np.random.default_rng(1)
    slow = np.cumsum(rng.exponential(100.0, 2000))
    batches = np.repeat(np.arange(50) * 300.0, 4) + np.tile(np.arange(4) * 5.0, 50)
    for times in (slow, batches):
        assert read_trace(trace_of(tmp_path / "d.csv", [f"{t},10,5" for t in times])).requests


@pytest.mark.parametrize(
    ("row", "field", "tokens"),
    [
        ("7,16000000,5", "ContextTokens", 16_000_000),
        ("7,500,10000000", "GeneratedTokens", 10_000_000),
        ("7,500,150000", "GeneratedTokens", 150_000),
    ],
)
def test_lengths_beyond_the_model_are_refused_by_line_and_field(
    tmp_path: Path, row: str, field: str, tokens: int
) -> None:
    path = trace_of(tmp_path / "long.csv", [*(f"{i},500,5" for i in range(7)), row, "8,500,5"])
    wanted = rf"long.csv, line 9: {field}: .* of {tokens} tokens.*131072.*llama"
    with pytest.raises(SpecError, match=wanted):
        question_of(request_from({"trace": str(path)}))


def test_seconds_since_1970_are_times(tmp_path: Path) -> None:
    path = trace_of(tmp_path / "now.csv", [f"{1_717_171_717 + i},10,5" for i in range(5)])
    assert read_trace(path).requests_per_s == pytest.approx(1.0)


def test_a_changed_trace_is_read_again(tmp_path: Path) -> None:
    path = trace_of(tmp_path / "e.csv", ["0,10,5", "1,10,5"])
    assert read_trace(path).requests == 2
    assert read_trace(trace_of(path, ["0,10,5", "1,10,5", "2,10,5"])).requests == 3


def test_two_percentiles_are_the_lognormal_through_them() -> None:
    named = quantiles("lognormal:2600,8192", SHARE, "prompt")
    np.testing.assert_array_equal(quantiles({"p50": 2600, "p95": 8192}, SHARE, "prompt"), named)
    many = quantiles({"p50": 100, "p90": 300, "p99": 2000}, SHARE, "prompt")
    assert many.max() > 2000, "a tail goes on beyond the last percentile"
    assert quantiles({"p50": 100, "p90": 300, "p100": 400}, SHARE, "prompt").max() == 400
