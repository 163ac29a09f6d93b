// What bindgen reads. Only the functions and types allowlisted in build.rs reach Rust.
#include "ggml.h"
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml-rpc.h"
#include "ggml-backend-impl.h"
