rule simulate:
    input:
        unpack(inputs_of("simulate")),
    output:
        f"results/{plan.study}/simulate/{{scenario}}.h5",
    log:
        f"logs/{plan.study}/simulate/{{scenario}}.log",
    benchmark:
        f"benchmarks/{plan.study}/simulate/{{scenario}}.tsv"
    conda:
        "../../envs/fedbound.yaml"
    threads: 1
    resources:
        inside=NOTHING,
        mem_mb=asks("simulate", "mem_mb"),
        runtime=asks("simulate", "runtime"),
    params:
        scenario=scenario_of("simulate"),
        inputs=flags_of("simulate"),
    shell:
        "OMP_NUM_THREADS={threads} {resources.inside} fedbound simulate"
        " --scenario {params.scenario:q} {params.inputs} --out {output:q} > {log:q} 2>&1"
