"""Charts as inline SVG: readable without scripts and in any colour scheme, as wide as the page lets them be.

What a mark stands for is in its <title> and, for the page's script, in `data-tip`. Colours are the page's classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 320, 216
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 10, 46  # around the plot
COLOURS = 9  # classes s0, s1, ... of the page


@dataclass(frozen=True)
class Point:
    """A score with its interval (NaN: none), what it says when touched, and where it leads."""

    x: float
    y: float
    low: float
    high: float
    says: str
    link: str
    hollow: bool = False
    line: int = 0  # which line it is a point of


@dataclass(frozen=True)
class Scale:
    """From data to the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, one, two or five of a power of ten apart."""
    if not high > low:
        return [low]
    # People read steps of one, two and five; any other step makes them calculate.
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def widened(values: Sequence[float]) -> tuple[float, float]:
    """A range with air around the finite values."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    air = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return low - air, high + air


def panel(points: Sequence[Point], x_label: str, y_label: str, words: Sequence[str] = ()) -> Markup:
    """Scores by the value of a setting with their intervals, joined where the values are numbers.

    words: the values' names, if they are not numbers (x is then 0, 1, ...).
    """
    low, high = widened([value for p in points for value in (p.y, p.low, p.high)])
    y = Scale(low, high, HEIGHT - BOTTOM, TOP)
    x_ticks: list[tuple[float, str]]
    if words:
        x = Scale(-0.5, len(words) - 0.5, LEFT, WIDTH - RIGHT)
        x_ticks = [*enumerate(words)]
    else:
        x = Scale(*widened([p.x for p in points]), LEFT, WIDTH - RIGHT)
        x_ticks = [(value, f"{value:g}") for value in ticks(x.low, x.high)]
        # Few values are named themselves: round numbers between them would be of no model.
        if len({p.x for p in points}) <= 6:
            x_ticks = [(value, f"{value:g}") for value in sorted({p.x for p in points})]
    parts = axes(x, y, x_ticks, x_label)
    if not words:
        for number in sorted({p.line for p in points}) or [0]:
            joined = [f"{x(p.x):.1f},{y(p.y):.1f}" for p in points if not p.hollow and p.line == number]
            style = f"curve s{number % COLOURS}"
            parts.append(Markup('<polyline class="{}" points="{}"/>').format(style, " ".join(joined)))
    for p in points:
        place = x(p.x)
        bar = []
        if math.isfinite(p.low + p.high):
            bar = [line("whisker", place, y(p.low), place, y(p.high))]
            bar += [line("whisker", place - 4, y(end), place + 4, y(end)) for end in (p.low, p.high)]
        kind = "mark hollow" if p.hollow else "mark"
        dot = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4.2"/>').format(kind, place, y(p.y))
        # A finger is wider than a dot: an unseen circle around it takes the touch.
        reach = Markup('<circle class="reach" cx="{:.1f}" cy="{:.1f}" r="13"/>').format(place, y(p.y))
        colour = Markup(' style="--mark: var(--s{})"').format(p.line % COLOURS) if p.line else ""
        parts.append(
            Markup('<a href="{}" data-tip="{}"{}><title>{}</title>{}{}{}</a>').format(
                p.link, p.says, colour, p.says, Markup("").join(bar), dot, reach
            )
        )
    return drawing(parts, f"{y_label} by {x_label}", WIDTH, HEIGHT)


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str, dashed: Sequence[str] = ()
) -> Markup:
    """Lines of many points, one colour each (class s0, s1, ... in the order given)."""
    width, height = 420, 270
    every = [point for points in series.values() for point in points]
    y = Scale(*widened([value for _, value in every]), height - BOTTOM, TOP)
    xs = [value for value, _ in every]
    x = Scale(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, LEFT + 14, width - RIGHT)
    parts = axes(x, y, [(v, engineering(v)) for v in ticks(x.low, x.high, 6)], x_label, width, height, 14)
    for number, (name, points) in enumerate(series.items()):
        joined = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        style = f"curve s{number % COLOURS}{' dashed' if name in dashed else ''}"
        parts.append(Markup('<polyline class="{}" points="{}"/>').format(style, joined))
        every_nth = max(1, len(points) // 25)
        for a, b in points[::every_nth]:
            says = f"{name}: {number_of(b)} at {engineering(a)}"
            parts.append(
                Markup(
                    '<circle class="reach" cx="{:.1f}" cy="{:.1f}" r="7" data-tip="{}"><title>{}</title></circle>'
                ).format(x(a), y(b), says, says)
            )
    return drawing(parts, f"{y_label} by {x_label}", width, height)


def interval(
    estimate: float,
    low: float,
    high: float,
    span: tuple[float, float],
    published: float = math.nan,
    ticked: bool = True,
) -> Markup:
    """An effect with its interval on a line with zero, over the range `span`, and the published effect if there is one.

    ticked: whether the line has numbers below it; of several with one range the last has.
    """
    width, middle = 300, 10
    height = 38 if ticked else 20
    x = Scale(*span, 8, width - 8)
    parts = [line("zero", x(0), 0, x(0), 22 if ticked else height)]
    if ticked:
        parts.append(line("axis", x(span[0]), 20, x(span[1]), 20))
        for value in ticks(*span, 5):
            anchor = Markup('<text class="tick" x="{:.1f}" y="34" text-anchor="middle">{}</text>')
            parts.append(anchor.format(x(value), f"{value:g}"))
    parts.append(line("whisker wide", x(low), middle, x(high), middle))
    parts.append(Markup('<circle class="mark" cx="{:.1f}" cy="{}" r="4.5"/>').format(x(estimate), middle))
    says = f"{estimate:+.2f} ({low:.2f} to {high:.2f})"
    if math.isfinite(published):
        place = x(published)
        diamond = f"{place:.1f},{middle - 6} {place + 6:.1f},{middle} {place:.1f},{middle + 6} {place - 6:.1f},{middle}"
        parts.append(Markup('<polygon class="published" points="{}"/>').format(diamond))
        says += f"; the paper: {published:+g}"
    return drawing(parts, says, width, height, "interval")


def axes(
    x: Scale,
    y: Scale,
    x_ticks: Sequence[tuple[float, str]],
    x_label: str,
    width: int = WIDTH,
    height: int = HEIGHT,
    more_left: int = 0,
) -> list[Markup]:
    """Horizontal grid lines, ticks and labels; the y axis is named by the panel's heading alone."""
    left = LEFT + more_left
    parts = []
    for value in ticks(y.low, y.high):
        parts.append(line("grid", left, y(value), width - RIGHT, y(value)))
        text = Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>')
        parts.append(text.format(left - 5, y(value) + 3.5, number_of(value)))
    for value, name in x_ticks:
        head, _, tail = name.partition(" ")
        for place, word in enumerate([head, tail] if tail else [head]):  # words in two lines: they stand close
            text = Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
            parts.append(text.format(x(value), height - BOTTOM + 14 + 11 * place, word))
    parts.append(line("axis", left, height - BOTTOM, width - RIGHT, height - BOTTOM))
    text = Markup('<text class="label" x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
    parts.append(text.format((left + width - RIGHT) / 2, height - 6, x_label))
    return parts


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def drawing(parts: Sequence[Markup], title: str, width: int, height: int, kind: str = "") -> Markup:
    head = Markup('<svg class="chart {}" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        kind, width, height, title
    )
    return head + Markup("").join(parts) + Markup("</svg>")


def number_of(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else engineering(value)


def engineering(value: float) -> str:
    """1000000 as "1M"."""
    for factor, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{sign}"
    return f"{value:.3g}"


def listed(names: Sequence[str]) -> Markup:
    """The legend of curves."""
    items = [Markup('<li><i class="s{}"></i>{}</li>').format(n % COLOURS, escape(name)) for n, name in enumerate(names)]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))
