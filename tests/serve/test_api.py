"""The API by the client of OpenAI, unmodified, and by whoever means no good."""

import base64
import concurrent.futures
import io
import json
import random
import socket
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

import impasto
from impasto.cli import main
from impasto.drawing import draw
from impasto.mars.directories import EnlargingConfig, MarsPipelineConfig
from impasto.mars.pipeline import MarsPipeline
from impasto.mars.runs import RUNS
from impasto.pictures import METADATA_KEY
from impasto.serve.api import ApiConfig
from impasto.serve.engine import EngineConfig
from impasto.serve.guard import GuardConfig
from impasto.serve.page_queue import PageError
from impasto.serve.page_work import PageWork
from impasto.serve.work import Size
from tests.serve.running import served

HTTP = httpx.Client(timeout=120)  # a context of TLS for each request would take longer than a picture
MODEL, MARS, KEY = "aurora-scenes-32", "mars-scenes", "a key of ours"


class Prudish:
    """A filter for tests."""

    def check_prompt(self, prompt):
        return "no such words here" if "unspeakable" in prompt else None

    def check_picture(self, picture, prompt):
        return "no such pictures here" if "unseeable" in prompt else None


@pytest.fixture(scope="module")
def server():
    api = ApiConfig(keys=(KEY,), guard=GuardConfig(body_seconds=2.0, most_bytes=3 * 2**20))
    with served(EngineConfig(models=(MODEL, MARS), queue=64), api, Prudish()) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120)


def opened(datum) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(datum.b64_json)))


def post(server, content, path="images/generations", **headers) -> httpx.Response:
    told = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", **headers}
    return HTTP.post(f"{server.url}/v1/{path}", content=content, headers=told)


def test_pictures_as_base64_and_by_address(client):
    asked = {"prompt": "a red circle", "n": 2, "extra_body": {"seed": 7, "truncation": 0.7}}
    encoded = client.images.generate(**asked, model=MODEL, response_format="b64_json")
    assert [datum.seed for datum in encoded.data] == [7, 8] and encoded.created > 1e9
    settings = json.loads(opened(encoded.data[1]).info[METADATA_KEY])
    assert settings["seed"] == 8 and settings["truncation"] == 0.7 and settings["model"] == MODEL
    addressed = client.images.generate(**asked)
    got = httpx.get(addressed.data[1].url)  # no key: the address is one
    assert got.headers["content-type"] == "image/png" and got.content == base64.b64decode(
        encoded.data[1].b64_json
    )
    larger = client.images.generate(prompt="a red circle", size="64x64", response_format="b64_json")
    assert opened(larger.data[0]).size == (64, 64) and larger.data[0].b64_json != encoded.data[0].b64_json
    unseeded = {client.images.generate(prompt="x", response_format="b64_json").data[0].seed for _ in range(3)}
    assert len(unseeded) == 3


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        ({"model": "dall-e-3"}, openai.NotFoundError, "no model 'dall-e-3'"),
        ({"size": "1024x1024"}, openai.BadRequestError, "draws 32x32, 64x64, 128x128, not '1024x1024'"),
        ({"n": 11}, openai.BadRequestError, "'n': input should be less than or equal to 10"),
        ({"n": 0}, openai.BadRequestError, "'n'"),
        ({"prompt": "x" * 1001}, openai.BadRequestError, "1,001 characters; at most 1,000"),
        ({"prompt": ""}, openai.BadRequestError, "the prompt is empty"),
        ({"quality": "hd"}, openai.BadRequestError, "'quality'"),
        ({"prompt": "unspeakable"}, openai.BadRequestError, "no such words here"),
        ({"prompt": "unseeable"}, openai.BadRequestError, "no such pictures here"),
        ({"extra_body": {"sede": 3}}, openai.BadRequestError, "unknown parameter 'sede'"),
        ({"extra_body": {"guidance": 3}}, openai.BadRequestError, "'guidance' means nothing to"),
        ({"extra_body": {"seed": 2**32}}, openai.BadRequestError, "'seed'"),
        ({"extra_body": {"truncation": True}}, openai.BadRequestError, "'truncation'"),
    ],
)
def test_mistakes_raise_what_the_client_knows(client, asked, kind, message):
    with pytest.raises(kind, match=message) as raised:
        client.images.generate(**{"prompt": "a red circle", **asked})
    assert raised.value.body["type"] == "invalid_request_error"


