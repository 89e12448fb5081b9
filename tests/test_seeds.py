"""The seed of a training reaches its data, is kept, and is the one that a study asks for."""

import pytest
import yaml
from trainings import TINY

pytest.importorskip("lightning")

from involution.commands.main import main
from involution.data import SmallImages
from involution.recipes import load
from involution.studies.declared.results import difference_of_plans


@pytest.mark.parametrize(
    ("flags", "seed"),
    [
        ([], 0),
        (["--seed_everything=3"], 3),
        (["--seed_everything=false"], 0),
        (["--seed_everything=3", "--data.seed=0"], 0),
        (["--data.seed=5"], 5),
    ],
)
def test_the_data_have_the_seed_of_the_training(flags, seed, tmp_path, monkeypatch):
    seen = []
    load_batches = SmallImages.train_dataloader
    monkeypatch.setattr(SmallImages, "train_dataloader", lambda self: [seen.append(self.seed), load_batches(self)][1])
    assert main(["fit", *TINY, f"--run={tmp_path}", "--trainer.max_epochs=1", *flags]) == 0
    assert seen == [seed]
    kept = load(tmp_path / "logs" / "version_0" / "config.yaml")
    assert kept["data"]["init_args"]["seed"] == seed


def test_what_a_command_trained_is_what_a_study_asks_for(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["fit", *TINY, "--print_config", "--trainer.max_epochs=1"])
    plan = yaml.safe_load(capsys.readouterr().out)
    assert plan["data"]["init_args"]["seed"] is None
    plan["seed_everything"] = plan["data"]["init_args"]["seed"] = 3
    assert main(["fit", *TINY, f"--run={tmp_path}", "--trainer.max_epochs=1", "--seed_everything=3"]) == 0
    kept = load(tmp_path / "logs" / "version_0" / "config.yaml")
    assert difference_of_plans(plan, kept) == ""


def test_without_a_command_it_is_zero():
    assert SmallImages("digits").seed == SmallImages("digits", seed=0).seed == 0
