"""How long fifty people at once wait for the survey's pages, on loopback, and whether any answer is lost.

`python tests/support/measure_survey.py` writes the figures to data/results. On a machine that is busy with other work,
`chrt -r 5 python ...` puts server and client before it; the file says so."""

import asyncio
import os
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from survey import Person, served, small_survey

from hsr_nb.base.provenance import write_result
from hsr_nb.survey.folder import answers_file

ROOT = Path(__file__).resolve().parents[2]


def stored(folder):
    "The answers in the database beside a survey."
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


def crowd(folder: Path, count: int = 50, think: float = 0.5, limit: float = 120) -> dict:
    "So many people answer forty pictures of 256 pixels, each in its own connection; one row of what was measured."
    survey = small_survey(folder / "faces", questions=40, size=256, attention=0)
    with served(survey.folder, folder) as server:
        people = [Person(server.port, i) for i in range(count)]

        async def all_at_once():
            await asyncio.wait_for(asyncio.gather(*[everything(p, think) for p in people]), limit)

        began = time.monotonic()
        asyncio.run(all_at_once())
        took = time.monotonic() - began
    rows = stored(survey.folder)
    confirmed = {(item, pos, said) for p in people for item, pos, said in p.confirmed}
    times = 1000 * np.array([t for p in people for t in p.times])
    return dict(
        people=count,
        seconds_per_picture=think,
        answers_confirmed=sum(len(p.confirmed) for p in people),
        answers_stored=len(rows),
        sessions=len({row[0] for row in rows}),
        confirmed_but_lost=len(confirmed - {row[1:] for row in rows}),
        requests=len(times),
        seconds=round(took, 1),
        median_ms=round(float(np.median(times)), 1),
        p95_ms=round(float(np.percentile(times, 95)), 1),
        p99_ms=round(float(np.percentile(times, 99)), 1),
        slowest_ms=round(float(times.max()), 1),
        tracebacks=(folder / "server.log").read_text().count("Traceback"),
        load_average=round(os.getloadavg()[0], 1),
    )


if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    config = {
        "repeats": repeats,
        "pictures": "40 of 256 pixels, each sent and answered",
        "client": "on the same machine, one connection a person",
        "scheduling": "real time" if os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR) else "normal",
    }
    measured = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as place:
            measured.append(crowd(Path(place)))
        print(measured[-1], flush=True)
    print(write_result(ROOT / "data/results", "survey-load", config, measured).name)
