"""Small nets that differ in one thing: the paper's ablations of kernel size, channels per group and φ; the relatives."""
