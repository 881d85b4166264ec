"""Tables of run.h5, what `train` leaves."""

from __future__ import annotations

from fedbound.artifacts import Schema
from fedbound.schemas.columns import FAIRNESS, real, seconds, text, whole

RUN_ROUNDS = Schema(
    {
        "round": whole("1", "rounds completed; row 0 is the initial model"),
        **FAIRNESS,
        "bytes_up": whole(
            "byte",
            "bytes of all messages silo to server in this round, headers included; with training.reduce also of what "
            "silos put into the sum",
        ),
        "bytes_down": whole("byte", "bytes of all messages server to silo in this round, headers included"),
        "payload_up": whole(
            "byte", "bytes of the encoded tensors in the round's updates or its sum; bytes_up also counts headers"
        ),
        "payload_down": whole("byte", "bytes of the encoded tensors in the round's models"),
        "raw_up": whole("byte", "bytes the round's updates would take uncompressed, without headers"),
        "raw_down": whole("byte", "bytes the round's models would take uncompressed, without headers"),
        "ratio_up": real("1", "raw_up / bytes_up"),
        "epsilon": real("1", "epsilon of the most charged silo's updates so far; nan without privacy"),
        "error_uniform": real("1", "predicted sd of the aggregate's encoding error, errors uniform and uncorrelated"),
        "error_moments": real("1", "the same from the silos' second moments, uncorrelated; weights are FedAvg's"),
        "error_measured": real(
            "1", "root mean square of it; NaN over MPI, out of step, or without error feedback", True
        ),
        "error_correlation": real("1", "mean correlation of two silos' errors; NaN as error_measured", True),
        "violations": whole("1", "blocks whose error exceeded the bound and were sent again by a tighter encoding"),
        "seconds": seconds("wall time of the round at the server, from dispatch to the new model"),
        "aggregate_seconds": seconds(
            "time the server spent folding updates, decoding apart; with training.reduce the whole sum"
        ),
        "decode_seconds": seconds("time the server spent decoding updates"),
        "wait_seconds": seconds("time the server waited for messages"),
        "checkpoint_seconds": seconds("time the server spent writing its checkpoint"),
        "save_seconds": seconds("time the server waited for silos to save their states"),
        "checkpoint_bytes": whole("byte", "size of the server's checkpoint", measured=True),
        "downlink_seconds": seconds("time the server spent encoding the model, bound check included"),
        "resync_bytes": whole("byte", "bytes moved beyond that because a silo restarted, both ways", measured=True),
    }
)

RUN_SILOS = Schema(
    {
        "round": whole("1", "round in which this update was made, from 1"),
        "silo": whole("1", "silo"),
        "samples": whole("1", "training samples of the silo"),
        "steps": whole("1", "local steps taken"),
        "releases": whole("1", "noised updates that the silo has made so far, restarts included; 0 without privacy"),
        "train_loss": real("nat", "mean training loss over the round's local steps; nan under privacy"),
        "bytes_up": whole(
            "byte",
            "bytes of the update message, header included; with training.reduce also of the silo's part of the sum, 4 "
            "a value, wherever it was added up",
        ),
        "payload_up": whole("byte", "bytes of the encoded tensors in the update message, or of the silo's part"),
        "raw_up": whole("byte", "bytes the update would take uncompressed"),
        "bytes_down": whole("byte", "bytes of the model messages, headers included"),
        "payload_down": whole("byte", "bytes of the encoded tensors in the model messages"),
        "error_over_bound": real("1", "largest |x - decoded| / bound over all lossy blocks; 0 where none is lossy"),
        "violations": whole("1", "blocks encoded again because the bound was exceeded"),
        "residual_norm": real("1", "L2 norm of the error-feedback residual after encoding"),
        "staleness": whole("1", "model versions that passed between dispatch and aggregation"),
        "train_seconds": seconds("local training"),
        "evaluate_seconds": seconds("evaluating the received model on the silo's own test and validation data"),
        "model_seconds": seconds("the silo decoded the model message and loaded the model"),
        "encode_seconds": seconds("encoding the update, bound check included"),
        "wait_seconds": seconds("the silo waited for the model"),
        "busy_seconds": seconds("the silo's whole work on this message: all of these, and saving its state"),
        "transfer_seconds": seconds(
            "from the model's dispatch to the update's arrival, without busy_seconds: both transfers, and waiting for "
            "other silos of the same rank or for the server's attention"
        ),
        "decode_seconds": seconds("the server decoded this update"),
        "aggregate_seconds": seconds("the server folded this update"),
        "arrival_seconds": seconds("from the round's dispatch to this update's arrival at the server"),
        "memory_bytes": whole("byte", "peak resident memory of the silo's process", measured=True),
    }
)

