"""GGAM's VGG-16 on FGVC-Aircraft, otherwise as in birds_ggam_vgg16.

    python -m train aircraft_ggam_vgg16 --workdir runs/aircraft_ggam_vgg16

Time: 62,504 steps of 32 images, 2,000,128 in all; not measured.
Result, error in %: 8.45 (README history of PRIS-CV/CAM-Guided-Attention, read; before the paper). One version prints
three accuracies for the two nets, 92.1/91.55/92.82, and does not explain the first.
"""

import dataclasses

from configs.fine_grained.birds_ggam_vgg16 import config as base

config = dataclasses.replace(base, data=dataclasses.replace(base.data, source="tfds:fgvc_aircraft"))
