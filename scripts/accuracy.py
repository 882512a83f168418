"""Rewrite docs/accuracy.md: how far predictions are from measurements they were not fitted on.

    python scripts/accuracy.py KERNELS PUBLISHED

KERNELS and PUBLISHED are as for scripts/calibrations.py. Every figure of the page is printed here.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from magicplan import model_specs
from magicplan.errors import UsageError
from magicplan.hardware_specs.calibration import Calibration
from magicplan.hardware_specs.calibration_files import as_toml, ideal
from magicplan.report.replay import summaries, worst
from magicplan.roofline.deployment import Array, Deployment
from magicplan.roofline.timing import Machine
from magicplan.roofline.traffic import Pass, forward
from magicplan.validate import kernel_tables, published
from magicplan.validate.calibrate import Group, document, fit_groups
from magicplan.validate.fit import Errors, attention_seconds_of, linear_seconds_of
from magicplan.validate.kernel_tables import Columns, KernelTables, accelerator_of, where
from magicplan.validate.replay import Outcome, Summary, regrets, replay, sign_accuracy
from magicplan.validate.stack_fit import fit_host

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
MODELS = ("llama-2-7b", "llama-3.1-8b", "mistral-7b-v0.3", "qwen3-32b", "llama-3.1-70b")
GPU_OF = {"a100-sxm-80gb": "a100_sxm", "h100-sxm": "h100_sxm", "b200-sxm": "b200_sxm",
          "l40s": "l40s"}  # fmt: skip


def cold(rows: Columns, gpu: str) -> Columns:
    """Attention rows whose bf16 cache is at least twice L2, of whole context."""
    size = rows["batch"] * rows["kv_len"] * rows["kv_heads"] * rows["head_dim"] * 4
    l2 = accelerator_of(gpu).l2_bytes or 0
    return where(rows, (size >= 2 * l2) & (rows["window"] == 0) & (rows["kv_dtype"] == "bf16"))


def steps(tables: KernelTables, gpu: str, machine: Machine) -> tuple[Array, Array]:
    """Predicted and tabled seconds of the linear layers and attention of decode steps, TP1, bf16.

    Attention is a cold row of the table itself; linear layers are interpolated in the logarithms
    of n and k at the row's own m, and steps whose sizes or batch lie outside the grid left out.
    """
    attention = cold(tables.attention, gpu)
    linear = where(tables.linear, tables.linear["dtype"] == "bf16")
    grids = {m: grid for m in np.unique(linear["m"]) if (grid := _grid(linear, m)) is not None}
    predicted, measured = [], []
    for name in MODELS:
        model = model_specs.load(name)
        same = (attention["q_heads"] == model.q_heads) & (attention["kv_heads"] == model.kv_heads)
        same &= (attention["head_dim"] == model.head_dim) & (attention["kv_len"] >= 1024)
        same &= np.isin(attention["batch"], list(grids)) & (attention["batch"] <= 512)
        rows = where(attention, same)
        if not len(rows["seconds"]):
            continue
        guess = attention_seconds_of(rows, machine, "bf16")
        for i, batch in enumerate(rows["batch"]):
            work = Pass(batch=batch, ctx=rows["kv_len"][i] - 1)
            ops = [o for o in forward(model, Deployment(), work) if o.kind == "linear"]
            ops = [o for o in ops if o.name != "lm_head"]
            shapes = [_shape(o.weight_bytes, o.flops, batch, o.activation_bytes) for o in ops]
            times = [float(grids[batch](np.log(s))[0]) for s in shapes]
            if not np.isfinite(times).all():
                continue
            counts = np.asarray([o.count for o in ops])
            row = {
                "m": np.full(len(ops), batch),
                "n": np.asarray([s[0] for s in shapes]),
                "k": np.asarray([s[1] for s in shapes]),
            }
            linear_guess = linear_seconds_of(row, machine, "bf16")
            predicted.append(float(counts @ linear_guess) + model.layers * guess[i])
            measured.append(float(counts @ np.exp(times)) + model.layers * rows["seconds"][i])
    return np.asarray(predicted), np.asarray(measured)


def _shape(weight: float, flops: float, batch: float, activation: float) -> tuple[float, float]:
    """(n, k) of a linear op, from n k and n + k."""
    product, total = weight / 2, activation / 2 / batch
    root = np.sqrt(max(total**2 - 4 * product, 0.0))
    return (total + root) / 2, (total - root) / 2


def _grid(linear: Columns, m: float) -> RegularGridInterpolator | None:
    rows = where(linear, linear["m"] == m)
    n, at_n = np.unique(rows["n"], return_inverse=True)
    k, at_k = np.unique(rows["k"], return_inverse=True)
    table = np.full((len(n), len(k)), np.nan)
    table[at_n, at_k] = np.log(rows["seconds"])
    if len(n) < 2 or len(k) < 2:
        return None
    return RegularGridInterpolator(
        (np.log(n), np.log(k)), table, bounds_error=False, fill_value=np.nan
    )


def table(header: str, rows: list[str]) -> str:
    columns = header.count("|") + 1
    return "\n".join([f"| {header} |", "|---" * columns + "|", *(f"| {r} |" for r in rows)]) + "\n"


def cells(e: Errors | None) -> str:
    return f"{e.rows} | {e.mape:.1f} | {e.p95:.1f} | {e.bias:+.1f}" if e else "- | - | - | -"


def against(tables: KernelTables, gpu: str, calibration: Calibration) -> dict[str, Errors]:
    """Errors of a calibration on another group's rows: linear layers, cold attention, steps."""
    machine = Machine(accelerator=accelerator_of(gpu), calibration=calibration)
    linear = where(tables.linear, (tables.linear["dtype"] == "bf16") & ~_warm(tables.linear))
    found = {"linear": Errors.of(linear_seconds_of(linear, machine, "bf16"), linear["seconds"])}
    attention = cold(tables.attention, gpu)
    if len(attention["seconds"]) >= 20:
        guess = attention_seconds_of(attention, machine, "bf16")
        found["attention"] = Errors.of(guess, attention["seconds"])
        predicted, measured = steps(tables, gpu, machine)
        if len(measured) >= 5:
            found["step"] = Errors.of(predicted, measured)
    return found


