//! Contexts that no cache can have.

use curtail::dtype::DType;
use curtail::engine::EngineParams;
use curtail::gguf::File;
use curtail::model::Config;

use super::OnDisk;
use crate::common::tiny::Tiny;

#[test]
fn a_context_beyond_all_memory_is_an_error_with_a_hint() {
    let model = OnDisk::new(&Tiny::new());
    // What the command line refuses by itself.
    for n_ctx in ["4611686018427387904", "18446744073709551615", "2147483648"] {
        model.run(&["-c", n_ctx]).with(2, &[n_ctx]);
    }
    model.run(&["-c", "2147483647"]).with(1, &["2147483647", "expected at most", "\nhint: -c"]);
    model.run(&["-c", "64"]).with(0, &[]);
}

/// Nothing is loaded for a cache whose size wraps around: with f32 rows 2^57 + 1 tokens would take 8 KB.
#[test]
fn the_size_of_a_cache_is_known_before_anything_is_allocated() {
    let model = OnDisk::new(&Tiny::new());
    let config = Config::from_gguf(&File::open(&model.path).expect("a model")).expect("a model");
    let context = |n_ctx, dtype| {
        let params = EngineParams { n_ctx, type_k: dtype, type_v: dtype, ..EngineParams::default() };
        params.context_for(&config).map_err(|e| e.to_string())
    };
    for n_ctx in [1 << 57, (1 << 57) + 1, 1 << 62, 1 << 63, usize::MAX, 1 << 31, i32::MAX as usize] {
        for dtype in [DType::F32, DType::F16] {
            let message = context(n_ctx, dtype).expect_err("no machine has this");
            assert!(message.contains(&n_ctx.to_string()) && message.contains("\nhint: -c"), "{message}");
        }
    }
    assert_eq!(context(0, DType::F16), Ok(256), "as many as the model was trained with");
    assert_eq!(context(1 << 20, DType::F32), Ok(1 << 20));
    // A wide model of many layers: fewer tokens than there are positions, and still too much.
    let wide = Config { n_layer: 1 << 20, n_head_kv: 1 << 20, head_dim_k: 1 << 10, ..config.clone() };
    let params = EngineParams { n_ctx: 1 << 30, ..EngineParams::default() };
    let message = params.context_for(&wide).expect_err("no machine has this").to_string();
    assert!(message.contains("fit in memory") && message.contains("\nhint: -c"), "{message}");
}
