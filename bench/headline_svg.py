#!/usr/bin/env python3
"""headline_svg.py FILE.json... >docs/headlines.svg: the README's bar chart.

Reads what `./dev bench NAME --json` prints. Each bar is Sluice's time divided by its peer's, from the same run: left of
the line Sluice is faster. With several files the bar is the median of all runs, and the thin line shows their range.
A row that no file has is left out, and said on stderr. docs/headlines.json holds what was recorded; `ratio_low` and
`ratio_high` there are the range of other runs, whose output was not kept.
"""
import html, json, math, statistics, sys

# The name of a result and of its peer, what it is, and beside what. All at the settings that a user gets who sets
# nothing. A rate is drawn as the time of one packet: a bar to the left is always faster.
TIME, RATE = "time", "rate"
ROWS = [
    ("page_single", "DPDK mbuf", TIME, "a page lent and given back", "DPDK's mbuf"),
    ("demux: 10000 rules, one flow", None, TIME, "the XDP program with 10,000 rules", "the same with 10 rules"),
    ("nic_to_app_default_60B", "UDP recvmmsg", RATE, "60-byte packets to an app", "the kernel's UDP"),
    ("nic_to_app_default_60B", "bare AF_XDP", RATE, "60-byte packets to an app", "bare AF_XDP"),
    ("guest_default_pair_64B_split", None, RATE, "64-byte frames from guest to guest", "DPDK net_vhost"),
    ("app_closed_free_adaptive", None, TIME, "requests by way of an app, back to back", "the kernel's UDP echo"),
    ("guest_closed_free_adaptive", None, TIME, "requests by way of a guest, back to back", "the kernel's UDP echo"),
    ("app_paced_free_adaptive", None, TIME, "requests by way of an app, one per ms", "the kernel's UDP echo"),
    ("guest_paced_free_adaptive", None, TIME, "requests by way of a guest, one per ms", "the kernel's UDP echo"),
]
LEAST, MOST = 0.125, 4.0  # the ends of the axis
MARKS = [0.125, 0.25, 0.5, 1, 2, 4]
LEFT, WIDTH, TOP, STEP, RIGHT = 300, 380, 46, 38, 90


def ratios_of(row, results):
    """The ratios of a row's results as times, and their range; None when there is no such result."""
    name, peer, kind = row[:3]
    bars, span = [], []
    for result in results:
        ratio = result.get("ratio")
        if result["name"] == name and peer in (None, result.get("peer_name")) and isinstance(ratio, (int, float)) and ratio > 0:
            times = [r if kind == TIME else 1 / r for r in (ratio, result.get("ratio_low", ratio), result.get("ratio_high", ratio))]
            bars.append(times[0])
            span += times
    return (bars, span) if bars else None


def x_of(ratio):
    share = math.log(min(max(ratio, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return LEFT + WIDTH * share


def text(x, y, anchor, words, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{html.escape(words)}</text>'


def number(ratio):
    return f"{ratio:.3g}" if ratio < 0.1 else f"{ratio:.2f}"


def bar(y, what, peer, ratios, span):
    middle = statistics.median(ratios)
    begin, end = sorted((x_of(1), x_of(middle)))
    colour = "#2a7f62" if middle <= 1.005 else "#c8702a"
    said = number(middle)
    lines = [
        text(LEFT - 12, y + 9, "end", what),
        text(LEFT - 12, y + 23, "end", "beside " + peer, ' fill="#666" font-size="11"'),
        f'<rect x="{begin:.1f}" y="{y}" width="{max(end - begin, 2):.1f}" height="20" fill="{colour}"/>',
    ]
    if min(span) < max(span):
        low, high = x_of(min(span)), x_of(max(span))
        lines.append(f'<path d="M{low:.1f} {y + 5}v10M{low:.1f} {y + 10}H{high:.1f}M{high:.1f} {y + 5}v10" stroke="#222" fill="none"/>')
        said += f" ({number(min(span))} to {number(max(span))})"
    lines.append(text(LEFT + WIDTH + 10, y + 15, "start", said))
    return lines


def chart(rows):
    bottom = TOP + STEP * len(rows)
    width, height = LEFT + WIDTH + RIGHT + 60, bottom + 40
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        text(LEFT + WIDTH / 2, 20, "middle", "Sluice's time divided by its peer's, default settings", ' font-weight="bold"'),
        text(x_of(1) - 8, 38, "end", "faster than the peer", ' fill="#666" font-size="11"'),
        text(x_of(1) + 8, 38, "start", "slower", ' fill="#666" font-size="11"'),
    ]
    for mark in MARKS:
        lines.append(f'<path d="M{x_of(mark):.1f} {TOP}V{bottom}" stroke="#ddd"/>')
        lines.append(text(x_of(mark), bottom + 18, "middle", f"{mark:g}"))
    for place, (what, peer, ratios) in enumerate(rows):
        lines += bar(TOP + STEP * place + 6, what, peer, *ratios)
    lines.append(f'<path d="M{x_of(1):.1f} {TOP}V{bottom}" stroke="#222"/>')
    return "\n".join(lines + ["</svg>"])


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    results = []
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            results += json.load(file)["results"]
    rows = []
    for row in ROWS:
        ratios = ratios_of(row, results)
        if ratios:
            rows.append((row[3], row[4], ratios))
        else:
            sys.stderr.write(f"headline_svg: no result {row[0]!r}: no bar for {row[3]!r} beside {row[4]}\n")
    print(chart(rows))


if __name__ == "__main__":
    main()