def test_keys_models_health_and_metrics(server, client):
    stranger = openai.OpenAI(base_url=f"{server.url}/v1", api_key="guess", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="wrong or missing key"):
        stranger.images.generate(prompt="a red circle")
    assert [model.id for model in client.models.list()] == [MODEL, MARS]
    assert client.models.retrieve(MARS).sizes == ["32x32", "64x64", "128x128"]
    assert httpx.get(f"{server.url}/health/live").status_code == 200
    assert httpx.get(f"{server.url}/health/ready").json()["models"] == [MODEL, MARS]
    assert httpx.get(f"{server.url}/metrics").status_code == 401
    client.images.generate(prompt="a red circle")
    told = httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    assert f'impasto_rows_total{{model="{MODEL}",work="draw"}}' in told and "impasto_ready 1.0" in told
    assert 'impasto_requests_total{endpoint="v1/images/generations",status="401"}' in told


def test_a_picture_is_described_and_text_goes_on(server, client):
    datum = client.images.generate(prompt="a red circle", response_format="b64_json").data[0]
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{datum.b64_json}"}}
    asked = {"model": MARS, "messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, part]}]}
    english = client.chat.completions.create(**asked, extra_body={"language": "en"})
    chinese = client.chat.completions.create(**asked, extra_body={"language": "zh"})
    picture = opened(datum)
    pipe = impasto.load(MARS)
    assert english.choices[0].message.content == pipe.caption(picture, "en")[0]
    assert chinese.choices[0].message.content == pipe.caption(picture, "zh")[0]
    for url in ("https://example.org/x.png", "data:image/png;base64,AAAA", "data:image/png;base64,%"):
        part["image_url"]["url"] = url
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**asked)
    with pytest.raises(openai.BadRequestError, match="does not do this"):
        client.chat.completions.create(**{**asked, "model": MODEL})
    written = post(server, b'{"prompt": "a red", "seed": 3, "max_words": 6}', "interleaved").json()
    assert [part["text"] for part in written["parts"]] == pipe.write("a red", seed=3, max_words=6)


def test_one_seed_is_one_picture_everywhere(server, client, tmp_path):
    """Command line, Python, server and page: equal bytes, settings included, for equal batches."""
    for model, own in ((MODEL, {"truncation": 0.5}), (MARS, {"guidance": 2.0})):
        (name, value), out = next(iter(own.items())), tmp_path / model
        arguments = ["a red circle", "-n", "3", "--seed", "5", "--model", model, "--out", str(out)]
        assert main(["generate", *arguments, f"--{name}", str(value)]) == 0
        command = [(out / f"{index:06d}.png").read_bytes() for index in range(3)]
        pipe = impasto.load(model)
        drawn = draw(pipe, ["a red circle"] * 3, [5, 6, 7], own, batch_size=server.engine.default.batch_size)
        assert [one.png() for one in drawn] == command
        plain = pipe("a red circle", num_images=3, seed=5, **own)
        assert [p.tobytes() for p in plain] == [one.picture.tobytes() for one in drawn]
        told = client.images.generate(
            model=model, prompt="a red circle", n=3, response_format="b64_json", extra_body={"seed": 5, **own}
        )
        assert [base64.b64decode(datum.b64_json) for datum in told.data] == command
        page = PageWork(server.engine, 1000)
        *_, files = page.draw(model, "a red circle", 3, 5, "32x32", own)
        assert [Path(file).read_bytes() for file, _ in files] == command
        again = tmp_path / "again"  # a picture says how to draw it; alone it is another batch
        alone = ["a red circle", "--seed", "6", "--model", model, "--out", str(tmp_path / "alone")]
        assert main(["generate", *alone, f"--{name}", str(value)]) == 0
        assert main(["generate", "--like", str(out / "000001.png"), "--out", str(again)]) == 0
        assert (again / "000000.png").read_bytes() == (tmp_path / "alone/000000.png").read_bytes()


