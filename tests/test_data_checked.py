"""A data set is read once: reads counted at a start and at a resume, what makes it read again, how processes wait."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from data_sets import make_set, picture, zip_of

from hsr_nb.data import DataError, ImageDataset, check_dataset
from hsr_nb.data.checked import open_checked, open_known
from hsr_nb.data.files import FolderFiles, ZipFiles
from hsr_nb.data.images import FileSet
from hsr_nb.training import override, preset, train
from hsr_nb.training.checks import open_data
from hsr_nb.training.parallel import Processes


@pytest.fixture
def reads(monkeypatch):
    "The names of all images that are opened for reading, apart from those that training loads for its steps."
    names, loading = [], []

    def counting(kind):
        read = kind._read

        def counted(files, stored, limit):
            if not loading and not stored.endswith("dataset.json"):
                names.append(stored)
            return read(files, stored, limit)

        monkeypatch.setattr(kind, "_read", counted)

    counting(FolderFiles)
    counting(ZipFiles)
    load = FileSet._load

    def of_training(ds, indices):
        loading.append(True)
        try:
            return load(ds, indices)
        finally:
            loading.pop()

    monkeypatch.setattr(FileSet, "_load", of_training)
    return names


@pytest.fixture(params=["folder", "zip"])
def photos(request, tmp_path):
    root = make_set(tmp_path / "photos", 40, labels=lambda i: i % 3)
    return root if request.param == "folder" else zip_of(root, tmp_path / "photos.zip")


def touch(photos):
    "Another time of change for one file, or for the zip."
    file = photos / "1/004.png" if photos.is_dir() else photos
    now = file.stat().st_mtime_ns
    os.utime(file, ns=(now, now + 1))


def taken(reads):
    "What was read since the last call, sorted."
    found = sorted(reads)
    reads.clear()
    return found


def quietly(*args, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return open_checked(*args, **kw)


# --- one process


def test_each_file_is_read_once_at_a_start_and_not_at_all_at_a_resume(photos, tmp_path, reads):
    memo = tmp_path / "run/data.json"
    want = ImageDataset(photos).identity
    reads.clear()
    names = sorted(p.relative_to(tmp_path / "photos").as_posix() for p in (tmp_path / "photos").rglob("*.png"))
    ds = quietly(photos, memo)
    assert ds.identity == want and taken(reads) == names
    assert quietly(photos, memo).identity == want and taken(reads) == []
    touch(photos)
    with pytest.warns(
        UserWarning, match=r"not as data.json remembers it \((digest|mtime_ns)\): every file is read again"
    ):
        assert open_checked(photos, memo).identity == want
    assert taken(reads) == names
    assert quietly(photos, memo).identity == want and taken(reads) == []


def test_without_a_memo_nothing_is_remembered(photos, tmp_path, reads):
    for _ in range(2):
        open_checked(photos)
        assert len(taken(reads)) == 40
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("data")) == []


@pytest.mark.parametrize(
    "options",
    [
        {"labels": True},
        {"max_size": 7, "seed": 2},
        {"resolution": 8, "resize_filter": "box"},
        {"resolution": (8, 8), "resize_filter": "lanczos", "labels": True, "max_size": 39},
        {"resolution": 16},
    ],
)
def test_the_identity_is_the_one_without_a_memo(photos, tmp_path, options):
    want = ImageDataset(photos, **options)
    for _ in range(2):
        ds = open_checked(photos, tmp_path / "data.json", **options)
        assert ds.identity == want.identity and ds.image_shape == want.image_shape
        assert ds.images(range(7)).equal(want.images(range(7))) and ds.labels([3]).equal(want.labels([3]))


def test_every_difference_is_noticed(tmp_path, reads):
    root, memo = make_set(tmp_path / "photos", 12, labels=lambda i: i % 2), tmp_path / "data.json"
    open_checked(root, memo)

    def again(what, **options):
        reads.clear()
        with pytest.warns(UserWarning, match=re.escape(what)):
            ds = open_checked(root, memo, **options)
        assert len(reads) == len(ds._reader.files.names)

    again("labels", labels=True)
    again("max_size", labels=True, max_size=5)
    again("resolution", labels=True, max_size=5, resolution=16)
    open_checked(root, memo)
    (root / "0/000.png").rename(root / "0/x.png")
    again("digest")
    picture(50).save(root / "new.png")
    again("images, bytes")
    (root / "dataset.json").unlink()
    again("labels_file")
    os.utime(root / "1/001.png", ns=(1, 1))  # older than the newest, of the same size
    again("(digest)")
    (root / "notes.txt").write_text("no image")
    reads.clear()
    quietly(root, memo)
    assert reads == []


@pytest.mark.parametrize("spoil", ["{", "[]", "7", "{}", '{"identity": {}}', "null"])
def test_a_broken_memo_is_not_believed(tmp_path, spoil):
    root, memo = make_set(tmp_path / "photos", 5), tmp_path / "data.json"
    want = open_checked(root, memo).identity
    memo.write_text(spoil)
    with pytest.warns(UserWarning, match="every file is read again"):
        assert open_checked(root, memo).identity == want
    assert quietly(root, memo).identity == want


def test_a_memo_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="cannot write .*data.json"):
        open_checked(make_set(tmp_path / "photos", 5), tmp_path / "file/data.json")


def test_bad_files_are_named_and_nothing_is_remembered(tmp_path):
    root = make_set(tmp_path / "photos", 5)
    (root / "z.png").write_text("no picture")
    with pytest.raises(DataError, match="z.png is not an image") as e:
        open_checked(root, tmp_path / "run/data.json")
    assert str(e.value) == check_dataset(root, labels=False).text() and not (tmp_path / "run").exists()


def test_another_set_is_not_taken_for_the_checked_one(tmp_path):
    identity = open_checked(make_set(tmp_path / "photos", 5)).identity
    with pytest.raises(DataError, match="not the data set that was checked: images was 5, now 6"):
        open_known(make_set(tmp_path / "others", 6), identity)
    with pytest.raises(DataError, match="subset"):
        open_known(tmp_path / "others", identity | {"subset": [5, 0]}, max_size=5, seed=1)


def test_a_bar_counts_the_images(tmp_path, capsys):
    make_set(tmp_path / "photos", 5)
    check_dataset(tmp_path / "photos", progress=True)
    assert re.search(r"checking.* [05]/5 ", capsys.readouterr().err)


# --- training


def test_training_reads_once_and_a_resume_nothing(photos, tmp_path, reads):
    cfg = override(
        preset("tiny32"),
        **{
            "data.path": str(photos),
            "data.resolution": 16,
            "net.channel_max": 8,
            "net.z_dim": 8,
            "net.w_dim": 8,
            "batch": 8,
            "hsr.teacher": "none",
            "kimg": 0.008,
            "device": "cpu",
            "run_dir": str(tmp_path / "run"),
        },
    )
    want = ImageDataset(photos, resolution=16).identity
    reads.clear()
    train(cfg, progress=False)
    assert len(taken(reads)) == 40
    assert json.loads((tmp_path / "run/provenance.json").read_text())["data"] == want
    assert json.loads((tmp_path / "run/data.json").read_text())["identity"] == want
    longer = override(cfg, kimg=0.016)
    train(longer, progress=False)
    assert taken(reads) == []
    touch(photos)
    with pytest.warns(UserWarning, match="every file is read again"):
        train(override(longer, kimg=0.024), progress=False)
    assert len(taken(reads)) == 40


def test_a_data_set_that_is_not_there_is_named_as_before(tmp_path):
    cfg = override(preset("tiny32"), **{"data.path": "synthfacs", "run_dir": str(tmp_path / "run")})
    with pytest.raises(FileNotFoundError, match="did you mean synthfaces"):
        open_data(cfg, Processes())
    assert not (tmp_path / "run").exists()


# --- several processes

TWO = """
import datetime, os, sys, time
import torch.distributed as dist
from hsr_nb.training import parallel

