"""The study as a file, and what only a look at the machine shows: missing data, codecs that cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedbound.errors import InputError
from fedbound.registry import CODECS, DATASETS, PARTITIONS
from fedbound.study import Study, parse


def read(paths: Sequence[str | Path]) -> Study:
    """The study in these files, each changing what those before it say, checked against this machine.

    Raises:
        InputError: naming file or key, and the mend.
    """
    config: dict[str, Any] = {}
    for path in paths:
        config = merged(config, read_yaml(path))
    parsed = parse(config)
    check_data(parsed)
    check_codecs(parsed)
    check_simulations(parsed)
    return parsed


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` changed by `over` as snakemake merges config files: mappings key by key, everything else whole.

    But for one thing: a part that `over` gives another name does not keep the options of the part that it replaces.
    """
    if isinstance(over.get("name"), str) and over["name"] != base.get("name"):
        return dict(over)
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        result[key] = merged(base[key], value) if both else value
    return result


def check_data(study: Study) -> None:
    """Refuse what only a look at the data shows: a missing folder, more silos than samples.

    Raises:
        InputError: naming the key and the mend.
    """
    for data in study.data:
        options = dict(data.dataset)
        entry = DATASETS.entry(options.pop("name"))
        count = entry.factory(entry.options(**options)).count()
        if count is not None and data.silos > count // 3:
            raise InputError(
                f"data.silos: {data.silos} silos cannot share the {count} samples of {entry.name!r} "
                f"(each needs at least 3); use at most {count // 3}"
            )
        if count is not None:
            PARTITIONS.make(data.partition).check(count, data.silos)


def check_codecs(study: Study) -> None:
    """Refuse codecs that cannot be had here, before any job is submitted.

    Raises:
        InputError: naming the codec and what to install.
    """
    exchanges = [choice for one in study.exchange for choice in (one.codec, one.downlink) if choice]
    for choice in [*exchanges, *(one.codec for one in study.calibration)]:
        check = getattr(CODECS.entry(choice["name"]).factory, "check", None)
        if check:
            check(choice)


def check_simulations(study: Study) -> None:
    """Refuse traces and platforms that cannot be simulated, before any job is submitted.

    Raises:
        InputError: naming the key, the file and the mend.
    """
    from fedbound.simulation import traces
    from fedbound.simulation.engines.simgrid import check_platform

    for one in study.simulation:
        platform = one.engine.get("platform")
        readers: dict[str, tuple[str | None, Callable[..., object], tuple[Any, ...]]] = {
            "devices": (one.devices, traces.devices, ()),
            "bandwidth_trace": (one.bandwidth_trace, traces.bandwidths, (one.clients,)),
            "absence_trace": (one.absence_trace, traces.absences, (one.clients,)),
            "straggler_clients": (one.straggler_clients, traces.clients_of, (one.clients,)),
            "engine.platform": (platform, check_platform, (one.engine.get("server"),)),
        }
        for key, (value, read, more) in readers.items():
            if not value:
                continue
            try:
                read(value, *more)
            except InputError as error:
                raise InputError(f"simulation.{key}: {error}") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a study's YAML file; a key written twice is refused.

    Raises:
        InputError: the file is missing or is not YAML, with the line.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        _refuse_repeats(node, loader, path)
        return yaml.SafeLoader.construct_mapping(loader, node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        with open(path, encoding="utf-8") as file:
            loader = Loader(file)  # a SafeLoader: builds plain values only
            try:
                content = loader.get_single_data()
            finally:
                loader.dispose()
    except OSError as error:
        raise InputError(f"cannot read the study {str(path)!r}: {error.strerror}; check the path") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not valid YAML"
        raise InputError(f"{path}{where}: {problem}; mend the YAML there") from None
    except (ValueError, RecursionError) as error:  # no UTF-8; a date such as 2020-13-45; nested past all use
        raise InputError(f"{path} is no YAML text ({error}); mend it or give another file") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no study; it must be a mapping of keys such as 'study' and 'data'")
    return content


def _refuse_repeats(node: Any, loader: Any, path: str | Path) -> None:
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return  # `!!map` before something else, which construct_mapping reports
    keys: list[Any] = []
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in keys:
            raise InputError(
                f"{path}, line {key_node.start_mark.line + 1}: the key {key!r} is written twice; remove one"
            )
        keys.append(key)
