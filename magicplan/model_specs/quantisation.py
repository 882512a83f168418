"""From a checkpoint's quantisation config to a number format for every part of its model.

Formats stand in `quantization_config`, at the top or inside `text_config`, in MLX's `quantization`,
or in `hf_quant_config.json` beside the config. Each says a default, modules that stay in 16 bits,
often modules that differ; every linear layer of the model is looked up under the names it goes by.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from magicplan.errors import SpecError
from magicplan.model_specs.formats import BF16, Format, Formats, format_of
from magicplan.model_specs.layers import Experts
from magicplan.model_specs.reader import show
from magicplan.model_specs.shape import ModelShape

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Modules that match `names` have `form`; the first rule that matches a module counts."""

    names: re.Pattern[str] | None
    """None stands for all linear layers but head, embeddings and routers."""
    form: Format


def formats(config: Config, shape: ModelShape, where: str) -> Formats:
    """The format of every part of a model whose checkpoint is quantised so.

    Raises SpecError for a method that is not known.
    """
    method, rules, kv = _read(config, where)
    totals: dict[str, float] = defaultdict(float)
    shares: dict[str, dict[Format, float]] = defaultdict(lambda: defaultdict(float))
    for part, names, numbers in modules(shape):
        form = _format(names, rules, special=part in ("head", "embeddings", "router"))
        totals[part] += numbers
        shares[part][form] += numbers
    parts = {part: _mixed(found, totals[part]) for part, found in shares.items()}
    for part, like in (
        ("mlp", "shared"),
        ("mlp", "attention"),
        ("shared", "mlp"),
        ("experts", "mlp"),
    ):
        if part not in parts and like in parts:  # a part the model lacks is as its likes are
            parts[part] = parts[like]
    return Formats(method=method, kv=kv, **parts)


def _mixed(found: Mapping[Format, float], total: float) -> Format:
    """One format for a part that has several: that of most numbers, with the bits of all."""
    most = max(found, key=lambda form: found[form])
    if len(found) == 1 or not total:
        return most
    bits = sum(form.bits * count for form, count in found.items()) / total
    scales = sum(form.scale_bits * count for form, count in found.items()) / total
    return replace(most, bits=bits, scale_bits=scales)


def _format(names: tuple[str, ...], rules: list[Rule], *, special: bool) -> Format:
    for rule in rules:
        if rule.names is None:
            if not special:
                return rule.form
        elif any(rule.names.fullmatch(name) for name in names):
            return rule.form
    return BF16


# ---- the modules of a model, under the names that checkpoints give them ------------------------

PROJECTIONS = {
    "qkv": ("q_proj", "k_proj", "v_proj", "qkv_proj"),
    "output": ("o_proj", "out_proj"),
    "query": ("q_proj",),
    "query_down": ("q_a_proj",),
    "query_up": ("q_b_proj",),
    "kv_down": ("kv_a_proj_with_mqa",),
    "key_up": ("kv_b_proj",),
    "value_up": ("kv_b_proj",),
    "index_query": ("indexer.wq_b",),
    "index_key": ("indexer.wk",),
    "index_head_weights": ("indexer.weights_proj",),
    "in": ("in_proj", "in_proj_qkv", "in_proj_qkvz"),
    "out": ("out_proj",),
}
"""A linear layer of ours by the names of transformers, of which one stands for all."""
BLOCKS = ("self_attn", "mixer")
FEEDS = ("mlp", "mixer")


