"""The command that makes the page, without a browser."""

import json
import signal
import socket
import struct
import threading
import time
import urllib.request

import pytest
from PIL import Image

from involution.browser import runtime, server
from involution.commands import screen
from involution.commands.main import main

LAYERS = ("layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2")


@pytest.fixture
def web_runtime(tmp_path):
    """Files of the names that the page needs; what is in them only a browser would read."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in runtime.FILES:
        (folder / name).write_text("// none")
    return folder


def test_the_page_is_written_and_written_anew(tmp_path, web_runtime, capsys):
    Image.new("RGB", (900, 1200), "red").save(tmp_path / "rot.jpg", exif=b"Exif\0\0secret place")
    out = tmp_path / "page"
    words = ["demo", str(tmp_path / "rot.jpg"), "--models", "rednet14_eighth.cifar10", "--runtime", str(web_runtime)]
    for _ in range(2):
        assert main([*words, "--out", str(out), "--no-serve"]) == 0
    assert f"python -m http.server --directory {out}" in capsys.readouterr().out
    page = json.loads((out / "page.json").read_text("utf-8"))
    (net,) = page["nets"]
    assert net["name"] == "rednet14_eighth.cifar10" and net["labels"][0] == "airplane" and net["sides"] == [32]
    assert net["bytes"] == (out / net["file"]).stat().st_size
    assert [layer["name"] for layer in net["layers"]] == list(LAYERS)
    assert net["layers"][0]["window"] == {
        "kernel_size": [7, 7],
        "stride": [1, 1],
        "padding": [3, 3],
        "dilation": [1, 1],
    }
    (example,) = page["examples"]
    assert example["name"] == "rot"
    with Image.open(out / example["file"]) as image:
        assert image.size == (480, 640) and not image.getexif()
    assert b"secret place" not in (out / example["file"]).read_bytes()
    assert {file.name for file in out.iterdir()} > {"index.html", "page.mjs", "style.css", *runtime.FILES}


def test_it_serves_this_machine_until_it_is_interrupted(tmp_path, web_runtime, copies):
    words = ["demo", "--models", "resnet14_eighth.cifar10", "--no-open", "--out", tmp_path / "page"]
    copy = copies.start(*words, "--runtime", web_runtime)
    try:
        while "Ctrl-C ends it" not in copy.printed() and copy.is_running():
            time.sleep(0.05)
        address = copy.printed().splitlines()[1].split("at ")[1].partition(",")[0]
        with urllib.request.urlopen(address) as response:
            assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            assert b"Every pixel makes its own kernel" in response.read()
        with urllib.request.urlopen(f"{address}{runtime.FILES[-1]}") as response:
            assert response.headers["Content-Type"] == "application/wasm"
        port = int(address.rstrip("/").rpartition(":")[2])
        others = [item[4][0] for item in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
        for host in (host for host in others if not host.startswith("127.")):
            with socket.socket() as probe:
                assert probe.connect_ex((host, port)), "others reach it"
    finally:
        copy.kill(signal.SIGINT)
        ended = copy.wait(60)
    assert ended == (130, "involution demo: interrupted\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--port", "-1"], "--port must be from 0 to 65535, got -1"),
        (["nothing.png"], "there is no image or folder at nothing.png"),
        (["--models", "rednet14_eighth.cifar10", "nonet"], "nonet cannot be loaded"),
        (
            ["--port", "{taken}", "--models", "rednet14_eighth.cifar10"],
            "; choose another with --port, or 0 for a free one",
        ),
    ],
)
def test_refusals(tmp_path, web_runtime, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert main(["demo", *(word.format(taken=taken) for word in words), "--runtime", str(web_runtime)]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_page_that_is_closed_while_it_loads_is_no_error(tmp_path, capsys):
    (tmp_path / "large.bin").write_bytes(bytes(2**25))
    with server.open_server(tmp_path, 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        for words in (b"GET /large.bin HTTP/1.0\r\n\r\n", b""):
            with socket.create_connection(running.server_address) as client:
                client.sendall(words)
                # Closed with something unread, so that the other side is told at once.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with urllib.request.urlopen(f"http://127.0.0.1:{running.server_address[1]}/large.bin") as response:
            assert len(response.read()) == 2**25
        running.shutdown()
        thread.join()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("display", "shown"), [(":0", 1), (None, 0)])
def test_pages_open_only_where_there_is_a_screen(display, shown, monkeypatch):
    opened = []
    monkeypatch.setattr(screen.webbrowser, "open", opened.append)
    monkeypatch.setattr(screen.sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", display)
    screen.show("http://127.0.0.1:1/")
    assert opened == ["http://127.0.0.1:1/"] * shown
