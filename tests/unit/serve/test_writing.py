"""OpenAI's client gets the text of ``finetune chat`` and ``finetune generate``, streaming or not, from a page or not."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from finetune.checkpoints.sources import load
from finetune.models.sampling import Decoding, filter_logits
from finetune.tasks.instruct.chat import converse, open_conversation

pytest.importorskip("fastapi", reason="the extra serve is not installed")


@pytest.fixture(scope="module")
def running(server, instruct_run):
    with server(instruct_run) as found:
        yield found


@pytest.fixture(scope="module")
def served(client, instruct_run):
    with client(instruct_run) as ready:
        yield ready


@pytest.fixture(scope="module")
def openai(running):
    package = pytest.importorskip("openai", reason="OpenAI's client is not installed")
    with package.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0, timeout=60) as found:
        yield found


def chatted(run, *questions, **options):
    """What ``finetune chat`` writes: the answers."""
    said = []
    conversation = open_conversation(run, options.pop("max_new_tokens", None), **({"temperature": 0.0} | options))
    for question in questions:
        parts = []
        converse(conversation, [question], parts.append)
        said.append("".join(parts).removesuffix("\n"))
    return said


def chunks(answer):
    """The events of a streamed answer, of which the last is the end."""
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return list(map(json.loads, lines[:-1]))


def test_openais_client_gets_the_text_of_chat(openai, instruct_run, words):
    [name] = [model.id for model in openai.models.list()]
    first, second = chatted(instruct_run, words.question, "And another.")
    messages = [{"role": "user", "content": words.question}]
    whole = openai.chat.completions.create(model=name, messages=messages)
    assert whole.choices[0].message.content == first and 0 < whole.usage.completion_tokens <= 24
    stream = openai.chat.completions.create(
        model=name, messages=messages, stream=True, stream_options={"include_usage": True}
    )
    parts = list(stream)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == first and sum(bool(part.choices) for part in parts) > 5
    assert parts[-1].usage == whole.usage
    messages += [{"role": "assistant", "content": first.strip()}, {"role": "user", "content": "And another."}]
    assert openai.chat.completions.create(model=name, messages=messages).choices[0].message.content == second


def test_openais_client_gets_the_text_of_generate(openai, instruct_run, running):
    model, tokenizer = load(str(instruct_run))
    ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode("The river")]])
    new = model.generate(ids, 20, temperature=0.7, top_p=0.9, seed=5, end=tokenizer.end_of_text)[0, ids.shape[1] :]
    asked = {"prompt": "The river", "max_tokens": 20, "temperature": 0.7, "top_p": 0.9, "seed": 5}
    whole = openai.completions.create(model=running.name, **asked)
    assert whole.choices[0].text == tokenizer.decode(new.tolist())
    stream = openai.completions.create(model=running.name, **asked, stream=True)
    assert "".join(part.choices[0].text for part in stream) == whole.choices[0].text


def test_an_error_reaches_openais_client_in_words(openai, running):
    import openai as package

    with pytest.raises(package.NotFoundError, match="no such model"):
        openai.completions.create(model="gpt-9", prompt="a")
    with pytest.raises(package.BadRequestError, match="greedy"):
        openai.completions.create(model=running.name, prompt="a", n=2, temperature=0)


def test_greedy_texts_side_by_side_are_those_written_alone(served, instruct_run):
    prompts = ["The river", "A", "Once upon a time there was a king who", "2 + 2 ="]
    model, tokenizer = load(str(instruct_run))
    alone = []
    for prompt in prompts:
        ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(prompt)]])
        new = model.generate(ids, 12, temperature=0.0, end=tokenizer.end_of_text)[0, ids.shape[1] :]
        alone.append(tokenizer.decode(new.tolist()))
    asked = {"model": served.served.name, "prompt": prompts, "max_tokens": 12, "temperature": 0}
    whole = served.post("/v1/completions", json=asked).json()
    assert [choice["text"] for choice in whole["choices"]] == alone
    events = chunks(served.post("/v1/completions", json=asked | {"stream": True}))
    texts = ["".join(part["text"] for e in events for part in e["choices"] if part["index"] == at) for at in range(4)]
    assert texts == alone
    with ThreadPoolExecutor(4) as many:
        apart = list(many.map(lambda own: served.post("/v1/completions", json=asked | {"prompt": own}).json(), prompts))
    assert [own["choices"][0]["text"] for own in apart] == alone


def test_a_stop_text_ends_a_text_before_it(served):
    asked = {"model": served.served.name, "prompt": "The river", "max_tokens": 30, "temperature": 0}
    whole = served.post("/v1/completions", json=asked).json()["choices"][0]
    word = whole["text"].split()[3]
    cut = served.post("/v1/completions", json=asked | {"stop": [word]}).json()["choices"][0]
    assert cut["finish_reason"] == "stop" and cut["text"] == whole["text"][: whole["text"].index(word)]


def test_samples_differ_by_their_seed(served):
    asked = {"model": served.served.name, "prompt": "The", "max_tokens": 8, "n": 3, "seed": 4}
    texts = [choice["text"] for choice in served.post("/v1/completions", json=asked).json()["choices"]]
    alone = [
        served.post("/v1/completions", json=asked | {"n": 1, "seed": 4 + at}).json()["choices"][0]["text"]
        for at in range(3)
    ]
    assert texts == alone and len(set(texts)) > 1


def test_the_next_token_is_the_models_own(served, instruct_run):
    model, tokenizer = load(str(instruct_run))
    ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode("The river")]])
    with torch.no_grad():
        logits = model(ids)[:, -1]
    asked = {"prompt": "The river", "temperature": 0.6, "top_k": 7, "top_p": 0.8}
    found = served.post("/next", json=asked).json()["tokens"]
    plain, chosen = logits.softmax(-1)[0], filter_logits(logits, 0.6, 7, 0.8).softmax(-1)[0]
    best = plain.topk(20)
    assert [own["token"] for own in found] == [tokenizer.label(token) for token in best.indices.tolist()]
    assert [own["probability"] for own in found] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert [own["chosen"] for own in found] == pytest.approx(chosen[best.indices].tolist(), abs=1e-5)
    assert sum(own["chosen"] > 0 for own in found) < 8


@pytest.mark.parametrize(
    ("path", "change", "status", "said"),
    [
        ("completions", {"max_tokens": 101}, 413, "101"),
        ("completions", {"prompt": "x" * 300}, 413, "300 characters"),
        ("completions", {"n": 9}, 413, "too many texts"),
        ("completions", {"temperature": -1}, 400, "temperature"),
        ("completions", {"top_p": 0}, 400, "top_p"),
        ("completions", {"stop": [""]}, 400, "stop"),
        ("completions", {"logit_bias": {}}, 400, "logit_bias"),
        ("completions", {"frequency_penalty": 1}, 400, "frequency_penalty"),
        ("chat/completions", {"messages": []}, 400, "messages"),
        ("chat/completions", {"messages": [{"role": "assistant", "content": "a"}]}, 400, "order"),
        ("chat/completions", {"messages": [{"role": "robot", "content": "a"}]}, 400, "role"),
        ("chat/completions", {"messages": [{"role": "user", "content": "a"}], "tools": []}, 400, "tools"),
        ("chat/completions", {"messages": [{"role": "user", "content": "a"}], "n": 2}, 400, "greedy"),
    ],
)
def test_what_cannot_be_written_is_refused_in_words(client, instruct_run, path, change, status, said):
    own = {"prompt": "a"} if path == "completions" else {}
    with client(instruct_run, new_tokens=100, characters=200) as limited:
        for streamed in (False, True):
            asked = {"model": "talk", "max_tokens": 4, "stream": streamed, **own} | change
            answer = limited.post(f"/v1/{path}", json=asked)
            assert answer.status_code == status and said in answer.json()["error"]["message"]


def test_a_style_without_history_takes_one_question(client, instruct_run, tmp_path):
    import shutil

    from finetune.pipeline import make_recipe

    run = shutil.copytree(instruct_run, tmp_path / "alpaca")
    recipe = make_recipe("instruct", ["instruct.style=alpaca", "instruct.max_new_tokens=10"])
    (run / "recipe.json").write_text(recipe.model_dump_json())
    question = {"role": "user", "content": "Name a river."}
    with client(run) as ready:
        found = ready.post("/v1/chat/completions", json={"model": "alpaca", "messages": [question]}).json()
        both = [question, {"role": "assistant", "content": "Rhine"}, question]
        refused = ready.post("/v1/chat/completions", json={"model": "alpaca", "messages": both})
    assert [found["choices"][0]["message"]["content"]] == chatted(run, question["content"])
    assert refused.status_code == 400 and "last question" in refused.json()["error"]["message"]


def test_a_long_conversation_loses_its_first_exchanges_but_not_its_system_message(instruct_run):
    from finetune.tasks.instruct.chat import prompt_of
    from finetune.tasks.instruct.records import Message
    from finetune.tasks.instruct.settings import Instruct

    _, tokenizer = load(str(instruct_run))
    turns = [Message(("user", "assistant")[at % 2], f"turn {at}") for at in range(21)]
    prompt = prompt_of([Message("system", "Be short."), *turns], tokenizer, Instruct(style="chat"), 120, 60)
    text = tokenizer.decode(prompt.ids)
    assert text.startswith("System: Be short.\nUser: turn ") and text.endswith("User: turn 20\nAssistant:")
    assert prompt.dropped > 0 and len(prompt.ids) <= 60 and f"turn {2 * prompt.dropped}" in text
    assert f"turn {2 * prompt.dropped - 1}" not in text


def test_who_goes_away_stops_the_model(running, monkeypatch):
    import httpx2 as httpx

    from finetune.serve.worker import Work

    writer, ended = running.served.writer, []
    own = writer.write_work

    def spy(writings):
        ended.extend(own.run(writings))
        return ended[-len(writings) :]

    monkeypatch.setattr(writer, "write_work", Work(spy, own.key, own.weight, own.most))
    asked = {"model": running.name, "prompt": "The", "max_tokens": 4000, "stream": True, "temperature": 0}
    with httpx.stream("POST", f"{running.address}/v1/completions", json=asked, timeout=60) as answer:
        next(answer.iter_text())
    done = httpx.post(f"{running.address}/v1/completions", json=asked | {"stream": False, "max_tokens": 2}, timeout=60)
    assert done.status_code == 200 and ended[0].tokens < 4000 and ended[0].reason == "stop"


def test_a_stream_that_the_closing_server_cuts_says_so(server, instruct_run):
    import httpx2 as httpx

    asked = {"model": "talk", "prompt": "The", "max_tokens": 4000, "stream": True, "temperature": 0}
    with (
        server(instruct_run) as running,
        httpx.stream("POST", f"{running.address}/v1/completions", json=asked, timeout=60) as answer,
    ):
        pieces = answer.iter_text()
        first = next(pieces)
        threading.Timer(0.1, running.worker.close).start()
        rest = "".join(pieces)
    assert '"text"' in first and "closing" in rest and "[DONE]" not in rest


def test_a_text_that_takes_too_long_ends(client, instruct_run):
    asked = {"model": "talk", "prompt": "The", "max_tokens": 4000, "temperature": 0}
    with client(instruct_run, seconds=0.6, streaming_seconds=0.6) as limited:
        answer = limited.post("/v1/completions", json=asked)
        assert answer.status_code == 504 and "too long" in answer.json()["error"]["message"]
        streamed = limited.post("/v1/completions", json=asked | {"stream": True})
        assert streamed.status_code == 200 and "too long" in streamed.text and "[DONE]" not in streamed.text
        end = time.monotonic() + 30
        while limited.post("/next", json={"prompt": "a"}).status_code != 200:  # the model is free again
            assert time.monotonic() < end


def test_a_target_and_where_it_looked_are_those_of_generate(client, seq2seq_export):
    from finetune.tasks.seq2seq.job import attention_of
    from finetune.tasks.seq2seq.layout import Pair
    from finetune.tasks.seq2seq.model import family_of

    model, tokenizer = load(str(seq2seq_export))
    sources = ["seven", "a b", "forty-two is a number that is too long"]
    with client(seq2seq_export) as ready, ThreadPoolExecutor(3) as many:
        found = list(many.map(lambda own: ready.post("/write", json={"source": own}).json(), sources))
        greedy = ready.post("/write", json={"source": "seven", "beams": 1}).json()
        assert ready.post("/write", json={"source": "a", "max_new_tokens": 9999}).status_code == 413
    start = torch.tensor([[tokenizer.end_of_text]])
    for source, own in zip(sources, found, strict=True):
        ids = tokenizer.encode(source)[:16]
        options = vars(Decoding(beams=2, length_penalty=1.0))
        row = model.generate(torch.tensor([ids]), start, 8, end=tokenizer.end_of_text, **options)[0, 1:].tolist()
        row = row[: row.index(tokenizer.end_of_text)] if tokenizer.end_of_text in row else row
        assert own["target"] == tokenizer.decode(row)
        pair = Pair(ids, row)
        wanted = attention_of(family_of(model, tokenizer.end_of_text), pair, tokenizer, torch.device("cpu"))
        assert own["attention"] == vars(wanted) and bool(own["notes"]) == (source == sources[2])
        assert all(sum(line) == pytest.approx(1, abs=1e-2) for line in own["attention"]["weights"])
    plain = model.generate(
        torch.tensor([tokenizer.encode("seven")]), start, 8, temperature=0.0, end=tokenizer.end_of_text
    )
    assert greedy["target"] == tokenizer.decode(plain[0, 1:].tolist())
