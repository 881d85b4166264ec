"""The table of privacy.h5."""

from __future__ import annotations

from fedbound.artifacts import Schema
from fedbound.schemas.columns import real, seconds, text, whole

PRIVACY_RESULTS = Schema(
    {
        "mechanism": text("mechanism"),
        "clients": whole("1", "clients n"),
        "dimension": whole("1", "coordinates d"),
        "clip": real("1", "norm bound of one client's vector"),
        "norm": text("norm that is clipped: L1 or L2"),
        "target_epsilon": real("1", "epsilon asked for"),
        "epsilon": real("1", "epsilon from the accountant for the parameters used"),
        "delta": real("1", "delta at which epsilon holds"),
        "accountant": text("accountant and its method"),
        "epsilon_pld": real(
            "1", "epsilon by loss distributions; under secure aggregation of one bad pair, not claimed"
        ),
        "epsilon_rdp": real("1", "epsilon by Rényi divergences"),
        "epsilon_alone": real("1", "epsilon against one who sees single messages; inf where these are not private"),
        "epsilon_missing_10": real("1", "epsilon if one client in ten sends nothing, and no share of noise"),
        "epsilon_missing_30": real("1", "epsilon if three clients in ten send nothing"),
        "epsilon_missing_50": real("1", "epsilon if half of the clients send nothing"),
        "audited": real(
            "1", "lower bound of epsilon shown by an audit of the mechanism in one coordinate; NaN: not run"
        ),
        "audited_gaussian": real(
            "1", "the same if the trade-off of errors is a Gaussian's; NaN where it is not nearly"
        ),
        "audit_claim": real("1", "epsilon claimed by the release that was audited"),
        "audit_exact": real("1", "epsilon of the audited pair by the exact laws of what is seen: no attack shows more"),
        "audit_draws": whole("1", "outputs drawn for each of the audit's two data sets"),
        "unit": text("unit of privacy: what one record is"),
        "adjacency": text("neighbouring data sets: add-remove, replace or zero-out"),
        "trust": text("who is trusted: local (nobody), shuffler, secure aggregation or central server"),
        "sampling": text("how clients are sampled"),
        "noise": real("1", "noise parameter: standard deviation of the summed noise per coordinate, unscaled units"),
        "bits": real("bit", "bits per coordinate that a client sends"),
        "mse": real("1", "measured mean squared error per coordinate of the estimated mean"),
        "mse_se": real("1", "standard error of mse over trials"),
        "mse_closed": real("1", "the mechanism's closed form for the same"),
        "gain": real("1", "closed form of the estimate's mean over the clients' mean: 1 without bias"),
        "mse_scaled": real(
            "1", "measured mean squared error of the estimate over its gain: compares biased mechanisms"
        ),
        "bias": real("1", "measured mean error per coordinate"),
        "floor": real("1", "mse of the central analytic Gaussian mechanism at the same epsilon and delta"),
        "trials": whole("1", "repetitions"),
        "seconds": seconds("wall time of the cell"),
    }
)
