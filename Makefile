# Everything from a bare checkout: `make chat` talks to a real model, `make test` runs the whole suite.

MODEL  := models/SmolLM2-135M-Instruct.Q4_1.gguf
BINARY := target/release/curtail

.PHONY: help chat test build cuda model tasks eval bench bench-compare libclang tools clean
.DEFAULT_GOAL := help

help:
	@echo "make chat           get what is missing, build, and chat with the demo model"
	@echo "make test           get what is missing and run the whole test suite"
	@echo "make build          build $(BINARY)"
	@echo "make cuda           the same for NVIDIA GPUs (docs/gpu.md); compiling ggml's kernels takes long, once"
	@echo "make model          fetch the demo model into models/ (98 MB)"
	@echo "make tasks          fetch labelled text and write four tasks into models/tasks/"
	@echo "make eval           train early stops on them and measure them beside full depth (half an hour)"
	@echo "make bench          measure prompt processing and generation on the demo model"
	@echo "make bench-compare  the same beside llama.cpp, which is built for it outside the checkout"
	@echo "make clean          remove target/; models/ and .tools/ stay"

chat: build model
	@echo "==> chat with $(MODEL)"
	@$(BINARY) chat -m $(MODEL)

test: libclang model
	@echo "==> test: release profile; the first build compiles ggml, about a minute or two"
	@cargo test --release --locked

build: libclang
	@echo "==> build: $(BINARY); the first build compiles ggml, about a minute or two"
	@cargo build --release --locked

cuda: libclang
	@vendor/get-cuda.sh
	@echo "==> cuda: $(BINARY); the first build compiles ggml's kernels: about twenty minutes on two cores for one architecture (CUDA_ARCHS=90)"
	@cargo build --release --locked --features cuda

model: tools
	@python3 models/fetch-demo-model.py

tasks: tools
	@python3 models/fetch-tasks.py

eval: build model tasks
	@python3 benches/eval_tasks.py --curtail $(BINARY) --model $(MODEL)

bench: build model
	@$(BINARY) bench -m $(MODEL) -p 512 -n 128 -r 5

bench-compare: build model
	@python3 benches/bench_llama_cpp.py --model $(MODEL) --curtail $(BINARY)

# build.rs finds the fetched libclang by itself. It is not exported here: a changed LIBCLANG_PATH would make `cargo build`
# and `make build` recompile ggml in turn.
libclang: tools
	@vendor/get-libclang.sh

tools:
	@for tool in cargo cc c++ python3; do \
	  command -v $$tool >/dev/null || { \
	    echo "error: \`$$tool\` was not found; needed are Rust 1.89 or newer, a C and C++ compiler, and Python 3 with pip" >&2; \
	    echo "hint: https://rustup.rs; Debian, Ubuntu: apt-get install build-essential python3-pip" >&2; \
	    exit 1; }; \
	done

clean:
	@echo "==> clean: removing target/; models/ and .tools/ stay"
	@cargo clean
