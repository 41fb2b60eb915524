//! Which instruction set the kernels use: decided once, here and nowhere else.
//!
//! A value of a token type ([`Avx2`], [`AvxVnni`], [`Avx512`], [`Avx512Vbmi`], `Neon`, `NeonDot`, `NeonI8mm`) proves that this CPU has the
//! instruction set: the field is private and only this file makes one, after asking the CPU.
//! Kernels take the token, and the step from token to `#[target_feature]` function is the only
//! thing that needs `unsafe`.
//!
//! All instruction sets give the same bits (see the crate's documentation), so the choice is about
//! speed alone; `LOWTIDE_ISA` forces one, for tests and for measuring.

use std::sync::OnceLock;

/// The environment variable that forces an instruction set by its [`Isa::name`].
pub const ISA_VARIABLE: &str = "LOWTIDE_ISA";

/// Every [`Isa::name`], whatever this CPU has.
const NAMES: [&str; 8] =
    ["scalar", "avx2", "avxvnni", "avx512", "avx512vbmi", "neon", "neon-dot", "neon-i8mm"];

/// Proof that this CPU has AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Avx2 {
    _private: (),
}

/// Proof that this CPU has AVX-VNNI, and everything of [`Avx2`]: processors without AVX-512, such as Intel's since
/// Alder Lake, multiply bytes with it.
#[cfg(target_arch = "x86_64")]
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct AvxVnni {
    _private: (),
}

#[cfg(target_arch = "x86_64")]
impl AvxVnni {
    /// The smaller proof that this one contains.
    #[must_use]
    pub fn avx2(self) -> Avx2 {
        Avx2 { _private: () }
    }
}

/// Proof that this CPU has AVX-512 F, BW, VL, DQ and VNNI, and everything of [`Avx2`].
#[cfg(target_arch = "x86_64")]
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Avx512 {
    _private: (),
}

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    /// The smaller proof that this one contains.
    #[must_use]
    pub fn avx2(self) -> Avx2 {
        Avx2 { _private: () }
    }
}

/// Proof that this CPU has AVX-512 VBMI, and everything of [`Avx512`]: Intel's since Ice Lake, AMD's since Zen 4.
#[cfg(target_arch = "x86_64")]
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Avx512Vbmi {
    _private: (),
}

#[cfg(target_arch = "x86_64")]
impl Avx512Vbmi {
    /// The smaller proof that this one contains.
    #[must_use]
    pub fn avx512(self) -> Avx512 {
        Avx512 { _private: () }
    }
}

/// Proof that this CPU has NEON (every 64-bit Arm CPU has).
#[cfg(target_arch = "aarch64")]
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Neon {
    _private: (),
}

/// Proof that this CPU has NEON with the dot product instructions (`FEAT_DotProd`).
#[cfg(target_arch = "aarch64")]
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct NeonDot {
    _private: (),
}

/// Proof that this CPU has NEON with 8-bit matrix products (`FEAT_I8MM`), and everything of [`NeonDot`].
#[cfg(target_arch = "aarch64")]
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct NeonI8mm {
    _private: (),
}

#[cfg(target_arch = "aarch64")]
impl NeonI8mm {
    /// The smaller proof that this one contains.
    #[must_use]
    pub fn neon_dot(self) -> NeonDot {
        NeonDot { _private: () }
    }
}

/// An instruction set that this CPU has.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Isa {
    /// Portable Rust: the reference that defines every kernel's bits.
    Scalar,
    /// AVX2 + FMA + F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX2 + FMA + F16C + AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni(AvxVnni),
    /// AVX-512 F + BW + VL + DQ + VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// AVX-512 F + BW + VL + DQ + VNNI + VBMI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vbmi(Avx512Vbmi),
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    /// NEON + dot product.
    #[cfg(target_arch = "aarch64")]
    NeonDot(NeonDot),
    /// NEON + dot product + i8mm.
    #[cfg(target_arch = "aarch64")]
    NeonI8mm(NeonI8mm),
}

/// What is wrong with the value of `LOWTIDE_ISA`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IsaError {
    /// The name is none of those this program knows.
    #[error(
        "{ISA_VARIABLE}={name:?} is no instruction set (known: {}); this CPU has: {available}",
        NAMES.join(", ")
    )]
    Unknown {
        /// The value as given.
        name: String,
        /// The names that would work here, separated by commas.
        available: String,
    },
    /// The name is known, but this CPU (or this build) lacks the instruction set.
    #[error("{ISA_VARIABLE}={name}: not available on this CPU, which has: {available}")]
    Unavailable {
        /// The value as given.
        name: String,
        /// The names that would work here, separated by commas.
        available: String,
    },
}

impl Isa {
    /// The instruction set to use: what `LOWTIDE_ISA` names if that is available, else the best
    /// one of this CPU. Decided on the first call and the same ever after.
    ///
    /// A wrong name is not reported here; programs call [`Isa::from_env`] once at start.
    #[must_use]
    pub fn detect() -> Isa {
        static DECIDED: OnceLock<Isa> = OnceLock::new();
        *DECIDED.get_or_init(|| Isa::from_env().unwrap_or_else(|_| best()))
    }

    /// The instruction set that `LOWTIDE_ISA` names, or the best of this CPU if it is unset or
    /// empty.
    ///
    /// # Errors
    /// [`IsaError`] if the name is unknown or the CPU lacks the instruction set.
    pub fn from_env() -> Result<Isa, IsaError> {
        match std::env::var_os(ISA_VARIABLE) {
            None => Ok(best()),
            Some(name) => Isa::from_name(&name.to_string_lossy()),
        }
    }

