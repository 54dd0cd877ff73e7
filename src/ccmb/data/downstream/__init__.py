"""The downstream data sets in their published file formats: twelve of the paper, and Flickr8k-CN."""

from ccmb.data.downstream.cards import CARDS, Card
from ccmb.data.downstream.dataset import Dataset, Query
from ccmb.data.downstream.opening import open_dataset

__all__ = ["CARDS", "Card", "Dataset", "Query", "open_dataset"]
