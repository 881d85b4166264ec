from __future__ import annotations

import math

from fedbound.bench import auditing, rows


def test_quick_attacks_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(auditing, "CODECS", ("ebq",))
    monkeypatch.setattr(auditing, "RELATIVE", (1e-2,))
    monkeypatch.setattr(auditing, "_membership", lambda quick, say: [auditing._row("membership: x", "auc", 0.5)])
    made = auditing.run(True, lambda line: None)
    case = "codec: ebq, rel 0.01"
    assert rows.find(made, "uniform", case) < rows.find(made, "laplace", case)
    assert rows.find(made, "advantage, move 4", case) == 1.0
    assert rows.find(made, "edge_pairs", case) == 5
    for row in made:
        if row.metric == "claimed" and math.isfinite(float(row.value)):
            assert rows.find(made, "audited", row.case) <= row.value
    assert "one run" in auditing.table(made)
    auditing.plot(made, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
