"""Tables of study.h5, what `collect` leaves, and the keys that its other tables carry."""

from __future__ import annotations

from fedbound.artifacts import Schema
from fedbound.schemas.columns import real, seconds, text, whole

# Keys that the collected tables carry in front of the columns of the artifacts they come from.
STUDY_KEYS = {
    "stem": text("name of the artifact that the row comes from; joins the tables of a study"),
    "setting": text("readable name of all that was set but the seed: what is the same in the whole study is left out"),
    "context": text("the setting without its exchange (codec, bound, mode); '' where the study has one"),
    "problem": text("the setting's data and model; '' where the study has one"),
    "case": text("what sets this simulated network apart, clients aside; '' where the study has one"),
    "run": text("stem of the training run whose bytes were simulated; '' where it was not collected"),
    "algorithm": text("federated algorithm"),
    "codec": text("codec of the uplink"),
    "mode": text("what is sent: delta or weights"),
    "bound": text("bound as written in the study; '' where the codec has none"),
    "bound_value": real("1", "the bound's number, the calibrated one where it says so; NaN where there is none"),
    "scheduler": text("scheduler"),
    "clients": whole("1", "clients simulated"),
    "seed": whole("1", "seed"),
}

STUDY_SCENARIOS = Schema(
    {
        "stage": text("stage"),
        "stem": STUDY_KEYS["stem"],
        "status": text("done, or missing where the artifact could not be read"),
        "setting": STUDY_KEYS["setting"],
        "algorithm": STUDY_KEYS["algorithm"],
        "codec": STUDY_KEYS["codec"],
        "bound": STUDY_KEYS["bound"],
        "seed": whole("1", "seed; -1 where the stage has none"),
        "mechanism": text("privacy mechanism; '' elsewhere"),
        "epsilon": real("1", "epsilon asked for; NaN elsewhere"),
        "clients": whole("1", "silos, simulated clients or clients of the estimate; -1 where unknown"),
        "scheduler": text("scheduler; '' where the stage has none"),
        "content_digest": text("SHA-256 of what was computed, without measured columns and provenance"),
        "error": text("why a missing artifact could not be read", measured=True),
    }
)

STUDY_JOBS = Schema(
    {
        "stage": text("stage"),
        "stem": STUDY_KEYS["stem"],
        "slurm_job": text("id of the Slurm job that wrote the artifact; '' where it was none", measured=True),
        "cores": whole("1", "cores of the job: one for each MPI rank", measured=True),
        "seconds": seconds("wall time of the job; NaN where nobody measured it"),
        "cpu_seconds": seconds("processor time of all its processes; NaN for MPI jobs on Slurm without accounting"),
        "memory": real("byte", "largest resident memory; by Slurm: of the largest task times the tasks", measured=True),
        "asked_memory": real("byte", "memory asked for; NaN without Slurm's accounting", measured=True),
        "cpu_efficiency": real("1", "cpu_seconds / (seconds * cores)", measured=True),
        "memory_efficiency": real("1", "memory / asked_memory", measured=True),
        "source": text("slurm: its accounting; snakemake: the job's benchmark file; '' neither", measured=True),
    }
)

STUDY_PROVENANCE = Schema(
    {
        "stem": text("artifact", measured=True),
        "key": text("what is recorded: host, time, job, library version", measured=True),
        "value": text("its value", measured=True),
    }
)

STUDY_SETTINGS = Schema(
    {
        **{key: STUDY_KEYS[key] for key in ("setting", "context", "problem", "algorithm", "codec", "mode", "bound")},
        "bound_value": STUDY_KEYS["bound_value"],
        "seeds": whole("1", "runs, one per seed"),
        "accuracy": real("1", "test accuracy, mean over seeds"),
        "accuracy_sd": real("1", "its standard deviation over seeds; NaN for one seed"),
        "worst_silo": real("1", "the worst silo's test accuracy, mean over seeds"),
        "spread": real("1", "standard deviation over silos of their test accuracy, mean over seeds"),
        "bytes_up": real("byte", "all bytes silo to server, mean over seeds"),
        "bytes_down": real("byte", "all bytes server to silo, mean over seeds"),
        "bytes": real("byte", "bytes both ways, mean over seeds"),
        "ratio_up": real("1", "uncompressed over sent bytes, uplink, mean over seeds"),
        "ratio_both": real("1", "uncompressed over sent bytes, both ways, mean over seeds"),
        "violations": whole("1", "bound violations caught and mended at the sender, all seeds"),
        "epsilon": real("1", "epsilon of the whole run, the largest over seeds; NaN without privacy"),
        "round_seconds": seconds("measured time of a round, mean over seeds"),
    }
)

