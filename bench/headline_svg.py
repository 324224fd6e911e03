#!/usr/bin/env python3
"""headline_svg.py FILE.json... >docs/headlines.svg: the README's bar chart.

Reads what `./dev bench NAME --json` prints. Each bar is Sluice's time divided by its peer's, from the same run: left of
the line Sluice is faster. With several files the bar is the median of all runs, and the thin line shows their range.
A row that no file has is left out, and said on stderr. docs/headlines.json holds what was recorded; `ratio_low` and
`ratio_high` there are the range of other runs, whose output was not kept.
"""
import html, json, math, statistics, sys

# The name of a result, what it is, and beside what. All are times at the settings that a user gets who sets nothing.
ROWS = [
    ("page_single", "a page lent and given back", "DPDK's mbuf"),
    ("demux: 10000 rules, one flow", "the XDP program with 10,000 rules", "the same with 10 rules"),
    ("app_closed_free_adaptive", "requests by way of an app, back to back", "the kernel's UDP echo"),
    ("guest_closed_free_adaptive", "requests by way of a guest, back to back", "the kernel's UDP echo"),
    ("app_paced_free_adaptive", "requests by way of an app, one per ms", "the kernel's UDP echo"),
    ("guest_paced_free_adaptive", "requests by way of a guest, one per ms", "the kernel's UDP echo"),
]
LEAST, MOST = 0.125, 4.0  # the ends of the axis
MARKS = [0.125, 0.25, 0.5, 1, 2, 4]
LEFT, WIDTH, TOP, STEP, RIGHT = 300, 380, 46, 38, 90


def ratios_by_name(paths):
    found = {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for result in json.load(file)["results"]:
                ratio = result.get("ratio")
                if isinstance(ratio, (int, float)):
                    bar, span = found.setdefault(result["name"], ([], []))
                    bar.append(ratio)
                    span += [ratio, result.get("ratio_low", ratio), result.get("ratio_high", ratio)]
    return found


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


def chart(ratios):
    rows = [row for row in ROWS if row[0] in ratios]
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
    for place, (name, what, peer) in enumerate(rows):
        lines += bar(TOP + STEP * place + 6, what, peer, *ratios[name])
    lines.append(f'<path d="M{x_of(1):.1f} {TOP}V{bottom}" stroke="#222"/>')
    return "\n".join(lines + ["</svg>"])


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    ratios = ratios_by_name(sys.argv[1:])
    for name, what, _ in ROWS:
        if name not in ratios:
            sys.stderr.write(f"headline_svg: no result {name!r}: no bar for {what!r}\n")
    print(chart(ratios))


if __name__ == "__main__":
    main()
