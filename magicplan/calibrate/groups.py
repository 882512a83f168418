"""From tables of kernel times to calibrations, one for each GPU, stack and version.

What a group's own rows cannot pin is taken from the nearest group that can: the same GPU and
stack in another version, then another stack on the same GPU, in the order of `DONORS`. The origin
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from packaging.version import Version

from magicplan.calibrate.expert_fit import MATH, fit_experts, fit_prefill
from magicplan.calibrate.expert_tables import FORMATS
from magicplan.calibrate.kernel_fit import (
    MIN_ROWS,
    ROOF_SHARE,
    Fitted,
    cold_attention,
    fit_attention,
    fit_collective,
    fit_eager,
    fit_linear,
    fused,
)
from magicplan.calibrate.kernel_tables import Columns, KernelTables, accelerator_of, where
from magicplan.calibrate.query_rows import RowRatio, row_ratio
from magicplan.calibrate.unit_checks import check_units
from magicplan.errors import UsageError
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.calibration import LinearFit
from magicplan.hardware_specs.calibration_files import as_toml
from magicplan.hardware_specs.stacks import engine_fits, stack_constants, stack_evidence

DTYPES = ("bf16", "fp8")
DONORS = ("vllm", "sglang", "trtllm")
"""vLLM and SGLang share kernels and the code of their all-reduce."""
EXPERTS = ("bf16", "fp8", "fp4", "int4")
PARTS = (
    "linear.bf16", "linear.fp8", *(f"experts.{name}" for name in EXPERTS), "attention.bf16",
    "attention.fp8", "prefill.bf16", "prefill.fp8", "collective", "eager",
)  # fmt: skip
ANYWHERE = ("experts.int4",)
"""Weights that are only stored so run through one library's kernel (Marlin) on every GPU: a GPU
whose own tables lack them borrows from another's."""

