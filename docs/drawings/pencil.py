"""The few strokes that the drawings are made of.

Each drawing is a Python script that returns one SVG as text, which `python -m tests.docs_fences --write` puts
beside it. A code host shows that file, on white. The built site sets it inline into the page, so that its colours
are the theme's own: every colour is a CSS variable of the theme, with a fallback for the file alone. The accents are
middle tones, legible on white and on black.
"""

from __future__ import annotations

from html import escape

BLUE, GREEN, AMBER, RED = "blue", "green", "amber", "red"

_STYLE = """
:root.drawing { background: #ffffff; }
.drawing { max-width: 100%; height: auto; }
.drawing { font-family: var(--font-stack, system-ui, "DejaVu Sans", sans-serif); }
.drawing text { fill: var(--color-foreground-primary, #1c1c22); font-size: 14px; }
.drawing .title { font-size: 16px; font-weight: 650; }
.drawing .soft { fill: var(--color-foreground-secondary, #5d6068); }
.drawing .small { font-size: 13px; }
.drawing .code { font-family: var(--font-stack--monospace, "DejaVu Sans Mono", monospace); }
.drawing .code { font-size: 12.5px; }
.drawing .strong { font-weight: 650; }
.drawing .start { text-anchor: start; }
.drawing .middle { text-anchor: middle; }
.drawing .end { text-anchor: end; }
.drawing .slab { fill: var(--color-background-secondary, #f6f7f9); }
.drawing .slab { stroke: var(--color-background-border, #d9dbe1); }
.drawing .card { fill: var(--color-background-primary, #ffffff); }
.drawing .card { stroke: var(--color-foreground-border, #9a9ca3); }
.drawing .paper { fill: var(--color-background-primary, #ffffff); stroke: none; }
.drawing .line { fill: none; stroke: var(--color-foreground-muted, #81868d); stroke-width: 1.5; }
.drawing .dash { stroke-dasharray: 3 5; }
.drawing .thick { stroke-width: 2.25; }
.drawing .blue { --hue: #3d84c6; } .drawing .green { --hue: #2f9e77; }
.drawing .amber { --hue: #cf8a1d; } .drawing .red { --hue: #d9534f; }
.drawing text.hue { fill: var(--hue); }
.drawing .wash { fill: var(--hue); fill-opacity: 0.16; stroke: var(--hue); stroke-width: 1.5; }
.drawing .fill { fill: var(--hue); stroke: none; }
.drawing path.hue { fill: none; stroke: var(--hue); }
"""


class Drawing:
    """A sheet to draw on, and a title and a description for those who cannot see it."""

    def __init__(self, name: str, left: int, width: int, height: int, *, title: str, description: str) -> None:
        self._name = name
        self._size = (left, width, height)
        self._said = (title, description)
        self._strokes: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, kind: str = "slab", *, round: float = 8) -> None:
        """A rectangle with rounded corners."""
        self._strokes.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{round:g}"/>'
        )

    def text(self, x: float, y: float, words: str, kind: str = "start") -> None:
        """One line of text; ``kind`` names its classes: where it hangs, and how it looks."""
        self._strokes.append(f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>')

    def chip(self, x: float, y: float, width: float, words: str, kind: str = "card", *, height: float = 28) -> None:
        """A small labelled box."""
        self.box(x, y, width, height, kind, round=height / 2)
        self.text(x + width / 2, y + height / 2 + 4.5, words, "middle code")

    def dot(self, x: float, y: float, radius: float, kind: str) -> None:
        """A filled or an empty circle."""
        self._strokes.append(f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>')

    def path(self, shape: str, kind: str = "line") -> None:
        """A line of any shape, without a head."""
        self._strokes.append(f'<path class="{kind}" d="{shape}"/>')

    def arrow(self, shape: str, hue: str) -> None:
        """A line of any shape, with a head where it ends."""
        head = f"{self._name}-head-{hue}"
        self._strokes.append(f'<path class="hue {hue} thick" d="{shape}" marker-end="url(#{head})"/>')

    def svg(self) -> str:
        """The finished drawing."""
        left, width, height = self._size
        title, description = self._said
        heads = "".join(
            f'<marker id="{self._name}-head-{hue}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="9" '
            f'markerHeight="9" markerUnits="userSpaceOnUse" orient="auto">'
            f'<path class="fill {hue}" d="M0 1 L9 5 L0 9 z"/></marker>'
            for hue in (BLUE, GREEN, AMBER, RED)
        )
        return "\n".join(
            [
                '<svg xmlns="http://www.w3.org/2000/svg" class="drawing" role="img" '
                f'viewBox="{left} 0 {width} {height}" width="{width}" '
                f'aria-labelledby="{self._name}-title {self._name}-description">',
                f'<title id="{self._name}-title">{escape(title)}</title>',
                f'<desc id="{self._name}-description">{escape(description)}</desc>',
                f"<style>{_STYLE}</style>",
                f"<defs>{heads}</defs>",
                *self._strokes,
                "</svg>",
                "",
            ]
        )
