//! Small vocabularies, written out: special tokens, streaming, and everything that can be wrong with a file.

use lowtide_tokenizer::{
    ChatTemplate, DecodeOptions, EncodeOptions, Error, LoadOptions, Message, NamedIds,
    RenderOptions, StreamDecoder, TOKEN_BYTES_MAX, Tokenizer, VocabParts,
};

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER: i32 = 4;
const BYTE: i32 = 6;

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const SPECIAL: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };

/// A byte-level vocabulary: ids 0 to 255 are GPT-2's alphabet in order of its characters, then the extra tokens.
struct Bpe {
    texts: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
}

impl Bpe {
    fn new(extra: &[(&str, i32)], merges: &[&str]) -> Bpe {
        let itself = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let shifted = (0..256).filter(|&b| !itself(b)).count() as u32;
        let alphabet = (0..256).filter(|&b| itself(b)).chain(0x100..0x100 + shifted);
        let mut texts: Vec<String> =
            alphabet.map(|cp| char::from_u32(cp).unwrap().to_string()).collect();
        texts.extend(extra.iter().map(|(text, _)| (*text).to_owned()));
        let mut types = vec![NORMAL; 256];
        types.extend(extra.iter().map(|(_, t)| *t));
        Bpe { texts, types, merges: merges.iter().map(|m| (*m).to_owned()).collect() }
    }

    fn parts(&self) -> VocabParts<'_> {
        VocabParts {
            model: "gpt2",
            pre: Some("gpt-2"),
            tokens: self.texts.iter().map(|text| text.as_bytes()).collect(),
            token_types: self.types.clone(),
            merges: Some(self.merges.iter().map(|merge| merge.as_bytes()).collect()),
            ids: NamedIds { bos: Some(256), eos: Some(256), ..NamedIds::default() },
            ..VocabParts::default()
        }
    }
}

fn build(parts: &VocabParts<'_>) -> Result<Tokenizer, Error> {
    Tokenizer::from_parts(parts, LoadOptions::default())
}

fn texts(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|&id| String::from_utf8_lossy(&tokenizer.token_bytes(id)).into_owned()).collect()
}

fn chat() -> Bpe {
    Bpe::new(
        &[
            ("<|end|>", CONTROL),
            ("<tool>", USER),
            ("<|e", NORMAL),
            ("<|end|>!", CONTROL),
            ("He", NORMAL),
        ],
        &["H e", "< |", "<| e", "n d"],
    )
}

