"""What runs that differ in their seed alone have in common."""

from __future__ import annotations

import dataclasses

from train.config import Config
from train.config.errors import UserError
from train.data import Dataset, Reader, image_shape, open_dataset, with_label_noise
from train.evaluate import Evaluator
from train.layout import Layout
from train.parallel import norm_images
from train.runs.consistency import check_agreement
from train.runs.record import Run
from train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Shared:
    """What runs that differ in their seed alone have in common. The evaluation is compiled once for all.

    Attributes:
      run: one of them.
      dataset: the images.
      test: reads those of the test.
      layout: where arrays lie.
      like: shapes, types and shardings of a state.
      evaluator: evaluates variables on the test images.
    """

    run: Run
    dataset: Dataset
    test: Reader
    layout: Layout
    like: TrainState
    evaluator: Evaluator

    @classmethod
    def of(cls, config: Config) -> Shared:
        """Opens the data and checks that settings, data and devices fit each other, in all processes."""
        layout = Layout.of(config)
        if config.parallel.batch_norm == "device":  # on other devices it would be another run
            parallel = dataclasses.replace(config.parallel, batch_norm=norm_images(config, layout.num_devices))
            config = dataclasses.replace(config, parallel=parallel)
        dataset = open_dataset(config.data)
        run = describe(config, dataset)
        check_agreement(run, dataset)
        test = Reader(dataset.test, config.data, run.image_shape)
        like = layout.abstract(run.abstract_state())
        evaluator = Evaluator(run.model(), config, test, layout, len(run.class_names))
        return cls(run, dataset, test, layout, like, evaluator)

    def with_seed(self, seed: int) -> Run:
        """The run with another seed."""
        return dataclasses.replace(self.run, config=dataclasses.replace(self.run.config, seed=seed))

    def training(self, seed: int) -> Reader:
        """Reads the training images; the seed says which labels are wrong, where some are to be."""
        config, classes = self.run.config, len(self.run.class_names)
        noisy = with_label_noise(self.dataset.train, config.data.label_noise, classes, seed)
        return Reader(noisy, config.data, self.run.image_shape)


def describe(config: Config, dataset: Dataset) -> Run:
    """Checks that the settings fit the data, and says what the run is."""
    classes = len(dataset.class_names)
    if config.model.num_classes not in (None, classes):
        raise UserError(f"model.num_classes={config.model.num_classes}, but {config.data.source} has {classes} classes")
    shape = image_shape(dataset.train, config.data)
    for name in ("mean", "std"):
        if len(getattr(config.data, name)) not in (1, shape[-1]):
            raise UserError(f"data.{name}={getattr(config.data, name)} does not fit {shape[-1]} channels")
    return Run(config, dataset.class_names, shape, len(dataset.train))
