"""The paper's objective (Learning-to-Cache, arXiv 2406.01733): pairs of neighbouring steps on noised data."""