def _warm(linear: Columns) -> Array:
    return np.asarray(linear.get("l2_risk", np.zeros(len(linear["seconds"]), np.bool_)), np.bool_)


def crossings(
    tables: KernelTables, groups: list[Group], pairs: Iterator[tuple[Group, Group, str]]
) -> tuple[list[str], dict[str, list[float]]]:
    """Rows of a table: `known`'s calibration on `unseen`'s kernels."""
    lines, pooled = [], {}
    for known, unseen, label in pairs:
        gpu = GPU_OF[unseen.accelerator.name]
        rows = tables.of(gpu, unseen.stack, unseen.version)
        if "linear.bf16" not in unseen.fits:
            continue
        own = as_toml(document(known, groups, "tables"))
        ours, naive = against(rows, gpu, own), against(rows, gpu, ideal())
        for part, errors in ours.items():
            pooled.setdefault(part, []).append(errors.mape)
            lines.append(f"{label} | {part} | {cells(errors)} | {naive[part].mape:.1f}")
    return lines, pooled


def versions(groups: list[Group]) -> Iterator[tuple[Group, Group, str]]:
    """Each version by the calibration of the version before."""
    for known, unseen in itertools.pairwise(groups):
        same = (known.accelerator.name, known.stack) == (unseen.accelerator.name, unseen.stack)
        if same and "linear.bf16" in known.fits:
            yield (
                known,
                unseen,
                f"{unseen.accelerator.name} {unseen.stack} {known.version} -> {unseen.version}",
            )


def strangers(groups: list[Group]) -> Iterator[tuple[Group, Group, str]]:
    """The newest calibrated version of each GPU by another family's part, as the rule goes."""
    newest = {(g.accelerator.name, g.stack): g for g in groups if "attention.bf16" in g.fits}
    for (gpu, stack), unseen in newest.items():
        giver = "a100-sxm-80gb" if gpu == "h100-sxm" else "h100-sxm"
        if (giver, stack) in newest:
            yield newest[giver, stack], unseen, f"{gpu} {stack} by {giver}"


def published_tables(outcomes: list[Outcome]) -> str:
    keys: dict[str, Callable[[Outcome], str]] = {
        "source": lambda o: o.case.source,
        "GPU": lambda o: str(o.case.ask["gpu"]),
        "model": lambda o: str(o.case.ask["model"]).split("/")[-1].lower(),
        "stack": lambda o: str(o.case.ask["stack"]),
        "batch": lambda o: _bin(o.case.ask["batch"], (8, 32, 128)),
        "context": lambda o: _bin(o.case.ask["ctx"], (2048, 8192, 32768)),
    }
    text = ""
    for name, key in keys.items():
        rows = []
        for (group, kind), s in summaries(outcomes, key).items():
            w = worst([o for o in outcomes if key(o) == group and o.kind == kind], 1)[0]
            rows.append(
                f"{group} | {kind} | {s.rows} | {s.mape:.1f} | {s.median:.1f} | {s.p95:.1f} | "
                f"{s.bias:+.1f} | {s.coverage:.0f} | {s.naive_mape:.1f} | "
                f"{w.case.id} {100 * w.error:+.0f} %"
            )
        header = f"{name} | of | n | MAPE | median | p95 | bias | in 80 % | naive MAPE | worst row"
        text += f"\n### By {name}\n\n" + table(header, rows)
    return text


