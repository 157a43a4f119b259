"""`python -m attnjax [PATTERN] [--markdown]` prints the table of named nets."""

from __future__ import annotations

import argparse
import os
import sys

from attnjax._choice import nearest
from attnjax.models import ModelInfo, list_models, model_info

HEADER = ("name", "parameters", "GMACs", "pixels", "classes", "variant", "published error in %, top-1 / top-5")


def rows(pattern: str = "*") -> list[tuple[str, ...]]:
    """One row of text for each net whose name matches."""
    return [_row(model_info(name)) for name in list_models(pattern)]


def markdown(pattern: str = "*") -> str:
    """The table in Markdown. A figure in parentheses was not read at its source."""
    lines = [HEADER, ("---", "--:", "--:", "--:", "--:", "---", "---"), *rows(pattern)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _row(info: ModelInfo) -> tuple[str, ...]:
    results = []
    for result in info.results:
        error = f"{result.top1_error:.2f}" + (f" / {result.top5_error:.2f}" if result.top5_error is not None else "")
        dataset = "" if result.dataset == "ImageNet-1K" else f"{result.dataset} "
        results.append(dataset + (error if result.verified else f"({error})") + f", {result.source}")
    height, width = info.input_size
    size = (f"{info.parameters:,}", f"{info.macs / 1e9:.4f}", f"{height}x{width}", str(info.num_classes))
    return (info.name, *size, info.variant, "; ".join(results))


def main() -> int:
    """Prints the table; returns the exit code, 2 if no net matches."""
    parser = argparse.ArgumentParser(prog="python -m attnjax", description="Lists the named nets.")
    parser.add_argument("pattern", nargs="?", default="*", help="shell-style pattern of names, such as 'cbam_*'")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    arguments = parser.parse_args()
    if arguments.markdown:
        print(markdown(arguments.pattern), end="")
        return 0
    table = [HEADER, *rows(arguments.pattern)]
    if len(table) == 1:
        near = nearest(arguments.pattern, list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "python -m attnjax lists them all"
        print(f"no net is called {arguments.pattern!r}: {hint}", file=sys.stderr)
        return 2
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADER))]
    for row in table:
        cells = enumerate(zip(row, widths, strict=True))
        print("  ".join(cell.rjust(w) if 0 < i < 5 else cell.ljust(w) for i, (cell, w) in cells).rstrip())
    return 0


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)
