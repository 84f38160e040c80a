import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
from fake_hub import COMMIT, FakeHub, Repo

from trocr.hub import MODEL_FILES, PRETRAINED, PROCESSOR_FILES, HubError, locate, shipped_models

NAME = "someone/some-model"
PROCESSOR = {"preprocessor_config.json": b"{}", "vocab.json": b"{}", "merges.txt": b""}


@pytest.fixture(scope="module")
def server():
    """One for all tests: huggingface_hub may remember its address."""
    constants = huggingface_hub.constants
    running = FakeHub().start()
    with pytest.MonkeyPatch.context() as patch:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, running.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "ENDPOINT", running.url)
        yield running
    running.stop()


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    server.repos.clear()
    server.requests.clear()
    return server.start()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_directory_is_returned_as_it_is(tmp_path):
    assert locate(tmp_path) == tmp_path
    assert locate(str(tmp_path)) == tmp_path


def test_the_shipped_model_lies_in_the_package():
    folder = locate("tiny-printed")
    assert folder == PRETRAINED / "tiny-printed"
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "vocab.json"} <= names(folder)
    assert "tiny-printed" in shipped_models()


def test_a_directory_goes_before_a_shipped_name(tmp_path, monkeypatch):
    (tmp_path / "tiny-printed").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate("tiny-printed").resolve() == tmp_path / "tiny-printed"


def test_a_name_that_is_nothing_says_what_it_could_be():
    with pytest.raises(
        HubError, match=r"no directory 'tiny-printd'.*shipped model \(tiny-printed\).*owner/name"
    ):
        locate("tiny-printd")
    with pytest.raises(HubError, match=r"no directory '/nowhere/model'"):
        locate("/nowhere/model")


@pytest.mark.parametrize("source", [None, ""])
def test_no_name_at_all(source):
    with pytest.raises(HubError, match=f"the model is {source!r}, expected a directory"):
        locate(source)


def test_a_path_object_is_never_a_hub_id(hub):
    with pytest.raises(HubError, match="no directory"):
        locate(Path("someone/some-model"))
    assert hub.requests == []


