"""Only this machine's own page and programs may call the server, and the page may load nothing from elsewhere."""

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")


@pytest.fixture(scope="module")
def served(client, classifier_run):
    with client(classifier_run) as ready:
        yield ready


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1", "[::1]:8000", "192.168.1.7:8000", "LOCALHOST."])
def test_an_address_or_localhost_is_answered(served, host):
    assert served.get("/about", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example", "", "[::1"])
def test_another_name_is_refused(served, host):
    """As after DNS rebinding: the name of another site that now leads here."""
    answer = served.get("/about", headers={"Host": host})
    assert answer.status_code == 403 and "host" in answer.json()["error"]["message"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8000"])
def test_another_sites_page_is_refused(served, origin):
    for path in ("/predict", "/tables?name=x.csv"):
        answer = served.post(path, content='{"texts": ["a"]}', headers={"Origin": origin, "Content-Type": "text/plain"})
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    assert served.options("/predict", headers={"Origin": origin}).status_code == 403


def test_its_own_page_is_answered(served):
    headers = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    assert served.post("/predict", json={"texts": ["a"]}, headers=headers).status_code == 200


def test_a_cross_site_request_without_an_origin_is_refused(served):
    """As from an image or a script element; a link to the page may be followed."""
    cross = {"Sec-Fetch-Site": "cross-site"}
    assert served.get("/about", headers=cross | {"Sec-Fetch-Mode": "no-cors"}).status_code == 403
    assert served.get("/about", headers=cross | {"Sec-Fetch-Mode": "navigate"}).status_code == 403
    assert served.get("/", headers=cross | {"Sec-Fetch-Mode": "navigate"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/assets/page.js", "/about", "/nothing", "/openapi.json"])
def test_every_answer_forbids_other_sources(served, path):
    headers = served.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["cross-origin-resource-policy"] == "same-origin"


def test_a_body_without_a_length_is_counted(client, classifier_run):
    def pieces():
        for _ in range(50):
            yield b"x" * 100

    with client(classifier_run, body_bytes=2000) as limited:
        answer = limited.post("/predict", content=pieces())
    assert answer.status_code == 413


def test_what_is_not_there_is_said_in_words(served):
    for path in ("/nothing", "/assets/../app.py", "/assets/index.html", "/docs", "/tables/none", "/tables/none/file"):
        answer = served.get(path)
        assert answer.status_code == 404 and answer.json()["error"]["message"]
    assert served.get("/predict").status_code == 405


def test_openapi_describes_every_route(served):
    described = served.get("/openapi.json").json()
    assert {"/predict", "/explain", "/thresholds", "/tables", "/tables/{id}", "/about"} <= described["paths"].keys()
    for path, methods in described["paths"].items():
        for own in methods.values():
            assert own["description"].endswith("."), path


def test_a_bug_tells_the_client_nothing_of_the_machine(client, classifier_run, capsys):
    with client(classifier_run) as broken:
        broken.served.classifier.of_logits = lambda logits: 1 / 0
        answer = broken.post("/predict", json={"texts": ["a"]})
    assert answer.status_code == 500 and "division" not in answer.text
    assert "ZeroDivisionError" in capsys.readouterr().err