def test_company_in_a_batch_changes_next_to_nothing(server):
    """Aurora: at most one level in 99.9 % of values, flips of the router counted; MARS: no token."""
    prompts = ["a red circle", "a blue square on a gray background", "a green triangle", "一个红色的圆形"] * 4
    seeds = list(range(16))
    aurora = impasto.load(MODEL)
    alone = [aurora.generate(prompt, seed=seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    for size in (3, 8, 16):
        many = aurora.generate(prompts, seed=seeds, batch_size=size)
        one = np.stack([np.asarray(part.pictures()[0], dtype=int) for part in alone])
        other = np.stack([np.asarray(picture, dtype=int) for picture in many.pictures()])
        assert (np.abs(one - other) <= 1).mean() >= 0.999
        flips = points = 0
        for layer, routing in enumerate(many.routing):
            for index, part in enumerate(alone):
                flips += int((part.routing[layer].expert_index[0] != routing.expert_index[index]).sum())
                points += routing.expert_index[index].numel()
        assert flips <= points / 1000
    mars = impasto.load(MARS)
    single = [mars.generate(prompt, seed=s).codes[0] for prompt, s in zip(prompts[:6], seeds, strict=False)]
    for size in (2, 6):
        codes = mars.generate(prompts[:6], seed=seeds[:6], batch_size=size).codes
        assert all((codes[index] == one).all() for index, one in enumerate(single))


NUMBERS = ("1e999", "-1e999", "NaN", "Infinity", "9" * 400, "9" * 5000, "1.5", "-0", "1e-400", "true", "null")
BODIES = [
    b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"{}", b"[" * 100_000, b'{"prompt":' * 5000, b"\x00",
    b'{"prompt":"a","prompt":3}', b'{"prompt":["a"]}', b'{"prompt":"\\ud800"}', b'{"\\ud800":"a"}',
    b'{"prompt":"a","model":"\\udfff"}', b'{"prompt":"a","size":"' + b"9" * 1000 + b'x9"}',
    b'{"prompt":"a","model":"../../etc/passwd"}', b'{"prompt":"a","model":"/srv"}',
    b'{"prompt":"' + b"x" * 2**20 + b'"}', b'{"prompt":"' + b"\xe4\xb8\x80" * 2**18 + b'"}',
    *(f'{{"prompt":"a","{name}":{number}}}'.encode() for number in NUMBERS
      for name in ("n", "seed", "truncation", "size")),
]  # fmt: skip


def unharmed(response: httpx.Response) -> None:
    assert response.status_code in (200, 400, 404, 408, 413, 429), response.text[:300]
    if response.status_code != 200:
        error = response.json()["error"]
        assert error["message"] and "/work" not in error["message"] and "site-packages" not in response.text
        assert "Traceback" not in response.text and "/usr" not in error["message"]


def test_nothing_that_is_sent_breaks_it(server):
    for body in BODIES:
        unharmed(post(server, body))
        if len(body) < 100:
            for path in ("chat/completions", "interleaved", "models", "x/y"):
                unharmed(post(server, body, path))
    assert post(server, BODIES[18]).status_code == 400  # a prompt of a megabyte
    assert post(server, b"x" * (3 * 2**20 + 1)).status_code == 413
    assert post(server, b'{"prompt": "a"}', **{"Content-Type": "text/plain"}).status_code == 400
    streamed = post(server, iter([b"x" * 2**20] * 4))  # no length said
    assert streamed.status_code == 413
    assert httpx.get(f"{server.url}/health/ready").status_code == 200


def test_every_plane_of_unicode_and_control_characters(server):
    rng, prompts = random.Random(0), []
    for plane in range(17):
        letters = [chr(plane * 0x10000 + rng.randrange(0x10000)) for _ in range(40)]
        prompts.append("".join(letter for letter in letters if not 0xD800 <= ord(letter) < 0xE000))
    prompts += ["".join(map(chr, range(32))), "\x7f\x80\x9f\u2028\u202e\ufeff", "a\u0301" * 100, " ", "\n"]
    for model, chosen in ((MODEL, prompts), (MARS, prompts[::4])):
        for prompt in chosen:
            response = post(server, json.dumps({"prompt": prompt, "model": model, "seed": 1}).encode())
            unharmed(response)
            assert response.status_code == 200 or "tokens" in response.json()["error"]["message"], prompt


def test_slow_clients_are_let_go(server):
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        slow.sendall(head.encode() + b'{"prompt"')
        began = time.monotonic()
        assert b" 408 " in slow.recv(4096).split(b"\r\n")[0]
        assert time.monotonic() - began < 15
    assert httpx.get(f"{server.url}/health/ready").status_code == 200


def test_a_slow_head_is_hung_up_on(server, monkeypatch):
    monkeypatch.setattr("impasto.serve.running.HEAD_SECONDS", 0.5)
    host, port = server.url.removeprefix("http://").split(":")
    for whole, part in (
        (b"", b""),
        (b"", b"GET /health/rea"),
        (b"GET /health/live HTTP/1.1\r\nHost: x", b"GE"),
    ):
        with socket.create_connection((host, int(port)), timeout=20) as slow:
            if whole:
                slow.sendall(whole + b"\r\n\r\n")
                assert b" 200 " in slow.recv(4096)
            slow.sendall(part)
            while slow.recv(4096):  # the rest of an answer, then the end
                pass


def test_a_full_queue_is_429_and_who_hangs_up_leaves_it(server):
    limit, batcher = server.engine.batcher.limit, server.engine.batcher
    served_model = server.engine.default
    gate = threading.Event()
    held = server.engine.alone(served_model, lambda: gate.wait(30))
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            body = json.dumps({"prompt": "a red circle", "n": 10, "seed": 1}).encode()
            asked = [pool.submit(post, server, body) for _ in range(limit // 10)]
            end = time.monotonic() + 20
            while batcher.waiting < limit // 10 * 10 and time.monotonic() < end:
                time.sleep(0.01)
            full = post(server, body)
            assert full.status_code == 429 and int(full.headers["retry-after"]) >= 1
            assert full.json()["error"]["code"] == "server_busy"
            with pytest.raises(httpx.ReadTimeout):  # this one does not wait
                httpx.post(
                    f"{server.url}/v1/images/generations", json={"prompt": "a", "n": 4}, timeout=0.5,
                    headers={"Authorization": f"Bearer {KEY}"},
                )  # fmt: skip
            end = time.monotonic() + 20
            while batcher.waiting > limit // 10 * 10 and time.monotonic() < end:
                time.sleep(0.01)
            assert batcher.waiting == limit // 10 * 10
            gate.set()
            assert [future.result().status_code for future in asked] == [200] * len(asked)
    finally:
        gate.set()
        held.result(30)


def test_no_prompt_is_logged(server, caplog):
    import logging

    with caplog.at_level(logging.DEBUG):
        post(server, b'{"prompt": "a secret wish", "seed": 1}')
        post(server, b'{"prompt": "a secret wish", "n": 99}')
        httpx.get(f"{server.url}/v1/secret?q=secret", headers={"Authorization": f"Bearer {KEY}"})
        end = time.monotonic() + 10  # lines come when answers have left
        while sum(one.name == "impasto.access" for one in caplog.records) < 3 and time.monotonic() < end:
            time.sleep(0.02)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("impasto")]
    assert len(ours) == 3 and not any("secret" in line for line in ours)


@pytest.mark.filterwarnings("ignore:.*is untrained")
def test_sizes_of_stage_three_come_from_the_model(tmp_path):
    """And larger ones from its own large pictures. Sizes never share a batch."""
    run, tokenizer = RUNS["mars-debug/stage3"](), RUNS["mars-debug/tokenizer"]().model
    base = RUNS["mars-debug/stage1"]().model
    enlarging = EnlargingConfig(model=run.model)
    config = MarsPipelineConfig(model=base, tokenizer=tokenizer, enlarging=enlarging)
    MarsPipeline.untrained(config, name="cascade").save_pretrained(tmp_path / "cascade")
    name = str(tmp_path / "cascade")
    with served(EngineConfig(models=(name,), upscaler="lanczos"), ApiConfig()) as running:
        model = running.engine.default
        assert list(model.sizes) == ["16x16", "32x32", "64x64", "128x128"]
        assert model.sizes["32x32"] == Size(32) and model.sizes["64x64"] == Size(32, 2)
        asked = {"prompt": "a red circle", "seed": 3, "response_format": "b64_json"}
        for size, side in (("auto", None), ("32x32", 32), ("128x128", 32)):
            answer = HTTP.post(f"{running.url}/v1/images/generations", json={**asked, "size": size}).json()
            png = base64.b64decode(answer["data"][0]["b64_json"])
            picture = Image.open(io.BytesIO(png))
            assert f"{picture.width}x{picture.height}" == answer["size"] == {"auto": "16x16"}.get(size, size)
            assert json.loads(picture.info[METADATA_KEY]).get("size") == side
        pipe, page = running.engine.default.pipe, PageWork(running.engine, 1000)
        expected = pipe("a red circle", seed=3, size=32)[0]
        *_, files = page.draw("cascade", "a red circle", 1, 3, "32x32", {})
        assert Image.open(files[0][0]).tobytes() == expected.tobytes()
        with pytest.raises(PageError, match="draws 16x16, 32x32, 64x64, 128x128, not '48x48'"):
            list(page.draw("cascade", "a red circle", 1, 3, "48x48", {}))


def test_rates_are_limited():
    from starlette.testclient import TestClient

    from impasto.serve.api import create_app, guarded
    from impasto.serve.engine import Engine
    from impasto.serve.metrics import Metrics

    engine = Engine(EngineConfig(models=("aurora-debug",), upscaler=None))
    client = TestClient(guarded(create_app(engine, ApiConfig(rate=2), Metrics())))  # nothing is loaded
    answers = [client.post("/v1/images/generations", json={"prompt": "a"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 429]
    assert int(answers[2].headers["retry-after"]) >= 29 and answers[0].json()["error"]["code"] == "loading"
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "aurora-scenes-3"], "did you mean 'aurora-scenes-32'"),
        (["--model", "aurora-debug", "--model", "aurora-debug"], "two models are called 'aurora-debug'"),
        (["--queue", "3"], "--queue 3 should be at least 10"),
        (["--upscaler", "lanczo", "--model", "aurora-debug"], "did you mean 'lanczos'"),
        (["--safety-filter", "json"], "should be MODULE:NAME"),
        (["--safety-filter", "json:loads", "--model", "aurora-debug"], "has no check_prompt"),
        (["--device", "warp"], "--device warp is not usable"),
    ],
)
def test_mistakes_on_the_command_line(capsys, arguments, message):
    assert main(["serve", *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.splitlines()[-1].startswith("impasto: error: "), errors
