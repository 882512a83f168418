"""What a model is: the shape that decides its bytes and its arithmetic. Counts and names only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): one latent a token.

    The cache holds `kv_rank + rope_head_dim` numbers a token and layer, shared by all heads.
    `q_rank` 0 means that queries are projected directly.
    """

    kv_rank: int
    q_rank: int
    nope_head_dim: int
    rope_head_dim: int
    value_head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Experts:
    """A mixture-of-experts feed-forward layer; `layers` of the model's layers have it.

    `shared_ffn` is the total width of the experts that every token visits, 0 for none.
    `bias` says whether router and experts carry biases.
    """

    count: int
    per_token: int
    ffn: int
    layers: int
    shared_ffn: int = 0
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelShape:
    """A decoder-only transformer. Every width is a count of numbers, every window one of tokens.

    `ffn` is the width of a dense feed-forward layer (0 where every layer is a mixture of experts);
    `sliding_layers` of the `layers` attend to at most `window_tokens` tokens.
    `norm_parameters` counts norms and other vectors that no linear layer holds.
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
    norm_parameters: int = 0
    query_key_norms: bool = False
    """Every head's query and key is normalised (Qwen3, GLM-4.5, Gemma 3)."""
    native_dtype: str = "bf16"
    quantised: str = ""
    """How the published checkpoint is quantised, by its own name; "" if it is not."""
    mtp_layers: int = 0
    published_parameters: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def full_layers(self) -> int:
        """Layers that attend to the whole context."""
        return self.layers - self.sliding_layers

    @property
    def dense_layers(self) -> int:
        """Layers with a dense feed-forward."""
        return self.layers - (self.experts.layers if self.experts else 0)

    @property
    def group(self) -> int:
        """Query heads that share one head of the KV cache (GQA group; all of them under MLA)."""
        return self.q_heads if self.latent else self.q_heads // self.kv_heads

    @property
    def kv_numbers_per_token_layer(self) -> int:
        """Numbers the cache holds for one token in one layer."""
        if self.latent:
            return self.latent.kv_rank + self.latent.rope_head_dim
        return 2 * self.kv_heads * self.head_dim

    @property
    def attention_parameters(self) -> int:
        """Parameters of one layer's attention projections, biases included."""
        if self.latent:
            return self._latent_parameters(self.latent)
        q, kv = self.q_heads * self.head_dim, self.kv_heads * self.head_dim
        weights = self.hidden * (q + 2 * kv) + q * self.hidden
        biases = (q + 2 * kv) * self.qkv_bias + self.hidden * self.output_bias
        return weights + biases

    def _latent_parameters(self, a: LatentAttention) -> int:
        q_head, kv_up = a.nope_head_dim + a.rope_head_dim, a.nope_head_dim + a.value_head_dim
        query = (
            self.hidden * a.q_rank + a.q_rank * self.q_heads * q_head
            if a.q_rank
            else self.hidden * self.q_heads * q_head
        )
        down = self.hidden * (a.kv_rank + a.rope_head_dim)
        up = a.kv_rank * self.q_heads * kv_up
        return query + down + up + self.q_heads * a.value_head_dim * self.hidden

    def ffn_parameters(self, width: int) -> int:
        """Parameters of one feed-forward of that width, biases included."""
        into = 2 if self.gated else 1
        biases = (into * width + self.hidden) * self.ffn_bias
        return (into + 1) * self.hidden * width + biases

    @property
    def expert_parameters(self) -> int:
        """Parameters of one routed expert."""
        if not self.experts:
            return 0
        into = 2 if self.gated else 1
        biases = (into * self.experts.ffn + self.hidden) * self.experts.bias
        return (into + 1) * self.hidden * self.experts.ffn + biases

    @property
    def router_parameters(self) -> int:
        """Parameters of one layer's router."""
        if not self.experts:
            return 0
        return self.experts.count * (self.hidden + self.experts.bias)

    @property
    def moe_layer_parameters(self) -> int:
        """Parameters of one mixture-of-experts layer: router, routed and shared experts."""
        if not self.experts:
            return 0
        shared = self.ffn_parameters(self.experts.shared_ffn) if self.experts.shared_ffn else 0
        return self.router_parameters + self.experts.count * self.expert_parameters + shared

    @property
    def head_parameters(self) -> int:
        """Parameters of the LM head; the embedding's own when they are tied."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, without multi-token-prediction layers."""
        moe_layers = self.experts.layers if self.experts else 0
        return (
            self.layers * self.attention_parameters
            + self.dense_layers * self.ffn_parameters(self.ffn)
            + moe_layers * self.moe_layer_parameters
            + self.norm_parameters
            + self.head_parameters * (1 if self.tied_embeddings else 2)
        )
