"""Losses, each as a function of logits and as a `Loss` that `attnjax.training.make_train_step` takes."""

from attnjax.losses._cross_entropy import CrossEntropy, classification_sums, cross_entropy, masked_mean
from attnjax.losses._ggam import GGAM, GGAMTerms, ggam_loss, guidance_loss

__all__ = [
    "GGAM",
    "CrossEntropy",
    "GGAMTerms",
    "classification_sums",
    "cross_entropy",
    "ggam_loss",
    "guidance_loss",
    "masked_mean",
]