def test_a_file_is_not_a_model(tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(HubError, match=r"is a file.*give the folder"):
        locate(file)


def test_download_takes_safetensors_and_leaves_the_rest(hub):
    files = {
        "config.json": b"{}",
        "model.safetensors": b"new",
        "pytorch_model.bin": b"old",
        "README.md": b"#",
    }
    hub.repos[NAME] = Repo({**files, **PROCESSOR, "onnx/config.json": b"{}", "tf_model.h5": b"no"})
    folder = locate(NAME)
    assert names(folder) == {"config.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == b"new"
    assert hub.downloads()[-1] == "model.safetensors"  # what is small, and fails early, comes first


def test_download_takes_pickled_weights_when_there_is_nothing_else(hub):
    hub.repos[NAME] = Repo({"config.json": b"{}", "pytorch_model.bin": b"old"})
    assert names(locate(NAME)) == {"config.json", "pytorch_model.bin"}


def test_download_takes_all_shards(hub):
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    shards = {"model-1.safetensors": b"1", "model-2.safetensors": b"2", "model.safetensors.index.json": index}
    hub.repos[NAME] = Repo({"config.json": b"{}", **shards, "pytorch_model-1.bin": b"old"})
    assert names(locate(NAME)) == {"config.json", *shards}


def test_download_of_a_processor_takes_no_weights(hub):
    hub.repos[NAME] = Repo({"config.json": b"{}", "model.safetensors": b"w", **PROCESSOR})
    assert names(locate(NAME, want=PROCESSOR_FILES)) == set(PROCESSOR)


def test_a_second_call_downloads_nothing(hub):
    hub.repos[NAME] = Repo({"config.json": b"{}", "model.safetensors": b"w", **PROCESSOR})
    first = locate(NAME)
    before = len(hub.downloads())
    assert locate(NAME) == first
    assert len(hub.downloads()) == before == 2


def test_the_cache_serves_when_the_hub_is_away(hub):
    hub.repos[NAME] = Repo({"config.json": b"{}", "model.safetensors": b"w"})
    folder = locate(NAME)
    hub.stop()
    assert locate(NAME) == folder
    assert locate(NAME, local_files_only=True) == folder


def test_local_files_only_asks_nothing(hub, cache):
    hub.repos[NAME] = Repo({"config.json": b"{}", "model.safetensors": b"w"})
    with pytest.raises(HubError) as caught:
        locate(NAME, local_files_only=True)
    assert hub.requests == []
    assert str(caught.value) == (
        f"{NAME} is not in the cache {cache} and local_files_only is set: connect and run this once, or copy "
        "the model's directory to this machine and give its path"
    )


def test_no_network_and_no_cache_is_one_sentence(hub, cache):
    hub.stop()
    with pytest.raises(HubError) as caught:
        locate(NAME)
    message = str(caught.value)
    assert message.startswith(f"{NAME} is not in the cache {cache} and {hub.url} did not answer (")
    assert message.endswith(
        "connect and run this once, or copy the model's directory to this machine and give its path"
    )
    assert "\n" not in message


def test_a_cache_without_weights_says_so(hub):
    hub.repos[NAME] = Repo({"config.json": b"{}", "model.safetensors": b"w", **PROCESSOR})
    locate(NAME, want=("config.json", *PROCESSOR_FILES))
    with pytest.raises(HubError, match=r"in the cache .* has no model.safetensors or pytorch_model.bin and"):
        locate(NAME, local_files_only=True)


def test_a_cache_without_one_shard_says_which(hub):
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    hub.repos[NAME] = Repo(
        {
            "config.json": b"{}",
            "model.safetensors.index.json": index,
            "model-1.safetensors": b"1",
            "model-2.safetensors": b"2",
        }
    )
    folder = locate(NAME)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(HubError, match=r"has no model-2.safetensors"):
        locate(NAME, local_files_only=True)


def test_revision(hub):
    hub.repos[NAME] = Repo({"config.json": b"{}", "model.safetensors": b"w"}, revisions=("main", "v1"))
    assert locate(NAME, revision="v1").name == COMMIT
    assert locate(NAME, revision="v1", local_files_only=True).name == COMMIT
    with pytest.raises(HubError, match=f"{NAME} has no revision 'v2': .*lists its branches and tags"):
        locate(NAME, revision="v2")
    with pytest.raises(HubError, match="at revision v2 is not in the cache"):
        locate(NAME, revision="v2", local_files_only=True)


def test_missing_repository(hub):
    with pytest.raises(
        HubError, match=f"no directory '{NAME}', and {hub.url}/{NAME} does not exist or is private"
    ):
        locate(NAME)


def test_gated_repository(hub):
    hub.repos[NAME] = Repo({"config.json": b"{}", "model.safetensors": b"w"}, gated=True)
    with pytest.raises(HubError, match=f"{NAME} is gated: accept its terms at {hub.url}/{NAME}, then log in"):
        locate(NAME)


def test_a_server_error_is_not_a_missing_repository(hub):
    hub.repos[NAME] = Repo({"config.json": b"{}"}, status=400)
    with pytest.raises(HubError, match=r"did not answer.*400"):
        locate(NAME)


@pytest.mark.parametrize(
    ("files", "lacking"),
    [
        ({"model.safetensors": b"w"}, "config.json"),
        ({"config.json": b"{}", "tf_model.h5": b"w"}, "model.safetensors or pytorch_model.bin"),
    ],
)
def test_a_repository_of_something_else(hub, files, lacking):
    hub.repos[NAME] = Repo(files)
    with pytest.raises(
        HubError, match=f"on the Hub has no {lacking}: it is not a model in the Hugging Face layout"
    ):
        locate(NAME, want=MODEL_FILES)


def test_another_cache_folder(hub, tmp_path):
    hub.repos[NAME] = Repo({"config.json": b"{}", "model.safetensors": b"w"})
    assert locate(NAME, cache_dir=tmp_path / "other").is_relative_to(tmp_path / "other")


def test_offline_switch(tmp_path):
    """HF_HUB_OFFLINE, read when huggingface_hub is imported, is honoured."""
    code = "from trocr.hub import locate\ntry:\n    locate('a/b')\nexcept OSError as error:\n    print(error)"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"a/b is not in the cache {tmp_path} and ")
    assert done.stdout.count("\n") == 1


def test_import_is_light():
    code = "import sys, trocr.hub; print(sorted({'torch', 'huggingface_hub', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
