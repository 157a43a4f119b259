"""The one table of named nets: constructor, exact size, paper and published results of each."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn

from attnjax._partial import Partial
from attnjax.attention import CoordinateAttention, GatherExcite, GlobalContext, SimAM, TripletAttention
from attnjax.models._architectures import (
    bam,
    caffe,
    caffe_1x1,
    cbam,
    cifar_stem,
    eca,
    eca_d,
    ggam,
    large_epsa,
    large_epsa_k3579,
    legacy,
    post_activation,
    r18,
    r34,
    r50,
    r50d,
    r101,
    r101d,
    r152,
    ran,
    ran_cifar,
    ran_port,
    rx50,
    rx101,
    se,
    se_moskomule,
    se_timm,
    senet154,
    sk,
    sk_timm,
    sk_timm_basic,
    small,
    small_epsa,
    w18_1_5,
    w18_2_0,
)
from attnjax.models._blocks import PreActBasicBlock
from attnjax.models._ggam_net import GGAMNet
from attnjax.models._info import ModelInfo, Net, Result
from attnjax.models._mobilenet import MobileNet
from attnjax.models._ran import InceptionUnit, resnext_unit
from attnjax.models._vgg import VGG

_RESNET = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"
_RESNEXT = "Xie et al., Aggregated Residual Transformations for Deep Neural Networks, CVPR 2017"
_WIDE = "Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016"
_SE = "Hu et al., Squeeze-and-Excitation Networks, CVPR 2018"
_CBAM = "Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018"
_BAM = "Park et al., BAM: Bottleneck Attention Module, BMVC 2018"
_EPSA = "Zhang et al., EPSANet: An Efficient Pyramid Squeeze Attention Block, ACCV 2022"
_RAN = "Wang et al., Residual Attention Network for Image Classification, CVPR 2017"
_GGAM = "Xu et al., Grad-CAM Guided Channel-spatial Attention Module for Fine-grained Visual Classification, 2021"
_PREACT = "He et al., Identity Mappings in Deep Residual Networks, ECCV 2016"
_RESNET_D = "He et al., Bag of Tricks for Image Classification, CVPR 2019"
_MOBILENET = "Howard et al., MobileNets, 2017"
_ECA = "Wang et al., ECA-Net: Efficient Channel Attention, CVPR 2020"
_GE = "Hu et al., Gather-Excite: Exploiting Feature Context, NeurIPS 2018"
_GC = "Cao et al., GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, ICCVW 2019"
_SK = "Li et al., Selective Kernel Networks, CVPR 2019"
_COORDINATE = "Hou et al., Coordinate Attention for Efficient Mobile Network Design, CVPR 2021"
_TRIPLET = "Misra et al., Rotate to Attend: Convolutional Triplet Attention Module, WACV 2021"
_SIMAM = "Yang et al., SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks, ICML 2021"

_IN_CBAM_TABLE = "CBAM paper, single 224 crop"
_IN_SE_README = "hujie-frank/SENet README, single 224 crop"
_IN_CBAM_README = "Jongchan/attention-module README, single 224 crop"
_IN_BAM_TABLE = "BAM paper, single 224 crop"
_IN_EPSA_README = "murufeng/EPSANet README, single 224 crop"
_IN_RAN_README = "fwang91/residual-attention-network README"
_IN_TIMM = "timm results-imagenet.csv"


def _imagenet(top1: float, top5: float | None, source: str, verified: bool = False) -> Result:
    return Result("ImageNet-1K", top1, top5, source, verified)


def _cifar(classes: int, top1: float, source: str) -> Result:
    return Result(f"CIFAR-{classes}", top1, None, source, verified=False)


_PADDED = "stride in the 3x3, max-pool padded by 1"
_CAFFE = "official: stride in the first 1x1, ceil-mode max-pool, gate biases"
_CAFFE_3X3 = "as official: stride in the 3x3, ceil-mode max-pool, gate biases"
_SE_OF_CBAM = "of the CBAM paper: stride in the 3x3, max-pool padded by 1, gate biases"
_RELEASED = "released: stride in the 3x3, max-pool padded by 1, spatial gate with batch norm"
_BAM_RELEASED = "released: stride in the 3x3, branches multiplied, batch norms after hidden layers, after stages 1 to 3"
_TIMM_SE = "timm: stride in the 3x3, max-pool padded by 1, hidden width rounded to a multiple of 8"
_MOSKOMULE = "moskomule: stride in the 3x3, max-pool padded by 1, no gate biases"
_LEGACY = "Cadene, timm legacy: ceil-mode max-pool, a second ReLU before the gate"
_D = "ResNet-D: three 3x3 in the stem, mean pool before the shortcut's 1x1"
_EPSA_SMALL = "released: kernels 3, 5, 7, 9, groups 1, 4, 8, 16"
_EPSA_LARGE = "as published in size: kernels 3, 5, 5, 7, groups of 32, double width"
_EPSA_K3579 = "as described: kernels 3, 5, 7, 9, groups of 32, double width"
_PRE = "CIFAR: pre-activation, 3x3 stem of width 16, three stages, plain projections"
_SMALL_MOSKOMULE = "CIFAR, moskomule: three stages, no gate biases"
_BAM_CIFAR = "CIFAR: 3x3 stem of width 64, no max-pool, four stages, BAM after stages 1 to 3"
_RAN_OFFICIAL = "official prototxt: ceil-mode max-pools, mask by interpolation and skip units"
_RAN_NEXT = "official prototxts of commits 2ca5c35 and df8f62c: ResNeXt units, sigmoid mask (a80220a has tanh)"
_RAN_PORT = "tengshaofeng's port: padded max-pools, further additions in the mask"
_RAN_CIFAR = "CIFAR: widths 64, 128, 256, inferred from the paper's parameter counts"
_CBAM_MOBILE = "of the CBAM paper: block after each depthwise and each pointwise convolution"
_GGAM_RELEASED = "released: softmax over channels, sigmoid over positions, max-pool, head of two layers"
_RIVAL = "stride in the 3x3, max-pool padded by 1, block before the addition"
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
    return Net(Partial(constructor, num_classes=classes), info)


# fmt: off
TABLE = [
    _net("resnet18", r18, 11_689_512, 1_814_073_344, _PADDED, _RESNET, _imagenet(29.6, 10.55, _IN_CBAM_TABLE)),
    _net("resnet34", r34, 21_797_672, 3_663_761_408, _PADDED, _RESNET, _imagenet(26.69, 8.6, _IN_CBAM_TABLE)),
    _net("resnet50", r50, 25_557_032, 4_089_184_256, _PADDED, _RESNET, _imagenet(24.56, 7.5, _IN_CBAM_TABLE)),
    _net("resnet101", r101, 44_549_160, 7_801_405_440, _PADDED, _RESNET,
        _imagenet(23.38, 6.88, _IN_CBAM_TABLE)),
    _net("resnet152", r152, 60_192_808, 11_513_626_624, _PADDED, _RESNET),
    _net("resnext50_32x4d", rx50, 25_028_904, 4_230_479_872, _PADDED, _RESNEXT,
        _imagenet(22.85, 6.48, _IN_CBAM_TABLE)),
    _net("resnext101_32x4d", rx101, 44_177_704, 7_969_996_800, _PADDED, _RESNEXT,
        _imagenet(21.54, 5.75, _IN_CBAM_TABLE)),
    _net("wide_resnet18_1_5", w18_1_5, 25_875_816, 3_866_327_040, _PADDED, _WIDE,
        _imagenet(26.85, 8.88, _IN_CBAM_TABLE)),
    _net("wide_resnet18_2_0", w18_2_0, 45_618_216, 6_695_706_624, _PADDED, _WIDE,
        _imagenet(25.63, 8.2, _IN_CBAM_TABLE)),
    _net("resnet50d", r50d, 25_576_264, 4_328_824_832, _D, _RESNET_D),
    _net("resnet101d", r101d, 44_568_392, 8_041_046_016, _D, _RESNET_D),
    _net("se_resnet18", Partial(r18, **se, **caffe), 11_778_592, 1_814_160_384, _CAFFE_3X3, _SE,
        _imagenet(29.41, 10.22, _IN_CBAM_TABLE)),
    _net("se_resnet34", Partial(r34, **se, **caffe), 21_958_868, 3_663_918_592, _CAFFE_3X3, _SE,
        _imagenet(26.13, 8.35, _IN_CBAM_TABLE)),
    _net("se_resnet50", Partial(r50, **se, **caffe_1x1), 28_088_024, 3_860_488_192, _CAFFE, _SE,
        _imagenet(22.37, 6.36, _IN_SE_README, verified=True), _imagenet(23.14, 6.7, _IN_CBAM_TABLE)),
    _net("se_resnet101", Partial(r101, **se, **caffe_1x1), 49_326_872, 7_574_937_600, _CAFFE, _SE,
        _imagenet(21.75, 5.72, _IN_SE_README, verified=True), _imagenet(22.35, 6.19, _IN_CBAM_TABLE)),
    _net("se_resnet152", Partial(r152, **se, **caffe_1x1), 66_821_848, 11_288_993_792, _CAFFE, _SE,
        _imagenet(21.34, 5.54, _IN_SE_README, verified=True)),
    _net("se_resnext50_32x4d", Partial(rx50, **se, **caffe), 27_559_896, 4_232_994_816, _CAFFE_3X3, _SE,
        _imagenet(20.97, 5.54, _IN_SE_README, verified=True), _imagenet(21.91, 6.04, _IN_CBAM_TABLE)),
    _net("se_resnext101_32x4d", Partial(rx101, **se, **caffe), 48_955_416, 7_974_739_968, _CAFFE_3X3, _SE,
        _imagenet(19.81, 4.96, _IN_SE_README, verified=True), _imagenet(21.17, 5.66, _IN_CBAM_TABLE)),
    _net("se_wide_resnet18_1_5", Partial(w18_1_5, **se), 26_074_716, 3_866_522_880, _SE_OF_CBAM, _CBAM,
        _imagenet(26.21, 8.47, _IN_CBAM_TABLE)),
    _net("se_wide_resnet18_2_0", Partial(w18_2_0, **se), 45_970_456, 6_696_054_784, _SE_OF_CBAM, _CBAM,
        _imagenet(24.93, 7.65, _IN_CBAM_TABLE)),
    _net("senet154", Partial(senet154, **se, **caffe, dropout_rate=0.2), 115_088_984, 20_688_363_520,
        "official: deep stem, 64 groups, 3x3 projections, ceil-mode max-pool, dropout 0.2", _SE,
        _imagenet(18.68, 4.47, _IN_SE_README, verified=True)),
    _net("senet154_timm", Partial(senet154, **se_timm), 115_088_984, 20_688_363_520,
        "timm (Gluon): as official, max-pool padded by 1, no dropout", _SE),
    _net("se_resnet18_timm", Partial(r18, **se_timm), 11_779_624, 1_814_161_408, _TIMM_SE, _SE),
    _net("se_resnet34_timm", Partial(r34, **se_timm), 21_960_416, 3_663_920_128, _TIMM_SE, _SE),
    _net("se_resnet50_timm", Partial(r50, **se_timm), 28_088_024, 4_091_699_200, _TIMM_SE, _SE,
        _imagenet(19.74, None, "timm seresnet50.ra2_in1k, 224 crop", verified=True)),
    _net("se_resnet101_timm", Partial(r101, **se_timm), 49_326_872, 7_806_148_608, _TIMM_SE, _SE),
    _net("se_resnet152_timm", Partial(r152, **se_timm), 66_821_848, 11_520_204_800, _TIMM_SE, _SE),
    _net("se_resnext50_32x4d_timm", Partial(rx50, **se_timm), 27_559_896, 4_232_994_816, _TIMM_SE, _SE,
        _imagenet(18.73, None, "timm seresnext50_32x4d.racm_in1k, 224 crop", verified=True)),
    _net("se_resnext101_32x4d_timm", Partial(rx101, **se_timm), 48_955_416, 7_974_739_968, _TIMM_SE, _SE),
    _net("se_resnet18_legacy", Partial(r18, **se | legacy), 11_778_592, 1_814_160_384, _LEGACY, _SE,
        _imagenet(28.258, 9.66, _IN_TIMM, verified=True)),
    _net("se_resnet34_legacy", Partial(r34, **se | legacy), 21_958_868, 3_663_918_592, _LEGACY, _SE,
        _imagenet(25.212, 7.866, _IN_TIMM, verified=True)),
    _net("se_resnet18_moskomule", Partial(r18, **se_moskomule), 11_776_552, 1_814_160_384, _MOSKOMULE, _SE),
    _net("se_resnet34_moskomule", Partial(r34, **se_moskomule), 21_954_856, 3_663_918_592, _MOSKOMULE, _SE),
    _net("se_resnet50_moskomule", Partial(r50, **se_moskomule), 28_071_976, 4_091_699_200, _MOSKOMULE, _SE,
        _imagenet(22.94, None, "moskomule/senet.pytorch release", verified=True)),
    _net("se_resnet101_moskomule", Partial(r101, **se_moskomule), 49_292_328, 7_806_148_608, _MOSKOMULE, _SE),
    _net("se_resnet152_moskomule", Partial(r152, **se_moskomule), 66_770_984, 11_520_204_800, _MOSKOMULE, _SE),
    _net("bam_resnet18", Partial(r18, **bam), 11_712_503, 1_819_224_000, _BAM_RELEASED, _BAM,
        _imagenet(28.88, 10.1, _IN_BAM_TABLE)),
    _net("bam_resnet34", Partial(r34, **bam), 21_820_663, 3_668_912_064, _BAM_RELEASED, _BAM,
        _imagenet(25.71, 8.21, _IN_BAM_TABLE)),
    _net("bam_resnet50", Partial(r50, **bam), 25_915_099, 4_171_331_328, _BAM_RELEASED, _BAM,
        _imagenet(23.14, 6.584, _IN_CBAM_README, verified=True), _imagenet(24.02, 7.18, _IN_BAM_TABLE)),
    _net("bam_resnet101", Partial(r101, **bam), 44_907_227, 7_883_552_512, _BAM_RELEASED, _BAM,
        _imagenet(22.44, 6.29, _IN_BAM_TABLE)),
    _net("bam_resnet152", Partial(r152, **bam), 60_550_875, 11_595_773_696, _BAM_RELEASED, _BAM),
    _net("bam_resnext50_32x4d", Partial(rx50, **bam), 25_386_971, 4_312_626_944, _BAM_RELEASED, _BAM,
        _imagenet(22.56, 6.4, _IN_BAM_TABLE)),
    _net("bam_resnext101_32x4d", Partial(rx101, **bam), 44_535_771, 8_052_143_872, _BAM_RELEASED, _BAM),
    _net("bam_wide_resnet18_1_5", Partial(w18_1_5, **bam), 25_926_933, 3_877_899_552, _BAM_RELEASED, _BAM,
        _imagenet(26.67, 8.69, _IN_BAM_TABLE)),
    _net("bam_wide_resnet18_2_0", Partial(w18_2_0, **bam), 45_708_547, 6_716_265_344, _BAM_RELEASED, _BAM,
        _imagenet(25.0, 7.81, _IN_BAM_TABLE)),
    _net("cbam_resnet18", Partial(r18, **cbam), 11_779_392, 1_815_063_764, _RELEASED, _CBAM,
        _imagenet(29.27, 10.09, _IN_CBAM_TABLE)),
    _net("cbam_resnet34", Partial(r34, **cbam), 21_960_468, 3_665_434_742, _RELEASED, _CBAM,
        _imagenet(25.99, 8.24, _IN_CBAM_TABLE)),
    _net("cbam_resnet50", Partial(r50, **cbam), 28_089_624, 4_095_573_110, _RELEASED, _CBAM,
        _imagenet(22.378, 6.052, _IN_CBAM_README, verified=True), _imagenet(22.66, 6.31, _IN_CBAM_TABLE)),
    _net("cbam_resnet101", Partial(r101, **cbam), 49_330_172, 7_812_577_278, _RELEASED, _CBAM,
        _imagenet(21.51, 5.69, _IN_CBAM_TABLE)),
    _net("cbam_resnet152", Partial(r152, **cbam), 66_826_848, 11_529_025_510, _RELEASED, _CBAM),
    _net("cbam_resnext50_32x4d", Partial(rx50, **cbam), 27_561_496, 4_236_868_726, _RELEASED, _CBAM,
        _imagenet(21.92, 5.91, _IN_CBAM_TABLE)),
    _net("cbam_resnext101_32x4d", Partial(rx101, **cbam), 48_958_716, 7_981_168_638, _RELEASED, _CBAM,
        _imagenet(21.07, 5.59, _IN_CBAM_TABLE)),
    _net("cbam_wide_resnet18_1_5", Partial(w18_1_5, **cbam), 26_075_516, 3_867_535_060, _RELEASED, _CBAM,
        _imagenet(26.1, 8.43, _IN_CBAM_TABLE)),
    _net("cbam_wide_resnet18_2_0", Partial(w18_2_0, **cbam), 45_971_256, 6_697_219_284, _RELEASED, _CBAM,
        _imagenet(24.84, 7.63, _IN_CBAM_TABLE)),
    _net("epsanet50_small", Partial(r50, **small_epsa), 22_561_715, 3_597_900_160, _EPSA_SMALL, _EPSA,
        _imagenet(22.51, 6.46, _IN_EPSA_README, verified=True)),
    _net("epsanet50_large", Partial(r50, **large_epsa), 27_899_518, 4_693_059_072, _EPSA_LARGE, _EPSA,
        _imagenet(21.36, 5.82, _IN_EPSA_README, verified=True)),
    _net("epsanet50_large_k3579", Partial(r50, **large_epsa_k3579), 30_100_094, 5_052_720_640, _EPSA_K3579, _EPSA),
    _net("epsanet101_small", Partial(r101, **small_epsa), 38_900_279, 6_788_125_056, _EPSA_SMALL, _EPSA,
        _imagenet(21.57, 5.89, _IN_EPSA_README, verified=True)),
    _net("epsanet101_large", Partial(r101, **large_epsa), 49_592_198, 8_924_038_656, _EPSA_LARGE, _EPSA,
        _imagenet(20.62, 5.42, _IN_EPSA_README, verified=True)),
    _net("epsanet101_large_k3579", Partial(r101, **large_epsa_k3579), 53_742_470, 9_665_840_640, _EPSA_K3579, _EPSA),
    _net("eca_resnet18", Partial(r18, **eca), 11_689_548, 1_814_082_688, _RIVAL, _ECA),
    _net("eca_resnet34", Partial(r34, **eca), 21_797_746, 3_663_779_904, _RIVAL, _ECA),
    _net("eca_resnet50", Partial(r50, **eca), 25_557_118, 4_089_272_064, _RIVAL, _ECA),
    _net("eca_resnet101", Partial(r101, **eca), 44_549_331, 7_801_580_288, _RIVAL, _ECA),
    _net("eca_resnet50d_timm", Partial(r50d, **eca), 25_576_350, 4_328_912_640, _D, _ECA),
    _net("eca_resnet101d_timm", Partial(r101d, **eca), 44_568_563, 8_041_220_864, _D, _ECA),
    _net("eca_resnet26t_timm", Partial(r50d, stage_sizes=(2, 2, 2, 2), stem_width=(24, 32, 64), **eca), 16_011_916,
        2_550_332_928, "ResNet-D of 26 layers with a tiered stem", _ECA),
    _net("eca_resnetlight_timm", Partial(r50, stage_sizes=(1, 1, 11, 3), **eca_d), 30_162_046, 4_089_287_424,
        "timm: blocks 1, 1, 11, 3, mean pool before the shortcut's 1x1", _ECA),
    _net("ge_resnet50", Partial(r50, attention=GatherExcite), 25_557_032, 4_089_184_256, _RIVAL, _GE),
    _net("gc_resnet50", Partial(r50, attention=GlobalContext), 28_105_032, 4_102_737_920, _RIVAL, _GC),
    _net("sk_resnext50_32x4d", Partial(rx50, **sk), 27_479_784, 4_462_710_784,
        "paper's SKNet-50: 3x3 replaced, two kernels", _SK),
    _net("sk_resnet18_timm", Partial(r18, **sk_timm_basic), 11_958_056, 1_814_337_536,
        "timm: input split over the kernels", _SK),
    _net("sk_resnet34_timm", Partial(r34, **sk_timm_basic), 22_282_376, 3_664_237_568,
        "timm: input split over the kernels", _SK),
    _net("sk_resnet50_timm", Partial(r50, **sk_timm), 25_803_160, 4_089_422_336, "timm: input split over the kernels",
        _SK),
    _net("coordinate_resnet50", Partial(r50, attention=CoordinateAttention), 27_474_864, 4_116_250_624, _RIVAL,
        _COORDINATE),
    _net("triplet_resnet50", Partial(r50, attention=TripletAttention), 25_561_832, 4_135_500_918, _RIVAL, _TRIPLET),
    _net("attention56", ran(1, 1, 1), 31_810_728, 6_270_836_736, _RAN_OFFICIAL, _RAN,
        _imagenet(21.76, 5.9, _IN_RAN_README, verified=True)),
    _net("attention92", ran(1, 2, 3), 52_466_344, 10_533_789_696, _RAN_OFFICIAL, _RAN,
        _imagenet(19.5, 4.8, "fwang91/residual-attention-network README, 320 crop", verified=True)),
    _net("attentionnext56", post_activation(resnext_unit, 1, 1, 1), 31_318_824, 6_419_106_816,
        _RAN_NEXT, _RAN, _imagenet(21.2, 5.6, _IN_RAN_README, verified=True)),
    _net("attentionnext92", post_activation(resnext_unit, 1, 2, 3), 52_102_952, 10_704_337_920,
        _RAN_NEXT, _RAN),
    _net("attentioninception56", post_activation(InceptionUnit, 1, 1, 1), 31_846_480, 11_822_894_784,
        "our reading: Inception-ResNet-A units; the paper leaves them open", _RAN,
        _imagenet(20.36, 5.29, "RAN paper, 299 crop"), size=299),
    _net("attention56_port", ran_port(1, 1, 1), 31_810_728, 6_270_836_736, _RAN_PORT, _RAN),
    _net("attention92_port", ran_port(1, 2, 3), 52_466_344, 10_533_789_696, _RAN_PORT, _RAN),
    _net("attention92_448_port", ran_port(1, 1, 2, 3, pools=(4, 3, 2, 1), widths=(128, 256, 512, 1024, 2048),
        stage_units=(1, 1, 1, 1, 3)), 52_810_920, 12_825_729_024, _RAN_PORT, _RAN, size=448),
    _net("ggam_resnet50", Partial(GGAMNet, backbone=r50, **ggam), 25_191_304, 16_350_220_288, _GGAM_RELEASED, _GGAM,
        Result("CUB-200-2011", 12.39, None, "PRIS-CV/CAM-Guided-Attention README history, before the paper", True),
        Result("FGVC-Aircraft", 7.18, None, "the same", True), Result("Stanford Cars", 6.19, None, "the same", True),
        size=448, classes=200),
    _net("ggam_vgg16", Partial(GGAMNet, backbone=VGG, **ggam), 15_123_752, 61_386_919_936,
        "ResNet-50's head on VGG-16; the released VGG scripts flatten a 7x7 map instead", _GGAM, size=448, classes=200),
    _net("ggam_resnet20_cifar", Partial(GGAMNet, backbone=small(3), **ggam), 311_966, 40_850_944,
        "CIFAR: ResNet-50's head on the 3x3 stem of width 16 and its three stages", _GGAM, size=32, classes=10),
    _net("mobilenet", MobileNet, 4_231_976, 568_740_352, "width 1.0", _MOBILENET,
        _imagenet(31.39, 11.51, _IN_CBAM_TABLE)),
    _net("se_mobilenet", Partial(MobileNet, **se), 5_072_114, 569_568_896, _CBAM_MOBILE, _MOBILENET,
        _imagenet(29.97, 10.63, _IN_CBAM_TABLE)),
    _net("cbam_mobilenet", Partial(MobileNet, **cbam), 5_074_714, 574_642_408, _CBAM_MOBILE, _MOBILENET,
        _imagenet(29.01, 9.99, _IN_CBAM_TABLE)),
    _net("mobilenet_0_7", Partial(MobileNet, width_multiplier=0.7), 2_298_747, 282_957_078, "widths times 0.7, cut",
        _MOBILENET, _imagenet(34.86, 13.69, _IN_CBAM_TABLE)),
    _net("se_mobilenet_0_7", Partial(MobileNet, **se, width_multiplier=0.7), 2_704_594, 283_354_834, _CBAM_MOBILE,
        _MOBILENET, _imagenet(32.5, 12.49, _IN_CBAM_TABLE)),
    _net("cbam_mobilenet_0_7", Partial(MobileNet, **cbam, width_multiplier=0.7), 2_707_194, 287_997_558, _CBAM_MOBILE,
        _MOBILENET, _imagenet(31.51, 11.48, _IN_CBAM_TABLE)),
    _net("resnet20_cifar", small(3), 272_474, 40_813_184, _SMALL, _RESNET, size=32, classes=10),
    _net("resnet32_cifar", small(5), 466_906, 69_124_736, _SMALL, _RESNET, size=32, classes=10),
    _net("resnet56_cifar", small(9), 855_770, 125_747_840, _SMALL, _RESNET, size=32, classes=10),
    _net("resnet110_cifar", small(18), 1_730_714, 253_149_824, _SMALL, _RESNET,
        _cifar(10, 6.37, "SE paper"), size=32, classes=10),
    _net("se_resnet20_cifar", Partial(small(3), **se), 274_847, 40_815_200, _SMALL, _SE, size=32, classes=10),
    _net("se_resnet32_cifar", Partial(small(5), **se), 470_861, 69_128_096, _SMALL, _SE, size=32, classes=10),
    _net("se_resnet56_cifar", Partial(small(9), **se), 862_889, 125_753_888, _SMALL, _SE,
        size=32, classes=10),
    _net("se_resnet110_cifar", Partial(small(18), **se), 1_744_952, 253_161_920, _SMALL, _SE,
        _cifar(10, 5.21, "SE paper"), size=32, classes=10),
    _net("cbam_resnet20_cifar", Partial(small(3), **cbam), 275_747, 41_212_352, _SMALL, _CBAM,
        size=32, classes=10),
    _net("cbam_resnet32_cifar", Partial(small(5), **cbam), 472_361, 69_790_016, _SMALL, _CBAM,
        size=32, classes=10),
    _net("cbam_resnet56_cifar", Partial(small(9), **cbam), 865_589, 126_945_344, _SMALL, _CBAM,
        size=32, classes=10),
    _net("cbam_resnet110_cifar", Partial(small(18), **cbam), 1_750_352, 255_544_832, _SMALL, _CBAM,
        size=32, classes=10),
    _net("simam_resnet20_cifar", Partial(small(3), attention=SimAM), 272_474, 40_813_184,
        "CIFAR: block before the addition; the released net has it before the second 3x3's norm", _SIMAM,
        size=32, classes=10),
    _net("resnet18_cifar", Partial(r18, **cifar_stem), 11_220_132, 555_468_800, _FOUR_STAGES, _RESNET,
        size=32, classes=100),
    _net("resnet34_cifar", Partial(r34, **cifar_stem), 21_328_292, 1_159_448_576, _FOUR_STAGES, _RESNET,
        size=32, classes=100),
    _net("resnet50_cifar", Partial(r50, **cifar_stem), 23_705_252, 1_298_014_208, _FOUR_STAGES, _RESNET,
        size=32, classes=100),
    _net("resnet101_cifar", Partial(r101, **cifar_stem), 42_697_380, 2_510_168_064, _FOUR_STAGES, _RESNET,
        size=32, classes=100),
    _net("se_resnet18_cifar", Partial(r18, **se, **cifar_stem), 11_309_212, 555_555_840, _FOUR_STAGES, _SE,
        size=32, classes=100),
    _net("se_resnet34_cifar", Partial(r34, **se, **cifar_stem), 21_489_488, 1_159_605_760, _FOUR_STAGES, _SE,
        size=32, classes=100),
    _net("se_resnet50_cifar", Partial(r50, **se, **cifar_stem), 26_236_244, 1_300_529_152, _FOUR_STAGES, _SE,
        size=32, classes=100),
    _net("se_resnet101_cifar", Partial(r101, **se, **cifar_stem), 47_475_092, 2_514_911_232, _FOUR_STAGES, _SE,
        size=32, classes=100),
    _net("cbam_resnet18_cifar", Partial(r18, **cbam, **cifar_stem), 11_310_012, 555_909_440, _FOUR_STAGES, _CBAM,
        size=32, classes=100),
    _net("cbam_resnet34_cifar", Partial(r34, **cbam, **cifar_stem), 21_491_088, 1_160_206_688, _FOUR_STAGES, _CBAM,
        size=32, classes=100),
    _net("cbam_resnet50_cifar", Partial(r50, **cbam, **cifar_stem), 26_237_844, 1_303_487_840, _FOUR_STAGES, _CBAM,
        size=32, classes=100),
    _net("cbam_resnet101_cifar", Partial(r101, **cbam, **cifar_stem), 47_478_392, 2_520_204_768, _FOUR_STAGES, _CBAM,
        size=32, classes=100),
    _net("preact_resnet20_cifar", small(3, PreActBasicBlock), 272_282, 40_813_184, _PRE, _PREACT, size=32, classes=10),
    _net("preact_resnet32_cifar", small(5, PreActBasicBlock), 466_714, 69_124_736, _PRE, _PREACT, size=32, classes=10),
    _net("preact_resnet56_cifar", small(9, PreActBasicBlock), 855_578, 125_747_840, _PRE, _PREACT, size=32,
        classes=10),
    _net("preact_resnet110_cifar", small(18, PreActBasicBlock), 1_730_522, 253_149_824, _PRE, _PREACT, size=32,
        classes=10),
    _net("preact_resnet164_cifar", Partial(ran_cifar(0), stage_units=(18, 18, 18)), 1_703_290, 247_646_720,
        "CIFAR: pre-activation bottlenecks, 3x3 stem of width 16, three stages, no attention", _PREACT,
        _cifar(10, 5.46, "RAN paper"), _cifar(100, 24.33, "RAN paper"), size=32, classes=10),
    _net("se_resnet20_cifar_moskomule", Partial(small(3), **se_moskomule), 274_490, 40_815_200, _SMALL_MOSKOMULE, _SE,
        size=32, classes=10),
    _net("se_resnet32_cifar_moskomule", Partial(small(5), **se_moskomule), 470_266, 69_128_096, _SMALL_MOSKOMULE, _SE,
        size=32, classes=10),
    _net("se_resnet56_cifar_moskomule", Partial(small(9), **se_moskomule), 861_818, 125_753_888, _SMALL_MOSKOMULE,
        _SE, size=32, classes=10),
    _net("bam_resnet18_cifar", Partial(r18, **bam, **cifar_stem), 11_243_123, 557_157_888, _BAM_CIFAR, _BAM, size=32,
        classes=100),
    _net("bam_resnet34_cifar", Partial(r34, **bam, **cifar_stem), 21_351_283, 1_161_137_664, _BAM_CIFAR, _BAM,
        size=32, classes=100),
    _net("bam_resnet50_cifar", Partial(r50, **bam, **cifar_stem), 24_063_319, 1_324_953_600, _BAM_CIFAR, _BAM,
        _cifar(100, 20.0, "BAM paper"), size=32, classes=100),
    _net("bam_resnet101_cifar", Partial(r101, **bam, **cifar_stem), 43_055_447, 2_537_107_456, _BAM_CIFAR, _BAM,
        _cifar(100, 19.61, "BAM paper"), size=32, classes=100),
    _net("attention56_cifar", ran_cifar(1), 1_030_394, 122_825_216, _RAN_CIFAR, _RAN,
        _cifar(10, 5.52, "RAN paper"), size=32, classes=10),
    _net("attention92_cifar", ran_cifar(2), 1_841_274, 211_913_216, _RAN_CIFAR, _RAN,
        _cifar(10, 4.99, "RAN paper"), _cifar(100, 21.71, "RAN paper"), size=32, classes=10),
    _net("attention128_cifar", ran_cifar(3), 2_652_154, 301_001_216, _RAN_CIFAR, _RAN,
        _cifar(10, 4.44, "RAN paper"), size=32, classes=10),
    _net("attention164_cifar", ran_cifar(4), 3_463_034, 390_089_216, _RAN_CIFAR, _RAN,
        _cifar(10, 4.31, "RAN paper"), size=32, classes=10),
    _net("attention236_cifar", ran_cifar(6), 5_084_794, 568_265_216, _RAN_CIFAR, _RAN,
        _cifar(10, 4.14, "RAN paper"), _cifar(100, 21.16, "RAN paper"), size=32, classes=10),
    _net("attention452_cifar", ran_cifar(6, p=2, t=4, r=3, bottom=4), 8_511_994, 886_622_720,
        "CIFAR: as Attention-236 with (p, t, r) = (2, 4, 3), inferred", _RAN, _cifar(10, 3.9, "RAN paper"),
        _cifar(100, 20.45, "RAN paper"), size=32, classes=10),
    _net("attention92_cifar_port",
        ran_port(1, 2, 3, pools=(2, 1, 0), widths=(128, 256, 512, 1024), strides=(1, 2, 2, 1), stem="cifar",
            stem_width=32),
        12_170_730, 1_089_185_792, _RAN_PORT, _RAN,
        Result("CIFAR-10", 4.6, None, "tengshaofeng/ResidualAttentionNetwork-pytorch README", True), size=32,
        classes=10),
    _net("attention92_cifar_5x5_port",
        ran_port(1, 2, 3, pools=(2, 1, 0), widths=(128, 256, 512, 1024), strides=(1, 2, 2, 1), stem="cifar_5x5",
            stem_width=32),
        12_172_266, 274_540_544, "tengshaofeng's port, its first net: 5x5 stem and a max-pool", _RAN,
        size=32, classes=10),
]
# fmt: on
