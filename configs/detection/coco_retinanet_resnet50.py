"""RetinaNet on ResNet-50, COCO 2017, the 1x schedule; the base of the other detectors.

    python -m train coco_retinanet_resnet50 --workdir runs/coco_retinanet_resnet50

data/coco holds annotations/instances_train2017.json, instances_val2017.json, train2017 and val2017. The weights are
those of the backbone on ImageNet, written by attnjax.convert, see docs/guides/fine_tuning.md. The recipe is
mmdetection's: SGD, the rate divided by 10 after 8 and 11 of 12 epochs, 500 steps of warm-up, 800 pixels, batch norm and
the first stage frozen. With other batch sizes, scale the rate with them.

Time: 88,716 steps of 16 images; not measured.
Result, box AP in %: not run; expected 37.4 (detectron2's R50-FPN 1x, quote).
"""

from train.config import Config, DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig

config = Config(
    model=ModelConfig(name="retinanet_resnet50", num_classes=80, weights="resnet50.safetensors"),
    data=DataConfig(
        source="coco:data/coco",
        batch_size=16,
        augmentation="none",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        num_threads=16,
    ),
    optimizer=OptimizerConfig(learning_rate=0.01, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleConfig(kind="step", milestones=(8 / 12, 11 / 12), factor=0.1, warmup=500 / 88_716),
    total_epochs=12,
    checkpoint_every_steps=1000,
    evaluate_every_steps=7393,
)
