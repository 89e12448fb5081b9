"""The command that puts a saved net onto the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path


def push(folder: Path, repository: str, *, private: bool = False, license: str = "other") -> None:
    """Put a net that fit saved onto the Hugging Face Hub, where its address serves as --model.

    Log in before with ``hf auth login``.

    Args:
        folder: of the net, such as ``runs/photos/model``; its two files are put there and a card, nothing else.
        repository: where to, ``user/name``; it is made where it does not exist.
        private: make a private repository; one that is there already has to be private.
        license: of the weights, as a card that is made says it: ``apache-2.0``, ``mit``, ``cc-by-4.0``, ….

    Raises:
        CheckpointError: the folder holds no saved net, the Hub refuses, or the repository is not private.
    """
    from ..models import hub

    address = hub.push(folder, repository, private=private, license=license)
    print(f"{folder} is {address}: involution predict image.jpg --model {address}")
