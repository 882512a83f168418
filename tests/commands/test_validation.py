"""`validate` and `calibrate --device` as a user meets them, on a model of 40,000 parameters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from magicplan import cli
from magicplan.commands import validation
from magicplan.validate import run_file
from magicplan.validate.measure import cells
from tests.validate import runs

STORED = Path(__file__).parents[1] / "validate" / "data" / "run.jsonl"
Done = tuple[int, str, str]


@pytest.fixture(name="call")
def _call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line in this process: (exit status, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words: str) -> Done:
        monkeypatch.setattr("sys.argv", ["magicplan", *words])
        with pytest.raises(SystemExit) as status:
            cli.main()
        told = capsys.readouterr()
        code = status.value.code
        return (code if isinstance(code, int) else 0), told.out, told.err

    return run


def small_model(folder: Path) -> str:
    pytest.importorskip("torch")
    config = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 128,
        "num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 64,
        "max_position_embeddings": 4096, "tie_word_embeddings": True,
        "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder / "config.json")


def test_a_tiny_run_from_start_to_end(call: Any, tmp_path: Path) -> None:
    model, out = small_model(tmp_path), tmp_path / "out"
    words = ("validate", "--device", "cpu", "--model", model, "--grid", "tiny", "--backend",
             "torch", "--out", str(out), "--tolerance", "1000000")  # fmt: skip
    status, text, told = call(*words, "--json")
    assert status == 0, told
    document = json.loads(text)
    assert document["schema"] == "magicplan.validation/1"
    assert document["exactness"]["greedy_equal"] is True
    assert document["summary"]["points"] == 6
    assert document["points"][0]["measured"]["tokens_per_s"] > 0
    assert {p["acceptance_origin"] for p in document["points"]} == {"simulated:0.8"}
    assert sorted(p.suffix for p in out.iterdir()) == [".html", ".jsonl", ".png", ".toml", ".toml"]

    # the same again measures nothing, and answers from the file
    before = (out / "run.jsonl").read_bytes()
    status, text, _ = call(*words)
    assert status == 0
    assert (out / "run.jsonl").read_bytes() == before
    assert "Verdict: pass. 6 of 6 judged points pass" in " ".join(text.split())

    # a report of the file judges as the run did, within the tolerance that it was begun with
    status, _, told = call("report", str(out / "run.jsonl"), "--html", str(tmp_path / "again.html"))
    assert status == 0, told
    again, own = (p.read_text("utf-8") for p in (tmp_path / "again.html", out / "report.html"))
    assert all("6 of 6 judged points pass" in page for page in (again, own))
    _, shown, _ = call("report", str(out / "run.jsonl"))
    assert "Verdict: pass. 6 of 6 judged points pass" in " ".join(shown.split())
    _, text, _ = call("validate", "--from", str(out / "run.jsonl"), "--json")
    assert json.loads(text)["summary"] == document["summary"]

    # the TOMLs are this device for the predicting side
    gpu, stack = sorted(out.glob("*.toml"), key=lambda p: len(p.name))
    status, text, _ = call("predict", "--gpu", str(gpu), "--stack", str(stack), "--model",
                           "llama-3.2-1b", "--json")  # fmt: skip
    assert status == 0
    assert json.loads(text)["baseline"]["step_seconds"] > 0


def test_ctrl_c_keeps_the_file_and_says_how_to_go_on(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = small_model(tmp_path), tmp_path / "out"
    words = ("validate", "--device", "cpu", "--model", model, "--grid", "tiny", "--backend",
             "torch", "--tolerance", "1000000")  # fmt: skip
    calls = []

    def stopping(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return cells.measure_cell(*given)

    monkeypatch.setattr("magicplan.validate.session.measure_cell", stopping)
    status, text, told = call(*words, "--out", str(out))
    assert (status, text) == (130, "")
    assert f"magicplan {' '.join(words)} --out {out}" in told
    kept = run_file.read(out / "run.jsonl")
    assert len(kept.points) == 1

    # killed in the middle of a line: the rest is measured, the prediction is the one from before
    with (out / "run.jsonl").open("ab") as file:
        file.write(b'{"kind": "point", "id": "b4-')
    status, text, _ = call(*words, "--out", str(out))
    assert status == 0
    found = run_file.read(out / "run.jsonl")
    assert len(found.points) == 6
    assert found.prediction == kept.prediction
    assert found.points[0] == kept.points[0]
    status, text, told = call(*words, "--out", str(out), "--seed", "1")
    assert (status, text) == (2, "")
    assert "--seed 0, not 1; choose another --out" in told


def test_calibrate_this_device(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, model = validation._asked, small_model(tmp_path)

    def small(*given: Any, **words: Any) -> Any:
        return asked(*given, **words, model=model, grid="tiny", backend="torch")

    monkeypatch.setattr(validation, "_asked", small)
    words = ("calibrate", "--device", "cpu", "--out", str(tmp_path / "mine"))
    status, text, told = call(*words, "--json")
    assert status == 0, told
    assert json.loads(text)["fit_percent"]["rows"] > 10
    assert len(list((tmp_path / "mine").glob("*.toml"))) == 2
    status, text, _ = call(*words)  # from the same file
    assert status == 0
    assert "attention over that of one query token" in text


def test_ctrl_c_in_a_calibration_keeps_the_file_too(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, model = validation._asked, small_model(tmp_path)

    def small(*given: Any, **words: Any) -> Any:
        return asked(*given, **words, model=model, grid="tiny", backend="torch")

    monkeypatch.setattr(validation, "_asked", small)
    measured: list[str] = []

    def stopping(bench: Any, clock: Any, at: Any, *others: Any) -> Any:
        if len(measured) == 2:
            measured.append("stop")
            raise KeyboardInterrupt
        measured.append(at.id)
        return cells.calibrate_at(bench, clock, at, *others)

    monkeypatch.setattr("magicplan.validate.session.calibrate_at", stopping)
    words = ("calibrate", "--device", "cpu", "--out", str(tmp_path / "mine"))
    status, text, told = call(*words)
    assert (status, text) == (130, "")
    assert f"continue with: magicplan {' '.join(words)}" in told
    kept = run_file.read(tmp_path / "mine" / "calibration.jsonl")
    assert [line["id"] for line in kept.calibration] == measured[:2]
    status, _, told = call(*words)
    assert status == 0, told
    assert len(measured) == len(set(measured)) == 5  # what was kept is not measured again


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("calibrate",), "either --kernels FOLDER or --device"),
        (("calibrate", "--kernels", "x", "--device", "cpu"), "either --kernels FOLDER or --device"),
        (("validate", "--tolerance", "0"), "--tolerance"),
        (("validate", "--tolerance", "nan"), "--tolerance"),
        (("validate", "--threads", "0"), "--threads"),
        (("validate", "--seed", "-1"), "--seed"),
        (("validate", "--device", "tpu"), "--device tpu: expected cpu or cuda"),
        (("validate", "--device", "cpu", "--grid", "quick-ish"), "quick, full or a CSV file"),
        (("validate", "--device", "cpu", "--gamma", "99"), "--gamma"),
        (("validate", "--device", "cpu", "--dtype", "fp8"), "bf16, fp16, fp32"),
        (("validate", "--device", "cpu", "--backend", "cudnn"), "unknown backend"),
        (("validate", "--device", "cpu", "--model", "gpt-5"), "unknown model"),
        (("validate", "--device", "cpu", "--model", "mixtral-8x7b"), "mixture-of-experts"),
        (("validate", "--device", "cpu", "--acceptance", "0.8"), "expected checkpoint, dialled"),
        (("validate", "--device", "cpu", "--acceptance", "simulated:2"), "rates from 0 to 1"),
        (("validate", "--device", "cpu", "--acceptance", "checkpoint"), "no folder with safeten"),
        (("validate", "--device", "cpu", "--draft", "eagle3"), "runs self, ngram or a smaller"),
        (("validate", "--device", "cpu", "--draft-kv", "quant:4"), "streaming:N and snapkv:N"),
        (("validate", "--device", "cpu", "--draft-kv", "streaming:4"), "N above its 4 sinks"),
        (("validate", "--device", "cpu", "--tree", "none.json"), "cannot be read"),
        (("validate", "--device", "cpu", "--model", "llama-3.1-405b"), "weights of llama-3.1-405b"),
        (("validate", "--from", "none.jsonl"), "cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(call: Any, words: tuple[str, ...], wanted: str) -> None:
    pytest.importorskip("torch")
    status, text, told = call(*words)
    assert (status, text) == (2, "")
    assert wanted in told
    assert told.count("\n") == 1


TINY = ("--device", "cpu", "--grid", "tiny", "--backend", "torch", "--tolerance", "1000000")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt"])
@pytest.mark.parametrize("option", ["--model", "--draft"])
def test_a_folder_of_pickles_is_refused(call: Any, tmp_path: Path, name: str, option: str) -> None:
    small_model(tmp_path)
    (tmp_path / name).write_bytes(b"never read")
    status, text, told = call("validate", *TINY, option, str(tmp_path))
    assert (status, text) == (2, "")
    assert f"holds only pickle files ({name})" in told
    assert "convert them to safetensors" in told


def test_a_folder_with_a_config_alone_runs_random_weights_and_says_so(
    call: Any, tmp_path: Path
) -> None:
    small_model(tmp_path)
    words = ("validate", *TINY, "--model", str(tmp_path))
    status, text, told = call(*words, "--acceptance", "checkpoint")
    assert (status, text) == (2, "")
    assert "no folder with safetensors, so its weights would be random" in told
    status, text, told = call(*words, "--seed", "7")
    assert status == 0, told
    assert "(random weights), draft" in " ".join(text.split())
    assert "weights: random weights, seed 7" in text


@pytest.mark.parametrize(
    ("free", "wanted"),
    [
        (2e10, "the largest preset that fits with its caches is --model qwen2.5-7b"),
        (1e7, "no preset fits; --model model-b is smaller than all of them"),
    ],
)
def test_too_large_weights_name_the_largest_preset_that_fits(
    call: Any, monkeypatch: pytest.MonkeyPatch, free: float, wanted: str
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("magicplan.validate.prepare.memory_bytes", lambda device: free)
    status, text, told = call("validate", *TINY, "--model", "llama-3.1-70b", "--dtype", "bf16")
    assert (status, text) == (2, "")
    assert wanted in told
    assert told.count("\n") == 1


def test_memory_that_runs_out_while_calibrating_is_one_sentence(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(tmp_path)
    monkeypatch.setattr("magicplan.validate.measure.cells.memory_bytes", lambda device: 1e6)
    status, text, told = call("validate", *TINY, "--model", model, "--out", str(tmp_path / "out"))
    assert (status, text) == (2, "")
    assert "calibration at batch 1, 64 tokens needs" in told
    assert "no batch fits here" in told


def checkpoint(folder: Path) -> str:
    """A random checkpoint of the small model, with a tokenizer of single characters."""
    pytest.importorskip("torch")
    tokenizers = pytest.importorskip("tokenizers", reason="writes a tokenizer")
    from safetensors.torch import save_file

    small_model(folder)
    words = {"[UNK]": 0} | {chr(97 + i): i + 1 for i in range(26)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    save_file(random_tensors(), folder / "model.safetensors")
    return str(folder)


def random_tensors() -> dict[str, Any]:
    import torch

    made = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (128, 64), "model.norm.weight": (64,),
    }  # fmt: skip
    for layer in range(2):
        at = f"model.layers.{layer}."
        shapes |= {
            f"{at}{name}.weight": (64, 64)
            for name in (
                *(f"self_attn.{p}_proj" for p in "qkvo"),
                *(f"mlp.{p}_proj" for p in ("gate", "up", "down")),
            )
        }
        shapes |= {f"{at}{n}_layernorm.weight": (64,) for n in ("input", "post_attention")}
    return {name: 0.1 * torch.randn(shape, generator=made) for name, shape in shapes.items()}


def test_a_checkpoint_reads_the_text_it_is_given(call: Any, tmp_path: Path) -> None:
    model, text_file = checkpoint(tmp_path), tmp_path / "prompts.txt"
    text_file.write_text("a b c d e f g h " * 600)
    words = ("validate", *TINY, "--model", model, "--text", str(text_file), "--draft-kv",
             "snapkv:64", "--dtype", "fp32")  # fmt: skip
    status, text, told = call(*words)
    assert status == 0, told
    told_all = "".join(text.split())  # paths are broken over lines
    assert f"therealacceptpathon{text_file}" in told_all
    assert f"weights:thecheckpoint{model}" in told_all
    assert "randomweights" not in told_all
    assert "snapkvchain,snapkvtree" in told_all

    text_file.write_text("a b c")
    status, text, told = call(*words)
    assert (status, text) == (2, "")
    assert "prompts.txt: 3 tokens, 4 prompts of 1025 need 4100" in told
    status, text, told = call(*words, "--acceptance", "simulated:0.8")
    assert (status, text) == (2, "")
    assert "only --acceptance checkpoint reads a text" in told


def test_no_gpu_and_no_torch_are_status_3(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        status, text, told = call("validate", "--device", "cuda")
        assert (status, text) == (3, "")
        assert "finds no CUDA device" in told
    monkeypatch.setattr("magicplan.commands.validation.find_spec", lambda name: None)
    for words in (("validate",), ("calibrate", "--device", "cpu")):
        status, text, told = call(*words)
        assert (status, text) == (3, "")
        assert "pip install 'magicplan[validate]'" in told


def test_a_stored_run_is_compared_without_torch(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magicplan.commands.validation.find_spec", lambda name: None)
    status, text, _ = call("validate", "--from", str(STORED), "--tolerance", "100")
    assert status == 0
    assert "exactness: greedy output with drafts equals plain decoding" in text
    assert max(map(len, text.splitlines())) <= 100
    status, text, _ = call("validate", "--from", str(STORED), "--tolerance", "0.0001", "--json")
    assert status == 1
    document = json.loads(text)
    assert document["summary"]["verdict"] == "fail"
    assert {p["verdict"] for p in document["points"]} <= {"fail", "skipped"}


def test_a_stored_run_as_html(call: Any, tmp_path: Path) -> None:
    """A device whose name is markup stays text; the page needs nothing from outside."""
    stored = tmp_path / "run.jsonl"
    shutil.copy(STORED, stored)
    lines = stored.read_text().splitlines()
    header = json.loads(lines[0])
    header["device"]["name"] = runs.DEVICE["name"]
    stored.write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
    call("validate", "--from", str(stored), "--out", str(tmp_path / "out"))
    page = (tmp_path / "out" / "report.html").read_text().split("<script>")[0]
    assert "Test CPU &lt;b&gt;" in page
    assert "Test CPU <b>" not in page
    assert "default-src 'none'" in page
    assert (tmp_path / "out" / "predicted-against-measured.png").read_bytes()[:4] == b"\x89PNG"


def test_a_cut_stored_run_counts_what_is_whole(call: Any, tmp_path: Path) -> None:
    cut = tmp_path / "run.jsonl"
    cut.write_bytes(STORED.read_bytes()[:-40])
    _, text, _ = call("validate", "--from", str(cut), "--tolerance", "100", "--json")
    points = json.loads(text)["points"]
    assert points[-1]["verdict"] == "skipped"
    assert "the run was stopped before this point" in points[-1]["reason"]
    broken = STORED.read_text().splitlines()
    broken[3] = broken[3][:50]
    cut.write_text("\n".join(broken) + "\n")
    status, text, told = call("validate", "--from", str(cut))
    assert (status, text) == (2, "")
    assert "line 4: is not JSON" in told