STUDY_COMPARISONS = Schema(
    {
        **{key: STUDY_KEYS[key] for key in ("setting", "context", "problem", "algorithm", "codec", "mode", "bound")},
        "baseline": text("the uncompressed setting it is paired with, seed by seed"),
        "seeds": whole("1", "seeds that both settings have"),
        "accuracy": real("1", "test accuracy, mean over the paired seeds"),
        "baseline_accuracy": real("1", "uncompressed test accuracy, mean over the paired seeds"),
        "drop": real("percentage point", "accuracy lost against uncompressed, mean over the paired seeds"),
        "drop_sd": real("percentage point", "standard deviation of the drop over seeds; NaN for one seed"),
        "drop_upper": real("percentage point", "one-sided 95 % upper limit of the drop (paired t); NaN for one seed"),
        "worst_silo": real("1", "the worst silo's test accuracy, mean over the paired seeds"),
        "baseline_worst_silo": real("1", "the same, uncompressed"),
        "worst_silo_drop": real("percentage point", "what the worst silo loses against uncompressed, mean over seeds"),
        "spread": real("percentage point", "standard deviation over silos of their test accuracy, mean over seeds"),
        "spread_difference": real("percentage point", "that spread minus the uncompressed one"),
        "bytes_up": real("byte", "all bytes silo to server, mean over the paired seeds"),
        "bytes_down": real("byte", "all bytes server to silo, mean over the paired seeds"),
        "bytes": real("byte", "bytes both ways, mean over the paired seeds"),
        "baseline_bytes": real("byte", "uncompressed bytes both ways, mean over the paired seeds"),
        "ratio_up": real("1", "raw over sent bytes, uplink, mean over the paired seeds"),
        "ratio_both": real("1", "raw over sent bytes, both ways, mean over the paired seeds"),
        "saving": real("1", "baseline_bytes / bytes: what the wire saves against the uncompressed run"),
        "round_seconds": seconds("measured time of a round, mean over the paired seeds"),
        "baseline_round_seconds": seconds("the same, uncompressed"),
    }
)

STUDY_PARETO = Schema(
    {
        "problem": STUDY_KEYS["problem"],
        "context": STUDY_KEYS["context"],
        "setting": STUDY_KEYS["setting"],
        "accuracy": real("1", "test accuracy, mean over seeds"),
        "worst_silo": real("1", "the worst silo's test accuracy, mean over seeds"),
        "bytes": real("byte", "bytes both ways, mean over seeds"),
        "drop": real("percentage point", "mean drop against uncompressed; 0 for the uncompressed setting"),
        "drop_upper": real("percentage point", "its one-sided 95 % upper limit; NaN below two seeds"),
        "worst_silo_drop": real("percentage point", "what the worst silo loses against uncompressed"),
        "epsilon": real("1", "epsilon of the whole run, the largest over seeds; NaN without privacy"),
        "seeds": whole("1", "seeds paired"),
        "acceptable": whole("1", "1 where drop and worst silo stay within the report's tolerance"),
        "front": whole("1", "1 where no other setting has fewer bytes and no less accuracy and worst silo"),
        "chosen": whole("1", "1 for the setting recommended"),
        "reason": text("why it was chosen, or why not"),
        "round_seconds": seconds("measured time of a round, mean over seeds"),
        "predicted_seconds": seconds(
            "predicted time of a round's work of all clients at the study's largest number of clients, mean"
        ),
    }
)