def modules(shape: ModelShape) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """Every linear layer: its part (see `Formats`), the names it goes by, its numbers."""
    at = 0
    for count, layer in shape.runs:
        inner = [
            ("attention", names, float(part.parameters))
            for mixer in layer.mixers
            for part in mixer.projections(shape.hidden)
            for names in (_paths(BLOCKS, PROJECTIONS.get(part.name, (part.name,))),)
        ]
        inner += [
            ("attention", _paths(("extra",), (part.name,)), float(part.parameters))
            for part in layer.extras
        ]
        beside = len(layer.feed_forwards) > 1  # Gemma 4: experts stand beside the dense one
        for feed in layer.feed_forwards:
            if not isinstance(feed, Experts):
                numbers = float(shape.ffn_parameters(feed.ffn))
                inner.append(("mlp", _paths(FEEDS, ("gate_proj", "up_proj")), numbers))
                continue
            routed = float(feed.count * shape.expert_parameters(feed))
            leaves = ("experts.0.gate_proj", "experts.0.up_proj")
            inner.append(("experts", leaves if beside else _paths(FEEDS, leaves), routed))
            router = float(shape.router_parameters(feed))
            inner.append(("router", _paths(FEEDS, ("gate", "router")), router))
            if feed.shared_ffn:
                leaves = ("shared_expert.gate_proj", "shared_expert.up_proj")
                numbers = float(shape.ffn_parameters(feed.shared_ffn))
                inner.append(("shared", _paths(FEEDS, leaves), numbers))
            if feed.hidden:
                numbers = 2.0 * shape.hidden * feed.hidden
                inner.append(("shared", _paths(FEEDS, ("fc1_latent_proj",)), numbers))
        for _ in range(count):
            for part_name, leaves_of, numbers in inner:
                yield part_name, tuple(f"layers.{at}.{leaf}" for leaf in leaves_of), numbers
            at += 1
    yield "head", ("lm_head",), float(shape.head_parameters)
    yield "embeddings", ("embed_tokens",), float(shape.head_parameters)


def _paths(blocks: tuple[str, ...], leaves: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{block}.{leaf}" for block in blocks for leaf in leaves)


SPELLINGS = (
    (r"^(?:\*\.)?(?:language_model\.|model\.|backbone\.|text_model\.|transformer\.)+", ""),
    (r"\b(?:block_sparse_moe|feed_forward|ffn|moe)\b", "mlp"),
    (r"\b(?:linear_attn|attn|attention|mamba|temporal_block)\b", "self_attn"),
    (r"\bshared_experts?\b|\bshare_expert\b", "shared_expert"),
    (r"\bw[13]\b", "gate_proj"),
    (r"^head$", "lm_head"),
    (r"^embeddings$|^embed$", "embed_tokens"),
)


def _pattern(names: list[Any]) -> re.Pattern[str] | None:
    """One pattern of modules that a checkpoint names: whole paths and what is below them, single
    words anywhere in a path, globs, and expressions after "re:"; None of none."""
    found = []
    for name in names:
        if not isinstance(name, str):
            continue
        if name.startswith("re:"):
            try:
                re.compile(name[3:])
            except re.error:
                continue
            found.append(f"(?:(?:language_model\\.)?(?:model\\.)?)?(?:{_spelt(name[3:])}).*")
            continue
        plain = _spelt(name).strip(".")
        if "*" in plain:
            found.append(re.escape(plain).replace(r"\*", ".*") + r"(?:\..*)?")
        elif "." in plain:
            found.append(re.escape(plain) + r"(?:\..*)?")
        elif plain:
            found.append(rf"(?:.*\.)?{re.escape(plain)}(?:\..*)?")
    return re.compile("|".join(f"(?:{text})" for text in found)) if found else None


def _spelt(name: str) -> str:
    for pattern, common in SPELLINGS:
        name = re.sub(pattern, common, name)
    return name


# ---- what each method says ---------------------------------------------------------------------


def _read(config: Config, where: str) -> tuple[str, list[Rule], Format]:
    """The method's name, its rules in order, the cache's format."""
    method = config.get("quant_method")
    inner = config.get("quantization")
    if not method and isinstance(inner, Mapping) and "quant_algo" in inner:
        config, method = inner, "modelopt"
    if not method:
        method = _guessed(config)
    if isinstance(inner, Mapping) and method == "modelopt":
        config = inner
    if not isinstance(method, str) or method not in METHODS:
        raise SpecError(
            where,
            f"quantization_config.quant_method {show(method)} is not modelled; known: "
            f"{', '.join(METHODS)}",
        )
    try:
        rules = METHODS[method](config)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError):
        raise SpecError(
            where, f"quantization_config of {method} is not as {method} writes it"
        ) from None
    second = method == "fp8" and "quantized_layers" in config  # what it leaves alone stays fp8
    kept = None if second else _pattern(_ignored(config))
    if kept is not None:
        rules = [Rule(names=kept, form=BF16), *rules]
    return method, rules, _cache_format(config)


def _guessed(config: Config) -> str | None:
    producer = config.get("producer")
    if isinstance(producer, Mapping) and producer.get("name") == "modelopt":
        return "modelopt"
    if "quant_algo" in config:
        return "modelopt"
    return "mlx" if "bits" in config and "group_size" in config else None


