//! Mixes: which format each tensor is stored in, after the habits of `llama-quantize`.

use lowtide_gguf::GgmlType;

use super::Error;

/// What a matrix is for: mixes choose by it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// `token_embd`.
    Embedding,
    /// `output`.
    Output,
    /// `attn_v`, to which quality is most sensitive.
    Value,
    /// Other attention matrices.
    Attention,
    /// `ffn_down`.
    Down,
    /// `ffn_gate`, `ffn_up`.
    FeedForward,
    /// `ffn_down_exps`.
    ExpertDown,
    /// `ffn_gate_exps`, `ffn_up_exps`.
    Expert,
}

/// Formats by role. `None` stands for the default format.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mix {
    /// Name, for messages and `general.name`.
    pub name: String,
    /// Format of everything not named below.
    pub default: GgmlType,
    /// Format of the embedding.
    pub embedding: Option<GgmlType>,
    /// Format of the output matrix (of the embedding too where they are tied).
    pub output: Option<GgmlType>,
    /// Format of `attn_v`.
    pub value: Option<GgmlType>,
    /// Format of `ffn_down`, experts' included.
    pub down: Option<GgmlType>,
    /// Format of the experts' matrices.
    pub experts: Option<GgmlType>,
    /// Format of attention and everything else that is not an expert, where experts set the default.
    pub attention: Option<GgmlType>,
    /// Whether `value` and `down` hold for only those layers that `llama-quantize` gives more bits: the first and last eighth and
    /// every third between.
    pub some_layers: bool,
}

impl Mix {
    /// Every matrix in `ty`.
    #[must_use]
    pub fn pure(ty: GgmlType) -> Mix {
        Mix {
            name: ty.to_string().to_lowercase(),
            default: ty,
            embedding: None,
            output: None,
            value: None,
            down: None,
            experts: None,
            attention: None,
            some_layers: false,
        }
    }

    /// Names beyond those of formats that [`Mix::named`] knows.
    pub const NAMES: &[&str] =
        &["q2_k_m", "q3_k_m", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "mxfp4_moe"];

    /// A mix by name: a format (`q4_0`: all matrices in it but the output, which has six bits or more, as `llama-quantize` does), a
    /// format and `_pure` (the output too), or one of [`Mix::NAMES`].
    ///
    /// # Errors
    /// [`Error::Name`] if there is none.
    pub fn named(name: &str) -> Result<Mix, Error> {
        let name = name.to_lowercase();
        let six = Some(GgmlType::Q6_K);
        let mut mix = match name.as_str() {
            "q2_k_m" => {
                let more = Some(GgmlType::Q3_K);
                Mix { output: six, value: more, down: more, ..Mix::pure(GgmlType::Q2_K) }
            }
            "q3_k_m" => {
                let (value, down) = (Some(GgmlType::Q5_K), Some(GgmlType::Q4_K));
                Mix { output: six, value, down, some_layers: true, ..Mix::pure(GgmlType::Q3_K) }
            }
            "q4_k_s" => Mix { output: six, ..Mix::pure(GgmlType::Q4_K) },
            "q4_k_m" => Mix {
                output: six,
                value: six,
                down: six,
                some_layers: true,
                ..Mix::pure(GgmlType::Q4_K)
            },
            "q5_k_s" => Mix { output: six, ..Mix::pure(GgmlType::Q5_K) },
            "q5_k_m" => Mix {
                output: six,
                value: six,
                down: six,
                some_layers: true,
                ..Mix::pure(GgmlType::Q5_K)
            },
            "mxfp4_moe" => Mix { experts: Some(GgmlType::MXFP4), ..Mix::pure(GgmlType::Q8_0) },
            format => return Mix::of_format(format),
        };
        mix.name = name;
        Ok(mix)
    }

    fn of_format(name: &str) -> Result<Mix, Error> {
        let (format, pure) = match name.strip_suffix("_pure") {
            Some(format) => (format, true),
            None => (name, false),
        };
        let ty = format_named(format)?;
        let layout = ty.layout().map_or(0.0, |l| l.bytes as f64 * 8.0 / l.len as f64);
        let output = (!pure && layout < 6.5).then_some(GgmlType::Q6_K);
        Ok(Mix { name: name.to_owned(), output, ..Mix::pure(ty) })
    }

    /// Format of a matrix of `role` in layer `layer` of `layers`, with rows of `row` elements. Where rows are not whole blocks the
    /// next format that fits is taken, as `llama-quantize` does.
    #[must_use]
    pub fn format(&self, role: Role, layer: u64, layers: u64, row: u64) -> GgmlType {
        let eighth = layers / 8;
        let more = layer < eighth
            || layer >= layers - eighth
            || (layer.wrapping_sub(eighth)) % 3 == 2
            || !self.some_layers;
        let trunk = self.attention.unwrap_or(self.default);
        let wanted = match role {
            Role::Embedding => self.embedding.unwrap_or(trunk),
            Role::Output => self.output.unwrap_or(trunk),
            Role::Value if more => self.value.unwrap_or(trunk),
            Role::Down if more => self.down.unwrap_or(trunk),
            Role::ExpertDown if more => self.experts.or(self.down).unwrap_or(self.default),
            Role::Expert | Role::ExpertDown => self.experts.unwrap_or(self.default),
            Role::Value | Role::Attention | Role::Down | Role::FeedForward => trunk,
        };
        fitting(wanted, row)
    }
}

/// The format of this name among those that weights are stored in.
///
/// # Errors
/// [`Error::Name`] if there is none.
pub fn format_named(name: &str) -> Result<GgmlType, Error> {
    let storable = |ty: &GgmlType| super::blocks::storable(*ty);
    GgmlType::from_name(name).filter(storable).ok_or_else(|| Error::Name {
        kind: "format or mix",
        name: name.to_owned(),
        known: GgmlType::all()
            .filter(storable)
            .map(|ty| ty.to_string().to_lowercase())
            .chain(Mix::NAMES.iter().map(|&name| name.to_owned()))
            .collect::<Vec<_>>()
            .join(" "),
    })
}

fn fitting(wanted: GgmlType, row: u64) -> GgmlType {
    let fits = |ty: GgmlType| ty.layout().is_some_and(|l| row.is_multiple_of(l.len));
    let next = match wanted {
        GgmlType::Q4_K => GgmlType::Q5_0,
        GgmlType::Q5_K => GgmlType::Q5_1,
        GgmlType::Q6_K => GgmlType::Q8_0,
        _ => GgmlType::IQ4_NL,
    };
    [wanted, next].into_iter().find(|&ty| fits(ty)).unwrap_or(GgmlType::F16)
}
