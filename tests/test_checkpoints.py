"""Conversion of checkpoints in the layouts of the authors' code and of PaddleClas, and what hostile files get."""

import pickle

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open

import involution.models  # noqa: F401
from involution.commands.main import main
from involution.models import checkpoints, named
from involution.models.checkpoints import CheckpointError


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = timm.create_model("rednet26", num_classes=7)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model.eval()


# Keys of the released checkpoints with their shapes, as the authors' code names and makes them.
RELEASED = {
    "backbone.stem.0.conv.weight": (32, 3, 3, 3),
    "backbone.stem.0.bn.running_var": (32,),
    "backbone.stem.1.conv1.conv.weight": (8, 32, 1, 1),
    "backbone.stem.1.conv1.bn.bias": (8,),
    "backbone.stem.1.conv2.conv.weight": (18, 8, 1, 1),
    "backbone.stem.1.conv2.conv.bias": (18,),
    "backbone.stem.2.weight": (32,),
    "backbone.stem.4.conv.weight": (64, 32, 3, 3),
    "backbone.stem.4.bn.num_batches_tracked": (),
    "backbone.layer1.0.conv1.weight": (64, 64, 1, 1),
    "backbone.layer1.0.conv2.conv1.conv.weight": (16, 64, 1, 1),
    "backbone.layer1.0.conv2.conv1.bn.weight": (16,),
    "backbone.layer1.0.conv2.conv2.conv.weight": (196, 16, 1, 1),
    "backbone.layer1.0.conv2.conv2.conv.bias": (196,),
    "backbone.layer1.0.bn2.weight": (64,),
    "backbone.layer1.0.conv3.weight": (256, 64, 1, 1),
    "backbone.layer1.0.downsample.0.weight": (256, 64, 1, 1),
    "backbone.layer1.0.downsample.1.running_mean": (256,),
    "backbone.layer3.3.bn3.bias": (1024,),
    "head.fc.weight": (7, 2048),
    "head.fc.bias": (7,),
}


def test_the_authors_names_and_shapes(model):
    theirs = checkpoints.from_timm(model.state_dict(), "openmmlab")
    assert len(theirs) == len(model.state_dict())
    for key, shape in RELEASED.items():
        assert tuple(theirs[key].shape) == shape, key


def test_paddles_names_and_shapes(model):
    theirs = checkpoints.from_timm(model.state_dict(), "paddle")
    for key, shape in RELEASED.items():
        if key.endswith("num_batches_tracked"):
            continue
        key = key.removeprefix("backbone.").replace("head.fc", "fc")
        key = key.replace("running_mean", "_mean").replace("running_var", "_variance")
        assert tuple(theirs[key].shape) == (shape[::-1] if key == "fc.weight" else shape), key


@pytest.mark.parametrize(
    ("layout", "suffix"), [("openmmlab", ".pth"), ("paddle", ".pdparams"), ("timm", ".safetensors")]
)
def test_there_and_back_through_the_command(model, tmp_path, capsys, layout, suffix):
    ours, theirs, back = tmp_path / "ours.safetensors", tmp_path / f"theirs{suffix}", tmp_path / "back.safetensors"
    checkpoints.write(model.state_dict(), ours)
    assert main(["convert", str(ours), str(theirs), "--layout", layout]) == 0
    assert main(["convert", str(theirs), str(back)]) == 0
    assert 'timm.create_model("rednet26", num_classes=7, stem_kernel_size=3, kernel_size=7' in capsys.readouterr().out
    loaded = timm.create_model("rednet26", num_classes=7, checkpoint_path=str(back)).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(x), model(x))
    with safe_open(back, "pt") as file:
        assert file.metadata()["architecture"] == "rednet26"


