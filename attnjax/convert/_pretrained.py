"""Pretrained weights of timm from the Hugging Face hub."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from attnjax.convert._files import read_weights
from attnjax.convert._sources import find_source
from attnjax.convert._timm import architecture
from attnjax.convert._torch import from_torch


class Pretrained(NamedTuple):
    """A net and its weights: `model, variables = load_pretrained(...)`.

    Example: see `load_pretrained`.
    """

    model: nn.Module
    variables: dict[str, Any]


def load_pretrained(
    name: str,
    *,
    num_classes: int | None = None,
    cache_dir: str | None = None,
    key: jax.Array | None = None,
    **arguments: Any,
) -> Pretrained:
    """Downloads a timm net with its weights, or loads them from the hub's cache.

    Normalise images as described on the page of the weights, mostly by ImageNet's mean (0.485, 0.456, 0.406) and
    standard deviation (0.229, 0.224, 0.225).

    Args:
      name: timm's name with its tag, such as `seresnet50.ra2_in1k`; ResNet, ResNeXt and wide ResNet, plain or with SE,
        ECA, selective kernels or global context, and the legacy SENets.
      num_classes: outputs of the classifier; None uses the file's number. With another number the classifier is newly
        initialised, with a warning; 0 omits it.
      cache_dir: cache of the hub; None uses the default.
      key: PRNG key of a new classifier; None is `jax.random.key(0)`.
      **arguments: further arguments of the net's class, such as `dtype`.

    Returns:
      The net and its variables, in float32.

    Raises:
      ValueError: the name is unknown to timm's hub or not supported, or the file is damaged.
      ConnectionError: the weights are not in the cache, and the hub cannot be reached or is disabled
        (`HF_HUB_OFFLINE`).
      ImportError: huggingface_hub or safetensors is not installed (extra `hub`).

    Example:
      >>> import attnjax
      >>> attnjax.load_pretrained("seresnet50")
      Traceback (most recent call last):
      ValueError: name='seresnet50' has no tag: weights have names such as seresnet50.ra2_in1k

    References:
      Wightman, "PyTorch Image Models", huggingface.co/timm.
    """
    net_name, dot, _ = name.partition(".")
    if not dot:
        raise ValueError(f"name={name!r} has no tag: weights have names such as seresnet50.ra2_in1k")
    constructor, source = architecture(net_name)
    entries = read_weights(_fetch(f"timm/{name}", cache_dir))
    head = find_source(source).head_classes({entry: np.shape(value) for entry, value in entries.items()})
    classes = head if num_classes is None else num_classes
    model = constructor(num_classes=classes or 0, **arguments)
    return Pretrained(model, from_torch(model, entries, source, key=key))


def _fetch(repository: str, cache_dir: str | None) -> Path:
    """Returns the path of a repository's weights in the cache, after downloading them if necessary."""
    try:
        hub = importlib.import_module("huggingface_hub")
        errors, constants = (importlib.import_module(f"huggingface_hub.{part}") for part in ("errors", "constants"))
    except ImportError as error:
        raise ImportError("huggingface_hub is not installed: pip install 'attnjax[hub]'") from error
    file = {"repo_id": repository, "filename": "model.safetensors", "cache_dir": cache_dir}
    try:
        return Path(hub.hf_hub_download(**file, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        pass
    try:
        return Path(hub.hf_hub_download(**file))
    except errors.LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"{repository} is not in the cache ({cache_dir or constants.HF_HUB_CACHE}), and huggingface.co cannot "
            "be reached: there is no network, or HF_HUB_OFFLINE is set"
        ) from error
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError) as error:
        raise ValueError(f"huggingface.co/{repository} does not exist or has no model.safetensors") from error
