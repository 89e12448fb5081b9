"""Data sets as Lightning DataModules."""

from ..errors import DataError

try:
    from .coco_images import CocoImages, DetectionTransforms
    from .description import DataDescription, DescribedImages, DescribedObjects
    from .digit_scenes import DigitObjects, DigitScenes
    from .image_folders import ImageFolders
    from .image_transforms import ImageTransforms
    from .label_maps import ClassTable
    from .segmentation import Cityscapes, SegmentationFolders
    from .segmentation_transforms import SegmentationTransforms
    from .small_images import SmallImages, TensorImages
    from .streaming import ImageShards
except ImportError as error:
    raise ImportError(
        f'involution.data needs Lightning and torchvision ({error}); install them with: pip install "involution[train]"'
    ) from error
from .sources import DATASETS, ImageSet, find_data_root, load

__all__ = [
    "DATASETS",
    "Cityscapes",
    "ClassTable",
    "CocoImages",
    "DataDescription",
    "DataError",
    "DescribedImages",
    "DescribedObjects",
    "DetectionTransforms",
    "DigitObjects",
    "DigitScenes",
    "ImageFolders",
    "ImageSet",
    "ImageShards",
    "ImageTransforms",
    "SegmentationFolders",
    "SegmentationTransforms",
    "SmallImages",
    "TensorImages",
    "find_data_root",
    "load",
]
