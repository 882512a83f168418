"""How near are attention and linear layers on a CPU to what its memory gives, and to torch's best?

In one run: the rate of one stream of reads; attention of 1 to 8 query tokens, ours (`native`, a C
kernel, and `torch`) as fractions of the stream's rate and against torch's own attention in every
form it has (grouped, group packed into the query, heads expanded); a windowed draft; linear layers
of 1 to 64 rows. Goal: ours is at least as fast as torch's own at every shape.

    python benchmarks/cpu_kernels.py [--threads 1] [--seconds 0.3] [--quick]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from magicplan import kernels
from magicplan.errors import UsageError
from magicplan.kernels.backend import Backend, LayerCache, Window, identity_pages

SHAPES = (
    # batch, ctx, KV heads, group, head dimension
    (1, 4096, 8, 1, 64),
    (1, 32768, 8, 1, 64),
    (4, 16384, 8, 1, 64),
    (8, 8192, 4, 2, 64),
    (1, 16384, 8, 4, 128),
)
TOKENS = (1, 2, 5, 8)
DRAFT = Window(sinks=4, window=508)
ROWS = (1, 2, 4, 5, 8, 16, 32, 64)
EDGE, WEIGHTS = 4096, 3
"""Of a square layer; so many of them in turn, that no cache holds them."""
DISTURBED = 1.1
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Clock:
    """Median seconds of a call; on one thread its own time, so that neighbours do not count."""

    def __init__(self, seconds: float, threads: int) -> None:
        self.seconds, self.alone, self.disturbed = seconds, threads == 1, 0

    def __call__(self, call: Callable[[], Any]) -> float:
        call()
        own: list[float] = []
        wall: list[float] = []
        end = time.perf_counter() + self.seconds
        while len(own) < 5 or (time.perf_counter() < end and len(own) < 200):
            before, before_own = time.perf_counter(), time.thread_time()
            call()
            own.append(time.thread_time() - before_own)
            wall.append(time.perf_counter() - before)
        middle, middle_own = sorted(wall)[len(wall) // 2], sorted(own)[len(own) // 2]
        if self.alone and middle > DISTURBED * middle_own:
            self.disturbed += 1
        return middle_own if self.alone else middle


def grouped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)


def packed(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """The group's heads as further query tokens: K and V are read once."""
    group = query.shape[1] // key.shape[1]
    rows = query.unflatten(1, (-1, group)).flatten(2, 3)
    mask = None if mask is None else mask.repeat(group, 1)
    return F.scaled_dot_product_attention(rows, key, value, attn_mask=mask)


