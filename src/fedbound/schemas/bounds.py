"""Tables of bounds.h5, what `calibrate` leaves."""

from __future__ import annotations

from fedbound.artifacts import Schema
from fedbound.schemas.columns import real, seconds, text, whole

BOUNDS = Schema(
    {
        "direction": text("up: silo to server; down: server to silo"),
        "silo": whole("1", "silo; -1 for all"),
        "tensor": text("name of the tensor"),
        "bound": real("1", "absolute bound at round 0 (mean over silos of an uncompressed first round)"),
        "rule": text("the bound in later rounds: 'range': scale * (max - min) of what is encoded, 'std': * its sd"),
        "scale": real("1", "the rule's factor"),
        "predicted_bits": real("bit", "predicted bits per value: entropy of round(x / (2 bound)) at round 0"),
        "measured_bits": real(
            "bit", "bits per value sent for the tensor's block, mean over a probe's rounds and silos"
        ),
        "sensitivity": real(
            "1", "mean squared gradient of a validation sample's loss (empirical Fisher), after a probe"
        ),
    }
)

BOUNDS_PROBES = Schema(
    {
        "scale": real("1", "relative bound of the probe; 0 for the uncompressed run"),
        "seed": whole("1", "seed"),
        "fold": whole("1", "which part of each silo's samples the probe held out; 0: the study's validation part"),
        "purpose": text("baseline: uncompressed; search: where to look; confirm: the test"),
        "accuracy": real("1", "accuracy on the samples held out, mean of the probe's last five evaluations"),
        "drop": real("percentage point", "accuracy of the uncompressed run of the same seed minus this one, in points"),
        "spread": real("1", "standard deviation over silos of their validation accuracy"),
        "worst": real("1", "the worst silo's validation accuracy"),
        "bytes_up": whole("byte", "uplink bytes of the probe, headers included"),
        "bytes_down": whole("byte", "downlink bytes of the probe, headers included"),
        "ratio_up": real("1", "uncompressed over sent bytes, uplink"),
    }
)

BOUNDS_DECISION = Schema(
    {
        "rule": text("what a bound is relative to: a tensor's value range ('range') or its standard deviation ('std')"),
        "scale": real("1", "relative bound accepted: the largest confirmed, or a finer one of few more bytes"),
        "refused": real("1", "smallest relative bound above it that was refused; NaN where there is none"),
        "screened": real("1", "where the search with the first seed ended and the confirmation began"),
        "tolerance": real("percentage point", "accuracy drop allowed"),
        "confidence": real(
            "1", "probability, at least, that the accepted bound's expected drop is within the tolerance"
        ),
        "mean_drop": real("percentage point", "mean drop at the accepted bound, confirming seeds"),
        "upper_drop": real(
            "percentage point", "upper confidence limit of the drop at the level of the test that accepted"
        ),
        "level": real("1", "error probability of that limit: the bound's share of 1 - confidence"),
        "largest": real("1", "largest relative bound confirmed"),
        "upper_test": real(
            "percentage point", "what the upper limit would be, at most, of as many fresh seeds on the test samples"
        ),
        "seeds": whole("1", "paired seeds that confirmed it"),
        "samples": whole("1", "different samples that those seeds held out, all silos"),
        "spread": real("1", "standard deviation over silos of their accuracy at the accepted bound, mean over seeds"),
        "spread_uncompressed": real("1", "the same, uncompressed"),
        "worst_drop": real("percentage point", "what the worst silo loses against uncompressed, mean over seeds"),
        "probes": whole("1", "federated runs made"),
        "bytes": whole("byte", "bytes both ways that the calibration's probes would have cost"),
        "seconds": seconds("wall time of the calibration"),
        "reveal_epsilon": real("1", "epsilon of what each silo revealed for its own bound; NaN: no noise, or nothing"),
        "privacy": text("what calibration looked at, and whether an epsilon covers it"),
    }
)

BOUNDS_SCALES = Schema(
    {
        "scale": real("1", "relative bound that at least two confirming seeds were run at"),
        "seeds": whole("1", "confirming seeds"),
        "mean_drop": real("percentage point", "mean drop"),
        "lower": real("percentage point", "one-sided lower limit of the expected drop at the calibration's confidence"),
        "upper": real("percentage point", "one-sided upper limit of the same"),
        "accepted": whole("1", "1: the accepted bound"),
    }
)

BOUNDS_SILOS = Schema(
    {
        "silo": whole("1", "silo"),
        "samples": whole("1", "training samples"),
        "label_entropy": real("1", "entropy of the training labels over log(classes)"),
        "accuracy": real("1", "validation accuracy, uncompressed, first seed"),
        "accuracy_bounded": real("1", "validation accuracy at the accepted bound, mean over the confirming seeds"),
        "factor": real("1", "factor on the scale of the silo's uplink"),
    }
)

BOUNDS_AGGREGATE = Schema(
    {
        "round": whole("1", "round of a probe at the accepted bound, from 1"),
        "block": text("the tensor, or the names of the small tensors coded as one block"),
        "values": whole("1", "number of values"),
        "bound_over_sd": real("1", "largest over silos of bound over standard deviation of what was encoded"),
        "measured": real("1", "root mean square of the aggregated encoding error"),
        "largest": real("1", "largest absolute aggregated encoding error"),
        "bound": real("1", "what that may not exceed: the weighted sum of the silos' bounds"),
        "uniform": real("1", "predicted standard deviation, errors uniform and uncorrelated"),
        "moments": real("1", "predicted standard deviation from the silos' second moments, uncorrelated"),
        "correlation": real("1", "mean correlation of two silos' errors"),
    }
)
