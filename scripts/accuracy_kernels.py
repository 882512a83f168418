"""Kernels, and steps put together from them, by calibrations that never saw them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from accuracy_layout import cells
from kernel_steps import BUDGET, Bench, predicted_seconds
from packaging.version import Version

from magicplan import model_specs
from magicplan.calibrate.expert_fit import experts_seconds_of, prefill_seconds_of
from magicplan.calibrate.groups import DTYPES, EXPERTS, Group, document, of_format, rereads
from magicplan.calibrate.kernel_fit import (
    Errors,
    attention_seconds_of,
    cold_attention,
    linear_seconds_of,
    row_label,
)
from magicplan.calibrate.kernel_tables import Columns, KernelTables, accelerator_of, where
from magicplan.hardware_specs.calibration import Calibration
from magicplan.hardware_specs.calibration_files import as_toml
from magicplan.hardware_specs.transfer import CALIBRATED, ideal, relatives
from magicplan.roofline.deployment import Array
from magicplan.roofline.timing import Machine

MODELS = ("llama-2-7b", "llama-3.1-8b", "mistral-7b-v0.3", "qwen3-32b", "llama-3.1-70b")
GPU_OF = {"a100-sxm-80gb": "a100_sxm", "h100-sxm": "h100_sxm", "h200-sxm": "h200_sxm",
          "b200-sxm": "b200_sxm", "l40s": "l40s"}  # fmt: skip
BATCHES, LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256), (4096, 8192, 16384, 32768, 65536, 131072)


def cold(rows: Columns, gpu: str) -> Columns:
    """Attention rows whose bf16 cache is at least twice L2, of whole context."""
    return where(rows, cold_attention(rows, accelerator_of(gpu), "bf16"))


def passes(bench: Bench, machine: Machine) -> dict[str, Errors]:
    """Errors of decode steps, of draft over decode, and of a round over decode."""
    found: dict[str, list[tuple[str, Array]]] = defaultdict(list)
    for name, tp, batch, length in itertools.product(MODELS, (1, 8), BATCHES, LENGTHS):
        model, label = model_specs.load(name), f"{name}, batch {batch}, {length}"

        def both(kv_len: int, tokens: int = 1, *, at=(model, tp, batch)) -> Array | None:  # type: ignore[no-untyped-def]
            seen = bench.pass_seconds(*at, kv_len, tokens)
            guess = predicted_seconds(machine, *at, kv_len, tokens)
            return None if seen is None else np.asarray([guess, seen])

        decode = both(length) if bench.cold(model, tp, batch, length) else None
        if decode is None:
            continue
        found[f"step, TP{tp}"].append((label, decode))
        draft = both(BUDGET)
        if draft is None:
            continue
        found[f"draft / decode, TP{tp}"].append((label, draft / decode))
        for gamma in (1, 3):
            verify = both(length, gamma + 1)
            if verify is not None:
                gain = decode / (gamma * draft + verify)
                found[f"round, gamma {gamma}, TP{tp}"].append((label, gain))
    return {part: _errors(pairs) for part, pairs in found.items() if len(pairs) >= 5}


def _errors(pairs: list[tuple[str, Array]]) -> Errors:
    labels, values = zip(*pairs, strict=True)
    return Errors.of(*np.asarray(values).T, lambda at: str(labels[at]))


def against(tables: KernelTables, gpu: str, calibration: Calibration) -> dict[str, Errors]:
    """Errors of a calibration on another group's rows: linear layers, cold attention, steps."""
    machine = Machine(accelerator=accelerator_of(gpu), calibration=calibration)
    linear = where(tables.linear, (tables.linear["dtype"] == "bf16") & ~_warm(tables.linear))
    found = {"linear": _of_rows(linear_seconds_of(linear, machine, "bf16"), linear)}
    attention = cold(tables.attention, gpu)
    if len(attention["seconds"]) >= 20:
        found["attention"] = _of_rows(attention_seconds_of(attention, machine, "bf16"), attention)
    found |= _experts_and_prompts(tables, machine)
    if tables.attention and len(tables.attention["seconds"]):
        bench = Bench(tables=tables, l2_bytes=accelerator_of(gpu).l2_bytes or 0.0)
        found |= passes(bench, machine)
    return found


