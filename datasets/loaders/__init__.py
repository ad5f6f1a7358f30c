"""Load data sets: one module per format, one card per data set."""

from packbench.datasets.catalogue import card as card
from packbench.datasets.catalogue import names as names
from packbench.datasets.read import read_vectors as read_vectors
from packbench.datasets.sources import load as load

__all__ = ["card", "load", "names", "read_vectors"]
