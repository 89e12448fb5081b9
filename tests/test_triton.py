"""The Triton backend without a GPU: its kernels in the interpreter, ahead-of-time compiles, its sentences."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from involution import backends
from involution.backends.triton import probe
from involution.commands import doctor
from involution.geometry import to_window

ROOT = Path(__file__).parent.parent
GPU = torch.device("cuda", 0)


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("chosen", ["test_contractions", "not test_contractions"])
def test_in_the_interpreter(chosen):
    """All of tests/triton, in two processes of about the same length: each has to import and compile on its own."""
    done = run("pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "tests/triton", "-k", chosen, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_compiles_within_its_budgets_without_a_gpu(target):
    done = run("benchmarks.compile_check", "--quick", "--target", target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n0 breaches" in done.stdout


def test_the_compile_check_finds_breaches(capsys):
    from benchmarks import compile_check

    row = compile_check.contraction("forward", 16, (8, 8), taps=3)
    built = compile_check.build(row, "sm_90")
    assert compile_check.breaches(row, built, "sm_90") == []
    demanding = row._replace(registers=8, wide_loads=99, tensor_cores=True)
    assert compile_check.breaches(demanding, built._replace(spills=3, shared=8192), "sm_90") == [
        "3 spills",
        f"{built.registers} registers, budget 8",
        "8192 bytes of shared memory, budget 2048",
        f"{built.wide_loads} loads of 16 bytes, promised 99",
        "no tensor-core instruction",
    ]


@pytest.fixture
def fresh(monkeypatch):
    """Let every probe and choice be made anew, in this test and after it."""
    caches = (probe.fault, backends._warn)
    for cache in caches:
        cache.cache_clear()
    yield monkeypatch
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def one_gpu(monkeypatch):
    """Let PyTorch name a GPU, which nothing can be launched on."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)


@pytest.fixture
def triton_build():
    """Return Triton's module that builds launchers; newer versions remember the compiler."""
    build = pytest.importorskip("triton.runtime.build")
    forget = getattr(getattr(build, "_find_compiler", None), "cache_clear", lambda: None)
    forget()
    yield build
    forget()


@pytest.fixture
def h100(monkeypatch):
    """Let Triton compile for an H100: its own way from a call's arguments to machine code, all but the launch."""
    driver = pytest.importorskip("triton.runtime").driver
    target = pytest.importorskip("triton.backends.compiler").GPUTarget("cuda", 90, 32)

    class Driver:
        get_current_target = staticmethod(lambda: target)
        get_current_device = staticmethod(lambda: 0)
        get_current_stream = staticmethod(lambda device: 0)

    monkeypatch.setattr(driver, "_active", Driver())


def test_the_compile_check_compiles_what_a_call_launches(h100):
    from benchmarks import compile_check

    for check in (
        compile_check.contraction("forward", 16, (6, 8), batch=2, taps=3),
        compile_check.contraction("input_gradient", 16, (5, 7), batch=1, taps=3, stride=2, channels_last=False),
        compile_check.contraction("kernel_gradient", 12, (1, 8), group_channels=4, taps=3, dtype=torch.float32),
        compile_check.generation(32, 5, batch=2, taps=3),
    ):
        launch = check.launch(32)
        tensors = [torch.empty(0, dtype=dtype) for dtype in check.dtypes]
        source = launch.kernel.warmup(*tensors, *launch.arguments, grid=(1,), **launch.options).src
        attributes = {place: values for place, values in source.attrs.items() if values}
        assert (source.signature, source.constants, attributes) == compile_check.signature(check, 32), check.name


@pytest.mark.parametrize("kernel", ["forward", "input_gradient", "kernel_gradient"])
@pytest.mark.parametrize("stride", [1, 2])
def test_other_sizes_are_not_compiled_anew(kernel, stride):
    from benchmarks import compile_check

    signatures = [
        compile_check.signature(
            compile_check.contraction(kernel, size=size, batch=batch, taps=3, stride=stride, dtype=torch.float32), 32
        )
        for size, batch in (((64, 48), 8), ((67, 49), 9), ((50, 86), 16))
    ]
    assert signatures[0] == signatures[1] == signatures[2]


def test_says_why_it_does_not_serve_the_cpu():
    assert backends.explain("cpu")["triton"] == "it serves GPU tensors (NVIDIA CUDA or AMD ROCm), got a tensor on cpu"


def test_says_that_triton_is_missing(fresh):
    fresh.setattr(probe, "find_spec", lambda name: None)
    assert backends.explain(GPU)["triton"] == (
        "Triton is not installed; install it with: pip install triton (on Windows: triton-windows)"
    )


