"""The wheel: what is inside and nothing else, and that it works in an environment that has torch alone."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# All that may be inside; every pattern has to be needed.
INSIDE = (
    r"involution/(\w+/)*\w+\.py",
    r"involution_cli/\w+\.py",
    r"involution/py\.typed",
    r"involution/browser/page/\w+\.(html|css|mjs)",
    r"involution/studies/comparison/report\.html\.jinja",
    r"involution/weights/\w+\.\w+/(README\.md|config\.json|model\.safetensors)",
    r"involution/_shipped/recipes/\w+/\w+\.yaml",
    r"involution/backends/native/include/involution_engine\.h",
    r"involution/backends/native/(lib)?involution_native\.(so|dylib)",
    r"involution/export/openvino_extension/extension\.cpp",
    r"involution-[\w.]+\.dist-info/(METADATA|WHEEL|RECORD|entry_points\.txt|licenses/LICENSE)",
)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """Build it as a release does, on what was compiled for the installation of this checkout."""
    compiled = list((ROOT / "build").glob("py3-none-*/libinvolution_native.*"))
    if not compiled:
        pytest.skip("the kernels were not compiled in this checkout's build folder, which takes minutes; make does it")
    if not shutil.which("cmake") or not shutil.which("ninja"):
        pytest.skip("cmake and ninja are needed to build without a network")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (file,) = out.glob("*.whl")
    return file


def needed_by(name, found):
    """Add the distributions that one needs, without its extras, to those that are found."""
    distribution = metadata.distribution(name)
    if distribution.metadata["Name"] in found:
        return found
    found[distribution.metadata["Name"]] = distribution
    for requirement in distribution.requires or ():
        if "extra ==" not in requirement:
            try:
                needed_by(re.match(r"[\w.-]+", requirement)[0], found)
            except metadata.PackageNotFoundError:
                # For another platform or Python.
                continue
    return found


@pytest.fixture
def empty_environment(tmp_path):
    """Make an environment that holds torch, what torch needs, and NumPy, and pip: nothing else of this one."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    for distribution in {**needed_by("torch", {}), **needed_by("numpy", {})}.values():
        for top in {Path(file.parts[0]) for file in distribution.files if file.parts[0] not in ("..", "__pycache__")}:
            source, target = Path(distribution.locate_file(top)), site / top
            if source.exists() and not target.exists():
                target.symlink_to(source)
    return tmp_path / "env"


@pytest.mark.wheel
def test_the_wheel_holds_what_it_must_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    unknown = [name for name in names if not any(re.fullmatch(pattern, name) for pattern in INSIDE)]
    assert not unknown
    for pattern in INSIDE:
        assert any(re.fullmatch(pattern, name) for name in names), pattern
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert sources <= set(names)
    recipes = {path.relative_to(ROOT / "recipes").as_posix() for path in (ROOT / "recipes").rglob("*.yaml")}
    shipped = {name.removeprefix("involution/_shipped/recipes/") for name in names if "/_shipped/recipes/" in name}
    assert shipped == recipes
    assert wheel.name.startswith(f"involution-{PROJECT['project']['version']}-py3-none-")
    # CONTRIBUTING says how large it is.
    assert wheel.stat().st_size < 26 * 2**20


@pytest.mark.wheel
def test_the_wheel_works_where_torch_alone_is(wheel, empty_environment, tmp_path):
    python = empty_environment / "bin" / "python"
    install = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-index",
        "--no-deps",
        wheel,
    ]
    subprocess.run(install, check=True)
    command = [python, "-I", str(ROOT / "packaging" / "smoke.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rednet26_half.imagenette" in done.stdout
    # What is not there is named with the extra that brings it.
    for module, words in (("models", 'pip install "involution[models]"'), ("keras", 'pip install "involution[keras]"')):
        done = subprocess.run([python, "-I", "-c", f"import involution.{module}"], capture_output=True, text=True)
        assert done.returncode == 1 and words in done.stderr.splitlines()[-1]


def test_the_recipe_of_conda_is_of_this_version():
    recipe = yaml.safe_load((ROOT / "packaging" / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == PROJECT["project"]["version"]
    run = recipe["requirements"]["run"]
    assert f"python {PROJECT['project']['requires-python']}" in run
    assert [f"py{need}" if need.startswith("torch") else need for need in PROJECT["project"]["dependencies"]] == [
        run[-1].replace("pytorch ", "pytorch")
    ]
    for file in (*recipe["tests"][1]["files"]["recipe"], recipe["source"]["path"]):
        assert (ROOT / "packaging" / "conda" / file).exists()
