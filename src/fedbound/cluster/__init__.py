"""How a study runs on a cluster: the driver job, jobs that a killed driver left behind, what each job used."""
