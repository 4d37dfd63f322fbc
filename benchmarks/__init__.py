"""Measurements: what the kernels need and how long the ops take."""
