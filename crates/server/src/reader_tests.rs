//! Every format's answers, cut at every place: what is read does not depend on how it came.

use crate::format::{Call, Format};
use crate::reader::{Delta, Reader};

/// Text, thought and calls of an answer, cut into pieces of `size` letters.
fn read(format: Format, tools: bool, answer: &str, size: usize) -> (String, String, Vec<Call>) {
    let mut reader = Reader::new(format, tools, false, false);
    let (mut text, mut thought, mut calls) = (String::new(), String::new(), Vec::new());
    let mut deltas = Vec::new();
    let letters: Vec<char> = answer.chars().collect();
    for piece in letters.chunks(size) {
        reader.push(&piece.iter().collect::<String>(), &mut deltas);
    }
    reader.finish(&mut deltas);
    for delta in deltas {
        match delta {
            Delta::Text(piece) => text.push_str(&piece),
            Delta::Thought(piece) => thought.push_str(&piece),
            Delta::Call(name) => calls.push(Call { name, arguments: String::new() }),
            Delta::Arguments(piece) => calls.last_mut().unwrap().arguments.push_str(&piece),
        }
    }
    (text, thought, calls)
}

/// An answer in a format, and the text, thought and calls in it.
type Case =
    (Format, &'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const CASES: [Case; 24] = [
    (Format::Hermes, "Hello < world", "Hello < world", "", &[]),
    (Format::Hermes, "<think>\nhm\n</think>\n\nHi", "Hi", "\nhm", &[]),
    (Format::Hermes, "<think>hm</think>\n\n", "", "hm", &[]),
    (Format::Hermes, "\n Hi ", "\n Hi ", "", &[]),
    (
        Format::Hermes,
        "Sure.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>",
        "Sure.",
        "",
        &[("f", "{\"a\": 1}"), ("g", "{}")],
    ),
    (Format::Hermes, "<tool_call>no json</tool_call> x", "no json x", "", &[]),
    (
        Format::Hermes,
        "<tool_call>{\"arguments\": {\"a\": 1}, \"name\": \"f\"}</tool_call>",
        "",
        "",
        &[("f", "{\"a\":1}")],
    ),
    (
        Format::Hermes,
        "<tool_call>{\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": {}}}</tool_call>",
        "",
        "",
        &[("f", "{}")],
    ),
    (
        Format::Hermes,
        "<tool_call>[{\"id\": \"1\", \"name\": \"f\", \"arguments\": {\"s\": \"}]\\\"{\"}}, {\"name\": \"g\", \"arguments\": \"{}\"}]</tool_call>",
        "",
        "",
        &[("f", "{\"s\": \"}]\\\"{\"}"), ("g", "{}")],
    ),
    (
        Format::Hermes,
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"cut\": \"o",
        "",
        "",
        &[("f", "{\"cut\": \"o")],
    ),
    (
        Format::Mistral,
        "[TOOL_CALLS]f[CALL_ID]1[ARGS]{\"a\": 1}[TOOL_CALLS]g[ARGS]{}",
        "",
        "",
        &[("f", "{\"a\": 1}"), ("g", "{}")],
    ),
    (
        Format::Mistral,
        "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {\"b\": 2}}]",
        "",
        "",
        &[("f", "{}"), ("g", "{\"b\": 2}")],
    ),
    (
        Format::Hermes,
        "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\nx y\n</parameter>\n</function>\n</tool_call>",
        "",
        "",
        &[("f", "{\"a\":1,\"b\":\"x y\"}")],
    ),
    (
        Format::Llama3,
        "{\"name\": \"f\", \"parameters\": {\"a\": \"b\"}}",
        "",
        "",
        &[("f", "{\"a\": \"b\"}")],
    ),
    (
        Format::Llama3,
        "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}",
        "",
        "",
        &[("f", "{}"), ("g", "{}")],
    ),
    (Format::Llama3, "{\"answer\": 42}", "{\"answer\": 42}", "", &[]),
    (
        Format::Mistral,
        "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}][TOOL_CALLS]g[ARGS]{}",
        "",
        "",
        &[("f", "{}"), ("g", "{}")],
    ),
    (
        Format::Mistral,
        "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": [1]}}]",
        "",
        "",
        &[("f", "{\"a\": [1]}")],
    ),
    (
        Format::Mistral,
        "[THINK]t[/THINK]ok [TOOL_CALLS]f[ARGS]{\"a\": 1}",
        "ok",
        "t",
        &[("f", "{\"a\": 1}")],
    ),
    (
        Format::DeepSeek,
        "<think>\nx</think>So: <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "So:",
        "\nx",
        &[("f", "{\"a\": 1}")],
    ),
    (
        Format::DeepSeek,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "",
        "",
        &[("f", "{}")],
    ),
    (
        Format::DeepSeek,
        "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"s\": \"```json\\n{}\"}<｜tool▁call▁end｜>",
        "",
        "",
        &[("f", "{\"s\": \"```json\\n{}\"}")],
    ),
    (
        Format::Harmony,
        "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>final<|message|>Hi.<|return|>",
        "Hi.",
        "Think.",
        &[],
    ),
    (
        Format::Harmony,
        "<|channel|>analysis<|message|>T<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>",
        "",
        "T",
        &[("f", "{\"a\": 1}")],
    ),
];

