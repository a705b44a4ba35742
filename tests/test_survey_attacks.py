"""The survey's web pages against people who want to know, to count twice, or to do harm: each attempt is a test."""

import http.client
import json
import re
import sqlite3
from urllib.parse import urlencode

import pytest
from support.survey import Rules, Server, item_order, small_survey

for package in ("starlette", "uvicorn", "httpx", "tyro"):
    pytest.importorskip(package, reason=f'the survey needs {package}: pip install "hsr_nb[survey]"')

from starlette.testclient import TestClient  # noqa: E402  (an extra: skipped above where it is missing)

from hsr_nb.survey.desk import Desk  # noqa: E402
from hsr_nb.survey.folder import key_file, load_survey  # noqa: E402
from hsr_nb.survey.pages import intro_page  # noqa: E402
from hsr_nb.survey.server import HEADERS, make_app  # noqa: E402
from hsr_nb.survey.store import Store  # noqa: E402

SCRIPT = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_survey(tmp_path_factory.mktemp("built") / "faces", questions=12, secret="ab" * 16).folder


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    "A survey that asks for everything."
    rules = Rules(confidence=True, demographics=True, exposure_ms=400)
    return small_survey(tmp_path_factory.mktemp("asking") / "faces", questions=6, rules=rules).folder


class Site:
    "An application and its store."

    def __init__(self, folder, where, **options):
        self.survey = load_survey(folder)
        self.file = where / "answers.db"
        self.store = Store(self.file, self.survey.name)
        self.desk = Desk(self.survey, self.store, **options)
        self.app = make_app(self.desk, ["testserver"])

    def browser(self):
        return TestClient(self.app, follow_redirects=False, raise_server_exceptions=False)

    def person(self, practised=True, **fields):
        "A browser with a session, and the order of its pictures."
        b = self.browser()
        assert b.post("/begin", data={"adult": "yes", **fields}).status_code == 303
        if practised:
            assert b.post("/practice", data={"answer": "real"}).status_code == 200
        return b, item_order(self.survey.key, self.store.place(b.cookies["session"]).session)

    def rows(self):
        with sqlite3.connect(self.file) as db:
            return db.execute("SELECT session, item, pos, answer FROM answers ORDER BY session, pos").fetchall()


@pytest.fixture
def site(folder, tmp_path):
    site = Site(folder, tmp_path)
    yield site
    site.store.ledger.close()


@pytest.fixture
def site_asking(asking, tmp_path):
    site = Site(asking, tmp_path)
    yield site
    site.store.ledger.close()


def say(b, item, pos, answer="real", **more):
    "Look, which changes nothing where a picture is not to be seen, and answer."
    b.get(f"/picture/{item}.png")
    return b.post("/answer", data={"item": item, "pos": pos, "answer": answer, "rt_ms": 500, **more})


# ---- whose answer, which picture


def test_answering_for_another_session(site):
    anna, order = site.person()
    other, _ = site.person()
    session = site.store.place(anna.cookies["session"]).session
    thief = site.browser()
    tries = ["", session, session.upper(), "0" * 32, "' OR 1=1 --", f"{session}; session={session}", "../" + session]
    for cookie in tries:  # the name of a session, which whoever sees the data knows, opens nothing
        r = thief.post(
            "/answer", data={"item": order[0], "pos": 0, "answer": "real"}, headers={"Cookie": f"session={cookie}"}
        )
        assert r.status_code == 403, cookie
    say(other, order[0], 0, session=session, token=anna.cookies["session"])  # further fields decide nothing
    assert all(row[0] != session for row in site.rows())
    assert site.store.place(anna.cookies["session"]).answered == 0


def test_answering_out_of_order(site):
    b, order = site.person()
    for item, pos in [(order[3], 3), (order[1], 0), (order[0], 1), (order[1], 1), (order[-1], len(order) - 1)]:
        assert say(b, item, pos).status_code == 409, (item, pos)
    for item, pos in [(order[0], len(order)), (order[0], -1), (order[0], "1e3"), ("ffff", 0), ("", 0), (order[0], "")]:
        assert say(b, item, pos).status_code == 400, (item, pos)
    assert site.rows() == [] and say(b, order[0], 0).status_code == 303 and len(site.rows()) == 1


