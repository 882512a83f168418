"""Commands start what was planned, every format, layout and draft, or a sentence says why not."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
from functools import cache
from typing import Any

import pytest

import magicplan as mp
from magicplan import model_specs
from magicplan.engine_specs.capabilities import ENGINES, ReplicaKind, load, refusal
from magicplan.errors import UsageError
from magicplan.planning.result import Launch, Plan

ASK: dict[str, Any] = {
    "model": "llama-3.1-8b", "gpus": "h100", "requests_per_s": 2.0, "prompt": 2000, "output": 200,
    "tp": 1, "drafts": "none", "disaggregation": "off", "acceptance": "0.7",
}  # fmt: skip
KV = {
    ("vllm", "fp8"): "fp8", ("vllm", "int8"): "int8_per_token_head",
    ("vllm", "int4"): "int4_per_token_head", ("sglang", "fp8"): "fp8_e4m3",
}  # fmt: skip
"""What an engine's flag takes, where it can hold the format."""
OWN_WEIGHTS = {"bf16": None, "fp8": "fp8"}
"""Formats that the published 16-bit checkpoint can be served in, and their --quantization."""


@cache
def ideal(**options: Any) -> Plan:
    """On a stack without an engine, so that both are tried."""
    return mp.plan(**(ASK | {"stack": "ideal"} | options))


def words_of(launch: Launch) -> list[str]:
    return shlex.split(launch.command.replace("\\\n", " "))


def after(words: list[str], option: str) -> str | None:
    return words[words.index(option) + 1] if option in words else None


@pytest.mark.parametrize("dtype", ["bf16", "fp8", "int8", "int4", "fp4"])
@pytest.mark.parametrize("kv_dtype", ["bf16", "fp8", "int8", "int4"])
def test_formats_are_started_or_refused(dtype: str, kv_dtype: str) -> None:
    p = ideal(dtypes=dtype, kv_dtypes=kv_dtype, gpus="b200" if dtype == "fp4" else "h100")
    assert [one.engine for one in p.launch] == ["vllm", "sglang"]
    for one in p.launch:
        words, option = words_of(one), KV.get((one.engine, kv_dtype))
        if kv_dtype != "bf16" and option is None:
            assert (one.command, one.notes) == ("", ())
            assert one.refused == f"{one.engine} holds no {kv_dtype} KV cache; vllm can"
            continue
        assert one.refused == ""
        assert after(words, "--kv-cache-dtype") == option
        model = words[2] if one.engine == "vllm" else after(words, "--model-path")
        if dtype in OWN_WEIGHTS:
            assert model == "meta-llama/Llama-3.1-8B"
            assert after(words, "--quantization") == OWN_WEIGHTS[dtype]
        else:
            assert model == f"PATH_OF_{dtype}_CHECKPOINT"
            assert any(dtype in note for note in one.notes)


def test_sixteen_bits_of_a_part_without_bf16_are_named() -> None:
    p = ideal(gpus="v100-sxm2-32gb", objective="gpus")
    assert p.best.dtype == "fp16"
    for one in p.launch:
        assert after(words_of(one), "--dtype") == "float16"


@pytest.mark.xfail(strict=False, reason="bf16 of an fp8 checkpoint names its id: open")
def test_a_checkpoint_in_fp8_is_served_as_it_is_in_fp8_only() -> None:
    ask: dict[str, Any] = {"model": "deepseek-v3", "gpus": "b300", "tp": 8}
    for one in ideal(dtypes="fp8", **ask).launch:
        assert "deepseek-ai/DeepSeek-V3" in one.command
        assert "--quantization" not in one.command
    for one in ideal(dtypes="bf16", **ask, pp=2).launch:
        assert "PATH_OF_bf16_CHECKPOINT" in one.command


