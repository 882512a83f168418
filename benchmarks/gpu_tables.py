"""The tables of h200_kernels.py, printed from its data alone. Not run by itself."""

from __future__ import annotations

import io
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]
LAYERS = 32
"""Of Llama-3.1-8B, whose step the acceptance is compared with."""
LARGE_KV_BYTES = 0.5e9


def tables(rows: list[Row]) -> str:
    """Everything as text; says so where it was a rehearsal."""
    out = io.StringIO()
    console = Console(file=out, width=130, force_terminal=False)
    environments = [r for r in rows if r["point"]["section"] == "environment"]
    for row in environments[-1:]:
        shown = {k: v for k, v in row.items() if k not in ("point",)}
        console.print(", ".join(f"{k} {v}" for k, v in shown.items()), highlight=False)
    for row in _of(rows, "tests"):
        console.print(f"tests: {row['result']} {row.get('summaries', '')}", highlight=False)
        for line in row.get("output", []):
            console.print("   " + line, highlight=False, markup=False)
    copy = _ceilings(console, rows)
    if copy is not None:
        _attention(console, rows, copy)
        _tiles(console, rows, copy)
    _linears(console, rows, copy)
    _small(console, rows, copy)
    _goals(console, rows, copy)
    skipped = [r for r in rows if "skipped" in r]
    for row in skipped:
        console.print(f"not measured: {row['point']}: {row['skipped']}", highlight=False)
    return out.getvalue().rstrip()


def _of(rows: list[Row], section: str) -> list[Row]:
    return [r for r in rows if r["point"]["section"] == section and "skipped" not in r]


def _table(console: Console, title: str, head: list[str], body: list[list[str]]) -> None:
    if not body:
        return
    table = Table(title=title, box=box.SIMPLE, title_justify="left", pad_edge=False)
    for column in head:
        table.add_column(column, justify="right")
    for line in body:
        table.add_row(*line)
    console.print(table)


def _micro(row: Row | None) -> str:
    return "" if row is None else f"{row['seconds'] * 1e6:.1f}"


def _ceilings(console: Console, rows: list[Row]) -> float | None:
    """Prints them; the copy's rate in bytes a second."""
    found = {}
    for row in _of(rows, "ceiling"):
        found[row["point"]["what"], row["point"].get("edge")] = row
    body = []
    for (what, edge), row in found.items():
        rate = ""
        if "bytes_per_s" in row:
            rate = f"{row['bytes_per_s'] / 1e9:.0f} GB/s"
        if "flops_per_s" in row:
            rate = f"{row['flops_per_s'] / 1e12:.1f} TFLOP/s"
        body.append([f"{what} {edge or ''}", _micro(row), rate])
    _table(console, "Ceilings", ["", "µs", "rate"], body)
    copy = found.get(("copy", None))
    return copy["bytes_per_s"] if copy else None


def _shape(point: Row) -> tuple[Any, ...]:
    """What two backends must share to be compared: all but backend and page size."""
    return tuple(sorted((k, v) for k, v in point.items() if k not in ("backend", "page")))


def _peer(rows: list[Row], point: Row) -> Row | None:
    """The fastest of torch's paths at the shape."""
    same = [r for r in rows if _shape(r["point"]) == _shape(point)]
    peers = [r for r in same if r["point"]["backend"] != "triton"]
    return min(peers, key=lambda r: r["seconds"], default=None)


def _attention(console: Console, rows: list[Row], copy: float) -> None:
    measured = _of(rows, "attention")
    ours = [r for r in measured if r["point"]["backend"] == "triton"]
    one = {
        (*_shape(r["point"] | {"tokens": 0}), r["point"]["page"]): r
        for r in ours
        if r["point"]["tokens"] == 1
    }
    body = []
    for row in ours:
        point = row["point"]
        base = one.get((*_shape(point | {"tokens": 0}), point["page"]))
        passes = f"{row['seconds'] / base['seconds']:.2f}" if base else ""
        peer = _peer(measured, point)
        more = ", ".join(k for k in ("tree", "ragged") if point.get(k))
        more += f"window {point['window']}" if "window" in point else ""
        body.append([
            *(str(point[k]) for k in ("batch", "ctx", "tokens", "group", "page")), more,
            f"{row['kv_bytes'] / 1e6:.0f}", _micro(row),
            f"{row['kv_bytes_per_s'] / copy:.2f}", passes, _micro(peer),
            f"{peer['seconds'] / row['seconds']:.2f}" if peer else "", f"{row['error']:.0e}",
        ])  # fmt: skip
    head = ["batch", "ctx", "tokens", "group", "page", "", "KV MB", "µs", "of copy", "KV passes",
            "torch µs", "torch/ours", "error"]  # fmt: skip
    _table(
        console, "Attention, one layer (KV passes: in units of the same at one token)", head, body
    )


def _tiles(console: Console, rows: list[Row], copy: float) -> None:
    """The three best tiles of each shape beside what the table chose."""
    shapes: dict[tuple[Any, ...], list[Row]] = {}
    for row in _of(rows, "tile"):
        point = row["point"]
        shapes.setdefault((point["batch"], point["ctx"], point["tokens"]), []).append(row)
    body = []
    for shape, found in shapes.items():
        for row in sorted(found, key=lambda r: r["seconds"])[:3]:
            tile = [str(row["point"][k]) for k in ("slots", "warps", "stages", "resident")]
            fraction = f"{row['kv_bytes_per_s'] / copy:.2f}"
            body.append([*map(str, shape), *tile, _micro(row), fraction])
    head = ["batch", "ctx", "tokens", "slots", "warps", "stages", "resident", "µs", "of copy"]
    _table(console, "Best tiles", head, body)