def test_answering_what_was_never_sent(site):
    "A page that was fetched, a picture that was not: no answer, and nobody is lost."
    b, order = site.person()
    b.get("/survey")
    unseen = b.post("/answer", data={"item": order[0], "pos": 0, "answer": "real"})
    assert unseen.status_code == 409 and "had not reached you" in unseen.text and site.rows() == []
    b.get("/mask.png"), b.get(f"/picture/{order[1]}.png"), b.get(f"/picture/{site.survey.one('practice')}.png")
    assert b.post("/answer", data={"item": order[0], "pos": 0, "answer": "real"}).status_code == 409
    assert b.get(f"/picture/{order[0]}.png").status_code == 200
    assert b.post("/answer", data={"item": order[0], "pos": 0, "answer": "real"}).status_code == 303
    assert b.post("/answer", data={"item": order[1], "pos": 1, "answer": "real"}).status_code == 409


def test_answering_before_the_practice_picture(site):
    b, order = site.person(practised=False)
    assert say(b, order[0], 0).status_code == 409 and site.rows() == []


def test_replaying(site):
    "The same answer again, and another answer to the same picture: the first one counts, and the person just goes on."
    b, order = site.person()
    assert say(b, order[0], 0, "real").status_code == 303
    for answer in ("real", "fake", "fake"):
        assert say(b, order[0], 0, answer).headers["location"] == "/survey"
    assert [row[1:] for row in site.rows()] == [(order[0], 0, "real")]
    say(b, order[1], 1, "fake")
    assert say(b, order[0], 0, "fake").status_code == 303 and len(site.rows()) == 2
    b.post("/begin", data={"adult": "yes"})  # the beginning again: no second session
    assert len(site.store.ledger.rows("SELECT 1 FROM sessions")) == 1


def test_answering_after_the_end_and_after_leaving(site):
    b, order = site.person()
    for pos, item in enumerate(order):
        assert say(b, item, pos).status_code == 303
    assert say(b, order[0], len(order)).status_code == 400 and len(site.rows()) == len(order)
    assert b.post("/delete", data={"x": "1"}).status_code == 200 and site.rows() == []
    assert say(b, order[0], 0).status_code == 403


def test_looking_ahead_and_back(site):
    "A picture is sent to the session that is at it. Others look as if they did not exist."
    b, order = site.person()
    stranger = site.browser()
    missing = b.get("/picture/0123456789ab.png")
    for pos, item in enumerate(order[:4]):
        assert b.get(f"/picture/{item}.png").status_code == 200
        for other in set(order) - {item}:
            r = b.get(f"/picture/{other}.png")
            assert (r.status_code, r.content, r.headers) == (404, missing.content, missing.headers), other
        assert stranger.get(f"/picture/{item}.png").status_code == 404
        say(b, item, pos)
    for item in site.survey.key.of("attention"):
        assert stranger.get(f"/picture/{item}.png").status_code == 404


def test_the_review_comes_at_the_end(site):
    b, order = site.person()
    assert b.get("/review").headers["location"] == "/survey"
    for pos, item in enumerate(order):
        say(b, item, pos, "real")
    page = b.get("/review").text
    shown = re.findall(r"/picture/([0-9a-f]+)\.png", page)
    scored = set(site.survey.key.of("scored"))
    assert (
        set(shown) == {i for i in scored if site.survey.key.is_fake(i)}
        and b.get(f"/picture/{shown[0]}.png").status_code == 200
    )
    assert site.browser().get("/review").status_code == 403


def test_confidence_cannot_be_skipped_or_changed(site_asking):
    b, order = site_asking.person()
    say(b, order[0], 0)
    assert say(b, order[1], 1).status_code == 409 and "How sure" in b.get("/survey").text
    assert b.get(f"/picture/{order[1]}.png").status_code == 404
    for conf, pos, status in [("6", 0, 400), ("0", 0, 400), ("x", 0, 400), ("3", 1, 409), ("3", 0, 303), ("5", 0, 303)]:
        assert b.post("/sure", data={"conf": conf, "pos": pos}).status_code == status, conf
    with sqlite3.connect(site_asking.file) as db:
        assert db.execute("SELECT conf FROM answers").fetchall() == [(3,)]


def test_a_limited_time_is_given_once(site_asking):
    b, order = site_asking.person()
    assert "data-exposure" in b.get("/survey").text
    assert b.get(f"/picture/{order[0]}.png").status_code == 200
    assert b.get(f"/picture/{order[0]}.png").status_code == 404
    page = b.get("/survey").text
    assert order[0] not in page.split("<form")[0] and "mask.png" in page and "seen this picture already" in page
    say(b, order[0], 0)


