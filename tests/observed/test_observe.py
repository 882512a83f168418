"""Benchmarks of running servers: what is read of their files, what is refused, what is expected."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import magicplan as mp
from magicplan.errors import SpecError, UsageError
from magicplan.observed.files import read_observed
from magicplan.planning.result import Observation, Plan
from magicplan.prediction.request import Request
from magicplan.serving.benchmark_run import Run, expect
from magicplan.serving.lengths import POINTS, independent

ROOT = Path(__file__).parents[2]
FILES = ROOT / "tests" / "data" / "observed"
SERVER: dict[str, Any] = {
    "gpus": "h100", "tp": 1, "requests_per_s": 2, "prompt": 2048, "output": 512,
    "disaggregation": "off", "trees": False,
}  # fmt: skip
AT_TWO = {
    "request_rate": 2.0, "duration": 161.6, "request_throughput": 1.98, "output_throughput": 1013.8,
}  # fmt: skip
"""The vLLM run again, with requests that arrive by themselves."""


@cache
def server(stack: str = "vllm", drafts: str = "none") -> Plan:
    return mp.plan(**SERVER, stack=stack, drafts=drafts, acceptance="0.7")


def changed(folder: Path, file: str, change: dict[str, Any]) -> Path:
    """A file with other fields; the last line of several."""
    text = (FILES / file).read_text(encoding="utf-8")
    document = json.loads(text.splitlines()[-1] if file.endswith("l") else text)
    path = folder / "run.json"
    path.write_text(json.dumps(document | change), encoding="utf-8")
    return path


def observed(path: Path, beside: Plan | None = None, **stated: float) -> Observation:
    seen = mp.with_observed(beside or server(), path, stated).observed
    assert seen is not None
    return seen


def predicted(seen: Observation) -> dict[str, float]:
    return {f.figure: f.predicted for f in seen.figures}


def test_a_cap_that_is_never_reached_changes_nothing(tmp_path: Path) -> None:
    found = [
        predicted(observed(changed(tmp_path, "vllm_serve.json", AT_TWO | {"max_concurrency": cap})))
        for cap in (256, None)
    ]
    assert found[0] == pytest.approx(found[1])
    assert found[0]["requests_per_s"] == pytest.approx(2.0, rel=0.03)  # a finite run drains
    assert found[0]["ttft_mean_seconds"] < 0.15


def test_a_cap_that_holds_requests_back_is_a_fixed_concurrency(tmp_path: Path) -> None:
    seen = observed(changed(tmp_path, "vllm_serve.json", AT_TWO | {"max_concurrency": 4}))
    assert seen.concurrency == 4
    assert predicted(seen)["requests_per_s"] < 1.1
    assert any("2 requests a second are more than" in line for line in seen.advice)


@pytest.mark.parametrize(
    "config",
    [
        {"loadgen": {"concurrency": 256, "request_rate": 2.0}},
        {"phases": [{"name": "warmup", "type": "concurrency", "concurrency": 8},
                    {"name": "profiling", "type": "poisson", "rate": 2.0, "concurrency": 256}]},
        {"phases": {"profiling": {"type": "poisson", "rate": 2.0, "concurrency": 256}}},
    ],
)  # fmt: skip
def test_aiperf_names_a_rate_and_its_cap(tmp_path: Path, config: dict[str, Any]) -> None:
    run = read_observed(changed(tmp_path, "aiperf.json", {"input_config": config}))
    assert (run.concurrency, run.requests_per_s, run.arrival_cv2) == (256, 2.0, 1.0)
    assert "request_throughput 5.9 is above" in run.doubts[0]


def a_run(**options: Any) -> Run:
    ask = Request(gpu="h100", model="llama-3.1-8b", tp=1, draft="none")
    lengths = independent("lognormal:1000,4000", "lognormal:200,600")
    return Run(ask=ask, lengths=lengths, **options)


def test_no_more_requests_are_in_flight_than_there_are() -> None:
    few = expect(a_run(concurrency=256.0, prompts=20.0))
    assert few.users == 20
    assert few.figures() == expect(a_run(concurrency=20.0, prompts=20.0)).figures()
    with pytest.raises(UsageError, match="50 requests a second are more than the server bears"):
        expect(a_run(requests_per_s=50.0))
    with pytest.raises(UsageError, match="a concurrency or a rate"):
        expect(a_run())


@pytest.mark.parametrize("waves", [1.0, 2.0, 10.0, 1000.0])
def test_means_never_contradict_percentiles(waves: float) -> None:
    found = expect(a_run(concurrency=32.0, prompts=32 * waves)).figures()
    for metric in ("ttft", "tpot", "e2e"):
        mean, *ranked = (found[f"{metric}_{s}_seconds"] for s in ("mean", "p50", "p95", "p99"))
        assert ranked == sorted(ranked)
        assert mean < ranked[-1]


def test_a_burst_waits_for_everybody_s_prompts() -> None:
    """All at once: the last first token comes when all prompts are computed, a finite run ends
    with its slowest answer, and its rate is below that of the steady state."""
    burst = expect(a_run(concurrency=256.0, prompts=256.0))
    last = float(burst.outcome.ttft.max())
    assert burst.ttft_seconds == pytest.approx(last / 2, rel=0.25)
    assert burst.outcome.end == pytest.approx(float(burst.outcome.e2e.max()), rel=1e-9)
    assert burst.requests_per_s < 0.8 * expect(a_run(concurrency=256.0)).requests_per_s


def test_runs_of_another_stack_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"sglang.jsonl: backend is sglang, the plan is for vllm"):
        observed(FILES / "sglang.jsonl")
    with pytest.raises(SpecError, match=r"vllm bench latency runs vllm, .* is for sglang"):
        observed(FILES / "vllm_latency.json", server("sglang"), concurrency=8, prompt=9, output=9)
    path = changed(tmp_path, "vllm_serve.json", {"backend": "tgi"})
    with pytest.raises(SpecError, match="no stack here is tgi, so plan with --stack ideal"):
        observed(path)
    assert observed(path, server("ideal")).figures


@pytest.mark.parametrize(
    ("backend", "stack", "said"),
    [("vllm", "vllm", False), ("vllm", "sglang", True), ("openai-chat", "vllm", True)],
)
def test_a_clients_protocol_is_no_engine(
    tmp_path: Path, backend: str, stack: str, said: bool
) -> None:
    seen = observed(changed(tmp_path, "vllm_serve.json", {"backend": backend}), server(stack))
    assert any("not which engine served" in line for line in seen.advice) == said


def test_speculation_needs_a_plan_that_speculates(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"accept_length is 2.41, so the server speculated.*--draft"
    ):
        observed(FILES / "sglang.jsonl", server("sglang"))
    path = changed(tmp_path, "vllm_serve.json", {"spec_decode_acceptance_length": 2.2})
    with pytest.raises(SpecError, match=r"spec_decode_acceptance_length is 2\.2"):
        observed(path)
    path = changed(tmp_path, "vllm_serve.json", {"spec_decode_acceptance_length": 0.0})
    assert observed(path).figures
    silent = observed(FILES / "vllm_serve.json", server(drafts="eagle3"))
    assert any("has no accept length" in line for line in silent.advice)


def test_the_fit_takes_the_tokens_a_round_that_were_seen(tmp_path: Path) -> None:
    plan = server("sglang", "eagle3")
    seen = observed(FILES / "sglang.jsonl", plan)
    line = next(line for line in seen.advice if "2.41 tokens a round" in line)
    rate = line.rpartition("--acceptance ")[2]
    again = mp.plan(**SERVER, stack="sglang", drafts="eagle3", acceptance=rate)
    powers = [float(rate) ** k for k in range(plan.best.gamma + 1)]
    assert sum(powers) == pytest.approx(2.41, abs=0.01)
    assert again.best.tokens_per_round <= 2.42
    path = changed(tmp_path, "sglang.jsonl", {"accept_length": 30.0})
    with pytest.raises(SpecError, match=r"accept_length is 30, .* emits at most"):
        observed(path, plan)


@pytest.mark.parametrize(
    ("file", "change", "word"),
    [
        ("vllm_serve.json", {"request_throughput": 1000},
         "request_throughput is 1000, but completed over duration make it 4.28"),
        ("vllm_serve.json", {"output_throughput": 9},
         "output_throughput is 9, but total_output_tokens over duration"),
        ("vllm_serve.json", {"completed": 400}, "completed is 400, more than num_prompts, 320"),
        ("vllm_serve.json", {"total_input_tokens": 1e14}, "total_input_tokens over completed make"),
        ("vllm_serve.json", {"total_output_tokens": 320, "output_throughput": 4.29,
                             "mean_tpot_ms": 0.0}, "makes outputs of one token"),
        ("vllm_serve.json", {"mean_tpot_ms": 0.0}, "mean_tpot_ms is missing or 0"),
        ("vllm_serve.json", {"ramp_up_strategy": "linear"}, "ramp_up_strategy is linear"),
        ("vllm_serve.json", {"burstiness": -1}, "burstiness -1: expected a number above 0"),
        ("vllm_serve.json", {"mean_e2el_ms": 90000.0}, "max_concurrency is 32, but .* in flight"),
        ("vllm_serve.json", {"input_lens": [9], "output_lens": [9, 9]}, "input_lens has 1 entries"),
        ("vllm_serve.json", {"input_lens": [9], "output_lens": [0]}, "output_lens: no request"),
        ("aiperf.json", {"output_token_throughput": {"avg": 3000}},
         "output_token_throughput is 3000, but request_throughput times output_sequence_length"),
        ("aiperf.json", {"benchmark_duration": {"unit": "sec", "avg": 10.0}},
         "request_throughput is 5.9, but request_count over benchmark_duration make it 40"),
        ("aiperf.json", {"request_throughput": "fast"}, "request_throughput is 'fast'"),
        ("aiperf.json", {"time_to_first_token": None}, "did not stream"),
        ("aiperf.json", {"input_sequence_length": {"avg": 9, "p50": 9, "p95": 3}},
         "input_sequence_length: its percentiles fall"),
        ("aiperf.json", {"input_config": {"fixed_schedule": True, "concurrency": 4}},
         "input_config has fixed_schedule: no steady load"),
        ("aiperf.json", {"input_config": {"phases": [{"name": "a", "concurrency": 16},
                                                     {"name": "b", "concurrency": 32}]}},
         "phases has 2 phases that are measured"),
        ("vllm_throughput.json", {"requests_per_second": 99.0}, "requests_per_second is 99"),
        ("vllm_latency.json", {"avg_latency": 9.0}, "avg_latency is 9, but latencies make it 1.18"),
    ],
)  # fmt: skip
def test_files_that_contradict_themselves_name_the_fields(
    tmp_path: Path, file: str, change: dict[str, Any], word: str
) -> None:
    offline = {"output": 128.0} if "vllm_t" in file else {}
    offline = {"concurrency": 8.0, "prompt": 9.0, "output": 9.0} if "latency" in file else offline
    with pytest.raises(SpecError, match=rf"run.json: .*{word}"):
        read_observed(changed(tmp_path, file, change), offline)


@pytest.mark.parametrize(
    ("stated", "word"),
    [
        ({"output": 1}, "--stated output makes outputs of one token: nothing decodes"),
        ({"output": 0.5}, "--stated output makes 0.5 tokens a request, expected 1 to"),
        ({"prefix_hit_rate": 2}, "at most 1"),
        ({"prompt": 2_000_000}, r"do not fit \(requests of 2000000 \+ 512 tokens\)"),
    ],
)
def test_what_is_stated_is_looked_at_too(stated: dict[str, float], word: str) -> None:
    with pytest.raises(SpecError, match=rf"vllm_serve.json: .*{word}"):
        mp.with_observed(server(), FILES / "vllm_serve.json", stated)


def test_stated_facts_win_or_are_refused() -> None:
    run = read_observed(FILES / "vllm_serve.json", {"prompt": 100, "prefix_hit_rate": 0.5})
    assert (run.lengths.prompt.mean(), run.prefix_hit_rate) == (100, 0.5)
    with pytest.raises(SpecError, match="requests_per_s says nothing of such a run"):
        read_observed(FILES / "vllm_throughput.json", {"requests_per_s": 3, "output": 128})
    with pytest.raises(SpecError, match="--stated prompt and output is 228, but total_num_tokens"):
        read_observed(FILES / "vllm_throughput.json", {"prompt": 100, "output": 128})
    cached = observed(FILES / "vllm_serve.json", prefix_hit_rate=0.9)
    cold = observed(FILES / "vllm_serve.json")
    assert predicted(cached)["ttft_mean_seconds"] < 0.5 * predicted(cold)["ttft_mean_seconds"]


def test_listed_requests_keep_their_pairs(tmp_path: Path) -> None:
    lists = {"input_lens": [4000, 100, 2000, 300, 50], "output_lens": [10, 900, 300, 0, 800]}
    run = read_observed(changed(tmp_path, "vllm_serve.json", lists))
    pairs = set(zip(run.lengths.prompt, run.lengths.output, strict=True))
    assert pairs == {(50, 800), (100, 900), (2000, 300), (4000, 10)}
    assert run.lengths.prompt.size == POINTS


def test_lengths_vary_as_the_tools_say(tmp_path: Path) -> None:
    block = {"avg": 900.0, "min": 100.0, "p50": 700.0, "p95": 2400.0, "max": 4000.0}
    run = read_observed(changed(tmp_path, "aiperf.json", {"input_sequence_length": block}))
    assert run.lengths.prompt.mean() == pytest.approx(900, rel=0.01)
    spread = np.percentile(run.lengths.prompt, [5, 95])
    assert spread[1] / spread[0] > 5
    run = read_observed(changed(tmp_path, "sglang.jsonl", {"random_range_ratio": 0.5}))
    assert run.lengths.prompt.min() / run.lengths.prompt.max() == pytest.approx(0.5, rel=0.01)
    assert run.lengths.prompt.mean() == pytest.approx(1024, rel=0.01)


@pytest.mark.parametrize(
    ("file", "change", "cv2"),
    [
        ("vllm_serve.json", AT_TWO | {"burstiness": 0.25}, 4.0),
        ("vllm_serve.json", AT_TWO | {"burstiness": math.inf}, 0.0),
        ("aiperf.json", {"input_config": {"request_rate": 6, "arrival_pattern": "constant"}}, 0.0),
        ("aiperf.json", {"input_config": {"request_rate": 6, "arrival_pattern": "gamma",
                                          "arrival_smoothness": 2.0}}, 0.5),
    ],
)  # fmt: skip
def test_bursts_of_arrivals_are_heeded(
    tmp_path: Path, file: str, change: dict[str, Any], cv2: float
) -> None:
    assert read_observed(changed(tmp_path, file, change)).arrival_cv2 == pytest.approx(cv2)


def test_burstier_arrivals_wait_longer() -> None:
    smooth, bursty = (
        expect(a_run(requests_per_s=6.0, arrival_cv2=cv2)).figures() for cv2 in (0.0, 4.0)
    )
    assert bursty["ttft_p95_seconds"] > 1.05 * smooth["ttft_p95_seconds"]


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("vllm_serve.json", {"num_prompts": 400}, "80 of 400 requests failed"),
        ("aiperf.json", {"error_request_count": {"avg": 25.0}}, "25 of 425 requests failed"),
        ("aiperf.json", {"was_cancelled": True}, "the run was cancelled"),
        ("aiperf.json", {"input_config": {"concurrency": 16, "concurrency_ramp_duration": 30}},
         "concurrency_ramp_duration is set: the load rose"),
        ("aiperf.json", {"input_config": {"concurrency": 16, "prefix_prompt": {"length": 99}}},
         "prompts share prefixes"),
        ("vllm_serve.json", {"total_input_tokens": 320 * 140000}, "exceed the 131072"),
    ],
)  # fmt: skip
def test_what_no_prediction_heeds_is_said(
    tmp_path: Path, file: str, change: dict[str, Any], words: str
) -> None:
    seen = observed(changed(tmp_path, file, change))
    assert any(words in line for line in seen.advice)


def test_shared_prefixes_of_sglang_are_asked_about(tmp_path: Path) -> None:
    path = changed(tmp_path, "sglang.jsonl", {"dataset_name": "generated-shared-prefix"})
    assert "--stated prefix_hit_rate" in read_observed(path).doubts[0]
    assert not read_observed(path, {"prefix_hit_rate": 0.5}).doubts


def test_a_plain_number_is_read_like_a_block(tmp_path: Path) -> None:
    run = read_observed(changed(tmp_path, "aiperf.json", {"request_throughput": 5.9}))
    assert run.figures["requests_per_s"] == 5.9


def test_python_plans_from_a_file_beside_a_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(
        "[traffic]\nrequests_per_s = 2\nprompt = 2048\noutput = 512\n"
        "[choices]\ngpus = 'h100'\ntp = 1\ndrafts = 'none'\ndisaggregation = 'off'\n",
        encoding="utf-8",
    )
    found = mp.plan(str(path), observed=str(FILES / "vllm_serve.json"), requests_per_s=3)
    assert found.request.traffic.requests_per_s == 3
    assert found.observed is not None
    same = mp.with_observed(mp.plan(mp.read_plan(path)), FILES / "vllm_serve.json").observed
    assert same is not None
    assert predicted(same) == predicted(found.observed)
    with pytest.raises(UsageError, match="stated goes with observed"):
        mp.plan(path, stated={"prompt": 9})
    with pytest.raises(UsageError, match="a question or its fields, not both"):
        mp.plan(found.request, tp=2)


def test_the_command_refuses_with_one_sentence(tmp_path: Path) -> None:
    path = changed(tmp_path, "vllm_serve.json", {"spec_decode_acceptance_length": 2.2})
    words = ("plan", "--gpu", "h100", "--requests-per-s", "2", "--draft", "none", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "magicplan", *words, "--observed", str(path)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "the server speculated" in done.stderr
