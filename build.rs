//! Compiles the pinned ggml source and generates its bindings. What is compiled is listed in vendor/sources.txt.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

#[path = "build/cuda.rs"]
mod cuda;
#[path = "build/levels.rs"]
mod levels;

const PINNED_CRATE: &str = "llama-cpp-sys-2";
const GGML_VERSION: &str = "0.26.0";

fn main() {
    for path in
        ["build.rs", "build/levels.rs", "Cargo.lock", "vendor/wrapper.h", "vendor/amx_tiles.h", "vendor/sources.txt"]
    {
        println!("cargo:rerun-if-changed={path}");
    }
    for name in ["GGML_DIR", "LIBCLANG_PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let ggml = ggml_dir();
    bind(&ggml, &out);
    compile(&ggml, &out);
}

/// The folder with `include/` and `src/` of ggml: `GGML_DIR`, or the one inside the pinned crate.
fn ggml_dir() -> PathBuf {
    if let Some(dir) = env::var_os("GGML_DIR").map(PathBuf::from) {
        if !dir.join("include/ggml.h").is_file() {
            stop(&format!("GGML_DIR: expected a ggml source tree, found no `include/ggml.h` in {}", dir.display()));
        }
        println!("cargo:rerun-if-changed={}", dir.display());
        return dir;
    }
    // The filter keeps Cargo from fetching crates of other platforms; cfg(any()) matches none, so no platform is named.
    let cargo = env::var_os("CARGO").expect("cargo sets CARGO");
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--format-version", "1", "--manifest-path", "Cargo.toml"])
        .output()
        .unwrap_or_else(|e| stop(&format!("cannot run `cargo metadata`: {e}")));
    if !output.status.success() {
        stop(&format!("`cargo metadata --locked` failed:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|p| p["name"] == PINNED_CRATE)
        .and_then(|p| p["manifest_path"].as_str())
        .unwrap_or_else(|| stop(&format!("Cargo.lock names no `{PINNED_CRATE}`: the ggml pin is missing")));
    Path::new(manifest).with_file_name("llama.cpp").join("ggml")
}

fn bind(ggml: &Path, out: &Path) {
    let fetched = Path::new(".tools/py/clang/native");
    if env::var_os("LIBCLANG_PATH").is_none() && fetched.is_dir() {
        // SAFETY: the build script has no other threads.
        #[allow(unsafe_code)]
        unsafe {
            env::set_var("LIBCLANG_PATH", fetched)
        };
    }
    if let Err(why) = clang_sys::load() {
        stop(&format!(
            "libclang is needed to read ggml's headers and was not found ({why})\n\
             hint: `make build` fetches it into this checkout without root; or install your system's package \
             (`apt-get install libclang-dev`, `dnf install clang-devel`, `brew install llvm`); \
             or point LIBCLANG_PATH at the folder that holds it"
        ));
    }
    let mut builder = bindgen::Builder::default()
        .header("vendor/wrapper.h")
        .clang_arg(format!("-I{}", ggml.join("include").display()))
        .clang_arg(format!("-I{}", ggml.join("src").display()))
        .default_enum_style(bindgen::EnumVariation::NewType { is_bitfield: false, is_global: false })
        .derive_default(false)
        .generate_comments(false)
        .allowlist_function("ggml_(init|free|used_mem|get_mem_buffer|version|log_set)")
        .allowlist_function("ggml_(new_tensor|set_name|get_name|set_input|set_output|nbytes|tensor_overhead)")
        .allowlist_function(
            "ggml_(add|mul|mul_mat|norm|rms_norm|swiglu|swiglu_split|geglu|geglu_split|relu|gelu_erf|scale|tanh)",
        )
        .allowlist_function("ggml_(rope_ext|get_rows|set_rows|cpy)")
        .allowlist_function(
            "ggml_(soft_max_ext|flash_attn_ext|view_3d|reshape_2d|permute|transpose|cont|cast|concat|prec_set_acc)",
        )
        .allowlist_function("ggml_(custom_4d|get_type_traits|get_type_traits_cpu)")
        .allowlist_function("ggml_(quantize_chunk|quantize_init|quantize_requires_imatrix|validate_row_data)")
        .allowlist_function("ggml_cpu_(fp16_to_fp32|fp32_to_fp16)")
        .allowlist_function("ggml_(new_graph_custom|graph_overhead_custom|build_forward_expand)")
        .allowlist_function("ggml_(graph_n_nodes|graph_node|threadpool_params_default|threadpool_new|threadpool_free)")
        .allowlist_function("ggml_gallocr_(new|free|alloc_graph|get_buffer_size)")
        .allowlist_function(
            "ggml_backend_(free|graph_compute|tensor_set|tensor_set_async|tensor_get|tensor_memset|tensor_alloc)",
        )
        .allowlist_function("ggml_backend_(cpu_.*|buft_.*|buffer_.*|reg_.*)")
        .allowlist_function("ggml_backend_dev_(supports_op|name|description|memory|init|buffer_type)")
        .allowlist_function("ggml_(op_alloc_size_may_expand|op_desc)")
        .allowlist_type("ggml_backend_dev_get_extra_bufts_t")
        .allowlist_var("GGML_ROPE_TYPE_(NORMAL|NEOX)|GGML_MAX_(DIMS|SRC|NAME|OP_PARAMS)|RPC_PROTO_MAJOR_VERSION");
    // The libclang wheel carries no builtin headers (stddef.h ...); the C compiler's own serve, searched last.
    if let Some(include) = compiler_include_dir() {
        builder = builder.clang_args(["-idirafter", &include]);
    }
    builder
        .generate()
        .unwrap_or_else(|e| stop(&format!("bindgen cannot read ggml's headers: {e}")))
        .write_to_file(out.join("ggml_sys.rs"))
        .expect("OUT_DIR is writable");
}

fn compiler_include_dir() -> Option<String> {
    let output = cc::Build::new().get_compiler().to_command().arg("-print-file-name=include").output().ok()?;
    let dir = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    Path::new(&dir).is_absolute().then_some(dir)
}

fn compile(ggml: &Path, out: &Path) {
    let src = ggml.join("src");
    if env::var_os("GGML_DIR").is_none() && !src.join("ggml-cpu").is_dir() {
        stop(&format!("the pinned ggml source at {} holds no `src/ggml-cpu`", ggml.display()));
    }
    // Upstream's CMake writes this header.
    let version =
        format!("#pragma once\n#define GGML_VERSION \"{GGML_VERSION}\"\n#define GGML_COMMIT \"{PINNED_CRATE}\"\n");
    write_if_changed(&out.join("ggml-version.h"), &version);

    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let levels = levels::levels(&arch);
    levels::write_table(&levels, out);

    // Lints read the bindings only, and Clippy has the build scripts run once more, for itself.
    if env::var("RUSTC_WORKSPACE_WRAPPER").is_ok_and(|wrapper| wrapper.contains("clippy-driver")) {
        return;
    }
    let has_openmp = has_openmp(out);
    let mut objects = Vec::new();
    for section in ["base", "registry"] {
        for mut build in section_builds(ggml, out, section, &[]) {
            let is_quants = |file: &PathBuf| file.ends_with("ggml-quants.c");
            let (quants, files): (Vec<_>, Vec<_>) = build.files.into_iter().partition(is_quants);
            if !quants.is_empty() {
                // At the lowest level: it is called at every one.
                objects.extend(
                    quants_build(&build.cc, &levels[0].flags, has_openmp).files(quants).compile_intermediates(),
                );
            }
            objects.extend(build.cc.files(files).compile_intermediates());
        }
    }
    let of_levels = levels.iter().map(|level| {
        let sections = ["cpu".to_owned(), format!("cpu-{arch}")];
        let builds = sections.iter().flat_map(|section| section_builds(ggml, out, section, &level.flags));
        builds.flat_map(|mut build| build.cc.files(build.files).compile_intermediates()).collect()
    });
    objects.extend(levels::join(&levels, of_levels.collect(), out));
    let is_cuda = env::var_os("CARGO_FEATURE_CUDA").is_some();
    if is_cuda {
        objects.extend(cuda::compile(ggml, out));
    }
    let mut archive = cc::Build::new();
    archive.cpp(true).objects(objects).compile("ggml");
    if is_cuda {
        cuda::link();
    }
    if has_openmp {
        println!("cargo:rustc-link-lib=gomp");
    }
    println!("cargo:rustc-link-lib=m");
    println!("cargo:rustc-link-lib=pthread");
}

/// Quantizing makes the bits that upstream's build for any processor makes, with this processor's instructions: what would
/// change a bit is that a product and a sum become one operation, and that is off.
fn quants_build(base: &cc::Build, cpu_flags: &[String], has_openmp: bool) -> cc::Build {
    let mut build = base.clone();
    build.flag("-ffp-contract=off");
    for flag in cpu_flags {
        build.flag(flag);
    }
    // In this file alone: the rest of ggml has threads of its own.
    if has_openmp {
        build.flag("-fopenmp").define("GGML_USE_OPENMP", None);
    }
    build
}

/// Whether a program that uses gcc's OpenMP compiles and links. The tables of the i-quants take seconds to make, and are
/// made on all processor cores with it.
fn has_openmp(out: &Path) -> bool {
    let (source, program) = (out.join("openmp.c"), out.join("openmp"));
    write_if_changed(&source, "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n");
    let mut compiler = cc::Build::new().get_compiler().to_command();
    let output = compiler.arg("-fopenmp").arg(&source).arg("-lgomp").arg("-o").arg(&program).output();
    output.is_ok_and(|output| output.status.success())
}

/// The settings that upstream's release build uses, in every Cargo profile.
fn ggml_build(ggml: &Path, out: &Path, is_cpp: bool) -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(is_cpp)
        .std(if is_cpp { "gnu++17" } else { "gnu11" })
        .opt_level(3)
        .debug(false)
        .warnings(false)
        .pic(true)
        .include(out)
        .include(ggml.join("include"))
        .include(ggml.join("src"))
        .include(ggml.join("src/ggml-cpu"))
        .define("NDEBUG", None)
        .define("_GNU_SOURCE", None)
        .define("_XOPEN_SOURCE", "600")
        .define("GGML_SCHED_MAX_COPIES", "4")
        .define("GGML_USE_CPU_REPACK", None)
        .define("GGML_USE_LLAMAFILE", None);
    build
}

/// How the files of one language in a section are compiled.
struct SectionBuild {
    cc: cc::Build,
    files: Vec<PathBuf>,
}

fn section_builds(ggml: &Path, out: &Path, section: &str, flags: &[String]) -> Vec<SectionBuild> {
    let listed = section_files(section);
    let of_language = |(extension, is_cpp): (&str, bool)| {
        let listed = listed.iter().filter(|file| file.rsplit('.').next() == Some(extension));
        let files: Vec<PathBuf> = listed.map(|file| ggml.join("src").join(file)).collect();
        let mut cc = ggml_build(ggml, out, is_cpp);
        if !flags.is_empty() {
            cc.flag("-include").flag("vendor/amx_tiles.h");
        }
        flags.iter().for_each(|flag| {
            cc.flag(flag);
        });
        (!files.is_empty()).then_some(SectionBuild { cc, files })
    };
    [("c", false), ("cpp", true)].into_iter().filter_map(of_language).collect()
}

fn section_files(section: &str) -> Vec<String> {
    let list = fs::read_to_string("vendor/sources.txt").expect("vendor/sources.txt is readable");
    let header = format!("[{section}]");
    list.lines()
        .skip_while(|line| *line != header)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn write_if_changed(path: &Path, text: &str) {
    if fs::read_to_string(path).ok().as_deref() != Some(text) {
        fs::write(path, text).expect("OUT_DIR is writable");
    }
}

fn stop(message: &str) -> ! {
    println!("cargo:warning={}", message.replace('\n', " "));
    eprintln!("error: {message}");
    exit(1)
}
