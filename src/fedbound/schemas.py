"""The tables of every artifact: their columns, units and meaning. This is the reference that the docs print.

`measured=True` marks what differs between two runs of the same study (times, what is computed from times, and what only
some transports can tell);
`fedbound inspect --diff` and the content digests pass over those columns.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedbound.artifacts import Field, Schema


def _f(unit: str, description: str, measured: bool = False) -> Field:
    return Field("float64", unit, description, measured)


def _i(unit: str, description: str, measured: bool = False) -> Field:
    return Field("int64", unit, description, measured)


def _s(description: str, measured: bool = False) -> Field:
    return Field("str", "", description, measured)


def _seconds(description: str) -> Field:
    return _f("s", description, measured=True)


_FAIRNESS = {
    "accuracy": _f("1", "test accuracy over all silos' test samples"),
    "loss": _f("nat", "mean test cross-entropy over all silos' test samples"),
    "accuracy_mean": _f("1", "mean over silos of their own test accuracy"),
    "accuracy_sd": _f("1", "standard deviation over silos of their own test accuracy"),
    "accuracy_variance": _f("1", "variance over silos of their own test accuracy: accuracy_sd squared"),
    "accuracy_min": _f("1", "the worst silo's test accuracy"),
    "accuracy_worst10": _f("1", "mean test accuracy of the worst 10 % of silos (at least one)"),
    "jain": _f("1", "Jain's fairness index of the silos' test accuracies: (sum a)^2 / (K sum a^2)"),
}

# ---- run.h5 (train) -------------------------------------------------------------------------------------------------

RUN_ROUNDS = Schema(
    {
        "round": _i("1", "rounds completed; row 0 is the initial model"),
        **_FAIRNESS,
        "bytes_up": _i("byte", "bytes of all messages silo to server in this round, headers included"),
        "bytes_down": _i("byte", "bytes of all messages server to silo in this round, headers included"),
        "payload_up": _i("byte", "bytes of the encoded tensors in the round's updates; bytes_up also counts headers"),
        "payload_down": _i("byte", "bytes of the encoded tensors in the round's models"),
        "raw_up": _i("byte", "bytes the round's updates would take uncompressed, without headers"),
        "raw_down": _i("byte", "bytes the round's models would take uncompressed, without headers"),
        "ratio_up": _f("1", "raw_up / bytes_up"),
        "epsilon": _f("1", "epsilon of the most charged silo's updates so far; nan without privacy"),
        "error_uniform": _f("1", "predicted sd of the aggregate's encoding error, errors uniform and uncorrelated"),
        "error_moments": _f("1", "the same from the silos' second moments, uncorrelated; weights are FedAvg's"),
        "error_measured": _f("1", "root mean square of it; NaN over MPI, out of step, or without error feedback", True),
        "error_correlation": _f("1", "mean correlation of two silos' errors; NaN as error_measured", True),
        "violations": _i("1", "blocks whose error exceeded the bound and were sent again by a tighter encoding"),
        "seconds": _seconds("wall time of the round at the server, from dispatch to the new model"),
        "aggregate_seconds": _seconds("time the server spent folding updates, decoding apart"),
        "decode_seconds": _seconds("time the server spent decoding updates"),
        "wait_seconds": _seconds("time the server waited for messages"),
        "checkpoint_seconds": _seconds("time the server spent writing its checkpoint"),
        "save_seconds": _seconds("time the server waited for silos to save their states"),
        "checkpoint_bytes": _i("byte", "size of the server's checkpoint", measured=True),
        "downlink_seconds": _seconds("time the server spent encoding the model, bound check included"),
        "resync_bytes": _i("byte", "bytes moved beyond that because a silo restarted, both ways", measured=True),
    }
)

RUN_SILOS = Schema(
    {
        "round": _i("1", "round in which this update was made, from 1"),
        "silo": _i("1", "silo"),
        "samples": _i("1", "training samples of the silo"),
        "steps": _i("1", "local steps taken"),
        "releases": _i("1", "noised updates that the silo has made so far, restarts included; 0 without privacy"),
        "train_loss": _f("nat", "mean training loss over the round's local steps; nan under privacy"),
        "bytes_up": _i("byte", "bytes of the update message, header included"),
        "payload_up": _i("byte", "bytes of the encoded tensors in the update message"),
        "raw_up": _i("byte", "bytes the update would take uncompressed"),
        "bytes_down": _i("byte", "bytes of the model messages, headers included"),
        "payload_down": _i("byte", "bytes of the encoded tensors in the model messages"),
        "error_over_bound": _f("1", "largest |x - decoded| / bound over all lossy blocks; 0 where none is lossy"),
        "violations": _i("1", "blocks encoded again because the bound was exceeded"),
        "residual_norm": _f("1", "L2 norm of the error-feedback residual after encoding"),
        "staleness": _i("1", "model versions that passed between dispatch and aggregation"),
        "train_seconds": _seconds("local training"),
        "evaluate_seconds": _seconds("evaluating the received model on the silo's own test and validation data"),
        "model_seconds": _seconds("the silo decoded the model message and loaded the model"),
        "encode_seconds": _seconds("encoding the update, bound check included"),
        "wait_seconds": _seconds("the silo waited for the model"),
        "busy_seconds": _seconds("the silo's whole work on this message: all of these, and saving its state"),
        "transfer_seconds": _seconds(
            "from the model's dispatch to the update's arrival, without busy_seconds: both transfers, and waiting for "
            "other silos of the same rank or for the server's attention"
        ),
        "decode_seconds": _seconds("the server decoded this update"),
        "aggregate_seconds": _seconds("the server folded this update"),
        "arrival_seconds": _seconds("from the round's dispatch to this update's arrival at the server"),
        "memory_bytes": _i("byte", "peak resident memory of the silo's process", measured=True),
    }
)

RUN_EVALUATIONS = Schema(
    {
        "round": _i("1", "rounds completed when the model was evaluated"),
        "silo": _i("1", "silo"),
        "test_samples": _i("1", "test samples of the silo"),
        "test_accuracy": _f("1", "accuracy on the silo's own test samples"),
        "test_loss": _f("nat", "mean cross-entropy on the silo's own test samples"),
        "validation_samples": _i("1", "validation samples of the silo"),
        "validation_accuracy": _f("1", "accuracy on the silo's own validation samples; NaN where it has none"),
    }
)

RUN_TENSORS = Schema(
    {
        "round": _i("1", "up: round of the update; down: version of the model that was sent"),
        "direction": _s("up: silo to server; down: server to silo"),
        "silo": _i("1", "silo; -1 for the model that all silos get"),
        "block": _s("the tensor, or the names of the small tensors coded as one block"),
        "values": _i("1", "number of values"),
        "bound": _f("1", "absolute error bound used; 0 where lossless"),
        "bytes": _i("byte", "encoded bytes"),
    }
)

RUN_FAILURES = Schema(
    {
        "round": _i("1", "round in which it happened, from 1"),
        "silo": _i("1", "silo"),
        "kind": _s("rejected: its update could not be used; failed: the run went on without the silo"),
        "reason": _s("what was wrong"),
    }
)
RUN_GUARD = Schema(
    {
        "round": _i("1", "rounds completed when the model was evaluated"),
        "accuracy": _f("1", "validation accuracy of what the silos hold, over all their validation samples"),
        "shortfall": _f("percentage point", "best accuracy so far less this one, less the margin for chance"),
        "factor": _f("1", "factor on every bound from now on"),
        "exact": _i("1", "1: the next exchange is lossless"),
        "reason": _s("why"),
    }
)

RUN_PRIVACY = Schema(
    {
        "round": _i("1", "rounds completed"),
        "epsilon": _f("1", "claimed: of all releases so far, of the most charged unit"),
        "delta": _f("1", "delta at which epsilon holds"),
        "releases": _i("1", "noised messages of the silo that had made the most by then, restarts included"),
        "mechanism": _s("law of the noise"),
        "unit": _s("unit of privacy: what is protected"),
        "adjacency": _s("neighbouring data sets: zero-out or replace-one"),
        "trust": _s("who must be trusted for epsilon to hold"),
        "sampling": _s("what amplification by sampling is counted"),
        "accountant": _s("how epsilon was computed"),
        "clip": _f("1", "largest norm of an update, or of one record's gradient"),
        "noise_multiplier": _f("1", "noise of one release over the sensitivity; of several silos' the least"),
        "secure": _i("1", "0: the noise follows from the study's seed (insecure_seed) and protects nobody"),
    }
)

RUN_SUMMARY = Schema(
    {
        **_FAIRNESS,
        "rounds": _i("1", "rounds completed"),
        "bytes_up": _i("byte", "all bytes silo to server"),
        "bytes_down": _i("byte", "all bytes server to silo"),
        "raw_up": _i("byte", "bytes the updates would take uncompressed"),
        "ratio_up": _f("1", "raw_up / bytes_up"),
        "ratio_both": _f("1", "(raw_up + raw_down) / (bytes_up + bytes_down)"),
        "violations": _i("1", "bound violations caught and mended at the sender"),
        "round_seconds": _seconds("median wall time of a round, the first left out where there are more"),
        "seconds": _seconds("wall time of all rounds"),
        "server_memory_bytes": _i("byte", "peak resident memory of the server's process", measured=True),
        "resumed_from": _i("1", "round that this run resumed from; -1 where it ran in one go", measured=True),
    }
)

# ---- bounds.h5 (calibrate) ------------------------------------------------------------------------------------------

BOUNDS = Schema(
    {
        "direction": _s("up: silo to server; down: server to silo"),
        "silo": _i("1", "silo; -1 for all"),
        "tensor": _s("name of the tensor"),
        "bound": _f("1", "absolute bound at round 0 (mean over silos of an uncompressed first round)"),
        "rule": _s("the bound in later rounds: 'range': scale * (max - min) of what is encoded, 'std': * its sd"),
        "scale": _f("1", "the rule's factor"),
        "predicted_bits": _f("bit", "predicted bits per value: entropy of round(x / (2 bound)) at round 0"),
        "measured_bits": _f("bit", "bits per value sent for the tensor's block, mean over a probe's rounds and silos"),
        "sensitivity": _f("1", "mean squared gradient of a validation sample's loss (empirical Fisher), after a probe"),
    }
)

BOUNDS_PROBES = Schema(
    {
        "scale": _f("1", "relative bound of the probe; 0 for the uncompressed run"),
        "seed": _i("1", "seed"),
        "fold": _i("1", "which part of each silo's samples the probe held out; 0: the study's validation part"),
        "purpose": _s("baseline: uncompressed; search: where to look; confirm: the test"),
        "accuracy": _f("1", "accuracy on the samples held out, mean of the probe's last five evaluations"),
        "drop": _f("percentage point", "accuracy of the uncompressed run of the same seed minus this one, in points"),
        "spread": _f("1", "standard deviation over silos of their validation accuracy"),
        "worst": _f("1", "the worst silo's validation accuracy"),
        "bytes_up": _i("byte", "uplink bytes of the probe, headers included"),
        "bytes_down": _i("byte", "downlink bytes of the probe, headers included"),
        "ratio_up": _f("1", "uncompressed over sent bytes, uplink"),
    }
)

BOUNDS_DECISION = Schema(
    {
        "rule": _s("what a bound is relative to: a tensor's value range ('range') or its standard deviation ('std')"),
        "scale": _f("1", "largest relative bound accepted; 0 where none was"),
        "refused": _f("1", "smallest relative bound above it that was refused; NaN where there is none"),
        "screened": _f("1", "where the search with the first seed ended and the confirmation began"),
        "tolerance": _f("percentage point", "accuracy drop allowed"),
        "confidence": _f("1", "probability, at least, that the accepted bound's expected drop is within the tolerance"),
        "mean_drop": _f("percentage point", "mean drop at the accepted bound, confirming seeds"),
        "upper_drop": _f(
            "percentage point", "upper confidence limit of the drop at the level of the test that accepted"
        ),
        "level": _f("1", "error probability of that limit: the bound's share of 1 - confidence"),
        "seeds": _i("1", "paired seeds that confirmed it"),
        "samples": _i("1", "different samples that those seeds held out, all silos"),
        "spread": _f("1", "standard deviation over silos of their accuracy at the accepted bound, mean over seeds"),
        "spread_uncompressed": _f("1", "the same, uncompressed"),
        "worst_drop": _f("percentage point", "what the worst silo loses against uncompressed, mean over seeds"),
        "probes": _i("1", "federated runs made"),
        "bytes": _i("byte", "bytes both ways that the calibration's probes would have cost"),
        "seconds": _seconds("wall time of the calibration"),
        "reveal_epsilon": _f("1", "epsilon of what each silo revealed for its own bound; NaN: no noise, or nothing"),
        "privacy": _s("what calibration looked at, and whether an epsilon covers it"),
    }
)

BOUNDS_SCALES = Schema(
    {
        "scale": _f("1", "relative bound that at least two confirming seeds were run at"),
        "seeds": _i("1", "confirming seeds"),
        "mean_drop": _f("percentage point", "mean drop"),
        "lower": _f("percentage point", "one-sided lower limit of the expected drop at the calibration's confidence"),
        "upper": _f("percentage point", "one-sided upper limit of the same"),
        "accepted": _i("1", "1: the accepted bound"),
    }
)

BOUNDS_SILOS = Schema(
    {
        "silo": _i("1", "silo"),
        "samples": _i("1", "training samples"),
        "label_entropy": _f("1", "entropy of the training labels over log(classes)"),
        "accuracy": _f("1", "validation accuracy, uncompressed, first seed"),
        "accuracy_bounded": _f("1", "validation accuracy at the accepted bound, mean over the confirming seeds"),
        "factor": _f("1", "factor on the scale of the silo's uplink"),
    }
)

BOUNDS_AGGREGATE = Schema(
    {
        "round": _i("1", "round of a probe at the accepted bound, from 1"),
        "block": _s("the tensor, or the names of the small tensors coded as one block"),
        "values": _i("1", "number of values"),
        "bound_over_sd": _f("1", "largest over silos of bound over standard deviation of what was encoded"),
        "measured": _f("1", "root mean square of the aggregated encoding error"),
        "largest": _f("1", "largest absolute aggregated encoding error"),
        "bound": _f("1", "what that may not exceed: the weighted sum of the silos' bounds"),
        "uniform": _f("1", "predicted standard deviation, errors uniform and uncorrelated"),
        "moments": _f("1", "predicted standard deviation from the silos' second moments, uncorrelated"),
        "correlation": _f("1", "mean correlation of two silos' errors"),
    }
)

# ---- profile.h5 -----------------------------------------------------------------------------------------------------

PROFILE_NODES = Schema(
    {
        "rank": _i("1", "MPI rank; 0 is the server"),
        "node": _i("1", "its node, numbered in the order of ranks", measured=True),
        "name": _s("the node's name", True),
        "type": _s("processor, cores and GPUs: nodes of one type are measured once", True),
        "cores": _i("1", "processor cores that the rank may use", measured=True),
    }
)

PROFILE_SILOS = Schema(
    {
        "round": _i("1", "measured round, from 1"),
        "silo": _i("1", "silo"),
        "steps": _i("1", "local steps"),
        "raw_bytes": _i("byte", "uncompressed update"),
        "up_bytes": _i("byte", "update message, header included"),
        "down_bytes": _i("byte", "model message, header included"),
        "train_seconds": _seconds("local training, all ranks at work"),
        "evaluate_seconds": _seconds("evaluation at the silo"),
        "model_seconds": _seconds("the silo decoding the model message and loading the model"),
        "encode_seconds": _seconds("encoding the update, bound check included"),
        "other_seconds": _seconds("what else the silo did: saving its state, packing"),
        "transfer_seconds": _seconds("from the model's dispatch to the update's arrival, less the silo's own work"),
        "arrival_seconds": _seconds("from the round's dispatch to the update's arrival"),
        "decode_seconds": _seconds("the server decoding this update"),
        "aggregate_seconds": _seconds("the server folding this update"),
    }
)

PROFILE_ROUNDS = Schema(
    {
        "round": _i("1", "measured round, from 1; the warm-up is left out"),
        "seconds": _seconds("from dispatch to new model"),
        "wait_seconds": _seconds("the server waiting for updates"),
        "downlink_seconds": _seconds("encoding the model"),
        "decode_seconds": _seconds("decoding all updates"),
        "aggregate_seconds": _seconds("folding all updates"),
    }
)

PROFILE_CODEC = Schema(
    {
        "block": _s("tensor or block"),
        "stage": _s("early: first measured round; late: last"),
        "values": _i("1", "number of values"),
        "bound": _f("1", "absolute bound"),
        "ratio": _f("1", "uncompressed over encoded bytes"),
        "entropy_ratio": _f("1", "32 (64) bits over the entropy of round(x / (2 bound)); NaN for lossless codecs"),
        "encode_rate": _f("byte/s", "uncompressed bytes encoded per second, median", measured=True),
        "decode_rate": _f("byte/s", "uncompressed bytes decoded per second, median", measured=True),
    }
)

PROFILE_CODEC_TIMES = Schema(
    {
        "block": _s("tensor or block"),
        "stage": _s("early: first measured round; late: last"),
        "repeat": _i("1", "repetition"),
        "encode_seconds": _seconds("encoding"),
        "decode_seconds": _seconds("decoding"),
    }
)

PROFILE_LINK = Schema(
    {
        "rank": _i("1", "MPI rank at the other end of the link from the server"),
        "bytes": _i("byte", "message size"),
        "repeat": _i("1", "repetition"),
        "seconds": _seconds("one-way time: half a round trip, packing and checking included"),
        "server_seconds": _seconds("processor time of the server's process in it"),
    }
)

PROFILE_PAIRS = Schema(
    {
        "first": _i("1", "node", measured=True),
        "second": _i("1", "node; the same one where two of its ranks were measured", measured=True),
        "bytes": _i("byte", "message size"),
        "repeat": _i("1", "repetition"),
        "seconds": _seconds("one-way time of a raw MPI message: half a round trip"),
    }
)

PROFILE_MESSAGES = Schema(
    {
        "what": _s("'server': its processor; 'link to rank k': the rest; 'nodes i and j': raw MPI; 'all at once'"),
        "bytes": _i("byte", "message size"),
        "measured": _seconds("median one-way time"),
        "fitted": _seconds("fixed_seconds + byte_seconds * bytes"),
        "residual": _f("1", "measured over fitted, less 1", measured=True),
        "fixed_seconds": _seconds("of the line: a message's time whatever its size"),
        "byte_seconds": _f("s/byte", "of the line: each byte's time", measured=True),
    }
)

PROFILE_SHARING = Schema(
    {
        "kind": _s("alone: a silo's own round; shared: as many steps in every rank"),
        "node": _i("1", "node", measured=True),
        "working": _i("1", "ranks of the node that worked at once"),
        "repeat": _i("1", "repetition"),
        "silo": _i("1", "silo"),
        "steps": _i("1", "local steps: as many as fill a time", measured=True),
        "train_seconds": _seconds("local training"),
        "evaluate_seconds": _seconds("evaluation"),
        "encode_seconds": _seconds("encoding the update"),
    }
)

PROFILE_UTILISATION = Schema(
    {
        "node": _i("1", "node", measured=True),
        "round": _i("1", "measured round that the sample is from; 0: the warm-up", measured=True),
        "time": _seconds("since the first sample"),
        "cpu": _f(
            "1", "busy share of the cores that the job may use; NaN where the system does not tell", measured=True
        ),
        "gpu": _f("1", "mean utilisation of the node's GPUs; NaN without NVML", measured=True),
        "gpu_memory": _f("1", "used share of the GPUs' memory; NaN without NVML", measured=True),
        "sent": _f("byte/s", "by the node's network, its loopback aside", measured=True),
        "received": _f("byte/s", "by the node's network, its loopback aside", measured=True),
    }
)

PROFILE_COSTS = Schema(
    {
        "silo": _i("1", "silo"),
        "node": _i("1", "node of its rank", measured=True),
        "samples": _i("1", "training samples"),
        "steps": _i("1", "local steps per round"),
        "train_seconds": _seconds("median local training per round, all ranks at work"),
        "alone_seconds": _seconds("median local training per round with the node's other ranks idle"),
        "evaluate_seconds": _seconds("median evaluation per round, all ranks at work"),
        "alone_evaluate_seconds": _seconds("median evaluation with the node's other ranks idle"),
        "encode_seconds": _seconds("median encoding per update, all ranks at work"),
        "alone_encode_seconds": _seconds("median encoding with the node's other ranks idle"),
        "model_seconds": _seconds("median decoding of the model message at the silo"),
        "other_seconds": _seconds("median of what else a silo does in a round: saving its state, packing"),
        "decode_seconds": _seconds("median decoding per update at the server"),
        "latency": _seconds("one-way latency of the link: the line through its times without the server's processor"),
        "bandwidth": _f("byte/s", "bandwidth of the link, from the same line", measured=True),
    }
)

PROFILE_SERVER = Schema(
    {
        "aggregate_seconds": _seconds("median time to fold one decoded update"),
        "downlink_seconds": _seconds("encoding the model, once for each version, median"),
        "message_seconds": _seconds("server time of a message whatever its size"),
        "message_byte_seconds": _f("s/byte", "server time of each byte of a message", measured=True),
        "bandwidth": _f("byte/s", "link of the server, each way, with all silos at once", measured=True),
        "round_seconds": _seconds("round time, median"),
        "round_overhead_seconds": _seconds("round time beyond its slowest silo, decoding and folding, median"),
        "ranks": _i("1", "MPI ranks"),
        "cores": _i("1", "processor cores that the job may use", measured=True),
    }
)

# ---- simulation.h5 --------------------------------------------------------------------------------------------------
# Everything here that is a time is computed from measured costs, hence measured.

SIMULATION_ROUNDS = Schema(
    {
        "round": _i("1", "aggregation, from 1"),
        "start": _seconds("simulated time of the dispatch"),
        "end": _seconds("simulated time of the new model"),
        "seconds": _seconds("end - start"),
        "download": _seconds("mean over clients: dispatch to model received"),
        "compute": _seconds("mean over clients: decoding the model, evaluation, training"),
        "codec": _seconds("mean over clients: encoding"),
        "upload": _seconds("mean over clients: update ready to update received"),
        "wait": _seconds("mean over clients: update received to the last one of its aggregation received"),
        "server": _seconds("server time after the last arrival: decoding and folding"),
        "slowest": _i("1", "client that arrived last", measured=True),
        "clients": _i("1", "updates folded", measured=True),
        "staleness": _f("1", "mean over clients: versions the model aged while they worked", measured=True),
        "up_bytes": _f("byte", "the updates folded, headers included", measured=True),
        "down_bytes": _f("byte", "the models that they started from, headers included", measured=True),
    }
)

SIMULATION_TIMELINE = Schema(
    {
        "client": _i("1", "client: at most 60, evenly spread from the first to arrive to the last", measured=True),
        "dispatched": _seconds("the server sent the client's last task"),
        "downloaded": _seconds("it had the model"),
        "computed": _seconds("it had its update, encoded"),
        "arrived": _seconds("the server had the update"),
    }
)

SIMULATION_EVENTS = Schema(
    {
        "time": _seconds("simulated time"),
        "event": _s("dispatched, downloaded, computed, arrived, folded, discarded, aggregated, left, returned", True),
        "client": _i("1", "client; -1: none", measured=True),
    }
)

SIMULATION_SUMMARY = Schema(
    {
        "clients": _i("1", "clients"),
        "scheduler": _s("scheduler"),
        "codec": _s("codec of the uplink"),
        "bound": _s("bound as written in the study"),
        "up_bytes": _f("byte", "mean update message of the measured run"),
        "down_bytes": _f("byte", "mean model message of the measured run"),
        "raw_bytes": _f("byte", "the model uncompressed, without headers"),
        "round_seconds": _seconds("mean simulated time from a round's first dispatch to its new model"),
        "epoch_seconds": _seconds("simulated time for as much local work as one round of all clients is"),
        "updates": _i("1", "updates folded", measured=True),
        "update_rate": _f("1/s", "updates folded per simulated second", measured=True),
        "staleness": _f("1", "mean over updates: versions the model aged while the client worked", measured=True),
        "target": _f("1", "accuracy to be reached"),
        "target_epochs": _f("1", "rounds' work per silo after which the run reached it; infinite where it did not"),
        "target_seconds": _seconds("simulated time to it: target_epochs * epoch_seconds"),
        "curve": _s("scheduler of the run that target_epochs is from"),
        "break_even": _f(
            "Mbit/s",
            "link of a lone client below which the codec saves time; NaN where it saves no bytes",
            measured=True,
        ),
        "uplink_utilisation": _f("1", "busy share of the server's incoming link", measured=True),
        "downlink_utilisation": _f("1", "busy share of the server's outgoing link", measured=True),
        "server_utilisation": _f("1", "busy share of the server's processor", measured=True),
        "client_utilisation": _f("1", "mean share of the time that a client computes", measured=True),
        "departures": _i("1", "how often a client left", measured=True),
        "server_bandwidth": _f("Mbit/s", "server link, each way"),
        "client_bandwidth": _f("Mbit/s", "median client link"),
        "events": _i("1", "events processed", measured=True),
        "engine": _s("engine that ran, and why it is valid here"),
        "wall_seconds": _seconds("wall time of the simulation itself"),
    }
)

SIMULATION_VALIDATION = Schema(
    {
        "quantity": _s("what is compared: 'round', 'arrival of silo k', or 'time between aggregations'"),
        "predicted": _seconds("predicted from the profile"),
        "measured": _seconds("median of the measured run, the first round left out"),
        "error": _f("1", "(predicted - measured) / measured", measured=True),
        "no_contention": _seconds("the same prediction if transfers did not share the link"),
    }
)

SIMULATION_PARTS = Schema(
    {
        "part": _s("part of a round of the study's own run, along the silo that is measured to arrive last"),
        "predicted": _seconds("predicted from the profile"),
        "measured": _seconds("median of the measured run, the first round left out"),
        "difference": _seconds("predicted - measured"),
    }
)

# ---- privacy.h5 -----------------------------------------------------------------------------------------------------

PRIVACY_RESULTS = Schema(
    {
        "mechanism": _s("mechanism"),
        "clients": _i("1", "clients n"),
        "dimension": _i("1", "coordinates d"),
        "clip": _f("1", "norm bound of one client's vector"),
        "norm": _s("norm that is clipped: L1 or L2"),
        "target_epsilon": _f("1", "epsilon asked for"),
        "epsilon": _f("1", "epsilon from the accountant for the parameters used"),
        "delta": _f("1", "delta at which epsilon holds"),
        "accountant": _s("accountant and its method"),
        "epsilon_pld": _f("1", "epsilon by loss distributions; under secure aggregation of one bad pair, not claimed"),
        "epsilon_rdp": _f("1", "epsilon by Rényi divergences"),
        "epsilon_alone": _f("1", "epsilon against one who sees single messages; inf where these are not private"),
        "epsilon_missing_10": _f("1", "epsilon if one client in ten sends nothing, and no share of noise"),
        "epsilon_missing_30": _f("1", "epsilon if three clients in ten send nothing"),
        "epsilon_missing_50": _f("1", "epsilon if half of the clients send nothing"),
        "audited": _f("1", "lower bound of epsilon shown by an audit of the mechanism in one coordinate; NaN: not run"),
        "audited_gaussian": _f("1", "the same if the trade-off of errors is a Gaussian's; NaN where it is not nearly"),
        "audit_claim": _f("1", "epsilon claimed by the release that was audited"),
        "audit_exact": _f("1", "epsilon of the audited pair by the exact laws of what is seen: no attack shows more"),
        "audit_draws": _i("1", "outputs drawn for each of the audit's two data sets"),
        "unit": _s("unit of privacy: what one record is"),
        "adjacency": _s("neighbouring data sets: add-remove, replace or zero-out"),
        "trust": _s("who is trusted: local (nobody), shuffler, secure aggregation or central server"),
        "sampling": _s("how clients are sampled"),
        "noise": _f("1", "noise parameter: standard deviation of the summed noise per coordinate, unscaled units"),
        "bits": _f("bit", "bits per coordinate that a client sends"),
        "mse": _f("1", "measured mean squared error per coordinate of the estimated mean"),
        "mse_se": _f("1", "standard error of mse over trials"),
        "mse_closed": _f("1", "the mechanism's closed form for the same"),
        "gain": _f("1", "closed form of the estimate's mean over the clients' mean: 1 without bias"),
        "mse_scaled": _f("1", "measured mean squared error of the estimate over its gain: compares biased mechanisms"),
        "bias": _f("1", "measured mean error per coordinate"),
        "floor": _f("1", "mse of the central analytic Gaussian mechanism at the same epsilon and delta"),
        "trials": _i("1", "repetitions"),
        "seconds": _seconds("wall time of the cell"),
    }
)

# ---- study.h5 (collect) ---------------------------------------------------------------------------------------------
# Keys that the collected tables carry in front of the columns of the artifacts they come from.

STUDY_KEYS = {
    "stem": _s("name of the artifact that the row comes from; joins the tables of a study"),
    "setting": _s("readable name of all that was set but the seed: what is the same in the whole study is left out"),
    "context": _s("the setting without its exchange (codec, bound, mode); '' where the study has one"),
    "problem": _s("the setting's data and model; '' where the study has one"),
    "case": _s("what sets this simulated network apart, clients aside; '' where the study has one"),
    "run": _s("stem of the training run whose bytes were simulated; '' where it was not collected"),
    "algorithm": _s("federated algorithm"),
    "codec": _s("codec of the uplink"),
    "mode": _s("what is sent: delta or weights"),
    "bound": _s("bound as written in the study; '' where the codec has none"),
    "bound_value": _f("1", "the bound's number, the calibrated one where it says so; NaN where there is none"),
    "scheduler": _s("scheduler"),
    "clients": _i("1", "clients simulated"),
    "seed": _i("1", "seed"),
}

STUDY_SCENARIOS = Schema(
    {
        "stage": _s("stage"),
        "stem": STUDY_KEYS["stem"],
        "status": _s("done, or missing where the artifact could not be read"),
        "setting": STUDY_KEYS["setting"],
        "algorithm": STUDY_KEYS["algorithm"],
        "codec": STUDY_KEYS["codec"],
        "bound": STUDY_KEYS["bound"],
        "seed": _i("1", "seed; -1 where the stage has none"),
        "mechanism": _s("privacy mechanism; '' elsewhere"),
        "epsilon": _f("1", "epsilon asked for; NaN elsewhere"),
        "clients": _i("1", "silos, simulated clients or clients of the estimate; -1 where unknown"),
        "scheduler": _s("scheduler; '' where the stage has none"),
        "content_digest": _s("SHA-256 of what was computed, without measured columns and provenance"),
        "error": _s("why a missing artifact could not be read", measured=True),
    }
)

STUDY_JOBS = Schema(
    {
        "stage": _s("stage"),
        "stem": STUDY_KEYS["stem"],
        "slurm_job": _s("id of the Slurm job that wrote the artifact; '' where it was none", measured=True),
        "cores": _i("1", "cores of the job: one for each MPI rank", measured=True),
        "seconds": _seconds("wall time of the job; NaN where nobody measured it"),
        "cpu_seconds": _seconds("processor time of all its processes; NaN for MPI jobs on Slurm without accounting"),
        "memory": _f("byte", "largest resident memory; by Slurm: of the largest task times the tasks", measured=True),
        "asked_memory": _f("byte", "memory asked for; NaN without Slurm's accounting", measured=True),
        "cpu_efficiency": _f("1", "cpu_seconds / (seconds * cores)", measured=True),
        "memory_efficiency": _f("1", "memory / asked_memory", measured=True),
        "source": _s("slurm: its accounting; snakemake: the job's benchmark file; '' neither", measured=True),
    }
)

STUDY_PROVENANCE = Schema(
    {
        "stem": _s("artifact", measured=True),
        "key": _s("what is recorded: host, time, job, library version", measured=True),
        "value": _s("its value", measured=True),
    }
)

STUDY_SETTINGS = Schema(
    {
        **{key: STUDY_KEYS[key] for key in ("setting", "context", "problem", "algorithm", "codec", "mode", "bound")},
        "bound_value": STUDY_KEYS["bound_value"],
        "seeds": _i("1", "runs, one per seed"),
        "accuracy": _f("1", "test accuracy, mean over seeds"),
        "accuracy_sd": _f("1", "its standard deviation over seeds; NaN for one seed"),
        "worst_silo": _f("1", "the worst silo's test accuracy, mean over seeds"),
        "spread": _f("1", "standard deviation over silos of their test accuracy, mean over seeds"),
        "bytes_up": _f("byte", "all bytes silo to server, mean over seeds"),
        "bytes_down": _f("byte", "all bytes server to silo, mean over seeds"),
        "bytes": _f("byte", "bytes both ways, mean over seeds"),
        "ratio_up": _f("1", "uncompressed over sent bytes, uplink, mean over seeds"),
        "ratio_both": _f("1", "uncompressed over sent bytes, both ways, mean over seeds"),
        "violations": _i("1", "bound violations caught and mended at the sender, all seeds"),
        "epsilon": _f("1", "epsilon of the whole run, the largest over seeds; NaN without privacy"),
        "round_seconds": _seconds("measured time of a round, mean over seeds"),
    }
)

STUDY_COMPARISONS = Schema(
    {
        **{key: STUDY_KEYS[key] for key in ("setting", "context", "problem", "algorithm", "codec", "mode", "bound")},
        "baseline": _s("the uncompressed setting it is paired with, seed by seed"),
        "seeds": _i("1", "seeds that both settings have"),
        "accuracy": _f("1", "test accuracy, mean over the paired seeds"),
        "baseline_accuracy": _f("1", "uncompressed test accuracy, mean over the paired seeds"),
        "drop": _f("percentage point", "accuracy lost against uncompressed, mean over the paired seeds"),
        "drop_sd": _f("percentage point", "standard deviation of the drop over seeds; NaN for one seed"),
        "drop_upper": _f("percentage point", "one-sided 95 % upper limit of the drop (paired t); NaN for one seed"),
        "worst_silo": _f("1", "the worst silo's test accuracy, mean over the paired seeds"),
        "baseline_worst_silo": _f("1", "the same, uncompressed"),
        "worst_silo_drop": _f("percentage point", "what the worst silo loses against uncompressed, mean over seeds"),
        "spread": _f("percentage point", "standard deviation over silos of their test accuracy, mean over seeds"),
        "spread_difference": _f("percentage point", "that spread minus the uncompressed one"),
        "bytes_up": _f("byte", "all bytes silo to server, mean over the paired seeds"),
        "bytes_down": _f("byte", "all bytes server to silo, mean over the paired seeds"),
        "bytes": _f("byte", "bytes both ways, mean over the paired seeds"),
        "baseline_bytes": _f("byte", "uncompressed bytes both ways, mean over the paired seeds"),
        "ratio_up": _f("1", "raw over sent bytes, uplink, mean over the paired seeds"),
        "ratio_both": _f("1", "raw over sent bytes, both ways, mean over the paired seeds"),
        "saving": _f("1", "baseline_bytes / bytes: what the wire saves against the uncompressed run"),
        "round_seconds": _seconds("measured time of a round, mean over the paired seeds"),
        "baseline_round_seconds": _seconds("the same, uncompressed"),
    }
)

STUDY_PARETO = Schema(
    {
        "problem": STUDY_KEYS["problem"],
        "context": STUDY_KEYS["context"],
        "setting": STUDY_KEYS["setting"],
        "accuracy": _f("1", "test accuracy, mean over seeds"),
        "worst_silo": _f("1", "the worst silo's test accuracy, mean over seeds"),
        "bytes": _f("byte", "bytes both ways, mean over seeds"),
        "drop": _f("percentage point", "mean drop against uncompressed; 0 for the uncompressed setting"),
        "drop_upper": _f("percentage point", "its one-sided 95 % upper limit; NaN below two seeds"),
        "worst_silo_drop": _f("percentage point", "what the worst silo loses against uncompressed"),
        "epsilon": _f("1", "epsilon of the whole run, the largest over seeds; NaN without privacy"),
        "seeds": _i("1", "seeds paired"),
        "acceptable": _i("1", "1 where drop and worst silo stay within the report's tolerance"),
        "front": _i("1", "1 where no other setting has fewer bytes and no less accuracy and worst silo"),
        "chosen": _i("1", "1 for the setting recommended"),
        "reason": _s("why it was chosen, or why not"),
        "round_seconds": _seconds("measured time of a round, mean over seeds"),
        "predicted_seconds": _seconds("predicted time of a round at the study's largest number of clients, mean"),
    }
)

STUDY_PRIVATE = Schema(
    {
        "problem": STUDY_KEYS["problem"],
        "setting": STUDY_KEYS["setting"],
        "mechanism": _s("law of the noise; none without privacy"),
        "epsilon": _f("1", "claimed: epsilon of the whole run, the largest over seeds; inf without privacy"),
        "delta": _f("1", "delta at which epsilon holds; NaN without privacy"),
        "accuracy": _f("1", "test accuracy, mean over seeds"),
        "accuracy_sd": _f("1", "its standard deviation over seeds; NaN for one seed"),
        "worst_silo": _f("1", "the worst silo's test accuracy, mean over seeds"),
        "bits": _f("bit", "bits per value that a silo sends, headers included, mean over seeds"),
        "seeds": _i("1", "runs, one per seed"),
        "unit": _s("unit of privacy: what is protected"),
        "adjacency": _s("neighbouring data sets: zero-out or replace-one"),
        "trust": _s("who must be trusted for epsilon to hold"),
        "sampling": _s("what amplification by sampling is counted"),
        "accountant": _s("how epsilon was computed"),
        "noise_multiplier": _f("1", "noise of one release over the sensitivity; NaN without privacy"),
        "secure": _i("1", "0: no noise, or noise from the study's seed (insecure_seed), which protects nobody"),
    }
)

STUDY_RANKING = Schema(
    {
        "clients": _i("1", "clients n"),
        "dimension": _i("1", "coordinates d"),
        "clip": _f("1", "norm bound of one client's vector"),
        "delta": _f("1", "delta at which epsilon holds"),
        "target_epsilon": _f("1", "epsilon asked for"),
        "norm": _s("norm that is clipped; errors compare within one norm"),
        "rank": _i("1", "1: the least error within the report's trust and bits; 0: outside of them"),
        "setting": STUDY_KEYS["setting"],
        "mechanism": _s("mechanism"),
        "mse_scaled": _f("1", "measured mean squared error per coordinate over the squared gain, mean over seeds"),
        "over_floor": _f("1", "that over the central analytic Gaussian's; NaN where another norm is clipped"),
        "bits": _f("bit", "bits per coordinate that a client sends"),
        "epsilon": _f("1", "epsilon claimed"),
        "audited": _f("1", "lower bound of epsilon shown by the mechanism's audit; NaN: not run"),
        "audit_claim": _f("1", "epsilon claimed by the release that was audited"),
        "gain": _f("1", "closed form of the estimate's mean over the clients' mean: 1 without bias"),
        "trust": _s("who is trusted: local (nobody), shuffler, secure aggregation or central server"),
        "adjacency": _s("neighbouring data sets: add-remove, replace or zero-out; replace is the strongest"),
        "against": _s("why it is outside of the report's trust or bits; '' where it is not"),
    }
)

STUDY_LINKS = Schema(
    {
        "stem": STUDY_KEYS["stem"],
        "setting": STUDY_KEYS["setting"],
        "link": _s("the silo's link: a bandwidth that the study simulates, or 'measured' where the profile ran"),
        "silo": _i("1", "silo"),
        "bandwidth": _f("Mbit/s", "the link each way", measured=True),
        "break_even": _f("Mbit/s", "link below which compressing saves time; 0 where it saves no bytes", measured=True),
        "pays": _i("1", "1: the link is slower than that", measured=True),
        "plain_seconds": _seconds("from update ready to update decoded, uncompressed"),
        "coded_seconds": _seconds("the same, compressed: encoding, sending, decoding one after the other"),
        "pipelined_seconds": _seconds("the same, compressed, in 16 chunks whose steps overlap"),
        "hidden": _f("1", "share of the coding time that such a pipeline hides", measured=True),
        "device_idle": _f("1", "share of a synchronous round that the training device is idle", measured=True),
        "processor_idle": _f("1", "the same, of the processor that encodes", measured=True),
        "link_idle": _f("1", "the same, of the silo's link", measured=True),
        "waits_seconds": _seconds("the silo's wait for the slowest one"),
    }
)

STUDY_LINK_ADVICE = Schema(
    {
        "stem": STUDY_KEYS["stem"],
        "setting": STUDY_KEYS["setting"],
        "link": _s("the silos' link: a bandwidth that the study simulates, or 'measured' where the profile ran"),
        "pays": _i("1", "silos for which compressing pays", measured=True),
        "advice": _s("whether to compress on this link", measured=True),
    }
)

STUDY_RECOMMENDATION = Schema(
    {
        "problem": STUDY_KEYS["problem"],
        "kind": _s("choice, evidence, traffic, time or against"),
        "sentence": _s("the sentence; nothing in it depends on a measured time"),
        "timing": _s("what measured and simulated times add to it; '' elsewhere", measured=True),
    }
)

# ---- fedbound bench --out -------------------------------------------------------------------------------------------

BENCH_ROWS = Schema(
    {
        "bench": _s("name of the bench"),
        "case": _s("what was measured"),
        "peer": _s("what it was compared with in the same run; '' for a figure of its own"),
        "metric": _s("name of the figure"),
        "value": _f("the row's own", "the figure; NaN where it is a text", measured=True),
        "text": _s("the figure where it is a text: the machine and versions", measured=True),
        "unit": _s("unit of the figure; 1 for a plain number"),
    }
)

# ---- reference ------------------------------------------------------------------------------------------------------

TABLES: dict[str, dict[str, Schema]] = {
    "profile": {
        "nodes": PROFILE_NODES,
        "silos": PROFILE_SILOS,
        "rounds": PROFILE_ROUNDS,
        "codec": PROFILE_CODEC,
        "codec_times": PROFILE_CODEC_TIMES,
        "link": PROFILE_LINK,
        "pairs": PROFILE_PAIRS,
        "messages": PROFILE_MESSAGES,
        "sharing": PROFILE_SHARING,
        "utilisation": PROFILE_UTILISATION,
        "costs": PROFILE_COSTS,
        "server": PROFILE_SERVER,
    },
    "calibrate": {
        "bounds": BOUNDS,
        "probes": BOUNDS_PROBES,
        "scales": BOUNDS_SCALES,
        "decision": BOUNDS_DECISION,
        "silos": BOUNDS_SILOS,
        "aggregate": BOUNDS_AGGREGATE,
    },
    "train": {
        "rounds": RUN_ROUNDS,
        "silos": RUN_SILOS,
        "evaluations": RUN_EVALUATIONS,
        "tensors": RUN_TENSORS,
        "failures": RUN_FAILURES,
        "guard": RUN_GUARD,
        "privacy": RUN_PRIVACY,
        "summary": RUN_SUMMARY,
    },
    "privacy": {"results": PRIVACY_RESULTS},
    "simulate": {
        "rounds": SIMULATION_ROUNDS,
        "summary": SIMULATION_SUMMARY,
        "timeline": SIMULATION_TIMELINE,
        "events": SIMULATION_EVENTS,
        "validation": SIMULATION_VALIDATION,
        "validation_parts": SIMULATION_PARTS,
    },
    "collect": {
        "scenarios": STUDY_SCENARIOS,
        "settings": STUDY_SETTINGS,
        "comparisons": STUDY_COMPARISONS,
        "pareto": STUDY_PARETO,
        "private_training": STUDY_PRIVATE,
        "mechanisms": STUDY_RANKING,
        "links": STUDY_LINKS,
        "link_advice": STUDY_LINK_ADVICE,
        "recommendation": STUDY_RECOMMENDATION,
        "jobs": STUDY_JOBS,
        "provenance": STUDY_PROVENANCE,
    },
    "bench": {"rows": BENCH_ROWS},
}

_INTRODUCTION = """\
# Tables

