"""The command ``involution demo``: a page that runs nets in the browser and shows the kernels of every pixel."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from ..errors import CommandError
from . import screen

__all__ = ["demo"]

_MODELS = ("rednet26_half.imagenette", "resnet26_half.imagenette")
# Photographs that come with scikit-learn, both CC BY 2.0.
_EXAMPLES = {"china.jpg": "palace, photograph by danielbuechele", "flower.jpg": "flower, photograph by vultilion"}


def demo(
    images: list[str] | None = None,
    *,
    models: list[str] | None = None,
    out: Path = Path("runs/demo"),
    port: int = 0,
    serve: bool = True,
    open: bool = True,
    runtime: Path | None = None,
) -> None:
    """Make a page that runs nets in the browser, and serve it to this machine: classes, heat maps, kernels, times.

    The folder holds all that the page needs and can be put on any file server; the page fetches nothing from elsewhere
    and sends nothing.

    Args:
        images: image files, and folders of them, that the page offers as examples; two photographs of scikit-learn by
            default.
        models: folders that ``involution fit`` wrote, timm names with weights such as ``rednet26_half.imagenette``, or hub
            addresses; by default the RedNet and the ResNet that come with the library.
        out: folder of the page.
        port: of the file server; 0 for a free one.
        serve: serve the page until Ctrl-C; without, it is only written.
        open: open it in the browser, where there is a screen.
        runtime: folder ``dist`` of the npm package onnxruntime-web; by default npm fetches the package once, 4 MB.

    Raises:
        CommandError: an argument is out of range, or the folder holds something else.
        CheckpointError: a net cannot be loaded.
        ExportError: a net cannot be exported.
        MissingPackageError: a package or npm is missing.
    """
    from ..browser import server, site
    from ..data.image_folders import list_images
    from ..logs import compiling_for_the_cpu
    from .classifiers import class_names, load_classifier

    if not 0 <= port < 2**16:
        raise CommandError(f"--port must be from 0 to 65535, got {port}")
    examples = {file: file.stem for file in list_images(images)} if images else _photographs()
    nets = []
    for name in dict.fromkeys(models or _MODELS):
        net = load_classifier(name, where="the page")
        # A run's folder is runs/NAME/model.
        title = Path(name).resolve().parent.name if Path(name).name == "model" else Path(name).name
        nets.append((title, net, class_names(net)))
    if len({title for title, _, _ in nets}) < len(nets):
        raise CommandError(f"the page needs nets of different names, got {', '.join(title for title, _, _ in nets)}")
    with ExitStack() as stack:
        # Before the nets are exported, which takes longer than to hear that the port is taken.
        running = stack.enter_context(server.open_server(out, port)) if serve else None
        print(f"writing the page into {out}", flush=True)
        with compiling_for_the_cpu():
            site.build(nets, examples, out, web_runtime=runtime)
        if running is None:
            print(f"put {out} on a file server, such as: python -m http.server --directory {out}")
            return
        address = f"http://127.0.0.1:{running.server_address[1]}/"
        print(f"the page is at {address}, for this machine alone; Ctrl-C ends it", flush=True)
        if open:
            screen.show(address)
        running.serve_forever()


def _photographs() -> dict[Path, str]:
    try:
        import sklearn.datasets
    except ImportError:
        return {}
    folder = Path(sklearn.datasets.__file__).parent / "images"
    return {folder / name: title for name, title in _EXAMPLES.items() if (folder / name).is_file()}
