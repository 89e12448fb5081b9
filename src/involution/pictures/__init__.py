"""Heat maps, objects, overlays and plots as images."""