GENERATED = {("sglang", "Blackwell")}
"""Stacks that run 8-bit experts by the generated kernels of their 4-bit ones there (SGLang's
`moe_runner_backend`, auto), where tables time others: published runs of DeepSeek lie 4 % off by
these and 17 % off by those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The fits of one (GPU, stack, version), and why a part has none."""

    accelerator: Accelerator
    stack: str
    version: str
    fits: dict[str, Fitted[Any]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    query_rows: dict[str, RowRatio] = field(default_factory=dict)
    """How attention's time grows with query rows, by part, where a part's rows say it."""

    @property
    def name(self) -> str:
        """The name of the calibration and of its file."""
        return f"{self.accelerator.name}_{self.stack}_{self.version}"


def fit_groups(tables: KernelTables, done: Callable[[str], None] = lambda _: None) -> list[Group]:
    """Fit every group of the tables; `done` hears each group's name."""
    groups = []
    for gpu, stack, version in tables.groups():
        accelerator = accelerator_of(gpu)
        group = Group(accelerator=accelerator, stack=stack, version=version)
        rows = tables.of(gpu, stack, version)
        check_units(rows, accelerator)
        for part, chosen, fit in _fits(rows, accelerator):
            try:
                group.fits[part] = fit(group)
            except UsageError as problem:
                group.refused[part] = _located(str(problem), chosen)
        groups.append(group)
        done(group.name)
    if not groups:
        raise UsageError("the tables hold no usable row of vllm, sglang or trtllm in bf16 or fp8")
    return groups


Fit = Callable[["Group"], Fitted[Any]]


def _located(problem: str, rows: Columns) -> str:
    """A sentence that names the files of these rows."""
    files = [name for name in np.unique(rows["file"]) if name not in problem]
    return f"{problem} ({', '.join(files)})" if files else problem


def _fits(rows: KernelTables, accelerator: Accelerator) -> Iterator[tuple[str, Columns, Fit]]:
    """Parts in the order in which they are fitted: attention takes over from linear layers."""

    def linear(dtype: str, chosen: Columns) -> Fit:
        return lambda _: fit_linear(chosen, accelerator, dtype)

    def attention(dtype: str, chosen: Columns) -> Fit:
        return lambda group: _attention(group, chosen, dtype)

    for dtype in DTYPES:
        chosen = _of_dtype(rows.linear, "dtype", dtype)
        if dtype in accelerator.dense_flops_per_s and chosen:
            yield f"linear.{dtype}", chosen, linear(dtype, chosen)
    for dtype in DTYPES:
        chosen = _of_dtype(rows.attention, "kv_dtype", dtype)
        if chosen:
            yield f"attention.{dtype}", chosen, attention(dtype, chosen)
    for name in EXPERTS:
        chosen = of_format(rows.experts, name)
        if MATH[name] in accelerator.dense_flops_per_s and chosen:
            yield f"experts.{name}", chosen, _experts(chosen, name)
    for dtype in DTYPES:
        chosen = _of_dtype(rows.prompts, "kv_dtype", dtype)
        if chosen:
            yield f"prefill.{dtype}", chosen, _prefill(chosen, dtype)
    graphs, eager = rows.collective, rows.eager
    if graphs and len(graphs["seconds"]):
        yield "collective", graphs, lambda _: fit_collective(graphs, accelerator)
    if eager and len(eager["seconds"]):
        yield "eager", eager, lambda group: _eager(group, eager)


def _of_dtype(table: Columns, column: str, dtype: str) -> Columns:
    if not table:
        return {}
    mask = table[column] == dtype
    return where(table, mask) if mask.any() else {}


def of_format(table: Columns, name: str) -> Columns:
    """Experts in one format: of its names in the source, the first that has enough rows."""
    for quant, known in FORMATS.items() if table else ():
        mask = table["quant"] == quant
        if known == name and mask.sum() >= MIN_ROWS:
            return where(table, mask)
    return {}


def _experts(rows: Columns, name: str) -> Fit:
    """Experts after linear layers, whose share of peak FLOP is the most that theirs can be."""

    def fit(group: Group) -> Fitted[Any]:
        single = group.fits.get(f"linear.{MATH[name]}") or group.fits.get("linear.fp8")
        form = single.form if single else LinearFit()
        return fit_experts(rows, group.accelerator, name, form)

    return fit


def _prefill(rows: Columns, dtype: str) -> Fit:
    return lambda group: fit_prefill(rows, group.accelerator, dtype)


def _eager(group: Group, rows: Columns) -> Fitted[Any]:
    """Eager all-reduces after those in graphs, whose constants they share."""
    if "collective" not in group.fits:
        raise UsageError("eager all-reduce: needs all-reduces in graphs, mode graph, fitted first")
    return fit_eager(rows, group.accelerator, group.fits["collective"].form)


def _attention(group: Group, rows: Columns, dtype: str) -> Fitted[Any]:
    """Attention after linear layers, whose share of peak FLOP it takes over."""
    cold = where(rows, cold_attention(rows, group.accelerator, dtype))
    size = cold["batch"] * cold["kv_len"] * cold["kv_heads"] * cold["head_dim"]
    ideal = size * (4 if dtype == "bf16" else 2) / group.accelerator.memory_bytes_per_s
    over = float(np.mean(ideal > cold["seconds"])) if len(size) else 0.0
    if over > ROOF_SHARE:
        raise UsageError(
            f"attention: {100 * over:.0f} % of its cold rows beat the datasheet's bandwidth; "
            "are the times in another unit, or does the cache alias?"
        )
    wide = row_ratio(cold)
    if wide is not None:
        group.query_rows[f"attention.{dtype}"] = wide
    linear = group.fits.get("linear.bf16")
    share = linear.form.compute_efficiency if linear else LinearFit().compute_efficiency
    return fit_attention(rows, group.accelerator, dtype, share)


def complete(group: Group, groups: list[Group]) -> dict[str, tuple[Fitted[Any], str]]:
    """Every part that this group or a relative on the same GPU has fitted, and whose it is.

    Nobody borrows attention that reads KV over again: that is a fault of one version.
    """

    def distance(other: Group) -> tuple[bool, bool, int]:
        return other is not group, other.stack != group.stack, DONORS.index(other.stack)

    newest_first = sorted(groups, key=lambda g: Version(g.version), reverse=True)
    same_gpu = [g for g in newest_first if g.accelerator.name == group.accelerator.name]
    found = {}
    for part in PARTS:
        fitted = [g for g in same_gpu if part in g.fits]
        if not fitted and part in ANYWHERE:
            fitted = [g for g in groups if part in g.fits]
        lenders = [g for g in fitted if g is group or not rereads(g, part)]
        if lenders:
            owner = min(lenders, key=distance)
            found[part] = (owner.fits[part], owner.name)
    if (group.stack, _family(group)) in GENERATED and "experts.fp4" in found:
        form, lender = found["experts.fp4"]
        found["experts.fp8"] = (form, f"{lender}, in 4 bits")
    return found


def _family(group: Group) -> str:
    return group.accelerator.architecture.split()[0]


def rereads(group: Group, part: str) -> bool:
    """Whether a group's kernel of attention was fitted as one that reads KV over again."""
    return part in group.fits and getattr(group.fits[part].form, "reread_share", 0.0) > 0


def refuse_unfitted(groups: list[Group]) -> None:
    """Raise UsageError for rows that gave no fit and for which no relative on the GPU has one."""
    for group in groups:
        found = complete(group, groups)
        for part, why in group.refused.items():
            if part not in found:
                raise UsageError(f"{group.name}, {part}: {why}")


def document(group: Group, groups: list[Group], source: str) -> dict[str, Any]:
    """A calibration as TOML's tables. Raises UsageError where even linear layers are missing."""
    parts = complete(group, groups)
    if "linear.bf16" not in parts or "attention.bf16" not in parts:
        why = "; ".join(f"{k}: {v}" for k, v in group.refused.items()) or "no such rows"
        raise UsageError(f"{group.name}: bf16 linear layers and attention are needed ({why})")
    data: dict[str, Any] = {
        "name": group.name,
        "accelerator": group.accelerator.name,
        "origin": _origin(group, parts, source),
        "date": date.today().isoformat(),
        "linear": {},
        "experts": {},
        "attention": {},
        "prefill": {},
    }
    for part, (fitted, _) in parts.items():
        kind, _, dtype = part.partition(".")
        if dtype:
            data[kind][dtype] = _constants(fitted.form)
        elif kind == "collective":
            spread = round(fitted.held_out.p80 / 100, 3)
            data[kind] = _constants(fitted.form) | {"spread": spread}
    if "eager" in parts and "collective" in parts:
        data["collective"] |= {"eager_seconds": parts["eager"][0].form.eager_seconds}
    if "linear.fp8" in parts:
        fp8, bf16 = parts["linear.fp8"][0].form, parts["linear.bf16"][0].form
        data["linear"]["fp8"] = _constants(fused(fp8, bf16))
        fp4 = "fp4" in group.accelerator.dense_flops_per_s
        for name, form in engine_fits(group.stack, fp8, bf16, fp4=fp4).items():
            data["linear"][name] = _constants(form)
            data["origin"] += f"; linear.{name} from published runs of whole engines"
    data |= stack_constants(group.stack)
    wide = {(g.name, part): ratio for g in groups for part, ratio in g.query_rows.items()}
    data["evidence"] = [
        {"part": part, "from": owner, "rows": f.held_out.rows, "rejected": f.rejected}
        | {f"{k}_percent": round(getattr(f.held_out, k), 2) for k in ("mape", "p95", "bias")}
        | {"naive_mape_percent": round(f.naive.mape, 2)}
        | _query_rows(wide.get((owner, part)))
        for part, (f, owner) in parts.items()
    ] + stack_evidence(group.stack)
    return data


def _query_rows(wide: RowRatio | None) -> dict[str, float]:
    """Fields beside attention's constants: what many query rows a KV head take over few, which
    stands for verification."""
    if wide is None:
        return {}
    return {
        "query_rows": wide.many,
        "query_rows_few": wide.few,
        "query_rows_ratio": round(wide.ratio, 3),
        "query_rows_pairs": wide.pairs,
    }


def _constants(form: Any) -> dict[str, float]:
    """What a form holds beside the ideal: a constant that a fit left at rest is not written."""
    plain = asdict(type(form)())
    return {k: float(f"{v:.4g}") for k, v in asdict(form).items() if v != plain[k]}


def _origin(group: Group, parts: dict[str, tuple[Fitted[Any], str]], source: str) -> str:
    borrowed = {}
    for part, (_, owner) in parts.items():
        if owner != group.name:
            borrowed[part] = owner
    text = f"kernel times of {source}"
    if borrowed:
        text += "; " + ", ".join(f"{part} of {owner}" for part, owner in borrowed.items())
    return text


def write(folder: Path, documents: list[dict[str, Any]]) -> list[Path]:
    """One TOML a calibration. Raises UsageError where the folder cannot be written."""
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for data in documents:
            as_toml(data)  # a calibration that cannot be read back is not written
            path = folder / f"{data['name']}.toml"
            path.write_text(tomli_w.dumps(data), encoding="utf-8")
            paths.append(path)
    except OSError as problem:
        raise UsageError(f"{folder}: cannot be written ({problem.strerror})") from None
    return paths
