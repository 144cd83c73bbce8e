"""Small charts as SVG without styles of their own: the page's style sheet colours them, as its policy asks."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

_W, _H, _LEFT, _BOTTOM = 560, 170, 40, 22


def line(points: Sequence[tuple[int, float, str]]) -> Markup:
    """Shares 0..1 over numbers, each with a status; refused versions are marked.

    Examples
    --------
    >>> "polyline" in line([(1, 0.5, "retired"), (2, 0.7, "in service")])
    True
    """
    if not points:
        return Markup("")
    xs = [p[0] for p in points]
    low, span = min(xs), max(1, max(xs) - min(xs))

    def at(x: int, y: float) -> tuple[float, float]:
        return _LEFT + (x - low) / span * (_W - _LEFT - 14), 8 + (1 - y) * (_H - _BOTTOM - 8)

    parts = [f'<svg class="chart" viewBox="0 0 {_W} {_H}" role="img"><title>']
    parts.append(escape("; ".join(f"{x}: {100 * y:.1f} %" for x, y, _ in points)) + Markup("</title>"))
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = at(low, share)[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_W - 8}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f}</text>')
    good = [at(x, y) for x, y, status in points if status != "refused"]
    parts.append(f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in good)}"/>')
    for x, y, status in points:
        cx, cy = at(x, y)
        parts.append(f'<circle class="{status.replace(" ", "-")}" cx="{cx:.1f}" cy="{cy:.1f}" r="3.5"/>')
    for x in sorted({xs[0], xs[len(xs) // 2], xs[-1]}):
        parts.append(f'<text class="tick" x="{at(x, 0)[0]:.1f}" y="{_H - 6}" text-anchor="middle">{x}</text>')
    return Markup("".join(parts) + "</svg>")


def bars(counts: Sequence[tuple[str, int]]) -> Markup:
    """Numbers by name.

    Examples
    --------
    >>> bars([("a<b", 3)]).count("<rect"), "a&lt;b" in bars([("a<b", 3)])
    (1, True)
    """
    if not counts:
        return Markup("")
    most, height = max(1, *(n for _, n in counts)), 20
    parts = [f'<svg class="chart" viewBox="0 0 {_W} {height * len(counts) + 4}" role="img"><title>']
    parts.append(escape("; ".join(f"{name}: {n}" for name, n in counts)) + Markup("</title>"))
    for i, (name, n) in enumerate(counts):
        y, width = i * height + 2, n / most * (_W - 190)
        parts.append(f'<text class="tick" x="132" y="{y + 13}" text-anchor="end">{escape(name[:20])}</text>')
        parts.append(f'<rect class="bar" x="140" y="{y}" width="{width:.1f}" height="{height - 5}" rx="3"/>')
        parts.append(f'<text class="tick" x="{146 + width:.1f}" y="{y + 13}">{n}</text>')
    return Markup("".join(parts) + "</svg>")


def ages(steps: Sequence[int], now: int) -> list[tuple[str, int]]:
    """How many remembered samples came in each of up to eight equal spans of steps, oldest first.

    Examples
    --------
    >>> ages([1, 2, 9], now=10)
    [('1–2', 2), ('3–4', 0), ('5–6', 0), ('7–8', 0), ('9–10', 1)]
    """
    if not now:
        return []
    span = -(-now // 8)
    starts = range(1, now + 1, span)
    return [(f"{s}–{min(now, s + span - 1)}", sum(s <= max(1, step) < s + span for step in steps)) for s in starts]
