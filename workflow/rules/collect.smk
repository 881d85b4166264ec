rule collect:
    input:
        plan.job("collect", "study").inputs.values(),
    output:
        study=collected("study.h5"),
        report=report(
            collected("report.html"), caption="../report/report.rst", category="Study"
        ),
        tables=directory(collected("tables")),
    log:
        f"logs/{plan.study}/collect.log",
    benchmark:
        f"benchmarks/{plan.study}/collect.tsv"
    conda:
        "../../envs/fedbound.yaml"
    threads: 1
    resources:
        inside=NOTHING,
        mem_mb=asks("collect", "mem_mb"),
        runtime=asks("collect", "runtime"),
    params:
        scenario=plan.job("collect", "study").scenario_json,
    shell:
        '{resources.inside} fedbound collect --scenario {params.scenario:q} --input plan="$FEDBOUND_PLAN"'
        " --out {output.study:q} > {log:q} 2>&1"
