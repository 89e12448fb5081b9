import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from markupsafe import escape
from PIL import Image

from involution.pictures.heatmaps import heat_map
from involution.pictures.plots import png
from involution.studies.comparison import plots
from involution.studies.comparison.architecture import trace
from involution.studies.comparison.kernel_pictures import kernel_layer, kernel_pictures, liveliest_group
from involution.studies.comparison.nets import DESIGNS, OPERATORS, comparison_net, quirks
from involution.studies.comparison.report import render
from involution.studies.comparison.results import Comparison, NetResult, Samples, duration, headline, millions, table

RECORD = {
    "date": "2026-01-02T03:04:05+00:00",
    "command": "involution compare mnist <&>",
    "commit": "0123abc",
    "modified": True,
    "machine": {"processor": "Some CPU", "cores": 4, "threads": 4, "memory_gib": 8.0, "gpus": []},
    "versions": {"python": "3.12", "torch": "2.12"},
}


def result(operator, seed=0, accuracy=0.9):
    history = [
        {
            "epoch": e,
            "train_loss": 1 / e,
            "train_accuracy": 0.5,
            "test_loss": 2 / e,
            "test_accuracy": accuracy,
            "train_s": 2.0,
            "train_cpu_s": 4.0,
        }
        for e in (1, 2, 3)
    ]
    involution = operator == "involution"
    return NetResult(
        operator,
        seed,
        100 * accuracy,
        6.0,
        12.0,
        250 if involution else 1000,
        50,
        2_000_000,
        1_000_000,
        history,
        "2026-01-01",
    )


def comparison(variant="fair", dataset="mnist", seeds=(0,)):
    torch.manual_seed(0)
    fields = {"stages.0.1": torch.randn(4, 2, 3, 3, 28, 28), "stages.1.1": torch.randn(4, 3, 3, 3, 14, 14)}
    return Comparison(
        dataset=dataset,
        title="MNIST",
        variant=variant,
        setting="a recipe",
        results=[result(o, s, 0.9 + 0.01 * s - 0.2 * (o == "involution")) for s in seeds for o in OPERATORS],
        layers={o: trace(comparison_net(dataset, variant, o), DESIGNS[dataset].input_shape) for o in OPERATORS},
        samples=Samples(
            torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8),
            ["one", "two", "three", "<four>"],
            {name: heat_map(field) for name, field in fields.items()},
            fields,
        ),
        quirks={o: quirks(dataset, o) if variant == "published" else [] for o in OPERATORS},
    )


def test_table():
    rows = {row.label: row for row in table(comparison()) if not row.detail}
    assert rows["test accuracy"].texts == {"convolution": "90.00 %", "involution": "70.00 %"}
    assert rows["parameters"].texts == {"convolution": "1,000", "involution": "250"}
    assert rows["multiply-adds"].texts["involution"] == "2.00 M"
    assert rows["training time"].texts["involution"] == "6.0 s"
    assert not any("report" in row.label for row in table(comparison()))


def test_table_of_several_seeds():
    rows = {row.label: row for row in table(comparison(seeds=(0, 1, 2)))}
    assert rows["test accuracy"].texts["convolution"] == "91.00 %"
    assert rows["standard deviation over 3 seeds"].texts["convolution"] == "1.00"


def test_the_reports_own_figures_stand_beside_its_nets():
    rows = {row.label: row for row in table(comparison("published"))}
    assert rows["in the report"].texts == {"convolution": "98.97 %", "involution": "88.82 %"}
    assert rows["in the report, CPU"].texts["convolution"] == "8 min 22 s"


def test_headline():
    assert headline(comparison()) == (
        "The involution net classifies 70.0 % of the test images correctly, the convolution net 90.0 %; "
        "it has 25 % of its parameters."
    )
    assert headline(comparison(seeds=(0, 1))).startswith(
        "On average over 2 seeds, the involution net classifies 70.5 %"
    )


@pytest.mark.parametrize(("seconds", "text"), [(3.21, "3.2 s"), (63.4, "63 s"), (502.75, "8 min 22 s")])
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1_390, "0.0014 M"), (302_590, "0.30 M"), (12_345_678, "12.3 M"), (1_234_567_890, "1,235 M")]
)
def test_millions(value, text):
    assert millions(value) == text


