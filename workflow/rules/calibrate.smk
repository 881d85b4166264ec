rule calibrate:
    input:
        unpack(inputs_of("calibrate")),
    output:
        f"results/{plan.study}/calibrate/{{scenario}}.h5",
    log:
        f"logs/{plan.study}/calibrate/{{scenario}}.log",
    benchmark:
        f"benchmarks/{plan.study}/calibrate/{{scenario}}.tsv"
    conda:
        "../../envs/fedbound.yaml"
    threads: 1
    resources:
        inside=NOTHING,
        mem_mb=asks("calibrate", "mem_mb"),
        runtime=asks("calibrate", "runtime"),
    params:
        scenario=scenario_of("calibrate"),
        inputs=flags_of("calibrate"),
    shell:
        "OMP_NUM_THREADS={threads} {resources.inside} fedbound calibrate"
        " --scenario {params.scenario:q} {params.inputs} --out {output:q} > {log:q} 2>&1"
