//! Rust's view of ggml, made by bindgen from the headers of the pinned source: what is listed here and no more.

use std::env;
use std::path::Path;

use super::stop;

/// Writes `ggml_sys.rs`.
pub(crate) fn bind(ggml: &Path, out: &Path) {
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
            "ggml_(add|mul|mul_mat|norm|rms_norm|swiglu|swiglu_split|geglu|geglu_split|relu|gelu|gelu_erf|scale|tanh)",
        )
        .allowlist_function("ggml_(swiglu_oai|mul_mat_id|add_id|argsort|reshape_3d)")
        .allowlist_function("ggml_(soft_max_add_sinks|flash_attn_ext_add_sinks)")
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
