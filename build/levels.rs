//! The part of ggml that computes on the processor, once for each instruction level: which levels there are, what they are
//! compiled with, and how several fit in one program.
//!
//! ggml chooses its kernels when it is compiled. So that one program can choose when it starts, the objects of a level are
//! joined into one, all of whose symbols are made local except the few that Rust calls; those get the level's name in front.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{stop, write_if_changed};

/// What Rust calls of the part: a name of ggml's, the arguments and the result.
const FUNCTIONS: [(&str, &str); 12] = [
    ("ggml_backend_cpu_init", "() -> sys::ggml_backend_t"),
    ("ggml_backend_cpu_reg", "() -> sys::ggml_backend_reg_t"),
    ("ggml_backend_cpu_set_n_threads", "(backend: sys::ggml_backend_t, n_threads: i32)"),
    ("ggml_backend_cpu_set_threadpool", "(backend: sys::ggml_backend_t, pool: sys::ggml_threadpool_t)"),
    ("ggml_threadpool_new", "(params: *mut sys::ggml_threadpool_params) -> *mut sys::ggml_threadpool"),
    ("ggml_threadpool_free", "(pool: *mut sys::ggml_threadpool)"),
    ("ggml_get_type_traits_cpu", "(dtype: sys::ggml_type) -> *const sys::ggml_type_traits_cpu"),
    ("ggml_cpu_fp16_to_fp32", "(x: *const sys::ggml_fp16_t, y: *mut f32, n: i64)"),
    ("ggml_cpu_fp32_to_fp16", "(x: *const f32, y: *mut sys::ggml_fp16_t, n: i64)"),
    // Not in ggml's public headers: y = silu(x) * g, n times.
    ("ggml_vec_swiglu_f32", "(n: i32, y: *mut f32, x: *const f32, g: *const f32)"),
    // y = exp(x - max), n times; gives the sum.
    ("ggml_vec_soft_max_f32", "(n: i32, y: *mut f32, x: *const f32, max: f32) -> f64"),
    // y = x - mean, n times; gives the mean of the squares of y.
    ("ggml_vec_cvar_f32", "(n: i32, y: *mut f32, x: *const f32, mean: f32) -> f64"),
];

/// What compilers define where they may use an instruction set, and Rust's name of that.
const MACROS: [(&str, &str); 34] = [
    ("__SSE4_2__", "sse4.2"),
    ("__POPCNT__", "popcnt"),
    ("__AVX__", "avx"),
    ("__AVX2__", "avx2"),
    ("__FMA__", "fma"),
    ("__F16C__", "f16c"),
    ("__BMI__", "bmi1"),
    ("__BMI2__", "bmi2"),
    ("__LZCNT__", "lzcnt"),
    ("__MOVBE__", "movbe"),
    ("__SSE4A__", "sse4a"),
    ("__SHA__", "sha"),
    ("__GFNI__", "gfni"),
    ("__VAES__", "vaes"),
    ("__VPCLMULQDQ__", "vpclmulqdq"),
    ("__AVX512F__", "avx512f"),
    ("__AVX512BW__", "avx512bw"),
    ("__AVX512DQ__", "avx512dq"),
    ("__AVX512VL__", "avx512vl"),
    ("__AVX512CD__", "avx512cd"),
    ("__AVX512IFMA__", "avx512ifma"),
    ("__AVX512VBMI__", "avx512vbmi"),
    ("__AVX512VBMI2__", "avx512vbmi2"),
    ("__AVX512BITALG__", "avx512bitalg"),
    ("__AVX512VPOPCNTDQ__", "avx512vpopcntdq"),
    ("__AVX512VNNI__", "avx512vnni"),
    ("__AVX512BF16__", "avx512bf16"),
    ("__AVX512FP16__", "avx512fp16"),
    ("__AVXVNNI__", "avxvnni"),
    ("__AMX_TILE__", "amx-tile"),
    ("__AMX_INT8__", "amx-int8"),
    ("__ARM_FEATURE_DOTPROD", "dotprod"),
    ("__ARM_FEATURE_MATMUL_INT8", "i8mm"),
    ("__ARM_FEATURE_SVE", "sve"),
];

