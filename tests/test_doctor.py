import re
import tomllib
from pathlib import Path

import pytest
import torch

from involution import backends
from involution.commands import doctor
from involution.commands.main import main


def test_doctor_names_the_serving_backend_and_the_reasons(capsys, monkeypatch):
    class Picky:
        name = "picky"

        @staticmethod
        def unsupported(request):
            return None if request.dtype == torch.float32 else "it only knows float32"

    monkeypatch.setattr(backends, "_BACKENDS", dict(backends._BACKENDS))
    backends.register(Picky)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "float32   served by picky" in text
    assert "picky does not serve for bfloat16, float16, float64: it only knows float32" in text
    assert "extra models: complete" in text


def test_a_preferred_backend_is_named_first(monkeypatch):
    with backends.use("reference"):
        assert "  float32   served by reference" in doctor.report()
        assert backends.available()[0] == next(iter(backends.explain())) == "reference"
    monkeypatch.setattr(backends, "_preferred", "fastest")
    with pytest.raises(ValueError, match="INVOLUTION_BACKEND names an unknown backend 'fastest'; expected one of"):
        doctor.report()


def test_doctor_names_a_missing_extra(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda module: None if module == "timm" else object())
    assert 'extra models: missing timm; pip install "involution[models]"' in doctor.report()


def test_doctor_lists_every_extra_and_all_that_it_installs():
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    extras = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    # Documentation and the sum of all are no features.
    assert doctor._EXTRAS.keys() == extras.keys() - {"docs", "all"}
    imported = {"scikit-learn": "sklearn"}
    for extra, modules in doctor._EXTRAS.items():
        packages = [re.split(r"[\[>=]", package)[0] for package in extras[extra]]
        names = [imported.get(name, name).replace("-", "_") for name in packages if name != "involution"]
        assert sorted(modules) == sorted(names), extra


def test_unknown_command_and_version(capsys):
    assert main(["train"]) == 2
    assert "unknown command 'train'; expected one of" in capsys.readouterr().err
    assert main(["--version"]) == 0
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", "now"])
