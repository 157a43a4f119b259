"""GGAM's ResNet-50 on Stanford Cars, otherwise as in birds_ggam_resnet50.

    python -m train.prepare cars196 --from FOLDER_OF_THE_DOWNLOAD
    python -m train cars_ggam_resnet50 --workdir runs/cars_ggam_resnet50

Time: 76,350 steps of 32 images, 2,443,200 in all; not measured.
Result, error in %: 6.19 (README history of PRIS-CV/CAM-Guided-Attention, read; before the paper). One version prints
three accuracies for the two nets, 92.43/92.61/93.81, and does not explain the first.
"""

import dataclasses

from configs.fine_grained.birds_ggam_resnet50 import config as base

config = dataclasses.replace(base, data=dataclasses.replace(base.data, source="tfds:cars196"))
