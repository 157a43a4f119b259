"""What a net looks at: class activation maps, guided gradients, and the gates of attention blocks."""

from attnjax.explain._cam import CAM, grad_cam
from attnjax.explain._gates import GateStatistics, attention_maps, gate_statistics
from attnjax.explain._guided import guided_backprop, guided_grad_cam
from attnjax.explain._pictures import Column, gallery, overlay

__all__ = [
    "CAM",
    "Column",
    "GateStatistics",
    "attention_maps",
    "gallery",
    "gate_statistics",
    "grad_cam",
    "guided_backprop",
    "guided_grad_cam",
    "overlay",
]
