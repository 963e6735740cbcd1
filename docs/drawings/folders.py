"""Draw the folders of the package by level, and what flows between the levels. Prints SVG."""

from __future__ import annotations

from pencil import AMBER, BLUE, GREEN, RED, Drawing

LEFT, WIDTH = 172, 600
RIGHT = LEFT + WIDTH


def draw() -> str:
    """Return the drawing as SVG."""
    sheet = Drawing(
        "folders",
        24,
        912,
        748,
        title="The folders of trio_tasks",
        description=(
            "Six levels of folders under the public names. Level 0: base modules. Level 1: tasks and codecs. "
            "Level 2: contracts. Level 3: backends, handlers and layers. Level 4: the worker. Level 5: the "
            "monitor. Imports only point down. A task is pushed into the storage, received by a slot of the "
            "worker, attempted through the layers and the handler, and its outcome is settled back into the "
            "storage. Cancellation goes down, events and errors go up."
        ),
    )
    _public_names(sheet)
    _monitor(sheet)
    _worker(sheet)
    _parts(sheet)
    _lower_levels(sheet)
    _flows(sheet)
    return sheet.svg()


def _level(sheet: Drawing, number: int, y: int, height: int, title: str, words: str) -> None:
    sheet.box(LEFT, y, WIDTH, height)
    sheet.text(LEFT + 16, y + 26, f"{number}", "start title soft")
    sheet.text(LEFT + 38, y + 26, title, "start title")
    sheet.text(RIGHT - 16, y + 26, words, "end small soft")


def _public_names(sheet: Drawing) -> None:
    middle = LEFT + WIDTH / 2
    sheet.path(f"M{LEFT - 22} 106 L{middle} 14 L{RIGHT + 22} 106 z", "slab")
    sheet.text(middle, 62, "public names", "middle title")
    sheet.text(middle, 82, "trio_tasks · .abc · .layers · .testing", "middle code")
    sheet.text(middle, 99, "imports alone, no logic", "middle small soft")


def _monitor(sheet: Drawing) -> None:
    _level(sheet, 5, 114, 76, "_monitor", "a root nursery of workers")
    for x, width, words in (
        (262, 90, "restarts"),
        (362, 100, "shutdown"),
        (472, 110, "terminator"),
        (592, 90, "report"),
    ):
        sheet.chip(x, 150, width, words)


def _worker(sheet: Drawing) -> None:
    _level(sheet, 4, 198, 150, "_worker", "a nursery of slots")
    for number in range(8):
        sheet.dot(296 + 15 * number, 219, 5, "fill green" if number < 3 else "card")
    sheet.chip(244, 290, 92, "settle", "wash green")
    sheet.chip(374, 290, 92, "receive", "wash green")
    sheet.chip(558, 290, 100, "attempt", "wash green")
    sheet.arrow("M336 304 L372 304", GREEN)
    sheet.text(355, 336, "and again", "middle small soft")
    sheet.arrow("M466 304 L556 304", GREEN)
    sheet.text(511, 296, "at once", "middle small soft")
    sheet.arrow("M608 290 C608 248, 572 246, 540 246 L350 246 C310 246, 290 254, 290 288", GREEN)
    sheet.text(448, 266, "outcome", "middle small hue green strong")


def _parts(sheet: Drawing) -> None:
    _level(sheet, 3, 356, 180, "_backends, _handlers, layers", "")
    sheet.box(204, 402, 260, 54, "wash green")
    sheet.text(334, 424, "MemoryStorage", "middle code strong")
    sheet.text(334, 444, "any backend, any receive channel", "middle small soft")
    sheet.arrow("M290 318 L290 400", GREEN)
    sheet.arrow("M420 402 L420 320", GREEN)
    sheet.box(500, 402, 250, 54, "card")
    sheet.text(520, 434, "layers", "start code")
    sheet.path("M578 410 L578 448", "line dash")
    sheet.text(600, 425, "handler", "start code strong")
    sheet.text(600, 444, "your function", "start small soft")
    sheet.arrow("M590 318 L590 400", GREEN)
    sheet.arrow("M628 402 L628 320", GREEN)
    sheet.text(638, 382, "result or error", "start small hue green strong")
    for x, width, words in (
        (204, 62, "Pipe"),
        (274, 122, "CustomBackend"),
        (404, 140, "poll strategies"),
        (552, 82, "adapter"),
        (642, 108, "storages …"),
    ):
        sheet.chip(x, 472, width, words)
    sheet.text(LEFT + WIDTH / 2, 522, "none of these folders imports another", "middle small soft")


def _lower_levels(sheet: Drawing) -> None:
    _level(sheet, 2, 544, 58, "_contracts", "interfaces, context, events")
    sheet.text(LEFT + 38, 588, "Backend · TaskSink · … · events · WorkerContext · Report", "start code")
    _level(sheet, 1, 610, 58, "_tasks, _codecs", "without trio")
    sheet.text(LEFT + 38, 654, "Task · Parts · TaskId · Outcome · errors · retry · codecs", "start code")
    _level(sheet, 0, 676, 58, "base modules", "imports nothing of ours")
    sheet.text(LEFT + 38, 720, "argument checks · clocks · logger · _concurrency", "start code")


def _flows(sheet: Drawing) -> None:
    sheet.arrow("M36 130 L36 728", AMBER)
    sheet.text(48, 622, "imports", "start small hue amber strong")
    sheet.text(48, 639, "point down,", "start small soft")
    sheet.text(48, 656, "never sideways,", "start small soft")
    sheet.text(48, 673, "never up", "start small soft")
    sheet.text(64, 410, "push", "start title hue green")
    sheet.arrow("M64 428 L202 428", GREEN)
    sheet.text(64, 447, "your program", "start small soft")
    sheet.arrow("M800 120 L800 482", RED)
    sheet.text(812, 204, "cancellation", "start small hue red strong")
    sheet.text(812, 221, "goes down, by", "start small soft")
    sheet.text(812, 238, "one cancel scope", "start small soft")
    sheet.arrow("M800 728 L800 542", BLUE)
    sheet.text(812, 622, "events, errors", "start small hue blue strong")
    sheet.text(812, 639, "go up, as they", "start small soft")
    sheet.text(812, 656, "would out of", "start small soft")
    sheet.text(812, 673, "a nursery", "start small soft")


if __name__ == "__main__":
    print(draw(), end="")
