"""Draw the timeline of a graceful shutdown. Prints SVG."""

from __future__ import annotations

from pencil import AMBER, BLUE, GREEN, RED, Drawing

NAMES = 150  # where the names of the rows end
BEGIN, STOP, FIRE, DONE, END = 170, 330, 620, 774, 900
TOP, ROW = 128, 52


def draw() -> str:
    """Return the drawing as SVG."""
    sheet = Drawing(
        "shutdown",
        34,
        888,
        560,
        title="The timeline of a graceful shutdown",
        description=(
            "Time runs to the right. When the shutdown begins, (a) intake stops at once; the idle slot "
            "leaves. (b) Running attempts go on, and so do the heartbeats that keep their leases: two "
            "attempts succeed. (c) The terminator fires: the one attempt that is left is cancelled, cleans "
            "up within a bounded shield, and its task is released back to the storage, where somebody else "
            "may take it. (d) run() returns a report: two drained, one interrupted, and where it was stuck."
        ),
    )
    _phases(sheet)
    _moments(sheet)
    _rows(sheet)
    _report(sheet)
    return sheet.svg()


def _phases(sheet: Drawing) -> None:
    sheet.text((BEGIN + STOP) / 2, 66, "running", "middle soft")
    for left, right, hue, letter, words in (
        (STOP, FIRE, BLUE, "b", "running attempts go on"),
        (FIRE, DONE, RED, "c", "cancel, release"),
    ):
        sheet.box(left + 3, 46, right - left - 6, 32, f"wash {hue}", round=6)
        sheet.text((left + right) / 2, 66, f"{letter} · {words}", "middle small strong")


def _moments(sheet: Drawing) -> None:
    for x, hue, above in (
        (STOP, AMBER, "a · intake stops at once"),
        (FIRE, RED, "the terminator fires"),
        (DONE, GREEN, "d · run() returns"),
    ):
        sheet.path(f"M{x} 40 L{x} {TOP + 6 * ROW + 8}", f"hue {hue} dash thick")
        sheet.text(x, 28, above, f"middle small hue {hue} strong")


def _name(sheet: Drawing, row: int, name: str, words: str) -> float:
    middle = TOP + ROW * row
    sheet.text(NAMES, middle, name, "end strong")
    sheet.text(NAMES, middle + 17, words, "end small soft")
    sheet.path(f"M{BEGIN} {middle} L{END} {middle}", "line dash")
    return middle


def _attempt(sheet: Drawing, y: float, left: float, right: float, words: str, hue: str = BLUE) -> None:
    _bar(sheet, y, left, right, f"wash {hue}")
    sheet.text(left + 10, y + 4.5, words, "start small")


def _bar(sheet: Drawing, y: float, left: float, right: float, kind: str) -> None:
    sheet.box(left, y - 14, right - left, 28, "paper", round=6)
    sheet.box(left, y - 14, right - left, 28, kind, round=6)


def _mark(sheet: Drawing, x: float, y: float, hue: str, words: str) -> None:
    sheet.dot(x, y, 6, f"fill {hue}")
    sheet.text(x + 12, y - 8, words, f"start small hue {hue} strong")


def _rows(sheet: Drawing) -> None:
    y = _name(sheet, 0, "intake", "receive")
    _bar(sheet, y, BEGIN, STOP, f"wash {AMBER}")
    sheet.text(BEGIN + 10, y + 4.5, "taking tasks", "start small")

    y = _name(sheet, 1, "slot 1", "short work")
    _attempt(sheet, y, BEGIN + 8, BEGIN + 78, "task 1")
    _attempt(sheet, y, BEGIN + 88, STOP + 84, "task 4")
    _mark(sheet, STOP + 84, y, GREEN, "Succeeded")

    y = _name(sheet, 2, "slot 2", "longer work")
    _attempt(sheet, y, BEGIN + 30, FIRE - 96, "task 2")
    _mark(sheet, FIRE - 96, y, GREEN, "Succeeded")

    y = _name(sheet, 3, "slot 3", "stuck")
    _attempt(sheet, y, BEGIN + 52, FIRE, "task 3")
    _attempt(sheet, y, FIRE, DONE - 30, "cleans up", RED)
    sheet.text(FIRE + 6, y + 29, "in a bounded shield", "start small soft")
    _mark(sheet, DONE - 30, y, AMBER, "")
    sheet.text(DONE + 12, y - 8, "Released", f"start small hue {AMBER} strong")
    sheet.text(DONE + 12, y + 18, "costs no attempt", "start small soft")

    y = _name(sheet, 4, "slot 4", "idle")
    _bar(sheet, y, BEGIN, STOP, "card")
    sheet.text(BEGIN + 10, y + 4.5, "waiting", "start small soft")
    sheet.text(STOP + 12, y - 8, "leaves: it holds no task", "start small soft")

    y = _name(sheet, 5, "heartbeat", "keeps the leases")
    sheet.path(f"M{BEGIN} {y} L{DONE - 30} {y}", f"hue {BLUE} thick")
    for beat in range(BEGIN + 10, DONE - 46, 40):
        sheet.path(f"M{beat} {y} l4 -12 l6 22 l4 -10", f"hue {BLUE} thick")

    sheet.path(f"M{BEGIN} {TOP + 6 * ROW} L{END} {TOP + 6 * ROW}", "line")
    sheet.path(f"M{END - 8} {TOP + 6 * ROW - 4} l8 4 l-8 4", "line")
    sheet.text(END, TOP + 6 * ROW + 18, "time", "end small soft")


def _report(sheet: Drawing) -> None:
    top = TOP + 6 * ROW + 34
    sheet.box(BEGIN, top, END - BEGIN, 72, "slab")
    sheet.text(BEGIN + 18, top + 28, "the report", "start title")
    sheet.text(BEGIN + 130, top + 28, "drained: task 4, task 2", "start small")
    sheet.text(BEGIN + 130, top + 50, "interrupted: task 3, and the line at which it was stuck", "start small")
    sheet.text(END - 18, top + 28, "restarts, errors", "end small")


if __name__ == "__main__":
    print(draw(), end="")
