rule profile:
    input:
        unpack(inputs_of("profile")),
    output:
        f"results/{plan.study}/profile/{{scenario}}.h5",
    log:
        f"logs/{plan.study}/profile/{{scenario}}.log",
    benchmark:
        f"benchmarks/{plan.study}/profile/{{scenario}}.tsv"
    conda:
        "../../envs/fedbound.yaml"
    threads: 1
    resources:
        inside=NOTHING,
        mpi="mpiexec",
        machine=WHOLE_MACHINE,
        tasks=ranks_of("profile"),
        mem_mb_per_cpu=asks("profile", "mem_mb"),
        runtime=asks("profile", "runtime"),
    params:
        scenario=scenario_of("profile"),
        inputs=flags_of("profile"),
    shell:
        "OMP_NUM_THREADS={threads} {resources.mpi} -n {resources.tasks} {resources.inside} python -m mpi4py -m fedbound profile"
        " --ranks {resources.tasks} --scenario {params.scenario:q} {params.inputs} --out {output:q} > {log:q} 2>&1"
