"""Published rows become predictions: what is used, what is not and why, and the account."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from magicplan.replay.account import as_dict
from magicplan.replay.outcomes import Outcome, Summary, regrets, replay, sign_accuracy
from magicplan.replay.published import Published, read
from magicplan.report.document.page import Bullets, Grid
from magicplan.report.document.record import Record
from magicplan.report.replay import page, replay_chart

ROWS = Path(__file__).parents[1] / "data" / "published.csv"
"""Made up, in the layout of MagicDec's tables."""


@pytest.fixture(scope="module")
def found() -> Published:
    return read([ROWS])


@pytest.fixture(scope="module")
def outcomes(found: Published) -> list[Outcome]:
    done, skipped = replay(found.cases)
    assert not skipped
    return done


def test_rows_that_cannot_be_used_say_why(found: Published) -> None:
    reasons = {s.id: s.reason for s in found.skipped}
    assert reasons == {
        "r5": "GPU 'A900' has no datasheet here",
        "r6": "accept length 4.5 is not between 1 and gamma + 1 = 4",
        "r7": "the row is theory, not measured",
    }


def test_a_row_is_asked_as_it_states(found: Published) -> None:
    case = found.cases[1]
    assert case.ask["stack"] == "magicdec"
    assert (case.ask["gpus"], case.ask["tp"], case.ask["gamma"]) == (8, 8, 3)
    assert case.ask["draft_kv"] == "streaming:512"
    alpha = float(case.ask["acceptance"])
    assert sum(alpha**k for k in range(4)) == pytest.approx(2.9, abs=1e-4)


def test_impossible_rows_are_those_below_the_floor(outcomes: list[Outcome]) -> None:
    assert [(o.case.id, o.kind) for o in outcomes if o.impossible] == [("r4", "step")]


def test_a_speedup_beyond_the_naive_roofline_is_impossible(outcomes: list[Outcome]) -> None:
    for o in outcomes:
        if o.kind == "speedup":
            assert not replace(o, measured=o.naive).impossible
            assert replace(o, measured=1.01 * o.naive).impossible


def test_rows_of_the_kind_that_constants_were_fitted_on_say_so(found: Published) -> None:
    case = found.cases[1]
    for asked, fitted in (
        ({}, True),
        ({"gpu": "h200"}, False),  # MagicDec's constants there are another GPU's
        ({"stack": "ideal"}, False),
        ({"stack": "vllm"}, False),
    ):
        done, _ = replay([case], asked)
        assert {o.fitted for o in done} == {fitted}, asked
    document = as_dict(done, [])
    assert [row["fitted"] for row in document["rows"]] == [False, False]
    both = as_dict([*done, replace(done[0], fitted=True)], [])
    shown = page(Record(data=both, file="replay.json"))
    errors, worst = (s.blocks[0] for s in shown.sections if s.title in ("Errors", "Worst rows"))
    assert isinstance(errors, Grid)
    assert {"all fitted", "all predicted"} <= {row[0] for row in errors.rows}
    assert isinstance(worst, Bullets)
    said = " ".join(worst.lines)
    assert said.count("by constants fitted on such rows") == 1
    assert said.count(" predicted, ") == len(done)


def test_summaries_never_mix_fitted_and_predicted_rows(found: Published) -> None:
    done, _ = replay(found.cases)
    both = [*done, *(replace(o, fitted=not o.fitted) for o in done)]
    document = as_dict(both, [])
    assert {s["fitted"] for s in document["summaries"]} == {True, False}
    for summary in document["summaries"]:
        like = [
            row for row in document["rows"]
            if all(row[key] == summary[key] for key in ("source", "kind", "fitted"))
        ]  # fmt: skip
        assert summary["rows"] == len(like)


def test_the_page_says_which_rows_were_fitted(found: Published) -> None:
    done, _ = replay(found.cases)
    document = as_dict([*done, *(replace(o, fitted=not o.fitted) for o in done)], [])
    shown = page(Record(data=document, file="replay.json"))
    assert "Predicted: " in shown.verdict
    assert "fitted on such rows, no test: " in shown.verdict
    grids = [b for s in shown.sections for b in s.blocks if isinstance(b, Grid)]
    assert len(grids) == 1
    for grid in grids:
        at = grid.columns.index("basis")
        assert {row[at] for row in grid.rows} == {"fitted", "predicted"}
    names = [series.name for series in replay_chart(shown_rows(document), "speedup").series]
    assert any(name.endswith("(fitted)") for name in names)


