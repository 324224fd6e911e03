#!/usr/bin/env python3
"""What headline_svg.py promises."""
import json, os, subprocess, sys, tempfile, unittest, xml.dom.minidom

HERE = os.path.dirname(os.path.abspath(__file__))
DOCS = os.path.join(HERE, os.pardir, "docs")


def draw(*reports):
    """The chart of these reports, and what was said on stderr."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, f"{i}.json") for i in range(len(reports))]
        for path, report in zip(paths, reports):
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"results": report}, file)
        done = subprocess.run([sys.executable, os.path.join(HERE, "headline_svg.py"), *paths], capture_output=True, text=True, check=True)
    return xml.dom.minidom.parseString(done.stdout), done.stderr


def words(chart):
    return [node.firstChild.data for node in chart.getElementsByTagName("text")]


class HeadlineSvg(unittest.TestCase):
    def test_the_committed_chart_is_drawn_of_the_committed_figures(self):
        done = subprocess.run([sys.executable, os.path.join(HERE, "headline_svg.py"), os.path.join(DOCS, "headlines.json")],
                              capture_output=True, text=True, check=True)
        with open(os.path.join(DOCS, "headlines.svg"), encoding="utf-8") as file:
            self.assertEqual(file.read(), done.stdout)

    def test_several_runs_become_their_median_and_their_range(self):
        chart, _ = draw(*[[{"name": "page_single", "peer_name": "DPDK mbuf", "ratio": ratio}] for ratio in (0.5, 0.2, 0.3)])
        self.assertIn("0.30 (0.20 to 0.50)", words(chart))

    def test_a_row_without_a_result_is_left_out_and_said(self):
        chart, said = draw([{"name": "page_single", "peer_name": "DPDK mbuf", "ratio": 0.5}])
        self.assertEqual(len(chart.getElementsByTagName("rect")), 2)  # the background and one bar
        self.assertIn("app_closed_free_adaptive", said)

    def test_results_without_a_ratio_are_no_rows(self):
        chart, said = draw([{"name": "page_single", "peer_name": "DPDK mbuf", "ratio": None}])
        self.assertEqual(len(chart.getElementsByTagName("rect")), 1)
        self.assertIn("page_single", said)

    def test_a_rate_is_drawn_as_the_time_of_one_packet(self):
        chart, _ = draw([{"name": "nic_to_app_default_60B", "peer_name": "UDP recvmmsg", "ratio": 5}])
        self.assertIn("0.20", words(chart))

    def test_a_row_takes_the_results_of_its_own_peer(self):
        results = [{"name": "nic_to_app_default_60B", "peer_name": peer, "ratio": ratio}
                   for peer, ratio in (("UDP recvmmsg", 5), ("bare AF_XDP", 0.8), ("DPDK net_af_xdp", 1.25))]
        chart, _ = draw(results)
        self.assertEqual(sorted(w for w in words(chart) if w in ("0.20", "1.25", "0.80")), ["0.20", "1.25"])

    def test_a_ratio_beyond_the_axis_ends_at_its_end(self):
        chart, _ = draw([{"name": "page_single", "peer_name": "DPDK mbuf", "ratio": 900}])
        bar = chart.getElementsByTagName("rect")[1]
        self.assertLess(float(bar.getAttribute("x")) + float(bar.getAttribute("width")), 700)


if __name__ == "__main__":
    unittest.main()