#[test]
fn answers_are_read_the_same_however_they_are_cut() {
    for (format, answer, text, thought, calls) in CASES {
        for size in [1, 2, 3, 5, 7, 13, 1000] {
            let (got_text, got_thought, got_calls) = read(format, true, answer, size);
            let got: Vec<_> =
                got_calls.iter().map(|c| (c.name.as_str(), c.arguments.as_str())).collect();
            assert_eq!(
                (got_text.as_str(), got_thought.as_str()),
                (text, thought),
                "{answer} / {size}"
            );
            assert_eq!(got, calls, "{answer} / {size}");
        }
    }
}

#[test]
fn arguments_come_while_they_are_written() {
    for (format, begin) in [
        (Format::Hermes, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"city\": \"Os"),
        (Format::Llama3, "{\"name\": \"f\", \"parameters\": {\"city\": \"Os"),
        (Format::Mistral, "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"city\": \"Os"),
        (Format::Mistral, "[TOOL_CALLS]f[ARGS]{\"city\": \"Os"),
        (
            Format::DeepSeek,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"city\": \"Os",
        ),
        (
            Format::Harmony,
            "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"city\": \"Os",
        ),
    ] {
        let mut reader = Reader::new(format, true, false, false);
        let mut out = Vec::new();
        reader.push(begin, &mut out);
        let expected = [Delta::Call("f".into()), Delta::Arguments("{\"city\": \"Os".into())];
        assert_eq!(out, expected, "{format:?}");
    }
}

#[test]
fn one_call_is_one_call() {
    for (format, answer) in [
        (
            Format::Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call><tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>",
        ),
        (
            Format::Llama3,
            "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}",
        ),
        (
            Format::Mistral,
            "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {}}]",
        ),
        (
            Format::Hermes,
            "<tool_call>[{\"arguments\": {}, \"name\": \"f\"}, {\"name\": \"g\", \"arguments\": {}}]</tool_call>",
        ),
    ] {
        for size in [1, 4, 1000] {
            let mut reader = Reader::new(format, true, true, false);
            let mut out = Vec::new();
            let letters: Vec<char> = answer.chars().collect();
            for piece in letters.chunks(size) {
                reader.push(&piece.iter().collect::<String>(), &mut out);
            }
            reader.finish(&mut out);
            let arguments: String = out
                .iter()
                .map(|delta| match delta {
                    Delta::Arguments(piece) => piece.as_str(),
                    _ => "",
                })
                .collect();
            assert_eq!((&out[0], arguments.as_str()), (&Delta::Call("f".into()), "{}"), "{answer}");
            assert!(!out.contains(&Delta::Call("g".into())), "{answer}");
        }
    }
}

