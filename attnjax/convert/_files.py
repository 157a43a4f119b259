"""Weight files: read without executing their contents, written atomically."""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from attnjax.convert._mapping import widen

_TORCH = (".pth", ".pt", ".bin", ".pkl", ".tar")


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a state dict from a file.

    `.safetensors` needs the extra `convert`. `.pth`, `.pt`, `.bin`, `.pkl` and `.tar` need PyTorch 2.6 or newer, whose
    loader is restricted to plain tensors (`weights_only=True`): nothing in the file is executed. Of a training
    checkpoint, the weights under `state_dict` are read.

    Returns:
      Arrays by name. bfloat16 and float16 become float32, which holds them exactly.

    Raises:
      ValueError: the file is missing, damaged, of another format or holds more than weights, or PyTorch is too old.
      ImportError: the package that reads the format is not installed; the message names it.

    Example:
      >>> import tempfile, pathlib
      >>> import numpy as np
      >>> from attnjax.convert import read_weights, save_weights
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "weights.safetensors"
      >>> save_weights(path, {"params": {"fc": {"bias": np.zeros(3, np.float32)}}})
      >>> read_weights(path)["params/fc/bias"].shape
      (3,)
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in _TORCH:
        return _read_torch(path)
    raise ValueError(f"{path} must end in .safetensors, {', '.join(_TORCH[:-1])} or {_TORCH[-1]}")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    _need("safetensors", "convert")
    from safetensors.numpy import load_file

    try:
        entries = load_file(path)
    except Exception as error:  # its own error type, and those of a header with invalid JSON or unknown dtypes
        raise ValueError(f"{path} is damaged or is no safetensors file ({_one_line(error)})") from error
    return {name: widen(value) for name, value in entries.items()}


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise ImportError(
            f"{path} can only be read with PyTorch: pip install torch, or save the state dict as .safetensors"
        ) from error
    _need_safe_loader(torch.__version__, path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling, zip and value errors alike
        raise ValueError(
            f"{path} is damaged or holds more than weights, which could run code when read ({_one_line(error)})"
        ) from error
    for name in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if not isinstance(loaded, Mapping) or not loaded:
        raise ValueError(f"{path} holds no state dict but a {type(loaded).__name__}")
    odd = [name for name, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise ValueError(f"{path} holds no state dict: {', '.join(map(str, odd))} are no tensors")
    return {str(name): _from_tensor(value) for name, value in loaded.items()}


def _need_safe_loader(version: str, path: Path) -> None:
    """Before PyTorch 2.6, a file could execute code despite `weights_only=True` (CVE-2025-32434)."""
    found = re.match(r"(\d+)\.(\d+)", str(version))
    if found is None or (int(found[1]), int(found[2])) < (2, 6):
        raise ValueError(
            f"{path} needs torch 2.6 or newer, found {version}: before, reading a file could run code; "
            "or save the state dict as .safetensors"
        )


def _from_tensor(value: Any) -> np.ndarray:
    return (value.float() if value.is_floating_point() else value).contiguous().numpy()


def save_weights(path: str | os.PathLike[str], variables: Mapping[str, Any]) -> None:
    """Writes variables to a safetensors file or an Orbax checkpoint.

    A path that ends in `.safetensors` is written atomically as one file, named by our paths (`params/fc/kernel`), and
    replaces an existing file. Any other path becomes a new folder, an Orbax checkpoint.

    Args:
      path: where to write; its parent folder must exist.
      variables: collections of arrays.

    Raises:
      ValueError: the folder already exists, or its parent does not.
      ImportError: safetensors (extra `convert`) or Orbax (extra `train`) is not installed.

    Example:
      >>> import tempfile, pathlib
      >>> import numpy as np
      >>> from attnjax.convert import load_variables, save_weights
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "weights.safetensors"
      >>> save_weights(path, {"params": {"fc": {"bias": np.zeros(3, np.float32)}}})
      >>> load_variables(path)["params"]["fc"]["bias"].shape
      (3,)
    """
    path = Path(path).absolute()
    if not path.parent.is_dir():
        raise ValueError(f"folder {path.parent} does not exist")
    if path.suffix != ".safetensors":
        _save_orbax(path, variables)
        return
    _need("safetensors", "convert")
    from safetensors.numpy import save_file

    flat = {name: np.ascontiguousarray(leaf) for name, leaf in flatten_dict(dict(variables), sep="/").items()}
    with tempfile.TemporaryDirectory(".tmp", path.name, path.parent) as folder:
        temporary = Path(folder, path.name)
        temporary.touch()
        mode = temporary.stat().st_mode  # the usual mode of new files, which safetensors does not keep
        save_file(flat, temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
        os.replace(temporary, path)


def _save_orbax(path: Path, variables: Mapping[str, Any]) -> None:
    if path.exists():
        raise ValueError(f"{path} already exists: choose a new folder, or a name ending in .safetensors")
    _need("orbax.checkpoint", "train")
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, dict(variables))


def load_variables(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads variables written by `save_weights`.

    Raises:
      ValueError: the file or folder is missing, damaged or of another format.

    Example: see `save_weights`.
    """
    path = Path(path).absolute()
    if path.is_dir():
        _need("orbax.checkpoint", "train")
        import orbax.checkpoint as ocp

        try:
            with ocp.StandardCheckpointer() as checkpointer:
                return checkpointer.restore(path)
        except Exception as error:  # Orbax raises many kinds for a damaged checkpoint
            raise ValueError(f"{path} is damaged or is no Orbax checkpoint ({_one_line(error)})") from error
    entries = read_weights(path)
    foreign = [name for name in entries if name.partition("/")[0] not in ("params", "batch_stats")]
    if foreign:
        raise ValueError(f"{path} does not hold variables but {foreign[0]!r}, ...: use from_torch for a state dict")
    return unflatten_dict({name: jnp.asarray(value) for name, value in entries.items()}, sep="/")


def _need(package: str, extra: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"{package} is not installed: pip install 'attnjax[{extra}]'") from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"
