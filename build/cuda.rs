//! Compiles ggml's CUDA backend: every `.cu` file an object of its own, kept until the compiler, its flags or the source
//! change.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use super::compile::ggml_build;
use super::stop;

/// Architectures of GPUs in wide use; the last that is not of one family alone also as PTX, which later drivers compile for
/// later GPUs.
const ARCHS: &str = "75,80,86,89,90,120";

/// Types of cached keys and values whose attention has kernels of its own.
const ATTENTION: [&str; 4] = ["f16-f16", "bf16-bf16", "q8_0-q8_0", "q4_0-q4_0"];
const ATTENTION_TYPES: [&str; 7] = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "bf16", "f16"];

/// The objects, and the linking of what they call.
pub(crate) fn compile(ggml: &Path, out: &Path) -> Vec<PathBuf> {
    for name in ["CUDA_HOME", "CUDA_PATH", "CUDA_ARCHS"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=vendor/cublas_lazy.c");
    let home = toolkit();
    // SAFETY: the build script has no other threads now. cc takes nvcc from there; a compiler that it is told of by name gets the
    // flags of a C compiler.
    #[allow(unsafe_code)]
    unsafe {
        env::set_var("NVCC", home.join("bin/nvcc"))
    };
    let command = |file: &Path| command(&home, ggml, out, file);
    let sources = sources(&ggml.join("src/ggml-cuda"));
    let headers =
        ["include", "src", "src/ggml-cuda"].iter().filter_map(|folder| newest_header(&ggml.join(folder))).max();
    // Not the environment, which is another in every session.
    let sample = command(Path::new("x.cu"));
    let what: Vec<_> = [sample.get_program()].into_iter().chain(sample.get_args()).collect();
    let cache = cache_folder(out, &format!("{what:?} {}", version(&home)));
    let objects: Vec<PathBuf> = sources.iter().map(|source| cache.join(object_name(source))).collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let n_threads = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let object = cache.join(object_name(source));
                    if is_current(&object, source, headers) || failed.lock().expect("no thread panics").is_some() {
                        continue;
                    }
                    if let Err(why) = run(command(source), &object) {
                        *failed.lock().expect("no thread panics") = Some(format!("{}: {why}", source.display()));
                    }
                }
            });
        }
    });
    if let Some(why) = failed.into_inner().expect("no thread panics") {
        stop(&format!("nvcc could not compile {why}"));
    }
    ggml_build(ggml, out, false).include(home.join("include")).file("vendor/cublas_lazy.c").compile("cublas_lazy");
    for folder in ["lib64", "lib"].map(|folder| home.join(folder)).iter().filter(|folder| folder.is_dir()) {
        println!("cargo:rustc-link-search=native={}", folder.display());
    }
    objects
}

/// To be called after the library that needs them.
pub(crate) fn link() {
    println!("cargo:rustc-link-lib=static=cudart_static");
    for library in ["dl", "rt"] {
        println!("cargo:rustc-link-lib={library}");
    }
}

fn toolkit() -> PathBuf {
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(|name| env::var_os(name).map(PathBuf::from));
    let usual = [".tools/cuda/nvidia/cu13", "/usr/local/cuda"].map(PathBuf::from);
    named
        .chain(usual)
        .find(|home| home.join("bin/nvcc").is_file())
        .and_then(|home| home.canonicalize().ok())
        .unwrap_or_else(|| {
            stop(
                "the feature `cuda` needs a CUDA toolkit, and none was found\n\
                 hint: `vendor/get-cuda.sh` fetches one into this checkout; or point CUDA_HOME at one",
            )
        })
}

fn version(home: &Path) -> String {
    let output = Command::new(home.join("bin/nvcc")).arg("--version").output();
    output.map_or_else(
        |e| stop(&format!("cannot run nvcc: {e}")),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// The files that upstream compiles.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let names = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap_or_else(|e| stop(&format!("cannot read {}: {e}", folder.display())));
        let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "cu"));
        files.sort();
        files
    };
    let is_wanted = |file: &PathBuf| {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        name.strip_prefix("fattn-vec-instance-").is_none_or(|types| ATTENTION.contains(&types))
    };
    let instances = names(&folder.join("template-instances"));
    // Those that take longest begin first.
    instances.into_iter().filter(is_wanted).chain(names(folder)).collect()
}

