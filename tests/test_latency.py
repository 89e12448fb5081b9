"""involution benchmark: engines, processes, rows, and what an interruption leaves."""

import json
import os
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch._inductor.utils import run_and_get_code

from involution import records
from involution.commands.main import main
from involution.data.calibration import calibration_batches
from involution.errors import DataError
from involution.export.checked import difference
from involution.export.sessions import open_onnx
from involution.models import named
from involution.studies.latency import results, run
from involution.studies.latency.accuracy import LabelledImages
from involution.studies.latency.drawing import picture
from involution.studies.latency.engines import ENGINES
from involution.studies.latency.results import Row
from involution.studies.latency.worker import Failure, Job, Worker

WEIGHTS = Path(__file__).parents[1] / "src" / "involution" / "weights"
REDNET, RESNET = str(WEIGHTS / "rednet14_eighth.cifar10"), str(WEIGHTS / "resnet14_eighth.cifar10")
HAS_ONNX = pytest.mark.skipif(
    find_spec("onnxscript") is None or find_spec("onnxruntime") is None,
    reason="onnxscript or onnxruntime is not installed",
)


def test_two_nets_are_measured_in_turn(tmp_path, capsys):
    images = tmp_path / "images"
    for name in json.loads(Path(REDNET, "config.json").read_text())["label_names"]:
        (images / name).mkdir(parents=True)
        Image.fromarray(torch.randint(256, (32, 32, 3), dtype=torch.uint8).numpy()).save(images / name / "1.png")
    command = ["benchmark", REDNET, RESNET, "--engines", "folded", "onnxruntime", "--dtype", "bfloat16"]
    command += ["--size", "32", "--threads", "1", "--rounds", "3", "--processes", "2", "--out", str(tmp_path)]
    command += ["--accuracy", str(images), "--profile"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert f"{REDNET}, folded, bfloat16, batch 1: " in printed
    assert "ONNX Runtime has no convolutions in bfloat16 on the CPU" in printed
    assert "fastest in bfloat16, batch 1: " in printed
    record = records.read(tmp_path / "engines-cpu-1-thread.json")
    assert record["finished"] and record["settings"]["size"] == [32, 32]
    rednet, resnet, *missing = record["results"]
    assert (rednet["model"], resnet["model"]) == (REDNET, RESNET)
    for row in (rednet, resnet):
        assert (
            row["reason"] == "" and len(row["times_ms"]) == 6 and row["processes"] == 2 and 0 < row["difference"] < 0.1
        )
        assert 0 < row["median_ms"] <= row["p90_ms"] and row["images_per_s"] == pytest.approx(1e3 / row["median_ms"])
        assert 10 * row["accuracy"] in range(11)
        assert row["peak_mib"] is None or 0 < row["peak_mib"] < 500
    assert any("involution" in operator for operator in rednet["profile"])
    assert resnet["profile"] and not any("involution" in operator for operator in resnet["profile"])
    assert rednet["to_control"] == pytest.approx(rednet["median_ms"] / resnet["median_ms"])
    assert resnet["to_control"] == 1
    assert [row["median_ms"] for row in missing] == [None, None]
    table, profiles = (tmp_path / "engines-cpu-1-thread.md").read_text().split("\nWhere the time goes:\n\n")
    assert table.count("\n") == 6 and profiles.count("\n") == 2
    assert (tmp_path / "engines-cpu-1-thread.png").read_bytes().startswith(b"\x89PNG")


def test_every_process_has_its_median():
    row = Row("rednet50", "eager", "float32", 1, (1.0, 2.0, 9.0, 4.0, 8.0, 5.0), processes=2)
    assert row.process_medians_ms == (2.0, 5.0) and row.median_ms == 4.5
    assert Row.of(row.record()) == row
    assert Row("rednet50", "eager", "float32", 1).process_medians_ms == ()


def test_what_a_process_cannot_do_is_a_line(tmp_path):
    with Worker(Job("no_such_net", "eager", "float32", 1, (32, 32), 1), tmp_path) as worker:
        with pytest.raises(Failure, match="no_such_net cannot be loaded: Unknown model"):
            worker.prepare()
        # It goes on after that; only its end ends it.
        with pytest.raises(Failure, match=r"FileNotFoundError: .*tensors\.pt"):
            worker.open()
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(Failure, match="its process ended with -9; is there memory enough"):
            worker.open()


def test_a_compiled_net_is_frozen_and_nothing_else_is(tmp_path):
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval(), torch.randn(1, 3, 9, 9)
    engine = ENGINES["compiled"]
    before = torch._inductor.config.freezing
    session = engine.open(lambda: net, "float32", 1, tmp_path)
    taken = [engine.taken(x, "float32")]
    (y,), codes = run_and_get_code(session, taken)
    assert "frozen_param" in codes[0] and torch._inductor.config.freezing == before
    with torch.compiler.set_stance("fail_on_recompile"):
        (again,) = session(taken)
    for output in (y, again):
        torch.testing.assert_close(output, net(x), rtol=1e-4, atol=1e-5)


def test_an_interruption_keeps_what_is_finished(tmp_path, capsys, monkeypatch):
    def measure(plan, announce):
        yield [Row(model, "eager", "float32", 1, (2.0, 3.0, 4.0), 1.0, 50.0, 1e-7) for model in plan.models]
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "measure", measure)
    flags = ["--threads", "2", "--out", str(tmp_path)]
    assert (
        main(["benchmark", REDNET, RESNET, *flags]) == main(["benchmark", REDNET, *flags, "--name", "a-run-2"]) == 130
    )
    assert "Interrupted with 2 rows finished and kept" in capsys.readouterr().err
    record = records.read(tmp_path / "engines-cpu-2-threads.json")
    assert not record["finished"] and [row["median_ms"] for row in record["results"]] == [3.0, 3.0]
    assert records.read(tmp_path / "a-run-2.json")["name"] == "a-run-2"
    assert (tmp_path / "a-run-2.md").is_file() and (tmp_path / "a-run-2.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_net"], "unknown net no_such_net; expected a name of timm, or a folder that involution fit wrote"),
        (["--engines", "fast"], "unknown engine 'fast'; expected one of eager, folded, compiled"),
        (["--dtype", "int4"], "unknown dtype 'int4'; expected one of float32, bfloat16, int8"),
        (["--rounds", "0"], "must be at least 1"),
        (["--processes", "0"], "must be at least 1"),
        (["--size", "1", "2", "3"], "--size (height and width)"),
        (["resnet18", "resnet18"], "every net may be named once"),
        (["--name", "a/b"], "--name is that of files in --out, without a folder, got a/b"),
        (["resnet18", "--accuracy", "nowhere"], "nowhere is no folder"),
        (["resnet18", "--accuracy", "."], "--accuracy is of trained nets, and resnet18 has random weights"),
    ],
)
def test_wrong_arguments_are_a_sentence(arguments, message, capsys, tmp_path):
    assert main(["benchmark", *arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


@HAS_ONNX
def test_int8_without_images_says_what_to_give():
    plan = run.Plan((REDNET,), ("onnxruntime", "eager"), ("int8",), (1,), (32, 32), 1, 1)
    assert [row.reason for rows in run.measure(plan) for row in rows] == [
        "int8 needs images to calibrate by; give --calibration FOLDER",
        "PyTorch's own quantisation is not measured here",
    ]


def test_a_missing_package_is_a_reason(monkeypatch):
    from involution.studies.latency import engines

    monkeypatch.setattr(engines, "find_spec", lambda name: None if name in ("onnxruntime", "nncf") else object())
    assert ENGINES["onnxruntime"].missing("float32") == "onnxruntime missing, to be installed with pip"
    assert ENGINES["openvino"].missing("int8").startswith("nncf, OpenVINO's tool for quantisation, is missing")
    assert ENGINES["eager"].missing("float32") is None


def skip_where_missing(engine, dtype):
    reason = ENGINES[engine].missing(dtype)
    if reason:
        pytest.skip(reason)


@pytest.mark.usefixtures("extension_cache")
@pytest.mark.parametrize("engine", ["onnxruntime", "onnxruntime-custom", "openvino", "openvino-extension"])
def test_int8_of_every_engine(engine, photographs, tmp_path):
    skip_where_missing(engine, "int8")
    net = named.load(REDNET)
    batches = calibration_batches(photographs, size=(32, 32), batch=4, mean=net.mean, std=net.std)
    ENGINES[engine].write(net.net, batches[0], "int8", [(batch,) for batch in batches], tmp_path)
    with torch.no_grad():
        expected = net.net(batches[0])
    quantised = ENGINES[engine].open(lambda: net.net, "int8", 1, tmp_path)([batches[0]])
    assert 1e-4 < difference(quantised, [expected]) < 0.2


@pytest.mark.usefixtures("extension_cache")
@pytest.mark.parametrize("engine", ["onnxruntime", "onnxruntime-custom", "openvino", "openvino-extension"])
def test_floating_point_of_every_engine(engine, tmp_path):
    skip_where_missing(engine, "float32")
    net, images = named.load(REDNET), torch.randn(2, 3, 32, 32)
    ENGINES[engine].write(net.net, images, "float32", (), tmp_path)
    with torch.no_grad():
        expected = net.net(images)
    session = ENGINES[engine].open(lambda: net.net, "float32", 1, tmp_path)
    assert difference(session([images]), [expected]) < 1e-5
    profile = ENGINES[engine].profile(session, images, "float32", 1, tmp_path)
    assert {"Conv", "Convolution"} & set(profile) and min(profile.values()) >= 0 and sum(profile.values()) > 0
    # What an extension brings, OpenVINO calls so.
    involution = "Involution" if engine == "onnxruntime-custom" else "Reference"
    assert any(involution in operator for operator in profile) == (engine not in ("onnxruntime", "openvino"))
    if ENGINES[engine].missing("bfloat16") is None:
        in_half = ENGINES[engine].open(lambda: net.net, "bfloat16", 1, tmp_path)([images])
        # Where the processor has no bfloat16, OpenVINO computes in float32.
        assert difference(in_half, [expected]) < 0.1


@HAS_ONNX
def test_onnx_of_an_engine_runs_with_its_threads(tmp_path):
    net, images = named.load(RESNET), torch.randn(2, 3, 32, 32)
    ENGINES["onnxruntime"].write(net.net, images, "float32", (), tmp_path)
    with torch.no_grad():
        expected = net.net(images)
    for threads in (1, 2):
        assert difference(open_onnx(tmp_path / "net.onnx", threads=threads)([images]), [expected]) < 1e-5


ROWS = [
    Row("red", "eager", "float32", 1, (4.0, 5.0, 6.0), 0.5, 80.0, 2e-7),
    Row("res", "eager", "float32", 1, (10.0, 10.0, 20.0), 1.0, None, 1e-7),
    Row("red", "openvino", "float32", 1, reason="openvino missing"),
    Row("res", "openvino", "float32", 1, (8.0,), 1.0, 60.0, 1e-7),
]


def test_a_profile_names_what_takes_most():
    row = Row("red", "eager", "float32", 1, profile={"a": 1.0, "b": 5.0, **dict.fromkeys("cdefgh", 0.5)})
    assert results.profile_lines([row, Row("res", "eager", "float32", 1)]) == [
        "red, eager, float32, batch 1: b 5.00 ms (56%), a 1.00 ms (11%), c 0.50 ms (6%), d 0.50 ms (6%), e 0.50 ms (6%), "
        "f 0.50 ms (6%), 2 others 1.00 ms (11%)"
    ]
    assert Row.of(row.record()) == row


def test_the_table_in_print():
    lines = results.as_text(ROWS, ["red", "res"]).splitlines()
    assert lines[1].split() == ["eager", "float32", "1", "red", "5.00", "5.80", "200.0", "0.50", "80", "2.0e-07"]
    assert lines[2].split()[-2:] == ["–", "1.0e-07"] and lines[3].endswith("openvino missing")
    assert len({text.index(word) for text, word in zip(lines, ("net", "red", "res", "red"))}) == 1
    assert results.best(ROWS, ["red", "res"]) == [
        "fastest in float32, batch 1: red 5.00 ms (eager), 0.62 of the control's; res 8.00 ms (openvino)"
    ]
    assert results.as_markdown(ROWS).splitlines()[4].count("|") == 11
    assert [Row.of(row.record()) for row in ROWS] == ROWS


def test_the_picture_has_a_bar_for_every_figure():
    figure = picture(ROWS, ["red", "res"])
    (axes,) = figure.axes
    assert sorted(bar.get_width() for bar in axes.patches) == [5.0, 8.0, 10.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["PyTorch", "OpenVINO, its own operators"]
    assert len(picture([], ["red"]).axes) == 1


class Brightest(torch.nn.Module):
    """Says which channel is the brightest."""

    def __init__(self, label_names=None):
        super().__init__()
        self.pretrained_cfg = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "crop_pct": 1.0, "label_names": label_names}

    def forward(self, x):
        return x.mean((2, 3))


@pytest.fixture
def coloured(tmp_path):
    """Folders of red, green and blue images, and a green one among the blue."""
    for name, colours in {"red": ["red"] * 2, "green": ["lime"] * 3, "blue": ["blue"] * 4 + ["lime"]}.items():
        (tmp_path / "colours" / name).mkdir(parents=True)
        for i, colour in enumerate(colours):
            Image.new("RGB", (20 + i, 17), colour).save(tmp_path / "colours" / name / f"{i}.png")
    return tmp_path / "colours"


def test_accuracy_is_the_share_of_images_whose_class_is_found(coloured):
    net = Brightest(label_names=("red", "green", "blue"))
    images = LabelledImages(coloured, named.NamedNet(net, 3, (8, 8), (0.0,) * 3, (1.0,) * 3), (8, 8))
    assert [images.accuracy(lambda inputs: [net(*inputs)], batch) for batch in (1, 4, 32)] == [0.9] * 3
    # Without names the classes are in alphabetical order: blue, green, red; only the green ones are found.
    net = Brightest()
    images = LabelledImages(coloured, named.NamedNet(net, 3, (8, 8), (0.0,) * 3, (1.0,) * 3), (8, 8))
    assert images.accuracy(lambda inputs: [net(*inputs)], 4) == 0.3


def test_grey_images_are_seen_as_the_net_takes_them(coloured):
    class Grey(torch.nn.Module):
        pretrained_cfg = {"mean": (0.0,), "std": (1.0,)}

        def forward(self, images):
            assert images.shape[1:] == (1, 8, 8)
            return images.mean((2, 3)).expand(-1, 3)

    net = Grey()
    images = LabelledImages(coloured, named.NamedNet(net, 1, (8, 8), (0.0,), (1.0,)), (8, 8))
    # All outputs are alike, and the first one is blue.
    assert images.accuracy(lambda inputs: [net(*inputs)], 4) == 0.5


def test_what_else_is_asked_costs_no_times():
    class Asked:
        peak_mib = staticmethod(lambda: 7.0)

        def accuracy(self, folder):
            raise Failure(f"{folder} has other classes")

        def profile(self):
            raise Failure("the profiler failed")

    plan = run.Plan(("a",), ("eager",), ("float32",), (1,), (8, 8), 1, 2, accuracy=Path("photos"), profile=True)
    row = run._with_what_is_asked_once(plan, Row("a", "eager", "float32", 1, (2.0, 3.0)), Asked())
    assert (row.median_ms, row.peak_mib, row.reason) == (2.5, 7.0, "")
    assert row.missing == "no accuracy: photos has other classes; no profile: the profiler failed"
    assert Row.of(row.record()) == row


def test_images_of_other_classes_are_refused_before_anything_is_timed(coloured, tmp_path, capsys):
    words = ["benchmark", "rednet14_eighth.cifar10", "--accuracy", str(coloured), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "has the classes blue, green, red and the net airplane" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_accuracy_refuses_other_classes(coloured):
    net = named.NamedNet(Brightest(label_names=("cat", "dog")), 3, (8, 8), (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(DataError, match="has the classes blue, green, red and the net cat, dog; give images of the"):
        LabelledImages(coloured, net, (8, 8))
    net = named.NamedNet(Brightest(), 3, (8, 8), (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(DataError, match=r"the net's output is \(1, 2\), and the images have 3 classes"):
        LabelledImages(coloured, net, (8, 8)).accuracy(lambda inputs: [torch.zeros(1, 2)], 1)
