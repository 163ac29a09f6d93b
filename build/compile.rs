//! Compiles the files of ggml that vendor/sources.txt lists, with the settings of upstream's release build, into one archive.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use super::source::PINNED_CRATE;
use super::{cuda, levels, stop, write_if_changed};

const GGML_VERSION: &str = "0.26.0";

pub(crate) fn compile(ggml: &Path, out: &Path) {
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
pub(crate) fn ggml_build(ggml: &Path, out: &Path, is_cpp: bool) -> cc::Build {
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
