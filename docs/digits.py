"""Trains CBAM-ResNet-20 on scikit-learn's scanned digits: pip install . scikit-learn; python docs/digits.py"""

import jax
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import attnjax
from attnjax.losses import CrossEntropy
from attnjax.training import Normalize, TrainState, cosine_schedule, make_eval_step, make_train_step, sgd

EPOCHS, BATCH_SIZE = 15, 64

pixels, labels = load_digits(return_X_y=True)  # pixels from 0 to 16
data = {"image": np.rint(pixels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1), "label": labels.astype(np.int32)}
train, test = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
rng, key = np.random.default_rng(0), jax.random.key(0)
order = np.concatenate([rng.permutation(train) for _ in range(EPOCHS)])
batches = order[: len(order) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE)

model = attnjax.create_model("cbam_resnet20_cifar", num_classes=10)
schedule = cosine_schedule(0.1, len(batches), warmup=len(batches) // 20)
optimizer = sgd(schedule, momentum=0.9, nesterov=True, weight_decay=5e-4)
loss, preprocess = CrossEntropy(), Normalize(mean=(0.305,), std=(0.376,))
state = TrainState.create(attnjax.init(model, key, (1, 8, 8, 1)), optimizer)

step = make_train_step(model, optimizer, loss, preprocess=preprocess)
sums = step.init(state, {name: values[batches[0]] for name, values in data.items()}, key)
update = jax.jit(step, donate_argnums=(0, 1))
for rows in batches:
    shifts = rng.integers(-1, 2, (BATCH_SIZE, 2))  # of each image, by at most one pixel
    images = np.stack([np.roll(data["image"][row], shift, (0, 1)) for row, shift in zip(rows, shifts, strict=True)])
    state, sums = update(state, sums, {"image": images, "label": data["label"][rows]}, key)

held_out = {name: values[test] for name, values in data.items()}
evaluate = make_eval_step(model, loss, preprocess=preprocess)
sums, logits = jax.jit(evaluate)(state.variables, evaluate.init(state.variables, held_out), held_out)
print(f"test accuracy {sums['correct'] / sums['count']:.4f}")
