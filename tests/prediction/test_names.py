"""What the names in a question stand for, as its answer says."""

from __future__ import annotations

import magicplan as mp


def test_an_answer_says_what_its_names_were_taken_for() -> None:
    found = mp.predict(
        gpu="nvidia-h100-80gb", model="RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic",
        stack="vLLM", dtype="FP8", draft="none",
    ).to_dict()  # fmt: skip
    assert found["accelerator"]["name"] == "h100-sxm"
    assert found["model"]["name"] == "llama-3.1-8b"
    assert (found["deployment"]["stack"], found["deployment"]["dtype"]) == ("vllm", "fp8")
    said = " ".join(found["assumptions"])
    assert "nvidia-h100-80gb read as h100-sxm (documented default; also h100-pcie)" in said
    assert "FP8-dynamic is taken to have the shape of llama-3.1-8b" in said


def test_spellings_change_no_number() -> None:
    plain = mp.predict(gpu="h100-sxm", model="llama-3.1-8b", dtype="bf16", draft="none")
    other = mp.predict(
        gpu="NVIDIA H100 80GB HBM3", model="meta-llama/Llama-3.1-8B-Instruct", dtype="bfloat16",
        stack="vLLM", draft="none",
    )  # fmt: skip
    assert plain.to_dict()["baseline"] == other.to_dict()["baseline"]
