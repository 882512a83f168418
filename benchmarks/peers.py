"""How long do peers take to start and predict one decode step, and what do they say?

Llama-3.1-8B (Llama-3-8B for GenZ, of the same shape), one H100, batch 8, 4,096 tokens of context,
bf16. Each peer runs as a whole process with the interpreter of an environment that holds it
(`pip install genz-llm`, `pip install aiconfigurator`; a torch of the CPU build is enough).
LLM-Viewer is not on the package index and fetches its configurations at run time: it is left out.

    python benchmarks/peers.py [--genz PYTHON] [--aiconfigurator PYTHON]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

RUNS = 5
GENZ = """
import GenZ
r = GenZ.decode_moddeling(model='llama3_8b', batch_size=8, input_tokens=4096, output_tokens=1,
                          system_name='H100_GPU', bits='bf16', tensor_parallel=1)
print('LATENCY_MS', float(r['Latency']))
"""
Step = Callable[[str], float]
"""Milliseconds of a decode step, read from what a tool printed."""


def timed(command: list[str], step: Step, reference: float | None = None) -> tuple[float, str]:
    """Median seconds of the process, and a line about what it predicts."""
    times, printed = [], ""
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        times.append(time.perf_counter() - start)
        printed = done.stdout + done.stderr
        if done.returncode:
            return float("nan"), f"failed: {printed.strip().splitlines()[-1][:90]}"
    seconds = statistics.median(times[1:])
    ratio = f", {seconds / reference:.1f} times ours" if reference else ""
    return seconds, f"{seconds:6.2f} s{ratio}, decode step {step(printed):.2f} ms"


def ours(text: str) -> float:
    return float(json.loads(text)["baseline"]["step_seconds"]) * 1e3


def genz(text: str) -> float:
    return float(text.split("LATENCY_MS")[1].split()[0])


def aiconfigurator(text: str) -> float:
    found = re.search(r"TPOT[^\d]*([\d.]+)\s*ms", text)
    return float(found[1]) if found else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description="start-up and prediction time against peers")
    parser.add_argument("--genz", help="python of an environment that holds genz-llm")
    parser.add_argument("--aiconfigurator", help="python of one that holds aiconfigurator")
    options = parser.parse_args()
    command = [sys.executable, "-m", "magicplan", "predict", "--gpu", "h100", "--batch", "8"]
    reference, line = timed([*command, "--ctx", "4k", "--json"], ours)
    print(f"{'magicplan (ideal)':20} {line}")
    if options.genz:
        print(f"{'GenZ':20} {timed([options.genz, '-c', GENZ], genz, reference)[1]}")
    else:
        print(f"{'GenZ':20} skipped: pip install genz-llm, and give --genz PYTHON")
    if not options.aiconfigurator:
        print(f"{'aiconfigurator':20} skipped: pip install aiconfigurator, and give its python")
        return
    with tempfile.TemporaryDirectory() as folder:
        preset = files("magicplan.model_specs") / "presets" / "llama-3.1-8b.json"
        (Path(folder) / "config.json").write_text(preset.read_text(encoding="utf-8"))
        tool = str(Path(options.aiconfigurator).with_name("aiconfigurator"))
        peer = [tool, "cli", "estimate", "--model-path", folder, "--system", "h100_sxm"]
        peer += ["--backend", "vllm", "--estimate-mode", "static_gen", "--isl", "4096"]
        peer += ["--osl", "2", "--batch-size", "8", "--tp-size", "1", "--no-color"]
        print(f"{'aiconfigurator':20} {timed(peer, aiconfigurator, reference)[1]}")


if __name__ == "__main__":
    main()
