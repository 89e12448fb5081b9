"""A page that runs nets in a browser: what they see in an image, and the kernels that every pixel makes."""

from .site import build

__all__ = ["build"]