def test_every_key_is_reported_and_detector_parts_are_left_out(model, tmp_path, capsys):
    state = checkpoints.from_timm(model.state_dict(), "openmmlab")
    state = {key: value for key, value in state.items() if not key.startswith("head.")}
    state["neck.lateral_convs.0.conv.weight"] = torch.zeros(256, 256, 1, 1)
    torch.save({"state_dict": state, "meta": {"epoch": 12}}, tmp_path / "detector.pth")
    assert main(["convert", str(tmp_path / "detector.pth"), str(tmp_path / "out.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "backbone.stem.1.conv2.conv.bias -> conv1.3.kernel_generator.span.bias (18,)" in out
    assert "neck.lateral_convs.0.conv.weight left out" in out
    assert "num_classes=0" in out


def test_kernel_sizes_are_read_off_the_weights():
    with torch.device("meta"):
        state = timm.create_model("rednet38", stem_kernel_size=7, kernel_size=5, num_classes=3).state_dict()
    converted = checkpoints.to_timm(checkpoints.from_timm(state, "openmmlab"))
    assert converted.model == "rednet38"
    assert converted.arguments == {"num_classes": 3, "stem_kernel_size": 7, "kernel_size": 5}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rednet26_half", {"channels": (32, 64, 128, 256)}),
        (
            "rednet14_eighth",
            {"layers": (1, 1, 1, 1), "channels": (8, 16, 32, 64), "group_channels": 8, "stem": "small"},
        ),
        ("rednet50", {"stem": "deep", "stem_width": 16, "in_chans": 1, "group_channels": 32, "kernel_size": 3}),
        ("rednet38", {"stem": "plain", "channels": (48, 96, 192, 384)}),
    ],
)
def test_widths_and_stems_are_read_off_the_weights(tmp_path, capsys, name, arguments):
    net = trained_elsewhere(name, **{**arguments, "num_classes": 3})
    ours, out = tmp_path / "ours.safetensors", tmp_path / "out.safetensors"
    checkpoints.write(net.state_dict(), ours)
    assert main(["convert", str(ours), str(out), "--quiet"]) == 0
    call = capsys.readouterr().out.splitlines()[-1]
    # What it prints is what makes the net again.
    loaded = eval(call, {"timm": timm})
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in net.state_dict().items())
    model = call.split('"')[1]
    assert checkpoints.to_timm(net.state_dict()).arguments.items() >= arguments.items()
    assert named.classifier(model, ours).num_classes == 3
    if arguments.get("stem") is None:
        theirs = checkpoints.from_timm(net.state_dict(), "openmmlab")
        assert checkpoints.to_timm(theirs).arguments["channels"] == arguments["channels"]


