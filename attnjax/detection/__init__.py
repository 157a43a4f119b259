"""Detection and instance segmentation: operators, feature pyramids, RetinaNet, Faster R-CNN and Mask R-CNN."""

from attnjax.detection._anchors import anchors, base_anchors
from attnjax.detection._box_coder import decode_boxes, encode_boxes
from attnjax.detection._boxes import (
    box_area,
    box_iou,
    box_iou_loss,
    clip_boxes,
    complete_box_iou,
    convert_boxes,
    distance_box_iou,
    generalized_box_iou,
    has_sides,
)
from attnjax.detection._detector import Detector
from attnjax.detection._evaluation import COCO_METRICS, CocoEvaluation, VocCurve, coco_evaluation, voc_curve
from attnjax.detection._heads import BoxHead, MaskHead, RetinaHead, RPNHead, Upsample
from attnjax.detection._losses import focal_loss, smooth_l1
from attnjax.detection._masks import mask_targets, masks_to_boxes, paste_masks
from attnjax.detection._matching import IGNORED, NEGATIVE, match, sample
from attnjax.detection._named import DETECTOR_KINDS, create_detector, list_detectors
from attnjax.detection._nms import batched_nms, nms
from attnjax.detection._pyramid import FeaturePyramid
from attnjax.detection._rcnn import RCNN_TORCHVISION, FasterRCNN, MaskRCNN
from attnjax.detection._rcnn_loss import RCNNLoss
from attnjax.detection._resize import resize_image, resize_masks, resized_size, scale_boxes
from attnjax.detection._retina_loss import RetinaLoss
from attnjax.detection._retinanet import RETINANET_TORCHVISION, RetinaNet
from attnjax.detection._roi_align import map_levels, multiscale_roi_align, roi_align
from attnjax.detection._select import Detections, select_from_anchors, select_from_regions, select_proposals

__all__ = [
    "COCO_METRICS",
    "DETECTOR_KINDS",
    "IGNORED",
    "NEGATIVE",
    "RCNN_TORCHVISION",
    "RETINANET_TORCHVISION",
    "BoxHead",
    "CocoEvaluation",
    "Detections",
    "Detector",
    "FasterRCNN",
    "FeaturePyramid",
    "MaskHead",
    "MaskRCNN",
    "RCNNLoss",
    "RPNHead",
    "RetinaHead",
    "RetinaLoss",
    "RetinaNet",
    "Upsample",
    "VocCurve",
    "anchors",
    "base_anchors",
    "batched_nms",
    "box_area",
    "box_iou",
    "box_iou_loss",
    "clip_boxes",
    "coco_evaluation",
    "complete_box_iou",
    "convert_boxes",
    "create_detector",
    "decode_boxes",
    "distance_box_iou",
    "encode_boxes",
    "focal_loss",
    "generalized_box_iou",
    "has_sides",
    "list_detectors",
    "map_levels",
    "mask_targets",
    "masks_to_boxes",
    "match",
    "multiscale_roi_align",
    "nms",
    "paste_masks",
    "resize_image",
    "resize_masks",
    "resized_size",
    "roi_align",
    "sample",
    "scale_boxes",
    "select_from_anchors",
    "select_from_regions",
    "select_proposals",
    "smooth_l1",
    "voc_curve",
]
