"""How far are published decode steps and speedups from the naive roofline?

Reads plain_decode.csv and magicdec.csv from a folder of published measurements, predicts each row
from its stated inputs with the ideal calibration, and prints measured over predicted. The ideal
calibration's 80 % intervals come from here: a step lies between its floor and the 80th percentile,
a speedup between the 20th percentile and the naive value. Accept lengths are the published ones,
so the speedup's spread is that of times alone.

    python benchmarks/naive_roofline.py FOLDER
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

import magicplan as mp
from magicplan.roofline.acceptance import alpha_from_tokens_per_round

GPUS = {
    "A100-80GB-SXM(330W)": "a100", "A100-80GB-SXM": "a100", "A100-80GB-PCIe": "a100-pcie-80gb",
    "H100": "h100", "H100-80GB": "h100", "H100-80GB-PCIe": "h100-pcie", "B200": "b200",
    "RTX 4090": "rtx-4090", "MI300X-192GB": "mi300x", "L40S": "l40s", "A40": "a40",
    "A100": "a100", "L40": "l40",
}  # fmt: skip
MODELS = {
    "Llama-2-7B": "llama-2-7b", "Llama-3-8B": "llama-3-8b", "Llama-3.1-8B": "llama-3.1-8b",
    "Llama-3-70B": "llama-3-70b", "Llama-3.1-70B": "llama-3.1-70b", "Llama-2-70B": "llama-2-70b",
    "Mixtral-8x7B": "mixtral-8x7b", "Llama-2-7B-32K": "llama-2-7b-32k", "Llama-8B": "llama-3.1-8b",
    "Qwen2.5-32B": "qwen2.5-32b", "Qwen2.5-7B": "qwen2.5-7b",
}  # fmt: skip
DTYPES = {"bf16": "bf16", "f16 (14.96 GiB)": "bf16", "fp8": "fp8"}
DRAFTS = {"self": "self", "TinyLlama-1.1B": "tinyllama-1.1b", "Llama-3.2-1B": "llama-3.2-1b"}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(text: str) -> float:
    """The number a cell starts with; 0 for none."""
    digits = text.strip().lstrip("~").split("-")[-1]
    return float(digits) if digits.replace(".", "").isdigit() else 0.0


def plain_steps(folder: Path) -> list[float]:
    """Measured over ideal decode step of rows whose step can be read off (grade A)."""
    found = []
    for row in rows(folder / "plain_decode.csv"):
        known = row["gpu"] in GPUS and row["model"] in MODELS and row["weight_dtype"] in DTYPES
        plain = row["metric"] == "decode throughput" and row["batch_or_concurrency"].isdigit()
        if row["grade"] != "A" or not (known and plain):
            continue
        batch, tp = int(row["batch_or_concurrency"]), int(row["parallelism"].removeprefix("TP"))
        ctx = max(1, round(number(row["input_len"]) + number(row["output_len"]) / 2))
        p = mp.predict(
            gpu=GPUS[row["gpu"]], model=MODELS[row["model"]], dtype=DTYPES[row["weight_dtype"]],
            batch=batch, ctx=ctx, tp=tp, gpus=tp, draft="none", stack="ideal", memory_fraction=1.0,
        )  # fmt: skip
        found.append(p.baseline.tokens_per_s / float(row["value"]))
    return found


def magicdec(folder: Path) -> tuple[list[float], list[float]]:
    """Measured over ideal: target steps, and speedups at the published accept length."""
    steps, speedups = [], []
    for row in rows(folder / "magicdec.csv"):
        cells = ("t_target_ms", "omega", "speedup", "gamma", "batch", "prefix_len", "tp")
        if row["kind"] != "measured" or not all(row[c] for c in cells):
            continue
        if row["gpu"] not in GPUS or row["target"] not in MODELS or row["draft"] not in DRAFTS:
            continue
        gamma, tp = int(float(row["gamma"])), int(float(row["tp"]))
        alpha = alpha_from_tokens_per_round(np.asarray(gamma), np.asarray(float(row["omega"])))
        budget = int(float(row["kv_budget"] or 2049))
        p = mp.predict(
            gpu=GPUS[row["gpu"]], model=MODELS[row["target"]], batch=int(float(row["batch"])),
            ctx=int(float(row["prefix_len"])), tp=tp, gpus=tp, gamma=gamma, memory_fraction=1.0,
            draft=DRAFTS[row["draft"]], draft_kv=f"streaming:{budget}",
            acceptance=f"{float(alpha):.6f}", stack="ideal",
        )  # fmt: skip
        steps.append(float(row["t_target_ms"]) / 1e3 / p.baseline.step_seconds)
        speedups.append(float(row["speedup"]) / p.gammas[gamma].speedup)
    return steps, speedups


def show(name: str, ratios: list[float]) -> None:
    low, middle, high = np.percentile(ratios, [20, 50, 80])
    print(f"{name:28} n {len(ratios):4}  median {middle:.2f}  20 % {low:.2f}  80 % {high:.2f}  "
          f"range {min(ratios):.2f} to {max(ratios):.2f}")  # fmt: skip


def main() -> None:
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "magicdec.csv").exists():
        print("skipped: give the folder that holds plain_decode.csv and magicdec.csv")
        return
    folder = Path(sys.argv[1])
    plain, (steps, speedups) = plain_steps(folder), magicdec(folder)
    print("measured over the naive roofline")
    show("decode step, plain engines", plain)
    show("decode step, MagicDec", steps)
    show("decode step, all", plain + steps)
    show("speedup, MagicDec", speedups)


if __name__ == "__main__":
    main()
