//! Which splitter a byte-pair vocabulary names, and what else follows from the name.
//!
//! The names and their meaning are those of llama.cpp's `src/llama-vocab.cpp`; each expression is quoted
//! beside its parts.

use crate::split::{Endings, NONE, Part, Set, Stage, sets::*};
use crate::unicode::{APUNCT, L, LOWER, M, N, NL, P, S, UPPER, WS};

/// What the name of a pre-tokenizer implies.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Pre {
    /// The expressions, in order.
    pub(crate) stages: &'static [Stage],
    /// A word that is a token is taken whole, whatever the merges say.
    pub(crate) ignore_merges: bool,
    /// BOS is added unless the file says otherwise.
    pub(crate) add_bos: bool,
    /// Detokenising removes spaces before punctuation.
    pub(crate) clean_spaces: bool,
    /// Words are raw UTF-8 with `▁` for spaces and `<0xNN>` for unknown bytes, not GPT-2's byte alphabet.
    pub(crate) raw_utf8: bool,
    /// Line breaks are looked up whole before they are merged, and BOS is always added.
    pub(crate) gemma: bool,
    /// No BOS but the one that the file names.
    pub(crate) no_default_bos: bool,
}

impl Pre {
    const fn new(stages: &'static [Stage]) -> Pre {
        Pre {
            stages,
            ignore_merges: false,
            add_bos: false,
            clean_spaces: true,
            raw_utf8: false,
            gemma: false,
            no_default_bos: false,
        }
    }

    const fn ignore_merges(self) -> Pre {
        Pre { ignore_merges: true, ..self }
    }

    const fn add_bos(self) -> Pre {
        Pre { add_bos: true, ..self }
    }

    const fn keep_spaces(self) -> Pre {
        Pre { clean_spaces: false, ..self }
    }