def _bin(value: float, edges: tuple[int, ...]) -> str:
    low = [e for e in edges if value > e]
    return f"above {low[-1]}" if low else f"up to {edges[0]}"


def goals(outcomes: list[Outcome], steps_mape: list[float], held: dict[str, float]) -> str:
    def of(kind: str, good: Callable[[Outcome], bool]) -> Summary:
        return Summary.of([o for o in outcomes if o.kind == kind and good(o)])

    dense = of("step", lambda o: o.case.grade == "A" and o.case.dense and not _magicdec(o))
    speed = of("speedup", _magicdec)
    share, count = sign_accuracy([o for o in outcomes if _magicdec(o)])
    lost = list(regrets(outcomes).values())
    rows = [
        f"decode step from kernels, TP1, bf16, unseen version (mean of MAPEs) | 4 | "
        f"{np.mean(steps_mape):.1f} | out of sample",
        f"published steps, grade A, dense (median) | 10 | {dense.median:.1f} (naive "
        f"{dense.naive_mape:.0f}) | partly fitted",
        *(
            f"published steps of {stack}, held-out models and GPUs (median) | 10 | {m:.1f} | "
            "out of sample"
            for stack, m in held.items()
        ),
        f"MagicDec speedup | 5 | {speed.mape:.1f} (naive {speed.naive_mape:.0f}) | fitted: five "
        "constants a GPU",
        f"MagicDec sign | 95 | {share:.0f} of {count} rows | fitted",
        f"regret, median and worst of {len(lost)} sweeps | 2, 10 | {np.median(lost):.1f}, "
        f"{max(lost):.1f} | partly fitted",
    ]
    return table("what | goal, % | found, % | rests on", rows)


def _magicdec(o: Outcome) -> bool:
    return o.case.engine == "MagicDec"


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    tables = kernel_tables.read(Path(sys.argv[1]))
    groups = fit_groups(tables)
    names = ("plain_decode", "speculation", "serving", "magicdec")
    cases = published.read([Path(sys.argv[2]) / f"{name}.csv" for name in names]).cases
    outcomes, _ = replay(cases)
    halves = [
        f"{g.name} | {part} | {cells(f.held_out)} | {f.naive.mape:.1f}"
        for g in groups for part, f in g.fits.items()
    ]  # fmt: skip
    older, pooled = crossings(tables, groups, versions(groups))
    foreign, _ = crossings(tables, groups, strangers(groups))
    held, spread = {}, []
    for stack in ("vllm", "sglang", "trtllm"):
        try:
            fit = fit_host(stack, cases)
        except UsageError:
            continue
        held[stack] = 100 * float(np.median(np.abs(1 / fit.held_out - 1)))
        inside = np.mean((fit.held_out >= fit.residual.low) & (fit.held_out <= fit.residual.high))
        spread.append(f"{stack} | {len(fit.held_out)} | {held[stack]:.1f} | {100 * inside:.0f}")
    header = "| part | n | MAPE | p95 | bias | naive MAPE"
    PAGE.write_text(
        INTRO + goals(outcomes, pooled.get("step", []), held)
        + "\n## Kernels, held-out halves\n\n" + table("calibration " + header, halves)
        + "\n## A version by the calibration of the version before\n\n"
        + table("GPU, stack, versions " + header, older)
        + "\n## A GPU by the calibration of another family\n\n"
        "What an accelerator of an unknown family gets. Launch times are kept, rates are the\n"
        "datasheet's. Between parts of one family no public pair was at hand.\n\n"
        + table("GPU and stack " + header, foreign)
        + "\n## Published steps, constants fitted on other models and GPUs\n\n"
        + table("stack | n | median error | inside the 80 % interval", spread)
        + "\n## Published results, shipped calibrations\n\n"
        "Constants were fitted on parts of these rows: this shows where the model bends, not how\n"
        "it predicts. Mixture-of-experts models and fp4 took no part in any fit.\n"
        + published_tables(outcomes),
        encoding="utf-8",
    )  # fmt: skip
    print(f"written: {PAGE.name}, {len(outcomes)} published values")


INTRO = """\
# Accuracy

Written by `python scripts/accuracy.py KERNELS PUBLISHED`; errors are predicted over measured minus
1, in percent. Tables of kernel times come from aiconfigurator (NVIDIA, Apache-2.0, commit 095f58a,
without the newest version of each GPU and stack), published results from the sources that their
rows name. Mismatches are explained, or left open, in [residuals.md](residuals.md).

## Goals

"""

if __name__ == "__main__":
    main()
