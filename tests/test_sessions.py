"""What engines are told when a file is opened in them."""

import pytest

from involution.export import sessions


def test_onnx_runtime_takes_the_threads_that_it_is_given(monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    given = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda file, options, **_: given.append(options))
    untouched = onnxruntime.SessionOptions()
    for threads in (1, 3, None):
        sessions.onnx_session("net.onnx", threads=threads)
    assert [options.intra_op_num_threads for options in given] == [1, 3, untouched.intra_op_num_threads]
    assert [options.inter_op_num_threads for options in given] == [1, 1, untouched.inter_op_num_threads]


def test_openvino_takes_the_threads_and_the_precision_that_it_is_given(monkeypatch):
    openvino = pytest.importorskip("openvino")
    given = []

    class Core:
        def compile_model(self, file, device, options):
            given.append((file, device, options))
            return self

        def create_infer_request(self):
            return None

    monkeypatch.setattr(openvino, "Core", Core)
    sessions.openvino_request("net.xml", threads=3, precision="bf16")
    sessions.openvino_request("net.xml")
    assert [(file, device) for file, device, _ in given] == [("net.xml", "CPU")] * 2
    assert (given[0][2]["INFERENCE_NUM_THREADS"], given[0][2]["INFERENCE_PRECISION_HINT"]) == (3, "bf16")
    assert "INFERENCE_NUM_THREADS" not in given[1][2] and given[1][2]["INFERENCE_PRECISION_HINT"] == "f32"
