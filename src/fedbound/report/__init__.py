"""The collect stage: tables, comparison, recommendation, plots and the HTML report of a study."""
