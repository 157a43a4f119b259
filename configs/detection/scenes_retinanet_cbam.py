"""RetinaNet with a small CBAM backbone, otherwise as in scenes_mask_rcnn_cbam.

    python -m train scenes_retinanet_cbam --workdir runs/scenes_retinanet_cbam

Its anchors are half as large as COCO's: 16 to 256 pixels.

Time: 2,000 steps of 8 images; not measured.
Result, box AP50 in %: not run.
"""

import dataclasses

from configs.detection.scenes_mask_rcnn_cbam import config as base
from train.config import DetectionConfig

_kept = ("backbone", "channels", "max_detections", "freeze_batch_norm", "frozen_stages")
_options = {name: base.model.options[name] for name in _kept} | {
    "anchor_sizes": tuple(tuple(side * 2 ** (octave / 3) for octave in range(3)) for side in (16, 32, 64, 128, 256))
}

config = dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, name="retinanet_cbam_resnet18", options=_options),
    detection=DetectionConfig(short_side=128, long_side=128, max_objects=5),
)
