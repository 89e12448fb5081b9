"""Involution in Keras 3: a layer equal to `involution.Involution2d`, and the layers of the Keras example brought here."""

from ..errors import MissingPackageError, missing_package

try:
    from .example import ChannelOrder, from_example, read_example
    from .layer import Involution2D, from_torch, to_torch
except ImportError as error:
    if error.name in ("keras", "h5py"):
        raise missing_package(error.name, "keras") from error
    raise MissingPackageError(
        f"Keras cannot be imported ({error}); where the package of its backend is missing, set the environment variable "
        "KERAS_BACKEND=torch before keras is imported",
        name=error.name,
    ) from error

__all__ = ["ChannelOrder", "Involution2D", "from_example", "from_torch", "read_example", "to_torch"]