def test_says_that_the_gpu_is_too_old(fresh):
    fresh.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert backends.explain(GPU)["triton"] == "the GPU cuda:0 has compute capability 7.5; its kernels need 8.0 or newer"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeError("Failed to find C compiler. Please specify via CC environment variable"),
            "Triton cannot launch a kernel on cuda:0: Failed to find C compiler. Please specify via CC environment "
            "variable; install a C compiler (Debian: apt install gcc) or name one in CC",
        ),
        (AssertionError(), "Triton cannot launch a kernel on cuda:0: AssertionError"),
    ],
)
def test_says_what_triton_raised(fresh, error, words):
    def launch(device):
        raise error

    fresh.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    fresh.setattr(probe, "_launch", launch)
    assert backends.explain(GPU)["triton"] == words


def test_says_that_there_is_no_driver(fresh):
    def capability(device):
        raise RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU.")

    fresh.setattr(torch.cuda, "get_device_capability", capability)
    assert "Found no NVIDIA driver on your system" in backends.explain(GPU)["triton"]


@pytest.mark.parametrize(
    ("compiler", "words"),
    [
        ("/bin/false", "/bin/false did not build its launcher; install a C compiler and Python's headers"),
        ("/bin/no-such-compiler", "/bin/no-such-compiler did not build its launcher; install a C compiler"),
        (None, "Failed to find C compiler"),
    ],
)
def test_says_that_the_launcher_cannot_be_built(fresh, triton_build, tmp_path, compiler, words):
    """Triton's own build of a module, with compilers that fail or are not there."""

    def launch(device):
        triton_build.compile_module_from_src("int nothing;", "nothing")

    fresh.setenv("TRITON_CACHE_DIR", str(tmp_path))
    fresh.setenv("PATH", str(tmp_path))
    if compiler is None:
        fresh.delenv("CC", raising=False)
    else:
        fresh.setenv("CC", compiler)
    fresh.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    fresh.setattr(probe, "_launch", launch)
    reason = backends.explain(GPU)["triton"]
    assert isinstance(reason, backends.Fault)
    assert reason.startswith(f"Triton cannot launch a kernel on cuda:0: {words}") and "CC" in reason


def test_a_full_gpu_says_nothing_about_triton(fresh, one_gpu):
    """The answer is not kept: as soon as there is memory the backend serves."""
    full = [True]

    def launch(device):
        if full[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has 0 bytes free.")

    fresh.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    fresh.setattr(probe, "_launch", launch)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        backends.choose("auto", request(GPU))
    assert "cuda:0 (a GPU)\n  no memory is left on it to try a kernel; end what holds it" in doctor.report()
    full[0] = False
    assert backends.choose("auto", request(GPU)).name == "triton"
    assert "cuda:0 (a GPU)\n  float32   served by triton" in doctor.report()


def test_doctor_says_what_serves_a_gpu_that_is_too_old(fresh, one_gpu):
    fresh.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    report = doctor.report()
    assert "cuda:0 (a GPU)\n  float32   served by reference" in report
    assert "the GPU cuda:0 has compute capability 7.0; its kernels need 8.0 or newer" in report


def request(device, dtype=torch.float32):
    return backends.Request(device, dtype, 16, to_window(7, 1, "same", 1, 2))


def test_auto_falls_back_with_one_warning(fresh):
    fresh.setattr(probe, "find_spec", lambda name: None)
    with pytest.warns(
        UserWarning, match="the triton backend cannot serve, a slower one takes its place: Triton is not"
    ):
        assert backends.choose("auto", request(GPU)).name == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Neither again, nor for a dtype that it never serves, nor for another device.
        assert backends.choose("auto", request(torch.device("cuda", 1))).name == "reference"
        assert backends.choose("auto", request(GPU, torch.float64)).name == "reference"
        backends.choose("auto", request(torch.device("cpu")))
    with pytest.raises(RuntimeError, match="the triton backend cannot serve this call: Triton is not installed"):
        backends.choose("triton", request(GPU))


def test_without_any_backend_the_request_is_named(fresh):
    fresh.setattr(backends, "_BACKENDS", {"triton": backends.triton})
    with pytest.raises(RuntimeError, match="no backend serves this call: Request"):
        backends.choose("auto", request(torch.device("cpu")))


def test_the_kernels_are_imported_when_they_are_needed():
    code = "import sys, involution; involution.backends.explain('cpu'); print('involution.backends.triton.taps' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_doctor_names_it(fresh):
    assert "triton does not serve: it serves GPU tensors (NVIDIA CUDA or AMD ROCm)" in doctor.report()


def test_launches_on_the_device_of_the_tensors():
    there = SimpleNamespace(is_cuda=True, device=torch.device("cuda", 1))
    assert backends.triton.on_device(there).idx == 1
    here = backends.triton.on_device(torch.empty(1))
    assert not isinstance(here, torch.cuda.device)