What every artifact holds, stage by stage. Generated from `fedbound/schemas.py` by `fedbound.schemas.markdown()`; edit
there. How the files are laid out and how to read them is in [artifacts.md](artifacts.md).

The unit `1` is a plain number. A column that is *measured* holds a time, or what is computed from times: it differs
between two runs of the same study, so `fedbound inspect --diff` and the content digest pass over it.
"""

_STUDY_KEYS_TEXT = """\
### Tables of the stages, collected

`study.h5` also holds the stages' own tables, the rows of all artifacts one after the other, with some of these
columns in front:
"""


def markdown() -> str:
    """The reference of all tables as Markdown: the content of `docs/tables.md`."""
    parts = [_INTRODUCTION]
    for stage, tables in TABLES.items():
        places = {"collect": "results/<study>/study.h5", "bench": "fedbound bench NAME --out FILE.h5"}
        parts.append(f"## {stage}: `{places.get(stage, f'results/<study>/{stage}/*.h5')}`\n")
        parts += [f"### `{name}`\n\n{_rows(schema.fields)}" for name, schema in tables.items()]
    parts.append(f"{_STUDY_KEYS_TEXT}\n{_rows(STUDY_KEYS)}")
    return "\n".join(parts)


def _rows(fields: Mapping[str, Field]) -> str:
    lines = ["| column | type | unit | measured | meaning |", "|---|---|---|---|---|"]
    for name, field in fields.items():
        meaning = field.description.replace("|", "\\|")
        lines.append(f"| `{name}` | {field.dtype} | {field.unit} | {'yes' if field.measured else ''} | {meaning} |")
    return "\n".join(lines) + "\n"
