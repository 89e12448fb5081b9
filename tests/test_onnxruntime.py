"""Involution's own operators in ONNX Runtime, against PyTorch: every geometry, sessions, threads, sentences."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest
import torch
from cases import Case, relative_error
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
from involution.errors import ExportError
from involution.export import to_onnx, translations
from involution.export.onnx import library
from involution.export.sessions import open_onnx

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

pytestmark = pytest.mark.skipif(isinstance(loader.found(), str), reason="the native backend was not built")

PROVIDERS = ["CPUExecutionProvider"]


def session_of(file, threads=2):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(library()))
    # What a test expects to be refused need not be printed.
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(file, options, providers=PROVIDERS)


def run(session, *tensors):
    names = [value.name for value in session.get_inputs()]
    outputs = session.run(None, {name: numpy.asarray(t) for name, t in zip(names, tensors, strict=True)})
    return [torch.from_numpy(output) for output in outputs]


@pytest.fixture(scope="module")
def every_case(tmp_path_factory):
    """What PyTorch and ONNX Runtime return for every case and operator."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("every_case") / "m.onnx"
    inputs = tuple(tensor for case in ENGINE_CASES for tensor in tensors_of(case))
    with torch.no_grad():
        expected = EveryCase()(*inputs)
    to_onnx(EveryCase(), inputs, file, operator="custom")
    nodes = [node for node in onnx.load(file).graph.node if node.op_type != "Identity"]
    assert {node.domain for node in nodes} == {"involution"} and len(nodes) == len(expected)
    return by_case(expected), by_case(run(session_of(file), *inputs))


@pytest.mark.parametrize("case", ENGINE_CASES, ids=str)
def test_every_case(every_case, case):
    for expected, actual in zip(*(results[case] for results in every_case), strict=True):
        assert actual.shape == expected.shape
        assert relative_error(actual, expected) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes(tmp_path, dtype):
    x, h, _ = Case((9, 8), kernel=7, channels=32).tensors(torch.float32)
    model = Operator(dtype)
    to_onnx(model, (x, h), tmp_path / "m.onnx", operator="custom")
    (actual,) = run(session_of(tmp_path / "m.onnx"), x, h)
    # The same kernels: equal but for what the boxes, cut for other threads, sum in another order.
    assert relative_error(actual, model(x, h)) < {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float64: 1e-7}[dtype]


@pytest.mark.parametrize(("generator", "stride"), [("bottleneck", 2), ("linear", 1), ("attention", 1)])
def test_dynamic_batch_and_size(tmp_path, generator, stride):
    model = nn.Sequential(nn.Conv2d(3, 32, 1), Involution2d(32, 32, 3, stride, kernel_generator=generator), nn.ReLU())
    batch, height, width = (
        torch.export.Dim(n, min=8 if n != "batch" else 1, max=512) for n in ("batch", "height", "width")
    )
    shapes = ({0: batch, 2: height, 3: width},)
    to_onnx(model, (torch.randn(2, 3, 16, 18),), tmp_path / "m.onnx", dynamic_shapes=shapes, operator="custom")
    session = session_of(tmp_path / "m.onnx")
    model.eval()
    for shape in ((2, 3, 16, 18), (5, 3, 11, 23), (1, 3, 64, 40)):
        x = torch.randn(shape)
        assert relative_error(run(session, x)[0], model(x).detach()) < 1e-5


def test_rednet26_plain_and_folded(tmp_path):
    net, x = small_rednet(), torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected = net(x)
    for name, model in (("plain", net), ("folded", fold_batch_norms(net)[0])):
        file = tmp_path / f"{name}.onnx"
        to_onnx(model, (x,), file, operator="custom")
        assert relative_error(run(session_of(file), x)[0], expected) < 1e-4
        nodes = [node for node in onnx.load(file).graph.node if node.domain == "involution"]
        assert len(nodes) == sum(isinstance(module, Involution2d) for module in net.modules())
        relu = {attribute.i for node in nodes for attribute in node.attribute if attribute.name == "relu"}
        # Scale, offset and ReLU of a folded net are in the operator, which has six inputs then.
        assert relu == ({0} if name == "plain" else {1})
        assert {len(node.input) for node in nodes} == ({4} if name == "plain" else {6})


def test_without_the_library_it_is_said_where_it_is(tmp_path):
    to_onnx(Involution2d(16), (torch.randn(1, 16, 8, 8),), tmp_path / "m.onnx", operator="custom")
    words = r"m\.onnx: Load model from .* is not a registered function/op; give it involution's own operators, library=invol"
    with pytest.raises(ExportError, match=words):
        open_onnx(tmp_path / "m.onnx")
    assert open_onnx(tmp_path / "m.onnx", library=library())


