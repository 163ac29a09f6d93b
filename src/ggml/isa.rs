//! The instructions that this processor's part of the program uses. Owns the choice, made once at start from what the
//! processor has, what the operating system saves and restores of it, and `CURTAIL_ISA`; ggml's code for each level is
//! reached through [`functions`].

use std::ffi::OsStr;
use std::fmt;
use std::sync::OnceLock;

use super::sys;

include!(concat!(env!("OUT_DIR"), "/cpu_levels.rs"));

/// The variable that forces a level lower than the best.
const VARIABLE: &str = "CURTAIL_ISA";

/// A level of instructions: each has those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every processor of the architecture has, or what the one that compiled has beyond it below AVX2.
    Base,
    /// 256 bits at a time: AVX2, FMA, F16C.
    Avx2,
    /// 512 bits at a time: AVX-512 F, BW, DQ, VL.
    Avx512,
    /// Tiles of 8-bit numbers: AMX-INT8, beside AVX-512 with VNNI.
    Amx,
}

/// ggml's code for one level.
pub(super) struct Cpu {
    isa: Isa,
    /// The instruction sets that the compiler was allowed to use.
    features: &'static [&'static str],
    functions: Functions,
}

/// Why the program cannot compute on this processor as it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// The processor or the operating system has none of the levels that were compiled.
    #[error(
        "this program was built for a processor with {}, which this one lacks, or whose use its operating system does not \
         allow\nhint: build it on this machine, or with `--features portable`",
        .0.join(", ")
    )]
    Missing(Vec<&'static str>),
    /// `CURTAIL_ISA` is no level.
    #[error("{VARIABLE}: expected one of {}, found `{found}`", one_of(built))]
    Unknown {
        /// Its value.
        found: String,
        /// What there is.
        built: Vec<Isa>,
    },
    /// `CURTAIL_ISA` is a level that this processor lacks.
    #[error(
        "{VARIABLE}: expected one of {}, found `{isa}`: this processor lacks {}, or its operating system does not allow it",
        one_of(usable), missing.join(", ")
    )]
    Lacking {
        /// The level asked for.
        isa: Isa,
        /// What there is not.
        missing: Vec<&'static str>,
        /// What there is.
        usable: Vec<Isa>,
    },
}

fn one_of(isas: &[Isa]) -> String {
    isas.iter().map(|isa| format!("`{isa}`")).collect::<Vec<_>>().join(", ")
}

impl Isa {
    /// As `CURTAIL_ISA` has it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Base => "base",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Chooses the level, before anything is computed. Whoever computes without having called it gets the same choice, and a
/// panic instead of the error.
///
/// # Errors
/// Where no level runs on this machine, or not the one that `CURTAIL_ISA` names.
pub fn choose_isa() -> Result<Isa, IsaError> {
    chosen().map(|cpu| cpu.isa)
}

/// The level in use.
///
/// # Panics
/// Where [`choose_isa`] gives an error.
pub fn isa() -> Isa {
    cpu().isa
}

/// The levels that the program was built with, the lowest first.
pub fn built_isas() -> Vec<Isa> {
    CPUS.iter().map(|cpu| cpu.isa).collect()
}

/// Those of [`built_isas`] that the processor and the operating system allow.
pub fn usable_isas() -> Vec<Isa> {
    CPUS.iter().filter(|cpu| cpu.missing().is_empty()).map(|cpu| cpu.isa).collect()
}

/// The best level that the processor and the operating system allow, built in or not.
pub fn processor_isa() -> Isa {
    if !has_features(&["avx2", "fma", "f16c"]) {
        Isa::Base
    } else if !has_features(&["avx512f", "avx512bw", "avx512dq", "avx512vl"]) {
        Isa::Avx2
    } else if !has_features(&["avx512vnni", "amx-tile", "amx-int8"]) {
        Isa::Avx512
    } else {
        Isa::Amx
    }
}

/// Whether this process may use all of these instruction sets.
pub(crate) fn has_features(names: &[&str]) -> bool {
    names.iter().all(|name| has_feature(name))
}

/// ggml's functions of the level in use.
pub(super) fn functions() -> &'static Functions {
    &cpu().functions
}

/// Whether ggml's code of the level in use was compiled with an instruction set. Where our own code must add up in the order
/// that ggml's does with it, what the processor has besides does not count.
pub(crate) fn was_compiled_with(feature: &str) -> bool {
    cpu().features.contains(&feature)
}

fn cpu() -> &'static Cpu {
    chosen().unwrap_or_else(|error| panic!("{error}"))
}

fn chosen() -> Result<&'static Cpu, IsaError> {
    static CHOSEN: OnceLock<Result<&'static Cpu, IsaError>> = OnceLock::new();
    CHOSEN.get_or_init(|| choose(std::env::var_os(VARIABLE).as_deref())).clone()
}

