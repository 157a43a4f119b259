"""timm's nets by name: the table of architectures, and the hub's cache without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import attnjax
from attnjax.convert import to_torch
from attnjax.convert._timm import architecture
from tests.kinds import one_of_each_kind, without_numbers

SIZES = {  # timm 1.0.31
    "resnet18": 11_689_512,
    "resnet50d": 25_576_264,
    "resnet14t": 10_081_632,
    "resnet50s": 25_680_808,
    "wide_resnet50_2": 68_883_240,
    "resnext50d_32x4d": 25_048_136,
    "seresnet18": 11_779_624,
    "seresnet50": 28_088_024,
    "seresnext26d_32x4d": 16_809_512,
    "ecaresnet26t": 16_011_916,
    "ecaresnetlight": 30_162_046,
    "skresnet18": 11_958_056,
    "skresnext50_32x4d": 27_479_784,
    "legacy_seresnet18": 11_778_592,
    "legacy_senet154": 115_088_984,
    "senet154": 115_088_984,
    "gcresnet50t": 25_897_080,
    "gcresnext26ts": 10_476_600,
    "eca_resnext26ts": 10_297_988,
}


@pytest.mark.parametrize("name", one_of_each_kind(SIZES, without_numbers, SIZES.__getitem__))
def test_an_architecture_has_timms_number_of_parameters(name: str) -> None:
    constructor, _ = architecture(name)
    assert attnjax.count_parameters(constructor(num_classes=1000), (1, 64, 64, 3)) == SIZES[name]


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_224",
        "resnet51",
        "resnet50x",
        "resnet154",
        "resnet50_32x4d",
        "resnext50",
        "resnext18_32x4d",
        "resnext50ts",
        "wide_resnet50_2_32x4d",
        "skresnet154",
        "skresnext50",
        "legacy_seresnet154",
        "legacy_seresnet269",
        "legacy_seresnet50t",
        "gcresnet33ts",
        "",
    ],
)
def test_another_architecture_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a net of attnjax: known are resnet"):
        architecture(name)


def test_senet154_is_the_form_that_its_name_has() -> None:
    (gluon, names), (official, legacy_names) = architecture("senet154"), architecture("legacy_senet154")
    assert (gluon().stem_pool, names) == ("padded", "timm")
    assert (official().stem_pool, legacy_names) == ("ceil", "cadene")


def put_into_cache(cache: Path, repository: str, state_dict: dict[str, np.ndarray]) -> None:
    """A repository as the hub's cache holds it."""
    safetensors = pytest.importorskip("safetensors.numpy")
    folder, commit = cache / f"models--{repository.replace('/', '--')}", "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    safetensors.save_file(state_dict, folder / "snapshots" / commit / "model.safetensors")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def cached(tmp_path: Path, offline: None) -> tuple[Path, Any]:
    constructor, source = architecture("seresnet18")
    model = constructor(num_classes=1000)
    variables = attnjax.init(model, jax.random.key(0), (1, 64, 64, 3))
    put_into_cache(tmp_path, "timm/seresnet18.test_in1k", to_torch(model, variables, source))
    return tmp_path, variables


def test_weights_come_from_the_cache_without_a_network(cached: tuple[Path, Any]) -> None:
    cache, variables = cached
    model, read = attnjax.load_pretrained("seresnet18.test_in1k", cache_dir=str(cache))
    assert model.num_classes == 1000
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, read))


def test_a_new_classifier_starts_fresh(cached: tuple[Path, Any]) -> None:
    cache, _ = cached
    with pytest.warns(
        UserWarning, match="classifier of 1000 classes in the file is not loaded: that of the net, of 5, is newly"
    ):
        model, read = attnjax.load_pretrained("seresnet18.test_in1k", num_classes=5, cache_dir=str(cache))
    assert model.num_classes == 5
    assert read["params"]["fc"]["kernel"].shape == (512, 5)


def test_without_cache_and_network_it_says_so(tmp_path: Path, offline: None) -> None:
    message = r"timm/resnet18\.a1_in1k is not in the cache .* no network, or HF_HUB_OFFLINE is set"
    with pytest.raises(ConnectionError, match=message):
        attnjax.load_pretrained("resnet18.a1_in1k", cache_dir=str(tmp_path))


def test_unknown_names_are_refused_before_the_hub_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no tag"):
        attnjax.load_pretrained("seresnet50")
    with pytest.raises(ValueError, match="'vit_base' is not a net of attnjax"):
        attnjax.load_pretrained("vit_base.x")