def shown_rows(document: dict[str, Any]) -> list[Record]:
    found = Record(data=document, file="replay.json").records("rows")
    return [row for row in found if row.text("kind") == "speedup"]


@pytest.mark.parametrize(
    ("engine", "gpu", "fitted"),
    [
        ("vLLM 0.12", "H100", True),
        ("vLLM 0.12", "RTX 4090", True),  # of a family that the fit covers
        ("vLLM 0.12", "MI300X", True),
        ("llama.cpp", "H100", False),
    ],
)
def test_plain_rows_are_fitted_where_their_engine_was(
    tmp_path: Path, engine: str, gpu: str, fitted: bool
) -> None:
    path = tmp_path / "plain.csv"
    path.write_text(
        "id,source,engine_version,gpu,n_gpu,parallelism,model,weight_dtype,kv_dtype,"
        "batch_or_concurrency,input_len,output_len,metric,value,unit,grade\n"
        f"p1,s,{engine},{gpu},1,TP1,Llama-3.1-8B,bf16,bf16,1,1000,128,median ITL,9,ms,A\n"
    )
    (outcome,), _ = replay(read([path]).cases)
    assert outcome.fitted == fitted


def test_the_naive_roofline_stands_beside(outcomes: list[Outcome]) -> None:
    for o in outcomes:
        if o.kind == "step":
            assert o.naive < o.low <= o.predicted <= o.high
    good = [o for o in outcomes if o.kind == "step" and not o.impossible]
    summary = Summary.of(good)
    assert summary.mape < summary.naive_mape
    assert summary.naive_bias < 0


def test_signs_and_regret(outcomes: list[Outcome]) -> None:
    share, count = sign_accuracy(outcomes)
    assert count == 4
    assert share in (75.0, 100.0)
    (lost,) = regrets(outcomes).values()  # three lengths at 32k; the one at 4k is no sweep
    assert lost in (0.0, pytest.approx(100 * (1 - 1.10 / 1.25)), pytest.approx(16.0))


def test_files_of_other_layouts_and_empty_ones_do_not_stop_the_others(tmp_path: Path) -> None:
    other, empty, header = (tmp_path / f"{name}.csv" for name in ("other", "empty", "header"))
    other.write_text("id,b\nx1,2\nx2,3\n")
    empty.write_text("")
    header.write_text(ROWS.read_text().splitlines()[0] + "\n")
    found = read([other, empty, header, ROWS])
    assert found.cases == read([ROWS]).cases
    reasons = {s.id: s.reason for s in found.skipped}
    assert "other.csv has none of the known layouts" in reasons["x1"]
    assert reasons["x2"] == reasons["x1"]
    assert reasons["empty.csv"] == reasons["header.csv"] == "holds no row"


def test_a_repeated_id_counts_once(tmp_path: Path) -> None:
    header, first, second, *_ = ROWS.read_text().splitlines()
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([header, first, second.replace("r2,", "r1,"), second]))
    for files, again in (([path], ["r1"]), ([path, path], ["r1", "r1", "r1", "r2"])):
        found = read(files)
        assert [case.id for case in found.cases] == ["r1", "r2"]
        assert found.cases[0].speedup == 1.10  # the first of the two
        assert [s.id for s in found.skipped] == again
        assert all("has the same id" in s.reason for s in found.skipped)


@pytest.mark.parametrize(
    ("column", "text", "reason"),
    [
        ("speedup", "fast", "speedup 'fast' is not a number"),
        ("speedup", "nan", "speedup 'nan' is not a positive number"),
        ("speedup", "-1.2", "speedup '-1.2' is not a positive number"),
        ("omega", "many", "accept length omega 'many' is not a number"),
        ("omega", "nan", "accept length omega 'nan' is not a positive number"),
        ("alpha", "high", "acceptance rate alpha 'high' is not a number"),
        ("gamma", "", "gamma is not stated"),
        ("gamma", "2.5", "gamma '2.5' is not a whole number"),
        ("prefix_len", "long", "prefix_len 'long' is not a number"),
        ("prefix_len", "", "prefix_len is not stated"),
        ("t_target_ms", "slow", "t_target_ms 'slow' is not a number"),
        ("kv_budget", "some", "budget 'some' is not a number"),
    ],
)
def test_a_cell_that_cannot_be_read_is_a_reason(
    tmp_path: Path, column: str, text: str, reason: str
) -> None:
    header, first, second, *_ = ROWS.read_text().splitlines()
    cells = dict(zip(header.split(","), first.split(","), strict=True)) | {column: text}
    if column == "alpha":
        cells["omega"] = ""
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([header, ",".join(cells.values()), second]))
    found = read([path])
    assert [(s.id, s.reason) for s in found.skipped] == [("r1", reason)]
    assert [case.id for case in found.cases] == ["r2"]


