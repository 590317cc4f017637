"""The plan of a study: what each run is, what it will take, how it stands, and the order. As a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from hornet.durable import write_json
from hornet.errors import UserError
from hornet.quantities import align, format_seconds, shorten
from scaling.cells import Cell
from scaling.config import Study
from scaling.ledger import Cost
from scaling.networks import NetworkFacts
from scaling.order import foresee_end, keep_within, name_runs, sort_runs
from scaling.state import Standing, count_states, list_runs

FILE = "plan.json"
HEAD = ("run", "N", "U", "T", "epochs", "FLOPs", "state", "takes", "")


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One run, in the order in which it is to be made."""

    name: str
    also_asked_by: tuple[str, ...]
    """Cells of other groups that share the run."""
    stage: str
    family: str
    size: str
    fraction: float
    seed: int
    model: str
    num_parameters: int
    N: int
    """Parameters without the classifier."""
    U: int
    """Unique images of the training split."""
    T: int
    """Images seen."""
    epochs: float
    training_flops: float
    is_held_out: bool
    parent: str | None
    trunk: str | None
    branch_step: int
    """Steps that it takes over from its trunk, which makes them once for all branches."""
    state: str
    seconds: float | None
    """What the run takes in all, without what its trunk does; None if nothing is known of its speed."""
    cost_source: str | None
    is_within_budget: bool
    digest: str | None


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """All runs, and what they take together."""

    name: str
    rows: tuple[PlanRow, ...]
    slots: int
    """Runs at a time."""
    seconds_left: float | None
    """Until all is finished that is within the budget, each run in its turn; None if a run's cost is unknown."""
    states: str
    problems: tuple[str, ...]


def make_plan(
    study: Study,
    cells: Sequence[Cell],
    *,
    networks: Mapping[str, NetworkFacts],
    standings: Mapping[str, Standing],
    costs: Mapping[str, Cost],
    slots: int,
    budget: float | None = None,
    problems: Sequence[str] = (),
) -> StudyPlan:
    """Put all together. `budget` is in seconds of the whole pool; raises UserError if it cannot be kept to."""
    runs = order_runs(cells, costs)
    ahead = [cell for cell in runs if standings[cell.name].state != "finished"]
    kept = ahead
    if budget is not None:
        kept = choose_affordable(ahead, costs, budget=budget, slots=slots, runs=name_runs(cells))
    names = {cell.name for cell in kept}
    rows = []
    for cell in runs:
        facts, cost, state = networks[cell.name], costs.get(cell.name), standings[cell.name].state
        rows.append(
            PlanRow(
                name=cell.name,
                also_asked_by=tuple(other.name for other in cells if other.run == cell.run and other is not cell),
                stage=cell.stage,
                family=cell.family,
                size=cell.size,
                fraction=cell.fraction,
                seed=cell.seed,
                model=cell.config.model.name,
                num_parameters=facts.num_parameters,
                N=facts.size,
                U=cell.train.num_samples,
                T=cell.images_seen,
                epochs=cell.num_steps / cell.steps_per_epoch,
                training_flops=float(cell.images_seen * facts.flops_per_image),
                is_held_out=cell.is_held_out,
                parent=cell.parent,
                trunk=cell.trunk,
                branch_step=cell.branch_step,
                state=state,
                seconds=None if cost is None else cost.seconds,
                cost_source=None if cost is None else cost.source,
                is_within_budget=state == "finished" or cell.name in names,
                digest=cell.digest,
            )
        )
    left = None
    if all(cell.name in costs for cell in kept):
        seconds = {cell.name: costs[cell.name].seconds for cell in kept}
        left = foresee_end(kept, seconds=seconds, slots=slots, runs=name_runs(cells))
    return StudyPlan(
        name=study.config.study.name,
        rows=tuple(rows),
        slots=slots,
        seconds_left=left,
        states=count_states(standings[cell.name] for cell in runs),
        problems=tuple(problems),
    )


def order_runs(cells: Sequence[Cell], costs: Mapping[str, Cost]) -> list[Cell]:
    """Return a cell for each run, those that tell most first."""
    return sort_runs(list_runs(cells), seconds={name: cost.seconds for name, cost in costs.items()})


def choose_affordable(
    ahead: Sequence[Cell], costs: Mapping[str, Cost], *, budget: float, slots: int, runs: Mapping[str, str]
) -> list[Cell]:
    """Return the runs that a budget in seconds pays for; raises UserError if a cost is unknown."""
    unknown = [cell.name for cell in ahead if cell.name not in costs]
    if unknown:
        raise UserError(
            f"--budget: what {unknown[0]} takes is not known ({len(unknown)} such runs); measure it with --measure"
        )
    seconds = {cell.name: costs[cell.name].seconds for cell in ahead}
    return keep_within(ahead, seconds=seconds, budget=budget, slots=slots, runs=runs)


def write_plan(study: Study, plan: StudyPlan) -> None:
    """Write plan.json into the study's folder."""
    study.folder.mkdir(parents=True, exist_ok=True)
    write_json(study.folder / FILE, asdict(plan))


def format_plan(plan: StudyPlan) -> str:
    """Return the table, and what it comes to."""
    lines = align(HEAD, [_format_row(row) for row in plan.rows])
    left = "unknown; --measure times a few steps of each network"
    if plan.seconds_left is not None:
        left = f"about {format_seconds(plan.seconds_left)}, {plan.slots} at a time"
    lines += ["", f"{len(plan.rows)} runs: {plan.states}", f"what is left takes: {left}"]
    out = [row.name for row in plan.rows if not row.is_within_budget]
    if out:
        lines.append(f"beyond the budget: {len(out)} runs, the first {out[0]}")
    if any(row.digest is None for row in plan.rows):
        lines.append("some sets are not here: their runs cannot start, and what they share is not known")
    return "\n".join([*lines, *(f"problem: {problem}" for problem in plan.problems)])


def _format_row(row: PlanRow) -> tuple[str, ...]:
    remarks = [
        *(["held out"] if row.is_held_out else []),
        *([f"from {row.parent}"] if row.parent else []),
        *([f"branch of {row.trunk} at step {row.branch_step}"] if row.trunk else []),
        *([f"also {', '.join(row.also_asked_by)}"] if row.also_asked_by else []),
        *([] if row.is_within_budget else ["beyond the budget"]),
        *(["by FLOPs"] if row.cost_source == "by FLOPs" else []),
    ]
    return (
        row.name,
        shorten(row.N),
        shorten(row.U),
        shorten(row.T),
        f"{row.epochs:.3g}",
        f"{row.training_flops:.2e}",
        row.state,
        "?" if row.seconds is None else format_seconds(row.seconds),
        "; ".join(remarks),
    )
