"""The pure training step and evaluation step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from attnjax._choice import check_choice
from attnjax.training._loss import Batch, Loss, Mix
from attnjax.training._state import Sums, TrainState

_KEPT = {"block": ("block", "stage"), "stage": ("stage",)}
"""`checkpoint_name`s of the activations that rematerialisation keeps."""

Preprocess = Callable[[jax.Array], jax.Array]
"""Turns raw images (b, h, w, c) into the net's input, such as `Normalize`."""


@dataclasses.dataclass(frozen=True)
class Normalize:
    """Normalises uint8 images to float32: (image / 255 - mean) / std.

    Args:
      mean: mean of images in [0, 1]: one value, or one for each channel.
      std: standard deviation, likewise.

    Raises:
      ValueError: when called, images are not uint8.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.training import Normalize
      >>> Normalize(mean=(0.5,), std=(0.25,))(jnp.full((1, 8, 8, 3), 255, jnp.uint8))[0, 0, 0].tolist()
      [2.0, 2.0, 2.0]
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: jax.Array) -> jax.Array:
        if images.dtype != jnp.uint8:
            raise ValueError(f"images are {images.dtype}, but must be uint8, from 0 to 255")
        mean, std = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, -1) for v in (self.mean, self.std))
        return (images.astype(jnp.float32) / 255 - mean) / std


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """A training step, see `make_train_step`.

    Example:
      >>> import optax, attnjax
      >>> from attnjax.losses import CrossEntropy
      >>> from attnjax.training import TrainStep, make_train_step
      >>> step = make_train_step(attnjax.create_model("resnet18"), optax.sgd(0.1), CrossEntropy(), accumulate=4)
      >>> isinstance(step, TrainStep), step.accumulate
      (True, 4)
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    loss: Loss
    preprocess: Preprocess | None = None
    mix: Mix | None = None
    accumulate: int = 1
    rematerialize: Literal["block", "stage"] | None = None
    ema: float | None = None
    axis_name: str | None = None
    gather: Callable[[Any], Any] | None = None
    """Gathers parameters that are sharded over devices before they are used."""

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"accumulate={self.accumulate} must be at least 1")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema={self.ema} must be between 0 and 1, or None")
        check_choice("rematerialize", self.rematerialize, (None, *_KEPT))

    def init(self, state: TrainState, batch: Mapping[str, Any], key: jax.Array) -> Sums:
        """Returns zero sums with the names, shapes and dtypes of the loss's sums, without running it.

        Args:
          state, batch, key: arguments of the step, or their shapes and dtypes.
        """

        def totals(state: TrainState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
            params, rest = _split(state.variables)
            part = {name: rows[: len(rows) // self.accumulate] for name, rows in batch.items()}
            _, (_, sums) = self._loss(params, rest, part, _keys(key))
            return sums

        if self.axis_name is not None:
            along = jax.vmap(totals, in_axes=None, axis_name=self.axis_name, axis_size=1)
            stacked = jax.eval_shape(along, state, batch, key)
            shapes = jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape.shape[1:], shape.dtype), stacked)
        else:
            shapes = jax.eval_shape(totals, state, batch, key)
        zeros = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
        return Sums(zeros, jnp.full((), -1, jnp.int32))

    def __call__(self, state: TrainState, sums: Sums, batch: Batch, key: jax.Array) -> tuple[TrainState, Sums]:
        """Takes an optimizer step on the mean loss of a batch, and adds the batch's sums to `sums`.

        Args:
          state: state before the step.
          sums: sums so far.
          batch: arrays by name, see `Loss`.
          key: PRNG key of the run, the same at every step; `state.step` is folded in.

        Raises:
          ValueError: `accumulate` does not divide the batch; the sums have other names than those of the loss; or only
            one of state and step has an average.
        """
        if (self.ema is None) != (state.ema is None):
            has = "no average" if state.ema is None else "an average"
            raise ValueError(
                f"ema={self.ema}, but the state has {has}: TrainState.create(..., ema={self.ema is not None})"
            )
        keys = _keys(jax.random.fold_in(key, state.step))
        if self.axis_name is not None:
            keys["dropout"] = jax.random.fold_in(keys["dropout"], jax.lax.axis_index(self.axis_name))
        params, rest = _split(state.variables)
        (loss, (rest, totals)), grads = self._gradients(params, rest, batch, keys)
        if self.axis_name is not None:
            loss, rest, grads = jax.lax.pmean((loss, rest, grads), self.axis_name)
            totals = jax.lax.psum(totals, self.axis_name)

        updates, opt_state = self.optimizer.update(grads, state.opt_state, params)
        variables = {**rest, "params": optax.apply_updates(params, updates)}
        ema = state.ema
        if self.ema is not None:
            ema = optax.incremental_update(variables, ema, 1 - self.ema)

        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads)) & jnp.isfinite(optax.tree.norm(variables))
        fresh = (sums.first_nonfinite < 0) & ~finite
        sums = Sums(_added(sums.totals, totals), jnp.where(fresh, state.step, sums.first_nonfinite))
        return TrainState(state.step + 1, variables, opt_state, ema), sums

    def _loss(self, params: Any, rest: Any, batch: Batch, keys: Mapping[str, jax.Array]) -> tuple[jax.Array, Any]:
        """Mean loss of a part of a batch, the new collections other than the parameters, and the sums."""

        def loss_of_prepared(params: Any, batch: Batch) -> tuple[jax.Array, Any]:
            gathered = params if self.gather is None else self.gather(params)
            rngs = {"dropout": keys["dropout"]}
            loss, aux = self.loss(self.model, {**rest, "params": gathered}, batch, train=True, rngs=rngs)
            return loss, ({**rest, **aux.updates}, aux.sums)

        batch = _prepared(self.preprocess, batch)
        if self.mix is not None:
            batch = self.mix(keys["mix"], batch)
        if self.rematerialize is not None:
            policy = jax.checkpoint_policies.save_only_these_names(*_KEPT[self.rematerialize])
            return jax.checkpoint(loss_of_prepared, policy=policy)(params, batch)
        return loss_of_prepared(params, batch)

    def _gradients(self, params: Any, rest: Any, batch: Batch, keys: Mapping[str, jax.Array]) -> Any:
        """`value_and_grad` of the loss, accumulated over the parts of a batch.

        Part i takes examples i, i + parts, ..., so that a batch sharded over devices is not moved.
        """
        gradient, parts = jax.value_and_grad(self._loss, has_aux=True), self.accumulate
        if parts == 1:
            return gradient(params, rest, batch, keys)

        def add_part(carry: tuple[Any, Any], part: tuple[Any, Any]) -> tuple[tuple[Any, Any], None]:
            rest, totals = carry
            (loss, (rest, sums)), grads = gradient(params, rest, *part)
            return (rest, jax.tree.map(jnp.add, totals, (loss, sums, grads))), None

        size = len(next(iter(batch.values())))
        if size % parts:
            raise ValueError(f"accumulate={parts} does not divide the batch of {size}")
        split = {n: jnp.reshape(v, (len(v) // parts, parts, *v.shape[1:])).swapaxes(0, 1) for n, v in batch.items()}
        keys_of_parts = {name: jax.random.split(key, parts) for name, key in keys.items()}
        part = jax.eval_shape(lambda tree: jax.tree.map(lambda leaf: leaf[0], tree), (split, keys_of_parts))
        loss, (_, sums) = jax.eval_shape(self._loss, params, rest, *part)
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), (loss, sums, params))
        (rest, totals), _ = jax.lax.scan(add_part, (rest, zeros), (split, keys_of_parts))
        loss, sums, grads = totals
        return (loss / parts, (rest, sums)), jax.tree.map(lambda grad: grad / parts, grads)


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    *,
    preprocess: Preprocess | None = None,
    mix: Mix | None = None,
    accumulate: int = 1,
    rematerialize: Literal["block", "stage"] | None = None,
    ema: float | None = None,
    axis_name: str | None = None,
) -> TrainStep:
    """Makes the pure training step `step(state, sums, batch, key) -> (state, sums)`.

    Compile the step with `jax.jit`, `jax.pmap`, `jit_step` or `pmap_step`. Equal arguments make equal steps.

    Args:
      model: the net.
      optimizer: any optax transformation, such as `sgd`.
      loss: see `Loss`; `attnjax.losses` has `CrossEntropy` and `GGAM`. It gets one key, `rngs={"dropout": key}`.
      preprocess: turns `batch["image"]` into the net's input, on the device.
      mix: random augmentation of each batch after `preprocess`, such as `Mixup`.
      accumulate: number of parts of a batch that are computed one after the other; their gradients are averaged. Batch
        norm sees each part separately.
      rematerialize: store only the outputs of the net's blocks or stages for the backward pass and recompute the rest,
        trading time for memory. None stores everything.
      ema: decay of an exponential moving average of the variables in `state.ema`: `ema * average + (1 - ema) *
        variables` at each step. None keeps no average.
      axis_name: axis of `jax.pmap` or `jax.vmap` over which the batch is divided: gradients, batch statistics and loss
        are averaged over it, sums are added. None if the step sees the whole batch, as under `jit`.

    Returns:
      The step; `step.init(state, batch, key)` returns the zero sums to start with.

    Raises:
      ValueError: `accumulate` is below 1, `ema` not between 0 and 1, or `rematerialize` unknown. For what the step
        raises, see `TrainStep`.

    Example:
      >>> import jax, jax.numpy as jnp, attnjax
      >>> from attnjax.losses import CrossEntropy
      >>> from attnjax.training import TrainState, make_train_step, sgd
      >>> model = attnjax.create_model("cbam_resnet20_cifar", num_classes=10, stage_sizes=(1, 1, 1))
      >>> optimizer = sgd(0.1, momentum=0.9, weight_decay=5e-4)
      >>> state = TrainState.create(attnjax.init(model, jax.random.key(0), (1, 8, 8, 3)), optimizer)
      >>> step = make_train_step(model, optimizer, CrossEntropy(smoothing=0.1))
      >>> batch = {"image": jax.random.normal(jax.random.key(1), (16, 8, 8, 3)), "label": jnp.arange(16) % 10}
      >>> sums = step.init(state, batch, jax.random.key(2))
      >>> for _ in range(2):
      ...     state, sums = jax.jit(step)(state, sums, batch, jax.random.key(2))
      >>> state.step.item(), sums["count"].item(), sums.first_nonfinite.item()
      (2, 32, -1)
    """
    return TrainStep(model, optimizer, loss, preprocess, mix, accumulate, rematerialize, ema, axis_name)


