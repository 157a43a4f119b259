"""State dicts to variables and back: bitwise round trips, and every way in which they may not fit."""

from __future__ import annotations

import re
import warnings
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import attnjax
from attnjax.attention import (
    BAM,
    CBAM,
    ChannelSpatialAttention,
    GatherExcite,
    GlobalContext,
    PyramidSqueezeAttention,
    ResidualAttention,
    ResidualUnit,
    SelectiveKernel,
    SqueezeExcite,
)
from attnjax.convert import from_torch, list_sources, to_torch
from attnjax.convert._settings import SETTINGS, differences
from attnjax.layers import BatchNorm
from attnjax.models import VGG, BasicBlock, Bottleneck, GGAMNet, ResidualAttentionNet, ResNet

SHAPE = (1, 32, 32, 3)
_tiny = partial(ResNet, (1, 1), BasicBlock, num_classes=10, widths=(16, 32), stem_width=16)
_tiny_bottleneck = partial(ResNet, (1, 2), Bottleneck, num_classes=10, widths=(16, 32), stem_width=16)
_port = partial(ResidualAttention, pool="padded", skip="port")

NETS: dict[str, tuple[nn.Module, str]] = {
    "torchvision": (_tiny(), "torchvision"),
    "cbam": (_tiny(attention=partial(CBAM, reduction=4)), "attention-module"),
    "bam": (_tiny(attention=partial(BAM, reduction=4, num_layers=2), attention_placement="stage"), "attention-module"),
    "epsanet": (
        _tiny_bottleneck(spatial_conv=partial(PyramidSqueezeAttention, groups=(1, 1, 1, 1))),
        "epsanet",
    ),
    "senet.pytorch": (_tiny(attention=partial(SqueezeExcite, use_bias=False, reduction=4)), "senet.pytorch"),
    "cadene": (_tiny_bottleneck(attention=SqueezeExcite, stem_pool="ceil", stride_at="1x1"), "cadene"),
    "cadene deep stem": (
        _tiny_bottleneck(stem="deep", attention=SqueezeExcite, shortcut="3x3", stem_pool="ceil"),
        "cadene",
    ),
    "timm": (_tiny(attention=partial(SqueezeExcite, divisor=8)), "timm"),
    "timm d": (_tiny_bottleneck(stem="deep", shortcut="avg_1x1"), "timm"),
    "timm sk": (
        _tiny(spatial_conv=partial(SelectiveKernel, divisor=8, split=True), spatial_norm=False),
        "timm",
    ),
    "timm-byobnet": (
        _tiny_bottleneck(stem="deep", attention=GlobalContext, attention_placement="3x3"),
        "timm-byobnet",
    ),
    "ran-pytorch": (
        ResidualAttentionNet(
            ResidualUnit,
            (partial(_port, pools=2), partial(_port, pools=1), None),
            (1, 2, 0),
            10,
            (8, 16, 16),
            (1, 1, 2),
            stem_width=8,
            stem_pool="padded",
        ),
        "ran-pytorch",
    ),
    "ran-pytorch-cifar": (
        ResidualAttentionNet(
            ResidualUnit,
            (partial(_port, pools=2), partial(_port, pools=0), None),
            (1, 2, 0),
            10,
            (8, 16, 16),
            (1, 1, 2),
            stem="cifar",
            stem_width=8,
        ),
        "ran-pytorch-cifar",
    ),
    "ggam": (
        GGAMNet(
            partial(ResNet, (1, 1), BasicBlock, widths=(16, 32)), partial(ChannelSpatialAttention, reduction=4), 10
        ),
        "ggam",
    ),
    "ggam vgg": (
        GGAMNet(
            partial(VGG, (1, 2), widths=(8, 16)),
            partial(ChannelSpatialAttention, reduction=4),
            num_classes=10,
            hidden=8,
        ),
        "ggam",
    ),
    "vgg": (VGG((1, 2), 0, (8, 16)), "torchvision"),
}


