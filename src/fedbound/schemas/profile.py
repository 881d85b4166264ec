"""Tables of profile.h5."""

from __future__ import annotations

from fedbound.artifacts import Schema
from fedbound.schemas.columns import real, seconds, text, whole

PROFILE_NODES = Schema(
    {
        "rank": whole("1", "MPI rank; 0 is the server"),
        "node": whole("1", "its node, numbered in the order of ranks", measured=True),
        "name": text("the node's name", True),
        "type": text("processor, cores and GPUs: nodes of one type are measured once", True),
        "cores": whole("1", "processor cores that the rank may use", measured=True),
    }
)

PROFILE_SILOS = Schema(
    {
        "round": whole("1", "measured round, from 1"),
        "silo": whole("1", "silo"),
        "steps": whole("1", "local steps"),
        "raw_bytes": whole("byte", "uncompressed update"),
        "up_bytes": whole("byte", "update message, header included"),
        "down_bytes": whole("byte", "model message, header included"),
        "train_seconds": seconds("local training, all ranks at work"),
        "evaluate_seconds": seconds("evaluation at the silo"),
        "model_seconds": seconds("the silo decoding the model message and loading the model"),
        "encode_seconds": seconds("encoding the update, bound check included"),
        "other_seconds": seconds("what else the silo did: saving its state, packing"),
        "transfer_seconds": seconds("from the model's dispatch to the update's arrival, less the silo's own work"),
        "arrival_seconds": seconds("from the round's dispatch to the update's arrival"),
        "decode_seconds": seconds("the server decoding this update"),
        "aggregate_seconds": seconds("the server folding this update"),
    }
)

PROFILE_ROUNDS = Schema(
    {
        "round": whole("1", "measured round, from 1; the warm-up is left out"),
        "seconds": seconds("from dispatch to new model"),
        "wait_seconds": seconds("the server waiting for updates"),
        "downlink_seconds": seconds("encoding the model"),
        "decode_seconds": seconds("decoding all updates"),
        "aggregate_seconds": seconds("folding all updates"),
    }
)

PROFILE_CODEC = Schema(
    {
        "block": text("tensor or block"),
        "stage": text("early: first measured round; late: last"),
        "values": whole("1", "number of values"),
        "bound": real("1", "absolute bound"),
        "ratio": real("1", "uncompressed over encoded bytes"),
        "entropy_ratio": real("1", "32 (64) bits over the entropy of round(x / (2 bound)); NaN for lossless codecs"),
        "encode_rate": real("byte/s", "uncompressed bytes encoded per second, median", measured=True),
        "decode_rate": real("byte/s", "uncompressed bytes decoded per second, median", measured=True),
    }
)

PROFILE_CODEC_TIMES = Schema(
    {
        "block": text("tensor or block"),
        "stage": text("early: first measured round; late: last"),
        "repeat": whole("1", "repetition"),
        "encode_seconds": seconds("encoding"),
        "decode_seconds": seconds("decoding"),
    }
)

PROFILE_LINK = Schema(
    {
        "rank": whole("1", "MPI rank at the other end of the link from the server"),
        "bytes": whole("byte", "message size"),
        "repeat": whole("1", "repetition"),
        "seconds": seconds("one-way time: half a round trip, packing and checking included"),
        "server_seconds": seconds("processor time of the server's process in it"),
    }
)

PROFILE_PAIRS = Schema(
    {
        "first": whole("1", "node", measured=True),
        "second": whole("1", "node; the same one where two of its ranks were measured", measured=True),
        "bytes": whole("byte", "message size"),
        "repeat": whole("1", "repetition"),
        "seconds": seconds("one-way time of a raw MPI message: half a round trip"),
    }
)

PROFILE_MESSAGES = Schema(
    {
        "what": text("'server': its processor; 'link to rank k': the rest; 'nodes i and j': raw MPI; 'all at once'"),
        "bytes": whole("byte", "message size"),
        "measured": seconds("median one-way time"),
        "fitted": seconds("fixed_seconds + byte_seconds * bytes"),
        "residual": real("1", "measured over fitted, less 1", measured=True),
        "fixed_seconds": seconds("of the line: a message's time whatever its size"),
        "byte_seconds": real("s/byte", "of the line: each byte's time", measured=True),
    }
)

PROFILE_SHARING = Schema(
    {
        "kind": text("alone: a silo's own round; shared: as many steps in every rank"),
        "node": whole("1", "node", measured=True),
        "working": whole("1", "ranks of the node that worked at once"),
        "repeat": whole("1", "repetition"),
        "silo": whole("1", "silo"),
        "steps": whole("1", "local steps: as many as fill a time", measured=True),
        "train_seconds": seconds("local training"),
        "evaluate_seconds": seconds("evaluation"),
        "encode_seconds": seconds("encoding the update"),
    }
)

PROFILE_UTILISATION = Schema(
    {
        "node": whole("1", "node", measured=True),
        "round": whole("1", "measured round that the sample is from; 0: the warm-up", measured=True),
        "time": seconds("since the first sample"),
        "cpu": real(
            "1", "busy share of the cores that the job may use; NaN where the system does not tell", measured=True
        ),
        "gpu": real("1", "mean utilisation of the node's GPUs; NaN without NVML", measured=True),
        "gpu_memory": real("1", "used share of the GPUs' memory; NaN without NVML", measured=True),
        "sent": real("byte/s", "by the node's network, its loopback aside", measured=True),
        "received": real("byte/s", "by the node's network, its loopback aside", measured=True),
    }
)

PROFILE_COSTS = Schema(
    {
        "silo": whole("1", "silo"),
        "node": whole("1", "node of its rank", measured=True),
        "samples": whole("1", "training samples"),
        "steps": whole("1", "local steps per round"),
        "train_seconds": seconds("median local training per round, all ranks at work"),
        "alone_seconds": seconds("median local training per round with the node's other ranks idle"),
        "evaluate_seconds": seconds("median evaluation per round, all ranks at work"),
        "alone_evaluate_seconds": seconds("median evaluation with the node's other ranks idle"),
        "encode_seconds": seconds("median encoding per update, all ranks at work"),
        "alone_encode_seconds": seconds("median encoding with the node's other ranks idle"),
        "model_seconds": seconds("median decoding of the model message at the silo"),
        "other_seconds": seconds("median of what else a silo does in a round: saving its state, packing"),
        "decode_seconds": seconds("median decoding per update at the server"),
        "latency": seconds("one-way latency of the link: the line through its times without the server's processor"),
        "bandwidth": real("byte/s", "bandwidth of the link, from the same line", measured=True),
    }
)

PROFILE_SERVER = Schema(
    {
        "aggregate_seconds": seconds("median time to fold one decoded update"),
        "downlink_seconds": seconds("encoding the model, once for each version, median"),
        "message_seconds": seconds("server time of a message whatever its size"),
        "message_byte_seconds": real("s/byte", "server time of each byte of a message", measured=True),
        "bandwidth": real("byte/s", "link of the server, each way, with all silos at once", measured=True),
        "round_seconds": seconds("round time, median"),
        "round_overhead_seconds": seconds("round time beyond its slowest silo, decoding and folding, median"),
        "ranks": whole("1", "MPI ranks"),
        "cores": whole("1", "processor cores that the job may use", measured=True),
    }
)
