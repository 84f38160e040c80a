"""Where a model's files are: a directory, a checkpoint shipped with the package, or the Hugging Face Hub.

Source: huggingface_hub's public functions (`HfApi.model_info`, `hf_hub_download`, `try_to_load_from_cache`);
the cache is the one every Hugging Face library shares.
"""

import json
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model-*.bin",
)
"""Files of a model, as patterns. The `.bin` ones are fetched only from a repository without safetensors."""

PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "sentencepiece.bpe.model",
)
"""Files of an image processor and a tokenizer."""

PRETRAINED = Path(__file__).resolve().parent / "pretrained"
"""Folder of the checkpoints that ship with the package."""

_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_BIN = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LIST_TIMEOUT_S = 20.0


class HubError(OSError):
    """A model's files could not be found or fetched; the message says which, and how to get them."""


def shipped_models() -> tuple[str, ...]:
    """Names of the checkpoints inside the package, sorted."""
    return tuple(sorted(path.parent.name for path in PRETRAINED.glob("*/config.json")))


def locate(
    source: str | os.PathLike[str],
    *,
    want: Sequence[str] = MODEL_FILES,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """Find a model's directory on this machine, downloading what is missing.

    Args:
        source: an existing directory (returned as it is), the name of a shipped checkpoint ("tiny-printed"),
            or a Hub id of the form "owner/name".
        want: names or patterns of the files needed from a Hub repository; those it does not have are passed
            over, except that `config.json` and weights must exist where they are wanted.
        revision: branch, tag or commit on the Hub; None is "main".
        cache_dir: folder of the cache; None is Hugging Face's (`HF_HOME`, `HF_HUB_CACHE`).
        local_files_only: read the cache and never the network.
        token: Hub token; None uses the saved one, False none.

    Returns:
        The directory. Files of a Hub model lie in the shared cache and are not to be written to.

    Raises:
        HubError: nothing is called that, or its files are neither here nor reachable.
    """
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        raise HubError(f"the model is {source!r}, expected a directory, a shipped model or a Hugging Face id")
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise HubError(f"{source} is a file, and a model is a directory: give the folder it lies in")
    name = os.fspath(source)
    if name in shipped_models():
        return PRETRAINED / name
    if not isinstance(source, str) or not _HUB_ID.fullmatch(name):
        raise HubError(
            f"there is no directory {name!r}, and it is not a shipped model ({', '.join(shipped_models())}) "
            "nor a Hugging Face id (owner/name, such as microsoft/trocr-base-printed)"
        )
    cache = None if cache_dir is None else Path(cache_dir).expanduser()
    if not local_files_only:
        try:
            return _download(name, want, revision, cache, token)
        except _Unreachable as error:
            reason = str(error)
    else:
        reason = "local_files_only is set"
    return _from_cache(name, want, revision, cache, reason)


class _Unreachable(Exception):
    """The Hub did not answer, so the cache decides."""


def _at(revision: str | None) -> str:
    return "" if revision is None else f" at revision {revision}"


def _download(
    name: str, want: Sequence[str], revision: str | None, cache: Path | None, token: str | bool | None
) -> Path:
    """Fetch the wanted files of a repository into the cache; return the snapshot folder."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # httpx errors are not OSErrors, and which client is used depends on the release: the bases of the
    # library's own error say.
    network_errors: tuple[type[Exception], ...] = (OSError, *HfHubHTTPError.__bases__)
    try:
        info = HfApi(token=token).model_info(name, revision=revision, timeout=_LIST_TIMEOUT_S)
        names = _choose(name, [file.rfilename for file in info.siblings or []], want)
        folder = Path()
        for file in names:
            # The first one by revision, which records it in the cache; the rest from the same commit.
            commit = folder.name or revision
            path = hf_hub_download(name, file, revision=commit, cache_dir=cache, token=token)
            folder = Path(path).parent
    except GatedRepoError as error:
        raise HubError(
            f"{name} is gated: accept its terms at {_page(name)}, then log in with `hf auth login` or pass "
            "token="
        ) from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"there is no directory {name!r}, and {_page(name)} does not exist or is private: check the "
            "spelling, or log in with `hf auth login` or pass token="
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(
            f"{name} has no revision {revision!r}: {_page(name)}/tree/main lists its branches and tags"
        ) from error
    except HubError:
        raise
    except network_errors as error:
        cause = error.__cause__ or error
        first_line = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        raise _Unreachable(f"{_endpoint()} did not answer ({first_line})") from error
    return folder


def _choose(name: str, listing: Sequence[str], want: Sequence[str]) -> list[str]:
    """Names to fetch out of a repository's listing: the wanted, one format of weights, small files first."""
    names = [
        file for file in listing if any(fnmatchcase(file, pattern) for pattern in want) and "/" not in file
    ]
    if any(file in listing for file in _SAFETENSORS):
        names = [file for file in names if not file.startswith("pytorch_model")]
    lacking = _lacking(set(names), want)
    if lacking:
        raise HubError(f"{name} on the Hub has no {lacking}: it is not a model in the Hugging Face layout")
    return sorted(names, key=lambda file: (not file.endswith((".json", ".txt")), file))


def _lacking(names: set[str], want: Sequence[str]) -> str | None:
    """What a model cannot do without and `names` does not hold; None when nothing."""
    if "config.json" in want and "config.json" not in names:
        return "config.json"
    if "model.safetensors" in want and not names.intersection(_SAFETENSORS + _BIN):
        return "model.safetensors or pytorch_model.bin"
    if not names:
        return f"{', '.join(want[:-1])} or {want[-1]}" if len(want) > 1 else want[0]
    return None


def _from_cache(
    name: str, want: Sequence[str], revision: str | None, cache: Path | None, reason: str
) -> Path:
    """The snapshot folder of an earlier download.

    Raises:
        HubError: there is none, or it is not complete.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    where = cache or Path(HF_HUB_CACHE)
    advice = "connect and run this once, or copy the model's directory to this machine and give its path"
    literal = [pattern for pattern in want if "*" not in pattern]
    found = [try_to_load_from_cache(name, file, cache_dir=cache, revision=revision) for file in literal]
    folders = [Path(path).parent for path in found if isinstance(path, str)]
    if not folders:
        raise HubError(f"{name}{_at(revision)} is not in the cache {where} and {reason}: {advice}")
    names = {path.name for path in folders[0].iterdir()}
    lacking = _lacking(names, want) or _missing_shard(folders[0], names, want)
    if lacking:
        raise HubError(f"{name}{_at(revision)} in the cache {where} has no {lacking} and {reason}: {advice}")
    return folders[0]


def _missing_shard(folder: Path, names: set[str], want: Sequence[str]) -> str | None:
    """The first weights file that an index names and the folder lacks; None for whole weights."""
    index = next((file for file in (*_SAFETENSORS, *_BIN) if file in names and file in want), "")
    if not index.endswith(".index.json"):
        return None
    shards = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()
    return next((shard for shard in sorted(set(shards)) if shard not in names), None)


def _endpoint() -> str:
    from huggingface_hub.constants import ENDPOINT

    return str(ENDPOINT)


def _page(name: str) -> str:
    return f"{_endpoint()}/{name}"