STUDY_PRIVATE = Schema(
    {
        "problem": STUDY_KEYS["problem"],
        "setting": STUDY_KEYS["setting"],
        "mechanism": text("law of the noise; none without privacy"),
        "epsilon": real("1", "claimed: epsilon of the whole run, the largest over seeds; inf without privacy"),
        "audited": real(
            "1",
            "lower bound of epsilon by canaries, the largest over seeds; each seed's is wrong with at most 5 %, "
            "and the largest of n with at most n times that; NaN: no run was audited",
        ),
        "audit_cap": real("1", "the largest lower bound that so many canaries could have shown; NaN: none was audited"),
        "delta": real("1", "delta at which epsilon holds; NaN without privacy"),
        "accuracy": real("1", "test accuracy, mean over seeds"),
        "accuracy_sd": real("1", "its standard deviation over seeds; NaN for one seed"),
        "worst_silo": real("1", "the worst silo's test accuracy, mean over seeds"),
        "bits": real("bit", "bits per value that a silo sends, headers included, mean over seeds"),
        "seeds": whole("1", "runs, one per seed"),
        "unit": text("unit of privacy: what is protected"),
        "adjacency": text("neighbouring data sets: zero-out or replace-one"),
        "trust": text("who must be trusted for epsilon to hold"),
        "sampling": text("what amplification by sampling is counted"),
        "accountant": text("how epsilon was computed"),
        "noise_multiplier": real("1", "noise of one release over the sensitivity; NaN without privacy"),
        "secure": whole("1", "0: no noise, or noise from the study's seed (insecure_seed), which protects nobody"),
    }
)

STUDY_RANKING = Schema(
    {
        "clients": whole("1", "clients n"),
        "dimension": whole("1", "coordinates d"),
        "clip": real("1", "norm bound of one client's vector"),
        "delta": real("1", "delta at which epsilon holds"),
        "target_epsilon": real("1", "epsilon asked for"),
        "norm": text("norm that is clipped; errors compare within one norm"),
        "rank": whole("1", "1: the least error within the report's trust and bits; 0: outside of them"),
        "setting": STUDY_KEYS["setting"],
        "mechanism": text("mechanism"),
        "mse_scaled": real("1", "measured mean squared error per coordinate over the squared gain, mean over seeds"),
        "over_floor": real("1", "that over the central analytic Gaussian's; NaN where another norm is clipped"),
        "bits": real("bit", "bits per coordinate that a client sends"),
        "epsilon": real("1", "epsilon claimed"),
        "audited": real("1", "lower bound of epsilon shown by the mechanism's audit; NaN: not run"),
        "audit_claim": real("1", "epsilon claimed by the release that was audited"),
        "gain": real("1", "closed form of the estimate's mean over the clients' mean: 1 without bias"),
        "trust": text("who is trusted: local (nobody), shuffler, secure aggregation or central server"),
        "adjacency": text("neighbouring data sets: add-remove, replace or zero-out; replace is the strongest"),
        "against": text("why it is outside of the report's trust or bits; '' where it is not"),
    }
)

STUDY_LINKS = Schema(
    {
        "stem": STUDY_KEYS["stem"],
        "setting": STUDY_KEYS["setting"],
        "link": text("the silo's link: a bandwidth that the study simulates, or 'measured' where the profile ran"),
        "silo": whole("1", "silo"),
        "bandwidth": real("Mbit/s", "the link each way", measured=True),
        "break_even": real(
            "Mbit/s", "link below which compressing saves time; 0 where it saves no bytes", measured=True
        ),
        "pays": whole("1", "1: the link is slower than that", measured=True),
        "plain_seconds": seconds("from update ready to update decoded, uncompressed"),
        "coded_seconds": seconds("the same, compressed: encoding, sending, decoding one after the other"),
        "pipelined_seconds": seconds("the same, compressed, in 16 chunks whose steps overlap"),
        "hidden": real("1", "share of the coding time that such a pipeline hides", measured=True),
        "device_idle": real("1", "share of a synchronous round that the training device is idle", measured=True),
        "processor_idle": real("1", "the same, of the processor that encodes", measured=True),
        "link_idle": real("1", "the same, of the silo's link", measured=True),
        "waits_seconds": seconds("the silo's wait for the slowest one"),
    }
)

STUDY_LINK_ADVICE = Schema(
    {
        "stem": STUDY_KEYS["stem"],
        "setting": STUDY_KEYS["setting"],
        "link": text("the silos' link: a bandwidth that the study simulates, or 'measured' where the profile ran"),
        "pays": whole("1", "silos for which compressing pays", measured=True),
        "advice": text("whether to compress on this link", measured=True),
    }
)

STUDY_RECOMMENDATION = Schema(
    {
        "problem": STUDY_KEYS["problem"],
        "kind": text("choice, evidence, traffic, time or against"),
        "sentence": text("the sentence; nothing in it depends on a measured time"),
        "timing": text("what measured and simulated times add to it; '' elsewhere", measured=True),
    }
)