RUN_EVALUATIONS = Schema(
    {
        "round": whole("1", "rounds completed when the model was evaluated"),
        "silo": whole("1", "silo"),
        "test_samples": whole("1", "test samples of the silo"),
        "test_accuracy": real("1", "accuracy on the silo's own test samples"),
        "test_loss": real("nat", "mean cross-entropy on the silo's own test samples"),
        "validation_samples": whole("1", "validation samples of the silo"),
        "validation_accuracy": real("1", "accuracy on the silo's own validation samples; NaN where it has none"),
    }
)

RUN_TENSORS = Schema(
    {
        "round": whole("1", "up: round of the update; down: version of the model that was sent"),
        "direction": text("up: silo to server; down: server to silo"),
        "silo": whole("1", "silo; -1 for the model that all silos get"),
        "block": text("the tensor, or the names of the small tensors coded as one block"),
        "values": whole("1", "number of values"),
        "bound": real("1", "absolute error bound used; 0 where lossless"),
        "bytes": whole("byte", "encoded bytes"),
    }
)

RUN_FAILURES = Schema(
    {
        "round": whole("1", "round in which it happened, from 1"),
        "silo": whole("1", "silo"),
        "kind": text("rejected: its update could not be used; failed: the run went on without the silo"),
        "reason": text("what was wrong"),
    }
)
RUN_GUARD = Schema(
    {
        "round": whole("1", "rounds completed when the model was evaluated"),
        "accuracy": real("1", "validation accuracy of what the silos hold, over all their validation samples"),
        "shortfall": real("percentage point", "best accuracy so far less this one, less the margin for chance"),
        "factor": real("1", "factor on every bound from now on"),
        "exact": whole("1", "1: the next exchange is lossless"),
        "reason": text("why"),
    }
)

RUN_PRIVACY = Schema(
    {
        "round": whole("1", "rounds completed"),
        "epsilon": real("1", "claimed: of all releases so far, of the most charged unit"),
        "delta": real("1", "delta at which epsilon holds"),
        "releases": whole("1", "noised messages of the silo that had made the most by then, restarts included"),
        "mechanism": text("law of the noise"),
        "unit": text("unit of privacy: what is protected"),
        "adjacency": text("neighbouring data sets: zero-out or replace-one"),
        "trust": text("who must be trusted for epsilon to hold"),
        "sampling": text("what amplification by sampling is counted"),
        "accountant": text("how epsilon was computed"),
        "clip": real("1", "largest norm of an update, or of one record's gradient"),
        "noise_multiplier": real("1", "noise of one release over the sensitivity; of several silos' the least"),
        "secure": whole("1", "0: the noise follows from the study's seed (insecure_seed) and protects nobody"),
    }
)

RUN_AUDIT = Schema(
    {
        "claimed": real("1", "epsilon of all planned rounds, as claimed"),
        "audited": real("1", "lower bound of epsilon that canaries show in a replay of the run's releases"),
        "cap": real("1", "the lower bound if every guess had been right: no more can be shown with so many canaries"),
        "level": real("1", "probability that a true claim is exceeded, at most"),
        "canaries": whole("1", "units that held a vector of their own or nothing, by a coin flip"),
        "guesses": whole("1", "guesses that the bound is of"),
        "right": whole("1", "right ones among them"),
    }
)

RUN_SUMMARY = Schema(
    {
        **FAIRNESS,
        "rounds": whole("1", "rounds completed"),
        "bytes_up": whole("byte", "all bytes silo to server"),
        "bytes_down": whole("byte", "all bytes server to silo"),
        "raw_up": whole("byte", "bytes the updates would take uncompressed"),
        "ratio_up": real("1", "raw_up / bytes_up"),
        "ratio_both": real("1", "(raw_up + raw_down) / (bytes_up + bytes_down)"),
        "violations": whole("1", "bound violations caught and mended at the sender"),
        "round_seconds": seconds("median wall time of a round, the first left out where there are more"),
        "seconds": seconds("wall time of all rounds"),
        "server_memory_bytes": whole("byte", "peak resident memory of the server's process", measured=True),
        "resumed_from": whole("1", "round that this run resumed from; -1 where it ran in one go", measured=True),
    }
)
