"""The study reference is in step with the schema."""

from __future__ import annotations

from pathlib import Path

from fedbound import plan, reference, study, study_file

ROOT = Path(__file__).parents[1]


def test_page_is_in_sync():
    mend = "run python -m fedbound.reference > docs/study.md"
    assert (ROOT / "docs/study.md").read_text() == reference.markdown(), mend


def test_every_key_has_a_meaning():
    rows = [line for line in reference.markdown().splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert all(line.rsplit("|", 2)[1].strip() for line in rows)


def test_shipped_studies_are_valid():
    """quickstart as it is, and with the smoke overlay; the README's two commands run these."""
    for files in (["config.yaml"], ["config.yaml", "smoke.yaml"]):
        config: dict = {}
        for name in files:
            for key, value in study_file.read_yaml(ROOT / "config" / name).items():
                both = isinstance(value, dict) and isinstance(config.get(key), dict)
                config[key] = {**config[key], **value} if both else value
        parsed = study.parse(config)
        study_file.check_data(parsed)
        assert all(plan.make(parsed).jobs.values())
