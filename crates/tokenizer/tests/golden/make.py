"""Makes ids.json from llama.cpp, and templates.json from Python's Jinja (pip install jinja2).

    python3 make.py ids LLAMA_IDS MODELS_DIR     LLAMA_IDS: llama_ids.cpp, built against llama.cpp
    python3 make.py templates TEMPLATES_DIR      llama.cpp's models/templates

ids.json: for each pre-tokenizer the ids of texts.json with the vocabulary of SmolLM2, then those of the two models as
they are, plain and with special tokens. templates.json: for each template and request of requests.json the FNV-1a hash
of what Hugging Face's settings of Jinja print; null where they refuse.
"""
import datetime, json, os, re, subprocess, sys

HERE = os.path.dirname(os.path.abspath(__file__))


def load(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as f:
        return json.load(f)


def save(name, value):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in value.items()) + "\n}\n")


def ids(tool, models):
    texts = "\0".join(load("texts.json")).encode()
    smol = os.path.join(models, "SmolLM2-135M-Instruct.Q4_1.gguf")
    gemma = os.path.join(models, "gemma-3-270m-q4_k_m.gguf")

    def run(*args):
        out = subprocess.run([tool, *args], input=texts, capture_output=True, check=True).stdout.decode()
        return [[int(id) for id in line.split()] for line in out.splitlines()]

    with open(os.path.join(HERE, "..", "..", "src", "pre.rs"), encoding="utf-8") as f:
        table = f.read().split("pub(crate) fn by_name")[1]
    names, seen = re.findall(r'"([^"\n]+)"(?= *(?:\||=>|\n *\|))', table), {}
    for name in names:
        seen[name] = run(smol, "--pre", name)
    result = {}
    for name, got in seen.items():
        # Names that mean the same are listed once, with what they are compared to.
        same = next((other for other, value in result.items() if value == got), None)
        result[name] = same or got
    for file, path in (("SmolLM2", smol), ("gemma-3", gemma)):
        result[file] = run(path)
        result[file + " special"] = run(path, "--special", "--add")
    save("ids.json", result)


def fnv(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def templates(folder):
    import jinja2
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_body", []), [], [], body).set_lineno(line)

        def _body(self, caller):
            return caller()

    def refuse(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = datetime.datetime(2024, 7, 26, 12, 0, 0).strftime
    result = {}
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".jinja"):
            continue
        with open(os.path.join(folder, name), encoding="utf-8") as f:
            template = env.from_string(f.read())
        result[name] = []
        for request in load("requests.json"):
            request = {"tools": None, "add_generation_prompt": False, **request}
            variables = request.pop("variables", {})
            try:
                result[name].append(fnv(template.render(**request, **variables, bos_token="<s>", eos_token="</s>")))
            except Exception:
                result[name].append(None)
    save("templates.json", result)


if __name__ == "__main__":
    {"ids": ids, "templates": templates}[sys.argv[1]](*sys.argv[2:])