def test_what_is_no_number_stays_in_its_windows(tmp_path):
    x, h = torch.ones(1, 1, 7, 30), torch.ones(1, 1, 3, 3, 7, 30)
    to_onnx(Operator(torch.float32), (x, h), tmp_path / "m.onnx", operator="custom")
    session = session_of(tmp_path / "m.onnx")
    x[..., 3, 10] = torch.nan
    windows = torch.zeros(1, 1, 7, 30, dtype=torch.bool)
    windows[..., 2:5, 9:12] = True
    (actual,) = run(session, x, h)
    assert actual.isnan().equal(windows)
    assert actual[~windows].equal(involution2d(x, h)[~windows])
    # The first tap of the first pixel lies outside: nothing is read there.
    x, h[0, 0, 0, 0, 0, 0] = torch.ones(1, 1, 7, 30), torch.inf
    assert run(session, x, h)[0].equal(involution2d(x, h))


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
def test_any_number_of_threads(net, threads):
    file, x, expected = net
    assert relative_error(run(session_of(file, threads), x)[0], expected) < 1e-5


def test_sessions_and_calls_at_the_same_time(net):
    file, x, expected = net
    sessions = [session_of(file, threads) for threads in (1, 2, 2)]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda i: run(sessions[i % 3], x)[0], range(24)))
    for result in results:
        assert relative_error(result, expected) < 1e-5


