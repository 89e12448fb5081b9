"""The paper's ablations of kernel size, channels per group and φ."""