def _linears(console: Console, rows: list[Row], copy: float | None) -> None:
    body = []
    for row in _of(rows, "linear"):
        fraction = f"{row['bytes_per_s'] / copy:.2f}" if copy else ""
        rate = f"{row['flops_per_s'] / 1e12:.1f}"
        point = row["point"]
        body.append([point["layer"], str(point["rows"]), _micro(row), fraction, rate])
    _table(console, "Linear layers", ["layer", "rows", "µs", "of copy", "TFLOP/s"], body)


def _small(console: Console, rows: list[Row], copy: float | None) -> None:
    found = _of(rows, "append") + _of(rows, "accept")
    body = []
    for row in found:
        point = row["point"]
        if point["backend"] != "triton":
            continue
        twin = [r for r in found if r["point"] == point | {"backend": "torch"}]
        ratio = f"{twin[0]['seconds'] / row['seconds']:.1f}" if twin else ""
        fraction = f"{row['bytes_per_s'] / copy:.2f}" if copy and "bytes_per_s" in row else ""
        tokens = str(point.get("tokens", ""))
        body.append([point["what"], str(point["batch"]), tokens, _micro(row), fraction,
                     _micro(twin[0] if twin else None), ratio])  # fmt: skip
    head = ["", "batch", "tokens", "µs", "of copy", "torch µs", "torch/ours"]
    _table(console, "RoPE with append, compaction, acceptance", head, body)


def _goals(console: Console, rows: list[Row], copy: float | None) -> None:
    """The aims, each with its worst row."""
    ours = [
        r for r in _of(rows, "attention")
        if r["point"]["backend"] == "triton" and not r["point"].get("ragged")
        and "window" not in r["point"] and r["point"]["page"] >= 64
    ]  # fmt: skip
    body: list[list[str]] = []

    def goal(text: str, values: list[tuple[float, Row]], limit: float, *, least: bool) -> None:
        if values:
            pick = min if least else max
            value, row = pick(values, key=lambda pair: pair[0])
            met = value >= limit if least else value <= limit
            where = ", ".join(f"{k} {v}" for k, v in row["point"].items() if k in
                              ("batch", "ctx", "tokens", "group", "page", "what"))  # fmt: skip
            body.append([text, f"{value:.3f}", "met" if met else "MISSED", where])

    if copy:
        share = [(r["kv_bytes_per_s"] / copy, r) for r in ours if r["point"]["tokens"] <= 8]
        large = [s for s in share if s[1]["kv_bytes"] >= LARGE_KV_BYTES]
        goal("of copy, KV >= 0.5 GB, T <= 8: >= 0.85",
             [s for s in large if s[1]["point"]["batch"] > 1], 0.85, least=True)  # fmt: skip
        goal("of copy, batch 1, 128k, T <= 8: >= 0.65",
             [s for s in large if s[1]["point"]["batch"] == 1], 0.65, least=True)  # fmt: skip
    five = []
    for row in (r for r in ours if r["point"]["tokens"] == 5 and not r["point"].get("tree")):
        base = [r for r in ours if r["point"] == row["point"] | {"tokens": 1}]
        five += [(row["seconds"] / r["seconds"], row) for r in base]
    goal("time at T = 5 over T = 1: <= 1.12",
         [f for f in five if f[1]["kv_bytes"] >= LARGE_KV_BYTES], 1.12, least=False)  # fmt: skip
    peers = [(p["seconds"] / r["seconds"], r) for r in ours if r["point"]["tokens"] == 1
             and (p := _peer(_of(rows, "attention"), r["point"]))]  # fmt: skip
    goal("torch's best over ours, decode: >= 1", peers, 1.0, least=True)
    shares = []
    for row in _of(rows, "accept"):
        point = row["point"]
        chain = point["what"] in ("greedy", "sampled") and point["backend"] == "triton"
        verify = _verify_seconds(rows, point["batch"]) if chain else None
        if verify:
            shares.append((row["seconds"] / verify, row))
    goal("acceptance over verification (8B): <= 0.05", shares, 0.05, least=False)
    _table(console, "Aims, each at its worst", ["aim", "seen", "", "where"], body)


def _verify_seconds(rows: list[Row], batch: int) -> float | None:
    """Verification of 5 tokens by Llama-3.1-8B from its measured parts; None if one is missing."""
    attention = [
        r["seconds"] for r in _of(rows, "attention")
        if r["point"]["batch"] == batch and r["point"]["tokens"] == 5
        and r["point"]["backend"] == "triton" and r["point"]["group"] == 4
    ]  # fmt: skip
    linear = {r["point"]["layer"]: r["seconds"] for r in _of(rows, "linear")
              if r["point"]["rows"] == 5 * batch}  # fmt: skip
    names = ("qkv", "o", "gate_up", "down")
    if not attention or any(n not in linear for n in (*names, "head")):
        return None
    return LAYERS * (min(attention) + sum(linear[n] for n in names)) + linear["head"]
