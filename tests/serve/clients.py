"""The unmodified `openai` and `anthropic` clients against every endpoint they have methods for."""

import asyncio
import json
import math

import anthropic
import openai

from common import Server

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": WEATHER}}]
ASK = [{"role": "user", "content": "Name one colour."}]


def chat(client, model):
    answer = client.chat.completions.create(model=model, messages=ASK, max_tokens=24, temperature=0, seed=1)
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    again = client.chat.completions.create(model=model, messages=ASK, max_tokens=24, temperature=0, seed=1)
    assert again.choices[0].message.content == answer.choices[0].message.content
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1

    pieces, usage, finish = [], None, None
    stream = client.chat.completions.create(
        model=model, messages=ASK, max_tokens=24, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        if chunk.choices:
            pieces.append(chunk.choices[0].delta.content or "")
            finish = chunk.choices[0].finish_reason or finish
        usage = chunk.usage or usage
        timings = chunk.model_extra.get("timings")
    assert "".join(pieces) == answer.choices[0].message.content, "streamed and whole differ"
    assert usage.completion_tokens == answer.usage.completion_tokens and finish == answer.choices[0].finish_reason
    assert timings["predicted_n"] == usage.completion_tokens

    many = client.chat.completions.create(model=model, messages=ASK, max_tokens=8, n=3, seed=7, temperature=1.5)
    texts = [choice.message.content for choice in many.choices]
    assert [choice.index for choice in many.choices] == [0, 1, 2] and len(set(texts)) > 1

    cut = client.chat.completions.create(model=model, messages=ASK, max_tokens=4, temperature=0)
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 4
    word = answer.choices[0].message.content.split()[1]
    stopped = client.chat.completions.create(model=model, messages=ASK, max_tokens=24, temperature=0, stop=[word])
    assert word not in stopped.choices[0].message.content and stopped.choices[0].finish_reason == "stop"

    likely = client.chat.completions.create(
        model=model, messages=ASK, max_tokens=6, temperature=0, logprobs=True, top_logprobs=4
    ).choices[0]
    for token in likely.logprobs.content:
        assert len(token.top_logprobs) == 4 and token.logprob <= 0
        assert math.isclose(token.logprob, max(t.logprob for t in token.top_logprobs)), "greedy takes the likeliest"
    assert b"".join(bytes(t.bytes) for t in likely.logprobs.content).decode() == likely.message.content


def bias(client, server, model):
    body = json.dumps({"content": " blue"}).encode()
    blue = json.loads(server.request("POST", "/tokenize", body)[2])["tokens"][0]
    answer = client.completions.create(model=model, prompt="The sky is", max_tokens=3, temperature=0, logit_bias={str(blue): 100})
    assert answer.choices[0].text == " blue blue blue", answer.choices[0].text


def shapes(client, model):
    schema = {"type": "json_schema", "json_schema": {"name": "w", "strict": True, "schema": WEATHER}}
    for seed in range(5):
        answer = client.chat.completions.create(
            model=model, messages=ASK, max_tokens=200, temperature=1.5, seed=seed, response_format=schema
        ).choices[0]
        if answer.finish_reason == "stop":
            value = json.loads(answer.message.content)
            assert set(value) == {"city", "days"} and 1 <= value["days"] <= 7, value
        else:
            assert answer.message.content.lstrip().startswith("{")
    answer = client.chat.completions.create(
        model=model, messages=ASK, max_tokens=30, extra_body={"regex": "(red|green|blue)"}
    ).choices[0]
    assert answer.message.content in ("red", "green", "blue") and answer.finish_reason == "stop"
    lark = 'start: "say " WORD\nWORD: /[a-z]{3}/'
    answer = client.chat.completions.create(model=model, messages=ASK, max_tokens=30, extra_body={"grammar": lark})
    text = answer.choices[0].message.content
    assert text.startswith("say ") and len(text) == 7, text


def tools(client, model):
    ask = [{"role": "user", "content": "What is the weather in Oslo for 3 days?"}]
    options = dict(model=model, messages=ask, tools=TOOLS, max_tokens=200, temperature=0)
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        answer = client.chat.completions.create(tool_choice=choice, **options).choices[0]
        call = answer.message.tool_calls[0]
        arguments = json.loads(call.function.arguments)
        assert call.function.name == "weather" and set(arguments) == {"city", "days"}
        assert answer.finish_reason == "tool_calls" and not answer.message.content
    stream = client.chat.completions.create(tool_choice="required", stream=True, **options)
    parts = [c.choices[0] for c in stream if c.choices]
    calls = [call for part in parts for call in part.delta.tool_calls or []]
    assert "".join(c.function.arguments for c in calls) == call.function.arguments
    assert calls[0].id and calls[0].index == 0 and parts[-1].finish_reason == "tool_calls"
    back = [
        *ask,
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "Rain."},
    ]
    told = client.chat.completions.create(model=model, messages=back, tools=TOOLS, tool_choice="none", max_tokens=8)
    assert told.choices[0].message.tool_calls is None


