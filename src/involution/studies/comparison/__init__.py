"""The comparison of convolution and involution on small images, as the student report made it and as it is fair."""
