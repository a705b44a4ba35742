"""The survey as a process: killed while people answer, its disk taken away, and fifty people at once."""

import asyncio
import os
import resource
import sqlite3
import sys
import time
from contextlib import closing

import numpy as np
import pytest
from support.survey import Person, Server, item_order, served, session_names, small_survey

from hsr_nb.survey.analysis import read_answers
from hsr_nb.survey.command import main
from hsr_nb.survey.folder import answers_file, load_survey

for package in ("starlette", "uvicorn", "tyro"):
    pytest.importorskip(package, reason=f'the survey needs {package}: pip install "hsr_nb[survey]"')

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits the size of another process's files")


def stored(folder):
    with closing(sqlite3.connect(answers_file(folder))) as db:
        return db.execute("SELECT session, item, pos, answer FROM answers ORDER BY session, pos").fetchall()


async def everything(person, think=0.0):
    "From the first page to the last; statuses other than 303 are an error. `think`: seconds for a picture, on average."
    rng = np.random.default_rng(person.name)
    await asyncio.sleep(4 * think * rng.random())
    await person.ask("GET", "/")
    await person.begin()
    while (at := await person.look()) is not None:
        assert await person.answer(*at, said=("real", "fake")[(at[1] + person.name) % 2]) == 303
        await asyncio.sleep(think * rng.uniform(0.5, 1.5))
    await person.drop()


@pytest.mark.slow
def test_killed_in_the_middle_nothing_is_lost_and_nothing_asked_twice(tmp_path):
    "SIGKILL while six people answer, twice; everybody goes on by the cookie."
    survey = small_survey(tmp_path / "faces", questions=12)
    people = [Person(0, i) for i in range(6)]
    asked = {i: [] for i in range(6)}
    server = Server(survey.folder, tmp_path / "log")

    async def answer_until(person, deadline):
        "Answer until the server is gone; the answer in flight may or may not have been stored."
        person.port = server.port
        try:
            if not person.cookie:
                await person.begin()
            while time.monotonic() < deadline and (at := await person.look()) is not None:
                asked[person.name].append(at)
                await person.answer(*at, said=("real", "fake")[at[1] % 2])
                await asyncio.sleep(0.02)
        except (OSError, asyncio.IncompleteReadError, IndexError):
            pass
        await person.drop()

    async def all_until(confirmed):
        "Everybody answers until so many answers have been confirmed; then the server is killed."

        async def kill():
            while sum(len(p.confirmed) for p in people) < confirmed:
                await asyncio.sleep(0.005)
            server.process.kill()

        await asyncio.gather(kill(), *[answer_until(p, time.monotonic() + 60) for p in people])

    for confirmed in (20, 50):
        asyncio.run(all_until(confirmed))
        server.process.wait(20)
        server.process.stdout.close()
        have = {row[1:] for row in stored(survey.folder)}
        assert len(session_names(survey.folder)) == 6 and len(stored(survey.folder)) < 84
        assert {c for p in people for c in p.confirmed} <= have, "a confirmed answer is lost"
        server = Server(survey.folder, tmp_path / "log")

    async def finish():
        await asyncio.gather(*[answer_until(p, time.monotonic() + 60) for p in people])

    asyncio.run(finish())
    assert server.stop() in (0, 130)
    rows, names = stored(survey.folder), session_names(survey.folder)
    assert len(rows) == 6 * 14
    for name in names:
        mine = [row for row in rows if row[0] == name]
        assert [row[1] for row in mine] == item_order(survey.key, name) and [row[2] for row in mine] == list(range(14))
    for seen in asked.values():  # a picture is shown again only if its answer was not confirmed
        assert [p for _, p in seen] == sorted(p for _, p in seen) and {p for _, p in seen} == set(range(14))
    for person in people:
        places = [pos for _, pos, _ in person.confirmed]
        assert len(places) == len(set(places)), "asked again after it was confirmed"