def other(client, model):
    assert model in [entry.id for entry in client.models.list()] and client.models.retrieve(model).id == model
    answer = client.completions.create(model=model, prompt="Once upon a time", max_tokens=8, temperature=0, echo=True)
    assert answer.choices[0].text.startswith("Once upon a time")
    told = client.completions.create(model=model, prompt="Once upon a time", max_tokens=8, temperature=0, logprobs=2)
    assert "Once upon a time" + told.choices[0].text == answer.choices[0].text and len(told.choices[0].logprobs.tokens) == 8
    pieces = client.completions.create(model=model, prompt="Once upon a time", max_tokens=8, temperature=0, stream=True)
    text = "".join(chunk.choices[0].text for chunk in pieces if chunk.choices)
    assert "Once upon a time" + text == answer.choices[0].text

    texts = ["The cat sits on the mat.", "A cat is sitting on a mat.", "Interest rates rose in March."]
    vectors = [entry.embedding for entry in client.embeddings.create(model=model, input=texts).data]
    near, far = (sum(a * b for a, b in zip(vectors[0], vectors[i])) for i in (1, 2))
    assert all(abs(sum(x * x for x in v) - 1) < 1e-4 for v in vectors) and near > far, (near, far)
    floats = client.embeddings.create(model=model, input=texts, encoding_format="float").data
    assert floats[0].embedding == vectors[0] or max(abs(a - b) for a, b in zip(floats[0].embedding, vectors[0])) < 1e-6

    answer = client.responses.create(model=model, input="Name one colour.", max_output_tokens=16, temperature=0)
    assert answer.output_text and answer.status in ("completed", "incomplete")
    events = list(client.responses.create(model=model, input="Name one colour.", max_output_tokens=16, temperature=0, stream=True))
    streamed = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert streamed == answer.output_text and events[-1].type in ("response.completed", "response.incomplete")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    tool = [{"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}]
    answer = client.responses.create(model=model, input="Oslo?", tools=tool, tool_choice="required", max_output_tokens=200)
    assert json.loads(answer.output[0].arguments) and answer.output[0].type == "function_call"


def errors(client, model):
    for options, kind in [
        (dict(model="../../etc/passwd", messages=ASK), openai.NotFoundError),
        (dict(model=model, messages=ASK, max_tokens=-1), openai.BadRequestError),
        (dict(model=model, messages=ASK, temperature=-1), openai.BadRequestError),
        (dict(model=model, messages=[{"role": "user", "content": "word " * 20000}]), openai.BadRequestError),
    ]:
        try:
            client.chat.completions.create(**options)
        except kind as error:
            assert error.body["message"]
        else:
            raise AssertionError(f"{options} was taken")


async def cancelled(base, model, server):
    """A client that leaves frees the model within 250 ms."""
    client = openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0)
    stream = await client.chat.completions.create(model=model, messages=ASK, max_tokens=2000, stream=True, extra_body={"ignore_eos": True})
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    await stream.close()
    await asyncio.sleep(0.25)
    assert server.metric("lowtide_requests_running") == 0, "still running 250 ms after the client left"


def claude(base, model):
    client = anthropic.Anthropic(base_url=base, api_key="none", max_retries=0)
    options = dict(model=model, max_tokens=24, messages=ASK, extra_body={"temperature": 0})
    answer = client.messages.create(system="Be brief.", **options)
    assert answer.content[0].text and answer.stop_reason in ("end_turn", "max_tokens")
    with client.messages.stream(system="Be brief.", **options) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == answer.content[0].text and final.usage.output_tokens == answer.usage.output_tokens
    counted = client.messages.count_tokens(model=model, messages=ASK, system="Be brief.").input_tokens
    assert counted == answer.usage.input_tokens + answer.usage.cache_read_input_tokens
    tool = [{"name": "weather", "description": "The weather", "input_schema": WEATHER}]
    called = client.messages.create(
        model=model, max_tokens=200, tools=tool, tool_choice={"type": "any"},
        messages=[{"role": "user", "content": "Weather in Oslo for 3 days?"}],
    )
    use = called.content[-1]
    assert called.stop_reason == "tool_use" and use.name == "weather" and set(use.input) == {"city", "days"}
    shape = {"format": {"type": "json_schema", "schema": WEATHER}}
    shaped = client.messages.create(output_config=shape, **(options | {"max_tokens": 100}))
    assert set(json.loads(shaped.content[0].text)) == {"city", "days"}
    told = client.messages.create(model=model, max_tokens=8, tools=tool, tool_choice={"type": "none"}, messages=[
        {"role": "user", "content": "Weather in Oslo for 3 days?"},
        {"role": "assistant", "content": [use.model_dump(include={"type", "id", "name", "input"})]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "Rain."}]},
    ])
    assert told.content
    try:
        client.messages.create(model=model, max_tokens=8, messages=[
            {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://127.0.0.1:1/x.png"}}]}])
    except anthropic.BadRequestError as error:
        assert "fetched" in str(error)
    else:
        raise AssertionError("an image was taken")


def main():
    with Server("--memory", "2GB", "--ctx", "4096") as server:
        base = server.base + "/v1"
        client = openai.OpenAI(base_url=base, api_key="none", max_retries=0)
        model = client.models.list().data[0].id
        for name, run in {
            "chat": lambda: chat(client, model),
            "bias": lambda: bias(client, server, model),
            "shapes": lambda: shapes(client, model),
            "tools": lambda: tools(client, model),
            "other": lambda: other(client, model),
            "errors": lambda: errors(client, model),
            "cancelled": lambda: asyncio.run(cancelled(base, model, server)),
            "claude": lambda: claude(server.base, model),
        }.items():
            run()
            print(f"ok {name}", flush=True)
    print(f"openai {openai.__version__}, anthropic {anthropic.__version__}: all passed")


if __name__ == "__main__":
    main()
