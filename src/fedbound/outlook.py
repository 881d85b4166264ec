"""`fedbound plan` in a terminal: per stage what is done, what would run and why, and what that costs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from fedbound import expense
from fedbound.expense import Estimate
from fedbound.plan import STAGES, Plan
from fedbound.progress import Standing, leftovers, standings

_MOST = 12  # reasons, or leftover files, that are listed for one stage


def text(plan: Plan, root: Path = Path(), every_job: bool = False) -> str:
    """The outlook of a plan; `every_job` lists each one with its reason."""
    found = standings(plan, root)
    ahead = [(one, expense.estimate(one, plan, root)) for one in found if one.state != "done"]
    lines = [f"Study {plan.study}: {len(found)} jobs, {len(found) - len(ahead)} done, {len(ahead)} to run", ""]
    lines += _stages(found, ahead)
    lines += _reasons(ahead, every_job)
    lines += _left(plan, root)
    lines += _total(plan, ahead)
    return "\n".join(lines)


def _stages(found: list[Standing], ahead: list[tuple[Standing, Estimate]]) -> list[str]:
    costs = expense.table(ahead)
    lines = [f"{'stage':<10} {'done':>6} {'new':>6} {'changed':>8} {'again':>6} {'core-hours':>11}  known from"]
    for stage in STAGES:
        states = Counter(one.state for one in found if one.job.stage == stage)
        if not states:
            continue
        _, hours, source = costs.get(stage, (0, 0.0, ""))
        counts = f"{states['done']:>6} {states['new']:>6} {states['changed']:>8} {states['again']:>6}"
        lines.append(f"{stage:<10} {counts} {hours:>11.3g}  {source}".rstrip())
    return [*lines, ""]


def _reasons(ahead: list[tuple[Standing, Estimate]], every_job: bool) -> list[str]:
    if every_job:
        return [*[f"{one.state} {one.job.path}: {_why(one)}" for one, _ in ahead], ""]
    counts = Counter((one.job.stage, one.state, _why(one)) for one, _ in ahead)
    lines = []
    for stage in STAGES:
        reasons = [(key, count) for key, count in counts.items() if key[0] == stage]
        lines += [f"{stage}: {count} {state}: {why}" for (_, state, why), count in reasons[:_MOST]]
        if len(reasons) > _MOST:
            lines.append(f"{stage}: {sum(count for _, count in reasons[_MOST:])} more; --jobs lists them")
    return [*lines, ""] if lines else []


def _why(one: Standing) -> str:
    return one.why + (f" (goes on after round {one.kept})" if one.kept >= 0 else "")


def _left(plan: Plan, root: Path) -> list[str]:
    left = [path for stage in STAGES[:-1] for path in leftovers(plan, stage, root)]
    if not left:
        return []
    size = sum(path.stat().st_size for path in left) / 1e6
    lines = [f"{len(left)} artifacts ({size:.3g} MB) belong to no scenario of the study any more; nothing reads them:"]
    lines += [f"  {path}" for path in left[:_MOST]]
    return [*lines, *([f"  and {len(left) - _MOST} more"] if len(left) > _MOST else []), ""]


def _total(plan: Plan, ahead: list[tuple[Standing, Estimate]]) -> list[str]:
    hours = sum(cost.core_hours for _, cost in ahead)
    guessed = sum(cost.core_hours for _, cost in ahead if cost.source == expense.LIMIT)
    limit = plan.resources.get("max_core_hours")
    said = f"to run: {hours:.3g} core-hours"
    if guessed:
        said += f", of which {guessed:.3g} are time limits of what never ran: at most that"
    return [said + (f"; allowed: {limit:g}" if limit is not None else "")]
