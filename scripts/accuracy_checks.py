"""Two checks of forms that no table measures directly: query rows, and element-wise kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from accuracy_kernels import GPU_OF, cold

from magicplan import hardware_specs, model_specs
from magicplan.calibrate.groups import Group, document
from magicplan.calibrate.kernel_fit import attention_seconds_of
from magicplan.calibrate.kernel_tables import Columns, KernelTables
from magicplan.hardware_specs.calibration_files import as_toml
from magicplan.hardware_specs.transfer import calibration_for
from magicplan.roofline.deployment import Array, Deployment
from magicplan.roofline.timing import Machine, op_seconds
from magicplan.roofline.traffic import Pass, forward

ROWS = (8, 16, 32, 64)
TOKENS = (1, 64, 256, 1024)


def query_rows(tables: KernelTables, groups: list[Group]) -> list[str]:
    """Attention time with many query heads a KV head over that with four, cache alike and cold."""
    lines = []
    for group in groups:
        if "attention.bf16" not in group.fits:
            continue
        gpu = GPU_OF[group.accelerator.name]
        rows = cold(tables.of(gpu, group.stack, group.version).attention, gpu)
        calibration = as_toml(document(group, groups, "tables"))
        machine = Machine(accelerator=group.accelerator, calibration=calibration)
        cells = [_ratio(rows, machine, per_head) for per_head in ROWS]
        if any(cells):
            lines.append(f"{group.name} | " + " | ".join(cell or "-" for cell in cells))
    return lines


def _ratio(rows: Columns, machine: Machine, per_head: int) -> str:
    group = rows["q_heads"] / rows["kv_heads"]
    names = ("kv_heads", "head_dim", "batch", "kv_len")
    keys = np.stack([rows[n].astype(float) for n in names], axis=1)
    few = {tuple(k): i for i, k in enumerate(keys.tolist()) if group[i] == 4}
    pairs = [
        (few[tuple(k)], i) for i, k in enumerate(keys.tolist())
        if group[i] == per_head and tuple(k) in few
    ]  # fmt: skip
    if len(pairs) < 5:
        return ""
    four, many = np.asarray(pairs).T
    predicted = attention_seconds_of(rows, machine, "bf16")
    seen = np.median(rows["seconds"][many] / rows["seconds"][four])
    return f"{seen:.2f} / {np.median(predicted[many] / predicted[four]):.2f} ({len(pairs)})"


def element_wise(path: Path) -> list[str]:
    """Seconds a layer of norms, RoPE, activation and residuals: Vidur's unfused, ours fused."""
    from pyarrow import parquet

    table = parquet.read_table(path)
    c: dict[str, Array] = {name: np.asarray(table[name].to_pylist()) for name in table.column_names}
    ops = ("input_layernorm", "post_attention_layernorm", "attn_rope", "mlp_act", "add")
    lines = []
    for gpu in ("a100_sxm", "h100_sxm"):
        for model in ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-70b-hf"):
            cells = []
            for tokens in TOKENS:
                same = (c["gpu"] == gpu) & (c["model"] == model) & (c["tp"] == 1)
                same &= c["tokens"] == tokens
                seen = [np.median(c["latency_us"][same & (c["op"] == op)]) for op in ops]
                unfused = float(np.sum(seen)) + seen[-1]  # two residual additions a layer
                cells.append(f"{unfused:.0f} / {_layer_us(gpu, model, tokens):.0f}")
            lines.append(f"{gpu} {model.split('/')[1]} | " + " | ".join(cells))
    return lines


def _layer_us(gpu: str, model: str, tokens: int) -> float:
    accelerator = hardware_specs.load(gpu.replace("_", "-"))
    calibration, _ = calibration_for(accelerator, "vllm")
    machine = Machine(accelerator=accelerator, calibration=calibration)
    shape = model_specs.load(model)
    ops = forward(shape, Deployment(), Pass(batch=float(tokens), ctx=1.0))
    chosen = [o for o in ops if o.kind == "elementwise" and o.name != "sampling"]
    total = sum(float(o.count) * float(op_seconds(o, machine)) for o in chosen)
    return 1e6 * total / shape.layers
