"""How long does a whole plan take, how many cells a second does its inner model evaluate, and how
does that compare with aiconfigurator's own search?

The plan: 12 GPU types x 6 layouts x 8 drafts for Llama-3.1-8B under two latency limits, prices,
sensitivities and launch commands included; goals are 5 s and 1,000,000 candidate cells a second.
A cell is one (GPU, layout, draft, batch, draft length or tree) with its steady state, or one (GPU,
layout, draft, utilisation) of replicas that only prefill; trees are looked at where the stack's
engine runs them, in SGLang's rows. The comparable question: the best deployment of
Llama-3.1-8B on one GPU type for 4,000 tokens in and 300 out, TTFT 2 s and 50 ms a token, aggregated
and disaggregated; aiconfigurator is asked in an environment of its own (`pip install
aiconfigurator`), ours in this process. Its candidates are calls of its worker model.

    python benchmarks/plan_search.py [--aiconfigurator PYTHON]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from magicplan.planning.plan import plan
from magicplan.planning.question import CapacityQuestion, question_of
from magicplan.planning.request import request_from
from magicplan.planning.search import fleet

RUNS = 5
GPUS = (
    "h100-sxm", "h200-sxm", "b200-sxm", "b300-sxm", "a100-sxm-80gb", "a100-pcie-80gb", "h100-nvl",
    "h100-pcie", "l40s", "l40", "gh200-96gb", "mi300x",
)  # fmt: skip
DRAFTS = (
    "none", "eagle3", "ngram", "llama-3.2-1b", "self streaming:512", "self snapkv:2048",
    "self quant:4", "llama-3.2-3b",
)  # fmt: skip
BIG: dict[str, Any] = {
    "model": "llama-3.1-8b", "gpus": GPUS, "requests_per_s": 50.0, "prompt": "lognormal:3000,9000",
    "output": "lognormal:250,800", "tp": (1, 2, 4, 8, 16, 32), "drafts": DRAFTS,
    "acceptance": "0.75", "slo": {"ttft_p95_seconds": 2.0, "tpot_p95_seconds": 0.04},
}  # fmt: skip
FINE: dict[str, Any] = {
    "model": "llama-3.1-8b", "gpus": GPUS, "requests_per_s": 50.0, "prompt": 4000, "output": 300,
    "tp": (1, 2, 4, 8, 16, 32), "drafts": DRAFTS, "acceptance": "0.75", "max_gamma": 16,
    "max_sequences": 4096, "batched_tokens": 131072,
}  # fmt: skip
SAME: dict[str, Any] = {
    "model": "llama-3.1-8b", "gpus": ("h100-sxm",), "requests_per_s": 6.0, "prompt": 4000,
    "output": 300, "drafts": ("none",),
    "slo": {"ttft_mean_seconds": 2.0, "tpot_mean_seconds": 0.05},
}  # fmt: skip
PEER = """
import json, logging, sys, time
logging.disable(logging.CRITICAL)
from aiconfigurator.cli.api import cli_default
from aiconfigurator.sdk.predictor import AnalyticPredictor
looked = [0]
for name in ("predict_agg_worker", "predict_disagg_worker"):
    def counted(*a, _inner=getattr(AnalyticPredictor, name), **k):
        looked[0] += 1
        return _inner(*a, **k)
    setattr(AnalyticPredictor, name, counted)
start = time.perf_counter()
found = cli_default(sys.argv[1], 8, "h100_sxm", backend="vllm", isl=4000, osl=300, ttft=2000.0,
                    tpot=50.0)
seconds = time.perf_counter() - start
best = found.best_configs[found.chosen_exp].iloc[0]
print("ANSWER", json.dumps({"seconds": seconds, "candidates": looked[0], "chosen": found.chosen_exp,
    "tpot_ms": float(best["tpot"]), "ttft_ms": float(best["ttft"])}))
"""


def median_seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def cells_per_s(question: CapacityQuestion) -> tuple[int, float]:
    ask, load = question.request, question.load
    cells = fleet(ask, load).cells
    return cells, cells / median_seconds(lambda: fleet(ask, load))


def main() -> None:
    parser = argparse.ArgumentParser(description="time of a plan against aiconfigurator's search")
    parser.add_argument("--aiconfigurator", help="python of an environment that holds it")
    options = parser.parse_args()
    asked = (BIG, FINE, SAME, BIG | {"stack": "sglang"})
    big, fine, same, trees = (question_of(request_from(options)) for options in asked)
    for name, ask in (("chains", big), ("chains and trees", trees)):
        found = plan(ask)
        seconds = median_seconds(partial(plan, ask))
        met = "met" if seconds <= 5 else "missed"
        print(f"plan, {len(GPUS)} GPUs x 6 layouts x {len(DRAFTS)} drafts, {name}: "
              f"{seconds:.2f} s, {found.searched.configurations} configurations "
              f"(goal 5 s: {met})")  # fmt: skip
    for name, ask in (("that plan's grid", big), ("that grid with trees", trees),
                      ("a finer grid", fine)):  # fmt: skip
        cells, rate = cells_per_s(ask)
        met = "met" if rate >= 1e6 else "missed"
        print(f"inner model, {name}: {cells} cells, {rate / 1e6:.2f} M cells/s (goal 1: {met})")
    ours = plan(same)
    seconds = median_seconds(lambda: plan(same))
    print(f"one GPU type, ours: {seconds:.3f} s, {ours.searched.cells} candidates; "
          f"{ours.best.name}, TPOT {ours.best.latency.tpot.mean_seconds * 1e3:.1f} ms")  # fmt: skip
    if not options.aiconfigurator:
        print("one GPU type, aiconfigurator: skipped, give --aiconfigurator PYTHON")
        return
    with tempfile.TemporaryDirectory() as folder:
        preset = files("magicplan.model_specs") / "presets" / "llama-3.1-8b.json"
        (Path(folder) / "config.json").write_text(preset.read_text(encoding="utf-8"))
        command = [options.aiconfigurator, "-c", PEER, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "ANSWER" not in done.stdout:
        print(
            f"one GPU type, aiconfigurator: failed ({done.stderr.strip().splitlines()[-1][:120]})"
        )
        return
    peer = json.loads(done.stdout.split("ANSWER")[1])
    theirs, looked = peer["seconds"], peer["candidates"]
    print(
        f"one GPU type, aiconfigurator: {theirs:.2f} s, {looked} candidates; {peer['chosen']}, "
        f"TPOT {peer['tpot_ms']:.1f} ms\n"
        f"aiconfigurator takes {theirs / seconds:.0f} times our time; candidates a second: "
        f"{looked / theirs:.0f}, ours {ours.searched.cells / seconds:.0f} with the whole report"
    )


if __name__ == "__main__":
    main()
