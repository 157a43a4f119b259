"""Converts a file of PyTorch weights: `python -m attnjax.convert WEIGHTS --model NAME --out PATH`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

import jax

from attnjax.convert._files import read_weights, save_weights
from attnjax.convert._sources import SOURCES
from attnjax.convert._torch import build_model, from_torch


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit code, 2 for user errors."""
    options = _parser().parse_args(arguments)
    try:
        # Check the arguments before reading the file, which takes longer
        if os.path.lexists(options.out):
            raise ValueError(f"--out {options.out} already exists")
        build_model(options.model, options.num_classes, None)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            variables = from_torch(
                options.model,
                read_weights(options.weights),
                options.source,
                num_classes=options.num_classes,
                allow_missing=options.allow_missing,
                gates=options.gates,
                key=jax.random.key(options.seed),
            )
        save_weights(options.out, variables)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for warning in caught:
        print(f"note: {warning.message}", file=sys.stderr)
    leaves = jax.tree.leaves(variables)
    print(f"wrote {options.out}: {options.model}, {len(leaves)} arrays, {sum(leaf.size for leaf in leaves):,} numbers")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m attnjax.convert", description=__doc__, allow_abbrev=False)
    parser.add_argument("weights", help=".safetensors, or .pth and the like if PyTorch is installed")
    parser.add_argument("--model", required=True, help="a named net, see python -m attnjax")
    parser.add_argument("--out", required=True, help="a new .safetensors file, or a new folder for an Orbax checkpoint")
    parser.add_argument("--source", choices=SOURCES, help="naming scheme of the file; detected by default")
    parser.add_argument(
        "--num-classes", type=int, help="classes of the net; if the file has another number, its classifier is dropped"
    )
    parser.add_argument(
        "--allow-missing", choices=["attention"], help="load the weights of a plain net into one with attention"
    )
    parser.add_argument("--gates", choices=["fresh", "identity"], default="fresh", help="how missing attention starts")
    parser.add_argument("--seed", type=int, default=0, help="seed of variables that are not in the file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
