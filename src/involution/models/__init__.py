"""Networks built on involution, and those it is compared with. Importing this package registers them with timm."""

try:
    from .axial import AxialResNet, axial_resnet26s
    from .local_relation import LRNet, lrnet26, lrnet50, lrnet101
    from .narrow import rednet14_eighth, rednet26_half, resnet14_eighth, resnet26_half
    from .rednet import RedNet, rednet26, rednet38, rednet50, rednet101, rednet152
    from .san import (
        SAN,
        san10_pairwise,
        san10_patchwise,
        san15_pairwise,
        san15_patchwise,
        san19_pairwise,
        san19_patchwise,
    )
    from .searchable import SearchableRedNet, searchable_rednet
    from .stand_alone import sasa_resnet26, sasa_resnet38, sasa_resnet50
except ImportError as error:
    raise ImportError(
        f'involution.models needs timm and torchvision ({error}); install them with: pip install "involution[models]"'
    ) from error

__all__ = [
    "SAN",
    "AxialResNet",
    "LRNet",
    "RedNet",
    "SearchableRedNet",
    "axial_resnet26s",
    "lrnet26",
    "lrnet50",
    "lrnet101",
    "rednet14_eighth",
    "rednet26",
    "rednet26_half",
    "rednet38",
    "rednet50",
    "rednet101",
    "rednet152",
    "resnet14_eighth",
    "resnet26_half",
    "san10_pairwise",
    "san10_patchwise",
    "san15_pairwise",
    "san15_patchwise",
    "san19_pairwise",
    "san19_patchwise",
    "sasa_resnet26",
    "sasa_resnet38",
    "sasa_resnet50",
    "searchable_rednet",
]
