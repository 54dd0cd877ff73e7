"""The downstream data sets in their published file formats: twelve of the paper, and Flickr8k-CN."""

from ccmb.datasets.cards import CARDS, Card
from ccmb.datasets.dataset import Dataset, DatasetQuery
from ccmb.datasets.registry import open_dataset

__all__ = ["CARDS", "Card", "Dataset", "DatasetQuery", "open_dataset"]
