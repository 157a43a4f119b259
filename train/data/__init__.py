"""Images with labels: sources, augmentation, and the pipeline that batches them."""

from train.data.dataset import Dataset, Split
from train.data.noise import with_label_noise
from train.data.pipeline import (
    Batch,
    Reader,
    evaluation_batches,
    evaluation_transform,
    image_shape,
    read_input,
    training_iterator,
)
from train.data.sources import open_dataset

__all__ = [
    "Batch",
    "Dataset",
    "Reader",
    "Split",
    "evaluation_batches",
    "evaluation_transform",
    "image_shape",
    "open_dataset",
    "read_input",
    "training_iterator",
    "with_label_noise",
]
