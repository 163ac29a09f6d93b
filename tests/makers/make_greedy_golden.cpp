// Greedy tokens by llama.cpp: for each line of token ids on stdin (the prompt), a line of the tokens that follow.
// Built and run by make_greedy_golden.py.

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "llama.h"

static void silent(ggml_log_level, const char *, void *) {}

// The most probable token after the last row evaluated.
static llama_token best(llama_context * context, int n_vocab) {
    const float * logits = llama_get_logits_ith(context, -1);
    llama_token best = 0;
    for (llama_token id = 1; id < n_vocab; id++) {
        if (logits[id] > logits[best]) {
            best = id;
        }
    }
    return best;
}

static void evaluate(llama_context * context, std::vector<llama_token> & tokens) {
    if (llama_decode(context, llama_batch_get_one(tokens.data(), (int32_t) tokens.size())) != 0) {
        fprintf(stderr, "error: llama_decode failed\n");
        exit(1);
    }
}

int main(int argc, char ** argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s MODEL N_TOKENS N_THREADS\n", argv[0]);
        return 2;
    }
    const size_t most = strtoul(argv[2], nullptr, 10);
    llama_log_set(silent, nullptr);
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) {
        fprintf(stderr, "error: %s: no model\n", argv[1]);
        return 1;
    }
    const llama_vocab * vocab = llama_model_get_vocab(model);
    for (std::string line; std::getline(std::cin, line);) {
        // A context of its own, so that no prompt sees what another left behind.
        llama_context_params params = llama_context_default_params();
        params.n_ctx = 2048;
        // Keys and values are read with their own rounding then; what is compared is the same arithmetic.
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
        params.n_threads = params.n_threads_batch = atoi(argv[3]);
        llama_context * context = llama_init_from_model(model, params);
        std::istringstream ids(line);
        std::vector<llama_token> next, found;
        for (llama_token id; ids >> id;) {
            next.push_back(id);
        }
        while (found.size() < most) {
            evaluate(context, next);
            next = {best(context, llama_vocab_n_tokens(vocab))};
            found.push_back(next[0]);
            if (llama_vocab_is_eog(vocab, next[0])) {
                break;
            }
        }
        for (size_t i = 0; i < found.size(); i++) {
            printf("%s%d", i ? " " : "", found[i]);
        }
        printf("\n");
        fflush(stdout);
        llama_free(context);
    }
    llama_model_free(model);
}
