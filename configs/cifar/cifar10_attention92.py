"""Attention-92 on CIFAR-10, by the recipe of its paper; the base of the other cifar10 configs.

    python -m train.prepare cifar10 --from FOLDER_OF_THE_DOWNLOAD
    python -m train cifar10_attention92 --workdir runs/cifar10_attention92

SGD with Nesterov's momentum, decayed by 1e-4; 160,000 steps of 64 images; 0.1, a tenth of it after 64,000 and 96,000;
shifted by up to 4 pixels and mirrored (recalled, not read at its source). The paper subtracts the mean of each
channel; here its standard deviation is divided by, too. The widths of the CIFAR nets were never published: they are
those that give the paper's numbers of parameters.

Time: 160,000 steps of 64 images, 10,240,000 in all; not measured.
Result, error in % on CIFAR-10: 4.99 (RAN paper, as two independent repositories quote it).
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