def expanded(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """K and V repeated as views."""
    group = query.shape[1] // key.shape[1]
    key, value = (
        x[:, :, None].expand(-1, -1, group, -1, -1).flatten(1, 2) if group > 1 else x
        for x in (key, value)
    )
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def attention_row(
    clock: Clock, backends: dict[str, Backend], shape: tuple[int, ...], tokens: int, dtype: str
) -> list[float]:
    """Seconds: each backend's, torch's best own, then each backend's windowed draft (one token)."""
    batch, ctx, kv_heads, group, dim = shape
    slots = ctx + tokens
    cache = LayerCache.allocate(
        page_table=identity_pages(batch, slots, slots, "cpu"), pages=batch, page_size=slots,
        kv_heads=kv_heads, head_dim=dim, dtype=TYPES[dtype],
    )  # fmt: skip
    cache.key.normal_()
    cache.value.normal_()
    lengths = torch.full((batch,), ctx, dtype=torch.int32)
    query = torch.randn(batch, tokens, kv_heads * group, dim).to(TYPES[dtype])
    ours = [clock(lambda b=b: b.attention(query, cache, lengths)) for b in backends.values()]
    key, value = cache.key.transpose(1, 2), cache.value.transpose(1, 2)
    heads = query.transpose(1, 2)
    mask = None if tokens == 1 else torch.ones(tokens, slots, dtype=torch.bool).tril(ctx)
    best = min(clock(lambda f=f: f(heads, key, value, mask)) for f in (grouped, packed, expanded))
    one = query[:, :1]
    drafts = [
        clock(lambda b=b: b.attention(one, cache, lengths, view=DRAFT)) for b in backends.values()
    ]
    return [*ours, best, *drafts]


def attention(console: Console, clock: Clock, stream: float, *, quick: bool) -> bool:
    """Prints the table; true if ours is nowhere slower than torch's own."""
    backends: dict[str, Backend] = {}
    for name in ("native", "torch"):
        try:
            backends[name] = kernels.load(name)
        except UsageError as error:
            console.print(f"without {name}: {error}")
    columns = [f"{n} {what}" for n in backends for what in ("GB/s", "of stream")]
    head = ["type", "batch", "ctx", "group", "dim", "tokens", *columns, "torch's own GB/s",
            "ours/own", *(f"draft {n} µs" for n in backends)]  # fmt: skip
    table = Table(box=box.SIMPLE, title="Attention, one layer", title_justify="left")
    for name in head:
        table.add_column(name, justify="right")
    fast = True
    for dtype in TYPES:
        for shape in SHAPES[: 1 if quick else None]:
            for tokens in TOKENS[: 2 if quick else None]:
                batch, ctx, kv_heads, group, dim = shape
                seconds = attention_row(clock, backends, shape, tokens, dtype)
                size = 2 * batch * kv_heads * (ctx + tokens) * dim * TYPES[dtype].itemsize
                rates = [size / s for s in seconds[: len(backends) + 1]]
                fast = fast and max(rates[:-1]) >= rates[-1]
                cells = [c for r in rates[:-1] for c in (f"{r / 1e9:.1f}", f"{r / stream:.2f}")]
                table.add_row(
                    dtype, str(batch), str(ctx), str(group), str(dim), str(tokens), *cells,
                    f"{rates[-1] / 1e9:.1f}", f"{max(rates[:-1]) / rates[-1]:.2f}",
                    *(f"{s * 1e6:.0f}" for s in seconds[len(backends) + 1 :]),
                )  # fmt: skip
    console.print(table)
    return fast


def linear(console: Console, clock: Clock, stream: float, *, quick: bool) -> None:
    table = Table(
        box=box.SIMPLE, title=f"Linear layer {EDGE} x {EDGE}", title_justify="left"
    )  # fmt: skip
    for name in ("type", "rows", "ms", "GFLOP/s", "GB/s", "of stream"):
        table.add_column(name, justify="right")
    for dtype, kind in TYPES.items():
        weights = [(torch.randn(EDGE, EDGE) / 64).to(kind) for _ in range(WEIGHTS)]
        for rows in ROWS[: 2 if quick else None]:
            x = torch.randn(rows, EDGE).to(kind)

            def call(x: Tensor = x, weights: list[Tensor] = weights) -> None:
                for weight in weights:
                    F.linear(x, weight)

            seconds = clock(call) / WEIGHTS
            rate = EDGE * EDGE * kind.itemsize / seconds
            flops = 2 * rows * EDGE * EDGE / seconds
            table.add_row(
                dtype, str(rows), f"{seconds * 1e3:.2f}", f"{flops / 1e9:.0f}",
                f"{rate / 1e9:.1f}", f"{rate / stream:.2f}",
            )  # fmt: skip
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="one shape of each kind")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    console = Console(width=150, highlight=False)
    clock = Clock(options.seconds, options.threads)
    data = torch.ones(1 << (24 if options.quick else 27))
    stream = data.nbytes / clock(data.sum)
    console.print(
        f"one stream of reads {stream / 1e9:.1f} GB/s, {options.threads} thread(s), torch "
        f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    )
    fast = attention(console, clock, stream, quick=options.quick)
    linear(console, clock, stream, quick=options.quick)
    after = data.nbytes / clock(data.sum)
    console.print(
        f"the same stream at the end {after / 1e9:.1f} GB/s; {clock.disturbed} measurements were "
        f"disturbed by neighbours (wall time above {DISTURBED} of the thread's own)"
    )
    console.print(f"ours at least as fast as torch's own everywhere: {'yes' if fast else 'NO'}")


if __name__ == "__main__":
    main()
