//! Contexts that no cache can have.

use super::OnDisk;
use crate::tiny::Tiny;

#[test]
fn a_context_beyond_all_memory_is_an_error_with_a_hint() {
    let model = OnDisk::new(&Tiny::new());
    for n_ctx in ["4611686018427387904", "9223372036854775807", "18446744073709551615", "2147483648"] {
        model.run(&["-c", n_ctx]).with(1, &[n_ctx, "expected at most", "\nhint: -c"]);
    }
    // With wrapping arithmetic these take 8 KB.
    for n_ctx in ["144115188075855872", "144115188075855873"] {
        model.run(&["-c", n_ctx, "-ctk", "f32", "-ctv", "f32"]).with(1, &[n_ctx, "\nhint: "]);
    }
    model.run(&["-c", "64"]).with(0, &[]);
}
