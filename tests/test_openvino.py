"""Involution's own operators in OpenVINO, against PyTorch: every geometry, dynamic sizes, threads, sentences."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec

import numpy
import pytest
import torch
from cases import relative_error
from engines import (
    AGAIN,
    CORRELATION,
    ENGINE_CASES,
    INVOLUTION,
    SIZES,
    WINDOW,
    EveryCase,
    Operator,
    by_case,
    model_of,
    of,
    small_rednet,
    tensors_of,
)
from torch import nn

from involution import Involution2d, fold_batch_norms, involution2d
from involution.backends.native import loader
from involution.errors import ExportError, MissingPackageError
from involution.export import openvino as exported
from involution.export import sessions, to_onnx, to_openvino

openvino = pytest.importorskip("openvino", reason="openvino is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

pytestmark = [
    pytest.mark.skipif(isinstance(loader.found(), str), reason="the native backend was not built"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"),
]

FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """An OpenVINO with the extension, compiled into a cache of its own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    found = openvino.Core()
    found.add_extension(str(exported.extension()))
    yield found
    patch.undo()


def compiled(core, model, **settings):
    if isinstance(model, bytes):
        model = core.read_model(model)
    return core.compile_model(model, "CPU", FLOAT32 | settings)


def run(net, *tensors):
    outputs = net([numpy.asarray(tensor) for tensor in tensors])
    return [torch.from_numpy(outputs[i].copy()) for i in range(len(outputs))]


@pytest.fixture(scope="module")
def every_case(core, tmp_path_factory):
    """What PyTorch and OpenVINO return for every case and operator; OpenVINO's plugin takes no batch of zero."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("every_case") / "m.onnx"
    inputs = tuple(tensor for case in ENGINE_CASES for tensor in tensors_of(case))
    with torch.no_grad():
        expected = EveryCase()(*inputs)
    to_onnx(EveryCase(), inputs, file, operator="custom")
    return by_case(expected), by_case(run(compiled(core, file), *inputs))


@pytest.mark.parametrize("case", ENGINE_CASES, ids=str)
def test_every_case(every_case, case):
    for expected, actual in zip(*(results[case] for results in every_case), strict=True):
        assert actual.shape == expected.shape
        assert relative_error(actual, expected) < 1e-6


@pytest.mark.parametrize(("generator", "stride"), [("bottleneck", 2), ("linear", 1), ("attention", 1)])
def test_dynamic_batch_and_size(core, tmp_path, generator, stride):
    model = nn.Sequential(nn.Conv2d(3, 32, 1), Involution2d(32, 32, 3, stride, kernel_generator=generator), nn.ReLU())
    batch, height, width = (
        torch.export.Dim(n, min=8 if n != "batch" else 1, max=512) for n in ("batch", "height", "width")
    )
    shapes = ({0: batch, 2: height, 3: width},)
    to_onnx(model, (torch.randn(2, 3, 16, 18),), tmp_path / "m.onnx", dynamic_shapes=shapes, operator="custom")
    net = compiled(core, tmp_path / "m.onnx")
    model.eval()
    for shape in ((2, 3, 16, 18), (5, 3, 11, 23), (1, 3, 64, 40)):
        x = torch.randn(shape)
        assert relative_error(run(net, x)[0], model(x).detach()) < 1e-5


def test_rednet26_plain_and_folded(core, tmp_path):
    net, x = small_rednet(), torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected = net(x)
    for name, model in (("plain", net), ("folded", fold_batch_norms(net)[0])):
        to_onnx(model, (x,), tmp_path / f"{name}.onnx", operator="custom")
        assert relative_error(run(compiled(core, tmp_path / f"{name}.onnx"), x)[0], expected) < 1e-4


def test_in_bfloat16_the_operators_stay_in_float32(core, tmp_path):
    net, x = small_rednet(), torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected = net(x)
    to_onnx(net, (x,), tmp_path / "m.onnx", operator="custom")
    compiled_net = compiled(core, tmp_path / "m.onnx", INFERENCE_PRECISION_HINT="bf16")
    assert relative_error(run(compiled_net, x)[0], expected) < 5e-2
    nodes = [
        op
        for op in compiled_net.get_runtime_model().get_ops()
        if op.get_rt_info()["layerType"].astype(str) == "Reference"
    ]
    assert nodes and {node.get_output_element_type(0) for node in nodes} == {openvino.Type.f32}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)], ids=str)
def test_half_precision_operators(core, tmp_path, dtype, tolerance):
    x, h = torch.randn(2, 32, 9, 8), torch.randn(2, 2, 7, 7, 9, 8)
    to_onnx(Operator(dtype), (x, h), tmp_path / "m.onnx", operator="custom")
    (actual,) = run(compiled(core, tmp_path / "m.onnx"), x, h)
    assert relative_error(actual, Operator(dtype)(x, h)) < tolerance


def test_what_is_no_number_stays_in_its_windows(core, tmp_path):
    x, h = torch.ones(1, 1, 7, 30), torch.ones(1, 1, 3, 3, 7, 30)
    to_onnx(Operator(torch.float32), (x, h), tmp_path / "m.onnx", operator="custom")
    net = compiled(core, tmp_path / "m.onnx")
    x[..., 3, 10] = torch.nan
    windows = torch.zeros(1, 1, 7, 30, dtype=torch.bool)
    windows[..., 2:5, 9:12] = True
    (actual,) = run(net, x, h)
    assert actual.isnan().equal(windows)
    assert actual[~windows].equal(involution2d(x, h)[~windows])


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A file with involutions, an input that keeps several threads busy, and what PyTorch makes of it."""
    torch.manual_seed(0)
    model = nn.Sequential(Involution2d(64, 64, 7), nn.ReLU(), Involution2d(64, 64, 7, 2)).eval()
    x, file = torch.randn(2, 64, 30, 34), tmp_path_factory.mktemp("net") / "m.onnx"
    to_onnx(model, (x,), file, operator="custom")
    with torch.no_grad():
        return file, x, model(x)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_any_number_of_threads(core, net, threads):
    file, x, expected = net
    result = run(compiled(core, file, INFERENCE_NUM_THREADS=threads), x)[0]
    assert relative_error(result, expected) < 1e-5


