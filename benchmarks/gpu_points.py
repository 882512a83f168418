"""The points that h200_kernels.py measures: which, and how one is timed. Not run by itself."""

from __future__ import annotations

import math
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from magicplan import kernels
from magicplan.errors import MagicplanError
from magicplan.kernels import torch_attention
from magicplan.kernels.backend import LayerCache, Noise, Topology, Window, identity_pages

Point = dict[str, Any]
Launch = Callable[[], Any]
RESERVE_BYTES = 3 << 30
"""Left free for workspaces, graphs and outputs."""
WARM, LEAST, MOST, SECONDS = 3, 10, 40, 0.25
"""Replays: to warm up, at least, at most, and the time after which the least is enough."""
TOKENS = (1, 2, 5, 9, 16, 32, 64)
CORE = ((16, 32768), (1, 131072), (256, 4096), (1, 4096), (16, 4096), (64, 8192))
LINEARS = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096)}
LINEARS |= {"down": (4096, 14336), "head": (128256, 4096), "70b_gate_up": (57344, 8192)}
"""[out, in] of Llama-3.1-8B, and the widest layer of Llama-3.1-70B."""
ROWS = (1, 2, 4, 5, 8, 16, 20, 32, 64, 80, 128, 256, 512, 1024, 1280, 2048, 4096)
VOCAB, GAMMA = 128256, 4
TREE = (-1, *(n // 3 for n in range(15)))
"""Sixteen nodes, three children each."""


@dataclass(frozen=True)
class Bench:
    """The machine, and whether it is a rehearsal on a CPU."""

    device: str
    rehearse: bool
    l2_bytes: int

    @classmethod
    def create(cls, *, rehearse: bool) -> Bench:
        if rehearse:
            return cls("cpu", True, 0)
        torch.cuda.set_device(0)
        return cls("cuda", False, torch.cuda.get_device_properties(0).L2_cache_size)

    def environment(self) -> dict[str, Any]:
        root = Path(__file__).parents[1]
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True
        )
        row = {
            "device": "CPU rehearsal: not a measurement" if self.rehearse else "",
            "torch": torch.__version__,
            "triton": triton.__version__,
            "python": platform.python_version(),
            "commit": commit.stdout.strip(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "backends": kernels.available(),
        }
        if not self.rehearse:
            properties = torch.cuda.get_device_properties(0)
            free, total = torch.cuda.mem_get_info()
            row |= {
                "device": properties.name,
                "sms": properties.multi_processor_count,
                "l2_bytes": self.l2_bytes,
                "memory_bytes": total,
                "free_bytes": free,
                "cuda": torch.version.cuda,
            }
            row |= _nvml()
        return row

    # what is measured, the most wanted first

    def points(self) -> Iterator[Point]:
        yield from ({"section": "ceiling", "what": w} for w in ("copy", "read", "launch", "replay"))
        yield from (
            {"section": "ceiling", "what": "gemm", "edge": n} for n in self._few(8192, 4096)
        )
        yield from self._attention_points()
        for batch in self._few(1, 16, 256):
            for what in ("greedy", "sampled", "tree_greedy", "tree_sampled", "sample"):
                for backend in ("triton", "torch"):
                    yield {"section": "accept", "what": what, "batch": batch, "backend": backend}
            for tokens in (1, GAMMA + 1):
                for what in ("rope_append", "compact"):
                    for backend in ("triton", "torch"):
                        yield {"section": "append", "what": what, "batch": batch,
                               "tokens": tokens, "backend": backend}  # fmt: skip
        for name in LINEARS if not self.rehearse else ["o"]:
            for rows in self._few(*ROWS):
                yield {"section": "linear", "layer": name, "rows": rows}
        yield from self._tile_points()

    def _few(self, *values: int) -> tuple[int, ...]:
        """All values; in a rehearsal only the first."""
        return values[:1] if self.rehearse else values

    def _attention_points(self) -> Iterator[Point]:
        def point(batch: int, ctx: int, tokens: int, **more: Any) -> Point:
            base = {"section": "attention", "batch": batch, "ctx": ctx, "tokens": tokens}
            base |= {"group": 4, "kv_heads": 8, "dim": 128, "page": 64, "backend": "triton"}
            return base | more

        if self.rehearse:
            tiny = {"kv_heads": 2, "dim": 16, "page": 16}
            whole = tiny | {"page": 0}
            yield point(2, 40, 1, **tiny)
            yield point(2, 40, 5, **whole, backend="sdpa")
            yield point(2, 40, 5, **whole, backend="sdpa_masked")
            yield point(2, 40, 1, **whole, backend="sdpa_packed")
            yield point(2, 40, 5, **tiny, ragged=True)
            yield point(2, 40, 5, **tiny, tree=True)
            yield point(2, 64, 1, **tiny, window=20)
            yield point(2, 40, 1, **tiny, backend="varlen")
            return
        for batch, ctx in CORE:
            yield from (point(batch, ctx, tokens) for tokens in TOKENS)
            for tokens in (1, 5, 16):
                yield point(batch, ctx, tokens, backend="sdpa", page=0)
                yield point(batch, ctx, tokens, backend="varlen", page=256)
            yield from (point(batch, ctx, t, backend="sdpa_masked", page=0) for t in (5, 16))
            yield point(batch, ctx, 1, backend="sdpa_packed", page=0)
        for batch, ctx in CORE[:3]:
            yield from (point(batch, ctx, t, page=p) for p in (16, 128, 256) for t in (1, 5))
            for group, kv_heads in ((1, 32), (8, 8), (2, 8)):
                yield from (
                    point(batch, ctx // (4 if group == 1 else 1), t, group=group, kv_heads=kv_heads)
                    for t in (1, 5, 16)
                )
        for batch in (1, 16, 64, 256):
            yield from (point(batch, 4096, 1, window=w) for w in (512, 1024))
        yield from (point(16, 32768, t, tree=True) for t in (5, 16, 64))
        yield from (point(16, 32768, t, ragged=True) for t in (1, 5))
        yield point(16, 32768, 5, ragged=True, backend="varlen", page=256)

    def _tile_points(self) -> Iterator[Point]:
        """Tiles to choose from, where they matter most."""
        base = {"section": "tile", "group": 4, "kv_heads": 8, "dim": 128, "page": 128}
        if self.rehearse:
            small = {"batch": 2, "ctx": 40, "kv_heads": 2, "dim": 16, "page": 32}
            yield base | small | {"tokens": 1, "slots": 32, "warps": 4, "stages": 3, "resident": 1}
            return
        for tokens, (batch, ctx) in ((5, CORE[0]), (1, CORE[0]), (1, CORE[1]), (16, CORE[0])):
            for slots in (64, 128):
                for warps in (4, 8):
                    for stages in (3, 5):
                        for resident in (1, 2, 4):
                            yield base | {
                                "batch": batch, "ctx": ctx, "tokens": tokens, "slots": slots,
                                "warps": warps, "stages": stages, "resident": resident,
                            }  # fmt: skip

    # how a point is measured

    def measured(self, point: Point) -> dict[str, Any]:
        """What was seen, or why nothing was: memory, a backend that is not there, a refusal."""
        needed = self.needed_bytes(point)
        if not self.rehearse:
            free = torch.cuda.mem_get_info()[0]
            if needed + RESERVE_BYTES > free:
                return {"skipped": f"needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free"}
        try:
            row: dict[str, Any] = getattr(self, "_" + point["section"])(point)
        except (MagicplanError, torch.OutOfMemoryError) as error:
            row = {"skipped": str(error).splitlines()[0]}
        except triton.runtime.errors.OutOfResources as error:
            row = {"skipped": f"tile too large: {error}"}
        except (RuntimeError, ValueError, TypeError) as error:
            # torch's paths refuse shapes in their own words; ours may not
            if point.get("backend") not in (*PEERS, "varlen"):
                raise
            row = {"skipped": str(error).splitlines()[0][:200]}
        if not self.rehearse:
            torch.cuda.empty_cache()
        return row

    def copies(self, size: int) -> int:
        """Sets of inputs to go through in turn, so that the cache holds none of them."""
        return 1 if self.rehearse else max(1, min(16, -(-3 * self.l2_bytes // max(size, 1))))

    def needed_bytes(self, point: Point) -> int:
        """Predicted before anything is allocated."""
        if point["section"] in ("attention", "tile"):
            kv = kv_bytes(point)
            queries = point["batch"] * point["tokens"] * point["group"] * point["kv_heads"]
            partial = 4 * queries * (point["dim"] + 1) * 64
            scores = 3 * 4 * queries // point["batch"] * point["ctx"]  # the check in float32
            return kv * self.copies(kv) + partial + scores + 4 * kv // point["batch"]
        if point["section"] == "linear":
            out, inner = LINEARS[point["layer"]]
            return 2 * out * inner * self.copies(2 * out * inner) + 2 * 4096 * (out + inner)
        if point["section"] == "accept":
            logits = point["batch"] * len(TREE) * VOCAB * 2
            return logits * (2 + 4 * (point["backend"] == "torch"))
        return 8 << 30 if point["section"] == "ceiling" else 1 << 30

    def seconds(self, launches: list[Launch]) -> dict[str, Any]:
        """Device seconds of one launch: each in turn within a graph, its replays between events."""
        if self.rehearse:
            begin = time.perf_counter()
            for launch in launches:
                launch()
            return {"seconds": (time.perf_counter() - begin) / len(launches), "samples": 1}
        repeats = -(-8 // len(launches))
        run = [launch for _ in range(repeats) for launch in launches]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for launch in launches:
                launch()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for launch in run:
                launch()
        samples: list[float] = []
        begin = time.monotonic()
        while len(samples) < WARM + MOST:
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            graph.replay()
            after.record()
            after.synchronize()
            samples.append(before.elapsed_time(after) / 1e3 / len(run))
            if len(samples) >= WARM + LEAST and time.monotonic() - begin > SECONDS:
                break
        kept = sorted(samples[WARM:])
        low, _, high = statistics.quantiles(kept, n=4)
        return {
            "seconds": statistics.median(kept), "quartiles": [low, high], "samples": len(kept),
            "best": kept[0],
        }  # fmt: skip

    def _ceiling(self, point: Point) -> dict[str, Any]:
        what = point["what"]
        size = 1 << 20 if self.rehearse else 1 << 31
        if what in ("copy", "read"):
            data = torch.ones(size // 4, device=self.device)
            target = torch.empty_like(data)
            launch = (lambda: target.copy_(data)) if what == "copy" else data.sum
            row = self.seconds([launch])
            return row | {"bytes_per_s": size * (2 if what == "copy" else 1) / row["seconds"]}
        if what == "gemm":
            n = 64 if self.rehearse else point["edge"]
            a, b = (torch.randn(n, n, device=self.device).bfloat16() for _ in range(2))
            row = self.seconds([lambda: a @ b])
            return row | {"flops_per_s": 2 * n**3 / row["seconds"]}
        one = torch.zeros(1, device=self.device)
        if what == "replay":
            return self.seconds([lambda: one.add_(1)] * 64)
        begin = time.perf_counter()
        for _ in range(1000):
            one.add_(1)
        if not self.rehearse:
            torch.cuda.synchronize()
        return {"seconds": (time.perf_counter() - begin) / 1000, "samples": 1000}

    def _attention(self, point: Point, tile: Any = None) -> dict[str, Any]:
        dtype = torch.float32 if self.rehearse else torch.bfloat16
        caches = [attention_cache(point, dtype, self.device)]
        for _ in range(self.copies(kv_bytes(point)) - 1):
            key, value = (p.transpose(1, 2).clone().transpose(1, 2)
                          for p in (caches[0].key, caches[0].value))  # fmt: skip
            caches.append(LayerCache(key=key, value=value, page_table=caches[0].page_table))
        query = torch.randn(
            point["batch"], point["tokens"], point["kv_heads"] * point["group"], point["dim"],
            device=self.device, dtype=dtype,
        )  # fmt: skip
        lengths = point_lengths(point, self.device)
        tree = None
        if point.get("tree"):
            parents = (-1, *(n // 3 for n in range(point["tokens"] - 1)))
            tree = Topology.of(parents, self.device).ancestors
        view = Window(sinks=4, window=point["window"] - 4) if "window" in point else None
        call = attention_call(point, tile, view, tree)
        out = call(query, caches[0], lengths)
        row = self.seconds([lambda c=c: call(query, c, lengths) for c in caches])
        read = kv_read_bytes(point, lengths)
        return row | {
            "kv_bytes": read,
            "kv_bytes_per_s": read / row["seconds"],
            "error": spot_error(out, query, caches[0], lengths, view, tree),
        }

    def _tile(self, point: Point) -> dict[str, Any]:
        from magicplan.kernels.triton_kernels.tiles import Tile, next_power

        rows = min(64, max(16, next_power(point["group"] * point["tokens"])))
        names = ("slots", "warps", "stages", "resident")
        return self._attention(point, Tile(rows=rows, **{n: point[n] for n in names}))

    def _linear(self, point: Point) -> dict[str, Any]:
        out, inner = (64, 32) if self.rehearse else LINEARS[point["layer"]]
        size = 2 * out * inner
        weights = [
            torch.randn(out, inner, device=self.device).bfloat16().mul_(inner**-0.5)
            for _ in range(self.copies(size))
        ]
        x = torch.randn(point["rows"], inner, device=self.device).bfloat16()
        row = self.seconds([lambda w=w: F.linear(x, w) for w in weights])
        moved = size + 2 * point["rows"] * (out + inner)
        flops = 2 * point["rows"] * out * inner
        rates = {"bytes": moved, "flops": flops, "bytes_per_s": moved / row["seconds"]}
        return row | rates | {"flops_per_s": flops / row["seconds"]}

    def _append(self, point: Point) -> dict[str, Any]:
        batch, tokens = (2, 2) if self.rehearse else (point["batch"], point["tokens"])
        heads, kv_heads, dim, page = (4, 2, 16, 16) if self.rehearse else (32, 8, 128, 64)
        table = identity_pages(batch, 4 * page, page, self.device)
        cache = LayerCache.allocate(
            page_table=table, pages=table.numel(), page_size=page, kv_heads=kv_heads,
            head_dim=dim, dtype=torch.bfloat16,
        )  # fmt: skip
        lengths = torch.full((batch,), page + 3, dtype=torch.int32, device=self.device)
        backend = kernels.load(point["backend"])
        if point["what"] == "compact":
            nodes = torch.full((batch, GAMMA), -1, dtype=torch.int32, device=self.device)
            nodes[:, :2] = torch.tensor([2, 7], dtype=torch.int32, device=self.device)
            return self.seconds([lambda: backend.compact(cache, lengths, nodes)])
        fused = torch.randn(batch, tokens, heads + 2 * kv_heads, dim, device=self.device).bfloat16()
        query, key, value = fused.split([heads, kv_heads, kv_heads], 2)
        depths = torch.arange(tokens, dtype=torch.int32, device=self.device)
        cos, sin = torch.rand(2, 8 * page, dim // 2, device=self.device)
        row = self.seconds(
            [lambda: backend.rope_append(query, key, value, cache, lengths, depths, cos, sin)]
        )
        moved = 2 * batch * tokens * dim * (2 * heads + 4 * kv_heads)
        return row | {"bytes": moved, "bytes_per_s": moved / row["seconds"]}

    def _accept(self, point: Point) -> dict[str, Any]:
        batch, vocab = (2, 64) if self.rehearse else (point["batch"], VOCAB)
        backend, what = kernels.load(point["backend"]), point["what"]
        dtype = torch.float32 if self.rehearse else torch.bfloat16
        columns = len(TREE) if what.startswith("tree") else GAMMA + 1
        logits = torch.randn(batch, columns, vocab, device=self.device, dtype=dtype)
        guess = logits[:, :GAMMA] + 0.1 * torch.randn_like(logits[:, :GAMMA])
        tokens = torch.randint(0, vocab, (batch, len(TREE)), device=self.device)
        draft = logits[:, :GAMMA].argmax(-1)
        steps = torch.zeros(batch, dtype=torch.int32, device=self.device)
        noise = Noise(seed=1, request=torch.arange(batch, device=self.device).int(), step=steps)
        tree = Topology.of(TREE, self.device)
        calls: dict[str, Launch] = {
            "greedy": lambda: backend.accept_greedy(draft, logits),
            "sampled": lambda: backend.accept_sampled(draft, guess, logits, noise),
            "tree_greedy": lambda: backend.accept_tree_greedy(tree, tokens, logits),
            "tree_sampled": lambda: backend.accept_tree_sampled(tree, tokens, logits, noise),
            "sample": lambda: backend.sample(logits[:, 0], noise),
        }
        row = self.seconds([calls[what]])
        read = {"greedy": logits, "sampled": logits, "sample": logits[:, :1]}.get(what, logits)
        moved = read.nbytes + (guess.nbytes if what == "sampled" else 0)
        return row | {"bytes": moved, "bytes_per_s": moved / row["seconds"]}


def _nvml() -> dict[str, Any]:
    """Driver, clocks and power, where nvidia-ml-py and a driver are there."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        return {
            "driver": pynvml.nvmlSystemGetDriverVersion(),
            "sm_clock_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "memory_clock_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
            "power_limit_watts": pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
            "temperature": pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        }
    except Exception as error:  # any of a dozen NVML errors, or no module: the record says so
        return {"nvml": f"not read: {error}"}


def kv_bytes(point: Point) -> int:
    """Of one layer's cache, allocated; a page of 0 is a whole sequence."""
    slots = point["ctx"] + point["tokens"]
    page = point["page"] or slots
    slots = -(-slots // page) * page
    return 4 * point["batch"] * slots * point["kv_heads"] * point["dim"]


def kv_read_bytes(point: Point, lengths: Tensor) -> int:
    """K and V that the queries can see, each once; two bytes an element (the rehearsal's are 4)."""
    size = 4 if lengths.device.type == "cpu" else 2
    seen = (lengths.long() + point["tokens"]).clamp(max=point.get("window", 1 << 40)).sum().item()
    return int(2 * seen * point["kv_heads"] * point["dim"] * size)


def point_lengths(point: Point, device: str) -> Tensor:
    """[B] int32: `ctx` each, or from an eighth of it to all of it in equal steps."""
    whole = torch.full((point["batch"],), point["ctx"], dtype=torch.int32, device=device)
    if not point.get("ragged"):
        return whole
    part = torch.linspace(0.125, 1, point["batch"], device=device)
    return (whole * part).int()


def attention_cache(point: Point, dtype: torch.dtype, device: str) -> LayerCache:
    """Random K and V; pages shuffled, as after some time of serving."""
    slots = point["ctx"] + point["tokens"]
    page = point["page"] or slots
    table = identity_pages(point["batch"], slots, page, device)
    if point.get("backend") not in PEERS:
        order = torch.randperm(table.numel(), generator=torch.Generator().manual_seed(0))
        table = order.to(device=device, dtype=torch.int32).view(table.shape)
    cache = LayerCache.allocate(
        page_table=table, pages=table.numel(), page_size=page,
        kv_heads=point["kv_heads"], head_dim=point["dim"], dtype=dtype,
    )  # fmt: skip
    cache.key.normal_()
    cache.value.normal_()
    return cache


def attention_call(
    point: Point, tile: Any, view: Window | None, tree: Tensor | None
) -> Callable[[Tensor, LayerCache, Tensor], Tensor]:
    """The function that is timed."""
    if point.get("backend") in PEERS:
        return PEERS[point["backend"]]
    if tile is not None:
        from magicplan.kernels.triton_kernels import attention

        return lambda q, c, n: attention.attention(
            q, c, n, view=view, tree=tree, first=0, chosen=tile
        )
    backend = kernels.load(point["backend"])
    return lambda q, c, n: backend.attention(q, c, n, view=view, tree=tree)


def sdpa(query: Tensor, cache: LayerCache, lengths: Tensor) -> Tensor:
    """torch's own attention on a dense cache of one page a sequence, lengths all equal."""
    key, value = cache.key.transpose(1, 2), cache.value.transpose(1, 2)
    tokens, end = query.shape[1], key.shape[2]
    bias: Any = None
    if tokens > 1:
        bias = causal_lower_right(tokens, end)
        if query.device.type == "cpu":  # there the class above has no path for groups
            bias = torch.ones(tokens, end, dtype=torch.bool).tril(end - tokens)
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2), key, value, attn_mask=bias, enable_gqa=True
    )
    return out.transpose(1, 2)


def sdpa_masked(query: Tensor, cache: LayerCache, lengths: Tensor) -> Tensor:
    """The same with the mask written out, which other kernels of torch take."""
    key, value = cache.key.transpose(1, 2), cache.value.transpose(1, 2)
    tokens, end = query.shape[1], key.shape[2]
    mask = torch.ones(tokens, end, dtype=torch.bool, device=query.device).tril(end - tokens)
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2), key, value, attn_mask=mask, enable_gqa=True
    )
    return out.transpose(1, 2)


def sdpa_packed(query: Tensor, cache: LayerCache, lengths: Tensor) -> Tensor:
    """The same for one token, its group's heads packed as query tokens: K and V are read once."""
    key, value = cache.key.transpose(1, 2), cache.value.transpose(1, 2)
    packed = query.view(query.shape[0], key.shape[1], -1, query.shape[3])
    return F.scaled_dot_product_attention(packed, key, value).reshape(query.shape)


def spot_error(
    out: Tensor, query: Tensor, cache: LayerCache, lengths: Tensor,
    view: Window | None, tree: Tensor | None,
) -> float:  # fmt: skip
    """Largest error of the last sequence against plain torch in float32."""
    one = LayerCache(key=cache.key, value=cache.value, page_table=cache.page_table[-1:])
    expected = torch_attention.dense_attention(
        query[-1:], one, lengths[-1:], view=view, tree=tree, first=0
    )
    error = (out[-1:].float() - expected.float()).abs().max().item()
    return error if math.isfinite(error) else 1e30


PEERS = {"sdpa": sdpa, "sdpa_masked": sdpa_masked, "sdpa_packed": sdpa_packed}