def test_a_limited_time_survives_a_killed_server(asking, tmp_path):
    "A new process on the same database: the picture was seen, and is not sent again."
    before = Site(asking, tmp_path)
    b, order = before.person()
    assert b.get(f"/picture/{order[0]}.png").status_code == 200
    before.store.ledger.close()
    after = Site(asking, tmp_path)
    again = after.browser()
    again.cookies.set("session", b.cookies["session"])
    assert again.get(f"/picture/{order[0]}.png").status_code == 404
    assert "seen this picture already" in again.get("/survey").text
    assert again.post("/answer", data={"item": order[0], "pos": 0, "answer": "real"}).status_code == 303
    after.store.ledger.close()


def test_a_full_survey(folder, tmp_path):
    "Full of people who answer; those who only press Begin shut nobody out."
    site = Site(folder, tmp_path, max_sessions=2)
    for _ in range(5):
        site.person()
    for _ in range(2):
        b, order = site.person()
        assert say(b, order[0], 0).status_code == 303
    assert site.browser().post("/begin", data={"adult": "yes"}).status_code == 403
    assert len(site.store.ledger.rows("SELECT 1 FROM sessions")) == 7
    site.store.ledger.close()


def test_sessions_without_answers_make_room(folder, tmp_path):
    "Whoever presses Begin for ever fills no disk, and costs nobody an answer."
    site = Site(folder, tmp_path)
    site.store.max_empty = 4
    b, order = site.person()
    say(b, order[0], 0)
    for _ in range(12):
        site.browser().post("/begin", data={"adult": "yes"})
    assert len(site.store.ledger.rows("SELECT 1 FROM sessions")) == 5
    assert say(b, order[1], 1).status_code == 303
    site.store.ledger.close()


def test_the_name_that_people_type(folder, tmp_path):
    "A proxy that makes Host its own: forms from the public name are taken, those of others and of other schemes not."
    site = Site(folder, tmp_path, https=True, names=("survey.example.org",))
    b = site.browser()
    for origin, status in [
        ("https://survey.example.org", 303),
        ("https://survey.example.org:8443", 303),
        ("http://survey.example.org", 403),
        ("https://survey.example.org.evil.example", 403),
        ("https://evil.example/survey.example.org", 403),
        ("https://survey.example.org" + "@" + "evil.example", 403),
        ("https://[", 403),
    ]:
        r = site.browser().post("/begin", data={"adult": "yes"}, headers={"Origin": origin})
        assert r.status_code == status, origin
    foreign = {"Origin": "https://survey.example.org", "Sec-Fetch-Site": "cross-site"}
    assert b.post("/begin", data={"adult": "yes"}, headers=foreign).status_code == 403
    site.store.ledger.close()


# ---- whose the pictures are


def test_credits_tell_nothing_before_the_end(folder, tmp_path):
    "Source, licence and generators for everybody; whose picture is which only for who has answered all."
    site = Site(folder, tmp_path)
    reals = [name for name in site.survey.key.items if not site.survey.key.is_fake(name)]
    for number, name in enumerate(reals):
        site.survey.key.items[name]["attribution"] = f"Photographer {number} {SCRIPT}"
    b, order = site.person()
    for browser in (site.browser(), b):
        page = browser.get("/credits").text
        assert "SynthFaces" in page and "Apache-2.0" in page and "baseline, hsr" in page and "They show nobody" in page
        assert "Photographer" not in page and "once you have answered all" in page and "/picture/" not in page
    for pos, item in enumerate(order):
        say(b, item, pos)
    page = b.get("/credits").text
    shown = set(re.findall(r"/picture/([0-9a-f]+)\.png", page))
    assert shown == set(reals) & {*order, site.survey.one("practice")} and page.count("Photographer") == len(shown)
    assert SCRIPT not in page and all(b.get(f"/picture/{item}.png").status_code == 200 for item in shown)
    for path in ("/", "/survey", "/stop"):
        assert 'href="/credits"' in (site.browser() if path == "/" else b).get(path).text, path
    site.store.ledger.close()


def test_credits_that_nobody_gave(folder, tmp_path):
    site = Site(folder, tmp_path)
    site.survey.key.about["sources"]["real"] = {"kind": "folder", "name": "private-name"}
    page = site.browser().get("/credits").text
    assert "Nothing is said about where the real pictures are from" in page and "private-name" not in page
    site.survey.key.about["licence"] = "my photographs, CC0"
    assert "my photographs, CC0" in site.browser().get("/credits").text
    site.store.ledger.close()


