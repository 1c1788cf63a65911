//! The instruction set that the kernels use: the best of this machine, or what
//! [`VARIABLE`] asks for.

use std::sync::OnceLock;

/// The environment variable that forces an instruction set.
pub const VARIABLE: &str = "HEADSTART_INSTRUCTION_SET";

/// Instruction sets that kernels are written for, worst first. A machine with one has those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructionSet {
    /// What every machine of the architecture has. On aarch64 that includes NEON.
    Baseline,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 F and BW.
    Avx512,
    /// AVX-512 with VNNI: products of bytes. The same bits as [`Self::Avx512`].
    Avx512Vnni,
}

impl InstructionSet {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Baseline, Self::Avx2, Self::Avx512, Self::Avx512Vnni];

    /// The name in [`VARIABLE`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512_vnni",
        }
    }

    /// The best that this machine has.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
                return Self::Baseline;
            }
            if !(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")) {
                return Self::Avx2;
            }
            if is_x86_feature_detected!("avx512vnni") { Self::Avx512Vnni } else { Self::Avx512 }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::Baseline
    }

    /// What a value of [`VARIABLE`] asks for.
    ///
    /// # Errors
    /// [`Unusable`] for an unknown name, and for what this machine does not have.
    pub fn forced(value: &str) -> Result<Self, Unusable> {
        let wanted = Self::ALL.into_iter().find(|i| i.name() == value);
        match wanted {
            Some(wanted) if wanted <= Self::best() => Ok(wanted),
            _ => Err(Unusable { value: value.into(), known: wanted.is_some() }),
        }
    }
}

/// An instruction set that cannot be forced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    value: String,
    known: bool,
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why =
            if self.known { "this processor does not have it" } else { "there is no such instruction set" };
        let usable = InstructionSet::ALL.into_iter().filter(|i| *i <= InstructionSet::best());
        let names: Vec<&str> = usable.map(InstructionSet::name).collect();
        write!(f, "{VARIABLE}={}: {why}; here it can be {}", self.value, names.join(", "))
    }
}

impl std::error::Error for Unusable {}

/// Whether [`VARIABLE`] can be followed.
///
/// # Errors
/// [`Unusable`] where it cannot; the kernels then use the best of the machine.
pub fn check() -> Result<(), Unusable> {
    std::env::var(VARIABLE).map_or(Ok(()), |value| InstructionSet::forced(&value).map(|_| ()))
}

/// The one in use, chosen once.
#[inline]
pub fn in_use() -> InstructionSet {
    static CHOSEN: OnceLock<InstructionSet> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let forced = std::env::var(VARIABLE).ok().and_then(|value| InstructionSet::forced(&value).ok());
        forced.unwrap_or_else(InstructionSet::best)
    })
}

/// Whether products of bf16 by instructions for them (AVX-512 BF16) are in use.
pub fn bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        in_use() >= InstructionSet::Avx512 && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_machine_has_can_be_forced() {
        for set in InstructionSet::ALL {
            assert_eq!(InstructionSet::forced(set.name()).is_ok(), set <= InstructionSet::best());
        }
        let error = InstructionSet::forced("sse9").unwrap_err().to_string();
        assert!(error.contains("sse9") && error.contains("no such") && error.contains("baseline"), "{error}");
    }
}
