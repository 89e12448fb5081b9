"""Every section of ``make gpu`` on a GPU that is not there: small shapes, the kernels in the interpreter.

A Python error in them would cost the minutes of a GPU.
"""

import json
import operator
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import baselines, family, models, operators, parity, processes, report, timing
from benchmarks.gpu.records import Records, environment
from fake_gpu import pretend

from involution import Involution2d, backends
from involution.records import read

pytestmark = pytest.mark.usefixtures("one_tile")


def small_net():
    involution = Involution2d(16, kernel_size=3, backend="reference")
    return nn.Sequential(nn.Conv2d(3, 16, 3), involution, nn.Flatten(), nn.Linear(256, 1000))


def once(function):
    function()
    return timing.measure(lambda: None, milliseconds=0)


@pytest.fixture
def gpu(monkeypatch):
    """Stand for a GPU, and let everything that is measured be small and quick."""
    first = (torch.bfloat16, 3)
    for module, name, value in (
        (operators, "SHAPES", ((16, 5),)),
        (operators, "TAPS", 3),
        (operators, "_WINDOW", backends.Window((3, 3), (1, 1), (1, 1), (1, 1))),
        (operators, "FIRST", first),
        (operators, "PLAN", (first,)),
        (operators, "measure", once),
        (family, "measure", lambda function, milliseconds: once(function)),
        (operators, "_COPY_BYTES", 1 << 16),
        (timing, "_FLUSH_BYTES", 1 << 16),
        (models, "throughput", partial(timing.throughput, seconds=0, warm_ups=1)),
        (models, "_SIZE", 6),
        (models, "nets", lambda: {"rednet50": small_net, "resnet50": small_net}),
        (torch, "compile", lambda function, **options: function),
        (torch.compiler, "reset", lambda: None),
        (command, "spread", lambda tasks, seconds: ((task, task[0](task[1])) for task in tasks)),
    ):
        monkeypatch.setattr(module, name, value)
    items = list(parity.work())
    monkeypatch.setattr(parity, "work", lambda: [items[0], items[len(items) // 2]])
    mode = pretend(monkeypatch)
    with mode:
        yield


def test_every_section(gpu, tmp_path, monkeypatch):
    records = Records(tmp_path, 5)
    records.section = "environment"
    records.add(**environment())
    with open(tmp_path / "tests.txt", "w") as file:
        process = command.begin_tests(file)
        todo = command.sections(process, tmp_path / "tests.txt")
        command.run(records, todo)
    # Where all tests are skipped, as here, unittest says so from Python 3.12 on.
    assert command.finish(records) == (sys.version_info >= (3, 12))
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    sections = {line["section"] for line in lines}
    assert sections == {"environment", *(name for name, *_ in todo)}
    assert not [line for line in lines if "stopped" in line or line.get("passed") is False]
    # There is nothing to compile CUDA C++ for.
    failed = [line for line in lines if line["section"] != "tests" and line.get("failed")]
    assert {line.get("name") for line in failed} == {"plain CUDA, one thread per output"}, failed
    assert {"compiled": 2} in [{"compiled": line.get("compiled")} for line in lines]
    timed = {line["name"] for line in lines if "median_us" in line}
    assert timed >= {
        "copy of 1 GiB",
        "taps forward, weights together",
        "strips kernel gradient, pixels together",
        "fused forward",
        "convolution 3x3",
        "depthwise convolution 7x7",
        "unfold",
        "shifts, compiled",
        "unfold, compiled",
    }
    nets = {(line["step"], line["mode"]) for line in lines if "images_per_s" in line}
    assert nets == {(step, mode) for step in ("inference", "training") for mode in ("eager", "graph", "compiled")}
    layers = {line["layer"]: line for line in lines if "forward_us" in line}
    assert {"bottleneck", "sasa", "san_pairwise", "outlook", "axial attention"} < set(layers)
    assert read(tmp_path / "gpu-nvidia-nothing-1.json")["results"] == lines
    summary = (tmp_path / "summary.md").read_text()
    assert "**Stage 1, batch 3, bfloat16**" in summary and "| outlook | 1 | 3 |" in summary
    assert "| rednet50 | training | graph | 64 |" in summary


def test_a_section_that_fails_or_takes_too_long_keeps_the_others(tmp_path, monkeypatch):
    def late(records, seconds):
        time.sleep(30)

    def wrong(records, seconds):
        raise ValueError("this went wrong")

    records = Records(tmp_path, 0.001)
    begin = time.monotonic()
    monkeypatch.setattr(records, "left", lambda: 1.0 if time.monotonic() < begin + 1 else -4.0)
    command.run(records, [("wrong", wrong, 1), ("late", late, 1), ("behind", wrong, 1)])
    assert time.monotonic() - begin < 20
    words = [row.get("failed", row.get("stopped")) for row in records.rows]
    assert "this went wrong" in words[0] and "TimeoutError: the time was over" in words[1]
    assert words[2] == "the time was over"


def test_work_is_spread_over_processes():
    tasks = [(operator.neg, 3), (operator.inv, "a"), (operator.neg, 5)]
    results = {item: result for (_, item), result in processes.spread(tasks, 60)}
    assert results[3] == -3 and results[5] == -5 and isinstance(results["a"], TypeError)
    with pytest.raises(TimeoutError):
        list(processes.spread([(time.sleep, 60)], 0.5))


def test_the_nets_are_there():
    pytest.importorskip("timm")
    assert list(models.nets()) == ["rednet50", "resnet50"]
    assert any(isinstance(module, Involution2d) for module in models.nets()["rednet50"]().modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_plain_kernel_compiles(dtype):
    compile_ = pytest.importorskip("torch.cuda._utils")._nvrtc_compile
    x, h = torch.empty(2, 32, 5, 6, dtype=dtype), torch.empty(2, 2, 3, 3, 5, 6, dtype=dtype)
    try:
        binary, name = compile_(baselines.plain_source(x, h), "involution", "90")
    except OSError as error:
        pytest.skip(f"there is no NVRTC or no CUDA here: {error}")
    assert name == "involution" and len(binary) > 1000


def test_shifts_and_unfold_are_involutions():
    x, h = torch.randn(2, 32, 5, 6), torch.randn(2, 2, 3, 3, 5, 6)
    y = torch.empty_like(x)
    backends.reference.forward(y, x, h, backends.Window((3, 3), (1, 1), (1, 1), (1, 1)))
    torch.testing.assert_close(baselines.shifts(x, h), y)
    torch.testing.assert_close(baselines.unfold(x, h), y)


def test_aims():
    def row(stage, name, time, **more):
        return {"stage": stage, "batch": 64, "dtype": "bfloat16", "name": name, "median_us": time, **more}

    rows = [
        row(1, "strips forward, pixels together", 70, of_copy=0.72),
        row(1, "strips forward, weights together", 80, of_copy=0.65),
        row(1, "plain CUDA, one thread per output", 280),
        row(2, "strips forward, pixels together", 30, of_copy=0.5),
        row(2, "fused forward", 20),
        row(2, "convolution 3x3", 19),
        {"net": "rednet50", "step": "training", "mode": "eager", "images_per_s": 10.0, "peak_mib": 900},
        {"net": "resnet50", "step": "training", "mode": "eager", "images_per_s": 11.0, "peak_mib": 1000},
    ]
    found = {aim: (measured, verdict) for aim, measured, verdict in report.aims(rows)}
    assert found["stage 1: forward ≥ 70 % of the copy's bandwidth"] == ("72%", "reached")
    assert found["stage 2: forward ≥ 70 % of the copy's bandwidth"] == ("50%", "not reached")
    assert found["stage 1: forward ≥ 5 × the plain CUDA kernel"] == ("4.0 ×", "not reached")
    assert found["stage 2: with generation ≥ 1 × the 3×3 convolution's speed"] == ("0.95 ×", "not reached")
    assert found["stage 4: with generation ≥ 1 × the 3×3 convolution's speed"] == ("", "not measured")
    assert found["training, eager: RedNet-50's peak memory ≤ ResNet-50's"] == ("1.11 ×", "reached")


def test_what_an_exception_says_stays_in_its_cell():
    rows = [{"stage": 1, "batch": 64, "dtype": "bfloat16", "name": "unfold", "failed": "Error: a | b\nmore"}]
    assert "| unfold Error: a \\| b more |  |  |  |" in report.tables(rows)