def test_a_missing_column_and_a_row_without_a_result_are_reasons(tmp_path: Path) -> None:
    header, first, *_ = ROWS.read_text().splitlines()
    path = tmp_path / "rows.csv"
    path.write_text(header.replace("kv_budget", "budget") + "\n" + first)
    assert [s.reason for s in read([path]).skipped] == ["rows.csv has no column kv_budget"]
    path.write_text(header + "\n" + first.replace("16.0,1.10", ","))
    done, skipped = replay(read([path]).cases)
    assert not done
    assert "neither a step time nor a speedup" in skipped[0].reason


def test_a_serving_row_with_text_for_a_time_or_a_length_is_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "serving.csv"
    path.write_text(
        SERVING
        + "s1,vllm,0.12.0,Qwen/Qwen3-32B,h100_sxm,,128,512,16,2,1,,,soon,20\n"
        + "s2,vllm,0.12.0,Qwen/Qwen3-32B,h100_sxm,,ShareGPT,512,16,2,1,,,100,20\n"
        + "s3,vllm,0.12.0,Qwen/Qwen3-32B,h100_sxm,,128,512,16,2,1,,,,20\n"
    )
    found = read([path])
    assert [(s.id, s.reason) for s in found.skipped] == [
        ("s1", "ttft_ms 'soon' is not a number"),
        ("s2", "input_tokens 'ShareGPT' is not a number"),
    ]
    assert [case.id for case in found.cases] == ["s3"]


SERVING = (
    "id,backend,backend_version,model_path,system,precision,input_tokens,output_tokens,batch_size,"
    "tp_size,pp_size,attention_dp_size,moe_ep_size,ttft_ms,tpot_ms\n"
)


def test_load_tests_carry_their_neighbours_prompts(tmp_path: Path) -> None:
    path = tmp_path / "serving.csv"
    row = "s1,vllm,0.12.0,Qwen/Qwen3-32B,h100_sxm,,{},512,16,2,1,,,100,20\n"
    seen: dict[str, list[float]] = {"tpot": [], "ttft": []}
    for prompt in ("128", "8192"):
        path.write_text(SERVING + row.format(prompt))
        (case,) = read([path]).cases
        assert case.prefill_tokens == 16 * int(prompt) / 512
        found, _ = replay([case])
        assert [o.kind for o in found] == ["tpot", "ttft"]
        for o in found:
            assert o.naive < o.predicted
            assert o.low < o.predicted < o.high
            assert not o.impossible
            seen[o.kind].append(o.predicted)
    assert seen["tpot"][1] > 1.5 * seen["tpot"][0]
    assert seen["ttft"][1] > 5 * seen["ttft"][0]


def test_a_load_test_that_predict_would_refuse_is_skipped_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "serving.csv"
    rows = (
        "s1,vllm,0.12.0,Qwen/Qwen3-32B,h100_sxm,,128,512,16,3,1,,,100,20\n",
        "s2,vllm,0.12.0,openai/gpt-oss-120b,h100_sxm,fp4,128,512,16,4,1,,8,100,20\n",
    )
    path.write_text(SERVING + "".join(rows))  # fmt: skip
    found, skipped = replay(read([path]).cases)
    assert not found
    assert "tp 3 does not split the 64 query" in skipped[0].reason
    assert "--ep 8 does not divide the 4 GPUs of --tp 4" in skipped[1].reason


BENCH = (
    "id,source,model,gpu,n_gpu,engine,engine_version,command,prompt_tokens,output_tokens,requests,"
    "request_per_s,ttft_mean_ms,tpot_mean_ms,itl_mean_ms\n"
)


