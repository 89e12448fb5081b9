"""Tensors of checkpoints that are unlike a net's own: of other kinds, shared, views, or named by what wrapped the net."""

import warnings

import pytest
import timm
import torch
from safetensors import safe_open
from torch import nn

import involution.models  # noqa: F401
from involution.commands.main import main
from involution.models import checkpoints, named
from involution.models.checkpoints import CheckpointError

NAME = "rednet14_eighth"


@pytest.fixture(scope="module")
def state():
    return timm.create_model(NAME, num_classes=3).state_dict()


def quantised(value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


NOT_PLAIN = [
    (quantised, "fc.weight is quantised; save value.dequantize() in its place"),
    (torch.Tensor.to_sparse, "fc.weight is sparse; save value.to_dense() in its place"),
    (lambda value: value.to("meta"), "fc.weight is on the device meta and has no numbers; save the net again once"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("change", "words"), NOT_PLAIN, ids=["quantised", "sparse", "meta"])
def test_tensors_that_are_no_tables_of_numbers_are_refused(state, tmp_path, capsys, change, words):
    file, out = tmp_path / "net.pth", tmp_path / "out.safetensors"
    changed = {**state, "fc.weight": change(state["fc.weight"])}
    torch.save(changed, file)
    assert main(["convert", str(file), str(out)]) == 2
    assert f"{file}: expected plain tensors, but {words}" in capsys.readouterr().err
    assert main(["export", NAME, "--weights", str(file), "--size", "32", "--output", str(tmp_path / "net.onnx")]) == 2
    assert words in capsys.readouterr().err
    for ending in (".safetensors", ".pth"):
        with pytest.raises(CheckpointError, match="expected plain tensors"):
            checkpoints.write(changed, tmp_path / f"out{ending}")
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]


def reich(prefix, weight):
    """The weights of an involution of ChristophReich1996's."""
    norm = {
        f"{prefix}sigma_mapping.0.{name}": torch.ones(4) for name in ("weight", "bias", "running_mean", "running_var")
    }
    return {
        f"{prefix}reduce_mapping.weight": weight,
        **norm,
        f"{prefix}span_mapping.weight": torch.randn(9, 4, 1, 1),
    }


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_tied_weights_and_views_are_written(tmp_path, ending):
    tied, view = torch.randn(4, 16, 1, 1), torch.arange(1_000_000.0)[5:8]
    file, out = tmp_path / "net.pth", tmp_path / f"out{ending}"
    given = {**reich("a.", tied), **reich("b.", tied), "transposed": tied.flatten(1).t(), "view": view}
    torch.save(given, file)
    assert main(["convert", str(file), str(out), "--layout", "layers", "--quiet"]) == 0
    found = checkpoints.read(out)
    for name in ("a", "b"):
        assert torch.equal(found[f"{name}.kernel_generator.reduce.weight"], tied)
    assert torch.equal(found["transposed"], given["transposed"]) and found["view"].tolist() == [5, 6, 7]
    assert out.stat().st_size < 20_000


def test_what_torch_save_writes_once_stays_one(tmp_path):
    weight = torch.randn(100, 100)
    checkpoints.write({"a": weight, "b": weight}, tmp_path / "tied.pth")
    assert (tmp_path / "tied.pth").stat().st_size < 1.5 * weight.nbytes


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod."]
)
def test_names_in_front_of_all_others_are_taken_off(state, tmp_path, capsys, prefix):
    file, out = tmp_path / "net.pth", tmp_path / "out.safetensors"
    wrapped = {f"{prefix}{name}": value for name, value in state.items()}
    if prefix.startswith("model."):
        wrapped["loss.weight"] = torch.ones(3)
    torch.save(wrapped, file)
    assert main(["convert", str(file), str(out)]) == 0
    said = capsys.readouterr().out
    assert "fc.bias -> fc.bias (3,)" in said and ("loss.weight left out" in said) == ("loss.weight" in wrapped)
    with safe_open(out, "pt") as written:
        assert set(written.keys()) == state.keys()
    loaded = named.classifier(NAME, file).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_a_compiled_net_is_named_as_pytorch_names_it(state):
    compiled = torch.compile(nn.Sequential(nn.Conv2d(1, 1, 1))).state_dict()
    assert list(compiled) == ["_orig_mod.0.weight", "_orig_mod.0.bias"]


def test_averages_of_a_net_are_its_weights(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    torch.save(torch.optim.swa_utils.AveragedModel(net).state_dict(), tmp_path / "averages.pth")
    found = checkpoints.read(tmp_path / "averages.pth")
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in net.state_dict().items())


def test_a_part_that_is_named_module_keeps_its_name(tmp_path):
    given = {**reich("module.inv.", torch.randn(4, 16, 1, 1)), "inv.x": torch.ones(1), "module.inv.x": torch.zeros(1)}
    torch.save(given, tmp_path / "net.pth")
    assert checkpoints.read(tmp_path / "net.pth").keys() == given.keys()
    out = tmp_path / "out.safetensors"
    assert main(["convert", str(tmp_path / "net.pth"), str(out), "--layout", "layers", "--quiet"]) == 0
    found = checkpoints.read(out)
    assert found["inv.x"] == 1 and found["module.inv.x"] == 0
    assert "module.inv.kernel_generator.reduce.weight" in found


def test_a_rednet_inside_another_net(state):
    words = r"these are not the weights of a RedNet: expected keys such as 'layer1\.0\..*, got 'net\.conv1\..*; of one inside"
    with pytest.raises(CheckpointError, match=words):
        checkpoints.to_timm({f"net.{name}": value for name, value in state.items()})


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool])
def test_numbers_of_another_kind_are_refused(state, tmp_path, dtype):
    changed = {**state, "fc.weight": state["fc.weight"].to(dtype)}
    words = f"fc.weight has numbers of {str(dtype).removeprefix('torch.')} instead of float32"
    assert checkpoints.misfit(changed, state) == words
    torch.save(changed, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=words):
        checkpoints.to_timm(checkpoints.read(tmp_path / "net.pth"))
    with pytest.raises(CheckpointError, match=words):
        named.classifier(NAME, tmp_path / "net.pth")


def test_floating_numbers_of_every_width_fit_and_counters_may_have_fractions(state):
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn):
        assert checkpoints.misfit({name: value.to(dtype) for name, value in state.items()}, state) == ""
    changed = {**state, "bn1.num_batches_tracked": torch.tensor(1j)}
    assert checkpoints.misfit(changed, state) == "bn1.num_batches_tracked has numbers of complex64 instead of int64"
