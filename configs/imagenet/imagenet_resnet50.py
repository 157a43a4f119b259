"""ResNet-50 on ImageNet-1K, by the recipe of the CBAM paper's code; the base of the other imagenet configs.

    python -m train imagenet_resnet50 --workdir runs/imagenet_resnet50

SGD with momentum, weight decay 1e-4 on all parameters, batches of 256, learning rate 0.1 divided by 10 every 30 epochs,
random resized crops, horizontal flips. The code has 100 epochs, the paper reportedly 90. Its script uses 8 GPUs, so
batch norm takes groups of 32 images, on any number of devices; its README says 4. The papers computed in
float32; these configs compute in bfloat16, and keep parameters, statistics and sums in float32. `--model.dtype
float32` computes as the papers did.

The same recipe trains any other net: `--model.name resnet152 --workdir runs/imagenet_resnet152`.

Prepare the images once, from ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar in a FOLDER, with `tfds build
imagenet2012 --file_format=array_record --manual_dir=FOLDER`, or use folders named by class: `--data.source
folder:PATH`.

Time: 500,456 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 24.56 / 7.50 (CBAM paper; recalled, not read at its source); 23.62 /
7.09 (README of implus/PytorchInsight, read); 24.80 / 7.48 (SE paper; recalled, not read at its source).
"""

from train.config import Config, DataConfig, ModelConfig, OptimizerConfig, ParallelConfig, ScheduleConfig

config = Config(
    model=ModelConfig(name="resnet50", num_classes=1000, dtype="bfloat16"),
    data=DataConfig(
        source="tfds:imagenet2012",
        batch_size=256,
        augmentation="random_resized_crop",
        image_size=224,
        resize=256,
        channels=3,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        num_threads=16,
    ),
    optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleConfig(kind="step", milestones=(0.3, 0.6, 0.9)),
    parallel=ParallelConfig(batch_norm=32),
    total_epochs=100,
    checkpoint_every_steps=2500,
    evaluate_every_steps=5000,
    log_every_steps=100,
)