# ---- the class in what surrounds a picture


def test_the_class_is_in_no_name_size_header_or_tag(site):
    "Everything about the answers to the requests for pictures, real against fake."
    seen = {False: [], True: []}
    for _ in range(3):
        b, order = site.person()
        for pos, item in enumerate(order):
            page, r = b.get("/survey"), b.get(f"/picture/{item}.png")
            kind = site.survey.key.is_fake(item)
            about = dict(r.headers), len(page.text) - len(str(pos + 1)) * 4 - len(str(pos)) * 2, len(r.request.url.path)
            seen[kind].append((about, item))
            assert not {"etag", "last-modified", "age", "content-disposition"} & set(r.headers)
            assert r.headers["cache-control"] == "no-store"
            say(b, item, pos, "real", rt_ms=500)
    alike = {json.dumps(about, sort_keys=True) for kind in seen.values() for about, _ in kind}
    assert len({re.sub(r"\d+, \d+\]$", "", a) for a in alike}) == 1, "headers differ between pictures"
    sizes = {int(about[0]["content-length"]) for kind in seen.values() for about, _ in kind}
    assert len(sizes) == 1


def test_no_page_before_the_end_depends_on_the_class(site):
    "The page of a picture is the same page for every other picture, but for the name and the number."
    b, order = site.person()
    bare = set()
    for pos, item in enumerate(order):
        text = b.get("/survey").text.replace(item, "ITEM")
        text = re.sub(r'Picture \d+ of|value="\d+"', "N", text)
        bare.add(text)
        say(b, item, pos)
    assert len(bare) == 1
    words = b.get("/survey").text.lower()
    assert site.survey.key.about["secret"] not in words and "synthfaces" not in words


# ---- paths


@pytest.mark.parametrize(
    "path",
    [
        "/faces.key.json",
        "/survey.json",
        "/words.txt",
        "/pictures/",
        "/picture/",
        "/picture/..png",
        "/picture/../faces.key.json",
        "/picture/%2e%2e%2ffaces.key.json",
        "/picture/..%2f..%2ffaces.key.json.png",
        "/picture/%00.png",
        "/picture/a/../../x.png",
        "/.git/config",
        "/answers.db",
        "/page.css/../words.txt",
        "/picture/" + "a" * 3000 + ".png",
    ],
)
def test_nothing_else_is_served(site, path):
    b, _ = site.person()
    r = b.get(path)
    assert r.status_code in (404, 405) and '"scored"' not in r.text and "[title]" not in r.text, (path, r.status_code)
    assert site.survey.key.about["secret"] not in r.text
    assert r.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]


def test_raw_traversal_over_a_real_connection(folder, tmp_path):
    "A client that does not tidy up its paths, whose headers are too large, whose body never ends."
    server = Server(folder, tmp_path / "log", "--answers", str(tmp_path / "a.db"))
    secret = json.loads(key_file(folder).read_text())["secret"]
    try:
        for path in (
            "/../faces.key.json",
            "/picture/../../faces.key.json",
            "/%2e%2e/faces.key.json",
            "//faces.key.json",
            "\\..\\faces.key.json",
            "/picture/..\\..\\k.png",
        ):
            c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            c.putrequest("GET", path, skip_host=True)
            c.putheader("Host", f"127.0.0.1:{server.port}")
            c.endheaders()
            r = c.getresponse()
            body = r.read().decode()
            assert r.status in (400, 404) and secret not in body, path
            assert "server" not in {k.lower() for k, _ in r.getheaders()}
            c.close()
        c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        c.request("GET", "/", headers={"X-Large": "x" * 100_000})
        assert c.getresponse().status == 431
        c.close()
        c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        c.putrequest("POST", "/begin")
        c.putheader("Content-Type", "application/x-www-form-urlencoded")
        c.putheader("Transfer-Encoding", "chunked")
        c.endheaders()
        refused = False
        try:
            for _ in range(2000):  # 20 MB, were they taken
                c.send(b"2710\r\n" + b"a" * 10_000 + b"\r\n")
        except OSError:
            refused = True
        assert refused or c.getresponse().status == 413
        c.close()
        wrong = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        wrong.request("GET", "/", headers={"Host": "evil.example"})  # a foreign name that was pointed here
        assert wrong.getresponse().status == 400
        wrong.close()
        c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        c.request("GET", "/")
        assert c.getresponse().status == 200
        c.close()
        log = (tmp_path / "log").read_text()
        assert "Traceback" not in log and "127.0.0.1" not in log
    finally:
        assert server.stop() in (0, 130)


