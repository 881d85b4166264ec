from __future__ import annotations

import csv
import itertools
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from report_cases import NONE, SZ3, TRAINING, collect_scenario, privacy, train, written

from fedbound import artifacts
from fedbound.errors import ArtifactError
from fedbound.report import collect, html, html_tables, plots, simulation_plots, stage, text
from fedbound.report.summary import WIDTH, columns, summary

HOSTILE = "</title><script>alert('x')</script> & \"<img src=x onerror=alert(1)>"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags are balanced and collects what a browser would fetch, run and show."""

    def __init__(self, content: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value or "" for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="session")
def page(collected: artifacts.Artifact) -> str:
    return html.render(collected)


def test_the_page_is_well_formed(page: str) -> None:
    parsed = Page(page)
    assert page.startswith("<!DOCTYPE html>")
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    targets = [a["href"] for a in parsed.of("a")]
    assert all(target and target[0] == "#" and target[1:] in parsed.ids for target in targets)
    assert len(targets) == 10


def test_the_page_fetches_nothing(page: str) -> None:
    parsed = Page(page)
    assert parsed.of("link") == parsed.of("iframe") == []
    for tag, attributes in parsed.tags:
        for key in ("src", "href", "srcset", "data", "poster", "action"):
            value = attributes.get(key) or ""
            assert value == "" or value.startswith(("data:image/", "#")), (tag, key, value)
    assert "url(" not in page
    assert "@import" not in page
    policy = next(a["content"] for a in parsed.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_hostile_text_is_shown_and_not_run(tmp_path: Path) -> None:
    """A title, a mechanism's name and a host's name that try to be markup."""
    hostile = privacy("gaussian", 1.0, 1e-4)
    hostile.scenario["privacy"]["mechanism"]["name"] = HOSTILE
    hostile.provenance = {"host": HOSTILE}
    paths = written(tmp_path / "in", {"privacy/hostile": hostile})
    stage.run(collect_scenario(title=HOSTILE), paths, tmp_path / "study.h5")
    content = (tmp_path / "report.html").read_text()
    parsed = Page(content)
    assert parsed.open == []
    assert len(parsed.of("script")) == 1
    assert all((a["src"] or "").startswith("data:image/") for a in parsed.of("img"))
    assert content.count("&lt;script&gt;alert(") >= 4
    assert not any(key.startswith("on") for _, attributes in parsed.tags for key in attributes)


def test_the_recommendation_comes_first(page: str) -> None:
    first = page.index('class="choice"')
    assert page.index("<main>") < first < page.index("Run &#x27;sz3 calibrated&#x27;") < page.index("<img")


def test_every_plot_is_drawn(page: str) -> None:
    images = Page(page).of("img")
    assert [image["class"] for image in images] == [
        "accuracy-by-round",
        "accuracy-by-bytes",
        "accuracy-by-silo",
        "calibration",
        "calibration-bytes",
        "calibration-spread",
        "calibration-layers",
        "privacy",
        "privacy-bits",
        "privacy-audit",
        "round-time",
        "time-to-target",
        "time-shares",
        "timeline",
        "validation",
        "codecs",
        "break-even",
        "messages",
        "sharing",
        "utilisation",
    ]
    for image in images:
        assert (image["src"] or "").startswith(("data:image/svg+xml;base64,", "data:image/png;base64,"))
        assert "?" in (image["alt"] or "")
    assert "Not shown:" not in page


@pytest.mark.parametrize("entry", [entry for entries in plots._SECTIONS.values() for entry in entries])
def test_a_plot_shows_every_setting_and_names_its_axes(entry: tuple, collected: artifacts.Artifact) -> None:
    """Marks lie inside the axes, and each of several series has its own colour, marker and legend entry."""
    figure, caption = entry[2]({name: collected[name] for name in collected})
    figure.canvas.draw()
    axes = figure.axes[0]
    assert axes.get_xlabel()
    assert caption.endswith(".")
    assert len(figure.legends[0].get_texts()) >= 2
    sizes = [label.get_fontsize() for label in (*axes.get_xticklabels(), *figure.legends[0].get_texts())]
    assert min(sizes) >= 9
    low, high = axes.get_xlim()
    inside = [
        np.any((line.get_xdata() >= low) & (line.get_xdata() <= high)) for line in axes.lines if len(line.get_xdata())
    ]
    assert all(inside)
    assert inside or axes.patches


def _simulations(**varied: Sequence[Any]) -> dict[str, pd.DataFrame]:
    """Frames of one simulation per combination of what varies."""
    base = {"setting": "ebq", "scheduler": "sync", "case": "", "clients": 10, "client_bandwidth": 100.0}
    base |= {"server_bandwidth": 1e3, "epoch_seconds": 1.0, "round_seconds": 1.0}
    base |= dict.fromkeys((f"{part}_seconds" for part in collect.PARTS), 0.1)
    rows = [{**base, **dict(zip(varied, values, strict=True))} for values in itertools.product(*varied.values())]
    return {"simulations": pd.DataFrame(rows)}


def _labels(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_of_many_networks_the_middle_one_is_shown_with_every_variant() -> None:
    cases = [f"q_max={i}" for i in range(4)]
    frames = _simulations(case=cases, client_bandwidth=[1e6, 10.0, 2.5], clients=[10, 1000])
    frames["simulations"].case += [f", {bandwidth:g}" for bandwidth in frames["simulations"].client_bandwidth]
    shown = "Shown at clients' links of 10 Mbit/s and a server's of 1,000; the tables have the other networks."
    figure, caption = simulation_plots.simulated_times(frames)
    assert _labels(figure) == [f"ebq, {case}, 10" for case in cases]
    assert shown in caption
    figure, caption = simulation_plots.where_time_goes(frames)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        f"{clients:,} clients, ebq, {case}, 10" for clients in (1000, 10) for case in cases
    ]
    assert shown in caption


def test_bars_that_are_left_out_are_counted() -> None:
    settings = [f"s{i:02}" for i in range(14)]
    figure, caption = simulation_plots.where_time_goes(_simulations(setting=settings))
    assert len(figure.axes[0].get_yticklabels()) == 12
    assert caption.endswith("12 of 14 bars are shown.")
    _, caption = simulation_plots.where_time_goes(_simulations(setting=settings, clients=[10, 100]))
    assert "With 100 clients" in caption
    assert caption.endswith("12 of 14 bars are shown.")


def test_simulations_without_work_are_no_plot() -> None:
    with pytest.raises(plots.Missing, match="no simulation did any work"):
        simulation_plots.simulated_times(_simulations(epoch_seconds=[float("nan")]))


def test_a_text_that_all_rows_share_is_said_once(page: str) -> None:
    assert page.count("dp-accounting RDP") == 1
    assert "trust: central server" in page


def test_without_its_stage_a_plot_is_a_sentence(collected: artifacts.Artifact) -> None:
    frames = {name: collected[name].iloc[:0] for name in collected}
    for section in plots.make(frames).values():
        for plot in section:
            assert plot.source == ""
            assert re.match(r"Not shown: .*\(stage (train|calibrate|privacy|simulate|profile)\)\.", plot.caption)


@pytest.mark.parametrize("only", ["train", "privacy", "profile", "calibrate", "simulate"])
def test_a_report_of_one_stage_alone(only: str, tmp_path: Path, inputs: dict[str, Path]) -> None:
    """What the study leaves out has no section; the training's, which every study has, says what is missing."""
    own = {name: path for name, path in inputs.items() if name.startswith(f"{only}/")}
    artifact = stage.run(collect_scenario(), own, tmp_path / "study.h5")
    content = (tmp_path / "report.html").read_text()
    page = Page(content)
    assert page.open == []
    sections = {"privacy": "privacy", "profile": "profile", "calibrate": "calibration", "simulate": "simulation"}
    assert {"calibration", "privacy", "profile", "simulation"} & set(page.ids) == {sections.get(only)} - {None}
    assert ("(stage train)" in content) == (only != "train")
    artifacts.write(tmp_path / "study.h5", artifact)
    assert summary(tmp_path / "study.h5").startswith("Study synthetic")


