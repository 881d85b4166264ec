"""The page around the report's sections: its frame, its looks, and the script that sorts tables.

The content security policy forbids any request, so the page works offline and stays as it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header><h1>$title</h1><p>$subtitle</p></header>
<nav>$contents</nav>
<main>
$sections
</main>
<script>$script</script>
</body>
</html>
""")

_STYLE = """
:root { --ink: #1b1b1b; --quiet: #595959; --line: #d5d5d5; --tint: #f3f6f9; --accent: #0b5a8f; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 2rem 4rem; max-width: 1216px; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
h1 { margin: 0; font-size: 1.9rem; overflow-wrap: anywhere; }
h2 { margin: 2.6rem 0 .6rem; padding-top: .8rem; border-top: 2px solid var(--line); font-size: 1.4rem; }
h3 { margin: 1.6rem 0 .3rem; font-size: 1.08rem; overflow-wrap: anywhere; }
p { margin: .4rem 0; overflow-wrap: anywhere; }
header p, .note, figcaption { color: var(--quiet); }
nav a { display: inline-block; margin: .6rem 1.1rem 0 0; color: var(--accent); }
.choice { margin: .8rem 0; padding: .9rem 1.1rem; background: var(--tint); border-left: 5px solid var(--accent); }
.choice p:first-child { font-size: 1.15rem; font-weight: 600; }
figure { margin: .2rem 0 1.4rem; break-inside: avoid; }
figure img { display: block; width: 100%; max-width: 860px; height: auto; }
figcaption { max-width: 860px; font-size: .92rem; }
.table { overflow-x: auto; margin: .4rem 0 1.2rem; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .5rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
td { white-space: nowrap; }
th { vertical-align: bottom; border-bottom: 2px solid var(--quiet); font-weight: 600; }
th.text, td.text { text-align: left; }
td.text { white-space: normal; max-width: 30rem; overflow-wrap: break-word; }
td.wide { max-width: none; }
td.long { min-width: 14rem; overflow-wrap: anywhere; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--accent); }
th small { display: block; color: var(--quiet); font-weight: 400; }
th[aria-sort=ascending] button::after { content: " \\25B4"; }
th[aria-sort=descending] button::after { content: " \\25BE"; }
tr.chosen td { background: var(--tint); font-weight: 600; }
code, pre { font: .9em/1.45 ui-monospace, "Liberation Mono", Menlo, monospace; }
pre { padding: .8rem 1rem; background: var(--tint); white-space: pre-wrap; overflow-wrap: anywhere; }
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  nav { display: none; } .table { overflow: visible; } h2, h3 { break-after: avoid; } tr { break-inside: avoid; }
}
"""

_SCRIPT = """
document.querySelectorAll('th button').forEach(function (button) {
  button.addEventListener('click', function () {
    var head = button.parentNode, body = head.closest('table').tBodies[0], index = head.cellIndex;
    var up = head.getAttribute('aria-sort') !== 'ascending';
    function key(row) { return row.cells[index].dataset.v; }
    var rows = Array.from(body.rows), numeric = !head.classList.contains('text');
    rows.sort(function (a, b) {
      var x = key(a), y = key(b);
      if (!numeric) { return (up ? 1 : -1) * x.localeCompare(y); }
      x = parseFloat(x); y = parseFloat(y);
      if (isNaN(x) || isNaN(y)) { return (isNaN(x) ? 1 : 0) - (isNaN(y) ? 1 : 0); }
      return up ? x - y : y - x;
    });
    head.parentNode.querySelectorAll('th').forEach(function (other) { other.removeAttribute('aria-sort'); });
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    rows.forEach(function (row) { body.appendChild(row); });
  });
});
"""


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """The whole page.

    Args:
        title: plain text, escaped here.
        subtitle: plain text, escaped here.
        sections: key, heading (plain text) and body (HTML) of each.
    """
    return _PAGE.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        style=_STYLE,
        script=_SCRIPT,
        contents="".join(f'<a href="#{key}">{escape(heading)}</a>' for key, heading, _ in sections),
        sections="\n".join(
            f'<section id="{key}"><h2>{escape(heading)}</h2>\n{body}</section>' for key, heading, body in sections
        ),
    )
