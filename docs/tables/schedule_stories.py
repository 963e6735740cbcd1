"""The table of what happens to a stored schedule, made from the cases that the tests play."""

from __future__ import annotations

from itertools import groupby

from tests.schedules._stories import STORIES, TEN, Story, times_of


def _settings(story: Story) -> str:
    """The settings for which the case is one of its own."""
    shown = {name: value for name, value in story.settings.items() if name != "hours"}
    if shown.get("missed") == "all" or story.title != "overlap":
        shown.pop("overlap", None)
    return ", ".join(f"`{name}={value!r}`".replace("'", '"') for name, value in shown.items())


def table() -> str:
    """The table, in Markdown; the schedule is the same in all cases."""
    assert times_of(STORIES[0], "start") is TEN
    rows = [["Case", "What happens", "Settings", "Fired"], ["---"] * 4]
    for title, stories in groupby(STORIES, key=lambda story: story.title):
        head = title[0].upper() + title[1:]
        for story in stories:
            fired = story.fired.replace(" (", "_(").replace("at ", "at_").split()
            told = story.told + (": it is orphaned" if story.orphaned else "")
            rows.append([head, told, _settings(story), ", ".join(each.replace("_", " ") for each in fired)])
            head = ""
    return "\n".join(" ".join(f"| {' | '.join(row)} |".split()) for row in rows)