    const fn raw_utf8(self) -> Pre {
        Pre { raw_utf8: true, ..self }
    }
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
const ENDING: Part = Part::Ending { any_case: true };
/// `'s|'t|'re|'ve|'m|'ll|'d`
const LOWER_ENDING: Part = Part::Ending { any_case: false };
/// `[^\r\n\p{L}\p{N}]?\p{L}+`
const WORD: Part = Part::Word { lead: LEAD, body: LETTERS, endings: Endings::No };
/// ` ?[^\s\p{L}\p{N}]+[\r\n]*`
const MARKS: Part = Part::Spaced { body: OTHER, tail: BREAKS };
/// ` ?[^\s\p{L}\p{N}]+[\r\n/]*`
const MARKS_SLASH: Part = Part::Spaced { body: OTHER, tail: BREAKS_SLASH };
const NUMBER: Part = Part::One(NUMBERS);
const NUMBERS_3: Part = Part::UpTo(NUMBERS, 3);

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
const GPT2: Stage = Stage::Search(&[
    LOWER_ENDING,
    Part::Spaced { body: LETTERS, tail: NONE },
    Part::Spaced { body: NUMBERS, tail: NONE },
    Part::Spaced { body: OTHER, tail: NONE },
    Part::SpaceBefore,
    Part::Space,
]);
/// `(?i:'s|...)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
const LLAMA3: Stage = Stage::Search(&[
    ENDING,
    WORD,
    NUMBERS_3,
    MARKS,
    Part::Newlines,
    Part::SpaceBefore,
    Part::Space,
]);
/// The same with `\p{N}`.
const QWEN2: Stage =
    Stage::Search(&[ENDING, WORD, NUMBER, MARKS, Part::Newlines, Part::SpaceBefore, Part::Space]);
/// The same with marks as letters: `[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+`, ` ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*`.
const QWEN35: Stage = Stage::Search(&[
    ENDING,
    Part::Word { lead: LEAD, body: LETTERS_MARKS, endings: Endings::No },
    NUMBER,
    Part::Spaced { body: Set::Not(WS | L | M | N), tail: BREAKS },
    Part::Newlines,
    Part::SpaceBefore,
    Part::Space,
]);
/// LLAMA3 with whitespace cut into powers of two.
const JAIS2: Stage =
    Stage::Search(&[ENDING, WORD, NUMBERS_3, MARKS, Part::Newlines, Part::SpaceByPowers]);
/// LLAMA3 with `\p{N}+`, after digits were cut in threes.
const MINICPM5: Stage = Stage::Search(&[
    ENDING,
    WORD,
    Part::Run(NUMBERS),
    MARKS,
    Part::Newlines,
    Part::SpaceBefore,
    Part::Space,
]);
/// `(?i:'s|...)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+`
const SEED_CODER: Stage = Stage::Search(&[
    ENDING,
    WORD,
    NUMBER,
    Part::Spaced { body: OTHER, tail: NONE },
    Part::Newlines,
    Part::SpaceBefore,
    Part::Space,
]);
/// QWEN2 without the endings.
const UFAKZEKA: Stage =
    Stage::Search(&[WORD, NUMBER, MARKS, Part::Newlines, Part::SpaceBefore, Part::Space]);
/// QWEN2 with phrases for words and at most one line break after punctuation.
const EXAONE_MOE: Stage = Stage::Search(&[
    ENDING,
    Part::Phrase,
    NUMBER,
    Part::SpacedTailOnce { body: OTHER, tail: BREAKS_SLASH },
    Part::Newlines,
    Part::SpaceBefore,
    Part::Space,
]);
/// `[!"#...][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
const DEEPSEEK_V3: Stage = Stage::Search(&[
    Part::PunctuatedWord,
    DEEPSEEK_WORD,
    Part::Spaced { body: PUNCT_SYMBOLS, tail: BREAKS },
    Part::Newlines,
    Part::SpaceBefore,
    Part::Space,
]);
const DEEPSEEK_WORD: Part =
    Part::Word { lead: Set::Not(NL | L | P | S), body: LETTERS_MARKS, endings: Endings::No };
/// The same with line breaks one by one.
const SPARK: Stage = Stage::Search(&[
    Part::PunctuatedWord,
    DEEPSEEK_WORD,
    Part::Spaced { body: PUNCT_SYMBOLS, tail: NONE },
    Part::One(BREAKS),
    Part::SpaceBefore,
    Part::Space,
]);

const fn cased(upper: Set, lower: Set, endings: Endings) -> Part {
    Part::Cased { lead: LEAD, upper, lower, endings }
}

/// Words cut where case rises, `\p{N}`.
const TEKKEN: Stage = Stage::Search(&[
    cased(UPPERS, LOWERS, Endings::No),
    NUMBER,
    MARKS_SLASH,
    Part::Newlines,
    Part::SpaceBefore,
    Part::Space,
]);
/// Words cut where case rises, with their endings, `\p{N}{1,3}`.
const GPT4O: Stage = Stage::Search(&[
    cased(UPPERS, LOWERS, Endings::Any),
    NUMBERS_3,
    MARKS_SLASH,
    Part::Newlines,
    Part::SpaceBefore,
    Part::Space,
]);
const GRANITE_MULTI: Stage = Stage::Search(&[
    cased(Set::Bits(L | M, LOWER), Set::Bits(L | M, UPPER), Endings::Any),
    NUMBERS_3,
    MARKS_SLASH,
    Part::Newlines,
    Part::SpaceBefore,
    Part::Space,
]);
const TINY_AYA: Stage = Stage::Search(&[
    cased(LETTERS_MARKS, LETTERS_MARKS, Endings::Any),
    NUMBERS_3,
    MARKS_SLASH,
    Part::Newlines,
    Part::SpaceBefore,
    Part::Space,
]);
const YOUTU: Stage = Stage::Search(&[
    cased(LETTERS_MARKS, LETTERS_MARKS, Endings::Any),
    NUMBER,
    MARKS_SLASH,
    Part::Newlines,
    Part::SpaceBefore,
    Part::Space,
]);
const KIMI: Stage = Stage::Search(&[
    Part::Run(HANS),
    Part::Word { lead: LEAD, body: LETTERS_NOT_HAN, endings: Endings::Any },
    NUMBERS_3,
    MARKS,
    Part::Newlines,
    Part::SpaceBefore,
    Part::Space,
]);

/// `[一-龥぀-ゟ゠-ヿ]+`
const CJK: Stage = Stage::Search(&[Part::Run(Set::Ranges(&[
    (0x4e00, 0x9fa5),
    (0x3040, 0x309f),
    (0x30a0, 0x30ff),
]))]);
/// `[一-龥ࠀ-一가-퟿]+`
const CJK_WIDE: Stage = Stage::Search(&[Part::Run(Set::Ranges(&[
    (0x4e00, 0x9fa5),
    (0x800, 0x4e00),
    (0xac00, 0xd7ff),
]))]);
const CJK_AFMOE: Stage = Stage::Search(&[Part::Run(Set::Ranges(&[
    (0x4e00, 0x9fff),
    (0x3400, 0x4dbf),
    (0x8c48, 0xfaff),
    (0x3040, 0x309f),
    (0x30a0, 0x30ff),
    (0xff65, 0xff9f),
    (0x2f00, 0x2fdf),
    (0xe40, 0xe7f),
    (0xe80, 0xeff),
    (0x1780, 0x17ff),
    (0x1000, 0x109f),
    (0xaa60, 0xaa7f),
    (0xa9e0, 0xa9ff),
    (0xac00, 0xd7af),
    (0x1100, 0x11ff),
]))]);
const YOUTU_SCRIPTS: Stage = Stage::Search(&[
    Part::Run(Set::Ranges(&[(0xac00, 0xd7a3), (0x3131, 0x318e)])),
    Part::Run(Set::Ranges(&[
        (0xff01, 0xff01),
        (0x2026, 0x2026),
        (0x201c, 0x201d),
        (0x2018, 0x2019),
        (0x2014, 0x2014),
        (0xff1a, 0xff1b),
        (0xff0c, 0xff0c),
        (0x3001, 0x303f),
        (0xfe30, 0xfe4f),
    ])),
    Part::Run(Set::Ranges(&[(0x3105, 0x312f)])),
    Part::Run(Set::Ranges(&[(0x4e00, 0x9fa5), (0x3040, 0x309f), (0x30a0, 0x30ff)])),
]);
/// ` ?[^(\s|.,!?…。，、।۔،)]+`
const BLOOM: Stage = Stage::Search(&[Part::Spaced {
    body: Set::NotRanges(&[
        (0x28, 0x29),
        (0x7c, 0x7c),
        (0x2e, 0x2e),
        (0x2c, 0x2c),
        (0x21, 0x21),
        (0x3f, 0x3f),
        (0x2026, 0x2026),
        (0x3001, 0x3002),
        (0xff0c, 0xff0c),
        (0x964, 0x964),
        (0x6d4, 0x6d4),
        (0x60c, 0x60c),
    ]),
    tail: NONE,
}]);

const SPACES: Set = Set::Bits(WS, 0);
const ONE_BREAK: Stage = Stage::Search(&[Part::One(BREAKS)]);
const ONE_NUMBER: Stage = Stage::Search(&[NUMBER]);
const THREE_NUMBERS: Stage = Stage::Search(&[NUMBERS_3]);
const ALL_NUMBERS: Stage = Stage::Search(&[Part::Run(NUMBERS)]);
/// `[0-9][0-9][0-9]`
const THREE_DIGITS: Stage = Stage::Search(&[Part::ThreeDigits]);

const fn spaced_word(body: Set) -> Part {
    Part::Word { lead: SPACES, body, endings: Endings::No }
}

/// The letters of Latin, Greek, Cyrillic, Armenian, Georgian, Cherokee and the like that
/// deepseek-llm's `tokenizer.json` lists.
#[rustfmt::skip]
const DEEPSEEK_LETTERS: &[(u32, u32)] = &[
    (0x41, 0x5a), (0x61, 0x7a), (0xb5, 0xb5), (0xc0, 0xd6), (0xd8, 0xf6), (0xf8, 0x1ba),
    (0x1bc, 0x1bf), (0x1c4, 0x293), (0x295, 0x2af), (0x370, 0x373), (0x376, 0x377),
    (0x37b, 0x37d), (0x37f, 0x37f), (0x386, 0x386), (0x388, 0x38a), (0x38c, 0x38c), (0x38e, 0x3a1),
    (0x3a3, 0x3f5), (0x3f7, 0x481), (0x48a, 0x52f), (0x531, 0x556), (0x10a0, 0x10c5),
    (0x13a0, 0x13f5), (0x13f8, 0x13fd), (0x1c90, 0x1cba), (0x1cbd, 0x1cbf), (0x1d00, 0x1d2b),
    (0x1d6b, 0x1d77), (0x1d79, 0x1d9a), (0x1e00, 0x1f15), (0x1f18, 0x1f1d), (0x1f20, 0x1f45),
    (0x1f48, 0x1f4d), (0x1f50, 0x1f57), (0x1f59, 0x1f59), (0x1f5b, 0x1f5b), (0x1f5d, 0x1f5d),
    (0x1f5f, 0x1f7d), (0x1f80, 0x1fb4), (0x1fb6, 0x1fbc), (0x1fbe, 0x1fbe), (0x1fc2, 0x1fc4),
    (0x1fc6, 0x1fcc), (0x1fd0, 0x1fd3), (0x1fd6, 0x1fdb), (0x1fe0, 0x1fec), (0x1ff2, 0x1ff4),
    (0x1ff6, 0x1ffc), (0x2102, 0x2102), (0x2107, 0x2107), (0x210a, 0x2113), (0x2115, 0x2115),
    (0x2119, 0x211d), (0x2124, 0x2124), (0x2126, 0x2126), (0x2128, 0x2128), (0x212a, 0x212d),
    (0x212f, 0x2134), (0x2139, 0x2139), (0x213c, 0x213f), (0x2145, 0x2149), (0x214e, 0x214e),
    (0x2183, 0x2184), (0x2c00, 0x2c7b), (0x2c7e, 0x2ce4), (0x2ceb, 0x2cee), (0x2cf2, 0x2cf3),
    (0xa640, 0xa66d), (0xa680, 0xa69b), (0xa722, 0xa76f), (0xa771, 0xa787), (0xa78b, 0xa78e),
    (0xab70, 0xabbf), (0xfb00, 0xfb06), (0xfb13, 0xfb17), (0xff21, 0xff3a), (0xff41, 0xff5a),
    (0x10400, 0x1044f), (0x104b0, 0x104d3), (0x104d8, 0x104fb), (0x10c80, 0x10cb2),
    (0x10cc0, 0x10cf2), (0x118a0, 0x118df), (0x1e900, 0x1e943),
];
/// `[!-/:-~！-／：-～‘-‟　-。]`
const DEEPSEEK_PUNCT: &[(u32, u32)] = &[
    (0x21, 0x2f),
    (0x3a, 0x7e),
    (0xff01, 0xff0f),
    (0xff1a, 0xff5e),
    (0x2018, 0x201f),
    (0x3000, 0x3002),
];

const DEFAULT: Pre =
    Pre::new(&[Stage::Search(&[Part::Run(PUNCT)]), GPT2, ALL_NUMBERS, THREE_DIGITS]);
const DEEPSEEK_LLM: Pre = Pre::new(&[
    ONE_BREAK,
    Stage::Search(&[spaced_word(Set::Ranges(DEEPSEEK_LETTERS))]),
    Stage::Search(&[spaced_word(Set::Ranges(DEEPSEEK_PUNCT))]),
    Stage::TrailingSpace,
    CJK_WIDE,
    ALL_NUMBERS,
]);
const DEEPSEEK_CODER: Pre = Pre::new(&[
    ONE_BREAK,
    Stage::Search(&[spaced_word(LETTERS)]),
    Stage::Search(&[spaced_word(Set::Bits(P, 0))]),
    CJK_WIDE,
    ONE_NUMBER,
]);
const CHAMELEON: Pre = Pre::new(&[
    Stage::Search(&[Part::Sentinel]),
    Stage::Search(&[Part::ImageToken]),
    Stage::Search(&[Part::Indent]),
    ONE_NUMBER,
    Stage::Search(&[Part::One(Set::Bits(P | APUNCT, 0))]),
    GPT2,
]);

/// The rules that a value of `tokenizer.ggml.pre` names, `None` for a name that is not known.
#[rustfmt::skip]
pub(crate) fn by_name(name: &str) -> Option<Pre> {
    let pre = match name {
        "default" => DEFAULT,
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
        | "jina-v5-nano" => Pre::new(&[LLAMA3]).ignore_merges().add_bos(),
        "dbrx" | "smaug-bpe" => Pre::new(&[LLAMA3]),
        "chatglm-bpe" => Pre { no_default_bos: true, ..Pre::new(&[LLAMA3]) },
        "glm4" | "glm5" => Pre { no_default_bos: true, ..Pre::new(&[LLAMA3]).ignore_merges() },
        "jais-2" => Pre::new(&[JAIS2]),
        "minicpm5" => Pre::new(&[THREE_NUMBERS, MINICPM5]).ignore_merges(),
        "deepseek-llm" => DEEPSEEK_LLM.keep_spaces(),
        "deepseek-coder" => DEEPSEEK_CODER.keep_spaces(),
        "deepseek-v3" | "hunyuan-dense" | "hy_v4" | "joyai-llm" =>
            Pre::new(&[THREE_NUMBERS, CJK, DEEPSEEK_V3]).keep_spaces(),
        "spark2_5" => Pre::new(&[THREE_NUMBERS, CJK, SPARK, ONE_NUMBER]).keep_spaces(),
        "youtu" => Pre::new(&[YOUTU_SCRIPTS, YOUTU]).keep_spaces().ignore_merges(),
        "falcon" => Pre::new(&[Stage::Search(&[Part::Run(PUNCT_TICK)]), GPT2, THREE_DIGITS]),
        "starcoder" | "refact" | "codeshell" | "exaone" | "minerva-7b" | "mellum2" =>
            Pre::new(&[ONE_NUMBER, GPT2]),
        "command-r" | "smollm" => Pre::new(&[ONE_NUMBER, GPT2]).keep_spaces(),
        "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "gigachat" | "jina-v2-es" | "jina-v2-de" | "a.x-4.0"
        | "mellum" | "modern-bert" | "jina-v1-en" | "jina-v2-code" | "roberta-bpe" | "mpt" | "olmo"
        | "jais" | "exaone4" => Pre::new(&[GPT2]),
        "trillion" | "granite-docling" => Pre::new(&[GPT2]).keep_spaces(),
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "hunyuan" | "solar-open" | "grok-2" =>
            Pre::new(&[QWEN2]).keep_spaces(),
        "stablelm2" | "megrez" => Pre::new(&[QWEN2]),
        "qwen35" => Pre::new(&[QWEN35]).keep_spaces(),
        "poro-chat" => Pre::new(&[BLOOM]).keep_spaces(),
        "bloom" | "gpt3-finnish" => Pre::new(&[BLOOM]),
        "viking" => Pre::new(&[BLOOM, ONE_NUMBER]).keep_spaces(),
        "tekken" => Pre::new(&[TEKKEN]).keep_spaces().ignore_merges().add_bos(),
        "chameleon" => CHAMELEON.keep_spaces().add_bos(),
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => Pre::new(&[GPT4O]).keep_spaces(),
        "granite-embed-multi-97m" => Pre::new(&[GRANITE_MULTI]).keep_spaces().ignore_merges(),
        "tiny_aya" | "cohere2moe" => Pre::new(&[Stage::DigitGroups, TINY_AYA]).keep_spaces(),
        "kimi-k2" => Pre::new(&[KIMI]).keep_spaces(),
        "superbpe" => Pre::new(&[ALL_NUMBERS, Stage::DigitCuts]).keep_spaces(),
        "bailingmoe" | "bailingmoe2" | "llada-moe" => Pre::new(&[QWEN2]).keep_spaces(),
        "seed-coder" => Pre::new(&[SEED_CODER]).keep_spaces(),
        "ufakzeka" => Pre::new(&[UFAKZEKA]).keep_spaces(),
        "afmoe" => Pre::new(&[Stage::DigitGroups, CJK_AFMOE, DEEPSEEK_V3]).keep_spaces(),
        "laguna" => Pre::new(&[Stage::Lines, QWEN2]).keep_spaces(),
        "exaone-moe" => Pre::new(&[EXAONE_MOE]),
        "gemma4" | "granite-embed-multi-311m" =>
            Pre { gemma: true, ..Pre::new(&[Stage::Lines]).raw_utf8() },
        "sarvam-moe" => Pre::new(&[Stage::Lines]).raw_utf8().keep_spaces(),
        _ => return None,
    };
    Some(pre)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(pre: &str, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        let stages = by_name(pre).unwrap().stages;
        crate::split::words(text, stages, &mut |word| words.push(word.to_owned()));
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn families_differ_where_they_should() {
        // (pre-tokenizer, text, words), from the expressions by hand. `tests/golden.rs` compares with llama.cpp, on
        // a vocabulary that cannot tell all families apart.
        let expect: [(&str, &str, &[&str]); 22] = [
            ("gpt-2", "It's 1234  ok\n\n x", &["It", "'s", " 1234", " ", " ok", "\n\n", " x"]),
            ("gpt-2", "IT'S", &["IT", "'", "S"]),
            ("smollm", "a12 b", &["a", "1", "2", " b"]),
            (
                "llama-bpe",
                "IT'S 1234567\n \n x",
                &["IT", "'S", " ", "123", "456", "7", "\n \n", " x"],
            ),
            ("llama-bpe", "(hi)\n\n", &["(hi", ")\n\n"]),
            ("qwen2", "12\u{301}a", &["1", "2", "\u{301}a"]),
            ("qwen2", "e\u{301}a", &["e", "\u{301}a"]),
            ("qwen35", "e\u{301}a \u{301}", &["e\u{301}a", " \u{301}"]),
            ("tekken", "helloWorld ABCd 12", &["hello", "World", " ABCd", " ", "1", "2"]),
            ("gpt-4o", "X'll/\n/ 1234", &["X'll", "/\n/", " ", "123", "4"]),
            ("deepseek-v3", "#define 1234中文x", &["#define", " ", "123", "4", "中文", "x"]),
            ("deepseek-llm", "a\n  b?  ", &["a", "\n", " ", " b", "?", "  "]),
            ("deepseek-coder", " a1,b", &[" a", "1", ",", "b"]),
            ("falcon", "1234$x`", &["123", "4", "$", "x", "`"]),
            ("default", "ab1234", &["ab", "123", "4"]),
            ("bloom", "a  b.c", &["a", " ", " b", ".", "c"]),
            ("superbpe", "x1234567", &["x", "1", "234", "567"]),
            ("jais-2", "a     b", &["a", "    ", " b"]),
            ("kimi-k2", "中a字B's1234", &["中", "a", "字", "B's", "123", "4"]),
            ("afmoe", "a1234 中", &["a", "1", "234", " ", "中"]),
            ("exaone-moe", "one two  three", &["one two", " ", " three"]),
            (
                "chameleon",
                "<sentinel:7>IMGIMGABZ    1!",
                // What the first expressions keep whole the later ones still cut, in llama.cpp too.
                &["<", "sentinel", ":", "7", ">", "IMGIMGABZ", "    ", "1", "!"],
            ),
        ];
        for (pre, text, expect) in expect {
            assert_eq!(words(pre, text), expect, "{pre} {text:?}");
        }
        assert!(by_name("").is_none());
    }

    #[test]
    fn words_are_the_text_whatever_it_is() {
        // All characters of the first planes that have any, in an order that mixes them.
        let chars = (0..0x2_0000u32).map(|i| i.wrapping_mul(0x9e37) % 0x2_0000);
        let text: String = chars.filter_map(char::from_u32).collect();
        for pre in
            ["default", "llama-bpe", "gpt-4o", "deepseek-llm", "afmoe", "youtu", "bloom", "gemma4"]
        {
            assert_eq!(words(pre, &text).concat(), text, "{pre}");
        }
    }
}
