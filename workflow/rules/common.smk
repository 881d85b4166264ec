# What all rules share: the frozen plan, and three functions that look a job up in it.
fedbound_workflow.find_own_commands()
plan = fedbound_workflow.frozen_plan(config, main=workflow.is_main_process)


def inputs_of(stage):
    """Input function: the artifacts that a job of `stage` reads, by name."""
    return lambda wildcards: plan.job(stage, wildcards.scenario).inputs


def scenario_of(stage):
    """Params function: the resolved scenario as JSON, and nothing else."""
    return lambda wildcards: plan.job(stage, wildcards.scenario).scenario_json


def flags_of(stage):
    """Params function: the --input flags."""
    return lambda wildcards: fedbound_workflow.input_flags(
        plan.job(stage, wildcards.scenario)
    )


def ranks_of(stage):
    """Resource function: one MPI rank for the server and for each silo one, or as many as it has."""
    return lambda wildcards: fedbound_workflow.ranks(
        plan.job(stage, wildcards.scenario)
    )


def asks(stage, key):
    """Resource function: what the study's `resources` says, and more once a job ran out of it."""
    return lambda wildcards, attempt: fedbound_workflow.asked(
        plan, plan.job(stage, wildcards.get("scenario", "study")), key, attempt
    )


def collected(name):
    return f"results/{plan.study}/{name}"


# MPI jobs are what is measured: the local profile lets 1000 units of this resource run at a time, other jobs take one.
WHOLE_MACHINE = 1000

# What a job's command runs inside of: a site's profile may say `apptainer exec IMAGE` (slurm/sites/apptainer.yaml), or
# set variables. `env` alone does nothing.
NOTHING = "env"
