"""What stands on the screen of `llmsup top`, line by line. Pure: a sight and a size in, lines out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from unicodedata import combining, east_asian_width

from supervisor.cli.sight import Sight
from supervisor.cli.status import span
from supervisor.cli.tables import clean
from supervisor.printable import one_line
from supervisor.types import GIB, MIB

LEAST_COLUMNS, LEAST_LINES = 80, 24
HEAD_LINES, FOOT_LINES = 3, 1
BAR = 10
KEYS = "q quit   p pause   j k move   c cancel the marked request"
_COLOURS = {"READY": "green", "FAILED": "red", "CRASHLOOP": "red", "UNKILLABLE": "red", "STOPPED": None}
_KINDS = {"death": "red", "config_error": "red", "rate_limit": "yellow", "client_banned": "red"}


@dataclass(frozen=True, slots=True)
class Line:
    """``key`` names a row over refreshes: ``("request", ID)``; None: it cannot be marked."""

    text: str
    colour: str | None = None
    bold: bool = False
    marked: bool = False
    key: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    rows: Sequence[Line]
    empty: str


@dataclass(slots=True)
class View:
    """What the user has chosen: the marked row, whether all stands still, and what is asked or said in the last line."""

    marked: tuple[str, str] | None = None
    paused: bool = False
    said: str = ""
    keys: list[tuple[str, str]] = field(default_factory=list)  # of the rows of the newest frame, in order

    def move(self, steps: int) -> None:
        """The mark, up or down; it begins at the top."""
        if not self.keys:
            return
        at = self.keys.index(self.marked) + steps if self.marked in self.keys else 0
        self.marked = self.keys[max(0, min(at, len(self.keys) - 1))]

    def request(self) -> str | None:
        """The marked request's id."""
        return (
            self.marked[1]
            if self.marked in self.keys and self.marked and self.marked[0] == "request"
            else None
        )


def frame(sight: Sight, view: View, columns: int, lines: int) -> list[Line]:
    """Exactly so many lines, none of them wider."""
    if columns < LEAST_COLUMNS or lines < LEAST_LINES:
        view.keys = []
        return _too_small(columns, lines)
    sections = _sections(sight, columns)
    view.keys = [row.key for section in sections for row in section.rows if row.key is not None]
    if view.marked not in view.keys:
        view.marked = None
    room = lines - HEAD_LINES - FOOT_LINES
    shown = [*_head(sight, columns)]
    for section, height in zip(sections, _heights([len(one.rows) for one in sections], room), strict=True):
        shown += _windowed(section, height, view.marked, columns)
    shown = shown[: lines - FOOT_LINES]
    shown += [Line("")] * (lines - FOOT_LINES - len(shown))
    shown.append(Line(view.said or (f"PAUSED   {KEYS}" if view.paused else KEYS), bold=True))
    return [_fitted(line, columns) for line in shown]


def all_of(sight: Sight, columns: int) -> list[Line]:
    """Everything, for a pipe."""
    shown = [*_head(sight, columns)]
    for section in _sections(sight, columns):
        shown += _windowed(section, max(2, len(section.rows) + 1), None, columns)
    return shown


def _too_small(columns: int, lines: int) -> list[Line]:
    words = [
        f"The terminal has {columns} x {lines}.",
        f"llmsup top needs {LEAST_COLUMNS} x {LEAST_LINES}:",
        "make it larger,",
        "or q, and: llmsup status",
    ]
    shown = [Line(cut(text, columns)) for text in words][:lines]
    return shown + [Line("")] * (lines - len(shown))


def _heights(needs: Sequence[int], room: int) -> list[int]:
    """Lines for each section, its title included: what it needs while there is room, else an equal share of it."""
    wanted = [max(need, 1) + 1 for need in needs]
    given = [0] * len(wanted)
    left, open_ = room, set(range(len(wanted)))
    while open_:
        share = left // len(open_)
        modest = {at for at in open_ if wanted[at] <= share}
        if not modest:
            for at in sorted(open_):
                given[at] = share
            given[max(open_)] += left - share * len(open_)
            break
        for at in modest:
            given[at] = wanted[at]
            left -= wanted[at]
        open_ -= modest
    return given


