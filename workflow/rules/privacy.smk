rule privacy:
    input:
        unpack(inputs_of("privacy")),
    output:
        f"results/{plan.study}/privacy/{{scenario}}.h5",
    log:
        f"logs/{plan.study}/privacy/{{scenario}}.log",
    benchmark:
        f"benchmarks/{plan.study}/privacy/{{scenario}}.tsv"
    conda:
        "../../envs/fedbound.yaml"
    threads: 1
    resources:
        inside=NOTHING,
        mem_mb=asks("privacy", "mem_mb"),
        runtime=asks("privacy", "runtime"),
    params:
        scenario=scenario_of("privacy"),
        inputs=flags_of("privacy"),
    shell:
        "OMP_NUM_THREADS={threads} {resources.inside} fedbound privacy"
        " --scenario {params.scenario:q} {params.inputs} --out {output:q} > {log:q} 2>&1"
