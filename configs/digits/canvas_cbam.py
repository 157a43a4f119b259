"""A small CBAM-ResNet on digits at random positions of cluttered canvases of 64x64 pixels.

    python -m train canvas_cbam --workdir runs/canvas_cbam
    python -m train.explain --workdir runs/canvas_cbam --layer stage2 --scores

The net has one block a stage and ImageNet's stem, so that its feature maps are 16x16, 8x8 and 4x4.

Time: 539 steps of 64 images take about 40 s of CPU time on two cores of an AMD EPYC (2026-11-21).
Result, test accuracy: 80.56 +- 2.56 % over seeds 0 to 4, 79.51 % with seed 0.
"""

from train.config import Config, DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig

config = Config(
    model=ModelConfig(name="cbam_resnet20_cifar", options={"stage_sizes": (1, 1, 1), "stem": "imagenet"}),
    data=DataConfig(
        source="canvas_digits", batch_size=64, augmentation="none", flip=False, mean=(0.237,), std=(0.157,)
    ),
    optimizer=OptimizerConfig(learning_rate=0.1, nesterov=True, weight_decay=5e-4),
    schedule=ScheduleConfig(kind="cosine", warmup=0.05),
    total_epochs=6,
    evaluate_every_steps=270,
)