def test_nets_and_calls_at_the_same_time(core, net):
    file, x, expected = net
    hints = {"PERFORMANCE_HINT": "THROUGHPUT"}
    nets = [compiled(core, file), compiled(core, file, **hints), compiled(core, file, **hints)]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda i: run(nets[i % 3].create_infer_request().infer, x)[0], range(24)))
    for result in results:
        assert relative_error(result, expected) < 1e-5


def test_openvinos_own_files(core, net, tmp_path):
    file, x, expected = net
    openvino.save_model(core.read_model(file), tmp_path / "m.xml", compress_to_fp16=False)
    assert relative_error(run(compiled(core, tmp_path / "m.xml"), x)[0], expected) < 1e-5


@pytest.mark.parametrize(
    ("op", "ranks", "attributes", "sentence"),
    [
        ("Involution", [4, 4, 4], of(INVOLUTION, stride=None), "the attribute stride is missing or has another type"),
        ("Correlation", [4, 4], of(CORRELATION, groups=None), "the attribute groups is missing or has another type"),
    ],
)
def test_attributes_that_are_missing_are_refused(core, op, ranks, attributes, sentence):
    with pytest.raises(RuntimeError, match=f"involution::{op}: {sentence}; {AGAIN}"):
        core.read_model(model_of(op, ranks, attributes))


def test_inputs_that_do_not_fit_are_refused(core):
    net = compiled(core, model_of("Involution", [4, 4, 4], INVOLUTION))
    shapes = [(1, 4, 5, 5), (1, 3, 5, 4), (18, 3, 1, 1)]
    sentence = r"hidden must lie on the output grid \(5, 5\) of a map of \(5, 5\) .*got \(1, 3, 5, 4\)"
    with pytest.raises(RuntimeError, match=f"involution::Involution: {sentence}{SIZES}"):
        run(net, *[torch.zeros(shape) for shape in shapes])
    net = compiled(core, model_of("InvolutionOfField", [4, 6], of(WINDOW, padding=[1])))
    with pytest.raises(RuntimeError, match=f"padding must have 2 numbers, one per spatial dimension, got 1; {AGAIN}"):
        run(net, torch.zeros(1, 4, 5, 5), torch.zeros(1, 2, 3, 3, 5, 5))


