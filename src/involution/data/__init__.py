"""Data sets as Lightning DataModules."""

try:
    from .image_folders import ImageFolders, ImageTransforms
    from .small_images import SmallImages, TensorImages
    from .streaming import ImageShards
except ImportError as error:
    raise ImportError(
        f'involution.data needs Lightning and torchvision ({error}); install them with: pip install "involution[train]"'
    ) from error
from .sources import DATASETS, DataError, ImageSet, find_data_root, load

__all__ = [
    "DATASETS",
    "DataError",
    "ImageFolders",
    "ImageSet",
    "ImageShards",
    "ImageTransforms",
    "SmallImages",
    "TensorImages",
    "find_data_root",
    "load",
]
