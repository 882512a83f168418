"""What a model is: the shape that decides its bytes and its arithmetic. Counts and names only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import lru_cache

from magicplan.model_specs.formats import Formats
from magicplan.model_specs.layers import (
    Attention,
    Dense,
    Experts,
    Latent,
    LatentAttention,
    Layer,
    Mixer,
    Projection,
    Recurrent,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelShape:
    """A decoder-only model. Every width is a count of numbers, every window one of tokens.

    A model whose layers are alike, or differ by a window and by experts alone, is said by its
    widths; any other lists its layers in `listed`, and the widths are those of its ordinary
    attention. `runs` is the list for either. `ffn` is the width of a dense feed-forward layer (0
    where every layer is a mixture of experts); `sliding_layers` of the `layers` attend to at most
    `window_tokens` tokens. `norm_parameters` counts norms and other vectors that no linear layer
    holds, `gathered_parameters` tables of which a token reads a row (positions, per-layer
    embeddings), `tower_parameters` the encoders that a checkpoint holds beside its text decoder.
    """

    name: str
    family: str = "llama"
    """The config's model_type: models of one family accept each other's drafts alike."""
    layers: int
    hidden: int
    q_heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    max_ctx_tokens: int
    gated: bool = True
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    ffn_bias: bool = False
    window_tokens: int | None = None
    sliding_layers: int = 0
    latent: LatentAttention | None = None
    experts: Experts | None = None
    listed: tuple[tuple[int, Layer], ...] = ()
    """Runs of equal layers, where the widths above do not say them."""
    norm_parameters: int = 0
    gathered_parameters: int = 0
    tower_parameters: int = 0
    query_key_norms: bool = False
    """Every head's query and key is normalised (Qwen3, GLM-4.5, Gemma 3)."""
    native_dtype: str = "bf16"
    formats: Formats = field(default_factory=Formats)
    """The published checkpoint's number formats, part by part."""
    mtp_layers: int = 0
    published_parameters: int | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.listed and sum(count for count, _ in self.listed) != self.layers:
            raise ValueError(f"{self.name} lists other than its {self.layers} layers")

    @property
    def quantised(self) -> str:
        """How the published checkpoint is quantised, by its own name; "" if it is not."""
        return self.formats.method

    @property
    def runs(self) -> tuple[tuple[int, Layer], ...]:
        """The model as a list of layers, in runs of (count, layer)."""
        return self.listed or _uniform(self)

    @property
    def mixers(self) -> tuple[tuple[int, Mixer], ...]:
        """Each kind of mixer with how many layers have it."""
        return _merged(self)[0]

    @property
    def feed_forwards(self) -> tuple[tuple[int, Dense | Experts], ...]:
        """Each kind of feed-forward with how many layers have it."""
        return _merged(self)[1]

    @property
    def extras(self) -> tuple[tuple[int, Projection], ...]:
        """Linear layers of neither, with how many layers have them."""
        return _merged(self)[2]

    @property
    def mixing_layers(self) -> int:
        """Layers that have a mixer."""
        return sum(count for count, layer in self.runs if layer.mixers)

    @property
    def feeding_layers(self) -> int:
        """Layers that have a feed-forward."""
        return sum(count for count, layer in self.runs if layer.feed_forwards)

    @property
    def full_layers(self) -> int:
        """Layers that attend to the whole context."""
        return self.layers - self.sliding_layers

    @property
    def dense_layers(self) -> int:
        """Layers with a dense feed-forward."""
        return sum(count for count, part in self.feed_forwards if isinstance(part, Dense))

    @property
    def recurrent_layers(self) -> int:
        """Layers that hold a state."""
        return sum(count for count, mixer in self.mixers if isinstance(mixer, Recurrent))

    @property
    def group(self) -> int:
        """Query heads that share one head of the KV cache (GQA group; all of them under MLA)."""
        return self.q_heads if self.latent else self.q_heads // self.kv_heads

    @property
    def kv_numbers_per_token(self) -> int:
        """Numbers the cache gains a token over all layers, windows not yet full."""
        return sum(count * mixer.cached_numbers for count, mixer in self.mixers)

    @property
    def kv_numbers_per_token_layer(self) -> int:
        """Numbers the cache holds for one token in one ordinary attention layer."""
        if self.latent:
            return self.latent.kv_rank + self.latent.rope_head_dim
        return 2 * self.kv_heads * self.head_dim

    @property
    def attention_parameters(self) -> int:
        """Parameters of all mixers' linear layers, biases included."""
        return sum(
            count * part.parameters
            for count, mixer in self.mixers
            for part in mixer.projections(self.hidden)
        )

    def ffn_parameters(self, width: int) -> int:
        """Parameters of one feed-forward of that width, biases included."""
        into = 2 if self.gated else 1
        biases = (into * width + self.hidden) * self.ffn_bias
        return (into + 1) * self.hidden * width + biases

    def expert_parameters(self, e: Experts) -> int:
        """Parameters of one routed expert."""
        into, hidden = 2 if self.gated else 1, e.hidden or self.hidden
        biases = (into * e.ffn + hidden) * e.bias
        return (into + 1) * hidden * e.ffn + biases

    def router_parameters(self, e: Experts) -> int:
        """Parameters of one layer's router."""
        return e.count * (self.hidden + e.bias)

    @property
    def part_parameters(self) -> dict[str, int]:
        """Parameters of every part that has a number format of its own, see `Formats`."""
        found: Counter[str] = Counter(router=0)
        found["attention"] = self.attention_parameters
        found["attention"] += sum(count * part.parameters for count, part in self.extras)
        for count, part in self.feed_forwards:
            if isinstance(part, Dense):
                found["mlp"] += count * self.ffn_parameters(part.ffn)
                continue
            found["router"] += count * self.router_parameters(part)
            found["experts"] += count * part.count * self.expert_parameters(part)
            found["shared"] += count * self.ffn_parameters(part.shared_ffn) * bool(part.shared_ffn)
            found["shared"] += count * 2 * self.hidden * part.hidden
        found["head"] = self.head_parameters
        found["embeddings"] = 0 if self.tied_embeddings else self.head_parameters
        found["embeddings"] += self.gathered_parameters
        found["vectors"] = self.norm_parameters
        return dict(found)

    @property
    def head_parameters(self) -> int:
        """Parameters of the LM head; the embedding's own when they are tied."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, without multi-token-prediction layers and encoders."""
        return sum(self.part_parameters.values())


