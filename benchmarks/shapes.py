"""What is measured in every place: the maps of RedNet-50's stages, and its involutions."""

# Channels and rows of the maps that the four stages involve, at 224×224 pixels.
SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))
KERNEL, GROUP_CHANNELS = 7, 16
