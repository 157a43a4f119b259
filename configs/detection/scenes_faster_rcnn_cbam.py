"""Faster R-CNN with a small CBAM backbone, otherwise as in scenes_mask_rcnn_cbam.

    python -m train scenes_faster_rcnn_cbam --workdir runs/scenes_faster_rcnn_cbam

Time: 2,000 steps of 8 images; not measured.
Result, box AP50 in %: not run.
"""

import dataclasses

from configs.detection.scenes_mask_rcnn_cbam import config as base

_options = {name: value for name, value in base.model.options.items() if name != "mask_widths"}

config = dataclasses.replace(
    base, model=dataclasses.replace(base.model, name="faster_rcnn_cbam_resnet18", options=_options)
)