class Page(HTMLParser):
    """Collects what a page would load and whether its tags are balanced."""

    VOID = {"meta", "img", "br", "link", "input", "hr"}

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.images = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.images += tag == "img"
        self.loads += [v for k, v in attributes if k in ("src", "href") and v and not v.startswith(("data:", "#"))]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        pass


def test_the_page_is_whole_and_loads_nothing():
    text = render(comparison(), RECORD)
    page = Page(text)
    assert page.open == [] and page.loads == []
    assert "url(" not in text.replace('clip-path="url(#', "").replace("clip-path: url(#", "")
    # Test image, kernels and heat map of four images, thumbnails, and a row of maps for either layer.
    assert page.images == 4 * 3 + 4 + 4 * (1 + 2) + 4 * (1 + 3)
    for words in (
        "90.00 %",
        "70.00 %",
        "involution compare mnist &lt;&amp;&gt;",
        "0123abc, modified",
        "Some CPU",
        "&lt;four&gt;",
    ):
        assert words in text, words
    assert "prefers-color-scheme: dark" in text
    assert "What is unusual here" not in text


def test_curves_take_their_colours_from_the_page():
    text = render(comparison(), RECORD)
    assert "#01020" not in text
    curves = text[text.index("Learning curves") : text.index("The two nets")]
    assert curves.count("var(--involution)") >= 4 and "var(--muted)" in curves
    assert "<text" in curves


def test_the_page_of_published_nets_states_their_quirks():
    text = render(comparison("published"), RECORD)
    assert "What is unusual here" in text
    assert all(str(escape(sentence)) in text for o in OPERATORS for sentence in quirks("mnist", o))
    assert "98.97 %" in text


def test_explorer_holds_the_weights_of_the_shown_group():
    it = comparison()
    text = render(it, RECORD)
    weights = re.search(r'id="weights">(.*?)</script>', text).group(1)
    layer = kernel_layer(it.samples)
    assert layer == "stages.1.1"
    group = liveliest_group(it.samples.heat_maps[layer])
    first = it.samples.kernels[layer][0, group, :, :, 0, 0].flatten()
    assert f'"weights": [[{float(f"{first[0]:.3g}")}, {float(f"{first[1]:.3g}")}' in weights
    assert '"shape": [3, 3, 14, 14]' in weights


@pytest.mark.parametrize("draw", [plots.summary, plots.curves, plots.heat_maps])
@pytest.mark.parametrize("variant", ["published", "fair"])
def test_pictures(draw, variant, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(png(draw(comparison(variant, seeds=(0, 1))), dpi=50))
    with Image.open(path) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
        assert picture.width > 150
    assert (255, 255, 255) in colours and len(colours) > 20
    if draw is not plots.heat_maps:
        assert (0xE8, 0x59, 0x0C) in colours and (0x3B, 0x6F, 0xD4) in colours


def test_liveliest_group():
    maps = torch.ones(2, 3, 4, 4)
    maps[:, 1] += 0.1 * torch.randn(2, 4, 4)
    maps[:, 2] = 100 + torch.randn(2, 4, 4)
    assert liveliest_group(maps) == 1


def test_kernel_pictures():
    kernels = torch.zeros(1, 3, 3, 2, 2)
    kernels[0, 0, 0, 1, 1] = 5.0
    kernels[0, 2, 2, 0, 0] = -5.0
    picture = kernel_pictures(kernels, scale=4, gap=1)[0]
    assert picture.shape == (26, 26, 3)
    red, blue = picture[13, 13].tolist(), picture[8, 8].tolist()
    assert red[0] > 2 * red[2] and blue[2] > 2 * blue[0]
    assert picture[12].min() > 240 and picture[:, 12].min() > 240


def test_one_image_and_one_layer_still_make_a_picture():
    it = comparison()
    name = "stages.1.1"
    samples = Samples(
        it.samples.images[:2], ["a", "b"], {name: it.samples.heat_maps[name][:2]}, {name: it.samples.kernels[name][:2]}
    )
    assert png(plots.summary(replace(it, samples=samples)), dpi=40).startswith(b"\x89PNG")
