"""ONNX Runtime for browsers: three files of the npm package ``onnxruntime-web``, one version, known by its hash."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import CommandError, MissingPackageError, in_one_line
from ..files import replaced_files

__all__ = ["FILES", "VERSION", "find"]

VERSION = "1.30.0"
# Of the package as npm serves it, in npm's own form.
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def cache() -> Path:
    """Return the folder that the files are kept in, whether it is there or not."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "involution" / f"onnxruntime-web-{VERSION}"


def find(folder: Path | None = None) -> Path:
    """Return a folder that holds `FILES`, fetched with npm if they are nowhere.

    Args:
        folder: where they are; by default `cache`, which npm fills once (4 MB are fetched, 14 MB kept).

    Raises:
        CommandError: ``folder`` does not hold them, or npm could not fetch the package.
        MissingPackageError: they have to be fetched and there is no npm.
    """
    place = folder or cache()
    missing = [name for name in FILES if not (place / name).is_file()]
    if not missing:
        return place
    if folder is not None:
        raise CommandError(
            f"{folder} lacks {', '.join(missing)}; name the folder dist of onnxruntime-web {VERSION}, or leave out --runtime"
        )
    npm = shutil.which("npm")
    if npm is None:
        raise MissingPackageError(
            f"the page needs onnxruntime-web {VERSION}, which npm fetches, and there is no npm; install Node.js, or name the "
            "folder dist of that package with --runtime"
        )
    with TemporaryDirectory() as temporary:
        _extract(_packed(npm, Path(temporary)), Path(temporary))
        place.mkdir(parents=True, exist_ok=True)
        with replaced_files(place) as partial:
            for name in FILES:
                shutil.copyfile(Path(temporary) / name, partial / name)
    return place


def _packed(npm: str, folder: Path) -> Path:
    package = f"onnxruntime-web@{VERSION}"
    try:
        done = subprocess.run(
            [npm, "pack", package, "--pack-destination", str(folder), "--loglevel", "error"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"npm did not fetch {package} within ten minutes; try again") from error
    archive = next(folder.glob("*.tgz"), None)
    if done.returncode or archive is None:
        raise CommandError(f"npm could not fetch {package}: {in_one_line(done.stderr or 'it wrote no file')}")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != INTEGRITY:
        raise CommandError(f"what npm fetched is not {package} as it was published; nothing of it was kept")
    return archive


def _extract(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        for name in FILES:
            # Never None: the hash says what is in it.
            member: Any = tar.extractfile(f"package/dist/{name}")
            (folder / name).write_bytes(member.read())