def test_a_whole_output_of_a_load_generator_is_four_outcomes(tmp_path: Path) -> None:
    path = tmp_path / "bench.csv"
    row = "b{},lab,qwen3-32b,h100,1,vllm,0.11.0,vllm serve Qwen/Qwen3-32B-FP8 {},256,200,300,9,"
    lines = (row.format(1, "-tp 2") + "900,40,39\n", row.format(2, "--enforce-eager") + "9,4,3\n")
    path.write_text(BENCH + "".join(lines))
    read_rows = read([path])
    assert [s.reason for s in read_rows.skipped] == [
        "option --enforce-eager of the server's command is not modelled"
    ]
    (case,) = read_rows.cases
    assert (case.ask["tp"], case.ask["dtype"], case.run.requests) == (2, "fp8", 300)  # type: ignore[union-attr]
    found, _ = replay([case])
    assert [(o.kind, o.measured) for o in found] == [
        ("tpot", 0.04), ("ttft", 0.9), ("itl", 0.039), ("rate", 9.0),
    ]  # fmt: skip
    record = as_dict(found, [])["rows"][3]
    assert record["low"] < record["predicted"] < record["high"]


def test_plain_rows(tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    path.write_text(
        "id,source,engine_version,gpu,n_gpu,parallelism,model,weight_dtype,kv_dtype,"
        "batch_or_concurrency,input_len,output_len,metric,value,unit,grade\n"
        "p1,s,vLLM,A100-80GB-SXM(330W),1,TP1,Llama-2-7B,bf16,bf16,4,5,~200,decode throughput,400,"
        "tok/s,A\n"
        "p2,s,vLLM,H100,1,TP1,Llama-3.1-8B,bf16,fp8,1,8K,128,median ITL,7,ms,B\n"
        "p3,s,vLLM,H100,1,TP1,Llama-3.1-8B,bf16,fp8,1,8K,128,ITL intercept,7,ms,A\n"
        "p4,s,vLLM,H100,1,TP1,Llama-3.1-8B,Q5_K,fp8,1,8K,128,median ITL,7,ms,B\n"
    )
    found = read([path])
    first, second = found.cases
    assert first.step_seconds == pytest.approx(0.01)
    assert (first.ask["gpu"], first.ask["ctx"]) == ("a100-sxm-80gb", 105)
    assert (second.ask["ctx"], second.ask["kv_dtype"]) == (8192 + 64, "fp8")
    assert [s.id for s in found.skipped] == ["p3", "p4"]


PLAIN = (
    "id,source,engine_version,gpu,n_gpu,parallelism,model,weight_dtype,kv_dtype,"
    "batch_or_concurrency,input_len,output_len,metric,value,unit\n"
)


def stated(tmp_path: Path, **changes: str) -> Published:
    row = {
        "id": "p", "source": "s", "engine_version": "vLLM", "gpu": "H100", "n_gpu": "1",
        "parallelism": "TP1", "model": "Llama-3.1-8B", "weight_dtype": "bf16", "kv_dtype": "",
        "batch": "1", "input_len": "128", "output_len": "", "metric": "TPOT", "value": "9",
        "unit": "ms",
    } | changes  # fmt: skip
    path = tmp_path / "plain.csv"
    path.write_text(PLAIN + ",".join(row.values()) + "\n")
    return read([path])


@pytest.mark.parametrize(
    ("column", "text", "key", "value"),
    [
        ("input_len", "~20000 (+-15%)", "ctx", 20000),
        ("input_len", "8K", "ctx", 8192),
        ("input_len", "MT-Bench", "ctx", 128),
        ("parallelism", "TP8 + EP", "ep", 8),
        ("parallelism", "TP8 + attention DP", "attention_dp", 8),
        ("parallelism", "not stated (1 GPU for 8B is consistent)", "gpus", 1),
        ("kv_dtype", "fp8 (all layers)", "kv_dtype", "fp8"),
        ("kv_dtype", "not stated", "kv_dtype", None),
    ],
)
def test_stated_values_are_understood(
    tmp_path: Path, column: str, text: str, key: str, value: Any
) -> None:
    (case,) = stated(tmp_path, **{column: text}).cases
    assert case.ask[key] == value


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"input_len": "256..125k"}, "length '256..125k' is not a number of tokens"),
        ({"parallelism": "EP128 (16 nodes)"}, "does not say on how many GPUs"),
        ({"parallelism": "TP8 + PD"}, "does not say on how many GPUs"),
        (
            {"parallelism": "not stated (1 GPU for 8B is consistent)", "model": "Llama-3.1-70B"},
            "does not say on how many GPUs",
        ),
        ({"kv_dtype": "KVarN 4/2-bit"}, "KV cache 'KVarN 4/2-bit' is not modelled"),
        ({"kv_dtype": "fp8 (skip SW layers)"}, "is not modelled"),
    ],
)
def test_a_stated_value_that_is_not_understood_skips_its_row(
    tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    found = stated(tmp_path, **changes)
    assert not found.cases
    assert reason in found.skipped[0].reason
