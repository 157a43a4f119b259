"""Attention-92 on CIFAR-10, by the recipe of its paper; the base of the other cifar10 configs.

    python -m train.prepare cifar10 --from FOLDER_OF_THE_DOWNLOAD
    python -m train cifar10_attention92 --workdir runs/cifar10_attention92

SGD with Nesterov momentum and weight decay 1e-4, 160,000 steps of 64 images, learning rate 0.1 divided by 10 after
64,000 and 96,000; shifts by up to 4 pixels and horizontal flips (recalled, not read at its source). The paper subtracts
the mean of each channel; here it is also divided by its standard deviation. The widths of the CIFAR nets were not
published; these reproduce the paper's numbers of parameters.

Time: 160,000 steps of 64 images, 10,240,000 in all; not measured.
Result, error in % on CIFAR-10: 4.99 (RAN paper, as quoted by two independent repositories).
"""

from train.config import Config, DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig

config = Config(
    model=ModelConfig(name="attention92_cifar"),
    data=DataConfig(
        source="tfds:cifar10",
        batch_size=64,
        augmentation="pad_crop",
        pad=4,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    schedule=ScheduleConfig(kind="step", milestones=(0.4, 0.6)),
    total_steps=160_000,
    checkpoint_every_steps=2000,
    evaluate_every_steps=2000,
    log_every_steps=100,
)
