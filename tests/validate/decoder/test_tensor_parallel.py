"""Two gloo ranks under torchrun generate what one process generates, and leave in peace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import magicplan
from magicplan.errors import UsageError
from magicplan.validate.decoder.tensor_parallel import ALONE, all_reduce_seconds, joined
from magicplan.validate.decoder.weights import Shard
from magicplan.validate.run_file import read
from tests.validate.decoder import ranks, tiny

ROOT = Path(magicplan.__file__).parents[1]


def test_two_ranks_generate_what_one_process_does(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "tests.validate.decoder.ranks", str(tmp_path),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone = ranks.generated(ALONE)
    for rank in (0, 1):
        content = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert content["ranks"] == 2
        assert content["tokens"] == alone
        assert all(0 < seconds < 60 for seconds in content["all_reduce_seconds"])
    assert alone["chain"] == alone["tree"] == alone["snapkv"] == alone["model"] == alone["decode"]


def test_ranks_validate_together(tmp_path: Path) -> None:
    """One file, one report, sums over ranks measured and part of what is predicted."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "magicplan", "validate", "--grid", "tiny", "--backend", "torch", "--dtype", "fp32",
        "--out", str(tmp_path),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300, check=False
    )
    assert done.stdout.count("Verdict:") == 1, done.stderr[-3000:]
    assert "all-reduce over 2 ranks, 8 sizes" in " ".join(done.stdout.split())
    run = read(tmp_path / "run.jsonl")
    assert run.header["settings"]["ranks"] == 2
    assert run.exactness is not None
    assert run.exactness["drafts"]["2 ranks"]
    assert run.prediction is not None
    content = run.prediction["content"]
    assert len(content["all_reduce"]) == len(run.ceilings["all_reduce"]) == 8  # type: ignore[index]
    assert content["calibration"]["collective"]["two_shot_seconds"] > 0
    assert {point["id"] for point in content["points"]} == {line["id"] for line in run.points}


def test_alone_nothing_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(torch.device("cpu")) as found:
        assert found is ALONE
    logits = torch.tensor([[0.0, 2.0, 2.0]])
    assert found.choose(logits).tolist() == [1]
    assert found.whole(logits) is logits
    assert all_reduce_seconds(found, [8], device=torch.device("cpu"), dtype=torch.float32) == [0.0]


def test_a_half_started_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="torchrun"), joined(torch.device("cpu")):
        pass


@pytest.mark.parametrize(
    ("count", "changes", "what"),
    [(3, {}, "KV heads 2"), (2, {"ffn": 65}, "feed-forward width 65"), (2, {}, "vocabulary 61")],
)
def test_uneven_parts_are_refused(count: int, changes: dict[str, int], what: str) -> None:
    with pytest.raises(UsageError, match=f"{what} does not divide over {count} ranks"):
        Shard(shape=tiny.config(**changes).shape, rank=0, ranks=count)