begin = dist.init_process_group
dist.init_process_group = lambda backend, timeout: begin(backend, timeout=datetime.timedelta(seconds=2))
procs, _ = parallel.join("cpu")
from_first = parallel.from_first
"""


def two(program, tmp_path):
    "Two processes of a group whose patience is two seconds."
    port = str(20000 + os.getpid() % 20000)
    there = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ours = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])} | there
    script = tmp_path / "two.py"
    script.write_text(TWO + program)
    ranks = []
    for rank in "01":
        env = ours | {"RANK": rank, "LOCAL_RANK": rank}
        ranks.append(subprocess.Popen([sys.executable, script], env=env, stdout=subprocess.PIPE, text=True))
    return ranks


def test_the_others_wait_longer_than_the_group_would(tmp_path):
    program = """
def slow():
    time.sleep(5)
    return {"from": procs.rank}


print(from_first(procs, slow), from_first(procs, lambda: procs.rank))


def bad():
    raise ValueError("photos holds no images")


try:
    from_first(procs, bad)
except Exception as e:
    print(type(e).__name__, e)
"""
    first, second = (p.communicate(timeout=100)[0].splitlines() for p in two(program, tmp_path))
    assert first[0] == second[0] == "{'from': 0} 0"
    assert first[1] == "ValueError photos holds no images"
    assert second[1] == "PeerLost the first process could not go on: photos holds no images"


def test_the_others_end_when_the_first_is_killed(tmp_path):
    program = """
def never():
    print("waiting", flush=True)
    time.sleep(1000)


from_first(procs, never)
"""
    first, second = two(program, tmp_path)
    assert first.stdout.readline() == "waiting\n"
    time.sleep(1)
    first.send_signal(signal.SIGKILL)
    began = time.monotonic()
    assert second.wait(timeout=60) != 0 and time.monotonic() - began < 30
    first.communicate()
    second.communicate()