@pytest.mark.parametrize("kv_dtype", ["int8", "int4"])
def test_a_stack_plans_no_format_that_its_engine_cannot_hold(kv_dtype: str) -> None:
    ask = ASK | {"stack": "sglang"}
    with pytest.raises(UsageError, match=rf"^kv_dtypes {kv_dtype}: sglang holds no .*; vllm can$"):
        mp.plan(**(ask | {"kv_dtypes": kv_dtype}))
    p = mp.plan(**(ask | {"kv_dtypes": ("bf16", kv_dtype)}))
    assert {c.kv_dtype for c in p.candidates} == {"bf16"}
    assert any(f"holds no {kv_dtype} KV cache" in reason for reason in p.rejected)
    assert p.launch[0].engine == "sglang"
    old = rf"vllm@0.19.0 holds no {kv_dtype} KV cache \(vllm can from 0.2\d.0 on: .*\)$"
    with pytest.raises(UsageError, match=old):
        mp.plan(**(ASK | {"stack": "vllm@0.19.0", "kv_dtypes": kv_dtype}))


def test_integers_do_not_hold_latent_attention() -> None:
    latent = model_specs.load("deepseek-v3")
    for engine, kv_dtype in itertools.product(ENGINES, ("int8", "int4")):
        why = refusal(load(engine), ReplicaKind(model=latent, kv_dtype=kv_dtype))
        assert why.endswith("; no other engine known can")
    assert not refusal(load("vllm"), ReplicaKind(model=latent, kv_dtype="fp8"))


DRAFTS = {
    "eagle3": ("eagle3", "EAGLE3"), "ngram": ("ngram", "NGRAM"),
    "llama-3.2-1b": ("draft_model", "STANDALONE"),
}  # fmt: skip
PIPELINED = {("vllm", "eagle3")}
"""Drafts that an engine runs beside pipeline stages."""


@pytest.mark.parametrize("draft", list(DRAFTS))
@pytest.mark.parametrize("pp", [1, 2])
def test_drafts_are_started_or_refused(draft: str, pp: int) -> None:
    p = ideal(drafts=draft, pp=pp, gpus="l40s")
    assert p.best.draft == draft
    for one, name in zip(p.launch, DRAFTS[draft], strict=True):
        if pp > 1 and (one.engine, draft) not in PIPELINED:
            assert re.search(rf"cannot draft with {draft}.* beside pipeline stages", one.refused)
            continue
        words = words_of(one)
        if one.engine == "vllm":
            assert after(words, "--pipeline-parallel-size") == (str(pp) if pp > 1 else None)
            assert json.loads(after(words, "--speculative-config") or "")["method"] == name
        else:
            assert after(words, "--speculative-algorithm") == name
            assert "--enable-mixed-chunk" not in words
            assert any("no prompt chunks into decoding" in note for note in one.notes)


def test_a_stack_plans_no_draft_beside_stages_that_its_engine_cannot_start() -> None:
    p = mp.plan(**(ASK | {"stack": "sglang", "gpus": "l40s", "pp": 2, "drafts": ("none", "ngram")}))
    assert {c.draft for c in p.candidates} == {"none"}
    assert any("beside pipeline stages" in reason for reason in p.rejected)


