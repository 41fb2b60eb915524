//! Which tokens are special and what for: from the ids that the file names, and from tokens' texts
//! where it does not, as llama.cpp derives them.

use crate::parts::{NamedIds, VocabParts};
use crate::{Error, TokenId};

/// Attributes of a token, as bits.
pub(crate) mod attr {
    pub(crate) const NORMAL: u8 = 1;
    pub(crate) const UNKNOWN: u8 = 1 << 1;
    pub(crate) const CONTROL: u8 = 1 << 2;
    pub(crate) const USER_DEFINED: u8 = 1 << 3;
    pub(crate) const BYTE: u8 = 1 << 4;
    pub(crate) const UNUSED: u8 = 1 << 5;
    /// Takes the whitespace before it.
    pub(crate) const LSTRIP: u8 = 1 << 6;
    /// Takes the whitespace after it.
    pub(crate) const RSTRIP: u8 = 1 << 7;
}

/// Ids of the tokens that mean something to an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begin of sequence.
    pub bos: Option<TokenId>,
    /// End of sequence.
    pub eos: Option<TokenId>,
    /// End of turn.
    pub eot: Option<TokenId>,
    /// End of message (a tool call follows).
    pub eom: Option<TokenId>,
    /// Unknown.
    pub unk: Option<TokenId>,
    /// Separator.
    pub sep: Option<TokenId>,
    /// Padding.
    pub pad: Option<TokenId>,
    /// Mask.
    pub mask: Option<TokenId>,
    /// Fill in the middle: prefix, suffix, middle.
    pub fim: [Option<TokenId>; 3],
    /// All tokens that end generation, ascending.
    pub eog: Vec<TokenId>,
}