@lru_cache(maxsize=512)
def _uniform(model: ModelShape) -> tuple[tuple[int, Layer], ...]:
    """The layers of a model that its widths say: full before sliding, dense before experts."""

    def mixer(window: int | None) -> Mixer:
        if model.latent:
            return Latent(q_heads=model.q_heads, ranks=model.latent)
        return Attention(
            q_heads=model.q_heads,
            kv_heads=model.kv_heads,
            head_dim=model.head_dim,
            window_tokens=window,
            qkv_bias=model.qkv_bias,
            output_bias=model.output_bias,
            normed=model.query_key_norms,
        )

    full, sliding = mixer(None), mixer(model.window_tokens)
    mixers = [full] * (model.layers - model.sliding_layers) + [sliding] * model.sliding_layers
    routed = model.experts.layers if model.experts else 0
    parts: list[Dense | Experts] = [Dense(ffn=model.ffn)] * (model.layers - routed)
    parts += [model.experts] * routed if model.experts else []
    pairs = zip(mixers, parts, strict=True)
    return runs_of([Layer(mixers=(m,), feed_forwards=(f,)) for m, f in pairs])


def said_by_widths(model: ModelShape) -> ModelShape:
    """A model without its list of layers if its widths alone say the same layers, in any order;
    else the model as it is."""
    plain = replace(model, listed=())
    same = all(
        sorted(map(repr, a)) == sorted(map(repr, b))
        for a, b in zip(_merged(plain), _merged(model), strict=True)
    )
    return plain if same else model


def runs_of(layers: list[Layer]) -> tuple[tuple[int, Layer], ...]:
    """A list of layers as runs of equal ones."""
    runs: list[tuple[int, Layer]] = []
    for layer in layers:
        if runs and runs[-1][1] == layer:
            runs[-1] = (runs[-1][0] + 1, layer)
        else:
            runs.append((1, layer))
    return tuple(runs)


Counted = tuple[
    tuple[tuple[int, Mixer], ...],
    tuple[tuple[int, Dense | Experts], ...],
    tuple[tuple[int, Projection], ...],
]


@lru_cache(maxsize=512)
def _merged(model: ModelShape) -> Counted:
    """Each kind of part with the layers that have it: a pass costs the same in any order."""
    mixers: Counter[Mixer] = Counter()
    parts: Counter[Dense | Experts] = Counter()
    extras: Counter[Projection] = Counter()
    for count, layer in model.runs:
        for found, kinds in ((mixers, layer.mixers), (parts, layer.feed_forwards)):
            for kind in kinds:
                found[kind] += count  # type: ignore[index]
        for extra in layer.extras:
            extras[extra] += count
    return (
        tuple((count, mixer) for mixer, count in mixers.items()),
        tuple((count, part) for part, count in parts.items()),
        tuple((count, extra) for extra, count in extras.items()),
    )
