"""LightningModules: what is trained, by which loss, with which metrics."""

from ..errors import TrainingError

try:
    from .classification import ClassificationTask
    from .detection import DetectionTask
    from .schedules import PolyLR, WarmupCosineLR
    from .segmentation import SegmentationTask
except ImportError as error:
    raise ImportError(
        f"involution.tasks needs Lightning and torchmetrics ({error}); "
        'install them with: pip install "involution[train]"'
    ) from error

__all__ = ["ClassificationTask", "DetectionTask", "PolyLR", "SegmentationTask", "TrainingError", "WarmupCosineLR"]