const EOT: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];
const EOM: &[&str] = &["<|eom_id|>"];
const FIM_PRE: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];
const FIM_SUF: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];
const FIM_MID: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];
const FIM_PAD: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const FIM_REP: &[&str] = &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const FIM_SEP: &[&str] = &["<|file_sep|>"];
const EOG: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];
/// Parts of gpt-oss's message format, which must be printed.
const ALWAYS_SHOWN: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// The ids of the tokens that the lists above name. One pass over the vocabulary: tokens that do not
/// start as one of those texts does are passed over at once.
struct Named(Vec<(&'static str, TokenId)>);

impl Named {
    fn find(tokens: &[&[u8]]) -> Named {
        let lists = [
            EOT,
            EOM,
            FIM_PRE,
            FIM_SUF,
            FIM_MID,
            FIM_PAD,
            FIM_REP,
            FIM_SEP,
            EOG,
            ALWAYS_SHOWN,
            &["<|plamo:eos|>"],
        ];
        let mut texts: Vec<&'static str> = lists.concat();
        texts.sort_unstable();
        texts.dedup();
        let mut found = Vec::new();
        for (id, token) in (0..).zip(tokens) {
            if matches!(token.first(), Some(b'<' | b'_' | b'[' | 0xe2))
                && let Ok(at) = texts.binary_search_by(|text| text.as_bytes().cmp(token))
            {
                found.push((texts[at], id));
            }
        }
        Named(found)
    }

    /// The last token of this text: of tokens with one text it is the one that text encodes to.
    fn id(&self, text: &str) -> Option<TokenId> {
        self.0.iter().rev().find(|(name, _)| *name == text).map(|&(_, id)| id)
    }

    fn first_of(&self, texts: &[&str]) -> Option<TokenId> {
        texts.iter().find_map(|text| self.id(text))
    }
}

/// Attributes by `token_type`; 1 is assumed where the file has no types.
pub(crate) fn attributes(parts: &VocabParts<'_>) -> Vec<u8> {
    let of_type = |t: i32| match t {
        1 => attr::NORMAL,
        2 => attr::UNKNOWN,
        3 => attr::CONTROL,
        4 => attr::USER_DEFINED,
        5 => attr::UNUSED,
        6 => attr::BYTE,
        _ => 0,
    };
    if parts.token_types.is_empty() {
        return vec![attr::NORMAL; parts.tokens.len()];
    }
    parts.token_types.iter().take(parts.tokens.len()).map(|&t| of_type(t)).collect()
}

fn checked(key: &'static str, id: Option<u32>, tokens: usize) -> Result<Option<TokenId>, Error> {
    match id {
        Some(id) if id as usize >= tokens => {
            // `tokens` is at most TOKENS_MAX, and not 0.
            Err(Error::SpecialId { key, id, last: (tokens - 1) as u32 })
        }
        id => Ok(id),
    }
}

/// The special tokens of a vocabulary. Tokens that play a part get the attributes that go with it.
///
/// # Errors
/// [`Error::SpecialId`] if the file names an id for bos, eos, eot or eom that is not in the vocabulary. For
/// the others, which only some uses need, such an id is no id: published files have padding ids out of range.
pub(crate) fn resolve(
    parts: &VocabParts<'_>,
    defaults: NamedIds,
    attrs: &mut [u8],
) -> Result<SpecialIds, Error> {
    let tokens = parts.tokens.len();
    let named = Named::find(&parts.tokens);
    let in_range = |id: Option<u32>| id.filter(|&id| (id as usize) < tokens);
    let mut control = |id: Option<TokenId>| {
        if let Some(attr) = id.and_then(|id| attrs.get_mut(id as usize)) {
            *attr |= attr::CONTROL;
        }
        id
    };
    let ids = &parts.ids;
    let mut by_text =
        |id: Option<u32>, texts| in_range(id).or_else(|| control(named.first_of(texts)));
    let [fim_pad, fim_rep, fim_sep] = [
        by_text(ids.fim_pad, FIM_PAD),
        by_text(ids.fim_rep, FIM_REP),
        by_text(ids.fim_sep, FIM_SEP),
    ];
    let mut special = SpecialIds {
        bos: checked("tokenizer.ggml.bos_token_id", ids.bos, tokens)?.or(in_range(defaults.bos)),
        eos: checked("tokenizer.ggml.eos_token_id", ids.eos, tokens)?.or(in_range(defaults.eos)),
        eot: by_text(checked("tokenizer.ggml.eot_token_id", ids.eot, tokens)?, EOT),
        eom: by_text(checked("tokenizer.ggml.eom_token_id", ids.eom, tokens)?, EOM),
        unk: in_range(ids.unknown.or(defaults.unknown)),
        sep: in_range(ids.separator),
        pad: in_range(ids.padding),
        mask: in_range(ids.mask),
        fim: [
            by_text(ids.fim_pre, FIM_PRE),
            by_text(ids.fim_suf, FIM_SUF),
            by_text(ids.fim_mid, FIM_MID),
        ],
        eog: [fim_pad, fim_rep, fim_sep].into_iter().flatten().collect(),
    };
    end_of_generation(&named, &mut special, attrs);
    Ok(special)
}

fn end_of_generation(named: &Named, special: &mut SpecialIds, attrs: &mut [u8]) {
    for &text in EOG {
        if let Some(id) = named.id(text) {
            special.eog.push(id);
            attrs[id as usize] |= attr::CONTROL;
        }
    }
    for &text in ALWAYS_SHOWN {
        if let Some(id) = named.id(text) {
            attrs[id as usize] = attr::USER_DEFINED;
        }
    }
    special.eog.extend([special.eos, special.eot, special.eom].into_iter().flatten());
    special.eog.sort_unstable();
    special.eog.dedup();

    let eog = std::mem::take(&mut special.eog);
    let ends = |text| named.id(text).filter(|id| eog.contains(id));
    let both = |a, b| ends(a).is_some() && ends(b).is_some();
    let mut not_an_end = Vec::new();
    // gpt-oss and Solar end a message with <|end|>, and generation with one of the others.
    let calls = ends("<|call|>").or(ends("<|calls|>")).is_some();
    if let Some(end) = ends("<|end|>")
        && calls
        && (ends("<|return|>").is_some() || ends("<|flush|>").is_some())
    {
        attrs[end as usize] = attr::USER_DEFINED;
        not_an_end.push(end);
    }
    // gemma 4 and PLaMo have an ordinary token of this text.
    if both("</s>", "<|tool_response>") || both("</s>", "<|plamo:eos|>") {
        let id = ends("</s>").unwrap_or_default();
        attrs[id as usize] = attr::NORMAL;
        not_an_end.push(id);
    }
    special.eog = eog.into_iter().filter(|id| !not_an_end.contains(id)).collect();
}

/// Marks the tokens that take surrounding whitespace. GGUF does not carry this; like llama.cpp, it is
/// known for Phi-3 (by the model's name) and for the embedding models with a mask token.
pub(crate) fn strip_attributes(parts: &VocabParts<'_>, attrs: &mut [u8]) {
    let name = parts.name.unwrap_or_default().to_ascii_lowercase();
    let pre = parts.pre.unwrap_or_default();
    let mask = |text: &[u8], attrs: &mut [u8]| {
        if let Some(id) = parts.tokens.iter().rposition(|token| *token == text) {
            attrs[id] |= attr::LSTRIP;
        }
    };
    if ["jina-v2-de", "jina-v2-es", "jina-v2-code"].iter().any(|name| pre.contains(name)) {
        mask(b"<mask>", attrs);
    } else if name.contains("phi-3") || name.contains("phi3") {
        for (attr, &token) in attrs.iter_mut().zip(&parts.tokens) {
            let special = *attr & (attr::CONTROL | attr::USER_DEFINED | attr::UNKNOWN) != 0;
            if (special || token == b"</s>")
                && !matches!(token, b"<unk>" | b"<s>" | b"<|endoftext|>")
            {
                *attr |= attr::RSTRIP;
            }
        }
    } else if name.contains("modern-bert") {
        mask(b"[MASK]", attrs);
    }
}