def test_many_settings_are_told_as_a_part(tmp_path: Path) -> None:
    """Twenty bounds: a plot shows eight at most, the uncompressed and the recommended one among them, and says so."""
    runs = {f"train/n{seed}": train(NONE, seed, 0.95, 10_000) for seed in range(2)}
    for i in range(20):
        exchange = {**SZ3, "bound": 0.01 * (i + 1), "bound_mode": "rel"}
        runs |= {f"train/b{i}_{seed}": train(exchange, seed, 0.95, 9_000 - 10 * i) for seed in range(2)}
    artifact = stage.run(collect_scenario(), written(tmp_path / "in", runs), tmp_path / "study.h5")
    frames = {name: artifact[name] for name in artifact}
    kept = plots.shown(frames)
    assert len(kept) == plots.MOST
    assert {"uncompressed", "sz3 0.2"} <= set(kept)
    assert "8 of 21 settings are shown" in (tmp_path / "report.html").read_text()


def test_the_stage_leaves_study_h5_to_its_caller(tmp_path: Path, inputs: dict[str, Path]) -> None:
    """Its presence means that all the rest is there, so it comes last."""
    bounds = {name: path for name, path in inputs.items() if name.startswith("calibrate/")}
    artifact = stage.run(collect_scenario(), bounds, tmp_path / "study.h5")
    assert artifact.stage == "collect"
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "tables"}


