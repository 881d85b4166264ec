"""Tables of simulation.h5. Every time here is computed from measured costs, hence measured."""

from __future__ import annotations

from fedbound.artifacts import Schema
from fedbound.schemas.columns import real, seconds, text, whole

SIMULATION_ROUNDS = Schema(
    {
        "round": whole("1", "aggregation, from 1"),
        "start": seconds("simulated time of the dispatch"),
        "end": seconds("simulated time of the new model"),
        "seconds": seconds("end - start"),
        "download": seconds("mean over clients: dispatch to model received"),
        "compute": seconds("mean over clients: decoding the model, evaluation, training"),
        "codec": seconds("mean over clients: encoding"),
        "upload": seconds("mean over clients: update ready to update received"),
        "wait": seconds("mean over clients: update received to the last one of its aggregation received"),
        "server": seconds("server time after the last arrival: decoding and folding"),
        "slowest": whole("1", "client that arrived last", measured=True),
        "clients": whole("1", "updates folded", measured=True),
        "staleness": real("1", "mean over clients: versions the model aged while they worked", measured=True),
        "up_bytes": real("byte", "the updates folded, headers included", measured=True),
        "down_bytes": real("byte", "the models that they started from, headers included", measured=True),
    }
)

SIMULATION_TIMELINE = Schema(
    {
        "client": whole("1", "client: at most 60, evenly spread from the first to arrive to the last", measured=True),
        "dispatched": seconds("the server sent the client's last task"),
        "downloaded": seconds("it had the model"),
        "computed": seconds("it had its update, encoded"),
        "arrived": seconds("the server had the update"),
    }
)

SIMULATION_EVENTS = Schema(
    {
        "time": seconds("simulated time"),
        "event": text("dispatched, downloaded, computed, arrived, folded, discarded, aggregated, left, returned", True),
        "client": whole("1", "client; -1: none", measured=True),
    }
)

SIMULATION_SUMMARY = Schema(
    {
        "clients": whole("1", "clients"),
        "scheduler": text("scheduler"),
        "codec": text("codec of the uplink"),
        "bound": text("bound as written in the study"),
        "up_bytes": real("byte", "mean update message of the measured run"),
        "down_bytes": real("byte", "mean model message of the measured run"),
        "raw_bytes": real("byte", "the model uncompressed, without headers"),
        "round_seconds": seconds("mean simulated time from a round's first dispatch to its new model"),
        "epoch_seconds": seconds("simulated time for as much local work as one round of all clients is"),
        "updates": whole("1", "updates folded", measured=True),
        "update_rate": real("1/s", "updates folded per simulated second", measured=True),
        "staleness": real("1", "mean over updates: versions the model aged while the client worked", measured=True),
        "target": real("1", "accuracy to be reached"),
        "target_epochs": real("1", "rounds' work per silo after which the run reached it; infinite where it did not"),
        "target_seconds": seconds("simulated time to it: target_epochs * epoch_seconds"),
        "curve": text("scheduler of the run that target_epochs is from"),
        "break_even": real(
            "Mbit/s",
            "link of a lone client below which the codec saves time; NaN where it saves no bytes",
            measured=True,
        ),
        "uplink_utilisation": real("1", "busy share of the server's incoming link", measured=True),
        "downlink_utilisation": real("1", "busy share of the server's outgoing link", measured=True),
        "server_utilisation": real("1", "busy share of the server's processor", measured=True),
        "client_utilisation": real("1", "mean share of the time that a client computes", measured=True),
        "departures": whole("1", "how often a client left", measured=True),
        "server_bandwidth": real("Mbit/s", "server link, each way"),
        "client_bandwidth": real("Mbit/s", "median client link"),
        "events": whole("1", "events processed", measured=True),
        "engine": text("engine that ran, and why it is valid here"),
        "wall_seconds": seconds("wall time of the simulation itself"),
    }
)

SIMULATION_VALIDATION = Schema(
    {
        "quantity": text("what is compared: 'round', 'arrival of silo k', or 'time between aggregations'"),
        "predicted": seconds("predicted from the profile"),
        "measured": seconds("median of the measured run, the first round left out"),
        "error": real("1", "(predicted - measured) / measured", measured=True),
        "no_contention": seconds("the same prediction if transfers did not share the link"),
    }
)

SIMULATION_PARTS = Schema(
    {
        "part": text("part of a round of the study's own run, along the silo that is measured to arrive last"),
        "predicted": seconds("predicted from the profile"),
        "measured": seconds("median of the measured run, the first round left out"),
        "difference": seconds("predicted - measured"),
    }
)
