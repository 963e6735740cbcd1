"""Draw the way of one task through the folders, from push to settlement. Prints SVG."""

from __future__ import annotations

from pencil import AMBER, BLUE, GREEN, RED, Drawing

LEFT, WIDTH, STEP, HEIGHT = 40, 420, 92, 62
STEPS = (
    ("1", "push", "checks the argument, makes the task, encodes it", "durable/storage", BLUE),
    ("2", "exchange", "one transaction: settle, push, claim", "durable/exchange_loop", BLUE),
    ("3", "rows", "SQL in the thread that owns the connection", "sqlite/exchange", BLUE),
    ("4", "receive", "a free slot, ready layers; the row becomes a task", "_worker/intake", GREEN),
    ("5", "attempt", "a scope, a deadline, the default outcome Released", "_worker/slot", GREEN),
    ("6", "layers", "around the handler, the first one outermost", "layers/", GREEN),
    ("7", "handler", "parameters by annotation; a thread if it is sync", "_handlers/adapter", GREEN),
    ("8", "outcome", "errors judged, the same for every backend", "_tasks/outcome", AMBER),
    ("9", "settle", "shielded, bounded, fenced by the claim's token", "_worker/slot", AMBER),
)


def draw() -> str:
    """Return the drawing as SVG."""
    sheet = Drawing(
        "journey",
        0,
        860,
        70 + STEP * len(STEPS),
        title="The way of one task",
        description=(
            "Nine steps from top to bottom, each with the module that does it: push, exchange, rows, receive, attempt, "
            "layers, handler, outcome, settle. From settle an arrow goes back to exchange: a settlement is recorded by "
            "the exchange that also claims the next task. Beside it: a cancellation from outside ends the attempt as "
            "Released; a lost lease revokes it; a retry waits among the rows."
        ),
    )
    for number, step in enumerate(STEPS):
        _step(sheet, 40 + STEP * number, *step, is_last=number == len(STEPS) - 1)
    _way_back(sheet)
    _beside(sheet)
    return sheet.svg()


def _step(sheet: Drawing, y: int, number: str, name: str, words: str, module: str, hue: str, *, is_last: bool) -> None:
    sheet.box(LEFT, y, WIDTH, HEIGHT, f"wash {hue}")
    sheet.text(LEFT + 16, y + 26, number, "start title soft")
    sheet.text(LEFT + 40, y + 26, name, "start title")
    sheet.text(LEFT + WIDTH - 14, y + 26, module, "end code soft")
    sheet.text(LEFT + 40, y + 48, words, "start small")
    if not is_last:
        sheet.arrow(f"M{LEFT + WIDTH / 2} {y + HEIGHT} V{y + STEP - 3}", hue)


def _way_back(sheet: Drawing) -> None:
    bottom, top = 40 + STEP * 8 + HEIGHT / 2, 40 + STEP + HEIGHT / 2
    right = LEFT + WIDTH
    sheet.arrow(f"M{right} {bottom} H{right + 50} V{top} H{right + 4}", AMBER)
    sheet.text(right + 62, 40 + STEP * 1 + 20, "the outcome goes with the next", "start small")
    sheet.text(right + 62, 40 + STEP * 1 + 38, "exchange, which also claims the", "start small")
    sheet.text(right + 62, 40 + STEP * 1 + 56, "task that comes after it", "start small")


def _beside(sheet: Drawing) -> None:
    x = LEFT + WIDTH + 62
    for row, hue, lines in (
        (
            4,
            RED,
            ("a cancellation from outside ends the", "attempt: Released, not counted;", "a lost lease ends it, too"),
        ),
        (
            7,
            AMBER,
            ("Retried and Suspended wait among", "the rows, and hold no slot;", "Failed and Killed stay readable"),
        ),
    ):
        y = 40 + STEP * row
        sheet.box(x - 4, y - 4, 300, HEIGHT + 12, f"wash {hue}")
        for number, words in enumerate(lines):
            sheet.text(x + 10, y + 18 + 20 * number, words, "start small")
