"""The page in a real browser: what it answers, what it refuses, and that nothing in it comes from elsewhere."""

import functools
import http.server
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import involution.models  # noqa: F401
from involution import Involution2d, involution2d
from involution.browser import build, nets, runtime, server
from involution.browser.nets import WithFields
from involution.commands.classifiers import batches, class_names
from involution.errors import CommandError, MissingPackageError
from involution.pictures.heatmaps import kernel_fields

NETS = ("rednet26_half.imagenette", "resnet14_eighth.cifar10")


@pytest.fixture(scope="session")
def page_folder(tmp_path_factory):
    try:
        runtime.find()
    except (CommandError, MissingPackageError) as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("page")
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 13, 3), dtype=np.uint8))
    coarse.resize((208, 144), Image.Resampling.BICUBIC).save(folder / "blots.png")
    nets = [timm.create_model(name, pretrained=True).eval() for name in NETS]
    build(
        [(name, net, class_names(net)) for name, net in zip(NETS, nets, strict=True)],
        {folder / "blots.png": "blots <b>"},
        folder / "site",
    )
    return folder / "site"


@pytest.fixture
def address(page_folder):
    running = server.open_server(page_folder, 0)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}/"
    running.shutdown()
    running.server_close()


@pytest.fixture
def page(browser, address):
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.asked, page.failed = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.failed.append(str(error)))
    page.goto(address)
    ready(page)
    yield page
    assert not page.failed
    context.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def ready(page):
    """Wait until the nets have looked and were timed."""
    page.wait_for_selector(".answer p:has-text(' ms (')", timeout=120_000)


def answers(page):
    """Return the percentages that the page shows, by net and class."""
    return {
        box.query_selector("h3").inner_text(): {
            row.query_selector("td").inner_text(): float(row.query_selector("td:last-child").inner_text().rstrip(" %"))
            for row in box.query_selector_all("tr")
        }
        for box in page.query_selector_all(".answer")
    }


def drop(page, name, content, kind="image/png"):
    page.evaluate(
        """([name, content, kind]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(content)], name, {type: kind}));
            document.querySelector('#stage').dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true}));
        }""",
        [name, list(content), kind],
    )


def says(page, words):
    page.wait_for_selector(f'#message:has-text("{words}")', timeout=60_000)
    return page.inner_text("#message")


def test_the_page_answers_what_python_answers(page, page_folder):
    shown = answers(page)
    assert list(shown) == list(NETS)
    example = page_folder / json.loads((page_folder / "page.json").read_text("utf-8"))["examples"][0]["file"]
    for name in NETS:
        net = timm.create_model(name, pretrained=True).eval()
        ((_, inputs),) = batches(net, [example], 1)
        with torch.inference_mode():
            expected = 100 * net(inputs).softmax(1)[0]
        # ImageNet's names list synonyms, of which the page shows the first.
        labels = [name.partition(",")[0] for name in class_names(net)]
        assert [labels[i] for i in expected.topk(3).indices] == list(shown[name])
        for label, value in shown[name].items():
            assert value == pytest.approx(expected[labels.index(label)].item(), abs=1)


def test_the_kernels_are_those_of_the_pixel(page, page_folder):
    net = timm.create_model(NETS[0], pretrained=True).eval()
    example = page_folder / json.loads((page_folder / "page.json").read_text("utf-8"))["examples"][0]["file"]
    ((_, inputs),) = batches(net, [example], 1)
    page.select_option("#layer", label="layer1.0.conv2")
    field = kernel_fields(net, inputs, ["layer1.0.conv2"])["layer1.0.conv2"][0]
    groups, k, _, rows, columns = field.shape
    box = page.query_selector("#picture").bounding_box()
    for row, column in ((0, 0), (5, rows - 1), (columns - 1, 7)):
        x, y = (column + 0.5) / columns * box["width"], (row + 0.5) / rows * box["height"]
        page.mouse.move(box["x"] + x, box["y"] + y)
        words = page.inner_text("#pixel")
        assert (
            f"{k}×{k} at each of its {rows}×{columns} pixels; these are of row {row + 1}, column {column + 1}" in words
        )
        captions = page.eval_on_selector_all("#kernels figcaption", "all => all.map(one => one.textContent)")
        assert len(captions) == groups
        for group, caption in enumerate(captions):
            expected = field[group, :, :, row, column].abs().max().item()
            assert float(caption.partition("±")[2]) == pytest.approx(expected, rel=0.1)
    page.focus("#picture")
    page.keyboard.press("ArrowLeft")
    assert f"row {columns}, column 7." in page.inner_text("#pixel")


@pytest.mark.parametrize(
    ("layer", "at"),
    [
        (Involution2d(4, 4, kernel_size=7, group_channels=4), (3, 8)),
        (Involution2d(4, 4, kernel_size=7, stride=2, group_channels=4), (2, 3)),
        (
            Involution2d(4, 4, kernel_size=(3, 5), stride=(3, 2), padding=(1, 4), dilation=(1, 2), group_channels=4),
            (2, 2),
        ),
    ],
)
def test_the_frame_is_what_the_kernel_reads(page, layer, at):
    x = torch.zeros(1, 4, 24, 24, requires_grad=True)
    geometry = {name: getattr(layer, name) for name in ("stride", "padding", "dilation")}
    y = involution2d(x, torch.ones(1, 1, *layer.kernel_size, *layer(x).shape[2:]), **geometry)
    y[0, 0, at[0], at[1]].backward()
    window = nets._window(layer)
    for axis in range(2):
        read = x.grad[0, 0].sum(1 - axis).nonzero().flatten()
        code = f"import('./kernels.mjs').then(m => m.covered({json.dumps(window)}, {axis}, {at[axis]}))"
        begin, end = (round(edge * layer.stride[axis]) for edge in page.evaluate(code))
        assert (begin, end - 1) == (read.min(), read.max())


