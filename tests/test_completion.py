"""The completion of a shell, in that shell; and the help, which comes before PyTorch is imported."""

import contextlib
import shutil
import subprocess
import sys

import pytest

import involution_cli
from involution.commands.main import main
from involution_cli.commands import COMMANDS, overview


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    pytest.importorskip("shtab", reason='shtab is not installed; pip install "involution[train]"')
    file = tmp_path_factory.mktemp("completion") / "involution.bash"
    with file.open("w", encoding="utf-8") as written, contextlib.redirect_stdout(written):
        assert main(["completion", "bash"]) == 0
    return file


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["involution", "be"], {"benchmark"}),
        (["involution", ""], set(COMMANDS)),
        (["involution", "export", "--op"], {"--operator", "--opset"}),
        (["involution", "export", "--format", ""], {"pt2", "onnx", "openvino"}),
        (["involution", "export", "--no"], {"--no-fold", "--no-compiled"}),
        (["involution", "fit", "--trainer.p"], {"--trainer.precision"}),
    ],
)
def test_bash_completes(script, typed, expected):
    words = " ".join(f"'{word}'" for word in typed)
    asked = f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; _shtab_involution; printf '%s\\n' ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


def test_a_shell_that_is_not_known_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["completion", "fish"])
    assert ended.value.code == 2
    assert "bash" in capsys.readouterr().err


def test_the_help_imports_no_pytorch():
    program = "import sys, involution_cli; sys.argv[1:] = ['--help']; status = involution_cli.main(); print('torch' in sys.modules, status)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{overview()}\nFalse 0\n"


def test_everything_else_is_the_command_line_proper(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["involution", "nonsense"])
    monkeypatch.setattr("involution.commands.main.main", lambda: 7)
    assert involution_cli.main() == 7