    /// The instruction set of that [name](Isa::name), the best one for the empty name.
    ///
    /// # Errors
    /// [`IsaError`] if the name is unknown or the CPU lacks the instruction set.
    pub fn from_name(name: &str) -> Result<Isa, IsaError> {
        if name.is_empty() {
            return Ok(best());
        }
        let all = Isa::available();
        if let Some(isa) = all.iter().find(|isa| isa.name() == name) {
            return Ok(*isa);
        }
        let names: Vec<&str> = all.iter().map(|isa| isa.name()).collect();
        let available = names.join(", ");
        let name = name.to_owned();
        if NAMES.contains(&name.as_str()) {
            Err(IsaError::Unavailable { name, available })
        } else {
            Err(IsaError::Unknown { name, available })
        }
    }

    /// The proof of AVX2 that this one contains, if it does.
    #[cfg(target_arch = "x86_64")]
    #[must_use]
    pub fn avx2(self) -> Option<Avx2> {
        match self {
            Isa::Scalar => None,
            Isa::Avx2(token) => Some(token),
            Isa::AvxVnni(token) => Some(token.avx2()),
            Isa::Avx512(token) => Some(token.avx2()),
            Isa::Avx512Vbmi(token) => Some(token.avx512().avx2()),
        }
    }

    /// The proof of AVX-512 that this one contains, if it does.
    #[cfg(target_arch = "x86_64")]
    #[must_use]
    pub fn avx512(self) -> Option<Avx512> {
        match self {
            Isa::Avx512(token) => Some(token),
            Isa::Avx512Vbmi(token) => Some(token.avx512()),
            Isa::Scalar | Isa::Avx2(_) | Isa::AvxVnni(_) => None,
        }
    }

    /// Every instruction set of this CPU, the slowest ([`Isa::Scalar`]) first and the best last:
    /// what a test suite goes through.
    #[must_use]
    pub fn available() -> Vec<Isa> {
        let mut all = vec![Isa::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(detect_avx2().map(Isa::Avx2));
            all.extend(detect_avxvnni().map(Isa::AvxVnni));
            all.extend(detect_avx512().map(Isa::Avx512));
            all.extend(detect_avx512vbmi().map(Isa::Avx512Vbmi));
        }
        #[cfg(target_arch = "aarch64")]
        {
            all.extend(detect_neon().map(Isa::Neon));
            all.extend(detect_neon_dot().map(Isa::NeonDot));
            all.extend(detect_neon_i8mm().map(Isa::NeonI8mm));
        }
        all
    }

    /// `scalar`; `avx2`, `avxvnni`, `avx512` or `avx512vbmi`; `neon`, `neon-dot` or `neon-i8mm`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni(_) => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vbmi(_) => "avx512vbmi",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => "neon",
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot(_) => "neon-dot",
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm(_) => "neon-i8mm",
        }
    }
}

fn best() -> Isa {
    Isa::available().pop().unwrap_or(Isa::Scalar)
}

#[cfg(target_arch = "x86_64")]
fn detect_avx2() -> Option<Avx2> {
    (is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c"))
    .then_some(Avx2 { _private: () })
}

#[cfg(target_arch = "x86_64")]
fn detect_avxvnni() -> Option<AvxVnni> {
    detect_avx2()?;
    is_x86_feature_detected!("avxvnni").then_some(AvxVnni { _private: () })
}

#[cfg(target_arch = "x86_64")]
fn detect_avx512() -> Option<Avx512> {
    detect_avx2()?;
    (is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni"))
    .then_some(Avx512 { _private: () })
}

#[cfg(target_arch = "x86_64")]
fn detect_avx512vbmi() -> Option<Avx512Vbmi> {
    detect_avx512()?;
    is_x86_feature_detected!("avx512vbmi").then_some(Avx512Vbmi { _private: () })
}

#[cfg(target_arch = "aarch64")]
fn detect_neon() -> Option<Neon> {
    std::arch::is_aarch64_feature_detected!("neon").then_some(Neon { _private: () })
}

#[cfg(target_arch = "aarch64")]
fn detect_neon_dot() -> Option<NeonDot> {
    detect_neon()?;
    std::arch::is_aarch64_feature_detected!("dotprod").then_some(NeonDot { _private: () })
}

#[cfg(target_arch = "aarch64")]
fn detect_neon_i8mm() -> Option<NeonI8mm> {
    detect_neon_dot()?;
    std::arch::is_aarch64_feature_detected!("i8mm").then_some(NeonI8mm { _private: () })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_starts_with_scalar_and_round_trips_through_names() {
        let all = Isa::available();
        assert_eq!(all[0], Isa::Scalar);
        for isa in &all {
            assert_eq!(Isa::from_name(isa.name()), Ok(*isa));
            assert!(NAMES.contains(&isa.name()), "{isa:?}");
        }
        assert_eq!(Isa::from_name(""), Ok(*all.last().unwrap()));
        assert!(all.contains(&Isa::detect()));
    }

    /// What an emulated CPU is asked for must be there, or its tests would pass by testing nothing.
    #[test]
    fn what_the_variable_names_is_available() {
        let isa = Isa::from_env().unwrap();
        assert_eq!(isa, Isa::detect());
        if let Some(name) = std::env::var_os(ISA_VARIABLE).filter(|name| !name.is_empty()) {
            assert_eq!(isa.name(), name);
        }
    }

    #[test]
    fn wrong_names_are_errors_that_list_what_would_work() {
        let error = Isa::from_name("avx3").unwrap_err();
        assert!(matches!(&error, IsaError::Unknown { name, .. } if name == "avx3"));
        assert!(error.to_string().contains("scalar"), "{error}");
        let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
        assert!(matches!(Isa::from_name(foreign), Err(IsaError::Unavailable { .. })));
        assert!(error.to_string().contains("avx512vbmi, neon, neon-dot"), "{error}");
    }
}
