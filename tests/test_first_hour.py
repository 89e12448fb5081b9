"""The page of the first hour as a reader follows it: every block in its order, in one empty folder."""

import json
import re
import shlex

import pages

PAGE = "first_hour.md"
# What is too much for a test, made small by flags behind those of the page.
SMALLER = {
    "fit": "--trainer.max_epochs 1 --trainer.limit_train_batches 1 --trainer.limit_val_batches 1 --data.num_workers 0",
    "benchmark": "--engines eager --processes 1 --rounds 1",
}


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