def test_attention_data_parallelism_counts_ranks_as_the_engine_does() -> None:
    """vLLM's limits are a rank's, SGLang's the replica's; each draft that runs beside it."""
    p = ideal(
        model="deepseek-v3", gpus="h200", dtypes="fp8", tp=1, ep=8, attention_dp=8, drafts="mtp",
        requests_per_s=8.0,
    )  # fmt: skip
    vllm, sglang = map(words_of, p.launch)
    most = int(after(sglang, "--max-running-requests") or 0)
    assert int(after(vllm, "--max-num-seqs") or 0) == -(-most // 8)
    assert after(vllm, "--max-num-batched-tokens") == "1024"
    assert (after(vllm, "--data-parallel-size"), after(vllm, "--tensor-parallel-size")) == (
        "8",
        "1",
    )
    assert [after(sglang, f"--{name}-size") for name in ("tp", "dp", "ep")] == ["8", "8", "8"]
    assert after(sglang, "--speculative-algorithm") == "EAGLE"
    drafted = ReplicaKind(
        model=model_specs.load("llama-3.1-8b"), kv_dtype="bf16", attention_dp=2,
        draft=mp.predict(gpu="h100", draft="ngram", batch=1, ctx=512).resolved.draft,
    )  # fmt: skip
    assert "beside data-parallel attention" in refusal(load("sglang"), drafted)


def test_layouts_that_vllm_has_no_words_for_are_refused() -> None:
    moe, dense = model_specs.load("mixtral-8x7b"), model_specs.load("llama-3.1-8b")
    vllm, sglang = load("vllm"), load("sglang")
    for ep, able in ((1, True), (2, False), (8, True)):
        wanted = ReplicaKind(model=moe, kv_dtype="bf16", tp=8, ep=ep)
        assert bool(refusal(vllm, wanted)) is not able
        assert not refusal(sglang, wanted)
    assert "whole copies of a dense model" in refusal(
        vllm, ReplicaKind(model=dense, kv_dtype="bf16", attention_dp=2)
    )
    assert "only prefill" in refusal(
        load("vllm@0.10.0"), ReplicaKind(model=dense, kv_dtype="bf16", split=True)
    )


def test_replicas_over_several_hosts_are_started_on_each() -> None:
    p = ideal(model="llama-3.1-405b", gpus="h100", tp=8, pp=2)
    vllm, sglang = p.launch
    assert any("spans 2 hosts" in note for note in vllm.notes)
    assert after(words_of(sglang), "--nnodes") == "2"


def expanded(command: str) -> list[str]:
    """The words that bash hands over."""
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def all_after(words: list[str], option: str) -> list[str]:
    rest = words[words.index(option) + 1 :]
    return list(itertools.takewhile(lambda word: not word.startswith("--"), rest))


@cache
def split() -> Plan:
    return mp.plan(**(ASK | {
        "disaggregation": "only", "requests_per_s": 60.0, "prompt": 6000, "output": 40,
        "dtypes": "fp8", "kv_dtypes": "fp8", "drafts": "eagle3",
    }))  # fmt: skip


def test_both_kinds_of_replicas_and_their_router_are_started() -> None:
    p = split()
    many, few = p.best.prefill_replicas, p.best.replicas
    assert many > 4 >= few
    of = {(one.engine, one.role): one for one in p.launch}
    assert list(of) == [(e, r) for e in ("vllm", "sglang") for r in ("prefill", "decode", "router")]
    for role, kind in (("prefill", "kv_producer"), ("decode", "kv_consumer")):
        words = words_of(of["vllm", role])
        assert json.loads(after(words, "--kv-transfer-config") or "") == {
            "kv_connector": "NixlConnector", "kv_role": kind,
        }  # fmt: skip
        assert words[0].startswith("VLLM_NIXL_SIDE_CHANNEL_HOST=")
        assert after(words_of(of["sglang", role]), "--disaggregation-mode") == role
        drafts = {"vllm": "--speculative-config", "sglang": "--speculative-algorithm"}
        for engine, option in drafts.items():  # the draft's cache moves along
            assert after(words_of(of[engine, role]), option)
    assert f"start {many} of these" in of["vllm", "prefill"].notes
    proxy = expanded(of["vllm", "router"].command)
    assert all_after(proxy, "--prefiller-hosts") == [f"prefill-{n + 1}" for n in range(many)]
    assert all_after(proxy, "--prefiller-ports") == ["8000"] * many
    assert all_after(proxy, "--decoder-hosts") == [f"decode-{n + 1}" for n in range(few)]
    router = expanded(of["sglang", "router"].command)
    pairs = list(itertools.pairwise(router))
    assert [url for option, url in pairs if option == "--prefill"] == [
        f"http://prefill-{n + 1}:30000" for n in range(many)
    ]
    assert sum(option == "--decode" for option, _ in pairs) == few
    for engine in ("vllm", "sglang"):
        assert any("documentation" in note for note in of[engine, "router"].notes)
        assert not any("load balancer" in n for one in p.launch for n in one.notes)