def test_csv_files_equal_the_tables(tmp_path: Path, collected: artifacts.Artifact) -> None:
    artifact = collected
    stage.write_tables(artifact, tmp_path / "tables")
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert names == {f"{name}.csv" for name in artifact} | {"columns.csv"}
    for name in artifact:
        read = pd.read_csv(tmp_path / "tables" / f"{name}.csv", keep_default_na=False, na_values={}, dtype=str)
        assert list(read) == list(artifact.tables[name])
        for key, column in artifact.tables[name].items():
            texts = read[key].tolist()
            if column.field.dtype == "str":
                assert texts == column.values.tolist()
            else:
                values = np.array([float(t) if t else np.nan for t in texts])
                np.testing.assert_array_equal(values, column.values)
    with open(tmp_path / "tables" / "columns.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(table) for table in artifact.tables.values())
    for row in rows:
        field = artifact.tables[row["table"]][row["column"]].field
        assert (row["unit"], row["description"], row["measured"]) == (
            field.unit,
            field.description,
            str(int(field.measured)),
        )


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.html"
    stage.replace(target, "old")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        stage.replace(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_values_that_are_all_the_same_lie_in_the_middle_of_their_log_axis():
    """One calibrated bound, one epsilon: the axis had no length, and its marks lay outside of the plot."""
    _, axes = plots._axes()
    axes.plot([0.1, 0.1 * (1 - 1e-9)], [1, 2])
    axes.set_xscale("log")
    for finish in (plots._plain, lambda axis: plots._ticks(axis, [0.1])):
        finish(axes.xaxis)
        assert axes.get_xlim() == pytest.approx((0.05, 0.2))
        assert 0.1 in axes.get_xticks()


def test_the_summary_tells_long_settings_apart_by_their_ends():
    rows = [("setting", "x"), *((f"ebq 0.5, {'long ' * 20}feedback={word}", "1") for word in ("yes", "no"))]
    _, yes, no = columns(rows)
    assert len(yes) == len(no) == WIDTH
    assert yes.startswith("ebq 0.5, ")
    assert "feedback=yes " in yes
    assert "feedback=no " in no


def test_rows_that_say_the_same_are_one(collected):
    """Of one run's validation, which every simulated link repeats."""
    table = collected.tables["validation"]
    twice = {key: replace(column, values=np.repeat(column.values, 2)) for key, column in table.items()}
    keys = ("setting", "quantity", "predicted")
    count = len(table["setting"].values)
    assert html_tables._distinct(table, keys) == list(range(count))
    assert html_tables._distinct(twice, keys) == list(range(0, 2 * count, 2))


def test_the_summary_has_the_main_figures_in_100_columns(tmp_path: Path, collected: artifacts.Artifact) -> None:
    path = tmp_path / "study.h5"
    artifacts.write(path, collected)
    (tmp_path / "report.html").write_text("")
    said = summary(path)
    lines = said.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= WIDTH
    row = next(line for line in lines if line.startswith("sz3 calibrated") and "±" in line)
    assert " ".join(row.split()) == "sz3 calibrated 94.7 ± 0.9 % 89.7 % 4.8x 2.5 MB 0.33 (≤ 0.59)"
    assert any("0.178 of each tensor's range" in line for line in lines)
    assert "epsilon 1, delta 1e-05, L1 norm laplace 0.0009 – 32" in [" ".join(line.split()) for line in lines]
    assert "epsilon 1, delta 1e-05, L2 norm gaussian 0.00011 1.1 32" in [" ".join(line.split()) for line in lines]
    assert "sz3 calibrated 50 ms 1.25 s 2.08 min" in [" ".join(line.split()) for line in lines]
    assert any(line.startswith("own run, sz3 calibrated: predicted") and "(+4 %)" in line for line in lines)
    assert f"report  {tmp_path / 'report.html'}" in lines
    assert f"data    {path}" in lines
    assert lines[-1].startswith("Run 'sz3 calibrated'")


def test_a_long_settings_name_does_not_widen_the_summary(tmp_path: Path) -> None:
    runs = {
        f"train/{i}": train(NONE, 0, 0.9, 1000, training={**TRAINING, "algorithm": {"name": "a" * 150 + str(i)}})
        for i in range(2)
    }
    artifact = stage.run(collect_scenario(), written(tmp_path / "in", runs), tmp_path / "study.h5")
    artifacts.write(tmp_path / "study.h5", artifact)
    table = summary(tmp_path / "study.h5").split("\n\n")[1]
    assert max(map(len, table.splitlines())) <= WIDTH


@pytest.mark.parametrize(
    ("written_as", "expected"),
    [
        (text.size(999), "999 B"),
        (text.size(999_600), "1 MB"),
        (text.size(1_234_567), "1.23 MB"),
        (text.size(float("nan")), "–"),
        (text.number(0.00012346), "0.0001235"),
        (text.number(1234567.0), "1,234,567"),
        (text.number(1e-5), "1e-05"),
        (text.seconds(0.0032), "3.2 ms"),
        (text.seconds(90.0), "90 s"),
        (text.seconds(7200.0), "2 h"),
        (text.points(-0.001), "0.00"),
        (text.percent(0.9625), "96.2 %"),
        (text.count(1, "seed"), "1 seed"),
        (text.count(10_000, "client"), "10,000 clients"),
    ],
)
def test_figures_are_written_for_people(written_as: str, expected: str) -> None:
    assert written_as == expected


# ---- in a real browser ----------------------------------------------------------------------------------------------

_MEASURE = """<script>
window.addEventListener('load', function () {
  var root = document.documentElement, images = Array.from(document.images);
  var inner = Array.from(document.querySelectorAll('.table')).filter(function (t) {
    return t.scrollWidth > t.clientWidth + 1; });
  var blocks = Array.from(document.querySelectorAll('main section > *'));
  var overlaps = blocks.filter(function (block, i) {
    var next = blocks[i + 1];
    return next && block.getBoundingClientRect().bottom > next.getBoundingClientRect().top + 1; });
  var canvas = document.createElement('canvas'), pen = canvas.getContext('2d', {willReadFrequently: true});
  canvas.width = 430; canvas.height = 240;
  function coloured(image) {  // axes, ticks and labels are grey; what a plot shows is not
    pen.fillStyle = '#fff'; pen.fillRect(0, 0, 430, 240); pen.drawImage(image, 0, 0, 430, 240);
    var p = pen.getImageData(0, 0, 430, 240).data, found = 0;
    for (var i = 0; i < p.length; i += 4) {
      if (Math.max(p[i], p[i + 1], p[i + 2]) - Math.min(p[i], p[i + 1], p[i + 2]) > 40) { found += 1; } }
    return found; }
  var shown = images.filter(function (i) { return i.naturalWidth > 300 && coloured(i) > 30; });
  document.body.setAttribute('data-measured', [root.scrollWidth, root.clientWidth, inner.length,
    shown.length, images.length - shown.length, overlaps.length].join(' '));
});
</script></body>"""


def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no chromium on PATH; install it to look at the report")


def chromium(folder: Path, *arguments: str) -> str:
    """Run headless chromium without network traffic of its own; returns its standard output."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [browser(), *flags, f"--user-data-dir={folder / 'profile'}", "--window-size=1280,900", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


class Seen(NamedTuple):
    """What a browser of 1280 px makes of a page; widths in px, the rest are counts."""

    width: int
    view: int
    scrolling_tables: int
    plots: int
    empty_plots: int
    overlaps: int


def seen(folder: Path, page: str) -> Seen:
    probe = folder / "probe.html"
    probe.write_text(page.replace("</body>", _MEASURE), encoding="utf-8")
    dom = chromium(folder, "--virtual-time-budget=5000", "--dump-dom", probe.as_uri())
    found = re.search(r'data-measured="([\d ]+)"', dom)
    assert found is not None
    return Seen(*map(int, found[1].split()))


_BLANK = (
    "<svg xmlns='http://www.w3.org/2000/svg' width='860' height='480'>"
    "<path d='M60 20V440H840' fill='none' stroke='black'/></svg>"
)
_FAULTS = """
<section><div style="width: 1400px">too wide</div></section>
<section><p style="margin-bottom: -30px">over</p><p>lapping</p></section>
<section><div class="table"><table><tr><td>%s</td></tr></table></div></section>
<section><img src="data:image/svg+xml,%s"></section></main>
"""


@pytest.mark.smoke
def test_faults_of_a_page_are_seen(tmp_path: Path, page: str) -> None:
    """The test below can fail: a block too wide, one over the next, a table that scrolls, axes without a plot."""
    browser()
    faulty = page.replace("</main>", _FAULTS % ("x" * 400, quote(_BLANK)))
    found = seen(tmp_path, faulty)
    assert found.width > found.view == 1280
    assert (found.scrolling_tables, found.empty_plots, found.overlaps) == (1, 1, 1)


@pytest.mark.smoke
def test_the_report_in_a_browser(tmp_path: Path, page: str) -> None:
    """At 1280 px nothing scrolls sideways, every plot shows something, no block overlaps the next."""
    pytest.importorskip("PIL")
    from PIL import Image

    plots_there = page.count("<img class=")
    assert plots_there >= 20
    assert seen(tmp_path, page) == Seen(1280, 1280, 0, plots_there, empty_plots=0, overlaps=0)
    original, shot = tmp_path / "report.html", tmp_path / "report.png"
    original.write_text(page, encoding="utf-8")
    chromium(tmp_path, "--window-size=1280,3000", f"--screenshot={shot}", original.as_uri())
    with Image.open(shot) as image:
        assert image.width == 1280
        grey = np.asarray(image.convert("L"))
    assert 0.01 < (grey < 128).mean() < 0.5  # ink on paper: neither blank nor black
    assert (grey[:, :20] > 250).all()
    assert (grey[:, -20:] > 250).all()
