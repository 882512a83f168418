"""What is known of accelerators and models as pages, with where it is known from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from magicplan import hardware_specs, model_specs
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.offers import BASIS
from magicplan.model_specs.shape import ModelShape
from magicplan.report.document.page import Bullets, Grid, Page, Section
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.layers.costs import kind_of
from magicplan.roofline.memory import slot_bytes_of_cache, state_sequence_bytes, weights_bytes
from magicplan.units import human_bytes, human_count, human_gib, human_rate, human_tokens

PEAKS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4")


def gpus_page(name: str | None) -> Page:
    """All accelerators as a table, or one with its sources."""
    if name is not None:
        return _one_gpu(name)
    known = hardware_specs.all_accelerators()
    grid = Grid(
        columns=("accelerator", "memory", "bandwidth", "16-bit", "fp8", "link", "ridge"),
        rows=tuple((a.name + (" ~" if a.provisional else ""), *_summary(a)) for a in known),
        note="Dense peaks in TFLOP/s; link is one direction, all links; ridge in FLOP/byte. ~ has "
        "provisional figures: magicplan gpus NAME shows which, and all sources.",
        narrows=True,
    )
    return Page(title="Accelerators", verdict=f"{len(known)} accelerators are known.",
                sections=(Section(title="Accelerators", blocks=(grid,)),))  # fmt: skip


def _notes(title: str, lines: Sequence[str]) -> tuple[Section, ...]:
    return (Section(title=title, blocks=(Bullets(lines=tuple(lines)),)),) if lines else ()


def _summary(a: Accelerator) -> tuple[str, ...]:
    fp8 = a.dense_flops_per_s.get("fp8")
    return (
        human_gib(a.memory_bytes),
        human_rate(a.memory_bytes_per_s),
        f"{a.dense_flops_per_s[a.math_dtype] / 1e12:.4g}",
        f"{fp8 / 1e12:.4g}" if fp8 else "-",
        human_rate(a.link_bytes_per_s) if a.link_bytes_per_s else "PCIe",
        f"{a.ridge_flops_per_byte(a.math_dtype):.0f}",
    )


def _one_gpu(name: str) -> Page:
    a, note = hardware_specs.resolve(name)
    rows: list[tuple[str, str, str]] = [
        ("vendor, architecture", f"{a.vendor}, {a.architecture}", ""),
        ("memory", f"{human_gib(a.memory_bytes)} usable, {a.memory_type}", "memory_bytes"),
        ("bandwidth", human_rate(a.memory_bytes_per_s), "memory_bytes_per_s"),
        *(
            (f"{d} peak, dense", f"{a.dense_flops_per_s[d] / 1e12:.4g} TFLOP/s", d)
            for d in PEAKS
            if d in a.dense_flops_per_s
        ),
        ("units", f"{a.units} {a.unit_kind}", "units"),
        ("L2 cache", human_bytes(a.l2_bytes) if a.l2_bytes else "-", "l2_bytes"),
        ("link, one direction", _link(a), "link_bytes_per_s"),
        ("PCIe, one direction", _rate(a.pcie_bytes_per_s), "pcie_bytes_per_s"),
        ("accelerators a host", str(a.node_size), "node_size"),
        ("power", f"{a.tdp_watts:.0f} W" if a.tdp_watts else "-", "tdp_watts"),
        ("price", _price(a), "price_usd_per_hour"),
        *(("other offers", o.text, "") for o in a.offers if o.kind != BASIS),
        ("driver names", "; ".join(a.driver_names) or "-", "driver_names"),
        ("also called", "; ".join(a.aliases) or "-", "aliases"),
    ]
    cells = tuple(
        (label, value, "provisional" if _provisional(a, field) else "")
        for label, value, field in rows
    )
    where = [f"{s.title} ({s.url or 'no address'}, seen {s.seen})" for s in a.sources]
    return Page(
        title=a.title,
        verdict=f"{a.title} is known as {a.name}.",
        sections=(
            Section(title="Figures", blocks=(Grid(columns=("", "", ""), rows=cells, prose=True),)),
            *_notes("Notes", [line for line in (note, a.notes) if line]),
            *_notes("Sources", where),
        ),
    )


def _provisional(a: Accelerator, field: str) -> bool:
    return any(p == field or p.endswith("." + field) for p in a.provisional)


def _rate(value: float | None) -> str:
    return human_rate(value) if value else "-"


def _link(a: Accelerator) -> str:
    if not a.link_bytes_per_s:
        return "none; PCIe"
    return f"{human_rate(a.link_bytes_per_s)}, {a.link_type}, {a.link_domain} devices"


def _price(a: Accelerator) -> str:
    if not a.price_usd_per_hour:
        return "-"
    return f"${a.price_usd_per_hour:.2f} an hour ({a.price_note})"


def gpus_as_dict(name: str | None) -> dict[str, Any]:
    """The JSON of `magicplan gpus`, in SI units."""
    found = hardware_specs.all_accelerators() if name is None else (hardware_specs.load(name),)
    entries = [
        {field.name: getattr(a, field.name) for field in fields(a)}
        | {"dense_flops_per_s": dict(a.dense_flops_per_s)}
        | {"sources": [asdict(source) for source in a.sources]}
        | {"offers": [asdict(offer) for offer in a.offers]}
        for a in found
    ]
    return {"schema": "magicplan.gpus/1", "accelerators": entries}


def models_page(name: str | None) -> Page:
    """All models as a table, or one with its sources."""
    if name is not None:
        return _one_model(name)
    known = model_specs.all_models()
    grid = Grid(
        columns=("model", "parameters", "context", "KV a token", "layers", "hidden", "heads"),
        rows=tuple((m.name, *_model_summary(m)) for m in known),
        note="KV a token in bf16, all layers, sliding windows not yet clipped.",
        narrows=True,
    )
    return Page(title="Models", verdict=f"{len(known)} models are known.",
                sections=(Section(title="Models", blocks=(grid,)),))  # fmt: skip


def _model_summary(m: ModelShape) -> tuple[str, ...]:
    heads = f"{m.q_heads} MLA" if m.latent else f"{m.q_heads}/{m.kv_heads}"
    return (
        human_count(m.parameters),
        human_tokens(m.max_ctx_tokens),
        human_bytes(kv_token_bytes(m)),
        str(m.layers),
        str(m.hidden),
        heads,
    )


def kv_token_bytes(m: ModelShape) -> float:
    """Bytes of cache that a first token takes in bf16, an indexer's keys included, over all
    layers; windows are not yet full."""
    return float(slot_bytes_of_cache(m))


def _one_model(name: str) -> Page:
    named = model_specs.resolve(name)
    m = named.shape
    rows = {
        "parameters": f"{m.parameters:,}" + _published(m),
        "layers": ", ".join(f"{count} {kind_of(mixer)}" for count, mixer in m.mixers),
        "hidden": str(m.hidden),
        "heads": _heads(m),
        "feed-forward": _feed_forward(m),
        "vocabulary": f"{m.vocab:,}" + (", tied embeddings" if m.tied_embeddings else ""),
        "context": f"{m.max_ctx_tokens} tokens"
        + (f", window {m.window_tokens}" if m.window_tokens else ""),
        "KV a token (bf16)": f"{kv_token_bytes(m):,.0f} bytes",
        "weights (bf16)": human_bytes(2.0 * m.parameters),
    }
    if m.recurrent_layers:
        rows["state a sequence"] = human_bytes(float(state_sequence_bytes(m, Deployment())))
    if not m.formats.plain:
        rows["published formats"] = ", ".join(f"{k} {v}" for k, v in m.formats.as_dict().items())
        held = float(weights_bytes(m, Deployment(formats=m.formats)))
        rows["weights (as published)"] = human_bytes(held)
    sources: tuple[Section, ...] = ()
    if named.preset:
        info = model_specs.preset_info(named.preset)
        sources = _notes(f"Sources of {info.id}", info.sources)
    grid = Grid(columns=("", ""), rows=tuple(rows.items()), prose=True)
    return Page(
        title=m.name,
        verdict=f"{m.name} has {human_count(m.parameters)} parameters.",
        sections=(
            Section(title="Shape", blocks=(grid,)),
            *_notes("Notes", [note for note in (named.note, *m.notes) if note]),
            *sources,
        ),
    )


def _published(m: ModelShape) -> str:
    if not m.published_parameters:
        return ""
    return f" ({m.parameters / m.published_parameters - 1:+.2%} of the published count)"


def _heads(m: ModelShape) -> str:
    if m.latent:
        return f"{m.q_heads} over one latent of {m.latent.kv_rank} + {m.latent.rope_head_dim}"
    return f"{m.q_heads} query, {m.kv_heads} KV, {m.head_dim} wide"


def _feed_forward(m: ModelShape) -> str:
    dense = f"{m.ffn} wide" if m.dense_layers else ""
    if not m.experts:
        return dense
    e = m.experts
    moe = f"{e.per_token} of {e.count} experts, {e.ffn} wide, in {e.layers} layers"
    if e.shared_ffn:
        moe += f", shared {e.shared_ffn}"
    return moe + (f"; dense {dense}" if dense else "")


def models_as_dict(name: str | None) -> dict[str, Any]:
    """The JSON of `magicplan models`."""
    found = model_specs.all_models() if name is None else (model_specs.load(name),)
    entries = [
        asdict(m)
        | {
            "parameters": m.parameters,
            "kv_bytes_per_token_bf16": kv_token_bytes(m),
            "quantised": m.quantised,
        }
        for m in found
    ]
    return {"schema": "magicplan.models/1", "models": entries}
