"""CBAM-ResNet-18 on your own photos: a folder for each class, with the augmentation of the ImageNet recipes.

    python -m train folder_cbam_resnet18 --data.source folder:PATH --workdir runs/photos

Time: about 20 images/s at 64x64 pixels on two CPU cores (2026-11-21); meant for an accelerator. On a CPU use
--data.image_size 64 --data.resize 72 and few epochs.
Result: depends on your photos.
"""

from train.config import Config, DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig

config = Config(
    model=ModelConfig(name="cbam_resnet18"),
    data=DataConfig(
        source="folder:images",
        batch_size=64,
        augmentation="random_resized_crop",
        flip=True,
        image_size=224,
        resize=256,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    optimizer=OptimizerConfig(learning_rate=0.025, weight_decay=1e-4),
    schedule=ScheduleConfig(kind="cosine", warmup=0.05),
    total_epochs=90,
    log_every_steps=10,
)
