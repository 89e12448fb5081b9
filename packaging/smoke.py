"""What an installed wheel has to do with torch alone beside it: run by cibuildwheel and by the tests, in no checkout."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

import involution
from involution import Involution2d, backends, involution2d
from involution.backends import native
from involution.recipes import find

package = Path(involution.__file__).parent
assert "site-packages" in package.parts, f"{package} is no installed package"
assert involution.__version__ == version("involution")

# Beside the modules: what other tools read and compile, weights, recipes.
for name in ("py.typed", "backends/native/include/involution_engine.h", "export/openvino_extension/extension.cpp"):
    assert (package / name).is_file(), f"{name} is missing"
weights = sorted(folder.name for folder in (package / "weights").iterdir())
assert "rednet26_half.imagenette" in weights
assert all((package / "weights" / name / "model.safetensors").stat().st_size > 100_000 for name in weights)
recipe = find("recipes/finetune/folder.yaml")
assert recipe.is_file() and package in recipe.parents

# The definition: every pixel's own weighted sum of its neighbourhood.
torch.manual_seed(0)
x, kernel = torch.randn(1, 4, 5, 6), torch.randn(1, 2, 3, 3, 5, 6)
neighbours = torch.nn.functional.unfold(x, 3, padding=1).view(1, 2, 2, 9, 5, 6)
expected = (kernel.view(1, 2, 1, 9, 5, 6) * neighbours).sum(3).view(1, 4, 5, 6)
torch.testing.assert_close(involution2d(x, kernel), expected)
layer = Involution2d(32, kernel_size=7)
layer(torch.randn(2, 32, 9, 9)).sum().backward()
assert all(p.grad is not None for p in layer.parameters())
if "--pure" not in sys.argv:
    assert native.library() is not None and package in native.library().parents, "the kernels are missing"
    assert backends.explain("cpu")["native"] is None, backends.explain("cpu")

command = Path(sys.executable).with_name("involution")
printed = subprocess.run([command, "--help"], check=True, capture_output=True, text=True).stdout
assert "$ involution predict" in printed
subprocess.run([sys.executable, "-m", "involution", "doctor"], check=True, capture_output=True)
print(
    f"involution {involution.__version__} of {package}: {', '.join(backends.available())}; weights {', '.join(weights)}"
)
