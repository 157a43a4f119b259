"""GGAM's VGG-16 on Stanford Cars, otherwise as in birds_ggam_vgg16.

    python -m train cars_ggam_vgg16 --workdir runs/cars_ggam_vgg16

Time: 76,350 steps of 32 images, 2,443,200 in all; not measured.
Result, error in %: 7.39 (README history of PRIS-CV/CAM-Guided-Attention, read; before the paper). One version prints
three accuracies for the two nets, 92.43/92.61/93.81, and does not explain the first.
"""

import dataclasses

from configs.fine_grained.birds_ggam_vgg16 import config as base

config = dataclasses.replace(base, data=dataclasses.replace(base.data, source="tfds:cars196"))