def _ignored(config: Config) -> list[Any]:
    found: list[Any] = []
    for key in (
        "ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules", "exclude",
        "llm_int8_skip_modules", "skip_modules",
    ):  # fmt: skip
        value = config.get(key)
        found += value if isinstance(value, list) else []
    return found


def _cache_format(config: Config) -> Format:
    scheme = config.get("kv_cache_scheme") or config.get("kv_cache_quant_algo")
    if isinstance(scheme, Mapping):
        scheme = "FP8" if scheme.get("num_bits") == 8 and scheme.get("type") == "float" else None
    return format_of("fp8") if isinstance(scheme, str) and scheme.upper() == "FP8" else BF16


def _all(form: Format) -> list[Rule]:
    return [Rule(names=None, form=form)]


EXPERTS = re.compile(r"layers\.\d+\.\w+\.experts\..*")


def _fp8(config: Config) -> list[Rule]:
    """Block, channel or tensor fp8; DeepSeek-V4 keeps its experts in fp4 beside it, as what a
    second tool made of them where the config says so."""
    blocks = config.get("weight_block_size")
    form = format_of("fp8", int(blocks[0]) if blocks else 0)
    if config.get("quantized_layers"):
        return [*_modelopt(config), *_all(form)]
    if config.get("expert_dtype") == "fp4":
        return [Rule(names=EXPERTS, form=format_of("mxfp4")), *_all(form)]
    return _all(form)


def _mxfp4(config: Config) -> list[Rule]:
    """gpt-oss: experts alone, weight only (openai/gpt-oss README)."""
    return [Rule(names=EXPERTS, form=format_of("mxfp4", weight_only=True))]


def _integer(config: Config) -> list[Rule]:
    """AWQ, GPTQ, auto-round, MLX: integers of few bits with a scale and a zero for every group."""
    bits = int(config.get("bits") or config.get("w_bit") or 4)
    if not 2 <= bits <= 8:
        raise ValueError(bits)
    group = int(config.get("group_size") or config.get("q_group_size") or 128)
    form = format_of(f"int{bits}", max(group, 0), weight_only=True)
    zero = 16 if config.get("quant_method") in (None, "mlx") else bits
    zeros = zero / group if group > 0 else 0.0
    return _all(replace(form, scale_bits=form.scale_bits + zeros))


def _scheme(weights: Config, activations: object) -> Format:
    """A format as compressed-tensors and modelopt describe weights and activations."""
    bits, kind = int(weights["num_bits"]), weights.get("type", "int")
    group = int(weights.get("group_size") or 0)
    only = not activations
    if kind == "float" and bits == 4:
        return format_of("nvfp4" if group == 16 else "mxfp4", weight_only=only)
    if kind == "float":
        blocks = weights.get("block_structure")
        if group == 32:
            return format_of("mxfp8", weight_only=only)
        side = int(blocks[0]) if isinstance(blocks, list) else 0
        return format_of("fp8", side, weight_only=only)
    form = format_of(f"int{bits}", group, weight_only=only)
    zero = 0.0 if weights.get("symmetric", True) or not group else bits / group
    return replace(form, scale_bits=form.scale_bits + zero)


def _groups(config: Config) -> list[Rule]:
    """compressed-tensors: groups of targets with a scheme each."""
    rules = []
    for group in config["config_groups"].values():
        form = _scheme(group["weights"], group.get("input_activations"))
        targets = group.get("targets") or ["Linear"]
        named = [t for t in targets if not re.fullmatch(r"[A-Z]\w*", t)]
        if named:
            rules.append(Rule(names=_pattern(named), form=form))
        if len(named) < len(targets):
            rules += _all(form)
    return [rule for rule in rules if rule.names is not None] + [
        rule for rule in rules if rule.names is None
    ]


