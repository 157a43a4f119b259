"""GGAM's VGG-16 on CUB-200-2011, otherwise as in birds_ggam_resnet50.

    python -m train birds_ggam_vgg16 --workdir runs/birds_ggam_vgg16

The released VGG-16 flattens its last map and takes 224 pixels; this one has the head and the images of the ResNet-50.
It starts from torchvision's VGG-16 with batch norm:

    python -c "from attnjax.convert import *; from attnjax.models import VGG; save_weights('vgg16.safetensors',
    from_torch(VGG(num_classes=0), read_weights('vgg16_bn-6c64b313.pth'), 'torchvision'))"

Time: 56,194 steps of 32 images, 1,798,208 in all; not measured.
Result, error in %: 13.88 (README history of PRIS-CV/CAM-Guided-Attention, read; before the paper).
"""

import dataclasses

from configs.fine_grained.birds_ggam_resnet50 import config as base
from train.config import ModelConfig

config = dataclasses.replace(base, model=ModelConfig(name="ggam_vgg16", weights="vgg16.safetensors"))
