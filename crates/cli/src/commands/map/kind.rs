//! What a tensor is for, by its name, and how that is shown.

/// What a tensor is for: a row of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Header,
    Embedding,
    AttentionQ,
    AttentionK,
    AttentionV,
    AttentionOut,
    Attention,
    FeedGate,
    FeedUp,
    FeedDown,
    Feed,
    ExpertGate,
    ExpertUp,
    ExpertDown,
    Router,
    Vectors,
    Other,
    Output,
}

/// Kinds that share a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    Header,
    Ends,
    Attention,
    Feed,
    Experts,
    Rest,
}

impl Kind {
    /// The kind and the layer of the tensor `name` with so many rows.
    pub fn of(name: &str, rows: u64) -> (Self, Option<u32>) {
        let inside = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let inside = inside.and_then(|(layer, stem)| Some((layer.parse().ok()?, stem)));
        let Some((layer, stem)) = inside else {
            let kind = match name {
                "token_embd.weight" => Self::Embedding,
                "output.weight" => Self::Output,
                _ if rows <= 1 => Self::Vectors,
                _ => Self::Other,
            };
            return (kind, None);
        };
        let kind = match stem.strip_suffix(".weight").unwrap_or(stem) {
            _ if rows <= 1 => Self::Vectors,
            "attn_q" => Self::AttentionQ,
            "attn_k" => Self::AttentionK,
            "attn_v" => Self::AttentionV,
            "attn_output" => Self::AttentionOut,
            "ffn_gate" => Self::FeedGate,
            "ffn_up" => Self::FeedUp,
            "ffn_down" => Self::FeedDown,
            "ffn_gate_exps" | "ffn_gate_up_exps" => Self::ExpertGate,
            "ffn_up_exps" => Self::ExpertUp,
            "ffn_down_exps" => Self::ExpertDown,
            "ffn_gate_inp" => Self::Router,
            other if other.starts_with("attn") => Self::Attention,
            other if other.starts_with("ffn") => Self::Feed,
            _ => Self::Other,
        };
        (kind, Some(layer))
    }

    /// The word for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Embedding => "embedding",
            Self::AttentionQ => "attention q",
            Self::AttentionK => "attention k",
            Self::AttentionV => "attention v",
            Self::AttentionOut => "attention out",
            Self::Attention => "attention more",
            Self::FeedGate => "ffn gate",
            Self::FeedUp => "ffn up",
            Self::FeedDown => "ffn down",
            Self::Feed => "ffn more",
            Self::ExpertGate => "experts gate",
            Self::ExpertUp => "experts up",
            Self::ExpertDown => "experts down",
            Self::Router => "router",
            Self::Vectors => "norms, biases",
            Self::Other => "other",
            Self::Output => "output",
        }
    }

    /// The colour's group.
    pub fn group(self) -> Group {
        match self {
            Self::Header => Group::Header,
            Self::Embedding | Self::Output => Group::Ends,
            Self::AttentionQ
            | Self::AttentionK
            | Self::AttentionV
            | Self::AttentionOut
            | Self::Attention => Group::Attention,
            Self::FeedGate | Self::FeedUp | Self::FeedDown | Self::Feed => Group::Feed,
            Self::ExpertGate | Self::ExpertUp | Self::ExpertDown | Self::Router => Group::Experts,
            Self::Vectors | Self::Other => Group::Rest,
        }
    }
}

impl Group {
    /// All of them, in the order of the legend.
    pub const ALL: [Self; 6] =
        [Self::Header, Self::Ends, Self::Attention, Self::Feed, Self::Experts, Self::Rest];

    /// The word for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Ends => "embedding, output",
            Self::Attention => "attention",
            Self::Feed => "feed-forward",
            Self::Experts => "experts",
            Self::Rest => "norms, other",
        }
    }

    /// Red, green, blue: of Okabe and Ito's set, which stays apart in every kind of colour blindness.
    pub fn colour(self) -> [u8; 3] {
        match self {
            Self::Header => [0x00, 0x00, 0x00],
            Self::Ends => [0xcc, 0x79, 0xa7],
            Self::Attention => [0x00, 0x72, 0xb2],
            Self::Feed => [0xe6, 0x9f, 0x00],
            Self::Experts => [0x00, 0x9e, 0x73],
            Self::Rest => [0x99, 0x99, 0x99],
        }
    }

    /// The nearest of a terminal's 256 colours.
    pub fn terminal_colour(self) -> u8 {
        match self {
            Self::Header => 250,
            Self::Ends => 175,
            Self::Attention => 32,
            Self::Feed => 214,
            Self::Experts => 36,
            Self::Rest => 244,
        }
    }

    /// A letter, where there is no colour.
    pub fn letter(self) -> char {
        match self {
            Self::Header => 'h',
            Self::Ends => 'e',
            Self::Attention => 'a',
            Self::Feed => 'f',
            Self::Experts => 'x',
            Self::Rest => 'n',
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_kind_and_layer() {
        for (name, rows, expected) in [
            ("token_embd.weight", 100, (Kind::Embedding, None)),
            ("output_norm.weight", 1, (Kind::Vectors, None)),
            ("output.weight", 100, (Kind::Output, None)),
            ("blk.0.attn_q.weight", 32, (Kind::AttentionQ, Some(0))),
            ("blk.17.attn_q.bias", 1, (Kind::Vectors, Some(17))),
            ("blk.3.ffn_down_exps.weight", 64, (Kind::ExpertDown, Some(3))),
            ("blk.3.attn_qkv.weight", 64, (Kind::Attention, Some(3))),
            ("blk.3.ssm_in.weight", 64, (Kind::Other, Some(3))),
            ("blk.x.attn_q.weight", 64, (Kind::Other, None)),
            ("", 64, (Kind::Other, None)),
        ] {
            assert_eq!(Kind::of(name, rows), expected, "{name}");
        }
    }
}