ALGORITHMS = {
    "FP8": format_of("fp8"),
    "FP8_PER_CHANNEL_PER_TOKEN": format_of("fp8"),
    "FP8_PB_WO": format_of("fp8", 128),
    "FP8_PB_REAL": format_of("fp8", 128),
    "NVFP4": format_of("nvfp4"),
    "W4A16_NVFP4": format_of("nvfp4", weight_only=True),
    "NVFP4_AWQ": format_of("nvfp4"),
    "W4A8_NVFP4_FP8": replace(format_of("nvfp4"), math="fp8"),
    "MXFP4": format_of("mxfp4"),
    "W4A8_MXFP4_FP8": replace(format_of("mxfp4"), math="fp8"),
    "MXFP8": format_of("mxfp8"),
    "INT4_AWQ": format_of("int4", 128, weight_only=True),
    "W4A16_AWQ": format_of("int4", 128, weight_only=True),
    "W4A8_AWQ": replace(format_of("int4", 128), math="fp8"),
    "INT8": format_of("int8"),
    "INT8_SQ": format_of("int8"),
    "W8A8_SQ_PER_CHANNEL": format_of("int8"),
}
"""Formats by the names that NVIDIA's modelopt gives them."""


def _modelopt(config: Config) -> list[Rule]:
    """modelopt: one algorithm for all, or each module's own."""
    algorithm = config.get("quant_algo")
    own = config.get("quantized_layers")
    if isinstance(own, Mapping):
        by_form: dict[Format, list[str]] = defaultdict(list)
        for name, entry in own.items():
            by_form[ALGORITHMS[entry["quant_algo"]]].append(
                re.sub(r"experts\.\d+", "experts.0", name)
            )
        return [
            Rule(names=_pattern(sorted(set(names))), form=form) for form, names in by_form.items()
        ]
    if config.get("config_groups"):
        return _groups(config)
    if algorithm is None:
        return []
    return _all(ALGORITHMS[algorithm])


def _bitsandbytes(config: Config) -> list[Rule]:
    """4 bits with an fp32 scale for every 64 numbers, which double quantisation halves to 8 bits
    and an fp32 for every 256 (QLoRA, arXiv 2305.14314, section 3); else 8 bits."""
    if config.get("load_in_4bit") or config.get("_load_in_4bit"):
        double = config.get("bnb_4bit_use_double_quant")
        scale = 8 / 64 + 32 / (64 * 256) if double else 32 / 64
        return _all(Format(name="int4", bits=4, scale_bits=scale))
    return _all(format_of("int8", weight_only=True))


def _hqq(config: Config) -> list[Rule]:
    """Half-quadratic quantisation: a 16-bit scale and zero for every group."""
    inner = config["quant_config"]["weight_quant_params"]
    bits, group = int(inner["nbits"]), int(inner["group_size"])
    return _all(Format(name=f"int{bits}", bits=bits, scale_bits=32 / group))


def _torchao(config: Config) -> list[Rule]:
    """torchao: the name of its config class, or the older short names."""
    kind: Any = config["quant_type"]
    inner: Config = {}
    if isinstance(kind, Mapping):
        entry = kind.get("default", kind)
        kind, inner = entry["_type"], entry.get("_data") or {}
    text = kind.lower().replace("_", "")
    only = "weightonly" in text
    if "int4" in text:
        return _all(format_of("int4", int(inner.get("group_size") or 128), weight_only=True))
    if "float8" in text or "fp8" in text:
        return _all(format_of("fp8", weight_only=only))
    if "int8" in text:
        return _all(format_of("int8", weight_only=only))
    raise ValueError(text)


def _quark(config: Config) -> list[Rule]:
    """AMD Quark: a scheme for all, and for modules that differ."""

    def form(entry: Config) -> Format:
        weights, only = entry["weight"], not entry.get("input_tensors")
        weights = weights[0] if isinstance(weights, list) else weights
        kind, group = weights["dtype"], int(weights.get("group_size") or 0)
        if kind == "fp4":
            return format_of("mxfp4", weight_only=only)
        if kind.startswith("fp8"):
            return format_of("fp8", weight_only=only)
        return format_of(kind.removeprefix("u"), group, weight_only=only)

    rules = [
        Rule(names=_pattern([name]), form=form(entry))
        for name, entry in (config.get("layer_quant_config") or {}).items()
    ]
    return [*rules, *_all(form(config["global_quant_config"]))]


METHODS: dict[str, Callable[[Config], list[Rule]]] = {
    "fp8": _fp8,
    "fbgemm_fp8": lambda config: _all(format_of("fp8")),
    "mxfp4": _mxfp4,
    "awq": _integer,
    "gptq": _integer,
    "auto-round": _integer,
    "mlx": _integer,
    "compressed-tensors": _groups,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "bitsandbytes": _bitsandbytes,
    "hqq": _hqq,
    "torchao": _torchao,
    "quark": _quark,
}
