"""A small survey, a server process of it, and people made of code who answer it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from hsr_nb.survey import Plan, Rules, build_survey, load_survey
from hsr_nb.survey.folder import answers_file
from hsr_nb.survey.records import item_order

ROOT = Path(__file__).resolve().parents[2]
TWO = {"baseline": "synthfaces-baseline", "hsr": "synthfaces-hsr"}


def small_survey(out, questions=8, rules=None, size=32, **plan):
    "A survey of the embedded generators, without the warnings about so few pictures."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = Plan(questions=questions, size=size, truncation=0.7, **plan)
        return build_survey("synthfaces", TWO, out, plan, rules or Rules())


class Server:
    "A process of `hsr_survey serve` on loopback."

    def __init__(self, folder, log, *options, port=0):
        self.folder, self.log = Path(folder), Path(log)
        words = ["serve", str(folder), "--port", str(port), *options]
        code = "import sys; from hsr_nb.survey.command import main; sys.exit(main(sys.argv[1:]))"
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with open(log, "a") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=err, env=env, text=True
            )
        line = self.process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), line + self.log.read_text()
        self.address = line.split()[0].rstrip("/")
        self.port = int(self.address.rsplit(":", 1)[1])

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)
        self.process.stdout.close()

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(20)
        self.process.stdout.close()
        return code


@contextmanager
def served(folder, tmp_path, *options, port=0):
    server = Server(folder, tmp_path / "server.log", *options, port=port)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


class Person:
    "One browser's worth of requests over one connection, by plain asyncio: the load is the server's, not the client's."

    def __init__(self, port, name=0):
        self.port, self.name, self.cookie, self.times, self.confirmed = port, name, "", [], []
        self.reader = self.writer = None

    async def ask(self, method, path, fields=None):
        "(status, headers, body); the time goes on the list."
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        body = urlencode(fields).encode() if fields else b""
        head = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Content-Length: {len(body)}"]
        head += ["Content-Type: application/x-www-form-urlencoded"] if fields else []
        head += [f"Cookie: {self.cookie}"] if self.cookie else []
        began = time.perf_counter()
        self.writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        status = int((await self.reader.readline()).split()[1])
        headers = {}
        while (line := (await self.reader.readline()).strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        answer = await self.reader.readexactly(int(headers.get("content-length", 0)))
        self.times.append(time.perf_counter() - began)
        if "set-cookie" in headers:
            self.cookie = headers["set-cookie"].split(";")[0]
        return status, headers, answer.decode(errors="replace")

    async def drop(self):
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None

    async def begin(self):
        status, _, _ = await self.ask("POST", "/begin", {"adult": "yes"})
        assert status == 303
        status, _, _ = await self.ask("POST", "/practice", {"answer": "real"})
        assert status == 200

    async def look(self):
        "The (item, pos) of the page that is shown, its picture fetched; None at the end."
        status, _, page = await self.ask("GET", "/survey")
        assert status == 200, page
        if 'name="item"' not in page:
            return None
        item = page.split('name="item" value="')[1].split('"')[0]
        pos = int(page.split('name="pos" value="')[1].split('"')[0])
        status, headers, _ = await self.ask("GET", f"/picture/{item}.png")
        assert status == 200 and headers["content-type"] == "image/png"
        return item, pos

    async def answer(self, item, pos, said="real"):
        status, headers, _ = await self.ask("POST", "/answer", dict(item=item, pos=pos, answer=said, rt_ms=800 + pos))
        if status == 303:
            self.confirmed.append((item, pos, said))
        return status


def session_names(folder):
    "Names of the sessions in the store beside a survey."
    import sqlite3

    with sqlite3.connect(answers_file(folder)) as db:
        return [name for (name,) in db.execute("SELECT session FROM sessions ORDER BY rowid")]


__all__ = [
    "Person",
    "Plan",
    "Rules",
    "Server",
    "TWO",
    "item_order",
    "load_survey",
    "served",
    "session_names",
    "small_survey",
]