def start(net: nn.Module) -> dict[str, Any]:
    """Variables whose statistics are not all alike."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: net.init(key, jnp.zeros(SHAPE), train=False), jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)


def assert_same(a: Any, b: Any) -> None:
    a, b = flatten_dict(a, sep="/"), flatten_dict(b, sep="/")
    assert sorted(a) == sorted(b)
    for path, leaf in a.items():
        assert np.asarray(leaf).tobytes() == np.asarray(b[path]).tobytes(), path
        assert b[path].dtype == jnp.float32


@pytest.mark.parametrize("case", NETS)
def test_round_trip_is_bitwise(case: str) -> None:
    net, source = NETS[case]
    variables = start(net)
    state_dict = to_torch(net, variables, source)
    assert_same(variables, from_torch(net, state_dict, source, input_shape=SHAPE))
    assert_same(variables, from_torch(net, state_dict, input_shape=SHAPE))


def test_released_names_and_layouts() -> None:
    released = {
        "cbam": {
            "layer2.0.cbam.ChannelGate.mlp.1.weight": (8, 32),
            "layer2.0.cbam.SpatialGate.spatial.conv.weight": (1, 2, 7, 7),
            "layer2.0.cbam.SpatialGate.spatial.bn.running_var": (1,),
            "layer2.0.downsample.0.weight": (32, 16, 1, 1),
        },
        "bam": {
            "bam1.channel_att.gate_c.gate_c_fc_1.weight": (4, 4),
            "bam1.channel_att.gate_c.gate_c_bn_2.weight": (4,),
            "bam1.channel_att.gate_c.gate_c_fc_final.bias": (16,),
            "bam2.spatial_att.gate_s.gate_s_conv_di_1.weight": (8, 8, 3, 3),
        },
        "epsanet": {"layer1.0.conv2.conv_4.weight": (4, 16, 9, 9), "layer1.0.conv2.se.fc1.weight": (1, 4, 1, 1)},
        "senet.pytorch": {"layer1.0.se.fc.0.weight": (4, 16)},
        "cadene": {"layer0.conv1.weight": (16, 3, 7, 7), "last_linear.weight": (10, 128)},
        "cadene deep stem": {"layer0.conv3.weight": (16, 16, 3, 3)},
        "timm": {"layer1.0.se.fc1.weight": (8, 16, 1, 1)},
        "timm d": {
            "conv1.6.weight": (16, 16, 3, 3),
            "bn1.weight": (16,),
            "layer2.0.downsample.1.weight": (128, 64, 1, 1),
        },
        "timm sk": {"layer1.0.conv1.paths.1.bn.weight": (16,), "layer1.0.conv2.bn.num_batches_tracked": ()},
        "ran-pytorch": {
            "conv1.1.running_var": (8,),
            "residual_block2.conv4.weight": (16, 8, 1, 1),
            "residual_block4.bn1.weight": (16,),
            "attention_module1.softmax2_blocks.1.conv3.weight": (8, 2, 1, 1),
            "attention_module1.softmax3_blocks.bn1.bias": (8,),
            "attention_module1.softmax4_blocks.5.weight": (8, 8, 1, 1),
            "attention_module1.skip1_connection_residual_block.conv2.weight": (2, 2, 3, 3),
            "attention_module2_2.softmax2_blocks.0.running_mean": (16,),
            "mpool2.0.weight": (16,),
        },
        "ran-pytorch-cifar": {
            "attention_module1.down_residual_blocks1.bn1.weight": (8,),
            "attention_module1.up_residual_blocks1.bn1.weight": (8,),
            "attention_module2_2.middle_2r_blocks.1.conv1.weight": (4, 16, 1, 1),
            "attention_module2.conv1_1_blocks.2.weight": (16, 16, 1, 1),
        },
        "ggam": {
            "features.0.weight": (64, 3, 7, 7),
            "features.5.0.downsample.0.weight": (32, 16, 1, 1),
            "se_module.fc1.weight": (8, 32, 1, 1),
            "classifier.1.weight": (512, 32),
            "classifier.4.weight": (10, 512),
        },
        "ggam vgg": {"features.8.weight": (16,), "classifier.0.running_mean": (16,)},
        "vgg": {"features.0.bias": (8,), "features.4.weight": (16, 8, 3, 3), "features.8.running_var": (16,)},
        "timm-byobnet": {"stages.0.0.conv2_kxk.conv.weight": (16, 16, 3, 3), "head.fc.bias": (10,)},
    }
    for case, names in released.items():
        net, source = NETS[case]
        shapes = {name: value.shape for name, value in to_torch(net, start(net), source).items()}
        assert names.items() <= shapes.items(), case


def test_data_parallel_prefix_is_left_off() -> None:
    net, source = NETS["cbam"]
    variables = start(net)
    state_dict = {f"module.{name}": value for name, value in to_torch(net, variables, source).items()}
    assert_same(variables, from_torch(net, state_dict, input_shape=SHAPE))


def test_everything_that_does_not_fit_is_listed_at_once() -> None:
    net, source = NETS["timm"]
    state_dict = to_torch(net, start(net), source)
    state_dict["layer1.0.conv1.weigth"] = state_dict.pop("layer1.0.conv1.weight")
    state_dict["extra.weight"] = np.zeros(3)
    state_dict["bn1.bias"] = np.zeros(3)
    del state_dict["layer2.0.se.fc1.bias"]
    with pytest.raises(ValueError, match="source='timm', do not fit the net") as error:
        from_torch(net, state_dict, input_shape=SHAPE)
    message = " ".join(str(error.value).split())
    assert "2 missing: layer1.0.conv1.weight (nearest: layer1.0.conv1.weigth); layer2.0.se.fc1.bias" in message
    assert "2 not in the net: layer1.0.conv1.weigth; extra.weight" in message
    assert "1 with another shape in the net: bn1.bias is (3,), not (16,)" in message


def test_a_transposed_matrix_is_another_shape() -> None:
    net, source = NETS["senet.pytorch"]
    state_dict = to_torch(net, start(net), source)
    state_dict["layer1.0.se.fc.0.weight"] = state_dict["layer1.0.se.fc.0.weight"].T
    with pytest.raises(ValueError, match=r"layer1\.0\.se\.fc\.0\.weight is"):
        from_torch(net, state_dict, input_shape=SHAPE)


def test_unknown_names_and_sources_say_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"no name of these weights is known, such as 'a\.b': sources are torchvision"):
        from_torch(_tiny(), {"a.b": np.zeros(3)}, input_shape=SHAPE)
    with pytest.raises(ValueError, match="unknown source 'keras': sources are"):
        from_torch(_tiny(), {}, "keras", input_shape=SHAPE)
    with pytest.raises(ValueError, match="num_classes=3 is for named nets"):
        from_torch(_tiny(), {}, num_classes=3)
    with pytest.raises(ValueError, match="allow_missing='all' is not one of"):
        from_torch(_tiny(), {}, allow_missing="all")  # type: ignore[arg-type]


@pytest.mark.parametrize("case", ["cbam", "bam", "epsanet", "timm sk"])
def test_a_source_without_names_for_a_block_says_so(case: str) -> None:
    net, _ = NETS[case]
    with pytest.raises(ValueError, match="has no name for params/stage1_"):
        to_torch(net, start(net), "torchvision")


def test_a_classifier_of_another_size_is_left_out_with_a_warning() -> None:
    variables = start(_tiny())
    state_dict = to_torch(_tiny(), variables, "torchvision")
    other = _tiny(num_classes=7)
    with pytest.warns(
        UserWarning, match="classifier of 10 classes in the file is not loaded: that of the net, of 7, is newly"
    ):
        read = from_torch(other, state_dict, input_shape=SHAPE, key=jax.random.key(3))
    fresh = attnjax.init(other, jax.random.key(3), SHAPE)
    assert_same(read["params"]["fc"], fresh["params"]["fc"])
    assert_same(read["params"]["stage1_block0"], variables["params"]["stage1_block0"])
    with pytest.warns(UserWarning, match="classifier of 10 classes in the file is not loaded: the net has none"):
        assert "fc" not in from_torch(_tiny(num_classes=0), state_dict, input_shape=SHAPE)["params"]


def test_a_classifier_of_other_features_is_an_error() -> None:
    state_dict = to_torch(_tiny(), start(_tiny()), "torchvision")
    state_dict["fc.weight"] = np.zeros((7, 5))
    with pytest.raises(ValueError, match=r"fc\.weight is \(7, 5\)"):
        from_torch(_tiny(), state_dict, input_shape=SHAPE)


def test_plain_weights_go_into_a_net_with_attention() -> None:
    plain, attentive = _tiny(), NETS["cbam"][0]
    variables = start(plain)
    state_dict = to_torch(plain, variables, "torchvision")
    with pytest.raises(ValueError, match=r"18 missing: layer1\.0\.cbam\.ChannelGate"):
        from_torch(attentive, state_dict, "attention-module", input_shape=SHAPE)
    with pytest.warns(UserWarning, match="2 attention blocks are not in the file and are newly initialised"):
        read = from_torch(attentive, state_dict, input_shape=SHAPE, allow_missing="attention", key=jax.random.key(3))
    fresh = attnjax.init(attentive, jax.random.key(3), SHAPE)
    block = read["params"]["stage1_block0"]
    assert_same(block["attention"], fresh["params"]["stage1_block0"]["attention"])
    assert_same(block["conv1"], variables["params"]["stage1_block0"]["conv1"])


def test_only_attention_may_be_missing() -> None:
    state_dict = to_torch(_tiny(), start(_tiny()), "torchvision")
    del state_dict["conv1.weight"]
    with pytest.raises(ValueError, match=r"1 missing: conv1\.weight"):
        from_torch(NETS["cbam"][0], state_dict, input_shape=SHAPE, allow_missing="attention")


def test_a_part_of_an_attention_block_must_not_be_missing() -> None:
    net, source = NETS["cbam"]
    state_dict = to_torch(net, start(net), source)
    del state_dict["layer1.0.cbam.ChannelGate.mlp.1.weight"]
    with pytest.raises(ValueError, match=r"1 missing: layer1\.0\.cbam\.ChannelGate\.mlp\.1\.weight"):
        from_torch(net, state_dict, input_shape=SHAPE, allow_missing="attention")
    rest = {name: value for name, value in state_dict.items() if "layer1.0.cbam" not in name}
    with pytest.warns(UserWarning, match="1 attention blocks are not in the file and are newly"):
        from_torch(net, rest, input_shape=SHAPE, allow_missing="attention")


def test_identity_gates_keep_the_plain_net() -> None:
    plain, attentive = _tiny(), _tiny(attention=partial(CBAM, reduction=4))
    variables = attnjax.init(plain, jax.random.key(1), SHAPE)
    state_dict = to_torch(plain, variables, "torchvision")
    with pytest.warns(UserWarning, match="2 attention blocks .* as the identity"):
        read = from_torch(attentive, state_dict, input_shape=SHAPE, allow_missing="attention", gates="identity")
    x = jax.random.normal(jax.random.key(5), (2, *SHAPE[1:]))
    before, after = plain.apply(variables, x, train=False), attentive.apply(read, x, train=False)
    assert float(jnp.abs(before - after).max()) < 0.02 * float(jnp.abs(before).max())


def test_narrow_and_wide_numbers_become_float32() -> None:
    state_dict = to_torch(_tiny(), start(_tiny()), "torchvision")
    halves = {name: value.astype(np.float16) for name, value in state_dict.items()}
    read = from_torch(_tiny(), halves, input_shape=SHAPE)
    assert {leaf.dtype for leaf in jax.tree.leaves(read)} == {jnp.dtype("float32")}


def test_whole_modules_are_never_lost_unasked() -> None:
    attention = (None, partial(_port, pools=1), None)
    net = partial(ResidualAttentionNet, ResidualUnit, attention, num_classes=10, widths=(8, 16, 16), stem_width=8)
    port = partial(net, stage_units=(1, 1, 2), stem_pool="padded")
    state_dict = to_torch(port((0, 2, 0)), start(port((0, 2, 0))), "ran-pytorch")
    assert any(name.startswith("attention_module2_2.") for name in state_dict)
    with pytest.raises(ValueError, match=r"not in the net: attention_module2_2\."):
        from_torch(port((0, 1, 0)), state_dict, input_shape=SHAPE)
    read = from_torch(port((0, 1, 0)), state_dict, "ran-pytorch-pre", input_shape=SHAPE)
    assert "stage2_attention1" not in read["params"]


def test_names_that_are_the_same_without_their_prefix_are_refused() -> None:
    state_dict = to_torch(_tiny(), start(_tiny()), "torchvision")
    state_dict["module.fc.weight"] = np.zeros((10, 32), np.float32)
    with pytest.raises(ValueError, match=r"have both 'fc\.weight' and 'module\.fc\.weight'"):
        from_torch(_tiny(), state_dict, input_shape=SHAPE)


@pytest.mark.parametrize("dtype", [np.complex64, np.int32, np.bool_])
def test_numbers_that_are_not_floating_are_refused(dtype: type) -> None:
    state_dict = to_torch(_tiny(), start(_tiny()), "torchvision")
    state_dict["bn1.weight"] = state_dict["bn1.weight"].astype(dtype)
    with pytest.raises(ValueError, match=rf"1 not floating: bn1\.weight is {np.dtype(dtype)}"):
        from_torch(_tiny(), state_dict, input_shape=SHAPE)


def test_variables_that_do_not_fit_are_refused() -> None:
    variables = start(_tiny())
    with pytest.raises(ValueError, match=r"12 missing: batch_stats/bn1/mean"):
        to_torch(_tiny(), {"params": variables["params"]}, "torchvision", input_shape=SHAPE)
    with pytest.raises(ValueError, match=r"2 with another shape in the net: params/fc/bias is \(10,\), not \(7,\)"):
        to_torch(_tiny(num_classes=7), variables, "torchvision", input_shape=SHAPE)
    with pytest.raises(ValueError, match=r"2 not in the net: params/fc/(bias|kernel)"):
        to_torch(_tiny(num_classes=0), variables, "torchvision", input_shape=SHAPE)
    variables["params"]["fc"]["bias"] = np.zeros(10, np.int32)
    with pytest.raises(ValueError, match="1 not floating: params/fc/bias is int32"):
        to_torch(_tiny(), variables, "torchvision", input_shape=SHAPE)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("bfloat16", "float32"), ("float16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_to_torch_gives_types_that_torch_has(ours: str, theirs: str) -> None:
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(ours)), start(_tiny()))
    state_dict = to_torch(_tiny(), variables, "torchvision", input_shape=SHAPE)
    bias = state_dict["bn1.bias"]
    assert bias.dtype == np.dtype(theirs)
    assert bias.tobytes() == variables["params"]["bn1"]["bias"].astype(theirs).tobytes()


SE = partial(SqueezeExcite, reduction=4)
OTHER_FUNCTIONS: dict[str, tuple[nn.Module, str, str]] = {
    "stride": (_tiny_bottleneck(stride_at="1x1"), "timm", "ResNet has stride_at='1x1', not '3x3'"),
    "pool": (_tiny(stem_pool="ceil"), "timm", "ResNet has stem_pool='ceil', not 'padded'"),
    "official pool": (_tiny_bottleneck(attention=SE), "cadene", "ResNet has stem_pool='padded', not 'ceil'"),
    "branch": (_tiny(attention=SE, stem_pool="ceil"), "cadene", "BasicBlock has branch_activation=False, not True"),
    "cbam": (
        _tiny(attention=partial(CBAM, reduction=4, use_bias=False, spatial_norm=BatchNorm)),
        "timm",
        "CBAM has descriptor='pool', not 'pool_mean_first' or 'pool_average'",
    ),
    "bam": (
        _tiny(attention=partial(BAM, reduction=4, fuse="sum"), attention_placement="stage"),
        "attention-module",
        "BAM has fuse='sum', not 'product'",
    ),
    "psa": (
        _tiny_bottleneck(spatial_conv=partial(PyramidSqueezeAttention, groups=(1, 1, 1, 1), order="paper")),
        "epsanet",
        "PyramidSqueezeAttention has order='paper', not 'reversed'",
    ),
    "ran": (
        ResidualAttentionNet(
            ResidualUnit, (None, partial(ResidualAttention, pools=1), None), (0, 1, 0), 10, (8, 16, 16), (1, 1, 1)
        ),
        "ran-pytorch",
        "ResidualAttentionNet has stem_pool='ceil', not 'padded'; ResidualAttention has pool='ceil', not 'padded'",
    ),
    "backbone": (
        GGAMNet(
            partial(ResNet, (1, 1), BasicBlock, widths=(16, 32), stem_pool="ceil"),
            partial(ChannelSpatialAttention, reduction=4),
            10,
        ),
        "ggam",
        "ResNet has stem_pool='ceil', not 'padded'",
    ),
}


@pytest.mark.parametrize("case", OTHER_FUNCTIONS)
def test_a_net_that_computes_something_else_than_the_source_is_told(case: str) -> None:
    net, source, message = OTHER_FUNCTIONS[case]
    variables = start(net)
    with pytest.warns(UserWarning, match=rf"another function than source='{source}' \(.*\): {re.escape(message)}$"):
        state_dict = to_torch(net, variables, source, input_shape=SHAPE)
    with pytest.warns(UserWarning, match=re.escape(message)):
        assert_same(variables, from_torch(net, state_dict, source, input_shape=SHAPE))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("se_resnet50", "cadene"),
        ("se_resnext50_32x4d", "cadene"),
        ("senet154", "cadene"),
        ("se_resnet18_legacy", "cadene"),
        ("resnet50", "torchvision"),
        ("se_resnet50_timm", "timm"),
        ("senet154_timm", "timm"),
        ("sk_resnet50_timm", "timm"),
        ("eca_resnet50d_timm", "timm"),
        ("se_resnet20_cifar", "timm"),
        ("se_resnet50_moskomule", "senet.pytorch"),
        ("cbam_resnet50", "attention-module"),
        ("bam_resnet50", "attention-module"),
        ("epsanet50_small", "epsanet"),
        ("attention56_port", "ran-pytorch"),
        ("attention92_448_port", "ran-pytorch"),
        ("attention92_cifar_port", "ran-pytorch-cifar"),
        ("ggam_resnet50", "ggam"),
    ],
)
def test_a_named_net_computes_what_its_source_does(name: str, source: str) -> None:
    assert differences(attnjax.create_model(name), SETTINGS[source]) == []


def test_no_warning_where_everything_fits() -> None:
    state_dict = to_torch(_tiny(), start(_tiny()), "torchvision")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_torch(_tiny(), state_dict, input_shape=SHAPE)


def test_sources_are_named_in_full() -> None:
    assert {source for _, source in NETS.values()} < set(list_sources())
    assert set(SETTINGS) == set(list_sources())


def test_identity_needs_missing_attention_and_gates_that_can_open() -> None:
    plain = attnjax.create_model("resnet20_cifar")
    state_dict = to_torch(plain, attnjax.init(plain, jax.random.key(0), (1, 32, 32, 3)), "torchvision")
    with pytest.raises(ValueError, match="it needs allow_missing='attention'"):
        from_torch("cbam_resnet20_cifar", state_dict, gates="identity")
    with pytest.raises(ValueError, match="only attention blocks are missing; pass allow_missing='attention'"):
        from_torch("cbam_resnet20_cifar", state_dict)
    shut = plain.clone(attention=GatherExcite)
    with pytest.raises(ValueError, match="has no parameter that could open its gate"):
        from_torch(shut, state_dict, input_shape=(1, 32, 32, 3), allow_missing="attention", gates="identity")
