"""The page of the first hour as a reader follows it: every block in its order, in one empty folder."""

import json
import re
import shlex

import pages
import pytest

PAGE = "first_hour.md"
# What is too much for a test, made small by flags behind those of the page.
SMALLER = {
    "fit": "--trainer.max_epochs 1 --trainer.limit_train_batches 1 --trainer.limit_val_batches 1 --data.num_workers 0",
    "benchmark": "--engines eager --processes 1 --rounds 1",
}
# Of probabilities: a tenth of a percent.
TOLERANCE = 1e-3


def test_the_page_as_it_is_followed(tmp_path, monkeypatch, page_copies, copies):
    monkeypatch.chdir(tmp_path)
    run = []
    for block in pages.blocks("python", "console"):
        if block.page != PAGE:
            continue
        if block.language == "python":
            status, said = pages.run(page_copies, [block], tmp_path)
            assert status == 0, said
            continue
        for command in pages.commands(block):
            program, *words = shlex.split(command)
            if program == "pip":
                continue
            assert program == "involution"
            status, said = copies.run(*words, *SMALLER.get(words[0], "").split(), folder=str(tmp_path))
            assert status == 0, f"{block.place}: {said}"
            run.append(words[0])
    assert run == ["doctor", "fit", "predict", "predict", "visualize", "export", "benchmark"]
    assert len(list((tmp_path / "photos").glob("*/*/*.png"))) == 500
    check_probability(copies, tmp_path)
    described = json.loads((tmp_path / "runs/photos/model/config.json").read_text(encoding="utf-8"))
    assert described["num_classes"] == 10 and "seven" in described["label_names"]
    # What the text says is there.
    text = (pages.ROOT / "docs" / PAGE).read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/.-]+\.(?:png|csv|yaml|json))`", text)) - {"config.json"}
    assert named == {"logs/version_0/metrics.csv", "config.yaml", "environment.json", "maps/new-layer1.0.conv2.png"}
    for path in ("kernels.png", "photos.onnx", "maps/new-layer1.0.conv2.png", "maps/new-layer3.0.conv2.png"):
        assert (tmp_path / path).stat().st_size > 1000, path
    for name in ("metrics.csv", "config.yaml", "environment.json"):
        assert (tmp_path / "runs/photos/logs/version_0" / name).is_file(), name


def check_probability(copies, folder):
    """Compare what the page makes of an image and of the exported net with what `predict` says of it."""
    (text,) = (block.text for block in pages.blocks("python") if block.page == PAGE and "onnxruntime" in block.text)
    made = {}
    exec(text, made)
    predict = copies.start("predict", "new.png", "--model", "runs/photos/model", "--json", folder=str(folder))
    assert predict.wait()[0] == 0
    said = {found["class"]: found["probability"] for found in json.loads(predict.printed())["top"]}
    assert len(said) > 1
    for name, probability in zip(made["described"]["label_names"], made["probabilities"].tolist()):
        assert probability == pytest.approx(said.get(name, probability), abs=TOLERANCE), name


def test_the_report_has_the_epochs_of_every_start(tmp_path, monkeypatch, capsys):
    """A training that was interrupted eleven times: text order would put the last start before the third."""
    for number in (0, 1, 2, 9, 10):
        folder = tmp_path / "runs" / "photos" / "logs" / f"version_{number}"
        folder.mkdir(parents=True)
        # The epoch in which a start ended begins anew in the next one.
        rows = "".join(f"{epoch},{value}\n" for epoch, value in ((number, 0.5), (number + 1, number / 100)))
        (folder / "metrics.csv").write_text("epoch,val_accuracy\n" + rows)
    (tmp_path / "runs" / "photos" / "logs" / "version_11").mkdir()
    monkeypatch.chdir(tmp_path)
    (text,) = (b.text for b in pages.blocks("python") if b.page == PAGE and "metrics.csv" in b.text)
    exec(text.partition("\nnet = ")[0], {})
    said = capsys.readouterr().out.splitlines()
    shown = [(int(number), value) for number, value in re.findall(r"epoch (\d+): (\S+) %", "\n".join(said))]
    expected = {0: "50.0", 1: "50.0", 2: "50.0", 3: "2.0", 9: "50.0", 10: "50.0", 11: "10.0"}
    assert dict(shown) == expected and len(shown) == len(expected) and shown[-1][0] == 11