/// One way to compile the part.
pub(crate) struct Level {
    /// A variant of `Isa` in src/ggml/isa.rs.
    isa: &'static str,
    /// What `CURTAIL_ISA` calls it.
    name: &'static str,
    pub(crate) flags: Vec<String>,
}

impl Level {
    fn new(isa: &'static str, name: &'static str, flags: &[&str]) -> Level {
        Level { isa, name, flags: flags.iter().map(|&flag| flag.to_owned()).collect() }
    }
}

/// The levels to compile, the lowest first: those that the processor at hand has, or with the feature `portable` all.
pub(crate) fn levels(arch: &str) -> Vec<Level> {
    let portable = env::var_os("CARGO_FEATURE_PORTABLE").is_some();
    let native = env::var("HOST") == env::var("TARGET") && !portable;
    match (arch, native) {
        ("x86_64", true) => native_x86_64(),
        ("x86_64", false) => portable_x86_64(),
        ("aarch64", true) => vec![Level::new("Base", "base", &["-mcpu=native"])],
        ("aarch64", false) => vec![Level::new("Base", "base", &["-march=armv8.2-a+dotprod"])],
        _ => stop(&format!("no ggml sources are listed for `{arch}` (vendor/sources.txt has x86_64 and aarch64)")),
    }
}

fn native_x86_64() -> Vec<Level> {
    const NATIVE: &str = "-march=native";
    let features = features(&[NATIVE.to_owned()]);
    let has = |names: &[&str]| names.iter().all(|name| features.iter().any(|feature| feature == name));
    let has_avx512 = has(&["avx512f", "avx512bw", "avx512dq", "avx512vl"]);
    let has_amx = has_avx512 && has(&["avx512vnni", "amx-tile", "amx-int8"]);
    let mut flags = vec![NATIVE];
    let mut levels = Vec::new();
    if has_amx {
        levels.push(Level::new("Amx", "amx", &flags));
        flags.push("-mno-amx-tile");
    }
    if has_avx512 {
        levels.push(Level::new("Avx512", "avx512", &flags));
        flags.push("-mno-avx512f");
    }
    levels.push(if has(&["avx2", "fma", "f16c"]) {
        Level::new("Avx2", "avx2", &flags)
    } else {
        Level::new("Base", "base", &flags)
    });
    levels.reverse();
    levels
}

/// Haswell and Zen; Ice Lake and Zen 4; Sapphire Rapids.
fn portable_x86_64() -> Vec<Level> {
    const AVX512: [&str; 3] = ["-march=x86-64-v4", "-mavx512vnni", "-mavx512vbmi"];
    const AMX: [&str; 3] = ["-mavx512bf16", "-mamx-tile", "-mamx-int8"];
    vec![
        Level::new("Avx2", "avx2", &["-march=x86-64-v3"]),
        Level::new("Avx512", "avx512", &AVX512),
        Level::new("Amx", "amx", &[AVX512, AMX].concat()),
    ]
}

/// The instruction sets that flags turn on, as Rust names them.
fn features(flags: &[String]) -> Vec<&'static str> {
    let output = cc::Build::new()
        .get_compiler()
        .to_command()
        .args(flags)
        .args(["-dM", "-E", "-x", "c", "/dev/null"])
        .output()
        .unwrap_or_else(|e| stop(&format!("cannot run the C compiler: {e}")));
    let defined = String::from_utf8_lossy(&output.stdout);
    let is_defined = |name: &str| defined.lines().any(|line| line.split_whitespace().nth(1) == Some(name));
    MACROS.iter().filter(|(name, _)| is_defined(name)).map(|(_, feature)| *feature).collect()
}

