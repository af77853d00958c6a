"""The ratios to Redis against the figures to reach, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Reach, Row


def draw(rows: Sequence[Row], path: Path) -> str:
    """Draw a PNG; give a sentence that says what came of it.

    :param rows: those with a ratio to reach are drawn.
    """
    drawn = [(row, row.ratio, row.target) for row in rows]
    bars = [
        (row.title, ratio, target.value)
        for row, ratio, target in drawn
        if ratio is not None and target is not None and target.reach is Reach.RATIO
    ]
    if not bars:
        return "no plot: there are no ratios to draw"
    try:
        import matplotlib
    except ImportError:
        return "no plot: matplotlib is not installed"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars.reverse()
    places = range(len(bars))
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.4 * len(bars)))
    colours = ["#2a7f62" if ratio >= wanted else "#c0392b" for _, ratio, wanted in bars]
    axes.barh(places, [ratio for _, ratio, _ in bars], color=colours, height=0.6)
    for place, (_, ratio, wanted) in zip(places, bars, strict=True):
        axes.plot([wanted, wanted], [place - 0.4, place + 0.4], color="black", linewidth=2)
        axes.text(max(ratio, wanted) + 0.01, place, f"{ratio:.2f}", va="center", fontsize=9)
    axes.set_yticks(places, [title for title, _, _ in bars])
    axes.set_xlim(0, 1.12 * max(max(ratio, wanted) for _, ratio, wanted in bars))
    axes.set_xlabel("ratio to Redis in the same run (line: the figure to reach)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return f"plot written to {path}"
