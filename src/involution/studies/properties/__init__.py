"""Properties of nets that need little or no training: shifts, training against test images, receptive fields."""
