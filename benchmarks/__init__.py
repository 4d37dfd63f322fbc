"""Measurements: what the kernels need and how long the ops take."""

__all__ = ["MOST_CLUSTERS"]

# of a molecule, the default when the committed results were made; the layer's own would make all
# large ratios alike
MOST_CLUSTERS = 32
