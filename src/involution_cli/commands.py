"""The subcommands: where the function of each is, and what the help says of it."""

from typing import NamedTuple

__all__ = ["COMMANDS", "Command", "overview"]


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        module: of ``involution.commands``, which is imported when the command is called.
        function: in it.
        summary: what the help says.
        example: a command line.
    """

    module: str
    function: str
    summary: str
    example: str


COMMANDS = {
    "compare": Command(
        "compare",
        "compare",
        "train convolution against involution on the same data, report",
        "involution compare digits --epochs 5 --open",
    ),
    "study": Command(
        "study",
        "study",
        "train what a file declares, net by net and seed by seed, and judge claims",
        "involution study cifar10 --show",
    ),
    "search": Command(
        "search",
        "search",
        "search for nets with a layer of their own in every block",
        "involution search --data digits --budget 10min",
    ),
    "complexity": Command(
        "complexity",
        "complexity",
        "parameters and multiply-adds beside the paper's",
        "involution complexity imagenet --name rednet50",
    ),
    "convert": Command(
        "convert",
        "convert",
        "bring weights from the authors' code, PaddleClas and others, and back",
        "involution convert RedNet50_pretrained.pdparams rednet50.safetensors",
    ),
    "export": Command(
        "export",
        "export",
        "write a net for AOTInductor, ONNX Runtime or OpenVINO, and compare",
        "involution export rednet26_half.imagenette --format onnx --output rednet.onnx",
    ),
    "benchmark": Command(
        "benchmark",
        "benchmark",
        "time nets in every engine that is installed, side by side",
        "involution benchmark rednet50 resnet50 --engines eager onnxruntime-custom --batch 1 8",
    ),
    "pack": Command(
        "pack",
        "pack",
        "write a folder of images as tar shards to stream from",
        "involution pack photos shards",
    ),
    "voc2coco": Command(
        "voc2coco",
        "voc2coco",
        "bring annotations of Pascal VOC into COCO's format",
        "involution voc2coco VOC2007/Annotations cells/annotations/instances_train.json --names VOC2007/train.txt",
    ),
    "push": Command(
        "push",
        "push",
        "put a net that fit saved onto the Hugging Face Hub",
        "involution push runs/photos/model user/photos --license mit",
    ),
    "predict": Command(
        "predict",
        "predict",
        "apply a trained net to images: classes, heat maps, objects",
        "involution predict dog.jpg --model rednet26_half.imagenette --heatmaps layer3.0.conv2",
    ),
    "visualize": Command(
        "visualize",
        "visualize",
        "draw heat maps and kernels of a net for an image",
        "involution visualize dog.jpg --layers layer1.0.conv2,layer3.0.conv2",
    ),
    "demo": Command(
        "demo",
        "demo",
        "show in the browser what nets see and the kernels that pixels make",
        "involution demo dog.jpg",
    ),
    "fit": Command(
        "training",
        "run",
        "train a net: classification, detection, segmentation (Lightning's flags and YAML)",
        "involution fit --config recipes/finetune/folder.yaml --data.root photos --model.num_classes 5 --run runs/photos",
    ),
    "validate": Command(
        "training",
        "run",
        "evaluate a checkpoint on the validation images",
        "involution validate --config recipes/finetune/folder.yaml --data.root photos --model.num_classes 5 --run runs/photos --ckpt_path best",
    ),
    "test": Command(
        "training",
        "run",
        "evaluate a checkpoint on the test images",
        "involution test --config recipes/finetune/folder.yaml --data.root photos --model.num_classes 5 --run runs/photos --ckpt_path best",
    ),
    "completion": Command(
        "completion",
        "completion",
        "print a script with which a shell completes commands and options",
        "involution completion bash",
    ),
    "doctor": Command(
        "doctor",
        "doctor",
        "say what serves this machine, and why something else does not",
        "involution doctor",
    ),
}

# The first steps of a new user, in their order.
_FIRST = ("doctor", "predict", "fit", "export")


def overview() -> str:
    """Return what ``involution --help`` prints."""
    lines = ["usage: involution COMMAND [--help] …", "", "commands:"]
    lines += [f"  {name:<12}{command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "examples:", *(f"  $ {COMMANDS[name].example}" for name in _FIRST)]
    lines += ["", "involution COMMAND --help says what a command takes, with an example."]
    return "\n".join(lines)