def _windowed(section: Section, height: int, marked: tuple[str, str] | None, columns: int) -> list[Line]:
    """The title and as many rows as there is room for, the marked one among them."""
    count, room = len(section.rows), max(0, height - 1)
    if not count:
        return [Line(section.title, bold=True), Line(f"  {section.empty}")][:height]
    at = next((n for n, row in enumerate(section.rows) if row.key == marked and marked is not None), 0)
    first = max(0, min(at - room // 2, count - room))
    shown = section.rows[first : first + room]
    title = section.title
    if len(shown) < count:
        part = f" ({first + 1}-{first + len(shown)} of {count})"
        title = _padded(title, columns - len(part)) + part
    return [
        Line(title, bold=True),
        *(_marked(row, row.key == marked and marked is not None) for row in shown),
    ]


def _marked(row: Line, marked: bool) -> Line:
    return Line(f"{'>' if marked else ' '} {row.text}", row.colour, row.bold, marked, row.key)


# ---- the parts


def _sections(sight: Sight, columns: int) -> tuple[Section, ...]:
    spare = max(0, columns - LEAST_COLUMNS)
    return _models(sight, spare), _requests(sight, spare), _clients(sight, spare), _events(sight)


def _head(sight: Sight, columns: int) -> Iterable[Line]:
    status, requests, memory = sight.status, sight.status["requests"], sight.status["memory"]
    stopping = "  STOPPING" if status["stopping"] else ""
    left = f"llmsup {status['version']}  {status['url']}  up {span(status['uptime_s'])}{stopping}"
    yield Line(f"{_cell(left, columns - 10)}  {sight.at:%H:%M:%S}", bold=True)
    known = [rate for rate in sight.rates.values() if rate is not None]
    speed = f"   {sum(known):.1f} tokens/s" if known else ""
    yield Line(
        f"requests: {requests['in_flight']} in flight, queue: {requests['queued']}, {requests['total']} in all, "
        f"{requests['failed']} failed{speed}"
    )
    if trouble := sight.trouble or _refused(status):
        yield Line(trouble, colour="red")
        return
    used, limit = memory["children_rss_bytes"], memory["limit_bytes"]
    yield Line(
        f"memory: {bar(used, limit)} {_amount(used)} of {_amount(limit)}, llmsup {_amount(memory['daemon_rss_bytes'])}",
        colour="red" if memory["warning"] else None,
    )


def _refused(status: Mapping[str, Any]) -> str:
    """The configuration's trouble, in its first line."""
    refused = status.get("config_error")
    return f"configuration refused: {str(refused['message']).splitlines()[0]}" if refused else ""


def _models(sight: Sight, spare: int) -> Section:
    """``spare``: columns beyond the least."""
    rows: list[Line] = []
    limit, name_width = sight.status["memory"]["limit_bytes"], 12 + min(26, spare)
    for one in sight.status["models"]:
        rate, alive = sight.rates.get(one["name"]), one["pid"] is not None
        slots = f"{one['slots']['busy']}/{one['slots']['total']}"
        rows.append(
            Line(
                f"{_cell(one['name'], name_width)} {one['state']:<10} {span(one['uptime_s']) if alive else '-':>10} "
                f"{_amount(one['rss_bytes']):>8} {bar(one['rss_bytes'], limit, 6)} {slots:>6} "
                f"{'-' if rate is None else f'{rate:.1f}':>6} {one['restarts']:>8}",
                _COLOURS.get(one["state"], "yellow"),
                key=("model", one["name"]),
            )
        )
        rows += [Line(f"  {clean(note)}", "yellow") for note in _notes(one)]
    heads = f"{'STATE':<10} {'UP':>10} {'MEMORY':>8} {'OF LIMIT':<8} {'SLOTS':>6} {'TOK/S':>6} RESTARTS"
    return Section(f"  {'MODEL':<{name_width}} {heads}", rows, "none")


def _notes(one: Mapping[str, Any]) -> Iterable[str]:
    if one["next_try_s"] is not None:
        yield f"next try in {span(one['next_try_s'])}"
    if one.get("suspect"):
        yield f"suspected to hang: {one['suspect']}"
    if one.get("degraded"):
        yield f"degraded: {one['degraded']}"
    if second := one.get("second"):
        yield f"{second['role']}: {second['state']}, {_amount(second['rss_bytes'])}"


def _requests(sight: Sight, spare: int) -> Section:
    id_width, client_width = 16 + min(20, spare // 2), 14 + min(20, spare // 4)
    rows = [
        Line(
            f"{_cell(row['id'], id_width)} {span(row['age_s']):>11} {row['phase']:<9} {_cell(row['model'] or '-', 10)} "
            f"{_cell(row['client'], client_width)} {clean(row['path'])}",
            "yellow" if row["phase"] == "waiting" else None,
            key=("request", row["id"]),
        )
        for row in sight.requests
    ]
    heads = f"{'AGE':>11} {'PHASE':<9} {'MODEL':<10} {'CLIENT':<{client_width}} PATH"
    return Section(f"  {'REQUEST':<{id_width}} {heads}", rows, "no request is in flight")


def _clients(sight: Sight, spare: int) -> Section:
    name_width = 20 + min(20, spare // 2)
    rows = [
        Line(
            f"{_cell(row['client'], name_width)} {_cell(row['pool'] or '-', 10)} {row['in_flight']:>3} {row['queued']:>5}  "
            f"{_tightest(row.get('limits') or ())}",
            key=("client", row["client"]),
        )
        for row in sight.clients
    ]
    heads = f"{'POOL':<10} {'IN':>3} {'QUEUE':>5}  LIMIT USED MOST"
    return Section(f"  {'CLIENT':<{name_width}} {heads}", rows, "nobody asks at the moment")


def _tightest(limits: Iterable[Mapping[str, Any]]) -> str:
    """The limit of which most is used: ``requests_per_minute 12/60``."""
    used = [
        (max(0, one["limit"] - one["remaining"]) / one["limit"], one) for one in limits if one.get("limit")
    ]
    if not used:
        return "-"
    _, one = max(used, key=lambda pair: pair[0])
    return f"{one['name']} {max(0, one['limit'] - one['remaining']):g}/{one['limit']:g}"


def _events(sight: Sight) -> Section:
    rows = [
        Line(
            f"{_local(event['at'])} {event['kind']:<12} {clean(told(event))}",
            _KINDS.get(event["kind"]),
            key=("event", str(event.get("id", event["at"]))),
        )
        for event in reversed(sight.events)
    ]
    return Section("  EVENTS, newest first", rows, "nothing has happened yet")


def told(event: Mapping[str, Any]) -> str:
    """One event in words; of a kind that is not known here, its data."""
    data, kind = event["data"], event["kind"]
    if kind == "state":
        plain = f"{data.get('model')} is {data.get('state')}"  # which the arrow says already
        why = f": {data['why']}" if data.get("why") not in {None, "", plain} else ""
        return f"{data.get('model')} {data.get('before') or '-'} -> {data.get('state')}{why}"
    if kind == "death":
        return f"{data.get('model')} {data.get('cause')}: {data.get('detail')}"
    if kind == "action":
        return f"{data.get('verb')} {data.get('subject') or ''}"
    if kind in {"config_error", "notice"}:
        return str(data.get("message", ""))
    if kind == "reload":
        return f"applied: {', '.join(data.get('applied') or ()) or 'nothing'}"
    return ", ".join(f"{name} {value}" for name, value in data.items() if value is not None)


# ---- words


def _local(at: str) -> str:
    try:
        return f"{datetime.fromisoformat(at).astimezone():%H:%M:%S}"
    except ValueError:
        return "--:--:--"


def bar(used: int, limit: int, width: int = BAR) -> str:
    """``[####......]``, full from the limit on."""
    full = min(width, round(width * used / limit)) if limit > 0 else 0
    return f"[{'#' * full}{'.' * (width - full)}]"


def _amount(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"


def _cell(text: str, width: int) -> str:
    """Exactly so wide."""
    return _padded(clean(text), width)


def _padded(text: str, width: int) -> str:
    text = cut(text, width)
    return text + " " * (width - wide(text))


def _fitted(line: Line, columns: int) -> Line:
    return Line(cut(one_line(line.text), columns), line.colour, line.bold, line.marked, line.key)


def wide(text: str) -> int:
    """Columns of a terminal that it takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, columns: int) -> str:
    if wide(text) <= columns:
        return text
    text = text[: columns - 1] if text.isascii() else text[: 2 * columns]  # with room for marks of no width
    while text and wide(text) >= columns:
        text = text[:-1]
    return f"{text}~" if columns else ""
