"""Every named net: its published size, its stages, and the errors of the table."""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import pytest

import attnjax
from attnjax.layers import BatchNorm
from tests.kinds import one_of_each_kind, without_numbers


def parameters(name: str) -> int:
    return attnjax.model_info(name).parameters


def first_word(name: str) -> str:
    """The attention, or the architecture, of a net."""
    return without_numbers(name).partition("_")[0]


every_net = pytest.mark.parametrize("name", one_of_each_kind(attnjax.list_models(), first_word, parameters))


@every_net
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    model, info = attnjax.create_model(name), attnjax.model_info(name)
    shape = (1, *info.input_size, 3)
    assert attnjax.count_parameters(model, shape) == info.parameters
    assert attnjax.count_macs(model, shape) == info.macs


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("se_resnet50", 28_088_024), ("cbam_resnet50", 28_089_624), ("cbam_resnet18", 11_779_392)],
)
def test_counts_of_the_papers(name: str, parameters: int) -> None:
    assert attnjax.model_info(name).parameters == parameters


@every_net
def test_features_keep_or_halve_the_map_logits_have_the_classes_and_norms_are_as_given(name: str) -> None:
    norm = partial(BatchNorm, param_dtype=jnp.bfloat16)
    model, info = attnjax.create_model(name, num_classes=7, norm=norm), attnjax.model_info(name)
    x = jax.ShapeDtypeStruct((2, *info.input_size, 1), jnp.float32)
    logits, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), x)
    assert logits.shape == (2, 7)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables["batch_stats"])} == {jnp.dtype(jnp.bfloat16)}
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, train=False, method="features"), variables, x)
    sides = [value.shape[1] for value in maps.values()]
    assert len(sides) > 3
    assert all(small in (side, side // 2, (side + 1) // 2) for side, small in itertools.pairwise(sides))


def test_listing_takes_patterns() -> None:
    assert attnjax.list_models("cbam_resnet[15]*_cifar") == [
        "cbam_resnet56_cifar",
        "cbam_resnet110_cifar",
        "cbam_resnet18_cifar",
        "cbam_resnet50_cifar",
        "cbam_resnet101_cifar",
    ]
    assert attnjax.list_models("nothing*") == []


def test_information_is_frozen_and_names_its_sources() -> None:
    info = attnjax.model_info("cbam_resnet50")
    assert (info.results[0].top1_error, info.results[0].verified) == (22.378, True)
    assert "CBAM" in info.paper
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.parameters = 0  # type: ignore[misc]


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown model 'cbam_resnet5': did you mean cbam_resnet50"):
        attnjax.create_model("cbam_resnet5")
    with pytest.raises(ValueError, match="unknown model 'zzz': see attnjax"):
        attnjax.model_info("zzz")
    with pytest.raises(ValueError, match="unknown argument 'num_clases' of model 'resnet18': did you mean num_classes"):
        attnjax.create_model("resnet18", num_clases=3)


def test_a_mapping_changes_arguments_of_the_nets_own_constructor() -> None:
    small = {"widths": (8, 16, 32), "stage_sizes": (1, 1, 1)}
    shape = (1, 16, 16, 3)
    released, changed = (
        attnjax.create_model("cbam_resnet20_cifar", attention={"reduction": 4} | kernel, **small)
        for kernel in ({}, {"kernel_size": 3})
    )
    assert changed.attention.keywords == {"reduction": 4, "kernel_size": 3}
    counts = [attnjax.count_parameters(net, shape) for net in (released, changed)]
    assert counts[0] - counts[1] == 3 * 2 * (7 * 7 - 3 * 3)


def test_a_mapping_changes_each_constructor_of_a_sequence_and_those_inside() -> None:
    net = attnjax.create_model("attention56", attention={"mask_norm": "channel"})
    three = [{"pools": pools, "mask_norm": "channel"} for pools in (3, 2, 1)]
    assert [each and each.keywords for each in net.attention] == [*three, None]
    inside = {"stage_sizes": (1, 1, 1), "block": {"branch_activation": True}}
    backbone = attnjax.create_model("ggam_resnet20_cifar", backbone=inside).backbone.keywords
    assert (backbone["stage_sizes"], backbone["widths"]) == ((1, 1, 1), (16, 32, 64))
    assert backbone["block"].keywords == {"branch_activation": True}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "cbam_resnet50",
            {"attention": {"kernelsize": 3}},
            "unknown argument 'kernelsize' of attention of model 'cbam_resnet50': did you mean kernel_size?",
        ),
        (
            "ggam_resnet50",
            {"backbone": {"widhts": (8,)}},
            "unknown argument 'widhts' of backbone of model 'ggam_resnet50': did you mean widths?",
        ),
        ("attention56", {"attention": {"pol": "ceil"}}, "unknown argument 'pol' of attention of model 'attention56'"),
        ("resnet50", {"attention": {"reduction": 4}}, "attention of model 'resnet50' is None, no constructor"),
        ("resnet50", {"widths": {"first": 4}}, "widths of model 'resnet50' is .*, no constructor"),
    ],
)
def test_a_mapping_that_does_not_fit_is_named(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attnjax.create_model(name, **arguments)
