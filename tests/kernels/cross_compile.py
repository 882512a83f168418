"""Compiles kernels for GPUs that are not here; prints one JSON line a kernel. Run by test_compile.

Triton's interpreter must be off in this process, so this is not a test module.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from magicplan.kernels.triton_kernels import accept, attention, cache
from magicplan.kernels.triton_kernels.tiles import next_power, tile

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
INT32 = {"table", "lengths", "depths", "nodes", "requests", "steps", "count", "path", "parents"}
INT64 = {"draft", "tokens_", "chosen", "choice", "token"}
FLOAT32 = {"partial", "logsum", "cos", "sin", "draft_sum", "target_sum"}
HALF = {"query", "key", "value", "out", "key_pool", "value_pool"}
HALF |= {"logits", "draft_logits", "target_logits"}


def pointers(names: list[str], also: dict[str, str]) -> dict[str, str]:
    kinds = {"*i32": INT32, "*i64": INT64, "*fp32": FLOAT32, "*bf16": HALF}
    found = {n: kind for kind, members in kinds.items() for n in names if n in members}
    return found | {n: kind for n, kind in also.items() if n in names}


def compiled(
    kernel: Any, constants: dict[str, Any], arch: int, also: dict[str, str], **options: int
) -> dict[str, Any]:
    """Registers, stack, local and shared memory of a kernel for compute capability `arch`."""
    names = kernel.arg_names
    typed = pointers(names, also)
    signature = {n: typed.get(n, "constexpr" if n in constants else "i32") for n in names}
    signature |= {n: "fp32" for n in names if n == "scale"}
    aligned = [n for n in names if n in typed or re.fullmatch("[qkvopl]+_(?!tok)[a-z]+", n)]
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in aligned}
    source = ASTSource(kernel, signature, constants, attributes)
    built = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert found, usage
    registers, stack, local = map(int, found.groups())
    return {
        "kernel": kernel.fn.__name__,
        "arch": arch,
        "registers": registers,
        "stack": stack,
        "local": local,
        "shared": built.metadata.shared,
        "warps": options["num_warps"],
        "barriers": built.asm["ptx"].count("bar.sync"),
    }


def attention_kernel(
    arch: int, group: int, tokens: int, dim: int, *, words: int = 0, windowed: bool = False
) -> dict[str, Any]:
    chosen = tile(query_rows=group * tokens, dim=dim, element_bytes=2, page_size=64, arch=arch)
    constants = {
        "KV_HEADS": 8, "GROUP": group, "DIM": dim, "DIM_TILE": next_power(dim), "PAGE": 64,
        "ROWS": chosen.rows, "SLOTS": chosen.slots, "BATCH": 16, "WINDOWED": windowed,
        "WORDS": words, "PRECISION": "tf32",
    }  # fmt: skip
    if tokens == 1:
        constants["tokens"] = 1  # as Triton specialises a launch
    usage = compiled(
        attention.split_attention, constants, arch, {"tree": "*i64"},
        num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip
    return usage | {"resident": chosen.resident, "rows": chosen.rows}


def small_kernels(arch: int) -> list[dict[str, Any]]:
    walk = {"LANES": 2048, "COIN": 0, "DRAW": 1}
    heads = {"HEADS": 32, "KV_HEADS": 8, "HEADS_TILE": 32, "KV_TILE": 8}
    shapes: list[tuple[Any, dict[str, Any], int]] = [
        (attention.combine, {
            "KV_HEADS": 8, "GROUP": 4, "DIM": 128, "DIM_TILE": 128, "SLOTS": 64, "BATCH": 16,
            "WINDOWED": False, "TREE": False, "MANY": 16,
        }, 2),
        (cache.rope_append, {**heads, "HALF": 64, "HALF_TILE": 64, "PAGE": 64}, 4),
        (cache.compact, {"DIM": 128, "DIM_TILE": 128, "PAGE": 64, "DEPTH": 8}, 4),
        (accept.row_statistics, {"LANES": 2048, "SUM": True, "CHOICE": False}, 8),
        (accept.row_statistics, {"LANES": 2048, "SUM": False, "CHOICE": True}, 8),
        (accept.accept_chain_sampled, {**walk, "GAMMA": 8}, 8),
        (accept.accept_tree_sampled, {**walk, "NODES": 64}, 8),
        (accept.sample, {"LANES": 2048, "SAMPLE": 2}, 8),
    ]  # fmt: skip
    # a tree's drafted tokens are a pointer, elsewhere `tokens` is a number
    return [
        compiled(
            kernel, constants, arch,
            {"tokens": "*i64"} if kernel is accept.accept_tree_sampled else {}, num_warps=warps,
        )
        for kernel, constants, warps in shapes
    ]  # fmt: skip


def main() -> None:
    for arch in (80, 86, 90, 100):
        rows = [attention_kernel(arch, 4, 1, 128), attention_kernel(arch, 4, 5, 128)]
        rows.append(attention_kernel(arch, 4, 13, 128, words=1))
        if arch == 90:
            rows.append(attention_kernel(arch, 4, 1, 128, windowed=True))
            rows.append(attention_kernel(arch, 8, 5, 256))
            rows += small_kernels(arch)
        for row in rows:
            sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