fn choose(wanted: Option<&OsStr>) -> Result<&'static Cpu, IsaError> {
    let best = CPUS.iter().rev().find(|cpu| cpu.missing().is_empty());
    let best = best.ok_or_else(|| IsaError::Missing(CPUS[0].missing()))?;
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { return Ok(best) };
    let unknown = || IsaError::Unknown { found: wanted.to_string_lossy().into_owned(), built: built_isas() };
    let cpu = CPUS.iter().find(|cpu| cpu.isa.name() == wanted).ok_or_else(unknown)?;
    match cpu.missing() {
        missing if missing.is_empty() => Ok(cpu),
        missing => Err(IsaError::Lacking { isa: cpu.isa, missing, usable: usable_isas() }),
    }
}

impl Cpu {
    fn missing(&self) -> Vec<&'static str> {
        self.features.iter().copied().filter(|feature| !has_feature(feature)).collect()
    }
}

/// Whether the processor has an instruction set and the operating system keeps its registers (XCR0).
#[cfg(target_arch = "x86_64")]
fn has_feature(name: &str) -> bool {
    macro_rules! ask {
        ($($feature:tt),*) => {
            match name {
                $($feature => std::arch::is_x86_feature_detected!($feature),)*
                "amx-tile" => amx().is_some(),
                "amx-int8" => amx().is_some_and(|has_int8| has_int8),
                _ => true,
            }
        };
    }
    ask!(
        "sse4.2",
        "popcnt",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "bmi1",
        "bmi2",
        "lzcnt",
        "movbe",
        "sse4a",
        "sha",
        "gfni",
        "vaes",
        "vpclmulqdq",
        "avx512f",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx512cd",
        "avx512ifma",
        "avx512vbmi",
        "avx512vbmi2",
        "avx512bitalg",
        "avx512vpopcntdq",
        "avx512vnni",
        "avx512bf16",
        "avx512fp16",
        "avxvnni"
    )
}

/// Whether there are tiles, and if so whether they multiply 8-bit numbers. The registers are large, so Linux keeps them only for
/// processes that ask, which this does: XCR0 alone does not allow their use.
#[cfg(target_arch = "x86_64")]
fn amx() -> Option<bool> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE: u32 = 1 << 27;
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    static AMX: OnceLock<Option<bool>> = OnceLock::new();
    *AMX.get_or_init(|| {
        if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
            return None;
        }
        let features = __cpuid_count(7, 0).edx;
        // SAFETY: OSXSAVE says that the instruction is there.
        let allowed = features & TILE != 0 && unsafe { keeps_tiles() } && may_use_tiles();
        allowed.then_some(features & INT8 != 0)
    })
}

/// Whether the operating system saves the tiles' configuration and data.
///
/// # Safety
/// The processor has `xgetbv`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "xsave")]
unsafe fn keeps_tiles() -> bool {
    const TILES: u64 = 0b11 << 17;
    // SAFETY: the caller's promise; register 0 exists wherever the instruction does.
    let kept = unsafe { std::arch::x86_64::_xgetbv(0) };
    kept & TILES == TILES
}

/// Asks Linux to let this process use tiles.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn may_use_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: the call reads and writes no memory of this process.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// Elsewhere ggml does not use them either.
#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn may_use_tiles() -> bool {
    false
}

#[cfg(target_arch = "aarch64")]
fn has_feature(name: &str) -> bool {
    match name {
        "dotprod" => std::arch::is_aarch64_feature_detected!("dotprod"),
        "i8mm" => std::arch::is_aarch64_feature_detected!("i8mm"),
        "sve" => std::arch::is_aarch64_feature_detected!("sve"),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_level_is_used_and_a_lower_one_can_be_forced() {
        let usable = usable_isas();
        let best = *usable.last().expect("the machine that built this runs it");
        assert!(best <= processor_isa() && built_isas().contains(&best));
        for nothing in [None, Some(OsStr::new(""))] {
            assert_eq!(choose(nothing).map(|cpu| cpu.isa), Ok(best));
        }
        for isa in usable {
            assert_eq!(choose(Some(isa.name().as_ref())).map(|cpu| cpu.isa), Ok(isa));
        }
    }

    #[test]
    fn what_the_machine_or_the_program_lacks_is_named() {
        let error = choose(Some("sse9".as_ref())).map(|cpu| cpu.isa).expect_err("no such level");
        assert!(error.to_string().starts_with("CURTAIL_ISA: expected one of `"), "{error}");
        assert!(error.to_string().ends_with("found `sse9`"), "{error}");
        for cpu in CPUS.iter().filter(|cpu| !cpu.missing().is_empty()) {
            let error = choose(Some(cpu.isa.name().as_ref())).map(|cpu| cpu.isa).expect_err("not on this processor");
            assert!(matches!(error, IsaError::Lacking { isa, .. } if isa == cpu.isa), "{error}");
        }
    }
}