#[test]
fn memory_for_encoding_is_bounded_before_it_is_claimed() {
    let bpe = chat();
    let tokenizer = build(&bpe.parts()).unwrap();
    let word = "x".repeat(50_000);
    let words = "He said so. ".repeat(5_000);
    let special = "a<|end|>".repeat(5_000);
    for (text, at_least) in
        [(&word, 40 * word.len()), (&words, words.len()), (&special, special.len())]
    {
        let ids = tokenizer.encode(text, SPECIAL);
        let within = |heap_max: usize| tokenizer.encode_within(text, SPECIAL, heap_max);
        // The least that is accepted: the tokens themselves at least, and far less than 200 bytes a byte.
        let (mut low, mut high) = (0, 200 * text.len());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match within(middle) {
                Ok(found) => {
                    assert_eq!(found, ids);
                    high = middle;
                }
                Err(Error::EncodingTooLarge { bytes, max }) => {
                    assert!(bytes > max && max == middle || max < middle, "{bytes} {max}");
                    low = middle;
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!(high >= at_least.max(4 * ids.len()), "{high} bytes for {}", &text[..10]);
    }
    // Words of a text cost no more than one of them.
    assert!(tokenizer.encode_within(&words, SPECIAL, 10 * words.len()).is_ok());
}

#[test]
fn a_token_stands_for_so_many_bytes_or_nothing_is_certain() {
    let bpe = chat();
    let full = build(&bpe.parts()).unwrap();
    assert_eq!(full.token_text_bytes_max(), Some("<|end|>!".len()));
    // Without a token for the letter x, a text of it has no tokens at all.
    let mut lacking = chat();
    let at = lacking.texts.iter().position(|text| text == "x").unwrap();
    lacking.texts[at] = "xx".to_owned();
    let lacking = build(&lacking.parts()).unwrap();
    assert_eq!(lacking.encode("xxx", PLAIN).len(), 0);
    assert_eq!(lacking.token_text_bytes_max(), None);
    // A token that takes the spaces beside it stands for any number of bytes.
    let phi = VocabParts { name: Some("phi-3"), ..bpe.parts() };
    let phi = build(&phi).unwrap();
    assert_eq!(phi.token_text_bytes_max(), None);
}

#[test]
fn special_tokens_only_where_they_are_asked_for() {
    let bpe = chat();
    let tokenizer = build(&bpe.parts()).unwrap();
    let pieces = |text: &str, options| texts(&tokenizer, &tokenizer.encode(text, options));
    assert_eq!(pieces("He<|end|>", SPECIAL), ["He", "<|end|>"]);
    // What merges make but no token is ("nd") is spelled out. The longer token first; a user-defined token is found in plain text too.
    assert_eq!(pieces("<|end|>!<tool>", SPECIAL), ["<|end|>!", "<tool>"]);
    assert_eq!(pieces("<|end|><tool>", PLAIN), ["<", "|", "e", "n", "d", "|", ">", "<tool>"]);
    let ends = tokenizer.encode("<|end|>", EncodeOptions { add_special: true, ..SPECIAL });
    assert_eq!(ends, [256], "BOS is not added unless the file says so");
}

#[test]
fn merges_do_not_spell_control_tokens() {
    // Every step to <|x|> is a merge: text must still not become the control token.
    let bpe = Bpe::new(&[("<x>", CONTROL), ("<x", NORMAL)], &["< x", "<x >"]);
    let mut parts = bpe.parts();
    for pre in ["bloom", "llama-bpe"] {
        parts.pre = Some(pre);
        let tokenizer = build(&parts).unwrap();
        assert!(!tokenizer.encode("<x>", PLAIN).contains(&256), "{pre}");
        assert_eq!(tokenizer.encode("<x>", SPECIAL), [256]);
    }
}

#[test]
fn decoding_hides_control_tokens_unless_asked() {
    let bpe = chat();
    let tokenizer = build(&bpe.parts()).unwrap();
    let ids = tokenizer.encode("He<|end|>", SPECIAL);
    assert_eq!(tokenizer.decode(&ids, DecodeOptions::default()), "He");
    let all = DecodeOptions { special: true, ..DecodeOptions::default() };
    assert_eq!(tokenizer.decode(&ids, all), "He<|end|>");
    assert_eq!(tokenizer.decode(&[u32::MAX, 100_000], all), "");
}

#[test]
fn cleaning_of_spaces_is_llama_cpps() {
    let bpe = chat();
    let tokenizer = build(&bpe.parts()).unwrap();
    let cleaned = |text: &str| {
        let options = DecodeOptions { clean_spaces: true, ..DecodeOptions::default() };
        tokenizer.decode(&tokenizer.encode(text, PLAIN), options)
    };
    assert_eq!(cleaned("a . b , c ! d ?"), "a. b, c! d?");
    assert_eq!(cleaned("it 's I 'm we 're 've"), "it's I'm we're've");
    assert_eq!(cleaned("a ' b ' ' c 't 'll"), "a'b'' c 't 'll");
}

#[test]
fn streams_print_whole_characters_only() {
    let bpe = chat();
    let tokenizer = build(&bpe.parts()).unwrap();
    let text = "aé€😀<|end|>z";
    let mut decoder = StreamDecoder::new(&tokenizer, false);
    let parts: Vec<String> =
        tokenizer.encode(text, PLAIN).iter().map(|&id| decoder.push(id)).collect();
    assert!(parts.iter().all(|part| !part.contains('\u{fffd}')), "{parts:?}");
    assert_eq!(parts.concat() + &decoder.finish(), text);
    assert_eq!(&parts[1..8], ["", "é", "", "", "€", "", ""]);

    let id = |byte: u8| tokenizer.token_id(&[byte]).unwrap();
    // Impossible at once, incomplete until another character starts, incomplete at the end.
    let out: Vec<String> =
        [0xff, 0xe2, 0x82, b'a', 0xf0, 0x9f].into_iter().map(|b| decoder.push(id(b))).collect();
    assert_eq!(out, ["\u{fffd}", "", "", "\u{fffd}a", "", ""]);
    assert_eq!(decoder.finish(), "\u{fffd}");
    assert_eq!(decoder.finish(), "");
}

/// A SentencePiece vocabulary.
fn spm(extra: &[(&'static str, f32, i32)], bytes: bool) -> (Vec<String>, Vec<f32>, Vec<i32>) {
    let mut texts = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    let mut scores = vec![0.0; 3];
    let mut types = vec![UNKNOWN, CONTROL, CONTROL];
    if bytes {
        texts.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
        scores.resize(259, 0.0);
        types.resize(259, BYTE);
    }
    for &(text, score, token_type) in extra {
        texts.push(text.to_owned());
        scores.push(score);
        types.push(token_type);
    }
    (texts, scores, types)
}

fn spm_parts((texts, scores, types): &(Vec<String>, Vec<f32>, Vec<i32>)) -> VocabParts<'_> {
    VocabParts {
        model: "llama",
        tokens: texts.iter().map(|text| text.as_bytes()).collect(),
        scores: scores.clone(),
        token_types: types.clone(),
        ..VocabParts::default()
    }
}

#[test]
fn sentencepiece_joins_by_score_and_falls_back_to_bytes() {
    let pieces = [
        ("▁", -1.0, NORMAL),
        ("a", -2.0, NORMAL),
        ("b", -3.0, NORMAL),
        ("ab", -4.0, NORMAL),
        ("▁a", -5.0, NORMAL),
        ("ba", f32::NAN, NORMAL),
        ("<s", -1.0, NORMAL),
        ("<", -9.0, NORMAL),
        ("s", -9.0, NORMAL),
        (">", -9.0, NORMAL),
    ];
    let vocab = spm(&pieces, true);
    let tokenizer = build(&spm_parts(&vocab)).unwrap();
    let pieces = |text: &str| -> Vec<String> {
        let ids = tokenizer.encode(text, PLAIN);
        assert_eq!(tokenizer.decode(&ids, DecodeOptions::default()), text);
        texts(&tokenizer, &ids)
    };
    // "ab" has the better score, so that "▁a" is not made.
    assert_eq!(pieces("ab"), [" ", "ab"]);
    assert_eq!(pieces("aab"), [" a", "ab"]);
    assert_eq!(pieces("bb"), [" ", "b", "b"]);
    // Spelling <s> does not make the control token, though "<s" is a token.
    assert_eq!(pieces("<s>"), [" ", "<s", ">"]);
    assert_eq!(tokenizer.encode("é", PLAIN), [259, 3 + 0xc3, 3 + 0xa9]);
    let added = tokenizer.encode("a", EncodeOptions { add_special: true, parse_special: false });
    assert_eq!((added[0], added.len()), (1, 2));
    assert_eq!(tokenizer.encode("", EncodeOptions { add_special: true, parse_special: true }), [1]);
    // A space is put in front of text after a special token again.
    assert_eq!(tokenizer.encode("a</s>a", SPECIAL), [263, 2, 263]);
}

#[test]
fn sentencepiece_without_byte_tokens_gives_the_unknown_token() {
    let vocab = spm(&[("a", -1.0, NORMAL), ("▁", -1.0, NORMAL)], false);
    let tokenizer = build(&spm_parts(&vocab)).unwrap();
    assert_eq!(tokenizer.encode("aé", PLAIN), [4, 3, 0]);
}

#[test]
fn phi_3_tokens_take_the_space_after_them() {
    let vocab = spm(&[("<|end|>", 0.0, CONTROL), ("a", -1.0, NORMAL), ("▁", -1.0, NORMAL)], true);
    let mut parts = spm_parts(&vocab);
    let ids = |parts: &VocabParts<'_>| build(parts).unwrap().encode("<|end|> \n a", SPECIAL);
    assert_eq!(ids(&parts), [259, 261, 261, 13, 261, 260]);
    parts.name = Some("Phi-3 mini");
    assert_eq!(ids(&parts), [259, 261, 260]);
}

#[test]
fn what_is_wrong_is_named() {
    let bpe = chat();
    let good = bpe.parts();
    assert!(build(&good).is_ok());
    let error = |change: &dyn Fn(&mut VocabParts<'_>)| {
        let mut parts = good.clone();
        change(&mut parts);
        build(&parts).unwrap_err().to_string()
    };
    let message = error(&|parts| parts.model = "bert");
    assert!(message.contains("\"bert\" is not supported"), "{message}");
    let message = error(&|parts| parts.pre = Some("nonsense"));
    assert!(message.contains("pre-tokenizer \"nonsense\" is not known"), "{message}");
    let message = error(&|parts| parts.tokens.clear());
    assert!(message.contains("has 0 tokens"), "{message}");
    let message = error(&|parts| parts.scores = vec![0.0; 5]);
    assert!(message.contains("tokenizer.ggml.scores has 5 elements"), "{message}");
    let message = error(&|parts| parts.token_types.truncate(3));
    assert!(message.contains("tokenizer.ggml.token_type has 3 elements"), "{message}");
    let message = error(&|parts| parts.merges = None);
    assert!(message.contains("merges is missing"), "{message}");
    let message = error(&|parts| parts.ids.eos = Some(261));
    assert!(message.contains("tokenizer.ggml.eos_token_id is 261"), "{message}");
    let long = vec![b'a'; TOKEN_BYTES_MAX + 1];
    let mut parts = good.clone();
    parts.tokens[7] = &long;
    let message = build(&parts).unwrap_err().to_string();
    assert!(message.contains("token 7 is 16385 bytes long"), "{message}");

    // A pre-tokenizer of the caller's choice is the way around an unknown one.
    let mut parts = good.clone();
    parts.pre = Some("nonsense");
    assert!(Tokenizer::from_parts(&parts, LoadOptions { pre: Some("gpt-2") }).is_ok());
}

#[test]
fn what_is_odd_is_survived() {
    let bpe = chat();
    let good = build(&bpe.parts()).unwrap().encode("Hello <|end|>", SPECIAL);
    let mut parts = bpe.parts();
    // Padding out of range, as in published files; ids that only some uses need.
    parts.ids.padding = Some(1 << 30);
    parts.ids.fim_pad = Some(u32::MAX);
    // Merges that are no merges, that undo each other, and that speak of what no token is.
    let merges = parts.merges.as_mut().unwrap();
    merges.extend([
        &b""[..],
        b" ",
        b"a",
        b"  ",
        b"\xff \xff",
        b"\xe2\x96\x81 a",
        b"a a",
        b"aa a",
        b"a aa",
    ]);
    // Invalid UTF-8, empty tokens, two of one text.
    parts.tokens.extend([&b"\xff\xfe"[..], b"", b"", b"He", b"\xc3"]);
    parts.token_types.extend([NORMAL, NORMAL, CONTROL, NORMAL, 77]);
    let tokenizer = build(&parts).unwrap();
    let ids = tokenizer.encode("Hello <|end|>", SPECIAL);
    // The later of the two tokens "He" is the one that text becomes.
    assert_eq!(ids[0], 264);
    assert_eq!(ids[1..], good[1..]);
    let text = "aaaaaaaé\u{fffd}\u{10ffff}\0";
    let back = tokenizer.decode(&tokenizer.encode(text, SPECIAL), DecodeOptions::default());
    assert_eq!(back, text);
    assert_eq!(tokenizer.token_bytes(261), b"\xff\xfe");
    assert_eq!(tokenizer.special().pad, None);
}

#[test]
fn many_special_tokens_in_a_long_text_take_linear_time() {
    let runs: Vec<String> = (2..32).map(|n| " ".repeat(n)).collect();
    let extra: Vec<(&str, i32)> = runs.iter().map(|run| (run.as_str(), USER)).collect();
    let bpe = Bpe::new(&extra, &[]);
    let tokenizer = build(&bpe.parts()).unwrap();
    let count = 31 * 20_000 + 17;
    let text = " ".repeat(count) + "x" + &" ".repeat(3);
    let ids = tokenizer.encode(&text, PLAIN);
    assert_eq!(ids.len(), 20_000 + 1 + 1 + 1);
    assert_eq!(tokenizer.decode(&ids, DecodeOptions::default()), text);
}

const TEMPLATE: &str =
    "{% for m in messages %}<|end|>{{ m.role }}:{{ m.content | trim }}{% endfor %}";

#[test]
fn users_cannot_write_special_tokens() {
    let bpe = chat();
    let tokenizer = build(&bpe.parts()).unwrap();
    let count = |template: &str, content: &str| {
        let template = ChatTemplate::new(template, &tokenizer).unwrap();
        let prompt = template.render(&[Message::new("user", content)], &RenderOptions::default());
        let prompt = prompt.unwrap();
        let ids = tokenizer.encode_prompt(&prompt);
        (ids.iter().filter(|&&id| tokenizer.is_control(id)).count(), prompt)
    };
    let (controls, prompt) = count(TEMPLATE, "  <|end|> <|end|>! ");
    assert_eq!(controls, 1);
    assert_eq!(prompt.text, "<|end|>user:<|end|> <|end|>!");
    // Not by taking something out of its middle either, as some templates do.
    let taking = "<|end|>{{ messages[0].content.replace('/think', '') }}";
    let (controls, prompt) = count(taking, "<|en/thinkd|>");
    assert_eq!((controls, prompt.text.as_str()), (1, "<|end|><|end|>"));
    // Nor from two fields that stand together.
    let joining = "{{ messages[0].content }}{{ messages[0].content[::-1] }}{{ messages[0].role }}";
    assert_eq!(count(joining, "<|end").0, 0);
    // What templates look for in the text, they find.
    let thinking = "{{ messages[0].content.split('</think>')[-1] }}";
    assert_eq!(count(thinking, "<think>hm</think>yes <b>").1.text, "yes <b>");
}

/// As Jinja2 does it: line ends of any kind are read as line feeds, in texts too, and what is undefined is an empty sequence.
#[test]
fn templates_are_read_as_jinja2_reads_them() {
    let render = |source: &str| {
        let template = ChatTemplate::unguarded(source, "<s>", "</s>").unwrap();
        template.render(&[Message::new("user", "a\r\nb")], &RenderOptions::default()).unwrap().text
    };
    let lines = "{% for m in messages %}\r\n<|{{ m.role }}|>\r\n{{ m.content }}\r\n{% endfor %}\rX{{ \"c\r\nd\" }}";
    assert_eq!(render(lines), "<|user|>\na\r\nb\nXc\nd");
    let undefined =
        "{{ messages[0].zz is iterable }} {{ nothing is sequence }} {{ 1 is iterable }}";
    assert_eq!(render(undefined), "True True False");
}

#[test]
fn templates_are_bounded() {
    let render = |source: &str| {
        let template = ChatTemplate::unguarded(source, "<s>", "</s>")?;
        template.render(&[Message::new("user", "x")], &RenderOptions::default()).map(|p| p.text)
    };
    let limit = |source: &str| matches!(render(source), Err(Error::TemplateLimit { .. }));
    assert!(limit(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ));
    assert!(limit("{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}"));
    assert!(limit("{{ 'x' * 10**9 }}"));
    let doubled = "{% set n = namespace(s=['x']) %}{% for a in range(60) %}\
                   {% set n.s = [n.s, n.s] %}{% endfor %}";
    assert!(limit(&format!("{doubled}{{{{ n.s | tojson }}}}")));
    assert!(limit(&format!("{doubled}{{{{ n.s }}}}")));
    let failed = |source: &str| matches!(render(source), Err(Error::TemplateFailed { .. }));
    assert!(failed("{% for a in range(10**9) %}{% endfor %}"));
    assert!(failed("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"));
    assert!(failed("{{ '{:>1000000000}'.format(1) }}"));
    let syntax = |source: &str| matches!(render(source), Err(Error::TemplateSyntax { .. }));
    assert!(syntax("{% if"));
    assert!(syntax(&("{{ ".to_owned() + &"(".repeat(100_000))));
    assert!(matches!(render(&"x".repeat(300_000)), Err(Error::TemplateTooLong { .. })));
    // 10^5 deep, by operators: the engine recurses for each.
    assert_eq!(render(&format!("{{{{ {}1 }}}}", "-".repeat(100_000))).unwrap(), "1");
    match render("{{ raise_exception('no tools, please') }}") {
        Err(Error::TemplateRefused { message }) => assert_eq!(message, "no tools, please"),
        other => panic!("{other:?}"),
    }
}