fn object_name(source: &Path) -> String {
    format!("{}.o", source.file_stem().unwrap_or_default().to_string_lossy())
}

/// One `cc::Build` per file: with several, cc asks for relocatable device code, which upstream does not use.
fn command(home: &Path, ggml: &Path, out: &Path, source: &Path) -> Command {
    let mut build = ggml_build(ggml, out, true);
    build.cuda(true).std("c++17").cudart("none").include(home.join("include"));
    build.include(home.join("include/cccl")).include(ggml.join("src/ggml-cuda"));
    // VMM would need the driver's library at link time, which a machine without a driver does not have.
    build.define("GGML_CUDA_USE_GRAPHS", None).define("GGML_CUDA_NO_VMM", None);
    build.define("GGML_CUDA_FA_QUANTS", Some(format!("\"{}\"", ATTENTION.join(",")).as_str()));
    for k in ATTENTION_TYPES {
        for v in ATTENTION_TYPES {
            let has = ATTENTION.contains(&format!("{k}-{v}").as_str());
            build.define(&format!("GGML_CUDA_FA_{k}_{v}").to_uppercase(), Some(if has { "1" } else { "0" }));
        }
    }
    for flag in ["-use_fast_math", "-extended-lambda", "-compress-mode=size"] {
        build.flag(flag);
    }
    let archs = env::var("CUDA_ARCHS").unwrap_or_else(|_| ARCHS.to_owned());
    let archs: Vec<&str> = archs.split([',', ';', ' ']).filter(|arch| !arch.is_empty()).collect();
    // ggml's kernels for them use instructions of their own family.
    let is_own_family = |arch: &str| arch.starts_with("12") && arch.len() == 3;
    let archs: Vec<String> =
        archs.iter().map(|arch| format!("{arch}{}", if is_own_family(arch) { "a" } else { "" })).collect();
    let kept = archs.iter().rfind(|arch| !arch.ends_with('a'));
    for arch in &archs {
        let ptx = if Some(arch) == kept { format!(",compute_{arch}") } else { String::new() };
        build.flag(format!("-gencode=arch=compute_{arch},code=[sm_{arch}{ptx}]"));
    }
    let mut command = build.get_compiler().to_command();
    command.arg("-c").arg(source);
    command
}

fn run(mut command: Command, object: &Path) -> Result<(), String> {
    let part = object.with_extension("part");
    let output = command.arg("-o").arg(&part).output().map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    // An interrupted compilation leaves no object.
    fs::rename(&part, object).map_err(|e| e.to_string())
}

/// Whether an object is newer than all that it is made of.
fn is_current(object: &Path, source: &Path, headers: Option<SystemTime>) -> bool {
    let (object, source) = (changed(object), changed(source));
    object.is_some() && object > source && object > headers
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|data| data.modified()).ok()
}

fn newest_header(folder: &Path) -> Option<SystemTime> {
    let is_header = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "h" || extension == "cuh");
    let paths = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(is_header).filter_map(|path| changed(&path)).max()
}

/// Beside the folders of profiles, so that a changed crate, profile or feature needs no new objects.
fn cache_folder(out: &Path, what: &str) -> PathBuf {
    let target = out.ancestors().nth(4).unwrap_or(out);
    let mut hasher = DefaultHasher::new();
    // OUT_DIR holds one generated header, whose content does not matter here.
    what.replace(&*out.to_string_lossy(), "").hash(&mut hasher);
    let folder = target.join("cuda").join(format!("{:016x}", hasher.finish()));
    fs::create_dir_all(&folder).unwrap_or_else(|e| stop(&format!("cannot make {}: {e}", folder.display())));
    folder
}
