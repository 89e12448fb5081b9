"""Checkpoints that are damaged, foreign or hostile: a sentence each, nothing run."""

import http.server
import pickle
import threading
from functools import partial

import pytest
import torch
from trainings import TINY, checkpoint, refusal

from involution.commands.main import main
from involution.models.checkpoints import CheckpointError, read, read_training


class Attack:
    """What a pickle does that runs code when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def write_hostile(kind, path, run, mark):
    """Write a file in the place of a checkpoint."""
    whole = (run / "checkpoints" / "last.ckpt").read_bytes()
    content = checkpoint(run)
    if kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("epoch: 3\n" * 100)
    elif kind == "flipped":
        path.write_bytes(bytes(b ^ 0xFF if 200 <= i < 400 else b for i, b in enumerate(whole)))
    elif kind == "weights alone":
        torch.save(content["state_dict"], path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "wrong kinds":
        torch.save({**content, "epoch": "three", "loops": []}, path)
    elif kind == "code":
        torch.save({**content, "callbacks": Attack(mark)}, path)
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps(Attack(mark), protocol=2))
    elif kind == "folder":
        path.mkdir()


KINDS = [
    "cut",
    "empty",
    "text",
    "flipped",
    "weights alone",
    "list",
    "wrong kinds",
    "code",
    "plain pickle",
    "folder",
    "missing",
]


@pytest.mark.parametrize(
    ("command", "kind"),
    [*(("fit", kind) for kind in KINDS), ("validate", "code"), ("validate", "cut"), ("test", "text")],
)
def test_no_checkpoint_is_a_sentence(run, tmp_path, capsys, command, kind):
    path, mark = tmp_path / "x.ckpt", tmp_path / "mark"
    write_hostile(kind, path, run, mark)
    assert main([command, *TINY, f"--run={tmp_path / 'run'}", f"--ckpt_path={path}"]) == 2
    words = refusal(capsys)
    assert str(path) in words and not mark.exists()
    expected = {
        "code": "was refused, because loading it could run code",
        "plain pickle": "was refused, because loading it could run code",
        "weights alone": "is no checkpoint of a training: the key 'epoch' is missing; expected a file such as",
        "list": "is no checkpoint of a training: it must be a mapping",
        "wrong kinds": "is no checkpoint of a training: epoch must be a whole number",
        "folder": "there is no checkpoint at",
        "missing": "there is no checkpoint at",
    }
    assert expected.get(kind, "is damaged or no checkpoint: ") in words


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--model.optimizer=torch.optim.Adam"],
            "was made with torch.optim.sgd.SGD and cannot be gone on from with torch.optim.adam.Adam; take the same",
        ),
        (
            ["--trainer.max_epochs=1"],
            "has 2 epochs behind it and the training shall have 1; raise --trainer.max_epochs",
        ),
        (
            [
                "--model.model_args={layers: [1, 1, 1, 1], stem: small, channels: [16, 16, 16, 16], in_chans: 1, "
                "kernel_size: 3, group_channels: 4}"
            ],
            "does not fit the model: size mismatch for ",
        ),
        (
            [
                "--model.model_args={layers: [1, 1, 1, 1], stem: small, channels: [8, 8, 8, 8], in_chans: 3, "
                "kernel_size: 3, group_channels: 4}"
            ],
            "does not fit the model",
        ),
    ],
    ids=["optimiser", "epochs", "width", "channels"],
)
def test_another_training_cannot_go_on_from_it(run, tmp_path, capsys, flags, words):
    path = f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}"
    assert main(["fit", *TINY, f"--run={tmp_path / 'run'}", path, *flags]) == 2
    last = refusal(capsys)
    assert words in last and len(last) < 700
    trained = f"build the model as it was trained, with --config {run}/logs/version_0/config.yaml"
    assert ("does not fit" in words) == (trained in last)


def test_the_same_training_goes_on_and_a_finished_one_ends(run, tmp_path):
    path = f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}"
    assert main(["fit", *TINY, f"--run={tmp_path / 'run'}", path, "--trainer.max_epochs=3"]) == 0
    assert main(["fit", *TINY, f"--run={tmp_path / 'same'}", path]) == 0


def test_damage_inside_a_checkpoint_of_the_right_form(run, tmp_path, capsys):
    content = checkpoint(run)
    for key, value in (("loops", {}), ("optimizer_states", [{}]), ("lr_schedulers", 3), ("callbacks", {"x": 1})):
        torch.save({**content, key: value}, tmp_path / "x.ckpt")
        flags = [f"--run={tmp_path / key}", f"--ckpt_path={tmp_path / 'x.ckpt'}", "--trainer.max_epochs=3"]
        status = main(["fit", *TINY, *flags])
        if key != "callbacks":
            assert status == 2 and f"{tmp_path / 'x.ckpt'} cannot be gone on from: " in refusal(capsys)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_random_weights_are_judged_only_when_asked_for(run, tmp_path, capsys, command):
    assert main([command, *TINY, f"--run={run}"]) == 2
    assert f"{command} judges trained weights; say which with --ckpt_path: best or last" in refusal(capsys)
    assert main([command, *TINY, f"--run={tmp_path}", "--ckpt_path=none"]) == 0
    assert main([command, *TINY, f"--run={run}", "--ckpt_path=last"]) == 0
    assert main([command, *TINY, f"--run={tmp_path}", "--ckpt_path=last"]) == 2
    assert f"there is no checkpoint at {tmp_path / 'checkpoints' / 'last.ckpt'}; name the --run" in refusal(capsys)


def test_best_without_one_and_last_without_one(tmp_path, capsys):
    assert main(["fit", *TINY, f"--run={tmp_path / 'a'}", "--ckpt_path=best"]) == 2
    assert "there is no checkpoint at " in refusal(capsys)
    for command in ("fit", "validate"):
        assert main([command, *TINY, f"--run={tmp_path / 'a'}", "--ckpt_path=hpc"]) == 2
        assert "no HPC checkpoint was found" in refusal(capsys)
    # The first of many equal commands.
    assert main(["fit", *TINY, f"--run={tmp_path / 'b'}", "--ckpt_path=last", "--trainer.max_epochs=1"]) == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("weights alone", "wrong kinds", "code")])
@pytest.mark.parametrize("ending", ["ckpt", "safetensors", "pdparams"])
def test_weights_to_convert(run, tmp_path, capsys, kind, ending):
    path, mark = tmp_path / f"x.{ending}", tmp_path / "mark"
    write_hostile(kind, path, run, mark)
    assert main(["convert", str(path), str(tmp_path / "out.safetensors")]) == 2
    assert str(path) in refusal(capsys) and not mark.exists() and not (tmp_path / "out.safetensors").exists()


def test_a_checkpoint_from_elsewhere_runs_no_code(run, tmp_path, monkeypatch, capsys):
    """Lightning's default lets one that comes by HTTP do so."""
    path, mark = tmp_path / "x.ckpt", tmp_path / "mark"
    write_hostile("code", path, run, mark)
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
        address = f"http://127.0.0.1:{server.server_port}/x.ckpt"
        status = main(["fit", *TINY, f"--run={tmp_path / 'run'}", f"--ckpt_path={address}"])
        server.shutdown()
    assert status == 2 and address in refusal(capsys) and not mark.exists()


