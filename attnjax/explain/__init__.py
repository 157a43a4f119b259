"""Explanations of nets: class activation maps and their faithfulness, guided gradients, gates of attention blocks."""

from attnjax.explain._cam import CAM, METHODS, grad_cam
from attnjax.explain._gates import GateStatistics, attention_maps, gate_statistics
from attnjax.explain._guided import guided_backprop, guided_grad_cam
from attnjax.explain._insertion import InsertionDeletion, insertion_deletion
from attnjax.explain._pictures import Column, gallery, overlay
from attnjax.explain._pointing import pointing_game
from attnjax.explain._road import ROAD, road

__all__ = [
    "CAM",
    "METHODS",
    "ROAD",
    "Column",
    "GateStatistics",
    "InsertionDeletion",
    "attention_maps",
    "gallery",
    "gate_statistics",
    "grad_cam",
    "guided_backprop",
    "guided_grad_cam",
    "insertion_deletion",
    "overlay",
    "pointing_game",
    "road",
]
