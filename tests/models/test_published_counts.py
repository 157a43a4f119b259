"""The table of nets against counts that were derived from the papers and released code, apart from this package."""

from __future__ import annotations

import pytest

import attnjax
from tests.kinds import numbers, one_of_each_kind, without_numbers

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x4d": 44_177_704,
    "wide_resnet18_1_5": 25_875_816,
    "wide_resnet18_2_0": 45_618_216,
    "mobilenet": 4_231_976,
    "mobilenet_0_7": 2_298_747,
    "se_resnet18": 11_778_592,
    "se_resnet34": 21_958_868,
    "se_resnet50": 28_088_024,
    "se_resnet101": 49_326_872,
    "se_resnet152": 66_821_848,
    "se_resnext50_32x4d": 27_559_896,
    "se_resnext101_32x4d": 48_955_416,
    "se_wide_resnet18_1_5": 26_074_716,
    "se_wide_resnet18_2_0": 45_970_456,
    "se_mobilenet": 5_072_114,
    "se_mobilenet_0_7": 2_704_594,
    "senet154": 115_088_984,
    "se_resnet20_cifar": 274_847,
    "se_resnet56_cifar": 862_889,
    "se_resnet110_cifar": 1_744_952,
    "cbam_resnet18": 11_779_392,
    "cbam_resnet34": 21_960_468,
    "cbam_resnet50": 28_089_624,
    "cbam_resnet101": 49_330_172,
    "cbam_resnet152": 66_826_848,
    "cbam_resnext50_32x4d": 27_561_496,
    "cbam_resnext101_32x4d": 48_958_716,
    "cbam_wide_resnet18_1_5": 26_075_516,
    "cbam_wide_resnet18_2_0": 45_971_256,
    "cbam_mobilenet": 5_074_714,
    "cbam_mobilenet_0_7": 2_707_194,
    "bam_resnet18": 11_712_503,
    "bam_resnet34": 21_820_663,
    "bam_resnet50": 25_915_099,
    "bam_resnet101": 44_907_227,
    "bam_resnet152": 60_550_875,
    "bam_wide_resnet18_1_5": 25_926_933,
    "bam_wide_resnet18_2_0": 45_708_547,
    "bam_resnext50_32x4d": 25_386_971,
    "resnet50_cifar": 23_705_252,
    "bam_resnet50_cifar": 24_063_319,
    "resnet101_cifar": 42_697_380,
    "bam_resnet101_cifar": 43_055_447,
    "epsanet50_small": 22_561_715,
    "epsanet101_small": 38_900_279,
    "epsanet50_large": 27_899_518,
    "epsanet101_large": 49_592_198,
    "epsanet50_large_k3579": 30_100_094,
    "epsanet101_large_k3579": 53_742_470,
    "attention56": 31_810_728,
    "attention92": 52_466_344,
    "attentionnext56": 31_318_824,
    "attentionnext92": 52_102_952,
    "attention56_cifar": 1_030_394,
    "attention92_cifar": 1_841_274,
    "attention236_cifar": 5_084_794,
    "attention92_cifar_port": 12_170_730,
    "ggam_resnet50": 25_191_304,
}

GMACS = {
    "resnet18": 1.8141,
    "resnet34": 3.6638,
    "resnet50": 4.0892,
    "resnet101": 7.8014,
    "resnet152": 11.5136,
    "resnext50_32x4d": 4.2305,
    "resnext101_32x4d": 7.9700,
    "wide_resnet18_1_5": 3.8663,
    "wide_resnet18_2_0": 6.6957,
    "mobilenet": 0.5687,
    "mobilenet_0_7": 0.2830,
    "se_resnet18": 1.8142,
    "se_resnet34": 3.6639,
    "se_resnet50": 3.8605,
    "se_resnet101": 7.5749,
    "se_resnet152": 11.2890,
    "se_resnext50_32x4d": 4.2330,
    "se_resnext101_32x4d": 7.9747,
    "se_wide_resnet18_1_5": 3.8665,
    "se_wide_resnet18_2_0": 6.6961,
    "se_mobilenet": 0.5696,
    "se_mobilenet_0_7": 0.2834,
    "senet154": 20.6884,
    "cbam_resnet18": 1.8151,
    "cbam_resnet34": 3.6654,
    "cbam_resnet50": 4.0956,
    "cbam_resnet101": 7.8126,
    "cbam_resnext50_32x4d": 4.2369,
    "cbam_resnext101_32x4d": 7.9812,
    "cbam_wide_resnet18_1_5": 3.8675,
    "cbam_wide_resnet18_2_0": 6.6972,
    "cbam_mobilenet": 0.5746,
    "cbam_mobilenet_0_7": 0.2880,
    "bam_resnet18": 1.8192,
    "bam_resnet34": 3.6689,
    "bam_resnet50": 4.1713,
    "bam_resnet101": 7.8836,
    "bam_resnet152": 11.5958,
    "bam_wide_resnet18_1_5": 3.8779,
    "bam_wide_resnet18_2_0": 6.7163,
    "bam_resnext50_32x4d": 4.3126,
    "epsanet50_small": 3.598,
    "epsanet101_small": 6.788,
    "epsanet50_large": 4.693,
    "epsanet101_large": 8.924,
    "epsanet50_large_k3579": 5.053,
    "epsanet101_large_k3579": 9.666,
    "attention56": 6.271,
    "attention92": 10.534,
    "attentionnext56": 6.419,
    "attentionnext92": 10.704,
}