def test_what_a_checkpoint_calls_an_old_one_is_not_removed(run, tmp_path):
    """ModelCheckpoint believes the path in it, and would remove a folder with all in it."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "x.ckpt").touch()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    content = checkpoint(run)
    for key, state in content["callbacks"].items():
        if "RunCheckpoint" in key:
            outside = f"{tmp_path}/run/checkpoints/../../precious"
            state.update(best_model_path=outside, last_model_path=outside, kth_best_model_path=outside)
            state.update(best_k_models={outside: torch.tensor(-1.0)}, best_model_score=torch.tensor(-1.0))
            state["dirpath"] = str(tmp_path / "run" / "checkpoints")
    torch.save(content, tmp_path / "x.ckpt")
    flags = [f"--run={tmp_path / 'run'}", f"--ckpt_path={tmp_path / 'x.ckpt'}", "--trainer.max_epochs=3"]
    assert main(["fit", *TINY, *flags]) == 0
    assert (precious / "x.ckpt").exists() and (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()


def test_names_that_are_no_text(tmp_path):
    torch.save({3: torch.ones(1), "a": torch.ones(2)}, tmp_path / "x.pth")
    assert list(read(tmp_path / "x.pth")) == ["a"]
    with pytest.raises(CheckpointError, match="is no checkpoint of a training"):
        read_training(tmp_path / "x.pth")
