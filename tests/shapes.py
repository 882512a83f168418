"""Hand-written shapes and machines that tests of arithmetic use, free of any data file."""

from __future__ import annotations

from magicplan.hardware_specs.accelerator import Accelerator, Source
from magicplan.hardware_specs.calibration import (
    AttentionFit,
    Calibration,
    CollectiveFit,
    HostFit,
    LinearFit,
    Residual,
)
from magicplan.model_specs.layers import Experts, LatentAttention
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.timing import Machine

LLAMA = ModelShape(
    name="llama-3.1-8b",
    layers=32,
    hidden=4096,
    q_heads=32,
    kv_heads=8,
    head_dim=128,
    ffn=14336,
    vocab=128256,
    max_ctx_tokens=131072,
    norm_parameters=65 * 4096,
)
SLIDING = ModelShape(
    name="sliding",
    layers=12,
    hidden=1024,
    q_heads=16,
    kv_heads=4,
    head_dim=64,
    ffn=4096,
    vocab=32000,
    max_ctx_tokens=32768,
    window_tokens=1024,
    sliding_layers=10,
    qkv_bias=True,
    norm_parameters=25 * 1024,
)
MIXTURE = ModelShape(
    name="mixture",
    layers=8,
    hidden=2048,
    q_heads=32,
    kv_heads=4,
    head_dim=128,
    ffn=6144,
    vocab=50000,
    max_ctx_tokens=32768,
    tied_embeddings=True,
    experts=Experts(count=64, per_token=8, ffn=768, layers=7, shared_ffn=1536),
    norm_parameters=17 * 2048,
)
LATENT = ModelShape(
    name="latent",
    layers=6,
    hidden=2048,
    q_heads=16,
    kv_heads=16,
    head_dim=192,
    ffn=8192,
    vocab=50000,
    max_ctx_tokens=32768,
    latent=LatentAttention(
        kv_rank=512, q_rank=1536, nope_head_dim=128, rope_head_dim=64, value_head_dim=128
    ),
    norm_parameters=13 * 2048,
)
SHAPES = (LLAMA, SLIDING, MIXTURE, LATENT)

A100 = Accelerator(
    name="a100-sxm-80gb",
    title="A100",
    vendor="NVIDIA",
    architecture="Ampere",
    driver_names=("NVIDIA A100-SXM4-80GB",),
    memory_bytes=81920 * 2.0**20,
    memory_bytes_per_s=2.039e12,
    memory_type="HBM2e",
    dense_flops_per_s={"fp32": 19.5e12, "bf16": 312e12, "fp16": 312e12, "int8": 624e12},
    units=108,
    unit_kind="SM",
    l2_bytes=40 * 2.0**20,
    link_type="NVLink3",
    link_bytes_per_s=300e9,
    link_peer_bytes_per_s=300e9,
    link_domain=8,
    pcie_bytes_per_s=31.5e9,
    node_size=8,
    tdp_watts=400.0,
    price_usd_per_hour=None,
    price_note="",
    provisional=(),
    sources=(Source(title="datasheet", url="", seen="2026-11-23"),),
    notes="",
)
SURE = Residual(low=1.0, high=1.0, basis="stated by the test")


def ideal_calibration() -> Calibration:
    """The naive roofline, sure of itself."""
    return Calibration(name="ideal", origin="test", step_residual=SURE, speedup_residual=SURE)


def fitted_calibration(
    *, launch: float = 5e-6, memory: float = 0.8, compute: float = 0.7, sharpness: float = 2.0
) -> Calibration:
    """Constants of the usual size, everywhere."""
    linear = LinearFit(
        launch_seconds=launch,
        memory_efficiency=memory,
        compute_efficiency=compute,
        sharpness=sharpness,
    )
    attention = AttentionFit(
        launch_seconds=launch,
        wave_seconds=1e-6,
        memory_efficiency=memory,
        compute_efficiency=compute,
    )
    return Calibration(
        name="fitted",
        origin="test",
        step_residual=Residual(low=0.9, high=1.1, basis="test"),
        speedup_residual=Residual(low=0.95, high=1.05, basis="test"),
        linear={"bf16": linear},
        attention={"bf16": attention},
        collective=CollectiveFit(
            one_shot_seconds=launch,
            one_shot_efficiency=memory,
            two_shot_seconds=2 * launch,
            two_shot_efficiency=memory,
            hop_seconds=1e-7,
        ),
        host=HostFit(
            kernel_seconds=2e-6, step_seconds=5e-4, draft_step_seconds=2e-4, round_seconds=3e-4
        ),
    )


IDEAL = Machine(accelerator=A100, calibration=ideal_calibration())
FITTED = Machine(accelerator=A100, calibration=fitted_calibration())