GMACS_STRIDING_IN_THE_FIRST_1X1 = {
    "resnet50": 3.8580,
    "resnet101": 7.5702,
    "resnet152": 11.2824,
    "resnext50_32x4d": 3.7681,
    "resnext101_32x4d": 7.5076,
    "se_resnext50_32x4d": 3.7706,
    "se_resnext101_32x4d": 7.5123,
    "cbam_resnet50": 3.8644,
    "cbam_resnet101": 7.5814,
    "cbam_resnext50_32x4d": 3.7744,
    "cbam_resnext101_32x4d": 7.5187,
    "bam_resnet50": 3.9401,
    "bam_resnet101": 7.6523,
    "bam_resnet152": 11.3646,
    "bam_resnext50_32x4d": 3.8502,
}

GMACS_AT_320 = {"attention56": 12.80, "attention92": 21.5}

EPSANET_GROUPS = {(4, 8, 16, 16): (18_494_579, 2.933), (16, 16, 16, 16): (17_472_883, 2.766)}


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items(), ids=PARAMETERS)
def test_parameters(name: str, parameters: int) -> None:
    assert attnjax.model_info(name).parameters == parameters


@pytest.mark.parametrize(("name", "gmacs"), GMACS.items(), ids=GMACS)
def test_macs(name: str, gmacs: float) -> None:
    assert attnjax.model_info(name).macs / 1e9 == pytest.approx(gmacs, rel=1e-3)


@pytest.mark.parametrize("name", one_of_each_kind(GMACS_STRIDING_IN_THE_FIRST_1X1, without_numbers, numbers))
def test_macs_of_the_other_stride(name: str) -> None:
    model, gmacs = attnjax.create_model(name, stride_at="1x1"), GMACS_STRIDING_IN_THE_FIRST_1X1[name]
    assert attnjax.count_macs(model, (1, 224, 224, 3)) / 1e9 == pytest.approx(gmacs, rel=1e-3)


def test_official_se_resnet50_with_its_stride_in_the_3x3() -> None:
    model = attnjax.create_model("se_resnet50", stride_at="3x3")
    assert attnjax.count_macs(model, (1, 224, 224, 3)) / 1e9 == pytest.approx(4.0917, rel=1e-3)


@pytest.mark.parametrize("name", one_of_each_kind(GMACS_AT_320, without_numbers, numbers))
def test_macs_at_320_pixels(name: str) -> None:
    macs = attnjax.count_macs(attnjax.create_model(name), (1, 320, 320, 3))
    assert macs / 1e9 == pytest.approx(GMACS_AT_320[name], rel=2e-3)


@pytest.mark.parametrize(("groups", "counts"), EPSANET_GROUPS.items())
def test_group_sizes_of_the_epsanet_ablation(groups: tuple[int, ...], counts: tuple[int, float]) -> None:
    from functools import partial

    from attnjax.attention import PyramidSqueezeAttention

    model = attnjax.create_model("epsanet50_small", spatial_conv=partial(PyramidSqueezeAttention, groups=groups))
    assert attnjax.count_parameters(model, (1, 64, 64, 3)) == counts[0]
    assert attnjax.count_macs(model, (1, 224, 224, 3)) / 1e9 == pytest.approx(counts[1], rel=1e-3)


@pytest.mark.parametrize(("classes", "parameters"), [(200, 25_191_304), (100, 25_140_004), (196, 25_189_252)])
def test_ggam_on_the_three_fine_grained_sets(classes: int, parameters: int) -> None:
    model = attnjax.create_model("ggam_resnet50", num_classes=classes)
    assert attnjax.count_parameters(model, (1, 64, 64, 3)) == parameters
