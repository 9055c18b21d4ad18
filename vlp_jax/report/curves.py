"""Numbers that follow another (guidance, a threshold): a small plot for each.

The file exists because figures of one sweep have scales of their own, and their turning points are
what is looked for.
"""

from collections.abc import Mapping, Sequence

from vlp_jax.report.canvas import BLUE, literal_text, new_figure, plain_axes, printable, save

_WIDE = 3  # plots in a row


@literal_text
def curve_sheet(
    x: Sequence[float], lines: Mapping[str, Sequence[float]], axis: str, out: str, title: str
) -> str:
    """Draws every line over x, under its name and with its numbers. Returns the path of the PNG."""
    columns = min(_WIDE, len(lines))
    rows = -(-len(lines) // columns)
    figure = new_figure(3.4 * columns, 0.5 + 2.5 * rows)
    figure.suptitle(printable(title), x=0.02, ha="left", fontweight="bold")
    plots = figure.subplots(rows, columns, squeeze=False).ravel()
    for plot, (name, values) in zip(plots, lines.items(), strict=False):
        plot.plot(x, values, color=BLUE, marker="o", markersize=4)
        for place in zip(x, values, strict=True):
            label = f"{place[1]:.3g}"
            plot.annotate(label, place, (0, 5), textcoords="offset points", ha="center", fontsize=8)
        plot.set_title(printable(name, 40), loc="left", fontsize=9)
        plot.set_xlabel(axis)
        plot.margins(x=0.12, y=0.2)
        plain_axes(plot)
    for plot in plots[len(lines) :]:
        plot.set_axis_off()
    figure.tight_layout()
    return save(figure, out)
