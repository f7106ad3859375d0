"""The tables' lines, from the figures."""

from benchmarks.measure import CHUNKS_PER_S, SCENARIOS, Values
from benchmarks.memory import HELD

Summary = dict[str, dict[str, dict[str, Values]]]
Rows = list[list[str]]
MB, KB = 1e6, 1e3

REQUEST_HEAD = [
    *("c", "peer", "req/s (min-max)", "/direct", "/nginx", "p50 µs", "p99 µs", "first p50", "CPU µs/req"),
    *("CPU/nginx", "bad", "again"),
]
SSE_HEAD = [
    *("streams", "peer", "chunks/s", "of due", "p50 µs", "p99 µs", "+p50", "+p99", "first p50", "first p99"),
    *("CPU µs/chunk", "CPU/nginx", "bad", "again"),
]
MEMORY_HEAD = ["", "peer", "idle MB", "KB a request in flight", "KB an open stream"]
TARGET_HEAD = ["", "target", "figure", "measured", "reached"]


def number(cell: Values | None, digits: int = 0, *, spread: bool = False, sign: bool = False) -> str:
    """The median, with (min-max) if asked."""
    if cell is None:
        return "-"
    style = f"{'+' if sign else ''},.{digits}f"
    text = format(cell["median"], style)
    return f"{text} ({cell['min']:,.{digits}f}-{cell['max']:,.{digits}f})" if spread else text


def requests(summary: Summary, kind: str) -> Rows:
    return [
        [
            *(str(scenario.connections), peer, number(cells.get("rps"), spread=True)),
            *(number(cells.get("rps_vs_direct"), 2), number(cells.get("rps_vs_nginx"), 2)),
            *(number(cells.get("p50_us")), number(cells.get("p99_us")), number(cells.get("first_p50_us"))),
            *(number(cells.get("cpu_us"), 1), number(cells.get("cpu_vs_nginx"), 2)),
            *(number(cells.get("bad")), number(cells.get("again"))),
        ]
        for scenario in SCENARIOS
        if scenario.kind == kind
        for peer, cells in summary.get(scenario.name, {}).items()
    ]


def chunks(summary: Summary) -> Rows:
    rows: Rows = []
    for scenario in SCENARIOS:
        due = scenario.connections * CHUNKS_PER_S
        for peer, cells in summary.get(scenario.name, {}).items() if scenario.endless else ():
            get = cells.get
            rate = get("chunks_per_s")
            rows.append(
                [
                    *(str(scenario.connections), peer, number(rate)),
                    f"{rate['median'] / due:.1%}" if rate else "-",
                    *(number(get("p50_us")), number(get("p99_us"))),
                    *(number(get("added_p50_us"), sign=True), number(get("added_p99_us"), sign=True)),
                    *(number(get("first_p50_us")), number(get("first_p99_us"))),
                    *(number(get("cpu_us"), 1), number(get("cpu_vs_nginx"), 2)),
                    *(number(get("bad")), number(get("again"))),
                ]
            )
    return rows


def memory(held: dict[str, Values]) -> Rows:
    return [
        ["", peer, f"{v['idle'] / MB:.1f}", f"{v['request'] / KB:.1f}", f"{v['stream'] / KB:.1f}"]
        for peer, v in held.items()
    ]


def _marks(values: Values) -> list[int]:
    return sorted(int(name.removeprefix("after_")) for name in values if name.startswith("after_"))


def growth_head(held: dict[str, Values]) -> list[str]:
    marks = _marks(next(iter(held.values())))
    return ["", "peer", *(f"{mark:,}" for mark in marks), "KB per 1,000"]


def growth(held: dict[str, Values]) -> Rows:
    rows: Rows = []
    for peer, values in held.items():
        marks = _marks(values)
        sizes = [values[f"after_{mark}"] for mark in marks]
        rows.append(["", peer, *(f"{size / MB:.1f}" for size in sizes), f"{per_thousand(values) / KB:.1f}"])
    return rows


def per_thousand(values: Values) -> float:
    """Bytes of growth per 1,000 requests, from the first mark to the last."""
    marks = _marks(values)
    first, last = marks[0], marks[-1]
    return (values[f"after_{last}"] - values[f"after_{first}"]) / ((last - first) / 1000)


def late_growth(values: Values) -> float:
    """Bytes of growth over the second half of the requests or so."""
    marks = _marks(values)
    return values[f"after_{marks[-1]}"] - values[f"after_{marks[-2]}"]


def targets(summary: Summary, held: dict[str, Values]) -> Rows:
    """What llmsup wants to be, and whether it was."""
    rows: Rows = []

    def add(what: str, value: float | None, limit: float, unit: str, *, at_least: bool = False) -> None:
        if value is not None:
            reached = value >= limit if at_least else value < limit
            sign = ">=" if at_least else "<"
            rows.append(
                ["", what, f"{sign} {limit:g}{unit}", f"{value:.2f}{unit}", "yes" if reached else "NO"]
            )

    def median(scenario: str, measure: str) -> float | None:
        cell = summary.get(scenario, {}).get("llmsup", {}).get(measure)
        return cell["median"] if cell else None

    for kind, name in (("pass", "pass-through"), ("chat", "chat, assembled"), ("short", "short streams")):
        add(f"{name}: req/s at 64 / nginx", median(f"{kind}-64", "rps_vs_nginx"), 0.7, "", at_least=True)
        swap = median(f"{kind}-64", "rps_vs_llama-swap")
        add(f"{name}: req/s at 64 / llama-swap", swap, 5, "", at_least=True)
        added = median(f"{kind}-1", "added_p50_us")
        add(f"{name}: added p50 at 1", None if added is None else added / 1e3, 0.15, " ms")
    for scenario in SCENARIOS:
        if scenario.endless:
            what = f"CPU per chunk at {scenario.connections} streams / nginx"
            add(what, median(scenario.name, "cpu_vs_nginx"), 1.3, "")
    if values := held.get("llmsup"):
        add("idle daemon", values["idle"] / MB, 60, " MB")
        add(f"a request in flight (of {HELD})", values["request"] / KB, 10, " KB")
        add(f"an open stream (of {HELD})", values["stream"] / KB, 100, " KB")
        add("growth per 1,000 requests", per_thousand(values) / MB, 5, " MB")
        add("growth between the last two marks (flat: noise)", late_growth(values) / MB, 1, " MB")
    return rows


def remarks(summary: Summary) -> list[str]:
    """What a reader must know to believe the figures."""
    lines = [
        f"{peer} adds {number(cells.get('added_p50_us'), spread=True)} µs (p50) and "
        f"{number(cells.get('added_p99_us'), spread=True)} µs (p99) to a pass-through request at c=1"
        for peer, cells in summary.get("pass-1", {}).items()
        if peer != "direct"
    ]
    streamed = [
        cells["streamed"]["median"]
        for scenario, peers in summary.items()
        if scenario.startswith("chat-")
        for peer, cells in peers.items()
        if peer == "llmsup" and "streamed" in cells
    ]
    if streamed:
        lines.append(f"llmsup asked its upstream for a stream in {min(streamed):.1%} of the plain chats")
    return lines
