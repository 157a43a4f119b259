"""Detection against torchvision's and mmdetection's operators, heads, losses and nets."""

from __future__ import annotations

from tests.golden import detection_evaluation as evaluation
from tests.golden import detection_nets, detection_operators, detection_parts
from tests.golden.detection_fixtures import check
from tests.golden.reference import Fixture


def test_detection_operator_gives_the_reference_values(detection_operator: Fixture) -> None:
    check(detection_operator, *detection_operators.FAMILIES[detection_operator.manifest["family"]])


def test_detection_module_gives_the_reference_outputs_and_gradients(detection_module: Fixture) -> None:
    check(detection_module, detection_parts.module, [])


def test_detection_postprocess_gives_the_reference_boxes(detection_postprocess: Fixture) -> None:
    check(detection_postprocess, *detection_parts.POSTPROCESS[detection_postprocess.manifest["family"]])


def test_detection_loss_gives_the_reference_terms_and_gradients(detection_loss: Fixture) -> None:
    check(detection_loss, *detection_parts.LOSSES[detection_loss.manifest["family"]])


def test_detection_net_gives_the_reference_detections_losses_and_gradients(detection_net: Fixture) -> None:
    check(detection_net, detection_nets.net, detection_nets.INPUTS)


def test_detection_evaluation_gives_the_reference_metrics(detection_evaluation: Fixture) -> None:
    evaluation.CHECKS[detection_evaluation.manifest["family"]](detection_evaluation)


def test_detection_nets_have_the_reference_numbers_of_parameters(detection_count: Fixture) -> None:
    evaluation.CHECKS[detection_count.path.name](detection_count)
