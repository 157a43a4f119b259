"""ResNet-50 without attention on FGVC-Aircraft, otherwise as in birds_resnet50.

    python -m train aircraft_resnet50 --workdir runs/aircraft_resnet50

Time: 20,835 steps of 32 images, 666,720 in all; not measured.
Result, error in %: 8.33 (README history of PRIS-CV/CAM-Guided-Attention, read; before the paper).
"""

import dataclasses

from configs.fine_grained.birds_resnet50 import config as base

config = dataclasses.replace(base, data=dataclasses.replace(base.data, source="tfds:fgvc_aircraft"))
