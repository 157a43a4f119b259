"""Detection against torchvision's and mmdetection's operators, heads, losses and nets."""

from __future__ import annotations

from tests.golden import detection_operators
from tests.golden.detection_fixtures import check
from tests.golden.reference import Fixture


def test_detection_operator_gives_the_reference_values(detection_operator: Fixture) -> None:
    check(detection_operator, *detection_operators.FAMILIES[detection_operator.manifest["family"]])