def test_of_what_openvino_says_the_cause_is_quoted(core, net, tmp_path):
    open_openvino, with_operators = sessions.open_openvino, {"extension": exported.extension()}
    with pytest.raises(
        ExportError,
        match=r"m\.onnx: No conversion rule found for operations: involution\.Involution; "
        r"give it involution's own operators, extension=involution\.export\.openvino\.extension\(\)",
    ):
        open_openvino(net[0])
    openvino.save_model(core.read_model(net[0]), tmp_path / "m.xml")
    with pytest.raises(
        ExportError, match=r"Cannot create Involution layer .*; give it involution's own operators, ext"
    ):
        open_openvino(tmp_path / "m.xml")
    with pytest.raises(
        ExportError, match=r'none\.xml: ir: Could not open the file: ".*none\.xml"; export the model anew'
    ):
        open_openvino(tmp_path / "none.xml")
    (tmp_path / "junk.xml").write_text("junk")
    with pytest.raises(ExportError, match=r"junk\.xml: Unable to read the model: .*; export the model anew"):
        open_openvino(tmp_path / "junk.xml", **with_operators)
    (tmp_path / "n.onnx").write_bytes(model_of("Involution", [4, 4, 4], of(INVOLUTION, stride=None)))
    with pytest.raises(ExportError, match=r"n\.onnx: involution::Involution: the attribute stride is missing"):
        open_openvino(tmp_path / "n.onnx", **with_operators)
    with pytest.raises(ExportError, match=r"junk\.xml: Cannot add extension\. .*file too short"):
        sessions.openvino_core(tmp_path / "junk.xml")
    half = Involution2d(16, kernel_size=3).bfloat16(), (torch.randn(1, 16, 8, 8).bfloat16(),)
    words = (
        r"Involution2d cannot be exported to OpenVINO: Element types for data batch and filters do not match .*: bf16"
    )
    with pytest.raises(ExportError, match=words):
        to_openvino(*half, tmp_path / "half.xml")


COMPILE = "from involution.export.openvino import extension; print(extension())"


def test_it_is_compiled_once_also_by_two_at_once(tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE]
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    file = tmp_path / "involution" / os.path.basename(outputs[0][0].strip())
    assert {output.strip() for output, _ in outputs} == {str(file)}
    assert list(file.parent.iterdir()) == [file]
    # It is found again, also where no compiler is.
    made = file.stat().st_mtime_ns
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert again.stdout.strip() == str(file) and file.stat().st_mtime_ns == made


INSTEAD = 'or export with operator="standard", which needs none'


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "nowhere++")
    with pytest.raises(
        ExportError, match=rf"needs a C\+\+17 compiler: \$CXX, 'nowhere\+\+', is no program; .*{INSTEAD}"
    ):
        exported.extension()
    monkeypatch.delenv("CXX")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "which", lambda name: None)
        with pytest.raises(ExportError, match=rf"found none of c\+\+, g\+\+, clang\+\+; install one.*{INSTEAD}"):
            exported.extension()
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(ExportError, match=rf"could not be compiled by \S*false: it says no more; .*{INSTEAD}"):
        exported.extension()
    assert not list(tmp_path.rglob("*.*so*"))
    monkeypatch.delenv("CXX")
    with monkeypatch.context() as patch:
        patch.setattr(loader, "file", lambda: None)
        with pytest.raises(ExportError, match=f"own operators cannot be served: its kernels were not built.*{INSTEAD}"):
            exported.extension()
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ExportError, match=r"cannot write .*; set XDG_CACHE_HOME to a folder"):
        exported.extension()


@pytest.mark.parametrize(("told", "flags"), [('"_GLIBCXX_USE_CXX11_ABI=0;OV_THREAD=OV_THREAD_TBB"', 1), ("", 0)])
def test_its_strings_are_those_that_openvino_was_compiled_with(tmp_path, monkeypatch, told, flags):
    header, targets = (
        tmp_path / "openvino" / path
        for path in ("include/openvino/core/op_extension.hpp", "cmake/OpenVINOTargets.cmake")
    )
    for file in (header, targets):
        file.parent.mkdir(parents=True)
    header.touch()
    targets.write_text(f"set_target_properties(openvino::runtime PROPERTIES INTERFACE_COMPILE_DEFINITIONS {told})")
    # A compiler that writes down what it is told.
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/told\nfor file; do :; done; touch "$file"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = ModuleSpec("openvino", None, is_package=True)
    found.submodule_search_locations = [str(tmp_path / "openvino")]
    monkeypatch.setattr(exported, "find_spec", lambda name: found)
    assert exported.extension().exists()
    assert (tmp_path / "told").read_text().split().count("-D_GLIBCXX_USE_CXX11_ABI=0") == flags


def test_a_missing_openvino_is_said(monkeypatch):
    monkeypatch.setattr(exported, "find_spec", lambda name: None)
    with pytest.raises(
        MissingPackageError, match=r'openvino is missing; install it with: pip install "involution\[export\]"'
    ):
        exported.extension()