# ---- bodies and fields


@pytest.mark.parametrize("size, status", [(2000, 400), (2049, 413), (100_000, 413), (5_000_000, 413)])
def test_oversized_bodies(site, size, status):
    b, order = site.person()
    head = urlencode({"item": order[0], "pos": 0, "answer": "real", "answer ": "x"})
    for path in ("/answer", "/practice", "/begin", "/sure", "/delete", "/leave"):
        body = (head + "&answer=" + "a" * size)[:size]
        r = b.post(path, content=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
        assert r.status_code == status or (
            status == 400 and path in ("/begin", "/leave", "/delete", "/practice", "/sure")
        ), path
    assert site.rows() == []


def test_bodies_of_other_kinds(site):
    b, order = site.person()
    fields = {"item": order[0], "pos": "0", "answer": "real"}
    assert b.post("/answer", json=fields).status_code == 415
    assert b.post("/answer", files={"item": b"x"}, data=fields).status_code == 415
    assert b.post("/answer", content=b"\xff\xfe").status_code == 415
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for body in (
        b"\xff\xfe=1",
        b"item=a&item=b&pos=0&answer=real",
        b"&".join(b"a%d=1" % i for i in range(50)),
        b"",
        b"%ff=%fe",
    ):
        assert b.post("/answer", content=body, headers=form).status_code == 400, body[:20]
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        assert b.request(method, "/answer").status_code == 405
    assert site.rows() == []


def test_forms_of_other_sites(site):
    b, order = site.person()
    data = {"item": order[0], "pos": 0, "answer": "real"}
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert b.post("/answer", data=data, headers=headers).status_code == 403, headers
    assert b.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert site.rows() == []
    good = {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}
    b.get(f"/picture/{order[0]}.png")
    assert b.post("/answer", data=data, headers=good).status_code == 303


def test_script_in_every_field(site_asking):
    "Nothing that is sent ever comes back as markup, and nothing of it is stored."
    site = site_asking
    b, order = site.person()
    good = {
        "item": order[0],
        "pos": "0",
        "answer": "real",
        "rt_ms": "1",
        "conf": "1",
        "adult": "yes",
        "age": "1",
        "experience": "1",
        "profession": "1",
    }
    for field in [*good, SCRIPT]:
        data = {**good, field: SCRIPT}
        for path in ("/answer", "/practice", "/sure", "/delete?x=" + SCRIPT, "/leave", "/begin"):
            if path.startswith("/delete") and field != SCRIPT:
                continue
            r = (site.browser() if path in ("/begin", "/delete?x=" + SCRIPT) else b).post(path, data=data)
            assert SCRIPT not in r.text and "alert(" not in r.text, (field, path)
            assert "alert" not in str(r.headers), (field, path)
    for path in ("/" + SCRIPT, "/picture/" + SCRIPT + ".png", "/survey?x=" + SCRIPT, "/review?" + SCRIPT):
        assert "alert(" not in b.get(path).text, path
    b.cookies.set("session", "x")
    assert "alert(" not in b.get("/survey", headers={"Cookie": f"session={SCRIPT}"}).text
    with sqlite3.connect(site.file) as db:
        said = "\n".join(db.iterdump())
    assert "alert" not in said


def test_script_in_the_words(folder, tmp_path):
    "Every text of the words file is shown as text, wherever it is shown."
    site = Site(folder, tmp_path)
    texts = site.survey.words.texts
    texts.update({name: f"{text} {SCRIPT} \" onload='x" for name, text in texts.items()})
    b = site.browser()
    pages = [b.get("/").text, b.post("/begin", data={"adult": ""}).text, b.get("/nothing").text]
    b, order = site.person(practised=False)
    pages += [b.get("/survey").text, b.post("/practice", data={"answer": "real"}).text, b.get("/stop").text]
    pages.append(say(b, order[2], 2).text)
    for pos, item in enumerate(order):
        pages.append(b.get("/survey").text)
        say(b, item, pos)
    pages += [b.get("/survey").text, b.get("/review").text, b.post("/delete", data={"x": "1"}).text]
    for page in pages:
        assert "<script>alert" not in page and "onload='" not in page and "&lt;script&gt;" in page
    site.store.ledger.close()


# ---- what is kept of a person


def test_what_is_stored_of_a_person(site):
    "Nine fields of an answer and seven of a session; no address, no agent, no time of day."
    b, order = site.person()
    marked = {
        "User-Agent": "Marked/1.0",
        "X-Forwarded-For": "203.0.113.9",
        "Referer": "http://mail.example",
        "Accept-Language": "xx",
    }
    b.get(f"/picture/{order[0]}.png", headers=marked)
    b.post(
        "/answer",
        data={"item": order[0], "pos": 0, "answer": "real", "rt_ms": "77", "email": "someone@mail"},
        headers=marked,
    )
    with sqlite3.connect(site.file) as db:
        said = "\n".join(db.iterdump())
        columns = {t: [c[1] for c in db.execute(f"PRAGMA table_info({t})")] for t in ("sessions", "answers")}
    assert columns["answers"] == ["session", "item", "pos", "answer", "rt_ms", "conf", "flip", "t"]
    assert columns["sessions"] == ["session", "token", "t", "flip", "practised", "who", "shown"]
    for mark in ("Marked", "203.0.113", "mail", "testclient", "xx", b.cookies["session"]):
        assert mark not in said, mark
    assert not re.search(r"\d\d:\d\d", said)


def test_one_cookie(site):
    r = site.browser().post("/begin", data={"adult": "yes"})
    (cookie,) = r.headers.get_list("set-cookie")
    assert re.fullmatch(r"session=[0-9a-f]{32}; HttpOnly; Max-Age=2592000; Path=/; SameSite=lax", cookie), cookie
    for path in ("/", "/page.css", "/page.js", "/mask.png", "/favicon.ico"):
        assert "set-cookie" not in site.browser().get(path).headers
    site.desk.https = True
    assert "Secure" in site.browser().post("/begin", data={"adult": "yes"}).headers["set-cookie"]


def test_policy_and_pages_agree(site):
    "Nothing inline, nothing from elsewhere, on any page."
    b, order = site.person(practised=False)
    pages = [
        site.browser().get("/"),
        b.get("/survey"),
        b.post("/practice", data={"answer": "fake"}),
        b.get("/survey"),
        b.get("/stop"),
    ]
    for r in pages:
        policy = r.headers["content-security-policy"]
        assert "unsafe" not in policy and "default-src 'none'" in policy and "connect-src" not in policy
        assert not re.search(r"<script(?! src=\"/page.js\" defer>)|<style|style=|\son[a-z]+=|https?://|//[a-z]", r.text)
        assert r.headers["referrer-policy"] == "same-origin" and r.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"fetch\(|XMLHttp|sendBeacon|WebSocket|https?:", b.get("/page.js").text)
    assert not re.search(r"url\(|@import", b.get("/page.css").text)


