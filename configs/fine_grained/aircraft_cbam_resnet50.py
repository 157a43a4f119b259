"""CBAM-ResNet-50 on FGVC-Aircraft, otherwise as in birds_cbam_resnet50.

    python -m train aircraft_cbam_resnet50 --workdir runs/aircraft_cbam_resnet50

Time: 20,835 steps of 32 images, 666,720 in all; not measured.
Result, error in %: 8.09 (README history of PRIS-CV/CAM-Guided-Attention, read; before the paper).
"""

import dataclasses

from configs.fine_grained.birds_cbam_resnet50 import config as base

config = dataclasses.replace(base, data=dataclasses.replace(base.data, source="tfds:fgvc_aircraft"))
