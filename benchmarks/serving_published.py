"""Mean TPOT and TTFT of published serving runs, predicted from their stated inputs.

FOLDER holds serving.csv (real vLLM, SGLang and TensorRT-LLM runs, collected by aiconfigurator);
without it the benchmark skips. Prints errors by engine, model and GPU; goals are a TPOT MAPE of
8 % for dense models and 15 % for mixtures of experts, other models being listed as not covered.
With `--aiconfigurator PYTHON`, a random sample of the covered rows is put to it as well (aggregated
mode, its newest tables, the row's own quantisation), and both errors stand side by side.

    python benchmarks/serving_published.py FOLDER [--aiconfigurator PYTHON] [--sample 120]
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from magicplan.errors import UsageError
from magicplan.model_specs.load import PRESETS
from magicplan.replay.published import Case, Row, Skipped, read
from magicplan.replay.serving_rows import predicted

GOALS = {True: 8.0, False: 15.0}
PEER = """
import json, logging, sys
logging.disable(logging.CRITICAL)
from aiconfigurator.cli.api import cli_estimate
for line in sys.stdin:
    ask = json.loads(line)
    try:
        found = cli_estimate(**ask)
        print("ANSWER", json.dumps([found.tpot / 1e3, found.ttft / 1e3]), flush=True)
    except Exception as problem:
        print("ANSWER", json.dumps(str(problem)[:80]), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="published serving runs against predictions")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--aiconfigurator", help="python of an environment that holds it")
    parser.add_argument("--sample", type=int, default=120)
    options = parser.parse_args()
    path = options.folder / "serving.csv"
    if not path.exists():
        print(f"skipped: {path} is not there")
        return
    rows, skipped = served(path)
    print(f"{'engine, model, GPU, format':62}   n  TPOT MAPE  bias   TTFT median")
    groups: dict[str, list[Served]] = defaultdict(list)
    for row in rows:
        r = row.row
        name = f"{r['backend']} {r['model_path']} {r['system']} {r['precision'] or '16 bit'}"
        groups[name].append(row)
    for name, members in sorted(groups.items(), key=lambda g: (not g[1][0].dense, g[0])):
        print(line(name, members))
    for dense, word in ((True, "dense models"), (False, "mixtures of experts")):
        chosen = [row for row in rows if row.dense == dense]
        error = mape([row.tpot_predicted / row.tpot for row in chosen])
        met = "met" if error <= GOALS[dense] else "missed"
        print(line(f"all {word} (goal {GOALS[dense]:.0f} %: {met})", chosen))
    print("not covered:")
    for reason, count in Counter(s.reason for s in skipped).most_common():
        print(f"  {count:4} {reason}")
    if options.aiconfigurator:
        beside(rows, options.aiconfigurator, options.sample)
    else:
        print("aiconfigurator: skipped, give --aiconfigurator PYTHON")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One run: measured and predicted means in seconds; TTFT is NaN where none was published."""

    row: Row
    model: str
    dense: bool
    tpot: float
    tpot_predicted: float
    ttft: float
    ttft_predicted: float


def served(path: Path) -> tuple[list[Served], list[Skipped]]:
    """Every row that the package covers, and why the others are not."""
    found, kept = read([path]), []
    with path.open(newline="", encoding="utf-8") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    skipped = list(found.skipped)
    for case in found.cases:
        try:
            kept.append(_served(case, rows[case.id]))
        except UsageError as problem:
            skipped.append(Skipped(id=case.id, source=case.source, reason=str(problem)))
    return kept, skipped


def _served(case: Case, row: Row) -> Served:
    if case.run is None:
        raise UsageError("no load test")
    guess, seen = predicted(case, case.run), case.run.measured
    return Served(
        row=row, model=str(case.ask["model"]), dense=case.dense,
        tpot=seen["tpot"], tpot_predicted=guess["tpot"],
        ttft=seen.get("ttft", float("nan")), ttft_predicted=guess["ttft"],
    )  # fmt: skip


def line(name: str, rows: list[Served]) -> str:
    tpot = np.asarray([row.tpot_predicted / row.tpot for row in rows])
    ttft = np.asarray([row.ttft_predicted / row.ttft for row in rows])
    median = 100 * float(np.nanmedian(np.abs(ttft - 1)))
    return (
        f"{name:62} {len(rows):4} {mape(tpot):8.1f} % {100 * (tpot.mean() - 1):+6.1f}"
        f"   {median:8.1f} %"
    )


def mape(ratios: object) -> float:
    return 100 * float(np.abs(np.asarray(ratios) - 1).mean())


def beside(rows: list[Served], python: str, size: int) -> None:
    """The same random rows put to aiconfigurator."""
    chosen = random.Random(0).sample(rows, min(size, len(rows)))
    with tempfile.TemporaryDirectory() as folder:
        asks = [json.dumps(question(row, Path(folder))) for row in chosen]
        done = subprocess.run(
            [python, "-c", PEER], input="\n".join(asks), capture_output=True, text=True, check=False
        )
    answers = [json.loads(a[7:]) for a in done.stdout.splitlines() if a.startswith("ANSWER ")]
    if len(answers) != len(chosen):
        print(f"aiconfigurator: failed ({done.stderr.strip().splitlines()[-1][:120]})")
        return
    refused = Counter(a for a in answers if isinstance(a, str))
    pairs = [(row, a) for row, a in zip(chosen, answers, strict=True) if not isinstance(a, str)]
    kinds: tuple[tuple[str, Callable[[Served], bool]], ...] = (
        ("all", lambda _: True),
        ("dense", lambda r: r.dense),
        ("experts", lambda r: not r.dense),
        ("dense, vllm", lambda r: r.dense and r.row["backend"] == "vllm"),
        ("dense, sglang", lambda r: r.dense and r.row["backend"] == "sglang"),
        ("dense, trtllm", lambda r: r.dense and r.row["backend"] == "trtllm"),
    )
    print(f"random sample of {len(chosen)} rows, {len(pairs)} of which aiconfigurator answers:")
    for word, belongs in kinds:
        members = [(row, a) for row, a in pairs if belongs(row)]
        if not members:
            continue
        ours = mape([row.tpot_predicted / row.tpot for row, _ in members])
        theirs = mape([a[0] / row.tpot for row, a in members])
        first = np.nanmedian([abs(row.ttft_predicted / row.ttft - 1) for row, _ in members]) * 100
        peer = np.nanmedian([abs(a[1] / row.ttft - 1) for row, a in members]) * 100
        print(
            f"  {word:14} n {len(members):3}  TPOT MAPE ours {ours:5.1f} %, aiconfigurator "
            f"{theirs:5.1f} %   TTFT median ours {first:5.1f} %, aiconfigurator {peer:5.1f} %"
        )
    for reason, count in refused.most_common(5):
        print(f"  refused {count}: {reason}")


def question(row: Served, folder: Path) -> dict[str, object]:
    """Keyword arguments of its `cli_estimate`, with a folder that holds the model's config."""
    r = row.row
    home = folder / row.model
    home.mkdir(exist_ok=True)
    config = (PRESETS / f"{row.model}.json").read_text(encoding="utf-8")
    (home / "config.json").write_text(config)
    ask: dict[str, object] = {
        "model_path": str(home), "system_name": r["system"], "backend_name": r["backend"],
        "isl": int(float(r["input_tokens"])), "osl": int(float(r["output_tokens"])),
        "batch_size": int(float(r["batch_size"])), "tp_size": int(float(r["tp_size"])),
        "pp_size": int(float(r["pp_size"] or 1)),
        "attention_dp_size": int(float(r["attention_dp_size"] or 1)),
    }  # fmt: skip
    if r["gemm_quant_mode"]:
        ask["gemm_quant_mode"] = r["gemm_quant_mode"]
    if not row.dense:
        ask["moe_ep_size"] = max(int(float(r["moe_ep_size"] or 1)), 1)
        ask["moe_quant_mode"] = r["moe_quant_mode"] or "bfloat16"
    return ask


if __name__ == "__main__":
    main()