/// Writes the table of levels that src/ggml/isa.rs includes.
pub(crate) fn write_table(levels: &[Level], out: &Path) {
    let mut text = String::from("pub(super) struct Functions {\n");
    for (name, signature) in FUNCTIONS {
        writeln!(text, "    pub(super) {name}: unsafe extern \"C\" fn{signature},").expect("a String takes it");
    }
    text.push_str("}\n");
    for level in levels {
        writeln!(text, "mod {} {{\n    use super::sys;\n    unsafe extern \"C\" {{", level.name).expect("a String");
        for (name, signature) in FUNCTIONS {
            let link_name = link_name(levels, level, name);
            writeln!(text, "        #[link_name = \"{link_name}\"]\n        pub(super) fn {name}{signature};")
                .expect("a String takes it");
        }
        text.push_str("    }\n}\n");
    }
    writeln!(text, "static CPUS: [Cpu; {}] = [", levels.len()).expect("a String takes it");
    for Level { isa, name, flags } in levels {
        let features = features(flags);
        writeln!(text, "    Cpu {{ isa: Isa::{isa}, features: &{features:?}, functions: Functions {{")
            .expect("a String");
        for (function, _) in FUNCTIONS {
            writeln!(text, "        {function}: {name}::{function},").expect("a String takes it");
        }
        text.push_str("    } },\n");
    }
    text.push_str("];\n");
    write_if_changed(&out.join("cpu_levels.rs"), &text);
}

/// A level alone in the program keeps ggml's names.
fn link_name(levels: &[Level], level: &Level, name: &str) -> String {
    if levels.len() == 1 { name.to_owned() } else { format!("curtail_{}_{name}", level.name) }
}

/// Joins the objects of each level into one that shows only what Rust calls.
pub(crate) fn join(levels: &[Level], objects: Vec<Vec<PathBuf>>, out: &Path) -> Vec<PathBuf> {
    if levels.len() == 1 {
        return objects.concat();
    }
    levels.iter().zip(objects).map(|(level, objects)| join_level(levels, level, &objects, out)).collect()
}

fn join_level(levels: &[Level], level: &Level, objects: &[PathBuf], out: &Path) -> PathBuf {
    let (joined, finished) = (out.join(format!("{}-joined.o", level.name)), out.join(format!("{}.o", level.name)));
    // Sections of inline functions that several levels have are compiled with other instructions in each: no linker may
    // take one for the other, so they lose their groups before their names become local.
    let mut linker = cc::Build::new().get_compiler().to_command();
    linker.args(["-r", "-nostdlib", "-Wl,--force-group-allocation", "-o"]).arg(&joined).args(objects);
    run(&mut linker);
    let (keep, rename) = (out.join(format!("{}.keep", level.name)), out.join(format!("{}.rename", level.name)));
    let line = |(name, _): &(&str, &str)| format!("{name} {}\n", link_name(levels, level, name));
    write_if_changed(&keep, &FUNCTIONS.map(|(name, _)| format!("{name}\n")).concat());
    write_if_changed(&rename, &FUNCTIONS.iter().map(line).collect::<String>());
    // In two steps: in one, objcopy compares the renamed names with those to keep.
    let objcopy = env::var("OBJCOPY").unwrap_or_else(|_| "objcopy".to_owned());
    run(Command::new(&objcopy).arg("--keep-global-symbols").arg(&keep).arg(&joined));
    run(Command::new(&objcopy).arg("--redefine-syms").arg(&rename).arg(&joined).arg(&finished));
    fs::remove_file(&joined).ok(); // as large as the result
    finished
}

fn run(command: &mut Command) {
    let hint =
        "hint: several instruction levels in one program need GNU ld and objcopy (binutils, which come with gcc)";
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => stop(&format!("{command:?} failed:\n{}\n{hint}", String::from_utf8_lossy(&output.stderr))),
        Err(e) => stop(&format!("cannot run {command:?}: {e}\n{hint}")),
    }
}