@dataclasses.dataclass(frozen=True)
class EvalStep:
    """An evaluation step, see `make_eval_step`.

    Example:
      >>> import attnjax
      >>> from attnjax.losses import CrossEntropy
      >>> from attnjax.training import EvalStep, make_eval_step
      >>> isinstance(make_eval_step(attnjax.create_model("resnet18"), CrossEntropy()), EvalStep)
      True
    """

    model: nn.Module
    loss: Loss
    preprocess: Preprocess | None = None

    def init(self, variables: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Returns zero sums with the names, shapes and dtypes of the loss's sums, without running it."""
        shapes = jax.eval_shape(lambda variables, batch: self._aux(variables, batch).sums, variables, batch)
        return {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}

    def __call__(
        self, variables: Mapping[str, Any], sums: dict[str, jax.Array], batch: Batch
    ) -> tuple[dict[str, jax.Array], Any]:
        """Adds the batch's sums to `sums`, and also returns the outputs of the net."""
        aux = self._aux(variables, batch)
        return _added(sums, aux.sums), aux.outputs

    def _aux(self, variables: Mapping[str, Any], batch: Batch) -> Any:
        return self.loss(self.model, variables, _prepared(self.preprocess, batch), train=False)[1]


def make_eval_step(model: nn.Module, loss: Loss, *, preprocess: Preprocess | None = None) -> EvalStep:
    """Makes the pure evaluation step `step(variables, sums, batch) -> (sums, outputs)`.

    Args:
      model: the net.
      loss: loss whose sums are added over the batches. Examples where `batch["mask"]`, bool (b,), is False do not
        count, so that the last batch can be padded. Compute metrics that are not ratios of sums from the outputs, on
        the host.
      preprocess: turns `batch["image"]` into the net's input.

    Returns:
      The step; `step.init(variables, batch)` returns the zero sums to start with.

    Example:
      >>> import jax, jax.numpy as jnp, attnjax
      >>> from attnjax.losses import CrossEntropy
      >>> from attnjax.training import make_eval_step
      >>> model = attnjax.create_model("resnet20_cifar", num_classes=10)
      >>> variables = attnjax.init(model, jax.random.key(0), (1, 8, 8, 3))
      >>> step = make_eval_step(model, CrossEntropy())
      >>> batch = {"image": jnp.zeros((4, 8, 8, 3)), "label": jnp.arange(4), "mask": jnp.array([1, 1, 1, 0], bool)}
      >>> sums, logits = jax.jit(step)(variables, step.init(variables, batch), batch)
      >>> sums["count"].item(), logits.shape
      (3, (4, 10))
    """
    return EvalStep(model, loss, preprocess)


def _added(sums: Mapping[str, jax.Array], more: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    if sums.keys() != more.keys():
        raise ValueError(f"sums={sorted(sums)} are not those of the loss, {sorted(more)}: begin with step.init(...)")
    return {name: total + more[name] for name, total in sums.items()}


def _keys(key: jax.Array) -> dict[str, jax.Array]:
    mixing, dropping = jax.random.split(key)
    return {"mix": mixing, "dropout": dropping}


def _split(variables: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The parameters, and the other collections."""
    return variables["params"], {name: value for name, value in variables.items() if name != "params"}


def _prepared(preprocess: Preprocess | None, batch: Batch) -> Batch:
    return dict(batch) if preprocess is None else {**batch, "image": preprocess(batch["image"])}