#[test]
fn without_tools_a_call_is_text() {
    let answer = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";
    assert_eq!(read(Format::Hermes, false, answer, 4).0, answer);
}

#[test]
fn text_is_not_held_back_longer_than_a_mark_may_begin() {
    let mut reader = Reader::new(Format::Hermes, true, false, false);
    let mut out = Vec::new();
    reader.push("Hello wor", &mut out);
    assert_eq!(out, [Delta::Text("Hello wor".into())]);
    reader.push("ld <tool", &mut out);
    reader.push("box>", &mut out);
    reader.finish(&mut out);
    let text: String = out
        .iter()
        .map(|delta| match delta {
            Delta::Text(text) => text.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(text, "Hello world <toolbox>");
}

#[test]
fn templates_tell_the_format() {
    for (template, format) in [
        ("{% if tools %}<tool_call>", Format::Hermes),
        ("<|start_header_id|>{{ tools }}", Format::Llama3),
        ("[TOOL_CALLS]", Format::Mistral),
        ("<｜tool▁calls▁begin｜>", Format::DeepSeek),
        ("<|start|><|channel|>analysis<|message|>", Format::Harmony),
        ("<|im_start|>", Format::Told),
    ] {
        assert_eq!(Format::of(Some(template)), format, "{template}");
    }
}

/// What answers are made of, and what they are not made of.
const SNIPPETS: [&str; 40] = [
    "hello ",
    " x<y ",
    "é",
    " ",
    "\n\n",
    "[",
    "]",
    ",",
    "; ",
    "\"",
    "{",
    "}",
    "<think>",
    "</think>",
    "[THINK]",
    "[/THINK]",
    "<tool",
    "_call>",
    "<tool_call>",
    "</tool_call>",
    "<tool_call>{\"name\":\"g\",\"arguments\":{\"s\":\"<tool_call>\"}}</tool_call>",
    "{\"a\":1}",
    "{\"name\": \"f\", \"arguments\": {\"a\": 1}}",
    "{\"name\": \"f\", \"parameters\": {\"a\": 2}}",
    "{\"name\": \"f\", \"id\": 3, \"arguments\": \"{}\"}",
    "<function=f>\n<parameter=a>\n1\n</parameter>\n</function>",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "[TOOL_CALLS][{\"name\":\"f\",\"arguments\":{\"a\":1}}]",
    "[TOOL_CALLS]f[ARGS]{\"a\":3}",
    "[TOOL_CALLS]f[CALL_ID]9[ARGS]",
    "<|channel|>analysis<|message|>",
    "<|channel|>final<|message|>",
    "<|channel|>commentary to=functions.f <|constrain|>json<|message|>",
    "<|start|>assistant",
    "<|end|>",
    "<|call|>",
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n",
    "<｜tool▁call▁begin｜>f<｜tool▁sep｜>",
    "\n```<｜tool▁call▁end｜>",
];

#[test]
fn nonsense_is_read_the_same_however_it_is_cut() {
    use Format::{DeepSeek, Harmony, Hermes, Llama3, Mistral, Told};
    let mut state = 7_u64;
    let mut next = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for _ in 0..20_000 {
        let format = [Hermes, Told, Llama3, Mistral, DeepSeek, Harmony][next(6)];
        let tools = next(4) > 0;
        let answer: String = (0..=next(6)).map(|_| SNIPPETS[next(SNIPPETS.len())]).collect();
        let whole = read(format, tools, &answer, usize::MAX);
        for size in [1, 2, 7] {
            let cut = read(format, tools, &answer, size);
            assert_eq!(cut, whole, "{format:?}, tools: {tools}, {answer:?} / {size}");
        }
    }
}