def paddleclas_layout():
    """Yield name and shape of every array in PaddleClas's RedNet26_pretrained.pdparams, as its code makes them."""

    def norm(name, channels):
        yield from ((f"{name}.{part}", (channels,)) for part in ("weight", "bias", "_mean", "_variance"))

    def involution(name, channels, size):
        yield f"{name}.conv1.conv.weight", (channels // 4, channels, 1, 1)
        yield from norm(f"{name}.conv1.bn", channels // 4)
        yield f"{name}.conv2.conv.weight", (size**2 * (channels // 16), channels // 4, 1, 1)
        yield f"{name}.conv2.conv.bias", (size**2 * (channels // 16),)

    yield "stem.0.conv.weight", (32, 3, 3, 3)
    yield from norm("stem.0.bn", 32)
    yield from involution("stem.1", 32, 3)
    yield from norm("stem.2", 32)
    yield "stem.4.conv.weight", (64, 32, 3, 3)
    yield from norm("stem.4.bn", 64)
    channels = 64
    for stage, (blocks, width) in enumerate(zip((1, 2, 4, 1), (64, 128, 256, 512), strict=True), start=1):
        for i in range(blocks):
            block = f"layer{stage}.{i}"
            yield f"{block}.conv1.weight", (width, channels, 1, 1)
            yield from norm(f"{block}.bn1", width)
            yield from involution(f"{block}.conv2", width, 7)
            yield from norm(f"{block}.bn2", width)
            yield f"{block}.conv3.weight", (4 * width, width, 1, 1)
            yield from norm(f"{block}.bn3", 4 * width)
            if i == 0:
                yield f"{block}.downsample.0.weight", (4 * width, channels, 1, 1)
                yield from norm(f"{block}.downsample.1", 4 * width)
            channels = 4 * width
    # Paddle multiplies from the other side.
    yield "fc.weight", (2048, 1000)
    yield "fc.bias", (1000,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_file_of_paddleclas_is_converted_and_created_as_the_pages_say(tmp_path, monkeypatch, capsys, protocol):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    arrays = {
        name: (random.uniform(0.5, 1.5, shape) if name.endswith("_variance") else 0.05 * random.standard_normal(shape))
        for name, shape in paddleclas_layout()
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    names = {"StructuredToParameterName@@": {name: f"param_{i}" for i, name in enumerate(arrays)}}
    with open("RedNet26_pretrained.pdparams", "wb") as file:
        pickle.dump({**arrays, **names}, file, protocol=protocol)
    assert main(["convert", "RedNet26_pretrained.pdparams", "rednet26.safetensors"]) == 0
    assert f"{len(arrays) + sum('_mean' in name for name in arrays)} tensors written" in capsys.readouterr().out
    overlay = {"file": "rednet26.safetensors"}
    net = timm.create_model("rednet26", pretrained=True, pretrained_cfg_overlay=overlay)
    state = net.state_dict()
    for ours, theirs in (
        ("conv1.3.kernel_generator.span.bias", "stem.1.conv2.conv.bias"),
        ("bn1.running_var", "stem.4.bn._variance"),
        ("layer3.3.conv2.kernel_generator.reduce.weight", "layer3.3.conv2.conv1.conv.weight"),
        ("layer2.0.downsample.1.running_mean", "layer2.0.downsample.1._mean"),
    ):
        assert np.array_equal(state[ours].numpy(), arrays[theirs]), ours
    assert np.array_equal(state["fc.weight"].numpy(), arrays["fc.weight"].T)


class Exploit:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("name", ["evil.pth", "evil.pdparams"])
def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, capsys, name):
    file = tmp_path / name
    if name.endswith(".pth"):
        torch.save({"state_dict": {"w": torch.zeros(1)}, "meta": Exploit()}, file)
    else:
        file.write_bytes(pickle.dumps({"w": Exploit()}, protocol=2))
    assert main(["convert", str(file), str(tmp_path / "out.safetensors")]) == 2
    captured = capsys.readouterr()
    assert "was refused, because loading it could run code (it asks for" in captured.err
    assert "print" in captured.err
    assert "run" not in captured.out
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pdparams"])
def test_damaged_files_are_named(model, tmp_path, suffix):
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    checkpoints.write(model.state_dict(), whole)
    cut.write_bytes(whole.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=rf"cut{suffix} is damaged or no"):
        checkpoints.read(cut)
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        checkpoints.read(tmp_path / f"missing{suffix}")


def test_weights_that_do_not_fit_are_listed(model, tmp_path):
    state = checkpoints.from_timm(model.state_dict(), "openmmlab")
    del state["backbone.layer2.0.bn2.weight"]
    state["backbone.layer2.0.conv3.weight"] = torch.zeros(3, 3, 1, 1)
    words = (
        r"do not fit rednet26: missing layer2.0.bn2.weight; layer2.0.conv3.weight has shape \(3, 3, 1, 1\) instead of"
    )
    with pytest.raises(CheckpointError, match=words):
        checkpoints.to_timm(state)
    with pytest.raises(CheckpointError, match=r"unknown key 'backbone\.stem\.7\.weight'"):
        checkpoints.to_timm({**state, "backbone.stem.7.weight": torch.zeros(1)})
    with pytest.raises(
        CheckpointError, match=r"not the weights of a RedNet or a SAN: expected keys such as .*, got 'conv1.weight'"
    ):
        checkpoints.to_timm(timm.create_model("resnet18").state_dict())
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds no weights"):
        checkpoints.read(tmp_path / "list.pth")


def test_a_net_that_a_layout_has_no_names_for():
    state = timm.create_model("rednet26", num_classes=2, stem="plain").state_dict()
    for layout in ("openmmlab", "paddle"):
        words = f"the layout '{layout}' has no name for 'conv1.weight'; it knows RedNets with the stem 'involution'"
        with pytest.raises(CheckpointError, match=words):
            checkpoints.from_timm(state, layout)


def test_numbers_that_a_file_of_paddle_has_not(model, tmp_path):
    file, state = tmp_path / "out.pdparams", {"w": torch.zeros(2, dtype=torch.bfloat16)}
    words = r"could not write .*out\.pdparams: it holds NumPy's arrays, which have no bfloat16 \(in w\); convert"
    with pytest.raises(CheckpointError, match=words):
        checkpoints.write(state, file)
    assert not list(tmp_path.iterdir())
    checkpoints.write({"w": torch.zeros(2, requires_grad=True)}, file)
    assert checkpoints.read(file)["w"].shape == (2,)


def trained_elsewhere(name, **arguments):
    """A net whose weights and statistics no other has."""
    net = timm.create_model(name, **arguments)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 0.5)
    return net.eval()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rednet26_half", {"num_classes": 3}),
        ("rednet26_half.untrained", {"num_classes": 3}),
        ("searchable_rednet", {"num_classes": 3}),
        ("rednet26", {"num_classes": 3, "kernel_size": 5, "stem_kernel_size": 7}),
        ("lrnet26", {"num_classes": 3}),
        ("resnet18", {"num_classes": 3}),
        ("resnet18", {"num_classes": 0}),
        ("mobilenetv3_small_050", {"num_classes": 3}),
        ("deit_tiny_distilled_patch16_224", {"num_classes": 3}),
    ],
)
def test_a_net_by_name_takes_its_own_state_dict(tmp_path, name, arguments):
    net = trained_elsewhere(name, **arguments)
    checkpoints.write(net.state_dict(), tmp_path / "net.safetensors")
    loaded = named.classifier(name, tmp_path / "net.safetensors")
    assert type(loaded) is type(net) and loaded.num_classes == arguments["num_classes"]
    assert "label_names" not in loaded.pretrained_cfg
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in net.state_dict().items())


def test_a_net_by_name_and_the_weights_of_another(model, tmp_path):
    file, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.pth"
    checkpoints.write(model.state_dict(), file)
    checkpoints.write(checkpoints.from_timm(model.state_dict(), "openmmlab"), theirs)
    for path in (file, theirs):
        words = rf"the weights in .*{path.name} do not fit rednet38: missing layer1\.1.*; name rednet26, whose weights they are"
        with pytest.raises(CheckpointError, match=words):
            named.classifier("rednet38", path)
    checkpoints.write(timm.create_model("resnet18", num_classes=2).state_dict(), file)
    words = "do not fit rednet26: missing conv1.0.weight; .*; name the net whose weights they are"
    with pytest.raises(CheckpointError, match=words):
        named.classifier("rednet26", file)
    for name in ("hf-hub:user/net", "no_such_net", str(tmp_path)):
        with pytest.raises(
            CheckpointError, match="is no net that timm knows, and weights in a file are for nets given by name"
        ):
            named.classifier(name, file)


def test_a_checkpoint_of_a_training_is_taken_and_converted(model, tmp_path, capsys):
    file, out = tmp_path / "best.ckpt", tmp_path / "out.safetensors"
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save(
        {"epoch": 3, "pytorch-lightning_version": "2", "state_dict": state | {"loss.weight": torch.ones(7)}}, file
    )
    loaded = named.classifier("rednet26", file).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in model.state_dict().items())
    assert main(["convert", str(file), str(out)]) == 0
    said = capsys.readouterr().out
    assert "model.fc.bias -> fc.bias (7,)" in said and "loss.weight left out" in said and "1 left out" in said
    assert all(torch.equal(value, loaded[key]) for key, value in checkpoints.read(out).items())
    with pytest.raises(
        CheckpointError, match=r"do not fit rednet38: missing .*; name rednet26, whose weights they are"
    ):
        named.classifier("rednet38", file)
    with pytest.raises(
        CheckpointError, match=r"best.ckpt is a file; give as --model the folder RUN/model of its train"
    ):
        named.classifier(str(file))


@pytest.mark.parametrize("name", ["runs/x/model", "best.ckpt", "model.safetensors", "net.pth"])
def test_a_path_at_which_there_is_nothing_is_no_address(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    # What has the name of a net is the net, whatever lies here.
    (tmp_path / "rednet26_half.imagenette").write_text("")
    assert named.classifier("rednet26_half.imagenette").num_classes == 10
    with pytest.raises(
        CheckpointError, match=f"there is no folder {name}; name one that involution fit wrote, which a"
    ):
        named.load(name)


def test_an_unwritable_place_is_named(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not write"):
        checkpoints.write({"w": torch.zeros(1)}, tmp_path / "file" / "out.safetensors")
