"""Tar files over the network: every sample once a round, bad ones counted by reason."""

import http.server
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch

from impasto.config import ConfigError
from impasto.data.opening import open_data
from impasto.data.options import DatasetOptions
from impasto.data.records import DataError
from impasto.data.source import DataSource
from impasto.data.stream import StreamSource
from impasto.data.stream_files import DAMAGED, Stream, is_stream
from tests.data.sets import pairs, write_shards

SIDE, COUNT, FILES = 8, 24, 6


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("stream") / "shards", pairs(COUNT), COUNT // FILES)


@pytest.fixture(scope="module")
def host(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder.parent)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    patch = pytest.MonkeyPatch()
    for name in ("no_proxy", "NO_PROXY"):
        patch.setenv(name, "127.0.0.1")
    yield f"http://127.0.0.1:{server.server_port}"
    patch.undo()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def opened():
    """Makes sources and closes them."""
    sources: list[StreamSource] = []

    def make(name: str, seed: int = 0, start: int = 0, rank: int = 0, world_size: int = 1, **options):
        stream = Stream.named(name)
        found = stream.found(DatasetOptions(**options))
        place = {"seed": seed, "start": start, "rank": rank, "world_size": world_size}
        sources.append(StreamSource(stream, SIDE, found, **place))
        return sources[-1]

    yield make
    for source in sources:
        source.close()


def numbers(captions: list[str]) -> list[int]:
    return [int(caption.split()[-1]) for caption in captions]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_round_holds_every_sample_once_with_its_picture(host, folder, opened, workers):
    source = opened(host + "/shards/{00000..00005}.tar", workers=workers)
    images, captions = source.batch(range(COUNT))
    assert sorted(numbers(captions)) == list(range(COUNT))
    whole = DataSource(open_data(folder), SIDE, DatasetOptions(workers=0))
    true, texts = whole.batch(range(COUNT))
    for image, caption in zip(images, captions, strict=True):
        assert torch.equal(image, true[texts.index(caption)])
    assert sorted(numbers(source.batch(range(COUNT))[1])) == list(range(COUNT))
    assert not len(source.faults)


def test_ranks_share_the_files_and_every_start_has_its_own_order(host, opened):
    name = host + "/shards/{00000..00005}.tar"
    seen = []
    for rank in range(2):
        seen += numbers(opened(name, rank=rank, world_size=2, workers=2).batch(range(COUNT // 2))[1])
    assert sorted(seen) == list(range(COUNT))
    orders = [
        numbers(opened(name, seed=seed, start=start).batch(range(COUNT))[1])
        for seed, start in ((0, 0), (0, 0), (0, 16), (1, 0))
    ]
    assert orders[0] == orders[1] and len({tuple(order) for order in orders}) == 3
    with pytest.raises(DataError, match="6 tar files cannot be shared among 7 ranks"):
        opened(name, world_size=7)


def test_a_command_and_several_addresses(host, folder, opened):
    name = f"pipe:cat {folder}/{{00000..00002}}.tar::{host}/shards/{{00003..00005}}.tar"
    source = opened(name)
    assert sorted(numbers(source.batch(range(COUNT))[1])) == list(range(COUNT))
    assert source.captions(3) == source.captions(3) == [text for _, _, text in pairs(3)]


def test_bad_files_and_samples_are_counted_by_reason(host, tmp_path, folder, opened):
    shards = folder.parent / "bad"
    samples = [(name, b"nothing" if n == 5 else data, text) for n, (name, data, text) in enumerate(pairs(40))]
    write_shards(shards, samples, 10)
    whole = (shards / "00003.tar").read_bytes()
    (shards / "00003.tar").write_bytes(whole[: len(whole) // 2 + 100])
    source = opened(host + "/bad/{00000..00004}.tar", max_bad=0.6, workers=2)
    seen = Counter(numbers(source.batch(range(150))[1]))
    assert 5 not in seen and set(range(30)) - {5} <= set(seen)
    files = source.faults.files()
    assert {name.rpartition("/")[2] for name in files[DAMAGED]} == {"00003.tar", "00004.tar"}  # cut, absent
    assert [name.rpartition("/")[2] for name in files["picture damaged"]] == ["00000.tar:00005"]


def test_a_ceiling_stops_the_run(host, tmp_path, folder, opened):
    with pytest.raises(DataError, match=r"1 of 7 tar files are damaged .*max_bad=0\.05 allows"):
        opened(host + "/shards/{00000..00006}.tar").batch(range(10 * COUNT))
    with pytest.raises(DataError, match="no good sample in 3 rounds"):
        opened(host + "/absent/{0..1}.tar", max_bad=1.0).batch([0])
    with pytest.raises(DataError, match="gives no sample with a caption"):
        opened(host + "/absent/{0..1}.tar").captions(1)
    quarter = pairs(20)
    quarter[::4] = [(name, b"nothing", text) for name, _, text in quarter[::4]]
    write_shards(folder.parent / "quarter", quarter, 10)
    with pytest.raises(DataError, match=r"samples are bad, more than dataset\.max_bad=0\.2 allows"):
        opened(host + "/quarter/{00000..00001}.tar", max_bad=0.2).batch(range(400))


def test_languages_are_kept_to(host, folder, opened):
    source = opened(host + "/shards/{00000..00005}.tar", languages={"en": 1.0}, max_bad=0.5)
    with pytest.raises(DataError, match=r"no good sample|no caption in dataset\.languages"):
        source.batch([0])


def test_secrets_are_not_kept():
    stream = Stream.named("https://me:password@host/{0..1}.tar?signature=x")
    found = stream.found(DatasetOptions())
    assert found.source == "https://host/{0..1}.tar" and found.format == "stream"
    assert stream.addresses[1] == "https://me:password@host/1.tar?signature=x"
    again = Stream.named("https://host/{0..1}.tar?signature=y").found(DatasetOptions())
    assert found.fingerprint == again.fingerprint
    assert found.fingerprint != Stream.named("https://host/{0..2}.tar").found(DatasetOptions()).fingerprint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("s3://bucket/{0..1}.tar", "s3 is read by a command; write 'pipe:aws s3 cp"),
        ("http://host/0.tar::folder/1.tar", "folder/1.tar is no address"),
        ("http://host/${NOWHERE}.tar", "cannot be expanded: a variable ${NAME} should be set as WDS_NAME"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(name, message):
    assert is_stream(name)
    with pytest.raises(ConfigError) as refusal:
        Stream.named(name)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_what_needs_a_disk_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="which only Aurora trains on; copy the tar files"):
        open_data("https://host/{0..1}.tar?signature=x")
    with pytest.raises(ConfigError, match="text_features needs a set on a disk"):
        Stream.named("https://host/0.tar").found(DatasetOptions(text_features="here"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match="read by curl, which is not installed"):
        Stream.named("https://host/0.tar")
