# fedbound: one study in, one answer out. The rules are thin: inputs, outputs, resources and one `fedbound` command.
from fedbound import workflow as fedbound_workflow

if workflow.is_main_process:
    # A job's own snakemake has the frozen plan: an edit of the study, even one that breaks it, does not reach it.
    config = fedbound_workflow.read_config(
        workflow.overwrite_configfiles or ["config/config.yaml"],
        workflow.config_settings.config,
    )


include: "workflow/rules/common.smk"
include: "workflow/rules/profile.smk"
include: "workflow/rules/calibrate.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/privacy.smk"
include: "workflow/rules/simulate.smk"
include: "workflow/rules/collect.smk"


report: "workflow/report/workflow.rst"


wildcard_constraints:
    scenario="[a-zA-Z0-9.+_-]+",


localrules:
    all,


# Cells that take seconds run in the driver's own job where that has several cores: `fedbound submit --cores`.
workflow.localrules(*fedbound_workflow.in_driver())


if workflow.is_main_process:

    onstart:
        fedbound_workflow.take_over(workflow.dag.needrun_jobs())

    onsuccess:
        fedbound_workflow.say_where_results_are(plan)

    onerror:
        fedbound_workflow.report_what_is_there(plan)


rule all:
    default_target: True
    input:
        collected("study.h5"),
        collected("report.html"),


rule profiles:
    input:
        plan.paths("profile"),


rule calibrations:
    input:
        plan.paths("calibrate"),


rule runs:
    input:
        plan.paths("train"),


rule privacies:
    input:
        plan.paths("privacy"),


rule simulations:
    input:
        plan.paths("simulate"),
