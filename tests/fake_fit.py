"""Stands for ``involution fit`` where a test is about the queue: a training of milliseconds that keeps the same files.

It writes down every epoch that it trains, so that a test sees what was trained twice. The environment says how long an epoch
takes (FAKE_EPOCH_S), where to write down (FAKE_JOURNAL), and which saved net to leave (FAKE_MODEL).
"""

import fcntl
import os
import shutil
import sys
import time
from pathlib import Path


def main():
    flags = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=False))
    run = Path(flags["--run"])
    epochs = int(os.environ["FAKE_EPOCHS"])
    descriptor = os.open(run / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    versions = sorted(run.glob("logs/version_*"))
    done = sum(len((v / "metrics.csv").read_text().splitlines()) - 1 for v in versions if (v / "metrics.csv").exists())
    folder = run / "logs" / f"version_{len(versions)}"
    folder.mkdir(parents=True)
    (run / "checkpoints").mkdir(exist_ok=True)
    shutil.copy(flags["--config"], folder / "config.yaml")
    if "fails" in run.name:
        print("the disk is full")
        sys.exit(2)
    if "diverges" in run.name:
        print("the training diverged")
        sys.exit(3)
    if sys.argv[1] == "test":
        (folder / "metrics.csv").write_text(f"epoch,test_accuracy\n{done},0.25\n")
        os.unlink(run / ".lock")
        return
    with (folder / "metrics.csv").open("w", buffering=1) as metrics, open(os.environ["FAKE_JOURNAL"], "a") as journal:
        metrics.write("epoch,val_accuracy,val_loss\n")
        for epoch in range(done, epochs):
            time.sleep(float(os.environ["FAKE_EPOCH_S"]))
            journal.write(f"{run.name} {epoch}\n")
            journal.flush()
            metrics.write(f"{epoch},{0.5 + 0.01 * epoch},{2.0 - 0.1 * epoch}\n")
            (run / "checkpoints" / "last.ckpt").touch()
    shutil.copytree(os.environ["FAKE_MODEL"], run / "model")
    os.unlink(run / ".lock")


main()
