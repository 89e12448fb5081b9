"""Saved nets on the Hugging Face Hub: every folder that ``involution fit`` wrote, classifiers, detectors, segmentation nets.

Classifiers are timm's folders, which timm reads from the Hub by itself and writes there by ``timm.models.push_to_hf_hub``.
What timm cannot build goes there and comes back as the same two files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, in_one_line, missing_package
from ..files import read_json
from . import saved

__all__ = ["card", "find_folder", "push"]

# Of addresses, as timm writes them.
PREFIX = "hf-hub:"
_CARD = "README.md"
_TASKS = {"detection": "object-detection", "segmentation": "image-segmentation"}


def push(
    folder: str | Path,
    repository: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = "Add the model",
    license: str = "other",
    api: Any = None,
) -> str:
    """Put a saved net onto the Hub: ``config.json``, ``model.safetensors`` and a card, nothing else of the folder.

    Args:
        folder: that ``involution fit`` or `involution.models.saved.save` wrote; a ``README.md`` in it is the card.
        repository: ``user/name``; it is made where it does not exist.
        private: make a private repository; one that is there already has to be private.
        token: of the Hub; by default the one of ``hf auth login``.
        message: of the commit.
        license: what a card that is made here says; the Hub knows ``apache-2.0``, ``mit``, ``cc-by-4.0``, ….
        api: what writes; ``huggingface_hub.HfApi`` by default.

    Returns:
        The address under which nets are loaded, ``hf-hub:user/name``.

    Raises:
        CheckpointError: the folder holds no saved net, the Hub refuses, or ``private`` is asked for and the repository is
            public; nothing of the net is there then.
        MissingPackageError: huggingface_hub is missing.
    """
    folder = Path(folder)
    if saved.describe(folder) is None:
        saved.check_classifier(folder)
    if not (folder / saved.WEIGHTS).is_file():
        raise CheckpointError(f"{folder} has no {saved.WEIGHTS}; expected a folder that involution fit wrote")
    writer = api or _hub().HfApi(token=token)
    try:
        name = writer.create_repo(repository, private=private, exist_ok=True).repo_id
        if private and not writer.repo_info(name).private:
            raise CheckpointError(
                f"{name} is there already and public; make it private on the Hub, or name another one"
            )
        if not (folder / _CARD).exists() and not writer.file_exists(name, _CARD):
            # Before the weights: the Hub refuses a card whose licence it does not know.
            text = card(folder, name, license)
            writer.upload_file(
                path_or_fileobj=text.encode(), path_in_repo=_CARD, repo_id=name, commit_message="Add a card"
            )
        writer.upload_folder(
            repo_id=name,
            folder_path=str(folder),
            allow_patterns=[saved.CONFIG, saved.WEIGHTS, _CARD],
            commit_message=message,
        )
    except CheckpointError:
        raise
    except Exception as error:
        # The Hub's answers, names that are none, and what whichever transport the package uses says of a lost network.
        raise CheckpointError(f"the Hub did not take {folder} as {repository}: {in_one_line(error)}") from error
    return f"{PREFIX}{name}"


def card(folder: str | Path, repository: str, license: str = "other") -> str:
    """Return what a card says of a saved net: its task, classes and how it is loaded.

    Args:
        folder: of the net.
        repository: ``user/name``.
        license: of the weights.

    Raises:
        CheckpointError: the folder holds no saved net.
    """
    description = saved.describe(folder)
    if description is None:
        saved.check_classifier(folder)
        config = read_json(Path(folder) / saved.CONFIG)
        architecture, labels = config["architecture"], config.get("label_names") or ()
        classes = [str(name) for name in (labels.values() if isinstance(labels, dict) else labels)]
        task, library = "image-classification", "timm"
        use = (
            f'import timm\nimport involution.models\n\nnet = timm.create_model("{PREFIX}{repository}", pretrained=True)'
        )
    else:
        architecture, classes = description.architecture, list(description.classes)
        task, library = _TASKS[description.task], "involution"
        use = (
            "from involution.models import hub, saved\n\n"
            f'net, description = saved.load(hub.find_folder("{PREFIX}{repository}"))'
        )
    front = {"library_name": library, "pipeline_tag": task, "license": license, "tags": ["involution", task]}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", ""]
    lines += [f"# {repository.rpartition('/')[2]}", "", f"`{architecture}`, made with the library involution."]
    if classes:
        lines += ["", f"{len(classes)} classes: {', '.join(classes)}."]
    lines += ["", "```python", use, "```", "", "```console"]
    lines += [f"$ involution predict image.jpg --model {PREFIX}{repository}", "```", ""]
    return "\n".join(lines)


def find_folder(model: str | Path, *, cache: str | Path | None = None, local_files_only: bool = False) -> Path | None:
    """Return the folder with the description that `involution.models.saved` reads, fetched where it lies on the Hub.

    Args:
        model: a folder, or an address ``hf-hub:user/name`` or ``hf-hub:user/name@revision``.
        cache: folder of what was fetched, the package's own by default.
        local_files_only: take what is there already and call no network.

    Returns:
        The folder; None where it is neither, and where the address is that of a classifier, which timm reads by itself.

    Raises:
        CheckpointError: the Hub has no such net, or cannot be reached.
    """
    if not str(model).startswith(PREFIX):
        return Path(model) if Path(model).is_dir() else None
    name, _, revision = str(model).removeprefix(PREFIX).partition("@")
    hub = _hub()
    options: dict[str, Any] = {"cache_dir": cache, "local_files_only": local_files_only}
    try:
        config = Path(hub.hf_hub_download(name, saved.CONFIG, revision=revision or None, **options))
        if saved.describe(config.parent, allow_network=True) is None:
            return None
        # The folder is named after the commit: of the same one, whatever is pushed meanwhile.
        return Path(hub.hf_hub_download(name, saved.WEIGHTS, revision=config.parent.name, **options)).parent
    except CheckpointError:
        raise
    except Exception as error:
        # Whichever transport the package uses has errors of its own for a lost network.
        raise CheckpointError(f"{model} cannot be fetched: {in_one_line(error)}") from error


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing_package(error.name, "models") from error
    return huggingface_hub
