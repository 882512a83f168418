"""Command lines of servers: degrees and limits as their engines take them."""

from __future__ import annotations

import pytest

from magicplan import hardware_specs
from magicplan.errors import UsageError
from magicplan.replay.launch_lines import LaunchLine, launched


def on(command: str, stack: str = "vllm", gpu: str = "h100") -> LaunchLine:
    return launched(command, stack, hardware_specs.resolve(gpu)[0])


def test_vllm_takes_its_checkpoint_and_its_degrees() -> None:
    found = on("vllm serve org/M-FP8 -tp 4 --max-num-batched-tokens=16384 --async-scheduling")
    assert (found.model, found.tp, found.ep, found.replicas) == ("org/M-FP8", 4, 1, 1)
    assert (found.batched_tokens, found.max_sequences) == (16384, 1024)


def test_vllm_is_smaller_on_an_a100() -> None:
    found = on("vllm serve org/M", gpu="a100")
    assert (found.batched_tokens, found.max_sequences) == (2048, 256)


def test_data_parallel_attention_is_spelled_in_three_ways() -> None:
    vllm = on("vllm serve m -dp 8 --enable-expert-parallel")
    assert (vllm.tp, vllm.attention_dp, vllm.ep, vllm.replicas) == (1, 8, 8, 1)
    line = "python3 -m sglang.launch_server --model-path m --tp-size 8 --dp-size 4 --ep-size 8"
    sglang = on(f"{line} --enable-dp-attention", "sglang")
    assert (sglang.tp, sglang.attention_dp, sglang.ep) == (2, 4, 8)
    trtllm = on("trtllm-serve m --tp_size 8 --ep_size 8 --enable_attention_dp", "trtllm")
    assert (trtllm.tp, trtllm.attention_dp, trtllm.ep) == (1, 8, 8)


def test_data_parallelism_alone_means_replicas() -> None:
    assert on("vllm serve m -dp 2").replicas == 2


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("vllm serve m --speculative-config x", "option --speculative-config"),
        ("vllm serve m -tp four", "-tp 'four' of the server's command is not a number"),
        ("vllm serve m -tp", "-tp '' of the server's command is not a number"),
        ("vllm serve m --enforce-eager", "option --enforce-eager"),
    ],
)
def test_what_is_not_understood_is_refused(command: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        on(command)