ALONE = """
import os, sys
import numpy, onnxruntime
library, file, array = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
for _ in range(2):
    options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    before = len(os.listdir("/proc/self/task"))
    (output,) = session.run(None, {session.get_inputs()[0].name: numpy.load(array)})
    assert len(os.listdir("/proc/self/task")) == before, "the operators started threads of their own"
    del session
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
assert "torch" not in sys.modules
numpy.save(array, output)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_without_pytorch_and_without_threads_of_its_own(net, tmp_path):
    file, x, expected = net
    array = tmp_path / "x.npy"
    numpy.save(array, x.numpy())
    command = [sys.executable, "-c", ALONE, str(library()), str(file), str(array)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert relative_error(torch.from_numpy(numpy.load(array)), expected) < 1e-5


@pytest.mark.parametrize(
    ("op", "attributes", "sentence"),
    [
        ("Involution", of(INVOLUTION, stride=None), "the attribute stride is missing or no list of integers; " + AGAIN),
        ("Involution", of(INVOLUTION, groups=None), "the attribute groups is missing or no integer; " + AGAIN),
        ("Involution", of(INVOLUTION, groups=[2]), "the attribute groups is missing or no integer; " + AGAIN),
        (
            "Involution",
            of(INVOLUTION, padding=[1]),
            "padding must have 2 numbers, one per spatial dimension, got 1; " + AGAIN,
        ),
        (
            "Involution",
            of(INVOLUTION, kernel_size=[3] * 4),
            "kernel_size must have 1 to 3 numbers, one per spatial dimension, got 4; " + AGAIN,
        ),
        (
            "Involution",
            of(INVOLUTION, kernel_size=[3, 0]),
            r"kernel_size must be from 1 to 2147483647, got \(3, 0\); " + AGAIN,
        ),
        (
            "InvolutionOfField",
            of(WINDOW, dilation=[1, 2**40]),
            r"dilation must be from 1 to 2147483647, got \(1, 1099511627776\); " + AGAIN,
        ),
        ("Correlation", of(CORRELATION, groups=-1), "groups must be from 1 to 2147483647, got -1; " + AGAIN),
    ],
)
def test_attributes_that_are_wrong_are_refused_when_the_session_is_made(op, attributes, sentence):
    inputs = [4, 4, 4] if op == "Involution" else [4, 6] if op == "InvolutionOfField" else [4, 4]
    with pytest.raises(Exception, match=f"involution::{op}: {sentence}"):
        session_of(model_of(op, inputs, attributes))


@pytest.mark.parametrize(
    ("op", "attributes", "shapes", "sentence"),
    [
        (
            "Involution",
            INVOLUTION,
            [(1, 4, 5, 5), (1, 3, 5, 4), (18, 3, 1, 1)],
            r"hidden must lie on the output grid \(5, 5\) of a map of \(5, 5\) for kernel size \(3, 3\), stride \(1, 1\), "
            r"padding \(1, 1\) and dilation \(1, 1\), got \(1, 3, 5, 4\)" + SIZES,
        ),
        (
            "Involution",
            INVOLUTION,
            [(2, 4, 5, 5), (1, 3, 5, 5), (18, 3, 1, 1)],
            r"hidden must have the batch size 2, got \(1, 3, 5, 5\)" + SIZES,
        ),
        (
            "Involution",
            INVOLUTION,
            [(1, 4, 5), (1, 3, 5, 5), (18, 3, 1, 1)],
            r"value must have the shape \(B, C, H, W\), got \(1, 4, 5\)" + SIZES,
        ),
        (
            "Involution",
            INVOLUTION,
            [(1, 4, 5, 5), (1, 3, 5, 5), (17, 3, 1, 1)],
            r"weight must have the shape \(18, 3, 1, 1\), got \(17, 3, 1, 1\)" + SIZES,
        ),
        (
            "Involution",
            INVOLUTION,
            [(1, 4, 5, 5), (1, 3, 5, 5), (18, 3, 1, 1), (17,)],
            r"bias must have the shape \(18,\), got \(17,\)" + SIZES,
        ),
        (
            "Involution",
            INVOLUTION,
            [(1, 4, 5, 5), (1, 3, 5, 5), (18, 3, 1, 1), None, None, (5,)],
            r"offset must have the shape \(4,\), got \(5,\)" + SIZES,
        ),
        (
            "Involution",
            INVOLUTION,
            [(1, 5, 5, 5), (1, 3, 5, 5), (18, 3, 1, 1)],
            "the groups must divide the channels, got 2 groups and 5 channels; " + AGAIN,
        ),
        (
            "Involution",
            of(INVOLUTION, kernel_size=[2**31 - 1, 2**31 - 1]),
            [(1, 4, 5, 5), (1, 3, 5, 5), (18, 3, 1, 1)],
            r"kernel_size is too large, got \(2147483647, 2147483647\); " + AGAIN,
        ),
        (
            "InvolutionOfField",
            of(WINDOW, dilation=[9, 9]),
            [(1, 4, 5, 5), (1, 2, 3, 3, 5, 5)],
            r"a window of kernel size \(3, 3\), padding \(1, 1\) and dilation \(9, 9\) does not fit into a map of \(5, 5\); "
            "hand the net larger inputs",
        ),
        (
            "InvolutionOfField",
            WINDOW,
            [(1, 4, 5, 5), (1, 2, 9, 5, 5)],
            r"field must have the shape \(B, G, K, K, H', W'\), got \(1, 2, 9, 5, 5\)" + SIZES,
        ),
        (
            "Correlation",
            CORRELATION,
            [(1, 4, 5, 5), (1, 6, 5, 5)],
            r"query must have 6 channels, as the key, got \(1, 4, 5, 5\)" + SIZES,
        ),
        (
            "Correlation",
            CORRELATION,
            [(1, 4, 5, 5), (1, 4, 0, 5)],
            r"a window of kernel size \(3, 3\), padding \(1, 1\) and dilation \(1, 1\) does not fit into a map of \(0, 5\)",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(op, attributes, shapes, sentence):
    ranks = [None if shape is None else len(shape) for shape in shapes]
    session = session_of(model_of(op, ranks, attributes))
    with pytest.raises(Exception, match=f"involution::{op}: {sentence}"):
        run(session, *[torch.zeros(shape) for shape in shapes if shape is not None])


def test_an_old_runtime_is_refused():
    """RegisterCustomOps of a runtime that lacks version 17 of the interface makes a status that says so."""
    import ctypes

    said = []
    create = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)(lambda _, text: said.append(text) or 1)
    table = (ctypes.c_void_p * 1)(ctypes.cast(create, ctypes.c_void_p))
    get = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(lambda v: ctypes.addressof(table) if v < 17 else None)
    text = ctypes.create_string_buffer(b"1.16.3")
    version = ctypes.CFUNCTYPE(ctypes.c_void_p)(lambda: ctypes.addressof(text))
    base = (ctypes.c_void_p * 2)(*(ctypes.cast(f, ctypes.c_void_p) for f in (get, version)))
    register = loader.found().handle.RegisterCustomOps
    register.argtypes, register.restype = [ctypes.c_void_p, ctypes.c_void_p], ctypes.c_void_p
    assert register(None, ctypes.addressof(base)) == 1
    assert said == [
        b"involution: this is ONNX Runtime 1.16.3, its operators need 1.17 or later; install a later one, or export with "
        b'operator="standard"'
    ]


def test_a_missing_library_is_said(monkeypatch, tmp_path):
    other = 'or export with operator="standard", which needs none'
    monkeypatch.setattr(loader, "file", lambda: None)
    with pytest.raises(ExportError, match=f"own operators cannot be served: its kernels were not built .*; {other}"):
        library()
    (tmp_path / "foreign.so").write_bytes(b"not a library")
    monkeypatch.setattr(loader, "file", lambda: tmp_path / "foreign.so")
    with pytest.raises(
        ExportError, match=f"own operators cannot be served: its kernels could not be loaded .*; {other}"
    ):
        library()


def test_an_unknown_operator_is_refused(tmp_path):
    with pytest.raises(ValueError, match="operator must be one of 'standard', 'custom', got 'fast'"):
        translations("fast")
    with pytest.raises(ValueError, match="operator must be one of 'standard', 'custom', got 'fast'"):
        to_onnx(Involution2d(16), (torch.randn(1, 16, 4, 4),), tmp_path / "m.onnx", operator="fast")


def test_torchs_own_function_takes_the_translations(tmp_path):
    model, x, file = Involution2d(16).eval(), torch.randn(1, 16, 9, 8), tmp_path / "m.onnx"
    torch.onnx.export(model, (x,), file, dynamo=True, verbose=False, custom_translation_table=translations("custom"))
    assert [node.op_type for node in onnx.load(file).graph.node if node.domain] == ["Involution"]
    assert relative_error(run(session_of(file), x)[0], model(x).detach()) < 1e-5
