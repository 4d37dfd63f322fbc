"""What the clusters of a trained model are: which atoms they hold, in numbers and in pictures."""

from tritonpool.clusters.measures import Measures, atom_kinds, mean_measures, measure
from tritonpool.clusters.pictures import Picture, draw_clusters

__all__ = ["Measures", "Picture", "atom_kinds", "draw_clusters", "mean_measures", "measure"]
