"""Strict everywhere: eight CPU devices, no implicit promotion of types or ranks."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"  # halves the time of compilations

import chex
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    stored = ROOT / "tests" / "golden" / "fixtures"
    parser.addoption("--golden", type=Path, default=stored, help="folder of reference fixtures")
    parser.addoption("--full", action="store_true", help="check every net, block and setting, not one of each kind")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full"):
        full = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=full)
        items[:] = [item for item in items if not item.get_closest_marker("full")]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # so that no process waits for a long test at the end


def pytest_collection_finish() -> None:
    """Traces live long: with the default thresholds, looking through them for garbage takes a sixth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(autouse=True)
def _count_traces_anew() -> None:
    """chex counts traces by name: functions of two tests may share one."""
    chex.clear_trace_counter()


@pytest.fixture(autouse=True)
def _compile_quickly(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests of the library compile much and compute little; those of the application have XLA's full optimisation.

    Processes that tests start, and what is made for several tests, have it too.
    """
    optimized = request.node.get_closest_marker("optimized") or (ROOT / "tests" / "train") in request.path.parents
    jax.config.update("jax_disable_most_optimizations", not optimized)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