def test_about_oneself_only_offered_answers(site_asking):
    for fields, status in [
        ({"age": "1"}, 303),
        ({"age": ""}, 303),
        ({"age": "9"}, 400),
        ({"profession": "pilot"}, 400),
    ]:
        assert site_asking.browser().post("/begin", data={"adult": "yes", **fields}).status_code == status, fields
    told = site_asking.store.ledger.rows("SELECT who FROM sessions ORDER BY rowid")
    assert told == [('{"age": "18 to 29"}',), (None,)]


def test_what_is_stored_is_said(folder, asking):
    "The first page names each thing that its survey stores, and nothing that it does not."
    plain, asks = (intro_page(load_survey(where)) for where in (folder, asking))
    for word in (
        "random number",
        "how long each took",
        "order of the pictures",
        "which button was on the left",
        "the date",
    ):
        assert word in plain and word in asks, word
    for word in ("how sure you say you are", "about your age"):
        assert word not in plain and word in asks, word


def test_the_number_is_told_to_who_stops(site):
    "It is all that withdrawing needs later."
    b, _ = site.person()
    session = site.store.place(b.cookies["session"]).session
    assert session in b.get("/stop").text and session not in b.get("/survey").text


def test_an_unticked_box_begins_nothing(site):
    for data in ({"adult": ""}, {"adult": "no"}, {"x": "1"}):
        r = site.browser().post("/begin", data=data)
        assert r.status_code == 400 and "tick the box" in r.text and "set-cookie" not in r.headers
    assert site.store.ledger.rows("SELECT 1 FROM sessions") == []