@linux
def test_a_full_disk_is_told_and_loses_nothing(tmp_path):
    "No file of the server may grow any more: a clear page, confirmed answers whole, the same answer taken later."
    survey = small_survey(tmp_path / "faces", questions=12)
    with served(survey.folder, tmp_path) as server:
        person = Person(server.port)

        async def some(count):
            for _ in range(count):
                assert await person.answer(*await person.look()) == 303

        async def story():
            await person.begin()
            await some(5)
            hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1, hard))
            item, pos = await person.look()
            status, _, page = await person.ask("POST", "/answer", dict(item=item, pos=pos, answer="fake", rt_ms=700))
            assert status == 503 and "could not be stored" in page and "earlier answers are safe" in page
            assert (
                'name="answer" value="fake"' in page and f'name="item" value="{item}"' in page and "Try again" in page
            )
            assert len(stored(survey.folder)) == 5 and await person.look() == (item, pos)
            stranger = Person(server.port, 1)
            status, _, page = await stranger.ask("POST", "/begin", {"adult": "yes"})
            assert status == 503 and "could not be stored" in page
            await stranger.drop()
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
            assert await person.answer(item, pos, "fake") == 303
            while (at := await person.look()) is not None:
                assert await person.answer(*at) == 303
            await person.drop()

        asyncio.run(story())
        assert [row[3] for row in stored(survey.folder)].count("fake") == 1 and len(stored(survey.folder)) == 14
        with sqlite3.connect(answers_file(survey.folder)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert "Traceback" not in (tmp_path / "server.log").read_text()


@linux
def test_only_loopback(tmp_path, capsys):
    "The process has one listening socket, on 127.0.0.1, and none to anywhere else; status and withdraw work beside it."
    survey = small_survey(tmp_path / "faces", questions=4)
    with served(survey.folder, tmp_path) as server:
        person = Person(server.port)

        async def looked_at_meanwhile():
            "Others open and close the database while it is written: it stays what the server writes to."
            await person.begin()
            while (at := await person.look()) is not None:
                assert await person.answer(*at) == 303
                assert len(stored(survey.folder)) == at[1] + 1 == len(read_answers(answers_file(survey.folder))[0])
            await person.drop()

        asyncio.run(looked_at_meanwhile())
        inodes = set()
        for fd in os.listdir(f"/proc/{server.process.pid}/fd"):
            try:
                target = os.readlink(f"/proc/{server.process.pid}/fd/{fd}")
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
        local = []
        for table in ("tcp", "tcp6", "udp", "udp6"):
            with open(f"/proc/{server.process.pid}/net/{table}") as f:
                rows = [line.split() for line in f.readlines()[1:]]
            local += [row[1].split(":")[0] for row in rows if row[9] in inodes]
        assert local and set(local) == {"0100007F"}  # 127.0.0.1
        assert main(["status", str(survey.folder)]) == 0 and "1 sessions: 1 complete" in capsys.readouterr().out
        (name,) = session_names(survey.folder)
        assert main(["withdraw", str(survey.folder), name]) == 0 and stored(survey.folder) == []
        status, headers, _ = asyncio.run(Person(server.port).ask("GET", "/survey"))
        assert status == 303 and headers["location"] == "/"
        with pytest.raises(AssertionError, match="in use"):
            Server(survey.folder, tmp_path / "second.log", port=server.port)


@pytest.mark.slow
def test_fifty_people_at_once(tmp_path):
    "50 sessions of 40 pictures, half a second for each: all stored, no error, 99 of 100 requests within 300 ms."
    survey = small_survey(tmp_path / "faces", questions=40, attention=0, size=64)
    with served(survey.folder, tmp_path) as server:
        people = [Person(server.port, i) for i in range(50)]

        async def crowd():
            await asyncio.wait_for(asyncio.gather(*[everything(p, think=0.5) for p in people]), 120)

        began = time.monotonic()
        asyncio.run(crowd())
        took = time.monotonic() - began
    rows = stored(survey.folder)
    times = np.array([t for p in people for t in p.times])
    p50, p99 = (1000 * float(np.percentile(times, q)) for q in (50, 99))
    print(f"\n{len(rows)} answers, {len(times)} requests in {took:.1f} s; median {p50:.0f} ms, 99th {p99:.0f} ms")
    assert len(rows) == 2000 and sum(len(p.confirmed) for p in people) == 2000
    assert {(item, pos, said) for p in people for item, pos, said in p.confirmed} <= {row[1:] for row in rows}
    assert len({row[0] for row in rows}) == 50 and took < 60
    assert "Traceback" not in (tmp_path / "server.log").read_text()
    assert p99 < 300
    assert load_survey(survey.folder).key.questions == 40