def _experts_and_prompts(tables: KernelTables, machine: Machine) -> dict[str, Errors]:
    """The same of grouped products and of prompts' attention, by format."""
    found = {}
    for name in EXPERTS:
        rows = of_format(tables.experts, name)
        if rows:
            found[f"experts, {name}"] = _of_rows(experts_seconds_of(rows, machine, name), rows)
    for dtype in DTYPES:
        kept = tables.prompts and tables.prompts["kv_dtype"] == dtype
        if np.any(kept):
            rows = where(tables.prompts, kept)
            found[f"prompts, {dtype}"] = _of_rows(prefill_seconds_of(rows, machine, dtype), rows)
    return found


def _of_rows(predicted: Array, rows: Columns) -> Errors:
    return Errors.of(predicted, rows["seconds"], lambda at: row_label(rows, at))


def _warm(linear: Columns) -> Array:
    return np.asarray(linear.get("l2_risk", np.zeros(len(linear["seconds"]), np.bool_)), np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A part of one group's kernels by the calibration of another group."""

    label: str
    gpu: str
    part: str
    ours: Errors
    naive: Errors

    @property
    def line(self) -> str:
        """The crossing as a row of the page."""
        return f"{self.label} | {self.part} | {cells(self.ours, self.naive)}"


def crossings(
    tables: KernelTables, groups: list[Group], pairs: Iterator[tuple[Group, Group, str]]
) -> list[Crossing]:
    """`known`'s calibration on `unseen`'s kernels, for every pair."""
    found = []
    for known, unseen, label in pairs:
        gpu = GPU_OF[unseen.accelerator.name]
        rows = packing(tables.of(gpu, unseen.stack, unseen.version), unseen)
        if "linear.bf16" not in unseen.fits:
            continue
        before = [g for g in groups if not _later(g, known)]
        own = as_toml(document(known, before, "tables"))
        ours, naive = against(rows, gpu, own), against(rows, gpu, ideal())
        found += [
            Crossing(label=label, gpu=gpu, part=part, ours=errors, naive=naive[part])
            for part, errors in ours.items()
        ]
    return found


def packing(rows: KernelTables, group: Group) -> KernelTables:
    """The rows without attention that reads KV over again: no other version foretells such a
    fault."""
    if not rereads(group, "attention.bf16"):
        return rows
    none = np.zeros(len(rows.attention["seconds"]), dtype=np.bool_)
    return replace(rows, attention=where(rows.attention, none))


def _later(group: Group, known: Group) -> bool:
    """Whether a group is a later version of a known one: what that lacks is not taken from it."""
    same = (group.accelerator.name, group.stack) == (known.accelerator.name, known.stack)
    return same and Version(group.version) > Version(known.version)


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


def siblings(groups: list[Group]) -> Iterator[tuple[Group, Group, str]]:
    """H200 by H100's calibration of the same stack and version: one family, other memory."""
    by_name = {(g.accelerator.name, g.stack, g.version): g for g in groups}
    for (gpu, stack, version), unseen in by_name.items():
        known = by_name.get(("h100-sxm", stack, version))
        if gpu == "h200-sxm" and known:
            yield known, unseen, f"{gpu} {stack} {version} by h100-sxm"


def strangers(groups: list[Group]) -> Iterator[tuple[Group, Group, str]]:
    """The newest calibrated version of each GPU by the part that the rule of transfer names next
    after those of its own family."""
    newest = {(g.accelerator.name, g.stack): g for g in groups if "attention.bf16" in g.fits}
    for (gpu, stack), unseen in newest.items():
        family = CALIBRATED[unseen.accelerator.architecture.split()[0]]
        for giver, _, _ in relatives(unseen.accelerator):
            if giver not in family and (giver, stack) in newest:
                yield newest[giver, stack], unseen, f"{gpu} {stack} by {giver}"
                break


def halves(groups: list[Group]) -> list[str]:
    """Every fitted part by its two halves, each predicted by a fit on the other."""
    return [
        f"{g.name} | {part} | {cells(f.held_out, f.naive)}"
        for g in groups for part, f in g.fits.items()
    ]  # fmt: skip
