"""CBAM-ResNet-20 on the 1,797 scanned digits that scikit-learn ships: the embedded default.

    python -m train digits_cbam --workdir runs/digits_cbam

Time: about 45 s on two CPU cores.
Result, test accuracy: 99.61 +- 0.46 % over seeds 0 to 4, 100.00 % with seed 0.
"""

from train.config import Config, DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig

config = Config(
    model=ModelConfig(name="cbam_resnet20_cifar"),
    data=DataConfig(
        source="digits", batch_size=64, augmentation="pad_crop", pad=1, flip=False, mean=(0.305,), std=(0.376,)
    ),
    optimizer=OptimizerConfig(learning_rate=0.1, nesterov=True, weight_decay=5e-4),
    schedule=ScheduleConfig(kind="cosine", warmup=0.05),
    total_epochs=60,
    checkpoint_every_steps=200,
    evaluate_every_steps=200,
)
