"""ResNet-50 without attention on Stanford Cars, otherwise as in birds_resnet50.

    python -m train cars_resnet50 --workdir runs/cars_resnet50

Time: 25,450 steps of 32 images, 814,400 in all; not measured.
Result, error in %: 7.60 (README history of PRIS-CV/CAM-Guided-Attention, read; before the paper).
"""

import dataclasses

from configs.fine_grained.birds_resnet50 import config as base

config = dataclasses.replace(base, data=dataclasses.replace(base.data, source="tfds:cars196"))
