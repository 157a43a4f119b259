"""The one table of named nets: constructor, exact size, paper and published results of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn

from attnjax.attention import CBAM, SqueezeExcite
from attnjax.models._blocks import BasicBlock, Bottleneck
from attnjax.models._info import ModelInfo, Net, Result
from attnjax.models._resnet import ResNet

_RESNET = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"
_RESNEXT = "Xie et al., Aggregated Residual Transformations for Deep Neural Networks, CVPR 2017"
_WIDE = "Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016"
_SE = "Hu et al., Squeeze-and-Excitation Networks, CVPR 2018"
_CBAM = "Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018"

_IN_CBAM_TABLE = "CBAM paper, single 224 crop"
_IN_SE_README = "hujie-frank/SENet README, single 224 crop"
_IN_CBAM_README = "Jongchan/attention-module README, single 224 crop"


def _imagenet(top1: float, top5: float, source: str, verified: bool = False) -> Result:
    return Result("ImageNet-1K", top1, top5, source, verified)


def _cifar10(top1: float, source: str) -> Result:
    return Result("CIFAR-10", top1, None, source, verified=False)


_r18 = partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock)
_r34 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock)
_r50 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck)
_r101 = partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Bottleneck)
_r152 = partial(ResNet, stage_sizes=(3, 8, 36, 3), block=Bottleneck)
_rx50 = partial(_r50, groups=32, width_per_group=4)
_rx101 = partial(_r101, groups=32, width_per_group=4)
_w18_1_5 = partial(_r18, widths=(96, 192, 384, 768))
_w18_2_0 = partial(_r18, widths=(128, 256, 512, 1024))

_se = {"attention": partial(SqueezeExcite, reduction=16)}
_cbam = {"attention": partial(CBAM, reduction=16)}
_caffe = {"stem_pool": "ceil"}
_caffe_1x1 = {"stem_pool": "ceil", "stride_at": "1x1"}
_cifar_stem = {"stem": "cifar"}


def _small(blocks_per_stage: int) -> partial[ResNet]:
    """The CIFAR ResNet of depth 6 blocks_per_stage + 2."""
    return partial(
        ResNet,
        stage_sizes=(blocks_per_stage,) * 3,
        block=BasicBlock,
        widths=(16, 32, 64),
        stem="cifar",
        stem_width=16,
    )


_PADDED = "stride in the 3x3, max-pool padded by 1"
_CAFFE = "official: stride in the first 1x1, ceil-mode max-pool, gate biases"
_CAFFE_3X3 = "as official: stride in the 3x3, ceil-mode max-pool, gate biases"
_SE_OF_CBAM = "of the CBAM paper: stride in the 3x3, max-pool padded by 1, gate biases"
_RELEASED = "released: stride in the 3x3, max-pool padded by 1, spatial gate with batch norm"
_SMALL = "CIFAR: 3x3 stem of width 16, three stages, projection shortcuts"
_FOUR_STAGES = "CIFAR: 3x3 stem of width 64, no max-pool, four stages"


def _net(
    name: str,
    constructor: Callable[..., nn.Module],
    parameters: int,
    macs: int,
    variant: str,
    paper: str,
    *results: Result,
    size: int = 224,
    classes: int = 1000,
) -> Net:
    info = ModelInfo(name, parameters, macs, (size, size), classes, variant, paper, results)
    return Net(partial(constructor, num_classes=classes), info)


# fmt: off
TABLE = [
    _net("resnet18", _r18, 11_689_512, 1_814_073_344, _PADDED, _RESNET, _imagenet(29.6, 10.55, _IN_CBAM_TABLE)),
    _net("resnet34", _r34, 21_797_672, 3_663_761_408, _PADDED, _RESNET, _imagenet(26.69, 8.6, _IN_CBAM_TABLE)),
    _net("resnet50", _r50, 25_557_032, 4_089_184_256, _PADDED, _RESNET, _imagenet(24.56, 7.5, _IN_CBAM_TABLE)),
    _net("resnet101", _r101, 44_549_160, 7_801_405_440, _PADDED, _RESNET,
        _imagenet(23.38, 6.88, _IN_CBAM_TABLE)),
    _net("resnet152", _r152, 60_192_808, 11_513_626_624, _PADDED, _RESNET),
    _net("resnext50_32x4d", _rx50, 25_028_904, 4_230_479_872, _PADDED, _RESNEXT,
        _imagenet(22.85, 6.48, _IN_CBAM_TABLE)),
    _net("resnext101_32x4d", _rx101, 44_177_704, 7_969_996_800, _PADDED, _RESNEXT,
        _imagenet(21.54, 5.75, _IN_CBAM_TABLE)),
    _net("wide_resnet18_1_5", _w18_1_5, 25_875_816, 3_866_327_040, _PADDED, _WIDE,
        _imagenet(26.85, 8.88, _IN_CBAM_TABLE)),
    _net("wide_resnet18_2_0", _w18_2_0, 45_618_216, 6_695_706_624, _PADDED, _WIDE,
        _imagenet(25.63, 8.2, _IN_CBAM_TABLE)),
    _net("se_resnet18", partial(_r18, **_se, **_caffe), 11_778_592, 1_814_160_384, _CAFFE_3X3, _SE,
        _imagenet(29.41, 10.22, _IN_CBAM_TABLE)),
    _net("se_resnet34", partial(_r34, **_se, **_caffe), 21_958_868, 3_663_918_592, _CAFFE_3X3, _SE,
        _imagenet(26.13, 8.35, _IN_CBAM_TABLE)),
    _net("se_resnet50", partial(_r50, **_se, **_caffe_1x1), 28_088_024, 3_860_488_192, _CAFFE, _SE,
        _imagenet(22.37, 6.36, _IN_SE_README, verified=True), _imagenet(23.14, 6.7, _IN_CBAM_TABLE)),
    _net("se_resnet101", partial(_r101, **_se, **_caffe_1x1), 49_326_872, 7_574_937_600, _CAFFE, _SE,
        _imagenet(21.75, 5.72, _IN_SE_README, verified=True), _imagenet(22.35, 6.19, _IN_CBAM_TABLE)),
    _net("se_resnet152", partial(_r152, **_se, **_caffe_1x1), 66_821_848, 11_288_993_792, _CAFFE, _SE,
        _imagenet(21.34, 5.54, _IN_SE_README, verified=True)),
    _net("se_resnext50_32x4d", partial(_rx50, **_se, **_caffe), 27_559_896, 4_232_994_816, _CAFFE_3X3, _SE,
        _imagenet(20.97, 5.54, _IN_SE_README, verified=True), _imagenet(21.91, 6.04, _IN_CBAM_TABLE)),
    _net("se_resnext101_32x4d", partial(_rx101, **_se, **_caffe), 48_955_416, 7_974_739_968, _CAFFE_3X3, _SE,
        _imagenet(19.81, 4.96, _IN_SE_README, verified=True), _imagenet(21.17, 5.66, _IN_CBAM_TABLE)),
    _net("se_wide_resnet18_1_5", partial(_w18_1_5, **_se), 26_074_716, 3_866_522_880, _SE_OF_CBAM, _CBAM,
        _imagenet(26.21, 8.47, _IN_CBAM_TABLE)),
    _net("se_wide_resnet18_2_0", partial(_w18_2_0, **_se), 45_970_456, 6_696_054_784, _SE_OF_CBAM, _CBAM,
        _imagenet(24.93, 7.65, _IN_CBAM_TABLE)),
    _net("cbam_resnet18", partial(_r18, **_cbam), 11_779_392, 1_815_063_764, _RELEASED, _CBAM,
        _imagenet(29.27, 10.09, _IN_CBAM_TABLE)),
    _net("cbam_resnet34", partial(_r34, **_cbam), 21_960_468, 3_665_434_742, _RELEASED, _CBAM,
        _imagenet(25.99, 8.24, _IN_CBAM_TABLE)),
    _net("cbam_resnet50", partial(_r50, **_cbam), 28_089_624, 4_095_573_110, _RELEASED, _CBAM,
        _imagenet(22.378, 6.052, _IN_CBAM_README, verified=True), _imagenet(22.66, 6.31, _IN_CBAM_TABLE)),
    _net("cbam_resnet101", partial(_r101, **_cbam), 49_330_172, 7_812_577_278, _RELEASED, _CBAM,
        _imagenet(21.51, 5.69, _IN_CBAM_TABLE)),
    _net("cbam_resnet152", partial(_r152, **_cbam), 66_826_848, 11_529_025_510, _RELEASED, _CBAM),
    _net("cbam_resnext50_32x4d", partial(_rx50, **_cbam), 27_561_496, 4_236_868_726, _RELEASED, _CBAM,
        _imagenet(21.92, 5.91, _IN_CBAM_TABLE)),
    _net("cbam_resnext101_32x4d", partial(_rx101, **_cbam), 48_958_716, 7_981_168_638, _RELEASED, _CBAM,
        _imagenet(21.07, 5.59, _IN_CBAM_TABLE)),
    _net("cbam_wide_resnet18_1_5", partial(_w18_1_5, **_cbam), 26_075_516, 3_867_535_060, _RELEASED, _CBAM,
        _imagenet(26.1, 8.43, _IN_CBAM_TABLE)),
    _net("cbam_wide_resnet18_2_0", partial(_w18_2_0, **_cbam), 45_971_256, 6_697_219_284, _RELEASED, _CBAM,
        _imagenet(24.84, 7.63, _IN_CBAM_TABLE)),
    _net("resnet20_cifar", _small(3), 272_474, 40_813_184, _SMALL, _RESNET, size=32, classes=10),
    _net("resnet32_cifar", _small(5), 466_906, 69_124_736, _SMALL, _RESNET, size=32, classes=10),
    _net("resnet56_cifar", _small(9), 855_770, 125_747_840, _SMALL, _RESNET, size=32, classes=10),
    _net("resnet110_cifar", _small(18), 1_730_714, 253_149_824, _SMALL, _RESNET,
        _cifar10(6.37, "SE paper"), size=32, classes=10),
    _net("se_resnet20_cifar", partial(_small(3), **_se), 274_847, 40_815_200, _SMALL, _SE, size=32, classes=10),
    _net("se_resnet32_cifar", partial(_small(5), **_se), 470_861, 69_128_096, _SMALL, _SE, size=32, classes=10),
    _net("se_resnet56_cifar", partial(_small(9), **_se), 862_889, 125_753_888, _SMALL, _SE,
        size=32, classes=10),
    _net("se_resnet110_cifar", partial(_small(18), **_se), 1_744_952, 253_161_920, _SMALL, _SE,
        _cifar10(5.21, "SE paper"), size=32, classes=10),
    _net("cbam_resnet20_cifar", partial(_small(3), **_cbam), 275_747, 41_212_352, _SMALL, _CBAM,
        size=32, classes=10),
    _net("cbam_resnet32_cifar", partial(_small(5), **_cbam), 472_361, 69_790_016, _SMALL, _CBAM,
        size=32, classes=10),
    _net("cbam_resnet56_cifar", partial(_small(9), **_cbam), 865_589, 126_945_344, _SMALL, _CBAM,
        size=32, classes=10),
    _net("cbam_resnet110_cifar", partial(_small(18), **_cbam), 1_750_352, 255_544_832, _SMALL, _CBAM,
        size=32, classes=10),
    _net("resnet18_cifar", partial(_r18, **_cifar_stem), 11_220_132, 555_468_800, _FOUR_STAGES, _RESNET,
        size=32, classes=100),
    _net("resnet34_cifar", partial(_r34, **_cifar_stem), 21_328_292, 1_159_448_576, _FOUR_STAGES, _RESNET,
        size=32, classes=100),
    _net("resnet50_cifar", partial(_r50, **_cifar_stem), 23_705_252, 1_298_014_208, _FOUR_STAGES, _RESNET,
        size=32, classes=100),
    _net("resnet101_cifar", partial(_r101, **_cifar_stem), 42_697_380, 2_510_168_064, _FOUR_STAGES, _RESNET,
        size=32, classes=100),
    _net("se_resnet18_cifar", partial(_r18, **_se, **_cifar_stem), 11_309_212, 555_555_840, _FOUR_STAGES, _SE,
        size=32, classes=100),
    _net("se_resnet34_cifar", partial(_r34, **_se, **_cifar_stem), 21_489_488, 1_159_605_760, _FOUR_STAGES, _SE,
        size=32, classes=100),
    _net("se_resnet50_cifar", partial(_r50, **_se, **_cifar_stem), 26_236_244, 1_300_529_152, _FOUR_STAGES, _SE,
        size=32, classes=100),
    _net("se_resnet101_cifar", partial(_r101, **_se, **_cifar_stem), 47_475_092, 2_514_911_232, _FOUR_STAGES, _SE,
        size=32, classes=100),
    _net("cbam_resnet18_cifar", partial(_r18, **_cbam, **_cifar_stem), 11_310_012, 555_909_440, _FOUR_STAGES, _CBAM,
        size=32, classes=100),
    _net("cbam_resnet34_cifar", partial(_r34, **_cbam, **_cifar_stem), 21_491_088, 1_160_206_688, _FOUR_STAGES, _CBAM,
        size=32, classes=100),
    _net("cbam_resnet50_cifar", partial(_r50, **_cbam, **_cifar_stem), 26_237_844, 1_303_487_840, _FOUR_STAGES, _CBAM,
        size=32, classes=100),
    _net("cbam_resnet101_cifar", partial(_r101, **_cbam, **_cifar_stem), 47_478_392, 2_520_204_768, _FOUR_STAGES, _CBAM,
        size=32, classes=100),
]
# fmt: on
