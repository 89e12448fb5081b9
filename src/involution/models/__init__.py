"""Networks built on involution. Importing this package registers RedNet with timm."""

try:
    from .rednet import RedNet, rednet26, rednet38, rednet50, rednet101, rednet152
except ImportError as error:
    raise ImportError(
        f'involution.models needs timm and torchvision ({error}); install them with: pip install "involution[models]"'
    ) from error

__all__ = ["RedNet", "rednet26", "rednet38", "rednet50", "rednet101", "rednet152"]
