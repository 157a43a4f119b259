"""What a net looks at: class activation maps and the gates of its attention blocks."""

from attnjax.explain._cam import CAM, grad_cam

__all__ = ["CAM", "grad_cam"]
