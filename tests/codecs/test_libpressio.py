"""The glue to LibPressio, against a stand-in with the same Python API; test_codecs.py runs the real one where it is."""

import sys
import types

import numpy as np
import pytest

from fedbound import codecs, study, study_file
from fedbound.codecs.guard import encode_checked
from fedbound.codecs.payload import seal
from fedbound.errors import InputError


class PressioException(Exception):
    pass


class Compressor:
    """Rounds to the bound's grid; like zfp in LibPressio, its stream does not hold the bound."""

    version = "1.2"
    bounded = True

    def __init__(self, config):
        self.config = config
        self.bound = None
        unknown = set(config["compressor_config"]) - {"pressio:nthreads"}
        if unknown:
            raise TypeError(f"does not exist: {unknown.pop()}")

    @classmethod
    def from_config(cls, config):
        return cls(config)

    def get_options(self):
        return {"pressio:abs": None} if self.bounded else {}

    def get_compile_config(self):
        return {"fake:version": self.version, "pressio:thread_safe": "single"}

    def set_options(self, options):
        self.bound = options["pressio:abs"]

    def encode(self, x):
        if np.abs(x).max() > 1e30:
            raise PressioException("out of range")
        quanta = np.round(x.astype(np.float64) / (2 * self.bound)).astype(np.int16)
        return np.frombuffer(quanta.tobytes(), np.uint8)

    def decode(self, stream, out):
        if stream.size // 2 != out.size:
            raise PressioException("wrong length")
        return (np.frombuffer(stream.tobytes(), np.int16) * (2 * self.bound)).astype(out.dtype)


@pytest.fixture
def library(monkeypatch):
    module = types.ModuleType("libpressio")
    module.PressioException = PressioException
    module.PressioCompressor = type("PressioCompressor", (Compressor,), {})
    module.supported_compressors = lambda: ["fake", "noop"]
    monkeypatch.setitem(sys.modules, "libpressio", module)
    return module


def values():
    return np.random.default_rng(0).normal(size=4000).astype(np.float32)


def test_a_compressor_is_reached_by_its_short_name(library):
    codec = codecs.get("libpressio:fake", config={"pressio:nthreads": 2})
    assert codec._compressor.config == {
        "compressor_id": "fake",
        "early_config": {},
        "compressor_config": {"pressio:nthreads": 2.0},
    }
    checked = encode_checked(codec, values(), 0.01)
    assert (checked.codec_id, checked.violations) == (8, 0)
    assert 0 < checked.error_over_bound <= 1
    other = codecs.get("libpressio:fake")  # the receiver's own, which has been told no bound
    np.testing.assert_array_equal(other.decode(checked.payload, np.empty_like(values())), checked.decoded)


def test_what_the_library_refuses_goes_exactly(library):
    x = values()
    x[0] = 1e35
    assert encode_checked(codecs.get("libpressio:fake"), x, 0.01).error_over_bound == 0
    constant = codecs.get("libpressio:fake").encode(x, 0.0)
    np.testing.assert_array_equal(codecs.get("libpressio:fake").decode(constant, np.empty_like(x)), x)


def test_a_stream_of_another_compressor_or_version_is_refused(library):
    payload = codecs.get("libpressio:fake").encode(values(), 0.01)
    library.PressioCompressor.version = "1.3"
    with pytest.raises(ValueError, match=r"made by 'fake; version 1\.2', and here is 'fake; version 1\.3'"):
        codecs.get("libpressio:fake").decode(payload, np.empty_like(values()))


@pytest.mark.parametrize("body", [b"", b"\x05", b"\xff\xff" + bytes(8) + b"abc", bytes(10)])
def test_damaged_heads_are_refused(library, body):
    with pytest.raises(ValueError, match="made by|missing"):
        codecs.get("libpressio:fake").decode(seal(values(), body), np.empty_like(values()))


def test_unknown_compressor_option_and_missing_bound_are_one_sentence(library):
    with pytest.raises(InputError, match=r"no compressor 'fke'; did you mean 'fake'"):
        codecs.get("libpressio:fke")
    with pytest.raises(InputError, match=r"'fake' refuses its options: does not exist: fake:x"):
        codecs.get("libpressio:fake", config={"fake:x": 1})
    library.PressioCompressor.bounded = False
    with pytest.raises(InputError, match=r"'noop' takes no 'pressio:abs'"):
        codecs.get("libpressio:noop")


@pytest.mark.parametrize("error", [ImportError("no such file"), ValueError("invalid version")])
def test_a_library_that_does_not_import_is_one_sentence(monkeypatch, error):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "libpressio":
                raise error

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "libpressio", raising=False)
    with pytest.raises(InputError, match=r"'libpressio:zfp' needs LibPressio.*envs/spack\.yaml"):
        codecs.get("libpressio:zfp")


def test_a_study_that_needs_it_is_refused_before_any_job(monkeypatch):
    parsed = study.parse({"study": "s", "exchange": {"codec": ["sz3", "libpressio:zfp"], "bound": 0.1}})
    assert parsed.exchange[1].codec == {"name": "libpressio", "compressor": "zfp", "early": {}, "config": {}}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="'libpressio:zfp' needs LibPressio"):
        study_file.check_codecs(parsed)
