rule train:
    input:
        unpack(inputs_of("train")),
    output:
        f"results/{plan.study}/train/{{scenario}}.h5",
    log:
        f"logs/{plan.study}/train/{{scenario}}.log",
    benchmark:
        f"benchmarks/{plan.study}/train/{{scenario}}.tsv"
    conda:
        "../../envs/fedbound.yaml"
    threads: 1
    resources:
        inside=NOTHING,
        mpi="mpiexec",
        machine=WHOLE_MACHINE,
        tasks=ranks_of("train"),
        mem_mb_per_cpu=asks("train", "mem_mb"),
        runtime=asks("train", "runtime"),
        checkpoint_every=plan.resources["checkpoint_every"],
    params:
        scenario=scenario_of("train"),
        inputs=flags_of("train"),
    shell:
        "OMP_NUM_THREADS={threads} {resources.mpi} -n {resources.tasks} {resources.inside} python -m mpi4py -m fedbound train"
        " --ranks {resources.tasks} --scenario {params.scenario:q} {params.inputs} --checkpoint-every {resources.checkpoint_every} --out {output:q} > {log:q} 2>&1"
