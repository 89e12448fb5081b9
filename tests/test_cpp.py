"""A program without Python runs a net with involutions: examples/cpp."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from involution import Involution2d
from involution.backends import native

TORCH = Path(torch.__file__).parent
SOURCE = Path(__file__).parent.parent / "examples/cpp/run.cpp"

pytestmark = [
    pytest.mark.skipif(native.library() is None, reason="the native backend was not built"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    built = tmp_path_factory.mktemp("cpp") / "run"
    command = ["g++", "-std=c++20", "-O0", SOURCE, "-o", built]
    command += [f"-I{TORCH}/include", f"-I{TORCH}/include/torch/csrc/api/include", f"-L{TORCH}/lib"]
    command += [f"-Wl,-rpath,{TORCH}/lib,--disable-new-dtags", "-Wl,--no-as-needed"]
    command += ["-ltorch", "-ltorch_cpu", "-lc10", "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return built


def run(program, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    torch.manual_seed(0)
    net = nn.Sequential(
        Involution2d(3, 16, kernel_size=3, stride=2), nn.ReLU(), Involution2d(16, kernel_size=7), nn.Flatten()
    )
    image = torch.ones(1, 3, 12, 12)
    with torch.no_grad():
        file = str(tmp_path_factory.mktemp("package") / "net.pt2")
        torch._inductor.aoti_compile_and_package(torch.export.export(net.eval(), (image,)), package_path=file)
        return file, net(image).flatten()[:10]


def test_it_gives_what_python_gives(program, package):
    file, expected = package
    done = run(program, native.library(), file, 12)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.tensor([float(v) for v in done.stdout.split()]), expected, rtol=1e-4, atol=2e-6)


def test_it_says_what_is_missing(program, package):
    file, _ = package
    done = run(program, "nowhere.so", file, 12)
    assert done.returncode == 1
    assert "nowhere.so: cannot open shared object file" in done.stderr
    done = run(program, TORCH / "lib/libc10.so", file, 12)
    assert "is not involution's library" in done.stderr
    assert run(program).returncode == 2