def test_an_image_that_is_dropped_is_looked_at_in_any_side(page, tmp_path):
    Image.new("RGB", (300, 100), "green").save(tmp_path / "green.png")
    before = answers(page)
    drop(page, "green.png", (tmp_path / "green.png").read_bytes())
    page.wait_for_selector("#name:has-text('green.png, 300×100 pixels')", timeout=60_000)
    assert answers(page) != before
    assert page.inner_text("#side").strip() == "each net's own", "a net of 32 pixels has one side alone"


def test_what_is_no_image_meets_a_sentence(page, tmp_path):
    before = answers(page)
    drop(page, "notes.txt", b"no image", "text/plain")
    assert "notes.txt is no image that this browser can read; choose a PNG" in says(page, "notes.txt")
    drop(page, "broken.png", b"\x89PNG\r\n\x1a\n" + bytes(50))
    says(page, "broken.png is no image")
    Image.new("L", (9000, 8000)).save(tmp_path / "huge.png", compress_level=1)
    page.set_input_files("#file", tmp_path / "huge.png")
    says(page, "huge.png has 9000×8000 pixels; the page takes up to 50 megapixels")
    (tmp_path / "long.png").write_bytes(bytes(65_000_000))
    page.set_input_files("#file", tmp_path / "long.png")
    says(page, "long.png has 65 MB; the page takes images of up to 64")
    Image.new("RGB", (2000, 10)).save(tmp_path / "thin.png")
    page.set_input_files("#file", tmp_path / "thin.png")
    says(page, "thin.png has 2000×10 pixels")
    assert answers(page) == before, "the last image stays"


def test_nothing_comes_from_elsewhere_and_nothing_is_sent(page, address):
    assert page.asked and all(url.startswith((address, "blob:", "data:")) for url in page.asked)
    assert "&lt;b&gt;" in page.inner_html("#examples"), "a name is text"
    policy = page.get_attribute("meta[http-equiv]", "content")
    assert policy.startswith("default-src 'self'") and not re.search(r"https?:", policy)


def test_without_webassembly_a_sentence(browser, address):
    page = browser.new_page()
    page.add_init_script("delete globalThis.WebAssembly")
    page.goto(address)
    says(page, "This browser has no WebAssembly")


def test_a_file_that_is_missing_is_named(browser, page_folder, tmp_path):
    broken = shutil.copytree(page_folder, tmp_path / "site")
    (broken / "net-1.onnx").unlink()
    # Any file server does, and without its headers one thread computes.
    handler = functools.partial(Quiet, directory=str(broken))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{running.server_address[1]}/")
        says(page, "net-1.onnx is missing beside this page (status 404); make the page anew")
        shutil.copyfile(page_folder / "net-1.onnx", broken / "net-1.onnx")
        page.reload()
        ready(page)
        assert "1 thread." in page.inner_text("#footer")
        running.shutdown()


def test_the_fields_are_those_that_the_net_uses():
    net = timm.create_model("rednet26", channels=[16, 16, 16, 16], num_classes=3).eval()
    images = torch.randn(2, 3, 64, 64)
    module = WithFields(net).eval()
    with torch.no_grad():
        output, *fields = module(images)
        torch.testing.assert_close(output, net(images), rtol=1e-4, atol=1e-5)
    expected = kernel_fields(net, images)
    assert module.layers == tuple(expected)
    for field, name in zip(fields, module.layers, strict=True):
        torch.testing.assert_close(field, expected[name])
    assert not any(
        layer.kernel_generator._forward_hooks for layer in net.modules() if hasattr(layer, "kernel_generator")
    )


def test_refusals(tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CommandError, match="holds something else than this page; name a new folder with --out"):
        build([], {}, tmp_path)
    with pytest.raises(CommandError, match=r"lacks ort.wasm.min.mjs.*name the folder dist of onnxruntime-web"):
        runtime.find(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingPackageError, match=r"there is no npm; install Node\.js, or name the folder"):
        runtime.find()
    grey = timm.create_model("rednet26", in_chans=1).eval()
    with pytest.raises(CommandError, match="shows colour images in squares, grey takes 1×224×224"):
        build([("grey", grey, [])], {}, tmp_path / "site", web_runtime=_pretended(tmp_path))
    wide = timm.create_model("rednet26", pretrained_cfg_overlay={"crop_pct": 1.15}).eval()
    with pytest.raises(CommandError, match=r"crops images and adds no border, wide expects a crop of 1\.15"):
        build([("wide", wide, [])], {}, tmp_path / "site", web_runtime=_pretended(tmp_path))
    assert not (tmp_path / "site").exists()
    with pytest.raises(CommandError, match="port 70000 cannot be used"):
        server.open_server(tmp_path, 70000)


def _pretended(folder: Path) -> Path:
    for name in runtime.FILES:
        (folder / name).write_text("")
    return folder
